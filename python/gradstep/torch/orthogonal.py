"""Matrices made orthogonal between the two passes of a step by PyTorch's products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..orthogonal import Orthogonal, Part, Redirection
from .layout import DTYPES, is_sharded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..engine import Held


class TensorRedirection(Redirection):
    """The same for tensors; for a DTensor each process makes the whole matrix orthogonal.

    Args:
        held, groups, directions, gathered: see :class:`gradstep.orthogonal.Redirection`.
        params: the parameters; the direction of a DTensor is that of its local part.
    """

    def __init__(
        self,
        held: Held,
        groups: Sequence[int],
        directions: Sequence[Any],
        gathered: NDArray[np.float64],
        params: Sequence[torch.Tensor],
    ) -> None:
        super().__init__(held, groups, directions, gathered)
        self._params = params

    def __call__(self, indices: Sequence[int]) -> None:
        # autocast would cast without being asked
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            super().__call__(indices)

    def shape(self, i: int) -> tuple[int, ...]:
        """The shape of a whole direction."""
        return tuple(self._params[i].shape)

    def collect(self, i: int) -> torch.Tensor:
        """A whole direction, for a DTensor gathered from all processes."""
        param = self._params[i]
        direction: torch.Tensor = self.directions[i]
        if not is_sharded(param):
            return direction
        from torch.distributed.tensor import DTensor  # noqa: PLC0415 - few programs are distributed

        whole: torch.Tensor = DTensor.from_local(
            direction,
            param.device_mesh,
            param.placements,
            run_check=False,
            shape=param.shape,
            stride=param.stride(),
        ).full_tensor()
        return whole

    def hand_back(self, i: int, matrix: torch.Tensor) -> None:
        """Take this process's part of a DTensor's direction."""
        param = self._params[i]
        if not is_sharded(param):
            return
        from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415

        # Every process has the whole: nothing is sent.
        mesh, placements = param.device_mesh, param.placements
        part = distribute_tensor(matrix, mesh, placements, src_data_rank=None)
        self.directions[i].copy_(part.to_local())

    def orthogonalise(self, parts: Sequence[Part], how: Orthogonal) -> None:
        """Replace matrices of one shape by orthogonal ones."""
        rows, columns = parts[0].matrix.shape
        dtype = DTYPES[how.dtype] if how.dtype else parts[0].matrix.dtype
        x = torch.empty((len(parts), rows, columns), dtype=dtype, device="cpu")
        for one, part in zip(x, parts, strict=True):
            norm = part.matrix.norm().item() if part.norm is None else part.norm
            torch.div(part.matrix, max(norm, how.eps), out=one)
        gram = torch.empty((len(parts), rows, rows), dtype=dtype, device="cpu")
        update, other = torch.empty_like(gram), torch.empty_like(x)
        is_one = len(parts) == 1
        multiply, add = (torch.mm, torch.addmm) if is_one else (torch.bmm, torch.baddbmm)
        if is_one:
            x, other, gram, update = x[0], other[0], gram[0], update[0]
        for a, b, c in how.polynomials:
            multiply(x, x.mT, out=gram)
            add(gram, gram, gram, beta=b, alpha=c, out=update)
            x, other = add(x, update, x, beta=a, out=other), x
        for one, part in zip(x[None] if is_one else x, parts, strict=True):
            if part.scale == 1:
                part.matrix.copy_(one)
            else:
                torch.mul(one, part.scale, out=part.matrix)
