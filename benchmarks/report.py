"""Print the docs' tables of how fast: `python benchmarks/report.py [SECTION ...] [--processes N]`.

Of rules some, sizes and rounds can be chosen: `report.py rules --rules Lion --size 1M --rounds 3`.

Every ratio is the median over several processes of a ratio within one process, where the rivals
took turns. Sections: step, rules, two-passes, wake, overhead, one-pass, memory, schedules, pytorch,
training.
What stored states do to a training is printed by quality.py.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

import gradstep as gs
import one_pass
import rules
import training
from gradstep import bench, bench_training, machine, storages
from schedule_rivals import shapes
from workloads import GPT2, WORKLOADS

MEMORY_SIZE = (1 << 24,)  # 448 MiB of AdamW's streams: beyond every cache


# ---- measurements, each in a process of its own; they return what json can carry ----


def measure_step(workload: str) -> list[tuple[str, float, float]]:
    """Name, seconds and error of every contestant, AdamW float32."""
    rounds = 3 if sum(WORKLOADS[workload]) > 10**8 else 7
    results, notes = bench.compete(bench.RULES["AdamW"], WORKLOADS[workload], rounds=rounds)
    for note in notes:
        print(note, file=sys.stderr)
    return [(r.name, r.seconds, r.difference) for r in results]


TWO_PASSES = {name: bench.RULES[name] for name in ("LAMB", "LARS")}
TWO_PASSES_SIZES: dict[str, tuple[int, ...]] = {
    "16.8M in one tensor": MEMORY_SIZE,
    "GPT-2, 148 tensors, 124M": GPT2,
}


def measure_two_passes(size: str) -> dict[str, float]:
    """Seconds of AdamW, of LAMB and LARS, and of optax's, where it is installed."""
    params, grads = bench.problem(TWO_PASSES_SIZES[size])
    known = {"AdamW": bench.RULES["AdamW"], **TWO_PASSES}
    racers = [replace(bench.ours(rule, params, grads), name=name) for name, rule in known.items()]
    for name, rule in TWO_PASSES.items():
        same = [racer for racer in racers if racer.name == name]
        if bench.present("optax"):
            same.append(replace(bench.optax_step(rule, params, grads), name=f"optax {name}"))
            racers.append(same[-1])
        expected = bench.exact(rule, params, grads)
        for racer in same:
            for _ in range(bench.CHECKED_STEPS):
                racer.step(racer.gradients())
            found = bench.difference(racer, expected, params)
            if not found <= bench.TOLERANCE:
                raise AssertionError(f"{racer.name}: differs from float64 by {found:.1e}")
    return bench.race(racers, rounds=3 if sum(TWO_PASSES_SIZES[size]) > 10**8 else 7)


def measure_wake(elements: str) -> dict[str, float]:
    """Seconds of a step after 20 ms of sleep or of work in NumPy, on one thread and on all."""
    n, threads = int(elements), gs.get_num_threads()
    p, g = np.zeros(n, np.float32), np.ones(n, np.float32)
    opt, matrix = gs.AdamW(p), np.ones((200, 200))

    def work() -> None:
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            matrix.sum()

    pauses = {"sleep": lambda: time.sleep(0.02), "work": work}
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(25):
        for name, pause in pauses.items():
            for count in (1, threads):
                gs.set_num_threads(count)
                for _ in range(3):
                    opt.step(g)
                pause()
                start = time.perf_counter()
                opt.step(g)
                times.setdefault((name, count), []).append(time.perf_counter() - start)
    result = {}
    for name in pauses:
        result[f"{name}, one thread"] = median(times[name, 1])
        result[f"{name}, all"] = median(times[name, threads])
    return result


def measure_overhead(_: str) -> dict[str, float]:
    """Seconds of the smallest step and of the import, numpy's own not counted."""
    p, g = np.zeros(1, np.float32), np.ones(1, np.float32)
    opt = gs.AdamW(p)
    rounds = []
    for _ in range(200):
        start = time.perf_counter()
        for _ in range(100):
            opt.step(g)
        rounds.append((time.perf_counter() - start) / 100)
    code = (
        "import time, numpy; a = time.perf_counter(); import gradstep; "
        "print(time.perf_counter() - a)"
    )
    imports = [
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(9)
    ]
    return {
        "one step over one element": median(rounds),
        "import gradstep, numpy's own not counted": median(imports),
    }


