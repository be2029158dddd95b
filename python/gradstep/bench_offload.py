"""Time an iteration whose optimizer is offloaded, on a device and a link that are not there.

The device computes by a pause, layer by layer, and has a gradient ready at the end of each layer's
backward pass. The link takes as long as one of a given rate would. Steps are real.
"""

from __future__ import annotations

import functools
import gc
import itertools
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from . import bench, machine, runtime
from .extras import need
from .tables import table

if TYPE_CHECKING:
    from .torch.offloading.simulated import Span

GPT2_SIZE = 124_439_808
GPT2_EMBEDDING = (50257, 768)
LAYERS = 48
MOST_LAYERS = 10_000
LINK, COMPUTE = 25e9, 0.2  # bytes per second each way, seconds
LR, DECAY, CLIP_NORM = 1e-3, 1e-2, 1.0
FORWARD = 1 / 3  # of the time that the device computes
STATES = ("float32", "q8")
DEEPSPEED = "DeepSpeed's layout"
SYNCHRONOUS = "synchronous"
LAST = "its last tensor alone"
WARM_UP = 2  # iterations that are not counted
STANDARD_DEVIATION = 1e-3  # of gradients
SLOWEST_LINK, LONGEST_COMPUTE = 1e6, 60.0


# ---- what is asked for, as text ----

