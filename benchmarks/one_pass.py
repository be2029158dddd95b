"""Narrow storages and fused stages against whoever else does the same: AdamW, 124M parameters.

`measure` runs one case in this process, `show` prints the table; `report.py` calls both.

The rivals are pip packages, none of which needs a GPU. DeepSpeed compiles its step for this
processor when it is first used (its own flags: -O3 -march=native -fopenmp -D__AVX512__; this wants
a C++ compiler and ninja, and takes a minute); torchao compiles through torch.compile:

    pip install --no-deps deepspeed torchao bitsandbytes   # torch itself is kept as it is
    pip install einops hjson msgpack ninja psutil py-cpuinfo pydantic   # what DeepSpeed imports
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

import gradstep as gs
from gradstep import bench
from gradstep.bench import BETA1, BETA2, DECAY, LR, MOVE, OURS, Racer
from workloads import GPT2

OURS_F32 = "gradstep float32"
CLIP_NORM, AVERAGE = 1.0, 0.999
SETTINGS = {"lr": LR, "betas": (BETA1, BETA2), "eps": 1e-8, "weight_decay": DECAY}
LARGEST_BARE_LOOP = 1 << 25  # elements: 0.9 GB of streams; its time is scaled beyond that

# What a step reads and writes in place counts twice, what it only reads or only writes once.
F32 = {"p": 8, "g": 4, "m": 8, "v": 8}
BF16 = {name: bytes_ / 2 for name, bytes_ in F32.items()}
Q8 = {"m": 2 * (1 + 4 / 256), "v": 2 * (1 + 4 / 256)}  # codes and a float32 scale for every 256
STAGES = {"g for the norm": 4, "average": 8, "copy": 2}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    `dtype` is that of parameters and gradients, `arguments` are ours beside `SETTINGS`, `stages`
    says whether there are clipping, averaging and a copy in bfloat16, `traffic` counts bytes a
    parameter, `rivals` maps each to how many times our time it must take at least.
    """

    dtype: Any
    arguments: Mapping[str, Any]
    traffic: Mapping[str, float]
    rivals: Mapping[str, float]
    stages: bool = False
    size: Sequence[int] = GPT2
    tolerance: float = 1e-5
    rounds: int = 3

    @property
    def bytes_moved(self) -> float:
        return sum(self.traffic.values())


_STAGES = {"clip_norm": CLIP_NORM, "average": AVERAGE}
_STOCHASTIC = {"params": "stochastic"}
CASES = {
    "clip, AdamW, average, bfloat16 copy; float32": Case(
        np.float32, _STAGES, F32 | STAGES, {"torch": 1.4}, stages=True
    ),
    "bfloat16 p and g, float32 m and v": Case(
        bfloat16,
        {"states": "float32", "rounding": _STOCHASTIC},
        F32 | {"p": 4, "g": 2},
        {"DeepSpeed": 1.35, OURS_F32: 1 / 0.85},
        tolerance=0.05,
    ),
    "all bfloat16": Case(
        bfloat16,
        {"states": "bfloat16", "rounding": _STOCHASTIC | {"exp_avg_sq": "stochastic"}},
        BF16,
        {"torch": 1.4},
        tolerance=0.05,
    ),
    "float32 p and g, q8 m and v": Case(
        np.float32,
        {"states": "q8"},
        F32 | Q8,
        {OURS_F32: 1.25, "torchao": 30, "bitsandbytes": 30},
        tolerance=0.05,
    ),
    "bfloat16 p and g, q8 m and v": Case(
        bfloat16,
        {"states": "q8", "rounding": _STOCHASTIC},
        BF16 | Q8,
        {OURS_F32: 1.0},
        tolerance=0.05,
    ),
    "clip, AdamW, average, bfloat16 copy; float32, 1M in L3": Case(
        np.float32,
        _STAGES,
        F32 | STAGES,
        {"torch": 2.5},
        stages=True,
        size=(1 << 20,),
        rounds=7,
    ),
}