def measure_memory(states: str) -> dict[str, float]:
    """Bytes of state per parameter, and by how much two steps raise the peak of resident memory."""
    params = [np.full(n, 0.5, np.float32) for n in GPT2]
    grads = [np.ones(n, np.float32) for n in GPT2]
    opt = gs.AdamW(params, states=states, clip_norm=1.0, stats=True)
    for kept in opt.state.values():
        for array in kept.values():
            if isinstance(array, np.ndarray):
                array.reshape(-1).view(np.uint8)[::4096] = 0  # there before the step
    opt.step([None] * len(GPT2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        opt.step(grads)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    kept = sum(a.nbytes for s in opt.state.values() for a in s.values() if hasattr(a, "nbytes"))
    return {"bytes": kept / sum(GPT2), "MiB": grown / 1024 / gs.get_num_threads()}


def measure_schedules(_: str) -> dict[str, list[float]]:
    """Seconds of 10^7 steps: NumPy with its index array and without, ours from a range and an
    array, all into memory that is there; and the floor of each, a copy and a fill."""
    n = 10**7
    t, out, copy = np.arange(n), np.zeros(n), np.ones(n)
    floors = {"copy": lambda: np.copyto(out, copy), "fill": lambda: out.fill(1.0)}

    def seconds(f: Callable[[], object]) -> float:
        start = time.perf_counter()
        f()
        return time.perf_counter() - start

    found = {name: [median(seconds(f) for _ in range(7))] for name, f in floors.items()}
    for name, (schedule, formula) in shapes(n).items():
        contestants = {
            "numpy with arange": lambda formula=formula: formula(np.arange(n)),
            "numpy": lambda formula=formula: formula(t),
            "range": lambda s=schedule: s.range(0, n, out=out),
            "array": lambda s=schedule: s(t, out=out),
        }
        rounds = [[seconds(f) for f in contestants.values()] for _ in range(3)]
        found[name] = [median(times) for times in zip(*rounds, strict=True)]
    return found


def measure_calls(_: str) -> dict[str, float]:
    """Seconds of one value, and of what 100 groups' schedules add to a step."""
    found = {}
    for name, (schedule, _formula) in shapes(1000).items():
        rounds = []
        for _ in range(9):
            start = time.perf_counter()
            for k in range(10_000):
                schedule(k)
            rounds.append((time.perf_counter() - start) / 10_000)
        found[name] = median(rounds)
    kinds = [s.schedule for s in shapes(1000).values()]
    gradients = [[np.ones(1, np.float32)]] * 100
    optimizers = [
        gs.SGD([{"params": [np.zeros(1, np.float32)], "lr": lr(i)} for i in range(100)], lr=0.1)
        for lr in (lambda _: 0.1, lambda i: kinds[i % len(kinds)])
    ]
    extra = []
    for _ in range(50):
        times = []
        for opt in optimizers:
            start = time.perf_counter()
            for _ in range(20):
                opt.step(gradients)
            times.append((time.perf_counter() - start) / 20)
        extra.append(times[1] - times[0])
    found["100 groups"] = median(extra)
    return found


def measure_training(name: str) -> dict[str, tuple[float, float]]:
    """Seconds of a step and of an iteration of everyone on a network, or after a product."""
    return bench_training.medians(bench_training.measure(name))


def measure_adapter(function: str, argument: str) -> dict[str, float]:
    """What adapter.py measures; it must have torch, which the rest can do without."""
    import adapter  # noqa: PLC0415

    return getattr(adapter, function)(argument)


MEASUREMENTS = {
    "memory": measure_memory,
    "one-pass": one_pass.measure,
    "step": measure_step,
    "rule": rules.measure,
    "two-passes": measure_two_passes,
    "wake": measure_wake,
    "overhead": measure_overhead,
    "training": measure_training,
    "first-steps": bench_training.first_steps,
    "schedules": measure_schedules,
    "calls": measure_calls,
    "adapter": functools.partial(measure_adapter, "measure"),
    "adapter-cost": functools.partial(measure_adapter, "breakdown"),
}


def in_processes(count: int, measurement: str, argument: str) -> list:
    """What a measurement returned in each of `count` fresh processes."""
    results = []
    for i in range(count):
        print(
            f"\r{measurement} {argument}: process {i + 1} of {count}   ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        done = subprocess.run(
            [sys.executable, __file__, "--measure", measurement, argument],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout))
    print("\r" + " " * 60, end="\r", file=sys.stderr)
    return results


# ---- tables ----


def by_name(runs: list) -> dict[str, tuple[list[float], float]]:
    """Each contestant's seconds in every process, and its error."""
    return {row[0]: ([r[i][1] for r in runs], row[2]) for i, row in enumerate(runs[0])}


def ratio(others: list[float], ours: list[float]) -> float:
    return median(o / s for o, s in zip(others, ours, strict=True))


def print_step(processes: int) -> None:
    """AdamW float32 against everyone: time per parameter, error, and how often ours fits in."""
    rows, names = [], []
    for workload, size in WORKLOADS.items():
        found = by_name(in_processes(processes, "step", workload))
        ours = found[bench.OURS][0]
        cells = {}
        for name, (seconds, error) in found.items():
            time_ = median(seconds) / sum(size) * 1e9
            cells[name] = (
                f"{time_:,.{0 if time_ > 100 else 2 if time_ > 1 else 3}f} ns"
                + ("" if name == bench.MOVE else f", {error:.0e}")
                + ("" if name == bench.OURS else f" ({ratio(seconds, ours):.2f}×)")
            )
            if name not in names:
                names.append(name)
        rows.append((workload, cells))
    print("| AdamW, float32 | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for workload, cells in rows:
        print(f"| {workload} | " + " | ".join(cells.get(name, "—") for name in names) + " |")
    print(
        "\nNanoseconds per parameter; error: the largest difference from float64 after "
        f"{bench.CHECKED_STEPS} steps, as a part of the largest update; in brackets the time "
        "over ours. Gradients are new array objects each step."
    )


def print_rules(processes: int, **chosen: Any) -> None:
    """Every rule against the bare loop of its bytes, torch's and optax's."""
    rules.show(functools.partial(in_processes, processes), **chosen)


def print_two_passes(processes: int) -> None:
    """Rules that look at a whole tensor first, against AdamW and against optax's."""
    print("| | AdamW | LAMB, its time over AdamW's | LARS | optax LAMB, over ours | optax LARS |")
    print("|---|---|---|---|---|---|")
    for size, elements in TWO_PASSES_SIZES.items():
        runs = in_processes(processes, "two-passes", size)
        seconds = {name: [run[name] for run in runs] for name in runs[0]}
        cells = [size]
        for name in ("AdamW", "LAMB", "LARS", "optax LAMB", "optax LARS"):
            if name not in seconds:
                cells.append("—")
                continue
            base = seconds[name.removeprefix("optax ")] if "optax" in name else seconds["AdamW"]
            over = "" if name == "AdamW" else f" ({ratio(seconds[name], base):.2f}×)"
            cells.append(f"{median(seconds[name]) / sum(elements) * 1e9:.3f} ns{over}")
        print(f"| {' | '.join(cells)} |")
    print(
        "\nNanoseconds per parameter, float32. Bytes per parameter: AdamW 28; LAMB 40, since its "
        "second pass reads parameter and states again; LARS 28."
    )


def print_wake(processes: int) -> None:
    """The first step after a pause: all threads against one."""
    print(
        f"| elements | after 20 ms of sleep: one thread → {gs.get_num_threads()} | "
        "after 20 ms of other work |\n|---|---|---|"
    )
    for elements in (1000, 16_384, 65_536, 131_072, 262_144, 1 << 20, 1 << 22, 1 << 24):
        runs = in_processes(processes, "wake", str(elements))
        cells = []
        for pause in ("sleep", "work"):
            one = [r[f"{pause}, one thread"] for r in runs]
            all_ = [r[f"{pause}, all"] for r in runs]
            cells.append(
                f"{median(one) * 1e6:.0f} → {median(all_) * 1e6:.0f} µs ({ratio(all_, one):.2f})"
            )
        print(f"| {elements:,} | " + " | ".join(cells) + " |")


def print_overhead(processes: int) -> None:
    """What a call and an import cost."""
    runs = in_processes(processes, "overhead", "")
    for name in runs[0]:
        seconds = median(r[name] for r in runs)
        print(
            f"- {name}: "
            + (f"{seconds * 1e3:.1f} ms" if seconds > 1e-3 else f"{seconds * 1e6:.2f} µs")
        )


def print_memory(processes: int) -> None:
    """What each storage keeps, and what a step needs besides."""
    print(
        "| states of AdamW, GPT-2's 148 tensors | bytes per parameter "
        "| a step raises the peak, MiB per thread |\n|---|---|---|"
    )
    for states in storages.ROLES:
        if "second_moment" in storages.ROLES[states]:
            runs = in_processes(processes, "memory", states)
            cells = [f"{median(r[key] for r in runs):.3f}" for key in ("bytes", "MiB")]
            print(f"| {states} | {cells[0]} | {cells[1]} |")


def print_one_pass(processes: int) -> None:
    """Clipping, averaging, copying and few bits in one pass, against separate passes and peers."""
    one_pass.show(functools.partial(in_processes, processes, "one-pass"))


def print_schedules(processes: int) -> None:
    """Every shape against its NumPy formula, what one value costs, and 100 groups."""
    runs, calls = in_processes(processes, "schedules", ""), in_processes(processes, "calls", "")
    print(
        "| 10⁷ steps | NumPy with its arange | from a range | times as fast | NumPy | into out= | "
        "times as fast | one value |\n|---|---|---|---|---|---|---|---|"
    )
    for name in runs[0]:
        columns = list(zip(*(run[name] for run in runs), strict=True))
        if len(columns) == 1:
            print(f"| {name}, {median(columns[0]) * 1e3:.1f} ms | | | | | | | |")
            continue
        with_arange, plain, ranged, array = columns
        one = median(call[name] for call in calls)
        print(
            f"| {name} | {median(with_arange) * 1e3:.0f} ms | {median(ranged) * 1e3:.1f} ms | "
            f"{ratio(with_arange, ranged):.1f} | {median(plain) * 1e3:.0f} ms | "
            f"{median(array) * 1e3:.1f} ms | {ratio(plain, array):.1f} | {one * 1e9:.0f} ns |"
        )
    extra = median(call["100 groups"] for call in calls)
    print(f"\nSchedules of 100 groups add {extra * 1e6:.1f} µs to a step.")


def print_pytorch(processes: int) -> None:
    """The PyTorch adapter against torch's own fused step."""
    import adapter  # noqa: PLC0415 - the only section that must have torch

    adapter.show(functools.partial(in_processes, processes))


def print_training(processes: int) -> None:
    """The step where it runs: after backward passes and after products in NumPy."""
    training.show(functools.partial(in_processes, processes))


SECTIONS = {
    "training": print_training,
    "memory": print_memory,
    "one-pass": print_one_pass,
    "step": print_step,
    "rules": print_rules,
    "two-passes": print_two_passes,
    "wake": print_wake,
    "overhead": print_overhead,
    "schedules": print_schedules,
    "pytorch": print_pytorch,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--size", action="append", choices=list(rules.SIZES), help="of rules")
    parser.add_argument("--rules", nargs="+", choices=list(bench.RULES), metavar="RULE")
    parser.add_argument("--rounds", type=int, help="of rules: how often everyone takes a turn")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, argument = arguments.measure
        print(json.dumps(MEASUREMENTS[name](argument)))
        return
    chosen = {
        "rules": {
            "names": arguments.rules,
            "sizes": arguments.size,
            "rounds": arguments.rounds,
        }
    }
    for section in arguments.sections or SECTIONS:
        if section not in SECTIONS:
            parser.error(f"sections: got {section!r}, wanted {', '.join(SECTIONS)}")
        print(f"\n## {section}\n")
        SECTIONS[section](arguments.processes, **chosen.get(section, {}))
    print(
        f"\n{machine.one_line()}; {gs.config()['compiler']}; medians of "
        f"{arguments.processes} processes"
    )


if __name__ == "__main__":
    main()
