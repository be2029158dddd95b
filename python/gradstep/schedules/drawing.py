"""The curve of a schedule: how far to look where it has no end, and what to draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..charts import Axis, Line, Panel, number
from ..notebooks import chart, picture, whatever_comes
from . import arguments as check

USUAL = 1000  # updates of what says nothing of its length
PERIODS = 4  # of what repeats
LOST = 0.01  # part of its value at which a decay has been seen
POINTS = 1000
HEIGHT = 180  # pixels


@whatever_comes
def html(schedule: Any) -> str | None:
    """The curve over the expression that makes the schedule; None: it has none."""
    drawn = panel(schedule)
    return None if drawn is None else chart(drawn, f"{schedule!r}, over updates")


@whatever_comes
def svg(schedule: Any) -> str | None:
    """The curve as a picture on its own; None: there is none."""
    drawn = panel(schedule)
    return None if drawn is None else picture(drawn)


def length(schedule: Any) -> int:
    """How many updates show what a schedule does: its total, some periods, or until it is low."""
    return math.ceil(min(max(_length(schedule._name, schedule._arguments), 1), check.FOREVER - 1))


def _length(name: str, given: dict[str, Any]) -> float:
    if "total" in given:
        return float(given["total"])
    if "of" in given:
        return _of(name, given, length(given["of"]))
    if "schedules" in given:
        parts = [length(part) for part in given["schedules"]]
        return given["at"][-1] + parts[-1] if name == "join" and given["at"] else max(parts)
    own = LENGTHS.get(name)
    return USUAL if own is None else own(given)


def _of(name: str, given: dict[str, Any], inner: int) -> float:
    """What is made of one other schedule."""
    if name == "warmup" and "total" not in given["of"]._arguments:
        return float(given["updates"] + inner)
    if name == "repeat":
        return float(PERIODS * given["every"])
    if name == "shift":
        return float(inner + given["by"])
    return float(inner * given["every"]) if name == "stairs" else inner


def _decays(rate: float) -> float:
    """How often something is multiplied until little of it is left, or much more is there."""
    return PERIODS if rate in (0, 1) else abs(math.log(LOST) / math.log(rate))


# Of forms without a total, by their arguments.
LENGTHS: dict[str, Callable[[dict[str, Any]], float]] = {
    "cosine_restarts": lambda a: a["first"] * sum(min(a["t_mult"], 1e9) ** i for i in range(3)),
    "cosine_wave": lambda a: 2 * PERIODS * a["half_period"],
    "cyclic": lambda a: PERIODS * (a["step_size"] + (a["step_size_down"] or a["step_size"])),
    "drop": lambda a: 1.25 * a["milestones"][-1] if a["milestones"] else USUAL,
    "exponential": lambda a: a["begin"] + a["decay_steps"] * _decays(a["decay_rate"]),
    "interpolate": lambda a: a["points"][-1][0],
    "inverse_sqrt": lambda a: a["warmup"] + 10 * a["timescale"],
    "inverse_time": lambda a: 10 * a["decay_steps"] / a["decay_rate"] if a["decay_rate"] else USUAL,
    "noam": lambda a: 10 * a["warmup"],
    "step": lambda a: (PERIODS + 1) * a["step_size"],
    "table": lambda a: len(a["values"]),
}


def panel(schedule: Any) -> Panel | None:
    """Its values over :func:`length` updates; None where they are no numbers to draw."""
    total = length(schedule)
    try:
        schedule(total)
    except ValueError:  # it ends before
        total -= 1
    t = np.unique(np.linspace(0, total, POINTS).round().astype(np.int64))
    values = schedule(t)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    margin = 0.05 * (high - low) or 1.0
    axis = Axis(low - margin, high + margin)
    if not math.isfinite(axis.high - axis.low):
        return None
    steps = t.astype(np.float64)
    said = (
        f"from {number(float(values[0]))} to {number(float(values[-1]))} in {total:,} updates; "
        f"lowest {number(float(values.min()))}, highest {number(float(values.max()))}"
    )
    return Panel(
        "schedule", "Values over updates", said, HEIGHT,
        Axis(0, max(total, 1), whole=True), axis, lines=[Line(steps, values, "rate")],
    )  # fmt: skip
