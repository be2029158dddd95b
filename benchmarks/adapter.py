"""The PyTorch adapter against torch's own fused step, and what it costs beside the step itself."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import numpy as np
import torch

import gradstep as gs
import gradstep.torch
from gradstep import bench
from workloads import GPT2

# name: the sizes of all parameters, and how many times torch's time the step is to take at most
CASES: dict[str, tuple[tuple[int, ...], float]] = {
    "GPT-2's 148 tensors, 124M": (tuple(GPT2), 0.97),
    "2,000 tensors of 1,000": ((1000,) * 2000, 8.0),
    "1M in one tensor": ((1 << 20,), 1.7),
    "one 1-element tensor": ((1,), 4.0),
}


def racer(name: str, made, sizes: tuple[int, ...]) -> bench.Racer:
    """An optimizer over tensors of its own, with new gradient tensors in each step."""
    params, grads = bench.problem(sizes)
    own = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
    turns = [grads, [g.copy() for g in grads]] if sum(sizes) < 1 << 25 else [grads]
    count = 0
    optimizer = made(own)

    def gradients() -> None:
        nonlocal count
        count += 1
        for p, g in zip(own, turns[count % len(turns)], strict=True):
            p.grad = torch.from_numpy(g)

    return bench.Racer(
        name, gradients, lambda _: optimizer.step(), lambda: [p.detach().numpy() for p in own]
    )


def measure(case: str) -> dict[str, float]:
    """Seconds a step, ours and torch's, in rounds that take turns; the first steps are checked."""
    torch.set_num_threads(gs.get_num_threads())
    sizes, _ = CASES[case]
    racers = [
        racer("ours", gradstep.torch.AdamW, sizes),
        racer("torch", lambda own: torch.optim.AdamW(own, fused=True), sizes),
    ]
    for one in racers:
        for _ in range(bench.CHECKED_STEPS):
            one.step(one.gradients())
    for p, q in zip(racers[0].params(), racers[1].params(), strict=True):
        assert np.allclose(p, q, rtol=1e-5, atol=1e-7), case
    return bench.race(racers)


def breakdown(_: str, count: int = 2000) -> dict[str, float]:
    """Microseconds a tensor of what a step of tensors of one element consists of."""
    torch.set_num_threads(gs.get_num_threads())
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(count)]
    optimizer = gradstep.torch.AdamW(params)
    for p in params:
        p.grad = torch.ones(1)
    optimizer.step()
    bound = optimizer._bounds.get(None)
    arrays = [p.detach().numpy() for p in params]
    plain = gs.AdamW(arrays)
    grads = [p.grad for p in params]
    flat = [g.numpy() for g in grads]

    def cost(f) -> float:
        times = []
        for _ in range(200):
            start = perf_counter()
            f()
            times.append(perf_counter() - start)
        return median(times) / count * 1e6

    return {
        "a pointer alone, data_ptr()": cost(lambda: [p.data_ptr() for p in params]),
        "the core's step over NumPy arrays": cost(lambda: plain.step(flat)),
        "the adapter's step": cost(optimizer.step),
        "of it: p.grad of all": cost(lambda: [p.grad for p in params]),
        "of it: the native call": cost(lambda: bound.compiled.plan.step(grads)),
        "of it: autograd's version counters": cost(
            lambda: torch.autograd.graph.increment_version(params)
        ),
        "of it: groups and parameters as they were": cost(
            lambda: bound.holds(optimizer._holder.state.version, optimizer.param_groups)
        ),
    }


def show(measured) -> None:
    """Print both tables; ``measured`` gives what a measurement yields in several processes."""
    print("| AdamW f32 through `.grad` | ours | torch fused | times as fast | wanted |")
    print("|---|---|---|---|---|")
    for case, (sizes, wanted) in CASES.items():
        runs = measured("adapter", case)
        unit, factor = ("ns a parameter", 1e9 / sum(sizes)) if sum(sizes) > 1 else ("µs", 1e6)
        ours, theirs = (median(run[name] for run in runs) * factor for name in ("ours", "torch"))
        ratio = median(run["torch"] / run["ours"] for run in runs)
        print(f"| {case} | {ours:.2f} {unit} | {theirs:.2f} | {ratio:.2f} | ≥ {wanted} |")
    runs = measured("adapter-cost", "")
    print("\n| 2,000 tensors of one element | µs a tensor |\n|---|---|")
    for part in runs[0]:
        print(f"| {part} | {median(run[part] for run in runs):.3f} |")
