"""Race optimizers where they run: right after a backward pass, in whole iterations of a training.

A step in a loop of its own meets idle processors and warm caches. In a training it comes right
after products of matrices, whose threads still spin, with gradients that have just been written.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np

from . import bench, machine, optimizers, runtime
from .tables import table

OURS, Q8, FUSED, AGAIN, DEFAULT = (
    "gradstep",
    "gradstep, q8 states",
    "torch fused",
    "torch fused, again",
    "torch default",
)
ALL_THREADS, ONE_THREAD, FORMULA = "gradstep", "gradstep, one thread", "formula in NumPy"
CHECKED_STEPS = 3
WARM_UP = 2  # iterations after each change of turns that are not counted

# ---- networks, each with a batch of inputs ----


def _perceptron(nn: Any, torch: Any) -> tuple[Any, Any]:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), torch.randn(64, 64)


def _convolutions(nn: Any, torch: Any) -> tuple[Any, Any]:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(512, 150),
    )  # fmt: skip
    return net, torch.randn(16, 3, 32, 32)


def _deep(nn: Any, torch: Any) -> tuple[Any, Any]:
    layers = [layer for _ in range(1000) for layer in (nn.Linear(64, 64), nn.Tanh())]
    return nn.Sequential(*layers), torch.randn(16, 64)


def _transformer(width: int, layers: int) -> Callable[[Any, Any], tuple[Any, Any]]:
    def make(nn: Any, torch: Any) -> tuple[Any, Any]:
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
        return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), torch.randn(
            2, 32, width
        )

    return make


NETWORKS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "perceptron 64-128-10": _perceptron,
    "convolutions, 8 tensors": _convolutions,
    "1,000 layers of 64 × 64": _deep,
    "transformer, 3.2M": _transformer(256, 4),
    "transformer, 25M": _transformer(512, 8),
}
SIZES = {"10,000": 10_000, "65,536": 1 << 16, "262,144": 1 << 18, "1M": 1 << 20, "4M": 1 << 22}


# ---- the race ----


@dataclass
class Trainee:
    """One contestant: `before` is the rest of an iteration and `step` what is looked at."""

    name: str
    before: Callable[[], object]
    step: Callable[[], object]
    params: Callable[[], Sequence[Any]]
    steps: list[float] = field(default_factory=list)  # seconds of each
    iterations: list[float] = field(default_factory=list)

    def iterate(self, *, counts: bool) -> float:
        """One iteration; its seconds."""
        start = time.perf_counter()
        self.before()
        middle = time.perf_counter()
        self.step()
        end = time.perf_counter()
        if counts:
            self.steps.append(end - middle)
            self.iterations.append(end - start)
        return end - start


def race(trainees: Sequence[Trainee], *, rounds: int = 10, seconds: float = 0.15) -> None:
    """Have each make iterations for so many seconds, in turns whose order changes with the round.

    A turn has three iterations at least beside those that are not counted.
    """
    for turn in range(rounds):
        for trainee in trainees if turn % 2 == 0 else reversed(trainees):
            for _ in range(WARM_UP):
                trainee.iterate(counts=False)
            end = time.perf_counter() + seconds
            done = 0
            while done < 3 or time.perf_counter() < end:
                trainee.iterate(counts=True)
                done += 1


def check(trainees: Sequence[Trainee], exact: Sequence[str], against: str) -> None:
    """Have each make some steps from one start, and hold those in `exact` against another."""
    by_name = {trainee.name: trainee for trainee in trainees}
    for trainee in trainees:
        for _ in range(CHECKED_STEPS):
            trainee.iterate(counts=False)
    for name in exact:
        for p, q in zip(by_name[name].params(), by_name[against].params(), strict=True):
            # A step of Adam moves each parameter by about the rate, whatever its gradient.
            wrong = float(np.max(np.abs(np.asarray(p) - np.asarray(q)), initial=0.0))
            if not wrong <= bench.LR / 10:
                raise AssertionError(f"{name}: differs from {against} by {wrong:.1e}")


def of_network(name: str) -> list[Trainee]:
    """Contestants that train copies of one network with AdamW, from one start."""
    torch = import_module("torch")
    ours = import_module("gradstep.torch").AdamW
    torch.set_num_threads(runtime.get_num_threads())
    torch.manual_seed(0)
    start, inputs = NETWORKS[name](torch.nn, torch)
    target = torch.randn_like(start(inputs).detach())
    arguments = {"lr": bench.LR, "weight_decay": bench.DECAY}
    makers: Mapping[str, Callable[[Any], Any]] = {
        OURS: lambda params: ours(params, **arguments),
        Q8: lambda params: ours(params, states="q8", **arguments),
        FUSED: lambda params: torch.optim.AdamW(params, fused=True, **arguments),
        AGAIN: lambda params: torch.optim.AdamW(params, fused=True, **arguments),
        DEFAULT: lambda params: torch.optim.AdamW(params, **arguments),
    }

    def trainee(title: str, make: Callable[[Any], Any]) -> Trainee:
        net = copy.deepcopy(start)
        params = list(net.parameters())
        optimizer = make(params)

        def before() -> None:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(inputs), target).backward()

        return Trainee(title, before, optimizer.step, lambda: [p.detach().numpy() for p in params])

    return [trainee(title, make) for title, make in makers.items()]


def of_size(name: str) -> list[Trainee]:
    """Contestants that step right after a product of matrices in NumPy."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((384, 384), dtype=np.float32)
    (start,), (grad,) = bench.problem((SIZES[name],))
    rule = bench.RULES["AdamW"]
    threads = runtime.get_num_threads()

    def trainee(title: str, count: int) -> Trainee:
        own = start.copy()
        optimizer = optimizers.AdamW(own, **rule.arguments)

        def before() -> None:
            runtime.set_num_threads(count)
            matrix @ matrix

        return Trainee(title, before, lambda: optimizer.step(grad), lambda: [own])

    plain = start.copy()
    states = [np.zeros_like(plain) for _ in range(rule.states)]
    count = itertools.count(1)
    formula = Trainee(
        FORMULA,
        lambda: matrix @ matrix,
        lambda: bench.adamw(next(count), plain, grad, *states),
        lambda: [plain],
    )
    found = [trainee(ALL_THREADS, threads), trainee(ONE_THREAD, 1), formula]
    runtime.set_num_threads(threads)
    return found


