"""What an engine that offloads the optimizer pays for: its calls, and the step in its layout.

``python benchmarks/offload.py [calls] [layout] [--size N] [--rounds N]`` prints a table each:

- calls: what one call costs over small tensors, where the engine changes the groups before it, as
  DeepSpeed does: one group (ZeRO stages 1 and 2), or one tensor of a group (stage 3).
- layout: the step that a bfloat16 model wants from its optimizer: bfloat16 gradients come in, an
  exact float32 master moves, a bfloat16 copy goes back. Ours keeps the master as that copy and its
  other 16 bits (``split``); DeepSpeed's CPU Adam, where it is installed, keeps float32 parameters,
  gets float32 gradients (which its engine widens while they come down) and copies the result.

Both time the step alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

import gradstep as gs
import gradstep.torch
from gradstep import bench

GPT2_SIZE = 124_439_808
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
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # its build calls ninja, which lies beside a Python that nobody activated
        os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
        from deepspeed.ops.adam import DeepSpeedCPUAdam  # noqa: PLC0415 - it takes a while

        self.name = "DeepSpeed CPU Adam, then the copy"
        self.param, self.copy = start.bfloat16().float(), start.bfloat16()
        self.bytes = 34.0
        self.opt = DeepSpeedCPUAdam([self.param], adamw_mode=True, **OPTIONS)

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


SECTIONS = ("calls", "layout")


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
        if section == "calls":
            show_calls(5 * options.rounds)
        else:
            show_layout(options.size, options.rounds)


if __name__ == "__main__":
    main()
