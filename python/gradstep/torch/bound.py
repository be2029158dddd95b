"""An engine over the parameters that have a state, and what must hold for it to be used again."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from ..engine import Engine
from ..watched import Watched
from .held import Held
from .sharded import Norm

_requests = itertools.count(1)


class State(Watched):
    """The state of each parameter; counts how often one was put in, replaced or taken out.

    Attributes:
        version: grows with each such change.
        asked: another number each time somebody has asked the optimizer for it.
    """

    __slots__ = ("asked", "version")

    def __init__(self, values: Mapping[Any, Any]) -> None:
        super().__init__(values)
        self.asked = 0

    @property
    def changed(self) -> bool:
        return True

    @changed.setter
    def changed(self, value: bool) -> None:
        del value
        self.version = getattr(self, "version", 0) + 1

    def __missing__(self, key: Any) -> dict[str, Any]:
        value: dict[str, Any] = {}
        self[key] = value
        return value

    def hand_out(self) -> State:
        """Itself, for somebody who may keep what is in it, and replace it at any time."""
        self.asked = next(_requests)
        return self


class Owner(Protocol):
    """An optimizer, as far as it is known here."""

    _state: State
    param_groups: list[dict[str, Any]]


class Bound:
    """The engine over parameters that have a state, and what must hold for it to be used."""

    def __init__(
        self,
        optimizer: Owner,
        held: Held,
        engine: Engine,
        norm: Norm,
        waiting: list[torch.Tensor],
        only: torch.Tensor | None,
    ) -> None:
        self.held = held
        self.engine = engine
        self.norm = norm
        self.tensors = [param.tensor for param in held.params]
        self.waiting = waiting  # without a state, for they had no gradient yet
        self.threads = 0
        self.trusted = -1  # the State.asked for which nobody else can replace what is kept
        self._asked, self._quiet = -1, 0  # the last one, and how many steps it has stood for
        self._version = optimizer._state.version
        self._groups = list(optimizer.param_groups)
        lists = [list(group["params"]) for group in self._groups]
        self._lists = lists if only is None else None
        # Lists compare tensors that are not the same by their numbers, where there is one.
        self._to_compare = [
            (i, j, tensor)
            for i, tensors in enumerate(lists)
            for j, tensor in enumerate(tensors)
            if (tensor.numel() == 1 if only is None else tensor is only)
        ]
        self.seen: list[Any] = [None] * len(lists)  # each group's values, when last compiled
        self.live = [False] * len(lists)  # whether they are tensors, which change in place
        self.read_counts()

    def holds(self, optimizer: Owner) -> bool:
        """Whether groups, states and gradients are such as it was made for."""
        groups = optimizer.param_groups
        try:
            same = (
                self._version == optimizer._state.version
                and self._groups == groups
                and (self._lists is None or self._lists == [group["params"] for group in groups])
            )
        except RuntimeError:  # other tensors, of other shapes, do not compare
            return False
        if not same:
            return False
        for i, j, tensor in self._to_compare:
            params = groups[i]["params"]
            if j >= len(params) or params[j] is not tensor:
                return False
        return all(tensor.grad is None for tensor in self.waiting)

    def read_counts(self) -> None:
        """Take each parameter's count from its state."""
        refused = self.engine._plan.read_counts()  # type: ignore[union-attr]
        if refused != -1:
            param, state = self.held.params[refused], self.held.states[refused]
            raise ValueError(
                f"state of {param.argument}: got the step {state.get('step')!r}, wanted a float32 "
                "tensor of shape () with a whole number from 0 to 2**24"
            )

    def is_alone(self, optimizer: Owner) -> bool:
        """Whether nobody but this and its optimizer can reach any of the states.

        Then nobody can replace one without asking the optimizer for it, and the steps until then
        need not look at them. To find it out costs as much as looking in several steps: it waits
        until nobody has asked for a while, and becomes ever rarer while somebody holds one.
        """
        asked = optimizer._state.asked
        if asked != self._asked:
            self._asked, self._quiet = asked, 0
        self._quiet += 1
        if self._quiet < PATIENCE or self._quiet & (self._quiet - 1) or self.held.sharded:
            return False
        if _CANNOT_TELL or sys.getrefcount(optimizer._state) != _once.count:
            return False
        # A parameter's dictionary is held by the state of all, by held.states and by the plan.
        kept = self.engine._plan.unshared(2)  # type: ignore[union-attr]
        if kept is None:
            return False
        of_a_new_one = _holders(torch.zeros(1, device="cpu"))
        return all(_holders(tensor) == of_a_new_one for tensor in kept)


PATIENCE = 32  # steps, a power of two

_CANNOT_TELL = not (hasattr(torch.Tensor, "_use_count") and hasattr(torch._C, "_storage_Use_Count"))


class _Once:
    """What sys.getrefcount says of the value of an attribute that nobody else holds."""

    def __init__(self) -> None:
        self.value = object()
        self.count = sys.getrefcount(self.value)


_once = _Once()


def _holders(tensor: torch.Tensor) -> tuple[int | bool, ...]:
    """What tells who can reach a tensor's memory, or the tensor without holding its Python object.

    Nobody counts who finds it by gc.get_objects() or a StorageWeakRef, or writes to the address.
    """
    memory = tensor.untyped_storage()
    return (
        tensor._use_count(),  # outside Python
        weakref.getweakrefcount(tensor),
        sys.getrefcount(memory),
        weakref.getweakrefcount(memory),
        torch._C._storage_Use_Count(memory._cdata),
        memory.resizable(),  # what belongs to NumPy or others is not
        memory.is_shared(),  # with other processes
    )
