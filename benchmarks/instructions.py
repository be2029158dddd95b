"""Instructions for each 8 numbers that a step goes through: `python benchmarks/instructions.py`.

AdamW on one thread and the target avx2, counted by valgrind's callgrind, so that no other program
and no clock has a say. Each row runs at two sizes; what they have in common, as Python's start, is
not counted. Where a step waits for memory or for divisions, fewer instructions are no less time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

import gradstep as gs
from gradstep.tables import table

VECTOR = 8  # float32 numbers in a register of avx2
SIZES = (8192, 40960)
STEPS = 40
COUNTED = "counted"  # the argument of the process that valgrind watches

_STOCHASTIC = {"rounding": {"params": "stochastic"}}
ROWS: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "float32": (np.float32, {}),
    "bfloat16 p and g": (bfloat16, {"states": "float32"}),
    "bfloat16 p and g, stochastic": (bfloat16, {"states": "float32", **_STOCHASTIC}),
    "float32, q8 states": (np.float32, {"states": "q8"}),
    "bfloat16 p and g, q8 states": (bfloat16, {"states": "q8"}),
    "split, q8 states": (bfloat16, {"states": "q8", "split": True}),
    "float32; clip, average, copy": (np.float32, {"clip_norm": 1.0, "average": 0.999}),
    "float32, statistics": (np.float32, {"stats": True}),
}


def run(name: str, size: int) -> None:
    """The steps that are counted."""
    gs.set_num_threads(1)
    dtype, arguments = ROWS[name]
    p, g = np.ones(size, dtype), np.full(size, 0.01, dtype)
    if "average" in arguments:
        arguments = {**arguments, "copy_to": np.ones(size, bfloat16)}
    opt = gs.AdamW(p, **arguments)
    for _ in range(STEPS):
        opt.step(g)


def run_all() -> None:
    """Each row at each size in a process of its own, told by its number; Python starts once."""
    for name in ROWS:
        for size in SIZES:
            child = os.fork()
            if child == 0:
                run(name, size)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if status != 0:
                sys.exit(f"{name}: stopped with status {status}")
            print(child, size, name, flush=True)


def count_all() -> dict[tuple[str, int], int]:
    """The instructions of each row at each size."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    done = subprocess.run(
        [*command, __file__, COUNTED],
        env={**os.environ, "GRADSTEP_TARGET": "avx2"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"valgrind: stopped with {done.returncode}\n{done.stderr}")
    collected = dict(re.findall(r"==(\d+)== Collected : (\d+)", done.stderr))
    lines = (line.split(" ", 2) for line in done.stdout.splitlines())
    return {(name, int(size)): int(collected[child]) for child, size, name in lines}


def main() -> None:
    """Print the table."""
    if shutil.which("valgrind") is None:
        sys.exit("valgrind: not installed, and nothing else here counts instructions")
    counts = count_all()
    small, large = SIZES
    vectors = STEPS * (large - small) / VECTOR
    rows = [(name, f"{(counts[name, large] - counts[name, small]) / vectors:.1f}") for name in ROWS]
    print(table(rows, ("AdamW, avx2", f"instructions for {VECTOR} parameters"), " >"))


if __name__ == "__main__":
    if sys.argv[1:] == [COUNTED]:
        run_all()
    else:
        main()