Arrays = Sequence[NDArray[Any]]


# ---- contestants: made from the case, the parameters and what the steps get in turns ----


def aligned(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """A copy at a multiple of 64 bytes, where torch puts its own tensors and NumPy does not."""
    count = values.size * np.dtype(dtype).itemsize
    memory = np.empty(count + 64, np.uint8)
    first = -memory.ctypes.data % 64
    copy = memory[first : first + count].view(dtype)
    copy[:] = values
    return copy


def _ours(
    name: str, params: Arrays, turns: Sequence[Arrays], dtype: Any, arguments: Mapping[str, Any]
) -> Racer:
    own, turn = [aligned(p, dtype) for p in params], itertools.cycle(turns)
    outputs = [own]
    if "average" in arguments:
        outputs.append([aligned(p, bfloat16) for p in params])
        arguments = {**arguments, "copy_to": outputs[-1]}
    opt = gs.AdamW(own, **{**SETTINGS, **arguments})
    if "average" in arguments:
        outputs.append(opt.average)
    return Racer(name, lambda: [g[:] for g in next(turn)], opt.step, lambda: outputs)


def ours(case: Case, params: Arrays, turns: Sequence[Arrays]) -> Racer:
    return _ours(OURS, params, turns, case.dtype, case.arguments)


def ours_float32(_: Case, params: Arrays, turns: Sequence[Arrays]) -> Racer:
    return _ours(OURS_F32, params, turns, np.float32, {})


def tensor(array: NDArray[Any]) -> Any:
    """The same memory as a torch tensor."""
    torch = import_module("torch")
    if array.dtype == bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def numpy_view(tensor: Any) -> NDArray[Any]:
    """The same memory as a NumPy array."""
    torch = import_module("torch")
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.int16).numpy().view(bfloat16)
    return tensor.detach().numpy()


def _torch_racer(
    name: str, case: Case, params: Arrays, turns: Sequence[Arrays], optimizer: Callable[..., Any]
) -> Racer:
    """A torch optimizer, and the stages as the separate passes that torch has for them."""
    torch = import_module("torch")
    torch.set_num_threads(gs.get_num_threads())
    own = [tensor(aligned(p, case.dtype)).requires_grad_() for p in params]
    given = [[tensor(g) for g in grads] for grads in turns]
    opt = optimizer(own, **SETTINGS)
    step, outputs = opt.step, [own]
    if case.stages:
        # clipping writes into the gradients
        given = [[g.clone() for g in grads] for grads in given]
        averages = [p.detach().clone() for p in own]
        copies = [p.detach().bfloat16() for p in own]
        outputs += [copies, averages]

        def step() -> None:
            torch.nn.utils.clip_grad_norm_(own, CLIP_NORM)
            opt.step()
            with torch.no_grad():
                torch._foreach_lerp_(averages, own, 1 - AVERAGE)
                torch._foreach_copy_(copies, own)

    turn = itertools.cycle(given)

    def gradients() -> None:
        for p, g in zip(own, next(turn), strict=True):
            p.grad = g

    return Racer(
        name, gradients, lambda _: step(), lambda: [[*map(numpy_view, out)] for out in outputs]
    )


def torch_fused(case: Case, params: Arrays, turns: Sequence[Arrays]) -> Racer:
    torch = import_module("torch")
    return _torch_racer(
        "torch", case, params, turns, lambda own, **s: torch.optim.AdamW(own, fused=True, **s)
    )


def deepspeed(case: Case, params: Arrays, turns: Sequence[Arrays]) -> Racer:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # its build calls ninja, which lies beside a Python that nobody activated
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    adam = import_module("deepspeed.ops.adam").DeepSpeedCPUAdam
    return _torch_racer("DeepSpeed", case, params, turns, adam)


def torchao(case: Case, params: Arrays, turns: Sequence[Arrays]) -> Racer:
    return _torch_racer("torchao", case, params, turns, import_module("torchao.optim").AdamW8bit)


