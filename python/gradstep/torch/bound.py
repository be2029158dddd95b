"""A compiled step over the parameters that have a state, and when it may be used again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..engine import Compiled
from .held import Held
from .sharded import Norm
from .trust import Trust

if TYPE_CHECKING:
    from .trust import State


class Bound:
    """A compiled step, and what must hold for it to be used.

    Args:
        state: the state of all parameters.
        groups: PyTorch's ``param_groups``.
        held: the parameters that have a state.
        compiled: the step over them.
        norm: the norm of their gradients over processes.
        waiting: parameters without a state, for they had no gradient yet.
        only: the parameter that it is of; None: of all.
    """

    def __init__(
        self,
        state: State,
        groups: Sequence[dict[str, Any]],
        held: Held,
        compiled: Compiled,
        norm: Norm,
        waiting: list[torch.Tensor],
        only: torch.Tensor | None,
    ) -> None:
        self.held = held
        self.compiled = compiled
        self.norm = norm
        self.tensors = [param.tensor for param in held.params]
        self.waiting = waiting
        self.threads = 0
        self.trust = Trust(held.sharded)
        self._version = state.version
        self._groups = list(groups)
        lists = [list(group["params"]) for group in groups]
        self._lists = lists if only is None else None
        # Lists compare tensors that are not the same by their numbers, where there is one.
        self._to_compare = [
            (i, j, tensor)
            for i, tensors in enumerate(lists)
            for j, tensor in enumerate(tensors)
            if (tensor.numel() == 1 if only is None else tensor is only)
        ]
        self.read_counts()

    def holds(self, version: int, groups: Sequence[dict[str, Any]]) -> bool:
        """Whether states, groups and gradients are such as it was made for."""
        try:
            same = (
                self._version == version
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
        refused = self.compiled.plan.read_counts()  # type: ignore[union-attr]
        if refused != -1:
            param, state = self.held.params[refused], self.held.states[refused]
            raise ValueError(
                f"state of {param.argument}: got the step {state.get('step')!r}, wanted a float32 "
                "tensor of shape () with a whole number from 0 to 2**24"
            )

    def use_threads(self, count: int) -> None:
        """Step on so many threads from now on."""
        if count != self.threads:
            self.threads = self.compiled.plan.threads = count
