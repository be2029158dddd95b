from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

block_elements: int
functional: Any  # a capsule with the step for other modules, see cpp/functional.hpp
max_threads: int
sample_elements: int

def targets() -> list[str]: ...

# Those of this build that are not offered here, and why; and why one would not be, where CPUID
# (leaf 1 ECX, leaf 7 EBX) and XGETBV (XCR0) answer so: empty where it would.
def refused_targets() -> dict[str, str]: ...
def target_refusal(target: str, ecx1: int, ebx7: int, xcr0: int) -> str: ...
def target() -> str: ...
def set_target(name: str) -> bool: ...
def threads() -> int: ...
def set_threads(count: int) -> None: ...
def team() -> str: ...
def set_team(name: str) -> bool: ...
def find_openmp() -> bool: ...
def openmp_runtime() -> str: ...

# How many calls were worked on by the caller alone, our own team and an OpenMP runtime's.
def team_calls() -> dict[str, int]: ...

# Zeros to so many bytes of memory that nobody has touched yet.
def zero_new(address: int, bytes: int, threads: int) -> None: ...
def set_eager(eager: bool) -> None: ...
def build() -> dict[str, str]: ...

# Of each rule: hyper_names, states (name, role, option, initial, shape, gathered, fixed),
# memory_names, common (the hyperparameters that all groups share), takes_loss, takes_sign,
# scales_moment (the second moment is not that of the gradients), takes_rows (of gradients that have
# only some), gathers (it has two passes), shows (the point to evaluate is not the parameter),
# variants (whether each has two passes, by its name: the rule's, then the switches that it is for).
def rules() -> dict[str, dict[str, Any]]: ...
def storages() -> dict[str, tuple[str, ...]]: ...
def storage_block(name: str) -> int: ...
def storage_bytes(name: str, n: int) -> int: ...
def rounds_stochastically(storage: str, role: str) -> bool: ...
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

# A parameter and what a step keeps for it, None where there is no such thing. states, storages and
# memory: in the rule's order. stochastic: which buffers round stochastically (bit 0: the parameter,
# 1 + s: state s). first: no step has used its states yet. own: the dictionary where its state lies
# by the names of checkpoints, with its count as `step`.
class TensorSpec:
    def __init__(
        self,
        *,
        param: Any,
        low: Any,
        states: list[Any],
        storages: Sequence[str],
        memory: list[Any],
        stochastic: int,
        group: int,
        key: int,
        start: int,
        first: bool,
        average: Any,
        copy: Any,
        own: Any = None,
        direction: Any = None,
    ) -> None: ...

# The stages of a step. clip_norm, clip_value: infinity for none. decay: of the averages.
class Controls:
    clip_norm: float
    clip_value: float
    decay: float
    check_finite: bool
    seed: int
    def __init__(self) -> None: ...

# The columns of a group's settings: the gradient's sign, whether it is frozen, hyperparameters.
SIGN: int
FROZEN: int
FIRST_HYPER: int

# What a step returns: DONE; SKIPPED, for a gradient that is not finite; i >= 0 where gradient i is
# refused; FIRST_REFUSED_PARAM - i where parameter i or its copy is.
DONE: int
SKIPPED: int
FIRST_REFUSED_PARAM: int

max_gathered: int
sum_names: tuple[str, ...]
overflow_scale: float

# rules: of each group. counts: int64, of each parameter. clock: int64, the optimizer's own.
# settings: float64, a row for each group. sums: a row of report.Sums for each group. gathered: a
# row of max_gathered for each tensor. averages: none, or sample_elements for running averages of
# gradients. stats: 0: measure nothing, 1: everything, 2: a sample.
class Plan:
    threads: int  # that a step uses; 0: as many as everybody
    advances: bool  # the clock: whether a step is one of the optimizer
    loss: float  # of the next step, for rules that take it
    norm: float  # of the next step's gradients and of others elsewhere; negative: nobody knows
    add_up: Callable[[NDArray[np.float64]], object] | None  # over processes, between two passes
    # Replaces these tensors' directions, before any other rule changes anything.
    redirect: Callable[[list[int]], object] | None
    @property
    def without_gradient(self) -> int: ...  # how many parameters had none in the last step
    @property
    def gradient_norm(self) -> float: ...  # of the last step; NaN: nothing wanted it
    @property
    def refusal(self) -> str: ...  # in words, of what has the form of a gradient; or empty
    @property
    def not_finite(self) -> int: ...  # the first such gradient of the last step; -1: none
    def __init__(
        self,
        *,
        rules: Sequence[str],
        tensors: Sequence[TensorSpec],
        counts: NDArray[Any],
        clock: NDArray[Any],
        settings: NDArray[Any],
        controls: Controls,
        sums: NDArray[Any],
        gathered: NDArray[Any],
        averages: NDArray[Any],
    ) -> None: ...
    def step(self, gradients: list[Any]) -> int: ...
    def staged_step(
        self, gradients: list[Any], loss_scale: float, zero_grads: bool, stats: int
    ) -> int: ...
    def show(self, index: int, out: Any) -> None: ...  # the point to evaluate, into `out`
    def direct(self) -> list[bool]: ...  # whether each parameter has a loop of its own