def bitsandbytes(case: Case, params: Arrays, turns: Sequence[Arrays]) -> Racer:
    adam = import_module("bitsandbytes").optim.AdamW8bit
    return _torch_racer("bitsandbytes", case, params, turns, adam)


CONTESTANTS: dict[str, Callable[[Case, Arrays, Sequence[Arrays]], Racer]] = {
    OURS: ours,
    OURS_F32: ours_float32,
    "torch": torch_fused,
    "DeepSpeed": deepspeed,
    "torchao": torchao,
    "bitsandbytes": bitsandbytes,
}
SLOW = {"torchao", "bitsandbytes"}  # seconds a step: one round is enough
PACKAGES = {name: name.lower() for name in CONTESTANTS if name not in (OURS, OURS_F32)}


def present(name: str) -> bool:
    """Is this contestant installed?"""
    return name not in PACKAGES or bench.present(PACKAGES[name])


# ---- the answer, in float64, at both ends of every array ----


def ends(arrays: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
    """The first and the last 512 elements of every array, in float64."""
    parts = (part for a in arrays for part in (a[:512], a[-512:]))
    return np.concatenate([part.astype(np.float64) for part in parts])


@dataclass
class Answer:
    """What `CHECKED_STEPS` steps should yield: parameters, copies and averages at their ends."""

    case: Case
    before: NDArray[np.float64]
    outputs: list[NDArray[np.float64]] = field(default_factory=list)

    def error(self, racer: Racer) -> float:
        """The parameters' RMS difference, the updates' being 1; infinite if a stage is wrong."""
        found = [ends(arrays) for arrays in racer.params()]
        p, *stages = (
            rms(f - e) / rms(e - self.before) for f, e in zip(found, self.outputs, strict=True)
        )
        # of the checked updates, rounding the copy is 1%, rounding a slow average 0.01%
        good = all(s <= limit for s, limit in zip(stages, (0.05, 1e-3), strict=False))
        return p if good else float("inf")


def rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values * values)))


def answer(case: Case, params: Arrays, turns: Sequence[Arrays]) -> Answer:
    """The steps in NumPy and float64, from the parameters and gradients as the case stores them."""
    before = ends(aligned(p, case.dtype) for p in params)
    p, m, v = before.copy(), np.zeros_like(before), np.zeros_like(before)
    average = p.copy()
    for t, grads in zip(range(1, bench.CHECKED_STEPS + 1), itertools.cycle(turns)):
        g = ends(grads)
        if case.stages:
            norm = np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in grads))
            g *= min(1, CLIP_NORM / (norm + 1e-6))
        bench.adamw(t, p, g, m, v)
        average += (1 - AVERAGE) * (p - average)
    return Answer(case, before, [p, p, average] if case.stages else [p])


def prepare(
    case: Case, names: Iterable[str], size: Sequence[int] | None = None
) -> tuple[list[Racer], Answer]:
    """Contestants of a case, not yet stepped, and what they should arrive at.

    Of many arrays the gradients come in turns at other addresses (as in `bench`) and three times
    as large, which only shows in the answer if clipping or the states are wrong.
    """
    params, grads = bench.problem(size or case.size)
    types = {np.float32 if name == OURS_F32 else case.dtype for name in names}
    turns: dict[Any, list[Arrays]] = {
        dtype: [[aligned(scale * g, dtype) for g in grads] for scale in (1, 3)[: len(grads)]]
        for dtype in types | {case.dtype}
    }
    del grads
    racers = [
        CONTESTANTS[name](case, params, turns[np.float32 if name == OURS_F32 else case.dtype])
        for name in names
    ]
    return racers, answer(case, params, turns[case.dtype])


def check(racers: Iterable[Racer], expected: Answer) -> dict[str, float]:
    """Everyone's error after the checked steps."""
    errors = {}
    for racer in racers:
        for _ in range(bench.CHECKED_STEPS):
            racer.step(racer.gradients())
        errors[racer.name] = expected.error(racer)
    return errors


