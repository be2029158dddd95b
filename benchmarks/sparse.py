"""A step of some rows of a table against a step of all of it, and against PyTorch's SparseAdam.

Prints medians over interleaved rounds, of Adam in float32: 64 rows of 10⁶ × 64, and whether the
time follows the table's height.

    python benchmarks/sparse.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import gradstep as gs

WIDTH, ROWS = 64, 64
HEIGHTS = (100_000, 1_000_000)
ROUNDS, CALLS, FEW_CALLS, DENSE_CALLS = 7, 100, 5, 1


def measure(named: dict[str, tuple[Callable[[], Any], int]]) -> dict[str, float]:
    """Microseconds of a call of each, the median of interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(ROUNDS):
        for name, (call, calls) in named.items():
            begin = time.perf_counter()
            for _ in range(calls):
                call()
            times[name].append((time.perf_counter() - begin) / calls * 1e6)
    return {name: median(found) for name, found in times.items()}


def gradient(height: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(height, ROWS, replace=False))
    return rows, rng.standard_normal((ROWS, WIDTH)).astype(np.float32)


def arrays(height: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Ours over arrays: rows in order, in any order and twice, and all of the table."""
    table = np.zeros((height, WIDTH), np.float32)
    opt, (rows, values) = gs.Adam(table), gradient(height)
    few = gs.Rows(rows, values)
    shuffled = gs.Rows(rows[::-1].copy(), values)
    whole = np.zeros((height, WIDTH), np.float32)
    whole[rows] = values
    name = f"{height:,}"
    return {
        f"ours, 64 rows of {name}": (lambda: opt.step(few), CALLS),
        f"ours, 64 rows of {name}, unsorted": (lambda: opt.step(shuffled), CALLS),
        f"ours, all {name}": (lambda: opt.step(whole), DENSE_CALLS),
    }


def tensors(height: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Ours and PyTorch's over tensors, one sparse gradient each."""
    import torch  # noqa: PLC0415 - the rival may be absent

    import gradstep.torch as gt  # noqa: PLC0415

    rows, values = map(torch.from_numpy, gradient(height))
    found: dict[str, tuple[Callable[[], Any], int]] = {}
    for label, made, calls in (
        ("ours, PyTorch", gt.Adam, CALLS),
        ("SparseAdam", torch.optim.SparseAdam, FEW_CALLS),
    ):
        param = torch.nn.Parameter(torch.zeros(height, WIDTH))
        param.grad = torch.sparse_coo_tensor(
            rows[None], values, param.shape, check_invariants=False
        )
        opt = made([param])
        found[f"{label}, 64 rows of {height:,}"] = (opt.step, calls)
    return found


def main() -> None:
    threads = gs.get_num_threads()
    times: dict[str, float] = {}
    for height in HEIGHTS:
        cases = arrays(height)
        try:
            cases |= tensors(height)
        except ImportError:
            print("torch is not there: without its rows")
        times |= measure(cases)
    print(f"Adam, float32, width {WIDTH}, {threads} threads, µs a step (median of {ROUNDS})")
    for name, value in times.items():
        print(f"{name:45}{value:12.1f}")
    few, all_ = (times[f"ours, {what}"] for what in ("64 rows of 1,000,000", "all 1,000,000"))
    print(f"all rows / 64 rows: {all_ / few:.0f} times")
    print(f"10⁶ / 10⁵ rows in the table: {few / times['ours, 64 rows of 100,000']:.2f} times")
    if (rival := times.get("SparseAdam, 64 rows of 1,000,000")) is not None:
        ours = times["ours, PyTorch, 64 rows of 1,000,000"]
        print(f"SparseAdam / ours over tensors: {rival / ours:.1f} times")


if __name__ == "__main__":
    main()
