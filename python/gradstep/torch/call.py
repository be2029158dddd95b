"""What one call of the step is to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


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
