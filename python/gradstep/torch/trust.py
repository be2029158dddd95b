"""Which states a step need not look at, since nobody else can reach them.

The contract: a step writes through pointers that were taken when the plan was made. Before it does,
it looks at every state's place, unless it was proven that no one but the optimizer can reach any of
them. Whoever asks the optimizer for ``state`` ends that: the next step looks again, and proves anew
what can be proven: that nobody has kept anything. If somebody has, so does the step after it. The
proof is by counting references: to each parameter's dictionary, each state, its memory and its
storage.

===================================================  =======================================
who can reach a state                                do steps look?
===================================================  =======================================
somebody who has asked for ``optimizer.state``       yes, the next step
somebody who holds a dictionary, a state, a view,    yes: a count is higher than the
NumPy's array of it, its storage, a weak reference   optimizer alone makes it
another process, by ``share_memory()``               yes: its memory is freed otherwise
a hook or schedule of this step                      yes, where functions drive the stages
DTensors, whose parts are other objects each time    yes, always
``gc.get_objects()``, a raw address                  no: nobody counts those
===================================================  =======================================

Where the core knows how PyTorch keeps its own counts, see memory.py, the proof costs a step a
fraction of what looking does, and one that fails does so at once at the next step, for it begins
with what failed. Elsewhere the proof asks PyTorch and costs as much as several steps: where it
fails, the next ones come after 1, 2, 4, and at most PATIENCE steps.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..watched import Watched
from . import private

if TYPE_CHECKING:
    from .._core import TensorPlan

KNOWN = 2  # who holds a parameter's dictionary besides the plan: the state of all, Held.states
PATIENCE = 32  # steps, at most, from one failed proof to the next where it is slow

_requests = itertools.count(1)


class State(Watched):
    """The state of each parameter; its version tells when one was put in, replaced or taken out.

    Attributes:
        asked: another number each time somebody has asked the optimizer for it.
    """

    __slots__ = ("asked",)

    def __init__(self, values: Mapping[Any, Any]) -> None:
        super().__init__(values)
        self.asked = 0

    def __missing__(self, key: Any) -> dict[str, Any]:
        value: dict[str, Any] = {}
        self[key] = value
        return value

    def hand_out(self) -> State:
        """Itself, for somebody who may keep what is in it, and replace it at any time."""
        self.asked = next(_requests)
        return self


class _Once:
    """What sys.getrefcount says of the value of an attribute that nobody else holds."""

    def __init__(self) -> None:
        self.value = object()
        self.count = sys.getrefcount(self.value)


_once = _Once()


class Holder:
    """An attribute of its own for the state, whose references can be counted."""

    def __init__(self, state: State) -> None:
        self.state = state

    def is_alone(self) -> bool:
        """Whether nobody holds the state but this."""
        return sys.getrefcount(self.state) == _once.count


class Trust:
    """Whether the states of one plan need looking at.

    Args:
        sharded: whether there are DTensors.

    Attributes:
        asked: the ``State.asked`` for which nobody else can replace what is kept: steps need to
            look unless it is still that.
    """

    __slots__ = ("_never", "_pause", "_proven", "_wait", "asked")

    def __init__(self, sharded: bool) -> None:
        self._never = sharded or not private.can_count_holders()
        self.asked = self._proven = -1
        self._wait = self._pause = 0  # steps until the slow proof is tried again, and after that

    def prove(self, holder: Holder, plan: TensorPlan) -> bool:
        """Whether nobody but the optimizer can reach any of the states now."""
        self._proven = holder.state.asked  # first: who asks from here on may keep what he gets
        if self._never or not holder.is_alone():
            return False
        if private.SOURCE.memory.counts_holders:
            return plan.are_alone(KNOWN)
        if self._wait:
            self._wait -= 1
            return False
        kept = plan.unshared(KNOWN)
        proven = kept is not None and _only_ours(kept)
        self._pause = 0 if proven else min(2 * self._pause or 1, PATIENCE)
        self._wait = self._pause
        return proven

    def begin(self) -> None:
        """Look no more until somebody asks, after a step that has looked since the proof."""
        self.asked = self._proven


def _only_ours(kept: Sequence[torch.Tensor]) -> bool:
    of_a_new_one = private.holders(torch.zeros(1, device="cpu"), sys.getrefcount)
    return all(private.holders(tensor, sys.getrefcount) == of_a_new_one for tensor in kept)
