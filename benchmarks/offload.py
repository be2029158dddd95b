"""What an engine that offloads the optimizer pays for, and what our own offload() does.

``python benchmarks/offload.py [SECTION …] [--size N] [--rounds N]`` prints a table each:

- calls: what one call costs over small tensors, where the engine changes the groups before it, as
  DeepSpeed does: one group (ZeRO stages 1 and 2), or one tensor of a group (stage 3).
- layout: the step that a bfloat16 model wants from its optimizer: bfloat16 gradients come in, an
  exact float32 master moves, a bfloat16 copy goes back. Ours keeps the master as that copy and its
  other 16 bits (``split``); DeepSpeed's CPU Adam, where it is installed, keeps float32 parameters,
  gets float32 gradients (which its engine widens while they come down) and copies the result.
- overlap: an iteration on a simulated device and link, as ``gradstep bench --offload`` has it; and
  on the accelerator, where there is one, with torchao's CPUOffloadOptimizer where it is installed.
- share: what Python costs an iteration with offload(), of a model of many small parameters.
- pays: what it takes and gives on a large machine, by the formula of docs/offload.md.
- memory: by what resident memory grows with offload(), against its ``host_bytes``.

The first two time the step alone.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

import gradstep as gs
import gradstep.torch
from gradstep import bench, bench_offload
from gradstep.bench_offload import GPT2_SIZE

OPTIONS = {"lr": 1e-3, "weight_decay": 0.01}
SMALL, PIECES = 1000, 16
CHECKED = 3


# ---- calls ----


def whole(opt: Any, _groups: list[dict[str, Any]], _params: list[Any]) -> Iterator[Callable]:
    """One call for all."""
    yield opt.step


def by_group(opt: Any, groups: list[dict[str, Any]], _params: list[Any]) -> Iterator[Callable]:
    """ZeRO stages 1 and 2."""
    for group in groups:

        def call(group: dict[str, Any] = group) -> None:
            opt.param_groups = [group]
            opt.step()
            opt.param_groups = groups

        yield call


def by_tensor(opt: Any, groups: list[dict[str, Any]], params: list[Any]) -> Iterator[Callable]:
    """ZeRO stage 3."""
    for group in groups:
        group["params"] = []
    for i, param in enumerate(params):

        def call(group: dict[str, Any] = groups[i % 2], param: Any = param) -> None:
            group["params"] = [param]
            opt.step()
            group["params"] = []

        yield call


WAYS = {"all at once": whole, "one group": by_group, "one tensor of a group": by_tensor}
MAKERS = {
    bench.OURS: lambda groups: gradstep.torch.AdamW(groups, **OPTIONS),
    "torch fused": lambda groups: torch.optim.AdamW(groups, fused=True, **OPTIONS),
    "torch": lambda groups: torch.optim.AdamW(groups, **OPTIONS),
}


def microseconds(make: Callable[[list[Any]], Any], way: Callable[..., Any], rounds: int) -> float:
    """Of one call, new gradients each round, once all states are there."""
    params = [torch.nn.Parameter(torch.randn(SMALL)) for _ in range(PIECES)]
    opt = make([{"params": params[::2]}, {"params": params[1::2]}])
    calls = list(way(opt, opt.param_groups, params))
    times = []
    for k in range(rounds + 3):
        for param in params:
            param.grad = torch.randn(SMALL)
        for call in calls:
            start = perf_counter()
            call()
            if k >= 3:
                times.append(perf_counter() - start)
    return median(times) * 1e6


def show_calls(rounds: int) -> None:
    """Print a row for each way in which an engine changes the groups."""
    print(f"\n### A call over some of {PIECES} tensors of {SMALL} elements in 2 groups, µs\n")
    print(f"| in a call | {' | '.join(MAKERS)} |\n|---|{'---|' * len(MAKERS)}")
    for name, way in WAYS.items():
        row = [f"{microseconds(make, way, rounds):.1f}" for make in MAKERS.values()]
        print(f"| {name} | {' | '.join(row)} |")


# ---- layout ----


class Ours:
    """Parameters in bfloat16, their other 16 bits beside them."""

    def __init__(self, start: torch.Tensor, states: str) -> None:
        self.name = f"{bench.OURS}, split, {states} states"
        self.copy = start.bfloat16()
        self.bytes = 10 + (16 if states == "float32" else 4 * (1 + 4 / 256))
        self.opt = gradstep.torch.AdamW([self.copy], split=True, states=states, **OPTIONS)

    def give(self, grad: torch.Tensor) -> None:
        self.copy.grad = grad

    def step(self) -> None:
        self.opt.step()


class DeepSpeed:
    """Parameters and gradients in float32; a bfloat16 copy after the step."""

    def __init__(self, start: torch.Tensor) -> None:
        self.name = "DeepSpeed CPU Adam, then the copy"
        self.param, self.copy = start.bfloat16().float(), start.bfloat16()
        self.bytes = 34.0
        self.opt = bench_offload.make_deepspeed_adam([self.param], **OPTIONS)

    def give(self, grad: torch.Tensor) -> None:
        self.param.grad = grad.float()

    def step(self) -> None:
        self.opt.step()
        self.copy.copy_(self.param)


Layout = Ours | DeepSpeed


def layouts(size: int) -> list[Layout]:
    """Everyone, from the same parameters."""
    start = torch.randn(size, generator=torch.Generator().manual_seed(0))
    made: list[Layout] = [Ours(start, "float32"), Ours(start, "q8")]
    if bench.present("deepspeed"):
        made.append(DeepSpeed(start))
    return made


def check() -> None:
    """Everyone's copy is that of float64's AdamW, as closely as bfloat16 and the states allow.

    Raises:
        AssertionError: somebody's is another update.
    """
    size = 4096
    start = torch.randn(size, generator=torch.Generator().manual_seed(0))
    exact = start.bfloat16().double().requires_grad_()
    wanted = torch.optim.AdamW([exact], **{**OPTIONS, "lr": 1e-2})
    made = layouts(size)
    for one in made:
        one.opt.param_groups[0]["lr"] = 1e-2
    for k in range(CHECKED):
        grad = torch.randn(size, generator=torch.Generator().manual_seed(1 + k)).bfloat16()
        exact.grad = grad.double()
        wanted.step()
        for one in made:
            one.give(grad)
            one.step()
    moved = (exact.detach() - start.bfloat16()).square().mean().sqrt()
    for one in made:
        off = (one.copy.double() - exact.detach()).square().mean().sqrt() / moved
        assert off < 0.15, f"{one.name}: differs by {off:.3f} of the update"


def show_layout(size: int, rounds: int) -> None:
    """Print a row for each layout; everyone takes turns."""
    check()
    made = layouts(size)
    grad = torch.randn(size, generator=torch.Generator().manual_seed(1)).bfloat16()
    times: dict[str, list[float]] = {one.name: [] for one in made}
    for k in range(rounds + 2):
        for one in made:
            one.give(grad)
            start = perf_counter()
            one.step()
            if k >= 2:
                times[one.name].append(perf_counter() - start)
    seconds = {name: median(values) for name, values in times.items()}
    last = made[-1]
    print(f"\n### bfloat16 in and out, an exact float32 master: AdamW, {size:,} parameters\n")
    print(f"| layout | bytes per parameter | ms | {last.name}'s over it | ratio of bytes |")
    print("|---|---|---|---|---|")
    for one in made:
        time = seconds[one.name]
        print(
            f"| {one.name} | {one.bytes:.1f} | {time * 1e3:.1f} | "
            f"{seconds[last.name] / time:.2f} | {last.bytes / one.bytes:.2f} |"
        )


# ---- overlap ----

BUCKET = 8 << 20  # bytes of parameters, as offload() has it; or the largest tensor


def tasks(size: int) -> list[bench_offload.Task]:
    """A model of equal layers, and GPT-2's own where the size is its."""
    compute = bench_offload.COMPUTE * size / GPT2_SIZE
    layers = bench_offload.equal_layers(size)
    made = [bench_offload.Task(f"{len(layers)} equal layers", layers, compute)]
    if size == GPT2_SIZE:
        own, last = bench_offload.gpt2_layers(), bench_offload.GPT2_EMBEDDING
        made.append(bench_offload.Task("GPT-2's layers", own, compute, last=last))
    return made


