"""What is said of a rate from the loss alone: `python benchmarks/loss_curves.py`.

Trainings at a tenth of the best rate, at it, and at ten times it, of whose log nothing but step,
loss and rate is shown to `gradstep.tuning.judge`; all of 200 updates, and every fifth alone. The
weights in `gradstep/tuning/signs.py` were fitted to other problems with other seeds than these;
`--choose` prints the table of those, and the weights. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import sys

# One thread each: the arrays are small, and the answers do not depend on it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradstep.tuning import Log, judge
from gradstep.tuning.signs import signs
from more_problems import EVERY, named
from rate_problems import RATES, RULES, losses

Array = NDArray[np.float64]

UPDATES, SEEDS, CHOSEN_FROM = 200, 10, 1010
PER_DECADE = 4  # of the grid that the best rate is looked for on
RULES_USED = ("SGD", "momentum", "Adam")
RIGHT = {0.1: {"too low"}, 1.0: {"fine", "plateau"}, 10.0: {"too high", "diverging"}}
NAMES = {0.1: "a tenth of the best", 1.0: "the best", 10.0: "ten times the best"}
KINDS = ("too low", "fine", "plateau", "too high", "diverging", "inconclusive")
WRONG, SILENT = {1: 0.08, 5: 0.10}, 0.35


class Case(NamedTuple):
    """One problem and rule: its best rate, and curves by multiple, (seeds, updates)."""

    problem: str
    rule: str
    best: float
    curves: dict[float, Array]


def final(name: str, rule: str, rate: float, seed: int) -> float:
    """The loss of all examples after a training; infinite where it is no number."""
    task = EVERY[name].make(seed)
    optimizer = RULES[rule](task.params, rate)
    for _ in range(UPDATES):
        loss, gradients = task.batch()
        if not np.isfinite(loss):
            return np.inf
        try:
            optimizer.step(gradients)
        except ArithmeticError:
            return np.inf
    loss = task.loss()
    return loss if np.isfinite(loss) else np.inf


def case(name: str, rule: str, seeds: int) -> Case | None:
    """None where the best rate lies at the end of the grid, or is alike over a decade."""
    choose = EVERY[name].purpose == "choose"
    first, low_high = (1000 if choose else 0), RATES[rule]
    low, high = low_high
    grid = np.logspace(low, high, (high - low) * PER_DECADE + 1)
    with np.errstate(all="ignore"):
        ends = np.array(
            [np.mean([final(name, rule, r, s) for s in range(first, first + 3)]) for r in grid]
        )
    i = int(ends.argmin())
    if not PER_DECADE <= i < len(grid) - PER_DECADE:
        return None
    start = float(np.mean([EVERY[name].make(s).loss() for s in range(first, first + 3)]))
    fall = start - ends[i]
    if min(ends[i - PER_DECADE], ends[i + PER_DECADE]) - ends[i] <= 0.02 * fall:
        return None
    begin = CHOSEN_FROM if choose else 0
    curves = {
        multiple: np.array(
            [
                losses(EVERY[name], rule, float(grid[i]) * multiple, seed, UPDATES)[:, 0]
                for seed in range(begin, begin + seeds)
            ]
        )
        for multiple in RIGHT
    }
    return Case(name, rule, float(grid[i]), curves)


def shown(curve: Array, rate: float, every: int) -> Log:
    """A training as a tool logs it."""
    points = curve[every - 1 :: every]
    steps = np.arange(every, every * len(points) + 1, every, dtype=float)
    points = np.where(np.isfinite(points), points, np.inf)
    same, unknown = np.full(len(points), rate), np.full(len(points), np.nan)
    return Log("run", "numbers", {"loss": "loss", "lr": "lr"}, steps, points, same, unknown)


def table(cases: list[Case], every: int) -> tuple[float, float]:
    """Print the verdicts; return how many are wrong, and how many say nothing."""
    counts = {multiple: Counter[str]() for multiple in RIGHT}
    sure = {word: [0, 0] for word in ("high", "medium", "low")}
    by_problem: Counter[str] = Counter()
    for one in cases:
        for multiple, curves in one.curves.items():
            for curve in curves:
                judged = judge(shown(curve, one.best * multiple, every))
                kind = judged.verdict.kind
                counts[multiple][kind] += 1
                if kind != "inconclusive":
                    right = kind in RIGHT[multiple]
                    sure[judged.confidence][0] += right
                    sure[judged.confidence][1] += 1
                    by_problem[one.problem] += not right
    total = sum(count.total() for count in counts.values())
    silent = sum(count["inconclusive"] for count in counts.values())
    right = sum(counts[multiple][kind] for multiple in RIGHT for kind in RIGHT[multiple])
    what = "every update logged" if every == 1 else f"every {every}th update logged"
    print(f"\n**{what}**\n\n| rate | {' | '.join(KINDS)} |\n|{'---|' * (len(KINDS) + 1)}")
    for multiple, count in counts.items():
        print(f"| {NAMES[multiple]} | {' | '.join(str(count[kind]) for kind in KINDS)} |")
    wrong, nothing = (total - silent - right) / total, silent / total
    print(
        f"\nWrong in {100 * wrong:.1f} % (≤ {100 * WRONG[every]:.0f} %), nothing said in "
        f"{100 * nothing:.1f} % (≤ {100 * SILENT:.0f} %), of {total} runs."
    )
    print("\n| confidence | right | of |\n|---|---|---|")
    for word, (hits, said) in sure.items():
        print(f"| {word} | {100 * hits / max(said, 1):.0f} % | {said} |")
    worst = ", ".join(f"{name} {count}" for name, count in by_problem.most_common(4) if count)
    print(f"\nMost of the wrong ones: {worst or 'none'}.")
    sys.stdout.flush()
    return wrong, nothing


def fit(cases: list[Case]) -> None:
    """Print the weights of `signs.py`."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    rows, kinds, names = [], [], []
    for every in (1, 2, 5):
        for one in cases:
            for i, curves in enumerate(one.curves.values()):
                for curve in curves:
                    if np.isfinite(curve).all():
                        found = signs(curve[every - 1 :: every])
                        names = list(found)
                        rows.append(list(found.values()))
                        kinds.append(i)
    scaler = StandardScaler().fit(rows)
    model = LogisticRegression(C=0.3, max_iter=500).fit(scaler.transform(rows), kinds)
    weights = model.coef_ / scaler.scale_
    bias = model.intercept_ - weights @ scaler.mean_
    for name, column, middle in zip(names, weights.T, scaler.mean_, strict=True):
        numbers = ", ".join(f"{weight:.3g}" for weight in column)
        print(f'    "{name}": ({numbers}),  # its mean: {middle:.3g}')
    print(f"BIAS = ({', '.join(f'{x:.3g}' for x in bias)})")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--choose", action="store_true", help="the problems to choose on")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="a cell (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="three problems, Adam, three seeds")
    arguments = parser.parse_args()
    problems = [problem.name for problem in named("choose" if arguments.choose else "report")]
    jobs = [(name, rule, arguments.seeds) for name in problems for rule in RULES_USED]
    if arguments.quick:
        jobs = [(name, "Adam", 3) for name in ("digits", "logistic", "text")]
    with ProcessPoolExecutor(2) as pool:
        cases = [one for one in pool.map(case, *zip(*jobs, strict=True)) if one is not None]
    print(
        f"{len({one.problem for one in cases})} problems, {len(cases)} of {len(jobs)} pairs of "
        f"problem and rule whose best rate is told apart; {UPDATES} updates."
    )
    if arguments.choose:
        fit(cases)
    missed = False
    for every in (1, 5):
        wrong, silent = table(cases, every)
        if every == 1 or not arguments.quick:  # of few runs, thinned, a share says little
            missed |= wrong > WRONG[every]
        missed |= every == 1 and silent > SILENT and not arguments.quick
    return int(missed and not arguments.choose)


if __name__ == "__main__":
    sys.exit(main())