_RATES = {"MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12, "MiB/s": 2**20, "GiB/s": 2**30}
_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


def _with_unit(text: str, units: dict[str, float]) -> float:
    """A number times its unit; NaN where the text is not such a number."""
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(\S+)\s*", text)
    if found is None or found[2] not in units:
        return math.nan
    try:
        return float(found[1]) * units[found[2]]
    except ValueError:
        return math.nan


def parse_rate(text: str) -> float:
    """Bytes per second from a text such as ``25GB/s`` or ``25 GB/s``.

    Raises:
        ValueError: it is no such text, or a rate below 1 MB/s.
    """
    rate = _with_unit(text, _RATES)
    if not SLOWEST_LINK <= rate < math.inf:
        raise ValueError(
            f"link: got {text!r}, wanted a rate such as 25GB/s, of at least 1MB/s, in "
            f"{', '.join(_RATES)}"
        )
    return rate


def parse_seconds(text: str) -> float:
    """Seconds from a text such as ``200ms`` or ``0.5 s``.

    Raises:
        ValueError: it is no such text, or not above 0, or more than a minute.
    """
    seconds = _with_unit(text, _TIMES)
    if not 0 < seconds <= LONGEST_COMPUTE:
        raise ValueError(
            f"compute: got {text!r}, wanted a time such as 200ms, above 0 and up to 60s, in "
            f"{', '.join(_TIMES)}"
        )
    return seconds


# ---- models ----

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """Parameters that the device computes with together, and its share of the time."""

    shapes: tuple[Shape, ...]
    share: float

    @property
    def count(self) -> int:
        """How many parameters it has."""
        return sum(map(math.prod, self.shapes))


@dataclass(frozen=True)
class Task:
    """A model on a device, and what device and link are like.

    Attributes:
        name: the model, to be read.
        layers: in the order of the forward pass.
        compute: seconds of forward and backward pass together.
        rate: bytes per second of the link, each way.
        last: a tensor whose gradient comes last, and which is looked at by itself.
    """

    name: str
    layers: tuple[Layer, ...]
    compute: float = COMPUTE
    rate: float = LINK
    last: Shape | None = None

    @property
    def count(self) -> int:
        """How many parameters there are."""
        return sum(layer.count for layer in self.layers)


def equal_layers(size: int = GPT2_SIZE, layers: int = LAYERS) -> tuple[Layer, ...]:
    """Layers of one vector each, of equal size, as far as that goes.

    Raises:
        ValueError: there are fewer parameters than layers.
    """
    if size < layers:
        raise ValueError(f"layers: got {layers:,}, wanted no more than the {size:,} parameters")
    ends = [size * i // layers for i in range(layers + 1)]
    sizes = (end - begin for begin, end in itertools.pairwise(ends))
    return tuple(Layer(((count,),), 1 / layers) for count in sizes)


def gpt2_layers() -> tuple[Layer, ...]:
    """GPT-2's, the small one's. What maps to words shares the embedding of the words.

    The time goes where products of matrices are; the backward pass comes to the embedding last.
    """
    (words, width), positions, blocks = GPT2_EMBEDDING, 1024, 12
    inner = 4 * width
    block: tuple[Shape, ...] = (
        (width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,),
        (width,), (width,), (width, inner), (inner,), (inner, width), (width,),
    )  # fmt: skip
    matrices = sum(math.prod(shape) for shape in block if len(shape) > 1)
    products = blocks * matrices + words * width
    return (
        Layer(((words, width), (positions, width)), 0.0),
        *(Layer(block, matrices / products) for _ in range(blocks)),
        Layer(((width,), (width,)), 0.0),
        Layer((), words * width / products),
    )


# ---- the device ----


class Device:
    """Computes by a pause that takes no core, one piece after the other.

    Attributes:
        spans: what it computed and when, by ``time.perf_counter()``.
    """

    def __init__(self) -> None:
        self._free = 0.0  # when it has nothing left to do
        self.spans: list[Span] = []

    def start(self) -> float:
        """Begin an iteration; the time."""
        self.spans = []
        self._free = time.perf_counter()
        return self._free

    def compute(self, what: str, seconds: float) -> None:
        """Return once it has computed for so long.

        It was told early what to do next, and does not wait for this thread to wake up.

        Args:
            what: is noted in `spans`.
            seconds: how long.
        """
        begin, self._free = self._free, self._free + seconds
        if seconds:
            self.spans.append((what, begin, self._free))
        left = self._free - time.perf_counter()
        if left > 0:
            time.sleep(left)


@functools.cache
def _module_class() -> Any:
    """The class of a layer on the device, once torch is there to have it."""
    torch = import_module("torch")

    class Pause(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(context: Any, module: Any, inputs: Any, *_: Any) -> Any:
            context.module = module
            module.device.compute("forward", FORWARD * module.seconds)
            return inputs.clone()

        @staticmethod
        def backward(context: Any, gradient: Any) -> Any:
            module = context.module
            module.device.compute("backward", (1 - FORWARD) * module.seconds)
            # other tensors over the same memory, which autograd hands over without a copy
            return None, gradient, *(made.detach() for made in module.gradients)

    class Module(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, device: Device, seconds: float, gradients: Sequence[Any]) -> None:
            super().__init__()
            self.device, self.seconds, self.gradients = device, seconds, gradients
            for i, gradient in enumerate(gradients):
                memory = random_numbers(gradient.numel()).view(gradient.shape)
                self.register_parameter(f"weight{i}", torch.nn.Parameter(memory))

        def forward(self, inputs: Any) -> Any:
            return Pause.apply(self, inputs, *self.parameters())

    return Module


@functools.cache
def _some_numbers() -> Any:
    torch = import_module("torch")
    generator = torch.Generator().manual_seed(0)
    made = torch.empty(1 << 20, dtype=torch.bfloat16)
    return made.normal_(std=STANDARD_DEVIATION, generator=generator)


def random_numbers(count: int) -> Any:
    """Small normal ones in bfloat16, the same for a count, which repeat after a million."""
    some = _some_numbers()
    return some.repeat(-(-count // some.numel()))[:count].clone()


def random_gradients(layers: Iterable[Layer]) -> list[list[Any]]:
    """For each shape of each layer a tensor of normal numbers."""
    torch = import_module("torch")
    generator = torch.Generator().manual_seed(1)

    def made(shape: Shape) -> Any:
        memory = torch.empty(shape, dtype=torch.bfloat16)
        return memory.normal_(std=STANDARD_DEVIATION, generator=generator)

    return [[made(shape) for shape in layer.shapes] for layer in layers]


def make_model(task: Task, device: Device, gradients: Sequence[Sequence[Any]]) -> Any:
    """A model of bfloat16 parameters whose backward pass brings these gradients."""
    made = _module_class()
    return import_module("torch").nn.Sequential(
        *(
            made(device, task.compute * layer.share, own)
            for layer, own in zip(task.layers, gradients, strict=True)
        )
    )


def make_link(rate: float, *, moves: bool) -> Any:
    """A simulated link. Where it moves nothing, numbers are in the host's memory from the start."""

    class Link(import_module("gradstep.torch").SimulatedLink):  # type: ignore[misc]
        def empty(self, count: int, dtype: Any) -> Any:
            return random_numbers(count).to(dtype)

    return Link(rate, moves=moves)


# ---- who races ----


@dataclass(frozen=True)
class Iteration:
    """When one iteration began, was through its backward pass, and ended; what went on."""

    begin: float
    middle: float
    end: float
    spans: list[Span]

    @property
    def seconds(self) -> float:
        """Of all."""
        return self.end - self.begin

    @property
    def rest(self) -> float:
        """What remains after the backward pass, in seconds."""
        return self.end - self.middle

    def total(self, lane: str) -> float:
        """The seconds of all spans of one kind."""
        return sum(end - begin for kind, begin, end in self.spans if kind == lane)


class Contestant(Protocol):
    """A model and its optimizer."""

    name: str
    states: str
    clips: bool

    def iterate(self) -> Iteration:
        """Make one iteration."""

    def params(self) -> list[Any]:
        """The host's parameters in bfloat16."""


class Trainer:
    """What all contestants have: a model on the device, and the link to it.

    Args:
        task: the model, the device and the link.
        gradients: of each layer.
        states: of the optimizer.
        clips: whether it clips to a norm.
        moves: whether the link moves numbers.
    """

    name = ""

    def __init__(
        self,
        task: Task,
        gradients: Sequence[Sequence[Any]],
        states: str = "float32",
        *,
        clips: bool = False,
        moves: bool = False,
    ) -> None:
        self.states, self.clips, self.moves = states, clips, moves
        self.device = Device()
        self.link = make_link(task.rate, moves=moves)
        self.model = make_model(task, self.device, gradients)
        self._inputs = import_module("torch").ones(1, requires_grad=True)
        self.steps: list[Span] = []
        self.prepare()

    def prepare(self) -> None:
        """Make what steps."""

    def iterate(self) -> Iteration:
        """Make one iteration."""
        self.link.spans, self.steps = [], []
        begin = self.device.start()
        self.model(self._inputs).backward()
        middle = time.perf_counter()
        self.finish()
        end = time.perf_counter()
        return Iteration(begin, middle, end, self.device.spans + self.link.spans + self.steps)

    def finish(self) -> None:
        """Do what remains after the backward pass."""
        raise NotImplementedError

    def timed(self, step: Callable[[], object]) -> None:
        """Step, and note when."""
        begin = time.perf_counter()
        step()
        self.steps.append(("step", begin, time.perf_counter()))


def _arguments(clips: bool) -> dict[str, Any]:
    return {"lr": LR, "weight_decay": DECAY, "clip_norm": CLIP_NORM if clips else None}


class Ours(Trainer):
    """``gradstep.torch.offload``: what can be is done beside the backward pass."""

    name = bench.OURS

    def prepare(self) -> None:
        """Have it take the model's gradients."""
        ours = import_module("gradstep.torch")
        self.optimizer = ours.offload(
            self.model,
            ours.AdamW,
            link=self.link,
            split=True,
            states=self.states,
            **_arguments(self.clips),
        )

    def iterate(self) -> Iteration:
        """Make one iteration."""
        self.optimizer.spans = []
        return super().iterate()

    def finish(self) -> None:
        """Complete the step, and have all parameters on the device."""
        self.optimizer.step()
        self.optimizer.wait()
        self.steps = self.optimizer.spans

    def params(self) -> list[Any]:
        """Those of the device, which has them all."""
        return [param.detach() for param in self.model.parameters()]


class Synchronous(Trainer):
    """The same rule over tensors in host memory: gradients down, the step, parameters up."""

    name = SYNCHRONOUS

    def prepare(self) -> None:
        """Have parameters and gradients in host memory."""
        self._host = [param.detach().clone() for param in self.model.parameters()]
        for host in self._host:
            host.grad = random_numbers(host.numel()).view(host.shape)
        self.optimizer = import_module("gradstep.torch").AdamW(
            self._host, split=True, states=self.states, **_arguments(self.clips)
        )

    def finish(self) -> None:
        """All of it."""
        pairs = list(zip(self._host, self.model.parameters(), strict=True))
        self.link.down([(host.grad, param.grad) for host, param in pairs]).wait()
        for _, param in pairs:
            param.grad = None
        self.timed(self.optimizer.step)
        self.link.up([(param.data, host) for host, param in pairs]).wait()

    def params(self) -> list[Any]:
        """Those of the host."""
        return list(self._host)


def make_deepspeed_adam(params: Sequence[Any], **arguments: Any) -> Any:
    """DeepSpeed's optimizer for the CPU, which it compiles the first time."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # its build calls ninja, which lies beside a Python that nobody activated
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    made = import_module("deepspeed.ops.adam").DeepSpeedCPUAdam
    return made(params, adamw_mode=True, **arguments)


class DeepSpeed(Trainer):
    """Float32 parameters, states and gradients in one flat tensor each, as ZeRO-Offload has them.

    Gradients are widened on the device and come down beside the backward pass; after it the step,
    the copy in bfloat16, and that copy goes up.
    """

    name = DEEPSPEED

    def prepare(self) -> None:
        """Have all in flat tensors, and take gradients as they come."""
        torch = import_module("torch")
        device = list(self.model.parameters())
        self._copy = torch.cat([param.detach().flatten() for param in device])
        self._param = self._copy.float()
        self._param.grad = random_numbers(self._copy.numel()).float()
        self._down: list[Any] = []
        self.optimizer = make_deepspeed_adam([self._param], lr=LR, weight_decay=DECAY)
        end = 0
        for param in device:
            begin, end = end, end + param.numel()
            land = self._param.grad[begin:end]
            param.register_post_accumulate_grad_hook(self._take(land))

    def _take(self, land: Any) -> Callable[[Any], None]:
        def hook(param: Any) -> None:
            wide = param.grad.flatten().float() if self.moves else land  # as many bytes
            self._down.append(self.link.down([(land, wide)]))
            param.grad = None

        return hook

    def finish(self) -> None:
        """Wait for the last gradients, step, copy, and bring the copy up."""
        while self._down:
            self._down.pop().wait()
        self.timed(self._step)
        end, pairs = 0, []
        for param in self.model.parameters():
            begin, end = end, end + param.numel()
            pairs.append((param.data, self._copy[begin:end].view(param.shape)))
        self.link.up(pairs).wait()

    def _step(self) -> None:
        self.optimizer.step()
        self._copy.copy_(self._param)

    def params(self) -> list[Any]:
        """Those of the device."""
        return [param.detach() for param in self.model.parameters()]


# ---- the race ----


@dataclass(frozen=True)
class Result:
    """A contestant's iterations."""

    name: str
    states: str
    clips: bool
    iterations: list[Iteration]

    def median(self, seconds: Callable[[Iteration], float]) -> float:
        """Of what is asked of each."""
        return median(map(seconds, self.iterations))

    @property
    def seconds(self) -> float:
        """Of an iteration."""
        return self.median(lambda one: one.seconds)

    @property
    def rest(self) -> float:
        """What remains after the backward pass."""
        return self.median(lambda one: one.rest)

    @property
    def step(self) -> float:
        """What goes into steps, beside the backward pass or after it."""
        return self.median(lambda one: one.total("step"))

    def usual(self) -> Iteration:
        """The one whose time is the median, or next to it."""
        return sorted(self.iterations, key=lambda one: one.seconds)[len(self.iterations) // 2]


def race(contestants: Sequence[Contestant], rounds: int) -> list[Result]:
    """Have everyone make so many iterations in turns, after some that are not counted."""
    made: list[list[Iteration]] = [[] for _ in contestants]
    for _ in range(WARM_UP + rounds):
        for contestant, iterations in zip(contestants, made, strict=True):
            iterations.append(contestant.iterate())
    return [
        Result(one.name, one.states, one.clips, iterations[WARM_UP:])
        for one, iterations in zip(contestants, made, strict=True)
    ]


BYTES = 66  # per parameter, of all who race at once with float32 states


def check_memory(task: Task) -> None:
    """Raise MemoryError where a race needs more memory than the machine has left."""
    needed, free = task.count * BYTES, machine.free_memory()
    if free is not None and needed > free:
        raise MemoryError(
            f"size: got {task.count:,} parameters, whose race takes about "
            f"{needed / 2**30:,.1f} GiB where {free / 2**30:,.1f} GiB are left, wanted fewer"
        )


def alone(task: Task, states: str) -> Contestant:
    """The tensor whose gradient comes last, which comes down, is stepped, and goes up."""
    assert task.last is not None
    only = Task(task.name, (Layer((task.last,), 0.0),), 0.0, task.rate)
    made = Synchronous(only, random_gradients(only.layers), states)
    made.name = LAST
    return made


def measure(task: Task, rounds: int = 5) -> list[Result]:
    """Race ours with both kinds of states, with and without clipping, and everyone else.

    Raises:
        ImportError: torch is not installed.
        MemoryError: the machine has less memory left than that takes.
    """
    torch = need("torch", "gradstep bench --offload")
    check_memory(task)
    torch.set_num_threads(runtime.get_num_threads())
    gradients = random_gradients(task.layers)
    results: list[Result] = []
    for states in STATES:
        contestants: list[Contestant] = [
            made(task, gradients, states, clips=clips)
            for made in (Ours, Synchronous)
            for clips in (False, True)
        ]
        if task.last is not None:
            contestants.append(alone(task, states))
        results += race(contestants, rounds)
        del contestants
        gc.collect()  # models refer to themselves
    if bench.present("deepspeed"):
        results += race([DeepSpeed(task, gradients)], rounds)
        gc.collect()
    return results


# ---- what is told ----


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def over_synchronous(result: Result, results: Sequence[Result]) -> float:
    """What remains after the backward pass, over what does in the synchronous iteration."""
    base = next(
        one
        for one in results
        if (one.name, one.states, one.clips) == (SYNCHRONOUS, result.states, result.clips)
    )
    return result.rest / base.rest


HEADER = (
    "", "states", "clipping", "iteration", "after the backward pass", "of synchronous", "in steps",
)  # fmt: skip


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """A row of the table for each result."""
    return [
        (
            result.name,
            result.states,
            "yes" if result.clips else "no",
            _milliseconds(result.seconds),
            _milliseconds(result.rest),
            f"{over_synchronous(result, results):.0%}",
            _milliseconds(result.step),
        )
        for result in results
    ]


def headline(task: Task) -> str:
    """What is raced, in words."""
    return (
        f"AdamW, bfloat16, {task.name}: {task.count:,} parameters; compute "
        f"{task.compute * 1e3:g} ms, link {task.rate / 1e9:g} GB/s each way"
    )


NOTE = (
    "Simulated are the device, which computes by pauses, and the link: a copy takes neither a core "
    "nor\nmemory bandwidth here. Steps are real. Medians of iterations in turns; each ends when "
    "the device has\nall parameters.\n"
    "synchronous: after the backward pass all gradients come down, then the step, then parameters "
    "go up.\n"
    "of synchronous: of what remains there with the same states and clipping."
)


def run(
    task: Task, *, rounds: int = 5, say: Callable[[str], object] = print
) -> dict[str, list[Span]]:
    """Race, and tell the results with `say`.

    Returns:
        The timelines of an iteration of ours and of a synchronous one, see :func:`timelines`.

    Raises:
        ImportError: torch is not installed.
        MemoryError: the machine has less memory left than that takes.
    """
    results = measure(task, rounds)
    say(f"\n{headline(task)}")
    say(table(rows(results), HEADER, right="<<<>>>>"))
    if not any(result.name == DEEPSPEED for result in results):
        say(f"{DEEPSPEED}: deepspeed is not installed")
    say(f"\n{machine.one_line()}\n{NOTE}")
    return timelines(results)


def timelines(results: Sequence[Result]) -> dict[str, list[Span]]:
    """What went on in a usual iteration, without clipping and with float32 states.

    Returns:
        By name of ours and the synchronous one: what (forward, backward, down, step, up), and when
        it began and ended, in milliseconds from the iteration's own beginning.
    """
    found: dict[str, list[Span]] = {}
    for result in results:
        if (
            result.name in (bench.OURS, SYNCHRONOUS)
            and result.states == STATES[0]
            and not result.clips
        ):
            usual = result.usual()
            found[result.name] = [
                (what, (begin - usual.begin) * 1e3, (end - usual.begin) * 1e3)
                for what, begin, end in usual.spans
            ]
    return found
