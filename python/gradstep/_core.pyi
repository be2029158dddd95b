from collections.abc import Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

block_elements: int
max_threads: int
sample_elements: int

def targets() -> list[str]: ...
def target() -> str: ...
def set_target(name: str) -> bool: ...
def threads() -> int: ...
def set_threads(count: int) -> None: ...
def team() -> str: ...
def set_team(name: str) -> bool: ...
def set_eager(eager: bool) -> None: ...
def build() -> dict[str, str]: ...
def rules() -> dict[
    str, tuple[tuple[str, ...], tuple[tuple[str, str | None, str | None, str], ...]]
]: ...
def storages() -> dict[str, tuple[str, ...]]: ...
def storage_block(name: str) -> int: ...
def storage_bytes(name: str, n: int) -> int: ...
def fused() -> tuple[tuple[str, str, str, bool], ...]: ...
def encode(
    storage: str,
    role: str,
    values: NDArray[Any],
    out: NDArray[Any],
    stochastic: bool,
    seed: int,
    t: int,
    key: int,
    buffer: int,
    start: int,
) -> None: ...
def decode(storage: str, role: str, data: NDArray[Any], out: NDArray[Any]) -> None: ...
def split(values: NDArray[Any], hi: NDArray[Any], lo: NDArray[Any]) -> None: ...
def unsplit(hi: NDArray[Any], lo: NDArray[Any], values: NDArray[Any]) -> None: ...

# tensors: for each parameter (param, low or None, states in the rule's order with None for absent
# ones, the storage of each state, which buffers round stochastically (bit 0: the parameter, 1 + s:
# state s), group, key, start, average or None, copy or None).
# counts: int64, of each parameter and last of the optimizer. settings: a row for each group, its
# hyperparameters, the gradient's sign, and whether it is frozen. controls: clip_norm, clip_value
# (infinity: none), the averages' decay, whether gradients must be finite, the seed. results: norm
# of the gradients (NaN: not computed) and the index of the first that is not finite; then a row of
# report.Sums for each group. averages: none, or sample_elements for running averages of gradients.
# stats: 0: measure nothing, 1: everything, 2: a sample.
# step returns -1: done; -2: skipped; i >= 0: gradient i refused; -3 - i: parameter i or its copy.
class Plan:
    threads: int  # that a step uses; 0: as many as everybody
    @property
    def without_gradient(self) -> int: ...  # how many parameters had none in the last step
    def __init__(
        self,
        rule: str,
        tensors: list[tuple[Any, ...]],
        counts: NDArray[Any],
        settings: NDArray[Any],
        controls: NDArray[Any],
        results: NDArray[Any],
        averages: NDArray[Any],
    ) -> None: ...
    def step(self, gradients: list[Any]) -> int: ...
    def staged_step(
        self, gradients: list[Any], loss_scale: float, zero_grads: bool, stats: int
    ) -> int: ...

# The same of tensors, whose type offers DLPack's exchange functions. Each has an 11th field, the
# dictionary where its state lies by the names of checkpoints, with its count as `step`: looked at
# again in each step.
class TensorPlan:
    threads: int
    looks: bool  # at what is kept where others can reach it, and at its counts
    @property
    def without_gradient(self) -> int: ...
    def __init__(
        self,
        rule: str,
        tensors: list[tuple[Any, ...]],
        counts: NDArray[Any],
        settings: NDArray[Any],
        controls: NDArray[Any],
        results: NDArray[Any],
        averages: NDArray[Any],
        type: type,
    ) -> None: ...
    def step(self, gradients: list[Any]) -> int: ...
    def staged_step(
        self, gradients: list[Any], loss_scale: float, zero_grads: bool, stats: int
    ) -> int: ...
    def read_counts(self) -> int: ...
    def unshared(self, known: int) -> list[Any] | None: ...

def sum_squares(arrays: list[NDArray[Any]]) -> float: ...
def sum_squares_of_tensors(tensors: list[Any], type: type) -> float: ...
def swap(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], flag: NDArray[np.int64]) -> None: ...
def move(arrays: Sequence[list[NDArray[Any]]], gradients: list[NDArray[Any]]) -> None: ...

step_limit: int

def schedules() -> tuple[str, ...]: ...

class Schedule:
    @overload
    def __init__(self, form: str, numbers: Sequence[float]) -> None: ...
    @overload
    def __init__(
        self, operation: str, children: Sequence[Schedule], numbers: Sequence[float]
    ) -> None: ...
    @overload
    def __call__(self, t: int | np.integer[Any], /) -> float: ...
    @overload
    def __call__(
        self,
        t: NDArray[np.integer[Any]] | Sequence[int] | Sequence[Sequence[int]],
        /,
        *,
        out: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]: ...
    def range(
        self,
        start: SupportsIndex,
        stop: SupportsIndex | None = None,
        /,
        *,
        out: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]: ...

class Drive:
    def __init__(
        self,
        settings: NDArray[np.float64],
        entries: Sequence[tuple[Schedule, int, float, float, float]],
    ) -> None: ...
    def __call__(self, k: int) -> int: ...
