"""What all formats have in common: lines, and numbers that each have steps of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from ..columns import Chosen, choose, number
from ..finding import Refused
from ..logs import Log, Rows, finish

Asked = Mapping[str, str]  # names of columns by role

SAMPLE = 2000  # lines that tell which columns there are
BLOCK = 1 << 20  # characters read at once
LONGEST = 1 << 20  # characters of a line

WANTED = (
    "wanted JSON lines, a trainer_state.json, CSV, TensorBoard's event files, or text whose lines "
    "have a loss, such as 'step 120: loss 3.2 lr 1e-3'"
)
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
UNFINISHED = "the last line has no end yet and was left out"


def lines_of(file: TextIO) -> Iterator[tuple[list[str], bool]]:
    """The lines of a text that are not empty, many at once, and whether the last of them ends.

    A carriage return ends a line, too: tqdm writes one after the other over the same.
    """
    rest = ""
    while text := file.read(BLOCK):
        text = (rest + text).replace("\r", "\n")
        if "\x1b" in text:
            text = COLOURS.sub("", text)
        lines = text.split("\n")
        rest = lines.pop()
        if len(rest) > LONGEST:
            rest = rest[:LONGEST]  # no line of a log; its end is looked for
        yield [line for line in lines if line and not line.isspace()], True
    if rest.strip():
        yield [rest], False


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