# A gradient of some rows: arrays or tensors. coalesced: the indices are said to ascend, each once.
class RowGradient:
    def __init__(self, indices: Any, values: Any, coalesced: bool) -> None: ...
    @property
    def indices(self) -> Any: ...
    @property
    def values(self) -> Any: ...
    @property
    def coalesced(self) -> bool: ...

# How the core looks into tensors, whose type offers DLPack's exchange functions. handle: where the
# framework's own tensor lies in a tensor's object, in bytes, for its two C functions that tell how
# many bytes a tensor's memory has and at which element it begins; -1: they are not known.
class TensorSource:
    memory: TensorMemory
    def __init__(
        self, type: type, handle: int = -1, storage_size: int = 0, storage_offset: int = 0
    ) -> None: ...
    def has_memory(self, tensor: Any) -> bool: ...

# Where a tensor and its storage keep what, in words of 8 bytes; handle: in bytes. words: those that
# say what a tensor is, by the bits of masks. memory_end: behind the words of its place and size.
class TensorPlaces:
    handle: int
    words: list[int]
    masks: list[int]
    dimensions: int
    most_dimensions: int
    count: int
    storage: int
    data: int
    size: int
    memory_end: int
    deleter: int
    storage_count: int
    storage_object: int

# Reads tensors there. learn_alone: takes one for a tensor that nobody else holds.
class TensorMemory:
    @overload
    def __init__(self) -> None: ...
    @overload
    def __init__(self, places: TensorPlaces) -> None: ...
    def learn_alone(self, tensor: Any) -> None: ...
    def is_alone(self, tensor: Any) -> bool: ...
    @property
    def counts_holders(self) -> bool: ...

# What a plan keeps of a tensor that it has looked at.
class KeptTensor:
    def __init__(self, source: TensorSource, tensor: Any) -> None: ...
    def is_same(self, tensor: Any) -> bool: ...  # the tensor, in the same memory
    def is_alike(self, tensor: Any) -> bool: ...  # in any memory

# Tensors that a step updates: their gradients, as the attribute `grad` of their type, of which the
# plain type's is given; and that they were written, by the framework's own function (0: unknown, as
# note_written says by False).
class Leaves:
    def __init__(self, tensors: list[Any], grad: Any, handle: int = 0, bump: int = 0) -> None: ...
    def gradients(self) -> list[Any]: ...
    def note_written(self, gradients: list[Any]) -> bool: ...

# What stands in a dictionary under some keys, by identity; None: values that may change in place.
# The dictionary and the values are to be held by whoever holds this.
class Entry:
    def __init__(self, source: dict[str, Any], keys: tuple[str, ...]) -> None: ...
    def note(self, values: tuple[Any, ...] | None) -> None: ...

CHANGED: int
OTHER_VALUES: int
UNCHANGED: int

# Which tensors are in which group, whose `params` they are; or where those are that matter.
# look: whether they still are, and these are the groups, and the entries' values are the same, all
# by identity. All of it is to be held by whoever holds this.
class Membership:
    def __init__(
        self,
        groups: list[Any],
        tensors: list[list[Any]],
        only: list[Any] | None,
        entries: list[Entry],
    ) -> None: ...
    def look(self, groups: Any) -> int: ...

# The same plan of tensors.
class TensorPlan:
    threads: int
    advances: bool
    loss: float
    norm: float
    add_up: Callable[[NDArray[np.float64]], object] | None
    redirect: Callable[[list[int]], object] | None
    looks: bool  # at what is kept where others can reach it, and at its counts
    @property
    def without_gradient(self) -> int: ...
    @property
    def gradient_norm(self) -> float: ...
    @property
    def refusal(self) -> str: ...  # in words, of what has the form of a gradient; or empty
    @property
    def not_finite(self) -> int: ...
    def __init__(
        self,
        *,
        rules: Sequence[str],
        tensors: Sequence[TensorSpec],
        counts: NDArray[Any],
        clock: NDArray[Any],
        settings: NDArray[Any],
        controls: Controls,
        sums: NDArray[Any],
        gathered: NDArray[Any],
        averages: NDArray[Any],
        source: TensorSource,
    ) -> None: ...
    def step(self, gradients: list[Any]) -> int: ...
    def staged_step(
        self, gradients: list[Any], loss_scale: float, zero_grads: bool, stats: int
    ) -> int: ...
    def show(self, index: int, out: Any) -> None: ...
    def direct(self) -> list[bool]: ...
    def read_counts(self) -> int: ...
    def are_alone(self, known: int) -> bool: ...
    def unshared(self, known: int) -> list[Any] | None: ...

# scale: a power of 2, by which numbers are multiplied before they are squared.
def sum_squares(arrays: list[NDArray[Any]], scale: float = 1.0) -> float: ...
def norm(arrays: list[NDArray[Any]]) -> float: ...
def sum_squares_of_tensors(
    tensors: list[Any], source: TensorSource, scale: float = 1.0
) -> float: ...

# What of all tensors adds up to that, segment by segment in their order.
def segment_sums_of_tensors(
    tensors: list[Any], source: TensorSource, scale: float = 1.0
) -> NDArray[np.float64]: ...
def swap(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], flag: NDArray[np.int64]) -> None: ...
def assign(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], flag: NDArray[np.int64]) -> None: ...
def move(changed: list[NDArray[Any]], read: list[NDArray[Any]]) -> None: ...

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
    def text(self) -> str: ...  # what the core reads a schedule from
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
