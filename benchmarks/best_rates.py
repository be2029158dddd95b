"""Which rates are best, in what setting, and how much the others lose: the truth for the tools.

A curve is found in two passes: every second rate of the grid, with two seeds, and all rates around
the best of these, with all seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gradstep as gs
from more_problems import EVERY
from rate_problems import PER_DECADE, RULES, UPDATES, Problem, Task, grid

WARMUP = 20  # updates
BEFORE = 300  # updates
ALIKE = 0.1  # losses are alike within this part of the best, or of the fall
WORSE = 0.15  # a tenth and ten times the best must lose this part of the same to be told apart
AROUND = 6  # rates of the grid on either side of the best, each with all seeds


@dataclass(frozen=True)
class Setting:
    """How a training goes beside its rate.

    Attributes:
        name: in tables.
        warmup: updates over which the rate rises evenly from 0.
        before: updates made at a third of the best rate before any of this begins.
        options: of the optimizer.
    """

    name: str
    warmup: int = 0
    before: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def start(
        self, problem: Problem, rule: str, seed: int, rate: float, **options: Any
    ) -> tuple[Task, gs.Optimizer]:
        """A task and its optimizer where the training begins; `rate` is that of before."""
        task = problem.make(seed)
        optimizer = RULES[rule](task.params, rate, **self.options, **options)
        for _ in range(self.before):
            optimizer.step(task.batch()[1])
        return task, optimizer


PLAIN = Setting("from the start")
SETTINGS = [
    PLAIN,
    Setting(f"with a warm-up of {WARMUP} updates", warmup=WARMUP),
    Setting(f"after {BEFORE} updates", before=BEFORE),
    Setting("with clip_norm=1", options={"clip_norm": 1.0}),
]


class Curve(NamedTuple):
    """The mean loss of all examples at the end over rates; infinite where it is no number."""

    rates: list[float]
    losses: list[float]
    start: float
    zero: bool

    @property
    def best(self) -> float:
        return self.rates[int(np.argmin(self.losses))]

    @property
    def fall(self) -> float:
        return self.start - min(self.losses)

    def slack(self) -> float:
        """How far above the best a loss is as good: a tenth of the best loss, but of at least a
        tenth and at most all of the fall; of the fall where the loss has no natural zero."""
        least = min(self.losses)
        return ALIKE * (
            float(np.clip(least, self.fall / 10, self.fall)) if self.zero else self.fall
        )

    def excess(self, rate: float) -> float:
        """How far above the best the loss at a rate is; between rates, by a straight line."""
        capped = np.minimum(self.losses, self.start + 10 * abs(self.fall))
        logs = np.log(self.rates)
        if not logs[0] - 1e-9 <= math.log(rate) <= logs[-1] + 1e-9:
            return math.inf
        return float(np.interp(math.log(rate), logs, capped)) - min(self.losses)

    def alike(self) -> tuple[float, float]:
        """The rates around the best whose losses are within the slack."""
        good = np.array(self.losses) <= min(self.losses) + self.slack()
        low = high = int(np.argmin(self.losses))
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(good) and good[high + 1]:
            high += 1
        return self.rates[low], self.rates[high]

    def is_told_apart(self) -> bool:
        """Whether a tenth and ten times the best rate are clearly worse than it."""
        low, high = (np.clip(self.best * m, self.rates[0], self.rates[-1]) for m in (0.1, 10.0))
        return min(self.excess(low), self.excess(high)) > WORSE / ALIKE * self.slack()


def _runs(
    problem: Problem, rule: str, setting: Setting, before: float, seed: int, rates: list[float]
) -> Iterator[float]:
    """The loss at the end for each rate."""
    for rate in rates:
        task, optimizer = setting.start(problem, rule, seed, before)
        loss = 0.0
        for k in range(UPDATES):
            optimizer.groups[0]["lr"] = rate * min(1.0, (k + 1) / max(1, setting.warmup))
            loss, gradients = task.batch()
            if not np.isfinite(loss):
                break
            optimizer.step(gradients)
        else:
            loss = task.loss()
        yield loss if np.isfinite(loss) else np.inf


def curve(
    problem: Problem, rule: str, setting: Setting = PLAIN, near: float | None = None, seeds: int = 5
) -> Curve:
    """The losses over the rates of a rule.

    Args:
        near: the best rate from the start; other settings look for theirs within a decade of it,
            at every second rate.
    """
    first = 1000 if problem.purpose == "choose" else 0
    rates = grid(rule)
    found: dict[int, list[float]] = {}

    def extend(places: Iterable[int], count: int) -> None:
        for i in places:
            have = found.setdefault(i, [])
            for seed in range(first + len(have), first + count):
                before = (near or 1.0) / 3
                have += _runs(problem, rule, setting, before, seed, [float(rates[i])])

    def least() -> int:
        return min(found, key=lambda i: (float(np.mean(found[i])), i))

    at = -1
    if near is None:
        extend(range(0, len(rates), 2), 2)
    else:
        at = middle = int(np.argmin(np.abs(np.log(rates / near))))
        places = range(middle - PER_DECADE, middle + PER_DECADE + 1, 2)
        extend([i for i in places if 0 <= i < len(rates)], seeds)
    while near is None and at != least():
        at = least()
        extend(range(max(0, at - AROUND), min(len(rates), at + AROUND + 1)), seeds)
    start = np.mean(
        [setting.start(problem, rule, first + s, (near or 1.0) / 3)[0].loss() for s in range(3)]
    )
    places = sorted(found)
    means = [float(np.mean(found[i])) for i in places]
    return Curve([float(rates[i]) for i in places], means, float(start), problem.zero)


def _one(arguments: tuple[str, str, Setting, float | None, int, Path | None]) -> Curve:
    name, rule, setting, near, seeds, cache = arguments
    path = cache / f"{name}-{rule}-{setting.name}-{seeds}.json".replace(" ", "_") if cache else None
    if path and path.exists():
        return Curve(**json.loads(path.read_text()))
    found = curve(EVERY[name], rule, setting, near, seeds)
    if path:
        path.write_text(json.dumps(found._asdict()))
    return found


def curves(
    pool: ProcessPoolExecutor,
    asked: list[tuple[str, str]],
    setting: Setting = PLAIN,
    near: dict[tuple[str, str], float] | None = None,
    seeds: int = 5,
    cache: Path | None = None,
) -> dict[tuple[str, str], Curve]:
    """The curves of problems and rules, by their names; kept in a folder if there is one."""
    jobs = [(*one, setting, near[one] if near else None, seeds, cache) for one in asked]
    return dict(zip(asked, pool.map(_one, jobs), strict=True))
