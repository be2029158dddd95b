"""Tables with a header: CSV files and frames, with a column or a line for each number."""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

import numpy as np

from ..columns import Chosen, choose, has_decimal_comma, meaning, number, plain
from ..finding import Refused
from ..logs import Log, Rows, finish
from .common import Asked, Held, Reader, check_loss, of_series, refused


def delimiter_of(lines: Sequence[str]) -> str:
    """What separates the cells of a table with a header; empty: it is none."""
    if len(lines) < 1:
        return ""
    for delimiter in (",", ";", "\t"):
        try:
            table = list(csv.reader(lines, delimiter=delimiter))
        except csv.Error:  # a cell beyond all bounds
            return ""
        header = [cell.strip() for cell in table[0]]
        width = len(header)
        if width < 2 or any(len(row) > width + 1 for row in table[1:]):
            continue
        # Names, and below them mostly numbers, and nothing with a loss inside of a text.
        if any(_is_text_number(cell) for cell in header) or len(set(header)) < width:
            continue
        if any(re.search(r"[:=]\s*[-+\d]", cell) for cell in header):
            continue
        rows = [row for row in table[1:] if len(row) >= width - 1]
        numbers = [cell for row in rows for cell in row if _is_text_number(cell)]
        if table[1:] and (2 * len(rows) < len(table) - 1 or not numbers):
            continue
        return delimiter
    return ""


def _is_text_number(text: str) -> bool:
    try:
        number(text, decimal_comma=True)
    except ValueError:
        return False
    return bool(text.strip())


def read_csv(name: str, asked: Asked) -> Reader:
    """A table with a header: Lightning, Keras, Ultralytics; W&B's, MLflow's, TensorBoard's."""
    return Held(name, 50, partial(_Csv, name, asked))


class _Csv:
    """A table as text, by its first lines."""

    def __init__(self, name: str, asked: Asked, lines: list[str]) -> None:
        self._name = name
        head = lines[:50]
        # A quote that is not closed would take all that follows into one cell.
        paired = all(line.count('"') % 2 == 0 for line in head) and any('"' in x for x in head)
        self._style = style = csv.excel()
        style.delimiter = delimiter_of(head[:20]) or ","
        if not paired:
            style.quoting = csv.QUOTE_NONE
        header, *rows = self._rows(head)
        header = [cell.strip() for cell in header]
        counts = {
            title: sum(1 for row in rows if i < len(row) and _is_text_number(row[i]))
            for i, title in enumerate(header)
        }
        comma = style.delimiter == ";" or has_decimal_comma(chain.from_iterable(rows))
        self._table = _table(name, "CSV", header, asked, comma, counts)
        self.take(lines[1:])

    def _rows(self, lines: list[str]) -> list[list[str]]:
        try:
            return list(csv.reader((line for line in lines if line.strip("\0 \t")), self._style))
        except csv.Error as error:  # a cell beyond all bounds
            raise Refused(
                f"{self._name}: got a table that cannot be read ({error}), wanted CSV with short "
                "cells"
            ) from None

    def take(self, lines: list[str]) -> None:
        self._table.take(self._rows(lines))

    def logs(self, notes: Sequence[str] = ()) -> tuple[Log, ...]:
        return self._table.logs(notes)


def read_frame(frame: Any, asked: Asked) -> tuple[Log, ...]:
    """A frame of pandas or polars."""
    if getattr(getattr(frame, "index", None), "name", None) is not None:  # of pandas
        frame = frame.reset_index()
    header = [str(title) for title in frame.columns]
    if len(set(header)) < len(header):
        raise Refused(
            f"the frame: got a column twice, of {', '.join(header[:20])}, wanted each once"
        )
    if hasattr(frame, "height"):  # polars tells what is missing from what is no number
        columns = [frame[title].to_list() for title in frame.columns]
    else:
        columns = [_without_nan(frame[title].tolist()) for title in frame.columns]
    table = _table("the frame", "a frame", header, asked, False)
    table.take(zip(*columns, strict=True))
    return table.logs()


