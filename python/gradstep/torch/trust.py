"""Which states a step need not look at, since nobody else can reach them.

The contract: a step writes through pointers that were taken when the plan was made. Before it does,
it looks at every state's place, unless it was proven that no one but the optimizer can reach any of
them. Whoever asks the optimizer for ``state`` ends that: each step looks again, until nobody has
asked for a while and the proof holds anew. The proof is by counting references: to each parameter's
dictionary, each state, its memory and its storage.

===================================================  =======================================
who can reach a state                                do steps look?
===================================================  =======================================
somebody who has asked for ``optimizer.state``       yes, for PATIENCE steps at least
somebody who holds a dictionary, a state, a view,    yes: a count is higher than the
NumPy's array of it, its storage, a weak reference   optimizer alone makes it
another process, by ``share_memory()``               yes: its storage says that it is shared
a hook or schedule of this step                      yes, where functions drive the stages
DTensors, whose parts are other objects each time    yes, always
``gc.get_objects()``, a raw address                  no: nobody counts those
===================================================  =======================================

Looking costs up to a microsecond per parameter; the proof costs what looking costs in six steps.
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

PATIENCE = 32  # steps, a power of two: the proof is tried after so many, then ever more rarely

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
    """

    def __init__(self, sharded: bool) -> None:
        self._never = sharded or not private.can_count_holders()
        self._trusted = -1  # the State.asked for which nobody else can replace what is kept
        self._asked, self._quiet = -1, 0  # the last one, and how many steps it has stood for

    def must_look(self, state: State) -> bool:
        """Whether somebody may have replaced a state."""
        return self._trusted != state.asked

    def is_proven(self, holder: Holder, plan: TensorPlan) -> bool:
        """Whether nobody but the optimizer can reach any of the states, if it is time to ask."""
        asked = holder.state.asked
        if asked != self._asked:
            self._asked, self._quiet = asked, 0
        self._quiet += 1
        if self._quiet < PATIENCE or self._quiet & (self._quiet - 1) or self._never:
            return False
        if not holder.is_alone():
            return False
        # A parameter's dictionary is held by the state of all, by Held.states and by the plan.
        kept = plan.unshared(2)
        return kept is not None and _only_ours(kept)

    def begin(self, state: State) -> None:
        """Look no more until somebody asks."""
        self._trusted = state.asked


def _only_ours(kept: Sequence[torch.Tensor]) -> bool:
    of_a_new_one = private.holders(torch.zeros(1, device="cpu"), sys.getrefcount)
    return all(private.holders(tensor, sys.getrefcount) == of_a_new_one for tensor in kept)