def found(results: Sequence[bench_offload.Result], *key: Any) -> bench_offload.Result:
    """The result of a contestant by name, states, and whether it clips."""
    return next(one for one in results if (one.name, one.states, one.clips) == key)


def judged(
    task: bench_offload.Task, results: Sequence[bench_offload.Result]
) -> Iterator[tuple[str, float, str, float]]:
    """What remains after the backward pass, in seconds, and what it must not exceed."""
    bucket = max(BUCKET, 2 * math.prod(task.last or ())) / task.rate
    for states in bench_offload.STATES:
        plain = found(results, bench_offload.SYNCHRONOUS, states, False)
        if task.last is None:
            words, most = "15 % of the synchronous", 0.15 * plain.rest
        else:
            words = f"{bench_offload.LAST} + 10 %"
            most = 1.1 * found(results, bench_offload.LAST, states, False).rest
        yield f"{states}", found(results, bench.OURS, states, False).rest, words, most
        words, most = "1.1 × the step + a bucket each way", 1.1 * plain.step + 2 * bucket
        yield f"{states}, clipping", found(results, bench.OURS, states, True).rest, words, most


def show_overlap(size: int, rounds: int) -> None:
    """Print a table of iterations for each model, and what is asked of ours."""
    for task in tasks(size):
        results = bench_offload.measure(task, rounds)
        print(f"\n### {bench_offload.headline(task)}\n")
        print(f"| {' | '.join(bench_offload.HEADER)} |\n|{'---|' * len(bench_offload.HEADER)}")
        for row in bench_offload.rows(results):
            print(f"| {' | '.join(row)} |")
        print("\n| after the backward pass, ours | ms | at most | ms |\n|---|---|---|---|")
        for name, rest, words, most in judged(task, results):
            print(f"| {name} | {rest * 1e3:.1f} | {words} | {most * 1e3:.1f} |")
    print(f"\n{bench_offload.NOTE}")
    if torch.accelerator.is_available():
        show_accelerator(torch.accelerator.current_accelerator(), size, rounds)