def _without_nan(values: list[Any]) -> list[Any]:
    """A column of pandas, whose NaN stands for what is missing; many up to the end for a loss that
    is lost."""
    missing = [isinstance(value, float) and math.isnan(value) for value in values]
    end = len(values) - missing[::-1].index(False) if False in missing else 0
    lost = len(values) - end >= max(5, len(values) // 10) and end > 0
    return [
        (math.inf if lost and i >= end else None) if nan else value
        for i, (value, nan) in enumerate(zip(values, missing, strict=True))
    ]


class _Table(Protocol):
    """Takes in the rows of a table as they come."""

    def take(self, rows: Iterable[Sequence[Any]]) -> None: ...
    def logs(self, notes: Sequence[str] = ()) -> tuple[Log, ...]: ...


def _table(
    name: str, kind: str, header: list[str], asked: Asked, decimal_comma: bool,
    counts: Mapping[str, int] | None = None,
) -> _Table:  # fmt: skip
    """What takes in the rows below such a header."""
    simple = [plain(title).strip("_") for title in header]
    long = _long_form(simple)
    if long is not None and not asked:
        return _Long(name, kind, long, decimal_comma)
    if {"step", "value"} <= set(simple) and "loss" not in asked:  # TensorBoard's download
        asked = {**asked, "loss": header[simple.index("value")]}
    runs = {} if asked else _wide_form(header)
    if runs:
        return _Wide(kind, header, runs, decimal_comma, name)
    try:
        chosen = choose(header, asked, counts)
    except LookupError as error:
        raise refused(name, error, f"the columns {', '.join(header[:20])}") from None
    check_loss(name, chosen, kind, f"the columns {', '.join(header[:20])}")
    return _Columns(name, kind, header, chosen, decimal_comma)


class _Columns:
    """A run with a column for each number."""

    def __init__(
        self, name: str, kind: str, header: list[str], chosen: Chosen, decimal_comma: bool
    ) -> None:
        self._name, self._kind, self._chosen = name, kind, chosen
        self._decimal_comma, self._width, self._bad = decimal_comma, len(header), 0
        self._columns = [
            (role, header.index(one), array("d"))
            for role, names in chosen.names.items()
            for one in names
        ]

    def take(self, rows: Iterable[Sequence[Any]]) -> None:
        targets = [(column.append, place) for _, place, column in self._columns]
        for row in rows:
            if len(row) < self._width and not any(cell not in ("", None) for cell in row):
                continue
            for append, place in targets:
                cell = row[place] if place < len(row) else ""
                try:
                    value = float(cell)
                    append(value if math.isfinite(value) else math.inf)
                except (TypeError, ValueError):
                    try:
                        append(number(cell, self._decimal_comma))
                    except (TypeError, ValueError):
                        append(math.nan)
                        self._bad += 1

    def logs(self, notes: Sequence[str] = ()) -> tuple[Log, ...]:
        by_role: dict[str, array[float]] = {}
        for role, _, column in self._columns:
            if role in by_role:  # terms of one loss
                terms = np.frombuffer(by_role[role]) + np.frombuffer(column)
                by_role[role] = array("d", terms.tobytes())
            else:
                by_role[role] = column
        rows = Rows()
        rows.take(by_role, len(self._columns[0][2]))
        if self._bad:
            notes = [*notes, f"{self._bad:,} cells are no numbers and were left out"]
        return (finish(self._name, self._kind, self._chosen, rows, notes=notes),)


def _long_form(header: Sequence[str]) -> tuple[int, int, int, int | None] | None:
    """Where key, value, step and run stand in a table with a line for each number."""
    key = next((header.index(x) for x in ("key", "metric", "tag", "name") if x in header), None)
    if key is None or not {"value", "step"} <= set(header):
        return None
    run = next(
        (header.index(x) for x in ("run_id", "run_uuid", "run", "run_name") if x in header), None
    )
    return key, header.index("value"), header.index("step"), run


class _Long:
    """Runs with a line for each number."""

    def __init__(
        self, name: str, kind: str, places: tuple[int, int, int, int | None], decimal_comma: bool
    ) -> None:
        self._name, self._kind, self._places = name, kind, places
        self._decimal_comma = decimal_comma
        self._series: dict[str, dict[str, tuple[list[float], list[float]]]] = defaultdict(
            lambda: defaultdict(lambda: ([], []))
        )

    def take(self, rows: Iterable[Sequence[Any]]) -> None:
        key, value, step, run = self._places
        for row in rows:
            if len(row) <= max(key, value, step, run or 0):
                continue
            own = self._series[str(row[run]) if run is not None else self._name]
            steps, values = own[str(row[key])]
            try:
                at, found = (number(row[i], self._decimal_comma) for i in (step, value))
            except ValueError:
                continue
            steps.append(at)
            values.append(found)

    def logs(self, notes: Sequence[str] = ()) -> tuple[Log, ...]:  # noqa: ARG002
        if not self._series:
            raise Refused(f"{self._name}: got a table without a line, wanted one for each number")
        return tuple(
            chain.from_iterable(
                of_series(one, self._kind, numbers, {}) for one, numbers in self._series.items()
            )
        )


def _wide_form(header: Sequence[str]) -> dict[str, dict[str, str]]:
    """The columns of each run in W&B's export, "run - metric", by their metric; or nothing."""
    runs: dict[str, dict[str, str]] = defaultdict(dict)
    for title in header:
        run, dash, metric = title.rpartition(" - ")
        if dash and not metric.endswith(("__MIN", "__MAX")):
            runs[run][metric] = title
    return runs if any((m := meaning(x)) and m.role in ("loss", "evaluation")
                       for own in runs.values() for x in own) else {}  # fmt: skip


class _Wide:
    """W&B's runs beside each other, each with columns of its own."""

    def __init__(
        self, kind: str, header: list[str], runs: Mapping[str, Mapping[str, str]],
        decimal_comma: bool, name: str,
    ) -> None:  # fmt: skip
        shared = {title: title for title in header if " - " not in title}
        self._runs = []
        for run, own in runs.items():
            titles = {**shared, **own}
            try:
                by_metric = choose(titles, {})
            except LookupError as error:
                raise refused(name, error, ", ".join(titles)) from None
            if "loss" in by_metric.names:
                chosen = Chosen(
                    {role: tuple(titles[x] for x in own) for role, own in by_metric.names.items()}
                )
                self._runs.append(_Columns(run, f"{kind} of W&B", header, chosen, decimal_comma))

    def take(self, rows: Iterable[Sequence[Any]]) -> None:
        rows = list(rows)
        for run in self._runs:
            run.take(rows)

    def logs(self, notes: Sequence[str] = ()) -> tuple[Log, ...]:
        return tuple(chain.from_iterable(run.logs(notes) for run in self._runs))
