"""Tables with a header: CSV files and frames, with a column or a line for each number."""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, TextIO

import numpy as np

from ..columns import Chosen, choose, has_decimal_comma, meaning, number, plain
from ..finding import Refused
from ..logs import Log, Rows, finish
from .common import UNFINISHED, Asked, check_loss, of_series, refused


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


def read_csv(name: str, file: TextIO, asked: Asked) -> tuple[Log, ...]:
    """A table with a header: Lightning, Keras, Ultralytics; W&B's, MLflow's, TensorBoard's."""
    head = list(islice(file, 50))
    notes: list[str] = []
    delimiter = delimiter_of([line for line in head[:20] if line.strip()]) or ","
    # A quote that is not closed would take all that follows into one cell.
    paired = all(line.count('"') % 2 == 0 for line in head) and any('"' in line for line in head)
    style = csv.excel()
    style.delimiter = delimiter
    if not paired:
        style.quoting = csv.QUOTE_NONE
    try:
        table: Iterator[list[str]] = csv.reader(_ended(chain(head, file), notes), style)
        header = [cell.strip().lstrip("\ufeff") for cell in next(table)]
        rows = list(csv.reader(head[1:], style))
        cells = [cell for row in rows for cell in row]
        counts = {
            title: sum(1 for row in rows if i < len(row) and _is_text_number(row[i]))
            for i, title in enumerate(header)
        }
        comma = delimiter == ";" or has_decimal_comma(cells)
        return _read_table(name, "CSV", header, table, asked, comma, counts, notes)
    except csv.Error as error:  # a cell beyond all bounds
        raise Refused(
            f"{name}: got a table that cannot be read ({error}), wanted CSV with short cells"
        ) from None


def _ended(lines: Iterator[str], notes: list[str]) -> Iterator[str]:
    """All lines that are not empty, but for a last one without an end, which is being written."""
    for line in lines:
        if not line.endswith(("\n", "\r")):
            notes.append(UNFINISHED)
        elif line.strip("\0\r\n \t"):
            yield line


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
    rows = zip(*columns, strict=True)
    return _read_table("the frame", "a frame", header, rows, asked, False)


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


def _read_table(
    name: str, kind: str, header: list[str], rows: Iterator[Sequence[Any]], asked: Asked,
    decimal_comma: bool, counts: Mapping[str, int] | None = None, notes: Sequence[str] = (),
) -> tuple[Log, ...]:  # fmt: skip
    simple = [plain(title).strip("_") for title in header]
    long = _long_form(simple)
    if long is not None and not asked:
        return _read_long(name, kind, long, rows, decimal_comma)
    if {"step", "value"} <= set(simple) and "loss" not in asked:  # TensorBoard's download
        asked = {**asked, "loss": header[simple.index("value")]}
    runs = {} if asked else _wide_form(header)
    if runs:
        return _read_wide(name, kind, header, runs, rows, decimal_comma)
    try:
        chosen = choose(header, asked, counts)
    except LookupError as error:
        raise refused(name, error, f"the columns {', '.join(header[:20])}") from None
    check_loss(name, chosen, kind, f"the columns {', '.join(header[:20])}")
    found, more = _read_columns(header, chosen, rows, decimal_comma)
    return (finish(name, kind, chosen, found, notes=[*notes, *more]),)


def _read_columns(
    header: list[str], chosen: Chosen, rows: Iterator[Sequence[Any]], decimal_comma: bool
) -> tuple[Rows, list[str]]:
    places = [(role, header.index(one)) for role, names in chosen.names.items() for one in names]
    columns = [array("d") for _ in places]
    targets = [(column.append, place) for column, (_, place) in zip(columns, places, strict=True)]
    width, bad = len(header), 0
    for row in rows:
        if len(row) < width and not any(cell not in ("", None) for cell in row):
            continue
        for append, place in targets:
            cell = row[place] if place < len(row) else ""
            try:
                value = float(cell)
                append(value if math.isfinite(value) else math.inf)
            except (TypeError, ValueError):
                try:
                    append(number(cell, decimal_comma))
                except (TypeError, ValueError):
                    append(math.nan)
                    bad += 1
    rows_found = Rows()
    by_role: dict[str, array[float]] = {}
    for (role, _), column in zip(places, columns, strict=True):
        if role in by_role:  # terms of one loss
            terms = np.frombuffer(by_role[role]) + np.frombuffer(column)
            by_role[role] = array("d", terms.tobytes())
        else:
            by_role[role] = column
    rows_found.take(by_role, len(columns[0]))
    notes = [f"{bad:,} cells are no numbers and were left out"] if bad else []
    return rows_found, notes


def _long_form(header: Sequence[str]) -> tuple[int, int, int, int | None] | None:
    """Where key, value, step and run stand in a table with a line for each number."""
    key = next((header.index(x) for x in ("key", "metric", "tag", "name") if x in header), None)
    if key is None or not {"value", "step"} <= set(header):
        return None
    run = next(
        (header.index(x) for x in ("run_id", "run_uuid", "run", "run_name") if x in header), None
    )
    return key, header.index("value"), header.index("step"), run


def _read_long(
    name: str, kind: str, places: tuple[int, int, int, int | None],
    rows: Iterator[Sequence[Any]], decimal_comma: bool,
) -> tuple[Log, ...]:  # fmt: skip
    key, value, step, run = places
    series: dict[str, dict[str, tuple[list[float], list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: ([], []))
    )
    for row in rows:
        if len(row) <= max(key, value, step, run or 0):
            continue
        steps, values = series[str(row[run]) if run is not None else name][str(row[key])]
        try:
            at, found = number(row[step], decimal_comma), number(row[value], decimal_comma)
        except ValueError:
            continue
        steps.append(at)
        values.append(found)
    if not series:
        raise Refused(f"{name}: got a table without a line, wanted one for each number")
    return tuple(
        chain.from_iterable(of_series(one, kind, numbers, {}) for one, numbers in series.items())
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


def _read_wide(
    name: str, kind: str, header: list[str], runs: Mapping[str, Mapping[str, str]],
    rows: Iterator[Sequence[Any]], decimal_comma: bool,
) -> tuple[Log, ...]:  # fmt: skip
    shared = [title for title in header if " - " not in title]
    table = [list(row) for row in rows]
    found = []
    for run, own in runs.items():
        titles = {**{title: title for title in shared}, **own}
        try:
            by_metric = choose(titles, {})
        except LookupError as error:
            raise refused(name, error, ", ".join(titles)) from None
        if "loss" not in by_metric.names:
            continue
        chosen = Chosen(
            {role: tuple(titles[x] for x in names) for role, names in by_metric.names.items()}
        )
        columns, notes = _read_columns(header, chosen, iter(table), decimal_comma)
        found.append(finish(run, f"{kind} of W&B", chosen, columns, notes=notes))
    return tuple(found)
