"""How near the range test comes to the best rate, in tables: `python benchmarks/range_test.py`.

The constants of `gradstep/tuning/range_test.py` were chosen on other problems and with other seeds
than these; `--choose` prints the table of those. A figure beyond its limit is bold and makes the
exit status 1. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import math
import os
import sys

# One thread each: the arrays are small, and the answers do not depend on it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from gradstep.tuning import RangeTest, range_test
from rate_problems import PER_DECADE, PROBLEMS, RULES, UPDATES, Problem, best_rate

# What the project promises, of these three together.
PROMISED = [("logistic", "SGD"), ("digits", "momentum"), ("digits", "Adam")]
NEAR, INSIDE, WIDTH = 0.9, 0.9, 1.5
FACTOR = 3.0


class Row(NamedTuple):
    """What the range tests of one problem and rule came to, one seed each."""

    problem: str
    rule: str
    best: float
    found: list[RangeTest]

    def distances(self) -> list[float]:
        """log10 of suggestion ÷ best rate, of those that suggest one."""
        return [math.log10(f.suggestion / self.best) for f in self.found if f.suggestion]

    def near(self) -> float:
        """The part of all runs whose suggestion is within FACTOR of the best rate."""
        hits = [abs(d) <= math.log10(FACTOR) for d in self.distances()]
        return sum(hits) / len(self.found)

    def inside(self) -> float:
        """The part of all runs whose interval holds the best rate."""
        intervals = [f.interval for f in self.found if f.interval]
        return sum(low <= self.best <= high for low, high in intervals) / len(self.found)

    def widths(self) -> list[float]:
        """Decades from one end of the interval to the other."""
        return [math.log10(f.interval[1] / f.interval[0]) for f in self.found if f.interval]


def find(problem: Problem, rule: str, seed: int, points: int = 100, sweeps: int = 1) -> RangeTest:
    """One range test with its defaults."""
    task = problem.make(seed)
    optimizer = RULES[rule](task.params, 1.0)

    def train_step() -> float:
        loss, gradients = task.batch()
        optimizer.step(gradients)
        return loss

    return range_test(train_step, optimizer, points=points, sweeps=sweeps)


def measure(
    problem: Problem,
    rule: str,
    seeds: Iterable[int],
    best: float | None = None,
    points: int = 100,
    sweeps: int = 1,
) -> Row:
    """Range tests over seeds, beside the best rate, which is computed where it is not given."""
    if best is None:
        best = best_rate(problem, rule)
    found = [find(problem, rule, seed, points, sweeps) for seed in seeds]
    return Row(problem.name, rule, best, found)


def cell(share: float, limit: float | None = None) -> str:
    text = f"{100 * share:.0f} %"
    return f"**{text}**" if limit is not None and share < limit else text


def show(title: str, rows: list[Row]) -> None:
    print(f"\n**{title}**\n")
    print("| problem | rule | best rate | suggestion ÷ best | within a factor of 3 | best inside "
          "| decades | confidence |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        low, middle, high = np.quantile(10 ** np.array(row.distances()), [0.1, 0.5, 0.9])
        spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        kinds = [f.confidence for f in row.found]
        confidence = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
        print(
            f"| {row.problem} | {row.rule} | {row.best:.2g} | {spread} | {cell(row.near())} "
            f"| {cell(row.inside())} | {np.median(row.widths()):.2f} | {confidence} |"
        )
    sys.stdout.flush()


def summarize(rows: list[Row]) -> bool:
    """Print what is promised of these rows together; return whether it holds."""
    near = float(np.mean([row.near() for row in rows]))
    inside = float(np.mean([row.inside() for row in rows]))
    width = float(np.median([w for row in rows for w in row.widths()]))
    print(
        f"\nTogether: within a factor of 3 in {cell(near, NEAR)} (≥ {100 * NEAR:.0f} %), best rate "
        f"inside in {cell(inside, INSIDE)} (≥ {100 * INSIDE:.0f} %), "
        f"median interval {'**' if width > WIDTH else ''}{width:.2f}"
        f"{'**' if width > WIDTH else ''} decades (≤ {WIDTH})."
    )
    return near >= NEAR and inside >= INSIDE and width <= WIDTH


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--choose", action="store_true", help="the problems to choose constants on")
    parser.add_argument("--seeds", type=int, default=20, help="range tests a row (default: 20)")
    arguments = parser.parse_args()
    print(
        f"Best: the lowest mean loss of all examples after {UPDATES} updates, over 5 seeds, on a "
        f"grid of {PER_DECADE} rates a decade. {arguments.seeds} range tests a row, 100 steps each."
    )
    if arguments.choose:
        seeds = range(1100, 1100 + arguments.seeds)
        chosen = [problem for problem in PROBLEMS.values() if problem.purpose == "choose"]
        rows = [measure(problem, rule, seeds) for problem in chosen for rule in RULES]
        show("Chosen on", rows)
        summarize(rows)
        return 0

    seeds = range(arguments.seeds)
    rows = [measure(PROBLEMS[name], rule, seeds) for name, rule in PROMISED]
    show("Promised", rows)
    held = summarize(rows)
    others = [
        (problem, rule)
        for problem in PROBLEMS.values()
        for rule in RULES
        if problem.purpose == "report" and (problem.name, rule) not in PROMISED
    ]
    others += [(problem, "SGD") for problem in PROBLEMS.values() if problem.purpose == "limit"]
    show("Others that no constant was chosen on", [measure(*pair, seeds) for pair in others])
    for points, sweeps in ((50, 1), (200, 1), (100, 3)):
        again = [
            measure(PROBLEMS[row.problem], row.rule, seeds, row.best, points, sweeps)
            for row in rows
        ]
        show(f"Promised, with {points} points and {sweeps} sweep{'s' * (sweeps > 1)}", again)
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