# ---- the same on an accelerator ----

WIDTH, LENGTH, BATCH = 1024, 512, 8
COMPUTE_ALONE = "no optimizer"


def transformer(size: int, device: torch.device) -> torch.nn.Module:
    """One of about so many parameters, in bfloat16."""
    layer = torch.nn.TransformerEncoderLayer(WIDTH, 16, 4 * WIDTH, 0.0, batch_first=True)
    count = max(1, round(size / sum(p.numel() for p in layer.parameters())))
    torch.manual_seed(0)
    made = torch.nn.TransformerEncoder(layer, count, enable_nested_tensor=False)
    return made.to(device, torch.bfloat16)


def synchronous(model: torch.nn.Module) -> Callable[[], None]:
    """A step after which nothing is on its way: gradients down, our step, parameters up."""
    params = list(model.parameters())
    host = [torch.empty_like(p, device="cpu").copy_(p.detach()) for p in params]
    for own in host:
        own.grad = torch.empty_like(own)
        if params[0].device.type != "cpu":
            own.data, own.grad = own.data.pin_memory(), own.grad.pin_memory()
    optimizer = gradstep.torch.AdamW(host, split=True, **OPTIONS)

    @torch.no_grad()
    def step() -> None:
        for own, param in zip(host, params, strict=True):
            own.grad.copy_(param.grad, non_blocking=True)
            param.grad = None
        synchronize()
        optimizer.step()
        for own, param in zip(host, params, strict=True):
            param.copy_(own, non_blocking=True)

    return step


