"""What one call of the step is to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..rule import Rule


class Part:
    """Some parameters, stepped together in one of several calls that make up a step.

    The parts of one optimizer share no parameter.

    Args:
        tensors: which.
        piece: of the only one, a contiguous one of a rule whose elements know nothing of each
            other, the elements to step, in multiples of what is added up at a time; None: all.
        is_last: whether it is that tensor's last piece, with which its count goes on.
    """

    def __init__(
        self,
        tensors: Sequence[torch.Tensor],
        piece: slice | None = None,
        *,
        is_last: bool = True,
    ) -> None:
        self.tensors = list(tensors)
        self.piece = piece
        self.is_last = is_last
        self._identities = frozenset(map(id, self.tensors))

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self._identities


class Call(NamedTuple):
    """What one call of the step is to do.

    Attributes:
        only: the part that it is of; None: all parameters.
        loss: what the gradients are of, where a rule takes it.
        advances: whether the optimizer's clock goes on; None: as the calls before tell.
        norm: of the gradients of all, loss scale and all; None: it is to be taken.
    """

    only: Part | None = None
    loss: Any = None
    advances: bool | None = None
    norm: float | None = None


WHOLE = Call()


def evaluated(closure: Callable[[], Any], loss: Any, rules: Iterable[Rule]) -> tuple[Any, Any]:
    """What a closure returns, and the loss for rules that take it.

    Raises:
        TypeError: a loss was given, too.
    """
    if loss is not None:
        raise TypeError("loss: got one besides a closure, which returns it, wanted None")
    with torch.enable_grad():
        returned = closure()
    return returned, returned if any(rule.takes_loss for rule in rules) else None


def number(loss: Any) -> Any:
    """A loss as a number where it is a tensor of one."""
    is_one = isinstance(loss, torch.Tensor) and loss.numel() == 1
    return loss.item() if is_one else loss
