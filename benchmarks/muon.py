"""Muon on GPT-2's matrices: against PyTorch's class, and against the same loop with torch.mm.

``python benchmarks/muon.py [--layers 2] [--width 768] [--rounds 5] [--dtype bfloat16 float32]``
prints for each dtype what a step takes, in rounds that take turns in one process, and the ratio.
"""

from __future__ import annotations

import argparse
import math
from statistics import median
from time import perf_counter
from typing import Any

import torch

import gradstep as gs
import gradstep.torch

LAYER = [(1, 3), (1, 1), (1, 4), (4, 1)]  # widths: GPT-2's Conv1D are (inputs, outputs)
WIDTH = 768
A, B, C = 3.4445, -4.775, 2.0315


class Loop:
    """PyTorch's loop over matrices, in the dtype of the parameters."""

    def __init__(self, params: list[torch.nn.Parameter], lr: float = 1e-3) -> None:
        self.params, self.lr = params, lr
        self.momenta = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self) -> None:
        for p, b in zip(self.params, self.momenta, strict=True):
            b.lerp_(p.grad, 0.05)
            u = p.grad.lerp(b, 0.95)
            x = u.T if u.shape[0] > u.shape[1] else u
            x = x / x.norm().clamp(min=1e-7)
            for _ in range(5):
                gram = torch.mm(x, x.T)
                update = torch.addmm(gram, gram, gram, beta=B, alpha=C)
                x = torch.addmm(x, update, x, beta=A)
            x = x.T if u.shape[0] > u.shape[1] else x
            p.mul_(1 - self.lr * 0.1)
            p.add_(x, alpha=-self.lr * math.sqrt(max(1, p.shape[0] / p.shape[1])))


def rivals(dtype: str, layers: int, width: int) -> dict[str, tuple[Any, list[torch.nn.Parameter]]]:
    """Optimizers by name, each over parameters of its own, alike."""
    torch.manual_seed(0)
    start = [torch.randn(width * a, width * b) for _ in range(layers) for a, b in LAYER]
    grads = [torch.randn_like(p) for p in start]
    made: dict[str, tuple[Any, list[torch.nn.Parameter]]] = {}
    for name in ("ours", "theirs"):
        params = [torch.nn.Parameter(p.clone()) for p in start]
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        if name == "ours":
            made[name] = gradstep.torch.Muon(params, dtype=dtype), params
        elif dtype == "bfloat16":
            made[name] = torch.optim.Muon(params), params
        else:
            made[name] = Loop(params), params
    return made


def measure(dtype: str, layers: int, width: int, rounds: int) -> tuple[float, float]:
    """Seconds a step takes, ours and theirs."""
    made = rivals(dtype, layers, width)
    times: dict[str, list[float]] = {name: [] for name in made}
    for k in range(rounds + 1):
        for name in sorted(made, reverse=bool(k % 2)):
            begin = perf_counter()
            made[name][0].step()
            if k:
                times[name].append(perf_counter() - begin)
    for p, q in zip(made["ours"][1], made["theirs"][1], strict=True):
        assert torch.allclose(p, q, atol=5e-3)
    return median(times["ours"]), median(times["theirs"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    given = parser.parse_args()
    torch.set_num_threads(gs.get_num_threads())
    names = {"bfloat16": "torch.optim.Muon", "float32": "the same loop with torch.mm"}
    for dtype in given.dtype:
        ours, theirs = measure(dtype, given.layers, given.width, given.rounds)
        print(
            f"{dtype}, {given.layers} layers of width {given.width}, {gs.get_num_threads()} "
            f"threads: ours {ours * 1e3:.1f} ms, {names[dtype]} {theirs * 1e3:.1f} ms, ratio "
            f"{ours / theirs:.3f}"
        )


if __name__ == "__main__":
    main()