def synchronize() -> None:
    """Wait until the accelerator has done what it was told."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def of_torchao(model: torch.nn.Module) -> Callable[[], None]:
    """The step of torchao's wrapper, of PyTorch's own AdamW in bfloat16."""
    from torchao.optim import CPUOffloadOptimizer  # noqa: PLC0415 - not everybody has it

    optimizer = CPUOffloadOptimizer(
        model.parameters(), torch.optim.AdamW, offload_gradients=True, **OPTIONS
    )
    return optimizer.step


def nothing(model: torch.nn.Module) -> Callable[[], None]:
    """No step: what forward and backward pass take."""
    return model.zero_grad


def steppers(link: Any) -> dict[str, Callable[[torch.nn.Module], Callable[[], None]]]:
    """Who can step a model on the accelerator; `link` None is its own."""

    def ours(model: torch.nn.Module, states: str) -> Callable[[], None]:
        made = gradstep.torch.offload(
            model, gradstep.torch.AdamW, split=True, states=states, link=link, **OPTIONS
        )
        return made.step

    made: dict[str, Callable[[torch.nn.Module], Callable[[], None]]] = {
        f"{bench.OURS}, {states} states": lambda model, states=states: ours(model, states)
        for states in bench_offload.STATES
    }
    made |= {bench_offload.SYNCHRONOUS: synchronous, COMPUTE_ALONE: nothing}
    if bench.present("torchao") and link is None:
        made["torchao's CPUOffloadOptimizer"] = of_torchao
    return made


def on_device(model: torch.nn.Module) -> Callable[[], None]:
    """PyTorch's AdamW on the device, of float32 masters: what the others are held against."""
    params = list(model.parameters())
    masters = [param.detach().float() for param in params]
    optimizer = torch.optim.AdamW(masters, **OPTIONS)

    @torch.no_grad()
    def step() -> None:
        for master, param in zip(masters, params, strict=True):
            master.grad, param.grad = param.grad.float(), None
        optimizer.step()
        for master, param in zip(masters, params, strict=True):
            param.copy_(master)

    return step


def iterate(model: torch.nn.Module, inputs: torch.Tensor, step: Callable[[], None]) -> None:
    """One iteration of a training that has the model return its inputs."""
    torch.nn.functional.mse_loss(model(inputs), inputs).backward()
    step()


def seconds_on(
    start: torch.nn.Module,
    inputs: torch.Tensor,
    make: Callable[[torch.nn.Module], Callable[[], None]],
    rounds: int,
) -> float:
    """Of an iteration, one right after the other, so that the next forward pass may overlap."""
    model = copy.deepcopy(start)
    step = make(model)
    for _ in range(3):
        iterate(model, inputs, step)
    synchronize()
    begin = perf_counter()
    for _ in range(rounds):
        iterate(model, inputs, step)
    synchronize()
    return (perf_counter() - begin) / rounds


def check_accelerator(start: torch.nn.Module, inputs: torch.Tensor, link: Any) -> None:
    """Our parameters after some steps are those of a training on the device, but for rounding.

    Raises:
        AssertionError: they are not.
    """
    ends = []
    for make in (on_device, next(iter(steppers(link).values()))):
        model = copy.deepcopy(start)
        step = make(model)
        for _ in range(CHECKED):
            iterate(model, inputs, step)
        ends.append(torch.cat([p.double().flatten() for p in model.state_dict().values()]))
    first = torch.cat([p.double().flatten() for p in start.state_dict().values()])
    off = (ends[1] - ends[0]).square().mean().sqrt() / (ends[0] - first).square().mean().sqrt()
    assert off < 0.15, f"offload: differs by {off:.3f} of what a training on the device changes"


def show_accelerator(device: torch.device, size: int, rounds: int, link: Any = None) -> None:
    """Print a row for everyone who trains a transformer there."""
    inputs = torch.randn(BATCH, LENGTH, WIDTH, device=device, dtype=torch.bfloat16)
    check_accelerator(transformer(1, device), inputs, link)
    start = transformer(size, device)
    count = sum(p.numel() for p in start.parameters())
    print(f"\n### A transformer of {count:,} parameters on {device}, bfloat16: an iteration\n")
    print("| optimizer | ms | over ours |\n|---|---|---|")
    ours = 0.0
    for name, make in steppers(link).items():
        seconds = seconds_on(start, inputs, make, rounds)
        ours = ours or seconds
        print(f"| {name} | {seconds * 1e3:.1f} | {seconds / ours:.2f} |")
        gc.collect()  # models and hooks refer to each other


# ---- share ----

MODULES, ELEMENTS = 1000, 1000