# ---- what report.py calls ----


def measure(name: str) -> list[tuple[str, float, float]]:
    """Name, seconds and error of every contestant of a case, the bare loop last.

    The bare loop has AdamW's mix (three arrays read and written, one read: 57% of the bytes are
    read; those of the cases are 54 to 62%) over as many elements as make the case's bytes.
    """
    case = CASES[name]
    names = [n for n in (OURS, *case.rivals) if present(n)]
    racers, expected = prepare(case, names)
    errors = check(racers, expected)
    for missing in case.rivals.keys() - set(names):
        print(f"{missing}: not installed", file=sys.stderr)
    for n, error in errors.items():
        if not error <= case.tolerance:
            print(f"{n}: not timed, it is off by {error:.1e} of an update", file=sys.stderr)
    good = [r for r in racers if errors[r.name] <= case.tolerance]

    rule = bench.RULES["AdamW"]
    elements = sum(case.size) * case.bytes_moved / rule.bytes_moved
    bare = bench.moving(rule, min(round(elements), LARGEST_BARE_LOOP))
    fast = [r for r in good if r.name not in SLOW]
    slow = [r for r in good if r.name in SLOW]
    seconds = bench.race([*fast, bare], rounds=case.rounds) | bench.race(slow, rounds=1)
    seconds[MOVE] = seconds.pop(MOVE) * max(1.0, elements / LARGEST_BARE_LOOP)
    return [(n, s, errors.get(n, 0.0)) for n, s in seconds.items()]


def show(runs_of: Callable[[str], list[list[Sequence[Any]]]]) -> None:
    """Print the table; `runs_of` returns what `measure` did for a case in several processes."""
    print(
        "| AdamW, 124M parameters in GPT-2's 148 tensors | bytes per parameter | gradstep | GB/s "
        "| of the bare loop | rivals: their time over ours (wanted) |\n|---|---|---|---|---|---|"
    )
    for name, case in CASES.items():
        runs = [{n: (seconds, error) for n, seconds, error in run} for run in runs_of(name)]
        elements = sum(case.size)

        def ratio(one: str, other: str, runs: Any = runs) -> str:
            return f"{median(r[one][0] / r[other][0] for r in runs):.2f}"

        def cell(n: str, runs: Any = runs, elements: int = elements) -> str:
            time = median(r[n][0] for r in runs) / elements * 1e9
            return f"{time:.2f} ns, {max(r[n][1] for r in runs):.0e}"

        rivals = [
            f"{n} {cell(n)}: {ratio(n, OURS)} (≥ {wanted:.3g})"
            for n, wanted in case.rivals.items()
            if all(n in r for r in runs)
        ]
        seconds = median(r[OURS][0] for r in runs)
        row = (
            name,
            f"{case.bytes_moved:.4g}",
            cell(OURS),
            f"{case.bytes_moved * elements / seconds / 1e9:.1f}",
            ratio(MOVE, OURS),
            "<br>".join(rivals) or "—",
        )
        print(f"| {' | '.join(row)} |")
    print("\nBytes a parameter: read and written in place counts twice.\n")
    for name, case in CASES.items():
        terms = " + ".join(f"{part} {bytes_:.3g}" for part, bytes_ in case.traffic.items())
        print(f"- {name}: {terms} = {case.bytes_moved:.4g}")
    print(
        "\nns a parameter, and the RMS error from float64 as a part of the update after "
        f"{bench.CHECKED_STEPS} steps. The bare loop moves as many bytes in AdamW's mix of reads "
        "and writes. DeepSpeed, torchao and bitsandbytes round to nearest; the last two keep "
        "arrays below 4096 elements in float32.\n"
        + ", ".join(f"{p} {metadata.version(p)}" for p in PACKAGES.values() if bench.present(p))
    )
