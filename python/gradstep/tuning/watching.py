"""The diagnosis of a training that was logged: what `gradstep watch` does."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import plots
from .finding import Refused
from .monitor import Monitor, Verdict

NEEDED = ("loss", "t", "update_norm", "param_norm", "grad_norm")
OPTIONAL = ("cosine", "g2_over_v")


@dataclass(frozen=True)
class Watched:
    """What a log came to.

    `verdict`: the last. `history`: each that was another than the one before, and after how many
    lines; spikes and those that say nothing are left out. `spikes`: how many there were. `steps`,
    `losses`, `rates`, `ratios`: of every line, the rate of the first group and update over weights;
    NaN where unknown. `unfinished`: whether the last line had no end and was left out.
    """

    verdict: Verdict
    history: tuple[tuple[int, Verdict], ...]
    spikes: int
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    rates: tuple[float, ...]
    ratios: tuple[float, ...]
    unfinished: bool

    def plot(self, path: Path | str, *, title: str = "A run and its verdict") -> Path:
        """Draw loss, rate and update over weights; see `plots.run`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        marks = [(line, verdict.kind) for line, verdict in self.history]
        return plots.run(self.losses, self.rates, self.ratios, path, title=title, marks=marks)


def watch(path: Path | str, *, momentum: bool | None = None) -> Watched:
    """Have a :class:`Monitor` look at a log.

    Args:
        path: a file with one JSON object a line: ``loss`` and the keys of a report, of every step.
            null stands for what is not finite, or not known.
        momentum: see :class:`Monitor`.

    Raises:
        Refused: a line is no such object; it is named.
        OSError: the file cannot be read.
    """
    monitor = Monitor(momentum=momentum)
    history: list[tuple[int, Verdict]] = []
    kind, spikes = "inconclusive", 0
    rows: list[tuple[int, float, float, float]] = []
    unfinished = False
    for number, text, ended in _lines(Path(path)):
        try:
            entry = _entry(text)
        except ValueError as error:
            if not ended:
                unfinished = True
                break
            raise Refused(f"{path}, line {number}: {error}") from None
        loss = entry.pop("loss")
        if rows and entry["t"] < rows[-1][0]:  # it went back to an earlier state
            monitor.restart()
        verdict = monitor(entry, loss)
        if verdict.kind == "spike":
            spikes += 1
        elif verdict.kind != kind:
            kind = verdict.kind
            history.append((len(rows) + 1, verdict))
        weights = entry.get("param_norm", math.nan)
        ratio = entry.get("update_norm", math.nan) / weights if weights else math.nan
        rate = entry.get("lr")
        if isinstance(rate, list):
            rate = rate[0] if rate else None
        rows.append((entry["t"], loss, math.nan if rate is None else float(rate), ratio))
    if not rows:
        raise Refused(f"{path}: got no complete line, wanted one JSON object for each step")
    steps, losses, rates, ratios = zip(*rows, strict=True)
    told = tuple(one for one in history if one[1].kind != "inconclusive")
    return Watched(
        monitor.verdict, told, spikes, steps, losses, rates, ratios, unfinished
    )  # fmt: skip


def _lines(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Number, text and whether it ends, of each line that is not empty."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line, line.endswith("\n")


def _entry(text: str) -> dict[str, Any]:
    """A line's object, as the monitor wants it.

    Raises:
        ValueError: it is none.
    """
    try:
        entry = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"got no JSON ({error.msg}), wanted an object") from None
    if not isinstance(entry, dict):
        raise ValueError(f"got {_kind(entry)}, wanted an object")
    skipped = entry.get("skipped", False) is True
    for key in NEEDED:
        if key not in entry and not (skipped and key.endswith("norm")):
            raise ValueError(f"got no {key!r}, wanted it, as an optimizer with stats reports it")
    for key in (*NEEDED, *OPTIONAL):
        if key not in entry:
            continue
        value = entry[key]
        if value is None and key not in OPTIONAL and key != "t":
            entry[key] = math.nan
        elif isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ValueError(f"{key}: got {_kind(value)}, wanted a number")
    if not isinstance(entry["t"], int) or entry["t"] < 0:
        got = _kind(None) if entry["t"] is None else repr(entry["t"])
        raise ValueError(f"t: got {got}, wanted a whole number from 0")
    rate = entry.get("lr")
    for one in rate if isinstance(rate, list) else [rate]:
        if isinstance(one, bool) or not isinstance(one, int | float | None):
            raise ValueError(f"lr: got {_kind(one)}, wanted a number or a list of numbers")
    return entry


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false"}.get(
        type(value), "null" if value is None else "a number"
    )


def describe(watched: Watched) -> list[tuple[str, str]]:
    """The diagnosis as rows of a table: verdict, what to try, and the numbers."""
    verdict = watched.verdict
    advice = {
        "too low": "a higher rate",
        "too high": "a lower rate",
        "diverging": "a lower rate, from a state before it",
    }.get(verdict.kind, "nothing: go on" if verdict.kind == "fine" else "more steps")
    if verdict.factor != 1:
        advice += f": × {verdict.factor:.2g}"
        rates = [rate for rate in watched.rates if rate > 0]
        if rates:
            advice += f", so {rates[-1] * verdict.factor:.3g}"
    rows = [
        ("verdict", verdict.kind),
        ("because", verdict.reason),
        ("try", advice),
        ("steps", f"{len(watched.steps):,}, to step {watched.steps[-1]:,}"),
    ]
    rows += [(name.replace("_", " "), f"{value:.3g}") for name, value in verdict.numbers.items()]
    if watched.spikes:
        rows.append(("spikes", str(watched.spikes)))
    if len(watched.history) > 1:
        said = (f"{one.kind} at step {one.step}" for _, one in watched.history)
        rows.append(("so far", ", ".join(said)))
    if watched.unfinished:
        rows.append(("note", "the last line has no end yet and was left out"))
    return rows