class Scale(torch.nn.Module):
    """One parameter, of which PyTorch knows the gradient without Python."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(ELEMENTS, dtype=torch.bfloat16))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.weight


PARTS = ("forward pass", "backward pass", "step")


def timed(*calls: Callable[[], object]) -> list[float]:
    """The seconds of calls, one after the other."""
    times = [perf_counter()]
    for call in calls:
        call()
        times.append(perf_counter())
    return [after - before for before, after in pairwise(times)]


def passes(model: torch.nn.Module) -> tuple[Callable[[], None], Callable[[], None]]:
    """The forward pass and the backward pass of a model of Scales."""
    inputs = torch.ones(ELEMENTS, dtype=torch.bfloat16)
    made: list[torch.Tensor] = []
    return lambda: made.append(model(inputs).sum()), lambda: made.pop().backward()


def measure_share(rounds: int, modules: int = MODULES) -> dict[str, list[float]]:
    """Median seconds of forward pass, backward pass and step, by whose they are."""
    bare, model = (torch.nn.Sequential(*(Scale() for _ in range(modules))) for _ in range(2))
    options = {"split": True, "states": "float32", **OPTIONS}
    link = bench_offload.make_link(math.inf, moves=False)
    optimizer = gradstep.torch.offload(model, gradstep.torch.AdamW, link=link, **options)
    flat = torch.ones(modules * ELEMENTS, dtype=torch.bfloat16)
    flat.grad = bench_offload.random_numbers(flat.numel())
    alone = gradstep.torch.AdamW([flat], **options)

    def step() -> None:
        optimizer.step()
        optimizer.wait()

    calls = {
        "with offload()": (*passes(model), step),
        "without an optimizer; as many elements in one tensor": (*passes(bare), alone.step),
    }
    times: dict[str, list[list[float]]] = {name: [] for name in calls}
    for _ in range(3 + rounds):
        for name, parts in calls.items():
            times[name].append(timed(*parts))
        bare.zero_grad()
    return {name: [median(part) for part in zip(*t[3:], strict=True)] for name, t in times.items()}


def show_share(rounds: int) -> None:
    """Print what offload() adds to forward pass, backward pass and step."""
    seconds = measure_share(rounds)
    ours, others = seconds.values()
    seconds["Python's share (at most 2 in all)"] = [
        a - b for a, b in zip(ours, others, strict=True)
    ]
    print(f"\n### An iteration of {MODULES:,} parameters of {ELEMENTS:,} elements, ms\n")
    print(f"| | {' | '.join(PARTS)} | in all |\n|---|{'---|' * (len(PARTS) + 1)}")
    for name, parts in seconds.items():
        print(f"| {name} | {' | '.join(f'{1e3 * t:.2f}' for t in [*parts, sum(parts)])} |")
    longer = 1e3 * measure_beside(max(rounds // 3, 1))
    print(
        f"\nBeside a device that computes for {1e3 * bench_offload.COMPUTE:.0f} ms, by pauses, "
        f"all of this makes an iteration longer by {longer:.2f} ms (at most 2)."
    )


class Bare(bench_offload.Trainer):
    """No optimizer: gradients are dropped."""

    def finish(self) -> None:
        """Drop them."""
        self.model.zero_grad()


def measure_beside(rounds: int, modules: int = MODULES) -> float:
    """By how many seconds an iteration of small layers is longer on a device that pauses."""
    layers = bench_offload.equal_layers(modules * ELEMENTS, modules)
    task = bench_offload.Task("small layers", layers, rate=math.inf)
    gradients = bench_offload.random_gradients(layers)
    both = Bare(task, gradients), bench_offload.Ours(task, gradients)
    times = [[one.iterate().seconds for one in both] for _ in range(3 + rounds)]
    bare, ours = (median(own) for own in zip(*times[3:], strict=True))
    return ours - bare


# ---- memory ----


def resident() -> int:
    """Bytes of this process that lie in memory, once what is free was given back."""
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("/proc/self/status: got no VmRSS, wanted it")


def grow(states: str, size: int) -> tuple[int, int]:
    """By what offload() and its first steps make this process grow, and what it said before."""
    task = bench_offload.Task("", bench_offload.equal_layers(size), 0.0, math.inf)
    gradients = bench_offload.random_gradients(task.layers)
    model = bench_offload.make_model(task, bench_offload.Device(), gradients)
    inputs = torch.ones(1, requires_grad=True)
    model(inputs).backward()  # what PyTorch loads for it is there
    model.zero_grad()
    before = resident()
    optimizer = gradstep.torch.offload(
        model,
        gradstep.torch.AdamW,
        split=True,
        states=states,
        link=gradstep.torch.SimulatedLink(),
        **OPTIONS,
    )
    for _ in range(2):
        model(inputs).backward()
        optimizer.step()
    optimizer.wait()
    return resident() - before, optimizer.host_bytes


def grown(states: str, size: int) -> tuple[int, int]:
    """The same of a process of its own."""
    here = Path(__file__).resolve().parent
    code = f"import sys; sys.path.insert(0, {str(here)!r}); import offload; "
    code += f"print(*offload.grow({states!r}, {size}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    growth, said = map(int, done.stdout.split())
    return growth, said


def show_memory(size: int) -> None:
    """Print a row for each kind of states."""
    print(f"\n### Host memory of offload(), split, bfloat16, AdamW, {size:,} parameters\n")
    print("| states | host_bytes, per parameter | resident memory grows by | ratio |")
    print("|---|---|---|---|")
    for states in bench_offload.STATES:
        growth, said = grown(states, size)
        print(f"| {states} | {said / size:.2f} | {growth / size:.2f} | {growth / said:.3f} |")


# ---- pays ----

MODELS = {"1B": 1e9, "7B": 7e9, "70B": 70e9}
CORES, MEMORY = 16, 200e9  # of a host, and the bytes per second of its memory
FLOPS, TOKENS = 400e12, 16_384  # that the device reaches per second; in an iteration
BYTES = {"float32": 26, "q8": 14}  # that a step moves per parameter
HELD = {"float32": 14, "q8": 8}  # in host memory
WITHOUT, WITH = 16, 2  # on the device: all of mixed precision; parameters in bfloat16


def seconds_per_core() -> dict[str, float]:
    """What one core takes for a parameter's step where memory is no matter, by the states."""
    count, before, found = 200_000, torch.get_num_threads(), {}
    torch.set_num_threads(1)
    for states in BYTES:
        param = torch.ones(count, dtype=torch.bfloat16)
        param.grad = bench_offload.random_numbers(count)
        optimizer = gradstep.torch.AdamW([param], split=True, states=states, **OPTIONS)
        found[states] = median(timed(*[optimizer.step] * 50)[5:]) / count
    torch.set_num_threads(before)
    return found


