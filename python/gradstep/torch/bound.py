"""A compiled step over the parameters that have a state, and when it may be used again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .. import _core
from ..engine import Compiled
from . import private
from .held import Held
from .sharded import Norm
from .trust import Trust

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .call import Part
    from .groups import Group
    from .trust import State


class Bound:
    """A compiled step, and what must hold for it to be used.

    Args:
        state: the state of all parameters.
        groups: what stands behind PyTorch's ``param_groups``.
        held: the parameters that have a state.
        compiled: the step over them.
        norm: the norm of their gradients over processes.
        waiting: parameters without a state, for they had no gradient yet.
        only: the part that it is of; None: all parameters.
    """

    def __init__(
        self,
        state: State,
        groups: Sequence[Group],
        held: Held,
        compiled: Compiled,
        norm: Norm,
        waiting: list[torch.Tensor],
        only: Part | None,
    ) -> None:
        self.groups = list(groups)
        self.held = held
        self.compiled = compiled
        self.norm = norm
        self.tensors = [param.tensor for param in held.params]
        self.leaves = private.leaves(self.tensors)
        self.waiting = waiting
        # Pieces of a tensor are stepped in turns, each once before the next round.
        is_piece = only is not None and only.piece is not None
        steps = [only] if is_piece else [*self.tensors, *waiting]
        self.identities = frozenset(map(id, steps))
        self.common = {  # by the rules that look at all their parameters together: which they are
            rule.name: frozenset(
                id(tensor)
                for group in groups
                if group.rule is rule
                for tensor in group.source["params"]
            )
            for rule in {group.rule for group in groups if group.rule.common}
        }
        self.threads = 0
        self._flags: tuple[Any, ...] = ()
        self.trust = Trust(held.sharded or is_piece)
        self.version = state.version
        # The core compares with where these lie; they are held here, where Python can see it.
        self._groups = [group.source for group in groups]
        self._lists = [list(source["params"]) for source in self._groups]
        self._entries = [group.entry for group in groups]
        some = None if only is None else only.tensors
        self._only = only  # whose identity must stay its own
        self._membership = _core.Membership(self._groups, self._lists, some, self._entries)
        self.read_counts()

    def look(self, version: int, groups: list[dict[str, Any]]) -> int:
        """Whether states, groups and gradients are such as it was made for, and hyperparameters.

        Returns:
            ``CHANGED``, ``OTHER_VALUES`` where groups may have other hyperparameters since they
            were last taken, or ``UNCHANGED``.
        """
        if self.version != version or (
            self.waiting and any(tensor.grad is not None for tensor in self.waiting)
        ):
            return _core.CHANGED
        return self._membership.look(groups)

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

    def set_flags(self, advances: bool, looks: bool) -> None:
        """Say of the next step whether it is one of the optimizer, and whether it looks.

        Args:
            advances: the clock.
            looks: at what is kept where others can reach it.
        """
        plan = self.compiled.plan
        if self._flags != (advances, looks, plan):
            plan.advances, plan.looks = advances, looks  # type: ignore[union-attr]
            self._flags = advances, looks, plan
