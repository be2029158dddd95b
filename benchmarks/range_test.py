"""How near the range test comes to the best rate, in tables: `python benchmarks/range_test.py`.

The constants of `gradstep/tuning/range_test.py` were chosen on other problems and with other seeds
than these; `--choose` prints the tables of those. A figure beyond its limit is bold and makes the
exit status 1; `--quick` looks at two problems alone. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import math
import os
import sys

# One thread each: the arrays are small, and the answers do not depend on it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from best_rates import ALIKE, PLAIN, SETTINGS, WORSE, Curve, Setting, curve, curves
from gradstep.tuning import RangeTest, range_test
from more_problems import EVERY, named
from rate_problems import PER_DECADE, RULES, UPDATES, Problem

# What the project promised first, of these three together: near the best rate itself.
PROMISED = [("logistic", "SGD"), ("digits", "momentum"), ("digits", "Adam")]
NEAR = 0.9
# What it promises of all.
RIGHT, INSIDE, WIDTH, SURE = 0.9, 0.92, 1.5, 0.95
FACTOR = 3.0
QUICK = ("digits", "logistic")
SETTING_SEEDS = 5  # other settings cost more
Key = tuple[str, str]


class Row(NamedTuple):
    """What the range tests of one problem and rule came to, one seed each."""

    problem: str
    rule: str
    curve: Curve
    found: list[RangeTest]

    def distances(self) -> list[float]:
        """log10 of suggestion ÷ best rate, of those that suggest one."""
        return [math.log10(f.suggestion / self.curve.best) for f in self.found if f.suggestion]

    def near(self) -> list[bool]:
        """Of each run, whether its suggestion is within FACTOR of the best rate."""
        limit = math.log10(FACTOR)
        return [
            f.suggestion is not None and abs(math.log10(f.suggestion / self.curve.best)) <= limit
            for f in self.found
        ]

    def right(self) -> list[bool]:
        """The same, or the loss at the suggestion is as good as the best."""
        slack = self.curve.slack()
        return [
            near or (f.suggestion is not None and self.curve.excess(f.suggestion) <= slack)
            for near, f in zip(self.near(), self.found, strict=True)
        ]

    def inside(self) -> list[bool]:
        """Of each run, whether its interval holds the best rate."""
        return [
            f.interval is not None and f.interval[0] <= self.curve.best <= f.interval[1]
            for f in self.found
        ]

    def widths(self) -> list[float]:
        """Decades from one end of the interval to the other."""
        return [math.log10(f.interval[1] / f.interval[0]) for f in self.found if f.interval]


def find(
    problem: Problem,
    rule: str,
    seed: int,
    points: int = 100,
    sweeps: int = 1,
    setting: Setting = PLAIN,
    before: float = 1.0,
) -> RangeTest:
    """One range test with its defaults; `before` is the rate before it, if there is any."""
    task, optimizer = setting.start(problem, rule, seed, before)

    def train_step() -> float:
        loss, gradients = task.batch()
        optimizer.step(gradients)
        return loss

    return range_test(train_step, optimizer, points=points, sweeps=sweeps)


def measure(
    problem: Problem,
    rule: str,
    seeds: Iterable[int],
    truth: Curve | None = None,
    points: int = 100,
    sweeps: int = 1,
    setting: Setting = PLAIN,
    before: float = 1.0,
) -> Row:
    """Range tests over seeds, beside the losses over rates, computed where they are not given."""
    if truth is None:
        truth = curve(problem, rule, setting)
    found = [find(problem, rule, seed, points, sweeps, setting, before) for seed in seeds]
    return Row(problem.name, rule, truth, found)


def _measure(job: tuple[Key, range, Curve, int, int, Setting, float]) -> Row:
    (name, rule), *others = job
    return measure(EVERY[name], rule, *others)


# ---- tables ----


def cell(share: float, limit: float | None = None) -> str:
    text = f"{100 * share:.0f} %"
    return f"**{text}**" if limit is not None and share < limit else text


def part(rows: list[Row], which: Callable[[Row], list[bool]]) -> float:
    """How much of all runs has a property."""
    return float(np.mean([holds for row in rows for holds in which(row)]))


def width(rows: list[Row]) -> float:
    return float(np.median([w for row in rows for w in row.widths()]))


def show(title: str, rows: list[Row]) -> None:
    """A line for each row."""
    print(f"\n**{title}**\n")
    print("| problem | rule | best rate | suggestion ÷ best | within a factor of 3 | right "
          "| best inside | decades | confidence |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        spread = "-"
        if row.distances():
            low, middle, high = np.quantile(10 ** np.array(row.distances()), [0.1, 0.5, 0.9])
            spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        kinds = [f.confidence for f in row.found]
        confidence = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
        one = [row]
        decades = f"{width(one):.2f}" if row.widths() else "-"
        print(
            f"| {row.problem} | {row.rule} | {row.curve.best:.2g} | {spread} "
            f"| {cell(part(one, Row.near))} | {cell(part(one, Row.right))} "
            f"| {cell(part(one, Row.inside))} | {decades} | {confidence} |"
        )
    sys.stdout.flush()


def show_groups(title: str, head: str, groups: dict[str, list[Row]]) -> None:
    """A line for some rows together."""
    print(f"\n**{title}**\n")
    print(f"| {head} | runs | within a factor of 3 | right | best inside | decades |")
    print("|---|---|---|---|---|---|")
    for name, rows in groups.items():
        if rows:
            print(
                f"| {name} | {sum(len(row.found) for row in rows)} | {cell(part(rows, Row.near))} "
                f"| {cell(part(rows, Row.right), RIGHT)} "
                f"| {cell(part(rows, Row.inside), INSIDE)} | {width(rows):.2f} |"
            )
    sys.stdout.flush()


def show_confidence(rows: list[Row]) -> bool:
    """How often each confidence is right; whether a high one is as often as it must."""
    told = [
        (f.confidence, right)
        for row in rows
        for f, right in zip(row.found, row.right(), strict=True)
    ]
    print("\n**Confidence**\n\n| confidence | runs | right |\n|---|---|---|")
    held = True
    for kind in ("high", "medium", "low", "inconclusive"):
        rights = [right for confidence, right in told if confidence == kind]
        if rights:
            share = float(np.mean(rights))
            print(f"| {kind} | {len(rights)} | {cell(share, SURE if kind == 'high' else None)} |")
            held = held and (kind != "high" or share >= SURE)
    return held


def summarize(rows: list[Row]) -> bool:
    """Print what was promised first, of these rows together; return whether it holds."""
    near, inside, wide = part(rows, Row.near), part(rows, Row.inside), width(rows)
    print(
        f"\nTogether: within a factor of 3 in {cell(near, NEAR)} (≥ {100 * NEAR:.0f} %), best rate "
        f"inside in {cell(inside, NEAR)} (≥ {100 * NEAR:.0f} %), median interval {wide:.2f} "
        f"decades (≤ {WIDTH})."
    )
    return near >= NEAR and inside >= NEAR and wide <= WIDTH


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--choose", action="store_true", help="the problems to choose constants on")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)}, 5 seeds")
    parser.add_argument("--seeds", type=int, default=20, help="range tests a row (default: 20)")
    parser.add_argument("--cache", type=Path, help="a folder to keep the losses over rates in")
    arguments = parser.parse_args()
    if arguments.cache:
        arguments.cache.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2) as pool:
        return report(pool, arguments)


def report(pool: ProcessPoolExecutor, arguments: argparse.Namespace) -> int:
    count = 5 if arguments.quick else arguments.seeds
    first = 1100 if arguments.choose else 0
    seeds = range(first, first + count)
    problems = named("choose" if arguments.choose else "report")
    if arguments.quick:
        problems = [problem for problem in problems if problem.name in QUICK]
    asked = [(problem.name, rule) for problem in problems for rule in RULES]

    def rows_of(
        truth: dict[Key, Curve],
        setting: Setting = PLAIN,
        points: int = 100,
        sweeps: int = 1,
        seeds: range = seeds,
    ) -> list[Row]:
        jobs = [
            (key, seeds, found, points, sweeps, setting, base[key].best / 3)
            for key, found in truth.items()
        ]
        return list(pool.map(_measure, jobs))

    base = curves(pool, asked, cache=arguments.cache)
    print(
        f"Best: the lowest mean loss of all examples after {UPDATES} updates, over 5 seeds, on a "
        f"grid of {PER_DECADE} rates a decade. Right: within a factor of {FACTOR:g}, or with a "
        f"loss that exceeds the best one by at most {100 * ALIKE:.0f} % of it (of at least a tenth "
        "and at most all of the fall; of the fall, where the loss has no natural zero). Told "
        f"apart: a tenth and ten times the best rate both lose {100 * WORSE:.0f} % of the same. "
        f"{count} range tests a row."
    )
    rows = rows_of(base)
    told = [row for row in rows if row.curve.is_told_apart()]
    flat = [row for row in rows if not row.curve.is_told_apart()]
    by_rule = {rule: [row for row in told if row.rule == rule] for rule in RULES}
    show_groups("Rates that are told apart", "rule", by_rule | {"together": told})
    show_groups(
        "Alike over a decade or more on one side",
        "rule",
        {rule: [row for row in flat if row.rule == rule] for rule in RULES} | {"together": flat},
    )
    show_groups("All", "", {"together": rows})
    held = part(rows, Row.right) >= RIGHT and part(told, Row.inside) >= INSIDE
    held = show_confidence(rows) and held and width(told) <= WIDTH
    if arguments.quick or arguments.choose:
        if not arguments.quick:
            show("Each", rows)
        return int(not held)
    changed = {}
    for setting in SETTINGS[1:]:
        near = {key: found.best for key, found in base.items()}
        truth = curves(pool, asked, setting, near, seeds=3, cache=arguments.cache)
        changed[setting.name] = rows_of(truth, setting, seeds=seeds[:SETTING_SEEDS])
    show_groups(f"In other settings, {SETTING_SEEDS} range tests a row", "setting", changed)
    first_promise = [row for row in rows if (row.problem, row.rule) in PROMISED]
    show("Promised first", first_promise)
    held = summarize(first_promise) and held
    show("Each", rows)
    truth = {(row.problem, row.rule): row.curve for row in first_promise}
    again = {
        f"{points} points, {sweeps} sweep{'s' * (sweeps > 1)}": rows_of(
            truth, points=points, sweeps=sweeps
        )
        for points, sweeps in ((50, 1), (200, 1), (100, 3))
    }
    show_groups("Promised first, with other sweeps", "sweep", again)
    limits = [(problem.name, "SGD") for problem in named("limit")]
    base |= curves(pool, limits, cache=arguments.cache)
    show("What a sweep cannot see", rows_of({key: base[key] for key in limits}))
    return int(not held)


if __name__ == "__main__":
    raise SystemExit(main())