def iteration(compute: float, copy: float, step: float, *, clips: bool) -> float:
    """How long an iteration takes: the formula of docs/offload.md."""
    backward = compute * (1 - bench_offload.FORWARD)
    if clips:
        return compute + max(0.0, copy - backward) + max(step, copy)
    return compute + max(0.0, max(copy, step) - backward)


def show_pays() -> None:
    """Print what offload() takes and gives, for models of three sizes."""
    own = seconds_per_core()
    link = bench_offload.LINK
    print(
        f"\n### When it pays: {TOKENS:,} tokens at {FLOPS / 1e12:.0f} TFLOP/s, a link of "
        f"{link / 1e9:.0f} GB/s each way, a host of {CORES} cores and {MEMORY / 1e9:.0f} GB/s\n"
    )
    columns = (
        "parameters", "states", "device memory without", "with", "host memory", "compute",
        "each copy", "step", "iteration", "with clipping",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, count in MODELS.items():
        compute, copy = 6 * count * TOKENS / FLOPS, 2 * count / link
        for states, moved in BYTES.items():
            step = count * max(moved / MEMORY, own[states] / CORES)
            each = [iteration(compute, copy, step, clips=clips) for clips in (False, True)]
            sizes = [f"{count * per / 1e9:,.0f} GB" for per in (WITHOUT, WITH, HELD[states])]
            times = [f"{t:.2f} s" for t in (compute, copy, step, *each)]
            print(f"| {' | '.join([name, states, *sizes, *times])} |")
    print(
        f"\nOne core takes {1e9 * own['float32']:.2f} ns per parameter with float32 states here, "
        f"{1e9 * own['q8']:.2f} with q8."
    )


SECTIONS: Mapping[str, Callable[[int, int], None]] = {
    "calls": lambda _, rounds: show_calls(5 * rounds),
    "layout": show_layout,
    "overlap": show_overlap,
    "share": lambda _, rounds: show_share(5 * rounds),
    "memory": lambda size, _: show_memory(size),
    "pays": lambda *_: show_pays(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--size", type=int, default=GPT2_SIZE)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    for section in options.sections:
        if section not in SECTIONS:
            parser.error(f"got {section!r}, wanted some of {', '.join(SECTIONS)}")
    torch.set_num_threads(gs.get_num_threads())
    for section in options.sections or SECTIONS:
        SECTIONS[section](options.size, options.rounds)


if __name__ == "__main__":
    main()
