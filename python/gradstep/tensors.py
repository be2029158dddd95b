"""One parameter with all arrays that a step keeps beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    memory: list[Array]  # one number each, in the rule's order
    stochastic: int  # bit 0: the parameter, bit 1 + s: state s
    group: int
    key: int
    start: int
    average: Array | None
    copy: Array | None
    begun: bool = False  # whether a step has moved what starts from the parameter

    def __post_init__(self) -> None:
        # When they were given: an array can be resized or reinterpreted later.
        self.shape = self.param.shape
        self.copied = None if self.copy is None else self.copy.dtype

    def begin(self, points: Sequence[Array]) -> None:
        """Put the parameter, with its lower half where it is split, into what starts from it.

        Args:
            points: states that do.
        """
        whole = self.param
        if self.low is not None:
            whole = np.empty(self.param.shape, np.float32)
            halves = (self.param.reshape(-1), self.low.reshape(-1))
            _core.unsplit(*halves, whole.reshape(-1))
        for array in (self.average, *points):
            if array is not None:
                with np.errstate(over="ignore"):  # infinite, as a step would store it
                    np.copyto(array, whole, casting="unsafe")

    def spec(self, count: int, direction: Array | None) -> _core.TensorSpec:
        """As the core's plan wants it.

        Args:
            count: the updates it has had.
            direction: room for the direction of a step, if the rule has one.
        """
        return _core.TensorSpec(
            param=self.param,
            low=self.low,
            states=self.states,
            storages=self.storages,
            memory=self.memory,
            stochastic=self.stochastic,
            group=self.group,
            key=self.key,
            start=self.start,
            first=count == 0 or not any(map(_is_used, self.states)),
            average=self.average,
            copy=self.copy,
            direction=direction,
        )

    def named(self, state_names: Sequence[str], memory_names: Sequence[str]) -> dict[str, Array]:
        """The optimizer's own arrays by name, those that are there."""
        pairs = [*zip(state_names, self.states, strict=True)]
        pairs += zip(memory_names, self.memory, strict=True)
        pairs += [("low", self.low), ("average", self.average)]
        return {name: array for name, array in pairs if array is not None}


def _is_used(state: Array | None) -> bool:
    """Whether a step has used a state: then it is not all zeros, as a rule."""
    if state is None:
        return False
    flat = state.reshape(-1).view(np.uint8)
    return bool(flat[:4096].any() or flat.any())


class Swap:
    """Other numbers in the place of parameters, and of their copies; each pair swaps its bytes.

    Args:
        shown: for each parameter what is to stand in it: its average, an array like it, or None.
        tensors: the parameters.
    """

    def __init__(self, tensors: Sequence[Tensor], shown: Sequence[Array | None]) -> None:
        pairs = zip(tensors, shown, strict=True)
        self._pairs = [pair for tensor, other in pairs for pair in _to_swap(tensor, other)]
        self._swapped = np.zeros(1, dtype=np.int64)  # the core turns it with the arrays

    def there(self) -> None:
        """Bring the others in, in one compiled call, which no signal divides."""
        if not self._swapped[0]:
            _core.swap(self._pairs, self._swapped)

    def back(self) -> None:
        """Bring the parameters back."""
        if self._swapped[0]:
            _core.swap(self._pairs, self._swapped)


def _to_swap(tensor: Tensor, shown: Array | None) -> Iterator[tuple[Array, Array]]:
    """The parameter and what is to stand in it, in its dtype; the same of its copy."""
    if shown is None:
        return
    values = shown.reshape(-1)
    flat = np.asarray(tensor.param).reshape(-1)
    yield flat, values if flat.dtype == values.dtype else _rounded(values, flat)
    if tensor.copy is not None:
        copy = np.asarray(tensor.copy).reshape(-1)
        yield copy, _rounded(values, copy)


def _rounded(values: Array, like: Array) -> Array:
    """Values in the dtype of another array, rounded to nearest."""
    if values.dtype not in (np.float32, np.float64):
        return values.astype(like.dtype)
    rounded = np.empty_like(like)
    _core.encode(like.dtype.name, "param", values, rounded, False, 0, 0, 0, 0, 0)
    return rounded


def check_params(labels: list[str], tensors: list[Tensor]) -> None:
    """Raise if a parameter was locked, resized or reinterpreted since it was given."""
    for label, tensor in zip(labels, tensors, strict=True):
        arrays.check(label, tensor.param, writable=True, shape=tensor.shape)


def byte_count(tensors: list[Tensor]) -> int:
    """How many bytes the optimizer keeps: states, lower halves and averages."""
    return sum(
        array.nbytes
        for tensor in tensors
        for array in (*tensor.states, *tensor.memory, tensor.low, tensor.average)
        if isinstance(array, np.ndarray)
    )
