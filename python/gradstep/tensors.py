"""One parameter with all arrays that a step keeps beside it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .arrays import Array


@dataclass
class Tensor:
    """A parameter, its states and what else a step writes for it, in the core's order."""

    param: Array
    low: Array | None  # of a split parameter
    states: list[Array | None]  # in the rule's order, None where one is absent
    storages: list[str]  # of each state
    stochastic: int  # bit 0: the parameter, bit 1 + s: state s
    group: int
    key: int
    start: int
    average: Array | None
    copy: Array | None

    def __post_init__(self) -> None:
        self.copied = None if self.copy is None else self.copy.dtype  # when it was given

    def row(self) -> tuple[Any, ...]:
        """As the core's plan wants it."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def named(self, state_names: Sequence[str]) -> dict[str, Array]:
        """The optimizer's own arrays by name, those that are there."""
        pairs = [*zip(state_names, self.states, strict=True)]
        pairs += [("low", self.low), ("average", self.average)]
        return {name: array for name, array in pairs if array is not None}


def to_swap(tensor: Tensor) -> tuple[Array, Array]:
    """The parameter, and what holds its average in the parameter's dtype."""
    assert tensor.average is not None
    param, average = np.asarray(tensor.param).reshape(-1), tensor.average.reshape(-1)
    if param.dtype == average.dtype:
        return param, average
    rounded = np.empty_like(param)
    _core.encode(param.dtype.name, "param", average, rounded, False, 0, 0, 0, 0, 0)
    return param, rounded


def check_params(labels: list[str], tensors: list[Tensor]) -> None:
    """Raise if a parameter was locked, resized or reinterpreted since it was given."""
    for label, tensor in zip(labels, tensors, strict=True):
        shape = None if tensor.average is None else tensor.average.shape
        arrays.check(label, tensor.param, writable=True, shape=shape)


def byte_count(tensors: list[Tensor]) -> int:
    """How many bytes the optimizer keeps: states, lower halves and averages."""
    return sum(
        array.nbytes
        for tensor in tensors
        for array in (*tensor.states, tensor.low, tensor.average)
        if isinstance(array, np.ndarray)
    )
