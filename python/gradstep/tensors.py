"""One parameter with all arrays that a step keeps beside it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, arrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    begun: bool = False  # whether a step has moved its average

    def __post_init__(self) -> None:
        self.copied = None if self.copy is None else self.copy.dtype  # when it was given
        self.begun = self.begun or self.average is None

    def start_average(self) -> None:
        """Put the parameter, with its lower half where it is split, into its average."""
        assert self.average is not None
        if self.low is None:
            self.average[...] = self.param
        else:
            halves = (self.param.reshape(-1), self.low.reshape(-1))
            _core.unsplit(*halves, self.average.reshape(-1))

    def row(self) -> tuple[Any, ...]:
        """As the core's plan wants it."""
        return tuple(getattr(self, field.name) for field in fields(self)[:-1])

    def named(self, state_names: Sequence[str]) -> dict[str, Array]:
        """The optimizer's own arrays by name, those that are there."""
        pairs = [*zip(state_names, self.states, strict=True)]
        pairs += [("low", self.low), ("average", self.average)]
        return {name: array for name, array in pairs if array is not None}


class Swap:
    """Other numbers in the place of parameters, and of their copies; each pair swaps its bytes.

    Args:
        tensors: the parameters, each with its average.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._pairs = [pair for tensor in tensors for pair in _to_swap(tensor)]
        self._swapped = np.zeros(1, dtype=np.int64)  # the core turns it with the arrays

    def there(self) -> None:
        """Bring the averages in, in one compiled call, which no signal divides."""
        if not self._swapped[0]:
            _core.swap(self._pairs, self._swapped)

    def back(self) -> None:
        """Bring the parameters back."""
        if self._swapped[0]:
            _core.swap(self._pairs, self._swapped)


def _to_swap(tensor: Tensor) -> Iterator[tuple[Array, Array]]:
    """The parameter and what holds its average in the parameter's dtype; the same of its copy."""
    assert tensor.average is not None
    average = tensor.average.reshape(-1)
    for array in (tensor.param, tensor.copy):
        if array is None:
            continue
        flat = np.asarray(array).reshape(-1)
        if array is tensor.param and flat.dtype == average.dtype:
            yield flat, average
        else:
            yield flat, _rounded(average, flat)


def _rounded(values: Array, like: Array) -> Array:
    """Values in the dtype of another array, rounded to nearest."""
    rounded = np.empty_like(like)
    _core.encode(like.dtype.name, "param", values, rounded, False, 0, 0, 0, 0, 0)
    return rounded


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
