"""Print one hash of the bits of some steps: `python tools/step_hash.py`.

Equal on every processor, compiler and number of threads; it needs NumPy and gradstep alone. In it
are rules of one pass and of two, storages by element and in blocks, clipping, an average and a
schedule.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

import gradstep as gs

STEPS = 5
SHAPES = ((257, 33), (1000,), (1,))
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("AdamW", "float32", {}),
    ("AdamW", "float64", {"amsgrad": True}),
    ("AdamW", "float16", {"rounding": "stochastic"}),
    ("AdamW", "float32", {"states": "q8", "clip_norm": 1.0}),
    ("AdamW", "float32", {"states": "q4"}),
    ("AdamW", "float32", {"average": 0.9}),
    ("SGD", "float32", {"momentum": 0.9, "nesterov": True}),
    ("Lion", "float32", {"states": "q8"}),
    ("LAMB", "float32", {}),
    ("Adafactor", "float32", {}),
    ("ScheduleFreeAdamW", "float32", {}),
    ("Prodigy", "float64", {}),
)


def numbers(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Numbers in (−1, 1). From integers: NumPy's other distributions follow the machine's libm."""
    return (random.integers(-(2**20) + 1, 2**20, shape) / 2**20).astype(dtype)


def step_hash() -> str:
    """The hash of every parameter and state after some steps of every case."""
    found = hashlib.sha256()
    for rule, dtype, options in CASES:
        random = np.random.default_rng(0)
        params = [numbers(random, shape, dtype) for shape in SHAPES]
        opt = getattr(gs, rule)(params, lr=gs.schedules.cosine(1e-2, STEPS), **options)
        for _ in range(STEPS):
            opt.step([numbers(random, shape, dtype) for shape in SHAPES])
        kept = [a for state in opt.state.values() for a in state.values()]
        for array in (*params, *kept):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


if __name__ == "__main__":
    print(step_hash())