def measure(name: str, **timing: Any) -> list[Trainee]:
    """The contestants of a network or a size with their times, checked before."""
    threads = runtime.get_num_threads()
    try:
        if name in NETWORKS:
            trainees = of_network(name)
            check(trainees, [OURS, FUSED], DEFAULT)
        else:
            trainees = of_size(name)
            check(trainees, [ALL_THREADS, ONE_THREAD], FORMULA)
        race(trainees, **timing)
    finally:
        runtime.set_num_threads(threads)
    return trainees


def first_steps(name: str, count: int = 8) -> dict[str, list[float]]:
    """Seconds of each of the first steps of every contestant of a network, from its making on."""
    trainees = of_network(name)
    for _ in range(count):
        for trainee in trainees:
            trainee.iterate(counts=True)
    return {trainee.name: trainee.steps for trainee in trainees}


def medians(trainees: Sequence[Trainee]) -> dict[str, tuple[float, float]]:
    """The median seconds of a step and of an iteration by name."""
    return {t.name: (median(t.steps), median(t.iterations)) for t in trainees}


# ---- what is told ----


def show_time(seconds: float) -> str:
    """In microseconds, or milliseconds from one on."""
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def render(trainees: Sequence[Trainee]) -> str:
    """The medians of one race as a table."""
    found = medians(trainees)
    our_step, our_iteration = found[trainees[0].name]
    rows = [
        (
            name, show_time(step), f"{step / our_step:.2f}", show_time(iteration),
            f"{iteration / our_iteration:.3f}",
        )
        for name, (step, iteration) in found.items()
    ]  # fmt: skip
    header = ("", "step", "time / ours", "iteration", "time / ours")
    return table(rows, header, right="<>>>>")


def run(
    names: Sequence[str] | None = None,
    *,
    rounds: int = 10,
    say: Callable[[str], object] = print,
) -> None:
    """Race on each network and at each size, and tell the results with `say`.

    Args:
        names: out of `NETWORKS` and `SIZES`; None: all of them, the networks where torch is
            installed.
        rounds: how often everyone takes a turn.
        say: gets each piece of text.
    """
    networks = bench.present("torch")
    for name in [*NETWORKS, *SIZES] if names is None else names:
        if name in NETWORKS and not networks:
            continue
        trainees = measure(name, rounds=rounds)
        elements = sum(math.prod(param.shape) for param in trainees[0].params())
        where = "after its backward pass" if name in NETWORKS else "after a product in NumPy"
        say(f"\nAdamW, float32, {name}: {elements:,} parameters, the step right {where}")
        say(render(trainees))
    if not networks:
        say("\nthe networks: torch is not installed")
    say(
        f"\n{machine.one_line()}\nMedians of whole iterations and of the step in them, in turns, "
        "in one process."
    )
