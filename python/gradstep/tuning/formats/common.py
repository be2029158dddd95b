"""What all formats have in common: lines, and numbers that each have steps of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..columns import Chosen, choose, number
from ..finding import Refused
from ..logs import Log, Rows, finish

Asked = Mapping[str, str]  # names of columns by role

SAMPLE = 2000  # lines that tell which columns there are

WANTED = (
    "wanted JSON lines, a trainer_state.json, CSV, TensorBoard's event files, or text whose lines "
    "have a loss, such as 'step 120: loss 3.2 lr 1e-3'"
)
UNFINISHED = "the last line has no end yet and was left out"


class Reader(Protocol):
    """Takes in the lines of a file, none of them empty, as they come."""

    def take(self, lines: list[str]) -> None:
        """Take in some more."""

    def logs(self, notes: Sequence[str] = ()) -> tuple[Log, ...]:
        """The runs, as far as they were taken in; it may be asked again."""


class Held:
    """Holds the first lines until they tell how all are to be read; a reader."""

    def __init__(self, name: str, enough: int, begin: Callable[[list[str]], Reader]) -> None:
        """``begin`` gets the first lines and returns what reads the others, these taken in."""
        self._name, self._enough, self._begin = name, enough, begin
        self._lines: list[str] = []
        self._reader: Reader | None = None

    def take(self, lines: list[str]) -> None:
        if self._reader is not None:
            self._reader.take(lines)
            return
        self._lines += lines
        if len(self._lines) >= self._enough:
            self._reader, self._lines = self._begin(self._lines), []

    def logs(self, notes: Sequence[str] = ()) -> tuple[Log, ...]:
        if self._reader is not None:
            return self._reader.logs(notes)
        if not self._lines:
            raise Refused(f"{self._name}: got no line that has its end, {WANTED}")
        return self._begin(self._lines).logs(notes)


def refused(name: str, error: LookupError, found: str) -> Refused:
    words = error.args[0] if error.args else "no loss"
    return Refused(f"{name}: {words}; found {found}")


def check_loss(name: str, chosen: Chosen, what: str, found: str) -> None:
    if "loss" not in chosen.names:
        raise Refused(
            f"{name}: got {what} without a loss (looked for loss, train_loss, train/loss and the "
            f"like), found {found}, wanted --loss NAME"
        )


def of_series(
    name: str, kind: str, series: Mapping[str, tuple[Any, Any]], asked: Asked
) -> tuple[Log, ...]:
    """Numbers that each have steps of their own, joined where the loss has its steps."""
    own = {role: title for role, title in asked.items() if role != "step"}
    try:
        chosen = choose(series, own)
    except LookupError as error:
        raise refused(name, error, ", ".join(series)) from None
    check_loss(name, chosen, "numbers", ", ".join(series) or "nothing")
    events: list[tuple[float, int, str, float]] = []
    for order, role in enumerate(("lr", "grad_norm", "epoch", "loss", "evaluation")):
        title = chosen.name(role)
        if title is not None:
            steps, values = series[title]
            events += [
                (float(step), order, role, number(float(value)))
                for step, value in zip(steps, values, strict=True)
            ]
    events.sort(key=lambda event: event[:2])
    rows = Rows()
    for step, _, role, value in events:
        rows.add({"step": step, role: value if not math.isnan(value) else math.inf})
    return (finish(name, kind, chosen, rows),)
