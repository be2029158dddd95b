"""Gradients that lie in several processes: where a shard begins, and the norm of all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from .. import _core
from .layout import is_sharded, local
from .private import SOURCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


WORLD = "world"  # all processes, as a text that checkpoints can hold


def check_group(group: Any) -> None:
    """Raise TypeError for what is no ``norm_group``."""
    kind = getattr(torch.distributed, "ProcessGroup", ())
    if group is not None and group != WORLD and not isinstance(group, kind):
        raise TypeError(
            f"norm_group: got {group!r}, wanted a torch.distributed.ProcessGroup, 'world' or None"
        )


def _processes(group: Any) -> tuple[Any, ...]:
    """What to sum over for a ``norm_group``."""
    if group != WORLD:
        return () if group is None else (group,)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (torch.distributed.group.WORLD,) if distributed else ()


def awaits_sum(param: torch.Tensor) -> bool:
    """Whether its gradient may be summed over processes only when a backward pass ends, by DDP."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and not is_sharded(param) and torch.distributed.get_world_size() > 1


def check_placements(argument: str, param: torch.Tensor) -> None:
    """Raise ValueError for a parameter that is a sum over processes yet to be taken."""
    for placement in param.placements if is_sharded(param) else ():
        if placement.is_partial():
            raise ValueError(
                f"{argument}: got the placement {placement!r}, a sum that is not taken yet, wanted "
                "sharded or replicated parameters"
            )


def begin(param: torch.Tensor) -> int | None:
    """At which element of the whole tensor, in C order, a parameter's local part begins.

    None where it is not one run of elements.
    """
    placements = param.placements if is_sharded(param) else ()
    cut = {placement.dim for placement in placements if not placement.is_replicate()}
    if not cut:
        return 0
    # Decided by what all processes know, so that they refuse alike.
    if any(n > 1 for d in cut for n in param.shape[:d]) or not _is_even(param):
        return None
    if not (param.is_contiguous() and local(param).is_contiguous()):
        return None
    from torch.distributed.tensor._utils import (  # noqa: PLC0415 - few programs are distributed
        compute_local_shape_and_global_offset,
    )

    shape, offset = compute_local_shape_and_global_offset(
        param.shape, param.device_mesh, placements
    )
    if 0 in shape:
        return 0
    first = 0
    for at, whole in zip(offset, param.shape, strict=True):
        first = first * whole + at
    return first


def _is_even(param: torch.Tensor) -> bool:
    """Whether shards of shards, as of FSDP over tensor parallelism, are runs of elements."""
    mesh, placements = param.device_mesh, param.placements
    for d, placement in enumerate(placements):
        factor = getattr(placement, "split_factor", 1)
        if factor > 1:
            sizes = [
                1 if other.is_replicate() or other.dim != placement.dim else mesh.size(i)
                for i, other in enumerate(placements)
            ]
            inner = math.prod(sizes[d + 1 :])
            if factor != inner or param.shape[placement.dim] % math.prod(sizes):
                return False
    return True


def as_added_up(gradient: Any, param: torch.Tensor) -> Any:
    """A gradient whose repeated rows will be added up in the dtype in which the step does so."""
    if not isinstance(gradient, _core.RowGradient):
        return gradient
    indices, values = gradient.indices, gradient.values
    in_double = param.dtype == torch.float64
    if (values.dtype == torch.float64) == in_double or bool((indices[1:] > indices[:-1]).all()):
        return gradient
    values = values.to(torch.float64 if in_double else torch.float32)
    return _core.RowGradient(indices, values, gradient.coalesced)


class Norm:
    """The norm of gradients over all processes that have a part of them.

    Args:
        params: of which the gradients will be, in the same order in every process.
        group: what plain tensors are spread over, each in one process; "world", all processes; or
            None: each process has all of them.
    """

    def __init__(self, params: Sequence[torch.Tensor], group: Any) -> None:
        self.groups: list[tuple[list[int], tuple[Any, ...]]] = []
        self._params = params
        self._sharded = [is_sharded(param) for param in params]
        spread = _processes(group)
        # A process that has none of what is spread takes part in the sum.
        places: dict[Any, list[int]] = {None: []} if spread else {}
        for i, param in enumerate(params):
            key: Any = None
            if is_sharded(param):
                mesh, placements = param.device_mesh, param.placements
                key = (mesh, tuple(d for d, p in enumerate(placements) if not p.is_replicate()))
            places.setdefault(key, []).append(i)
        for key, indices in places.items():
            over = spread if key is None else tuple(key[0].get_group(d) for d in key[1])
            self.groups.append((indices, over))

    @property
    def is_local(self) -> bool:
        """Whether this process has all gradients."""
        return not any(over for _, over in self.groups)

    def check_alike(self) -> None:
        """Raise ValueError unless all parameters are spread over the same processes."""
        if len({over for _, over in self.groups}) > 1:
            raise ValueError(
                "stats: got parameters of which some are spread over other processes than others, "
                "whose statistics cannot be added up, wanted stats=False"
            )

    def add_up(self, sums: NDArray[np.float64]) -> None:
        """Put the sums over all processes in place of those over the parts here."""
        _, over = self.groups[0]
        for group in over:
            torch.distributed.all_reduce(torch.from_numpy(sums), group=group)

    def add_up_parts(self, gathered: NDArray[np.float64]) -> None:
        """Put the sums over whole DTensors in place of those over the parts here."""
        for indices, over in self.groups:
            if over and indices and self._sharded[indices[0]]:
                rows = torch.from_numpy(gathered[indices])
                for group in over:
                    torch.distributed.all_reduce(rows, group=group)
                gathered[indices] = rows.numpy()

    def __call__(self, grads: Sequence[torch.Tensor | None]) -> float:
        """The norm of local parts in the order of ``params``, the same in every process."""
        total = self._sum_squares(grads, 1.0)
        if not math.isinf(total):
            return math.sqrt(total)
        # Squares overflow above 1e154; where an element is infinite itself, this is, too.
        scale = _core.overflow_scale
        return math.sqrt(self._sum_squares(grads, scale)) / scale

    def _sum_squares(self, grads: Sequence[torch.Tensor | None], scale: float) -> float:
        total = 0.0
        for indices, over in self.groups:
            pairs = [(grads[i], self._params[i]) for i in indices]
            mine = [as_added_up(g, param) for g, param in pairs if g is not None]
            part = _core.sum_squares_of_tensors(mine, SOURCE, scale)
            if over:
                summed = torch.tensor(part, dtype=torch.float64)
                for group in over:
                    torch.distributed.all_reduce(summed, group=group)
                part = summed.item()
            total += part
        return total
