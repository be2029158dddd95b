"""What the monitor says of rates that are known to be wrong: `python benchmarks/diagnosis.py`.

The thresholds of `gradstep/tuning/monitor.py` were chosen on other problems and with other seeds
than these; `--choose` prints the table of those. A figure beyond its limit is bold and makes the
exit status 1. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import sys

# One thread each: the arrays are small, and the answers do not depend on it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from best_rates import WORSE, Curve, curves
from gradstep.tuning import Monitor, Verdict
from more_problems import EVERY, named
from rate_problems import PER_DECADE, RULES, UPDATES, Problem

STEPS, SEEDS, CHOSEN_FROM = 100, 10, 1010
WRONG, INCONCLUSIVE = 0.05, 0.20
# What is right of a rate so many times the best. A spike is of a step, not of a rate.
RIGHT = {0.1: {"too low"}, 1.0: {"fine"}, 10.0: {"too high", "diverging"}}
NAMES = {0.1: "a tenth of the best", 1.0: "the best", 10.0: "ten times the best"}
KINDS = ["too low", "fine", "too high", "diverging", "inconclusive"]
HALFWAY = (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)

# ---- runs ----


class Run(NamedTuple):
    """The verdict after some steps, and the loss of all examples after the last."""

    verdict: Verdict
    loss: float


def run(
    problem: Problem, rule: str, rate: float, seed: int, *, last: int = STEPS,
    judged: int = STEPS, factor: float = 1.0,
) -> Run:  # fmt: skip
    """A training at one rate, times `factor` once it is judged.

    Args:
        last: updates.
        judged: after how many the verdict counts.
    """
    task = problem.make(seed)
    optimizer = RULES[rule](task.params, lr=rate, stats="sample")
    monitor = Monitor()
    verdict = monitor.verdict
    with np.errstate(all="ignore"):
        for k in range(last):
            loss, gradients = task.batch()
            report = optimizer.step(gradients)
            if k < judged:
                monitor(report, loss)
                verdict = monitor.verdict
            if not np.isfinite(loss):
                return Run(verdict, np.inf)
            if k + 1 == judged:
                optimizer.groups[0]["lr"] = rate * factor
        loss = task.loss()
    return Run(verdict, loss if np.isfinite(loss) else np.inf)


class Cell(NamedTuple):
    """The verdicts on one problem, rule and multiple of the best rate, one a seed."""

    problem: str
    rule: str
    multiple: float
    kinds: Counter[str]


def judge(name: str, rule: str, rate: float, multiple: float, seeds: range) -> Cell:
    runs = (run(EVERY[name], rule, rate * multiple, seed) for seed in seeds)
    return Cell(name, rule, multiple, Counter(one.verdict.kind for one in runs))


def advise(name: str, rule: str, rate: float, seed: int, judged: int) -> tuple[str, bool] | None:
    """The verdict, and whether 100 further steps end lower with its factor than without."""
    as_is = run(EVERY[name], rule, rate, seed, last=judged + STEPS, judged=judged)
    kind, factor = as_is.verdict.kind, as_is.verdict.factor
    if kind not in ("too low", "too high") or not np.isfinite(as_is.loss):
        return None
    changed = run(EVERY[name], rule, rate, seed, last=judged + STEPS, judged=judged, factor=factor)
    return kind, changed.loss < as_is.loss


# ---- tables ----


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    print(f"\n**{title}**\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def shares(cells: list[Cell]) -> tuple[float, float]:
    """How many of the verdicts are wrong, and how many say nothing."""
    total = sum(cell.kinds.total() for cell in cells)
    silent = sum(cell.kinds["inconclusive"] + cell.kinds["spike"] for cell in cells)
    right = sum(cell.kinds[kind] for cell in cells for kind in RIGHT[cell.multiple])
    return (total - silent - right) / total, silent / total


def share(value: float, limit: float | None = None) -> str:
    text = f"{100 * value:.1f} %"
    return f"**{text}**" if limit is not None and value > limit else text


def confusion(title: str, cells: list[Cell]) -> None:
    rows = []
    for rule in dict.fromkeys(cell.rule for cell in cells):
        for multiple, name in NAMES.items():
            chosen = [c for c in cells if (c.rule, c.multiple) == (rule, multiple)]
            kinds = sum((cell.kinds for cell in chosen), Counter[str]())
            counts = [str(kinds[kind]) for kind in KINDS]
            rows.append([rule, name, *counts, *map(share, shares(chosen))])
    print_table(title, ["rule", "rate", *KINDS, "wrong", "says nothing"], rows)


def misses(cells: list[Cell]) -> Iterator[list[str]]:
    for cell in cells:
        wrong, silent = shares([cell])
        if wrong or silent:
            kinds = ", ".join(f"{n} {kind}" for kind, n in cell.kinds.most_common())
            yield [cell.problem, cell.rule, f"× {cell.multiple:g}", kinds]


def measure(
    pool: ProcessPoolExecutor, found: dict[tuple[str, str], Curve], seeds: range
) -> tuple[dict[tuple[str, str], float], list[Cell]]:
    """The best rates that are told apart from a tenth and ten times, and the verdicts around."""
    rates = {one: curve.best for one, curve in found.items() if curve.is_told_apart()}
    jobs = [(*one, rate, multiple, seeds) for one, rate in rates.items() for multiple in RIGHT]
    return rates, list(pool.map(judge, *zip(*jobs, strict=True)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--choose", action="store_true", help="the problems to choose on")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="a cell (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="a folder to keep the losses over rates in")
    parser.add_argument("--advice", action="store_true", help="also: does following it help?")
    arguments = parser.parse_args()
    purpose = "choose" if arguments.choose else "report"
    first = CHOSEN_FROM if arguments.choose else 0
    seeds = range(first, first + arguments.seeds)
    names = [problem.name for problem in named(purpose)]
    print(
        f"Problems: {', '.join(names)}. Best: the lowest mean loss of all examples after {UPDATES} "
        f"updates, over 5 seeds, on a grid of {PER_DECADE} rates a decade; problems and rules are "
        "left out where a tenth and ten times the best are not told apart from it (by "
        f"{100 * WORSE:.0f} % of the best loss, as in range_test.py). Verdicts after {STEPS} "
        f"steps, {arguments.seeds} seeds."
    )
    with ProcessPoolExecutor(2) as pool:
        asked = [(name, rule) for name in names for rule in RULES]
        if arguments.cache:
            arguments.cache.mkdir(parents=True, exist_ok=True)
        rates, cells = measure(pool, curves(pool, asked, cache=arguments.cache), seeds)
        rows = [
            [name, *(f"{rates[name, r]:.2g}" if (name, r) in rates else "-" for r in RULES)]
            for name in names
        ]
        print_table("Best rates", ["problem", *RULES], rows)
        wrong, silent = shares(cells)
        confusion("Verdicts, numbers of runs", cells)
        print(
            f"\nTogether: wrong in {share(wrong, WRONG)} (≤ {share(WRONG)}), nothing said in "
            f"{share(silent, INCONCLUSIVE)} (≤ {share(INCONCLUSIVE)})."
        )
        print_table(
            "Where it was not right", ["problem", "rule", "rate", "verdicts"], [*misses(cells)]
        )
        if arguments.advice:
            rows = []
            for judged in (STEPS, 2 * STEPS):
                jobs = [
                    (*one, rate * multiple, seed, judged)
                    for one, rate in rates.items()
                    for multiple in HALFWAY
                    for seed in seeds
                ]
                told = [t for t in pool.map(advise, *zip(*jobs, strict=True), chunksize=20) if t]
                for kind in ("too low", "too high"):
                    helped = [lower for said, lower in told if said == kind]
                    if helped:
                        rows.append(
                            [str(judged), kind, str(len(helped)), share(float(np.mean(helped)))]
                        )
            print_table(
                "A run goes on for 100 steps with the rate that the verdict advises, and without",
                ["verdict after", "verdict", "runs", "lower loss with it"], rows,
            )  # fmt: skip
    return int(wrong > WRONG or silent > INCONCLUSIVE)


if __name__ == "__main__":
    sys.exit(main())
