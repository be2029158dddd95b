"""The logs that people have, read: one :class:`Log` for each run, whatever tool wrote it.

What a file is, is found out from its content. Data in, data out.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .columns import ROLES, Chosen
from .finding import Refused

Array = NDArray[np.float64]

INTERLEAVED = 0.05  # the part of all lines that may go back to an earlier step


@dataclass(frozen=True)
class Log:
    """What a run logged, a point for each line that has a loss.

    Attributes:
        name: of the run: its file, folder or column.
        kind: what wrote it, in words.
        columns: which of its columns were taken, by role.
        steps: float64, shape (points,), rising.
        losses: float64, shape (points,); infinite where what was logged was no finite number.
        rates: the learning rate, float64, shape (points,); NaN where it is not known.
        grad_norms: of the gradients, float64, shape (points,); NaN where it is not known.
        evaluation_steps, evaluations: losses of other data, float64.
        unit: of the steps: "step", "epoch", or "line" where the log does not count.
        total: steps that the run is to make; None: unknown.
        notes: what was done to the lines, in words.
    """

    name: str
    kind: str
    columns: Mapping[str, str]
    steps: Array
    losses: Array
    rates: Array
    grad_norms: Array
    evaluation_steps: Array = field(default_factory=lambda: np.empty(0))
    evaluations: Array = field(default_factory=lambda: np.empty(0))
    unit: str = "step"
    total: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_rates(self) -> bool:
        return bool(np.isfinite(self.rates).any())


class Rows:
    """Lines of one run, as they come: a number for each role, NaN where a line has none."""

    def __init__(self) -> None:
        self.values = {role: array("d") for role in ROLES}

    def add(self, row: Mapping[str, float]) -> None:
        for role, column in self.values.items():
            column.append(row.get(role, math.nan))

    def take(self, columns: Mapping[str, array[float]], count: int) -> None:
        """All lines at once: the columns of some roles; the others are empty."""
        for role, column in columns.items():
            assert len(column) == count
            self.values[role] = column

    def columns(self) -> dict[str, Array]:
        """The numbers of each role."""
        count = len(self.values["loss"])
        nothing = np.broadcast_to(math.nan, (count,))
        return {
            role: np.frombuffer(values) if len(values) else nothing
            for role, values in self.values.items()
        }


def finish(
    name: str, kind: str, chosen: Chosen, rows: Rows, *, total: int | None = None,
    notes: Sequence[str] = (),
) -> Log:  # fmt: skip
    """A run's lines as a log: each loss at its step, with the rate and the norm known there.

    A step that goes back is a run that was taken up again from there: what it had logged beyond is
    replaced. Of several losses of one step, the last counts.

    Raises:
        Refused: there is no loss, or two runs are mixed.
    """
    notes = list(notes)
    columns = rows.columns()
    has_loss = ~np.isnan(columns["loss"])
    if not has_loss.any():
        raise Refused(
            f"{name}: got no loss in any line (looked at {chosen.words().get('loss', 'nothing')}), "
            "wanted --loss NAME of a column with numbers"
        )
    places = np.flatnonzero(has_loss)
    totals = columns["total"][np.isfinite(columns["total"])]
    if total is None and len(totals):
        total = int(totals[-1])
    steps, unit = _steps(name, columns, places, total, notes)
    if total is not None and total < steps[-1]:  # that of an epoch
        total = None
    keep = _lasting(name, steps, notes)
    evaluated = np.flatnonzero(~np.isnan(columns["evaluation"]))
    at = np.interp(evaluated, places, steps) if len(evaluated) else np.empty(0)
    if unit == "step" and np.array_equal(steps, _beside(columns["step"], places)):
        own = columns["step"][evaluated]
        at = np.where(np.isfinite(own), own, at)
    known = evaluated >= (places[keep[0]] if len(keep) else 0)
    return Log(
        name, kind, chosen.words(), steps[keep], columns["loss"][places][keep],
        _beside(columns["lr"], places)[keep], _beside(columns["grad_norm"], places)[keep],
        at[known], columns["evaluation"][evaluated][known], unit, total, tuple(notes),
    )  # fmt: skip


def _beside(values: Array, places: NDArray[np.intp]) -> Array:
    """Each line's value, or that of the nearest line before, or else after, that has one."""
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return np.full(len(places), np.nan)
    before = np.searchsorted(known, places, side="right") - 1
    found: Array = values[known[np.maximum(before, 0)]]
    return found


def _steps(
    name: str, columns: Mapping[str, Array], places: NDArray[np.intp], total: int | None,
    notes: list[str],
) -> tuple[Array, str]:  # fmt: skip
    """The step of each line with a loss, and what it counts."""
    for role, unit in (("step", "step"), ("epoch", "epoch")):
        if np.isnan(columns[role]).all():
            continue
        found = _beside(columns[role], places)
        if not np.isfinite(found).all():
            raise Refused(f"{name}: got a {role} that is not finite, wanted a number")
        if len(found) > 2 and (np.diff(found) == 0).mean() > 0.5:
            continue  # it counts something coarser than lines
        if role == "step":
            found = _across_epochs(found, _beside(columns["epoch"], places), total, notes)
        return found, unit
    notes.append("the log counts no steps: its lines are counted")
    return np.arange(1.0, len(places) + 1), "line"


def _across_epochs(steps: Array, epochs: Array, total: int | None, notes: list[str]) -> Array:
    """Steps that begin again in each epoch, counted on."""
    back = np.flatnonzero(np.diff(steps) < 0) + 1
    if not len(back):
        return steps
    ends = steps[back - 1]
    if not np.isnan(epochs).all():
        begins_again = bool((epochs[back] > epochs[back - 1]).all())
    elif total is not None and (ends >= total - 1).all():
        begins_again = True
    else:
        low = bool((steps[back] <= steps[0] + 0.02 * ends).all())
        begins_again = low and len(back) > 1 and bool(ends.max() <= 1.1 * ends.min())
    if not begins_again:
        return steps
    offset = np.zeros(len(steps))
    offset[back] = ends - steps[back] + max(float(np.median(np.diff(steps))), 1.0)
    notes.append("steps begin again in each epoch: they are counted on")
    counted: Array = steps + np.cumsum(offset)
    return counted


def _lasting(name: str, steps: Array, notes: list[str]) -> NDArray[np.intp]:
    """The lines that count: from the last on, those of which no later one has a step as low."""
    if not len(steps):
        return np.empty(0, np.intp)
    back = np.flatnonzero(np.diff(steps) < 0)
    if len(back) > max(2, INTERLEAVED * len(steps)):
        raise Refused(
            f"{name}: got steps that go back {len(back)} times in {len(steps)} lines, as of "
            "several runs in one file, wanted one run in each file, or --step NAME of another "
            "column"
        )
    later = np.minimum.accumulate(steps[::-1])[::-1]
    keep = np.flatnonzero(np.append(steps[:-1] < later[1:], True))
    if len(back):
        notes.append(
            f"the run went back to an earlier step {_times(len(back))}: what was logged beyond it "
            "before is left out"
        )
    elif len(keep) < len(steps):
        notes.append(f"{len(steps) - len(keep)} lines repeat a step: the last of each counts")
    return keep


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
