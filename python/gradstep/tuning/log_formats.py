"""How each tool writes its log, and how it is told from the others: by content."""

from __future__ import annotations

import csv
import json
import math
import re
import struct
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..extras import need
from .columns import (
    NUMBER, Chosen, choose, has_decimal_comma, meaning, number, plain,
)  # fmt: skip
from .finding import Refused
from .logs import Log, Rows, finish

Asked = Mapping[str, str]

SAMPLE = 2000  # lines that tell which columns there are
BLOCK = 1 << 20  # characters read at once
LONGEST = 1 << 20  # characters of a line
MOST_FILES = 10_000  # of a folder
BYTES_OF_HEAD = 1 << 16

WANTED = (
    "wanted JSON lines, a trainer_state.json, CSV, TensorBoard's event files, or text whose lines "
    "have a loss, such as 'step 120: loss 3.2 lr 1e-3'"
)


# ---- files and folders ----


def read_file(path: Path, asked: Asked, name: str | None = None) -> tuple[Log, ...]:
    """The runs in a file."""
    name = name or str(path)
    with path.open("rb") as file:
        head = file.read(BYTES_OF_HEAD)
    if not head.strip():
        raise Refused(f"{path}: got an empty file, {WANTED}")
    if is_events(head):
        return (read_events(path.parent if _is_alone(path) else path, asked, name),)
    encoding = _encoding(path, head)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        reader = _reader(head.decode(encoding, "replace"), path)
        return reader(name, file, asked)


def _is_alone(path: Path) -> bool:
    """Whether an event file is one of several of a run, which TensorBoard reads by their folder."""
    return sum(1 for _ in path.parent.glob("*tfevents*")) > 1


def _encoding(path: Path, head: bytes) -> str:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):  # as PowerShell's > writes it
        return "utf-16"
    if b"\0" in head:
        raise Refused(f"{path}: got a binary file, {WANTED}")
    return "utf-8-sig"


Reader = Callable[[str, TextIO, Asked], tuple[Log, ...]]


def _reader(head: str, path: Path) -> Reader:
    """What reads a text that begins so."""
    text = head.lstrip("\ufeff \t\r\n")
    if text.startswith(("{", "[")):
        first = text.split("\n", 1)[0].strip()
        if text.startswith("{") and _is_object(first) and len(text.splitlines()) > 1:
            return read_lines
        if re.match(r'\{\s*"|\[\s*\{', text):
            return read_json
    lines = [line for line in text.splitlines()[:20] if line.strip()]
    if path.parent.name == "metrics" and all(re.fullmatch(r"\d+ \S+ \d+", x) for x in lines):
        return read_mlflow
    if _delimiter(lines):
        return read_csv
    return read_text


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def read_folder(path: Path, asked: Asked) -> tuple[Log, ...]:
    """The runs of all files below a folder that are logs, by their paths in it."""
    files = [
        file for file in islice(sorted(path.rglob("*")), MOST_FILES) if _is_visible(file, path)
    ]
    found: list[Log] = []
    refused: list[str] = []
    for file in _newest_states(_one_of_events(files)):
        run = str(file.relative_to(path))
        try:
            found += read_file(file, asked, run)
        except Refused as error:
            refused.append(str(error))
    if not found:
        seen = ", ".join(str(file.relative_to(path)) for file in files[:5]) or "no file"
        why = f" (the first: {refused[0]})" if refused else ""
        raise Refused(f"{path}: got no log among its files, {seen}{why}, {WANTED}")
    return tuple(_with_metrics(found))


def _is_visible(file: Path, below: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(below).parts)
    return file.is_file() and not hidden


def _one_of_events(files: Sequence[Path]) -> Iterator[Path]:
    """All files, but of TensorBoard's one for each folder."""
    folders: set[Path] = set()
    for file in files:
        if "tfevents" in file.name:
            if file.parent in folders:
                continue
            folders.add(file.parent)
        yield file


def _newest_states(files: Iterator[Path]) -> list[Path]:
    """All files, but of a Trainer's checkpoints the last state, which holds all before."""
    kept: list[Path] = []
    newest: dict[Path, tuple[int, Path]] = {}
    for file in files:
        checkpoint = re.fullmatch(r"checkpoint-(\d+)", file.parent.name)
        if file.name == "trainer_state.json" and checkpoint:
            folder, step = file.parent.parent, int(checkpoint[1])
            if (folder / file.name).exists():  # the finished run's own
                continue
            newest[folder] = max(newest.get(folder, (-1, file)), (step, file))
        else:
            kept.append(file)
    return sorted([*kept, *(file for _, file in newest.values())])


def _with_metrics(logs: Sequence[Log]) -> Iterator[Log]:
    """MLflow has a file for each metric: a run's own beside each other become one log."""
    runs: dict[str, list[Log]] = defaultdict(list)
    for log in logs:
        if log.kind == MLFLOW:
            runs[log.name.rpartition("metrics")[0]].append(log)
        else:
            yield log
    for run, metrics in runs.items():
        series = {log.columns["loss"]: (log.steps, log.losses) for log in metrics}
        yield from _of_series(run.rstrip("/\\") or "run", MLFLOW, series, {})


# ---- what all tables have in common ----


def _refused(name: str, error: LookupError, found: str) -> Refused:
    words = error.args[0] if error.args else "no loss"
    return Refused(f"{name}: {words}; found {found}")


def _check_loss(name: str, chosen: Chosen, what: str, found: str) -> None:
    if "loss" not in chosen.names:
        raise Refused(
            f"{name}: got {what} without a loss (looked for loss, train_loss, train/loss and the "
            f"like), found {found}, wanted --loss NAME"
        )


def _of_series(
    name: str, kind: str, series: Mapping[str, tuple[Any, Any]], asked: Asked
) -> tuple[Log, ...]:
    """Numbers that each have steps of their own, joined where the loss has its steps."""
    own = {role: title for role, title in asked.items() if role != "step"}
    try:
        chosen = choose(series, own)
    except LookupError as error:
        raise _refused(name, error, ", ".join(series)) from None
    _check_loss(name, chosen, "numbers", ", ".join(series) or "nothing")
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


# ---- objects: JSON lines, lists, a Trainer's state ----


class _Objects:
    """Objects with the same keys or others, taken in one by one."""

    def __init__(self, name: str, kind: str, asked: Asked) -> None:
        self.name, self.kind, self._asked = name, kind, asked
        self._rows, self._sample = Rows(), list[Mapping[str, Any]]()
        self._chosen: Chosen | None = None
        self._known: set[str] = set()
        self._roles: list[tuple[str, tuple[str, ...]]] = []

    def take(self, entry: Mapping[str, Any]) -> None:
        if self._chosen is None:
            self._sample.append(entry)
            if len(self._sample) >= SAMPLE:
                self._choose()
            return
        if not self._known.issuperset(entry):  # a key that comes late, as of an evaluation
            for key in entry.keys() - self._known:
                self._known.add(key)
                found = meaning(key)
                if found is not None and found.role not in self._chosen.names:
                    self._chosen = Chosen({**self._chosen.names, found.role: (key,)})
            self._roles = list(self._chosen.names.items())
        self._add(entry)

    def _choose(self) -> None:
        keys = dict.fromkeys(chain.from_iterable(self._sample))
        usable = [
            key
            for key in keys
            if any(_is_number(entry.get(key)) for entry in self._sample) or key in self._asked
        ]
        try:
            chosen = choose(usable, self._asked)
        except LookupError as error:
            raise _refused(self.name, error, ", ".join(keys)) from None
        _check_loss(self.name, chosen, self.kind, ", ".join(keys) or "no keys")
        self._chosen, self._known = chosen, set(keys)
        self._roles = list(chosen.names.items())
        for entry in self._sample:
            self._add(entry)
        self._sample = []

    def _add(self, entry: Mapping[str, Any]) -> None:
        row = {}
        for role, names in self._roles:
            value = _value(entry, names[0])
            for more in names[1:]:
                value += _value(entry, more)
            row[role] = value
        self._rows.add(row)

    def log(self, *, total: int | None = None, notes: Sequence[str] = ()) -> Log:
        if self._chosen is None:
            self._choose()
        assert self._chosen is not None
        return finish(self.name, self.kind, self._chosen, self._rows, total=total, notes=notes)


def _is_number(value: Any) -> bool:
    if isinstance(value, list) and value:
        value = value[0]
    try:
        number(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, bool)


def _value(entry: Mapping[str, Any], key: str) -> float:
    value = entry.get(key)
    if type(value) is float:
        return value if math.isfinite(value) else math.inf
    if value is None:
        return math.nan
    if isinstance(value, list):  # a rate for each group
        value = value[0] if value else None
    try:
        return number(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _flat(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object whose objects are taken apart: {"train": {"loss": 1}} has train/loss."""
    if not any(isinstance(value, dict) for value in entry.values()):
        return entry
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            flat.update({f"{key}/{inner}": one for inner, one in value.items()})
        else:
            flat[key] = value
    return flat


def read_lines(name: str, file: TextIO, asked: Asked) -> tuple[Log, ...]:
    """JSON lines, an object each; lines of other text between them are passed over."""
    objects = _Objects(name, "JSON lines", asked)
    notes: list[str] = []
    bad = 0
    for lines, ended in _lines(file):
        try:
            entries = json.loads(f"[{','.join(lines)}]")
            if len(entries) != len(lines):
                raise ValueError
        except (ValueError, RecursionError):
            entries = []
            for i, line in enumerate(lines):
                try:
                    entries.append(json.loads(line))
                except (ValueError, RecursionError):
                    if not ended and i == len(lines) - 1:
                        notes.append(UNFINISHED)
                    else:
                        bad += 1
        for entry in entries:
            if isinstance(entry, dict):
                objects.take(_flat(entry))
            else:
                bad += 1
    if bad:
        notes.append(f"{bad:,} lines are no JSON objects and were left out")
    return (objects.log(notes=notes),)


COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
UNFINISHED = "the last line has no end yet and was left out"


def _lines(file: TextIO) -> Iterator[tuple[list[str], bool]]:
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


def read_json(name: str, file: TextIO, asked: Asked) -> tuple[Log, ...]:
    """One JSON value: a Trainer's state, a list of objects, or a list for each key."""
    stream = _Stream(file)
    if stream.find('"log_history"'):
        objects = _Objects(name, "a Trainer's state", asked)
        complete = True
        stream.find("[")
        try:
            for entry in stream.objects():
                objects.take(_flat(entry))
        except EOFError:
            complete = False
        rest = stream.before + stream.tail()
        found = re.search(r'"max_steps":\s*(\d+)', rest)
        total = int(found[1]) if found and int(found[1]) > 0 else None
        notes = [] if complete else ["the file ends in the middle: what is there was read"]
        return (objects.log(total=total, notes=notes),)
    stream.rewind()
    first = stream.peek()
    if first == "[":
        objects = _Objects(name, "a list of JSON objects", asked)
        stream.find("[")
        try:
            for entry in stream.objects():
                objects.take(_flat(entry))
        except EOFError:
            return (objects.log(notes=["the file ends in the middle: what is there was read"]),)
        return (objects.log(),)
    return _read_one_object(name, file, asked)


def _read_one_object(name: str, file: TextIO, asked: Asked) -> tuple[Log, ...]:
    """An object with a list for each key, as Keras' history has."""
    file.seek(0)
    try:
        value = json.load(file)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name}: got no complete JSON ({error}), {WANTED}") from None
    value = value.get("history", value) if isinstance(value, dict) else value
    if not isinstance(value, dict):
        raise Refused(f"{name}: got JSON of another kind, {WANTED}")
    columns = {key: one for key, one in value.items() if isinstance(one, list) and one}
    if not columns:
        raise Refused(
            f"{name}: got one JSON object with {', '.join(list(value)[:12]) or 'nothing'}, "
            "wanted log_history, or a list of numbers for each key"
        )
    objects = _Objects(name, "JSON of a list for each key", asked)
    for i in range(max(map(len, columns.values()))):
        objects.take({key: one[i] for key, one in columns.items() if i < len(one)})
    return (objects.log(),)


NO_SPACE, NO_COMMA = re.compile(r"[^\ufeff \t\r\n]"), re.compile(r"[^ \t\r\n,]")


class _Stream:
    """A long JSON text, of which only a part is held at a time."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at = file, "", 0
        self.before = ""
        self._decoder = json.JSONDecoder()

    def rewind(self) -> None:
        self._file.seek(0)
        self._text, self._at, self.before = "", 0, ""

    def _more(self) -> bool:
        text = self._file.read(BLOCK)
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(text)

    def find(self, text: str) -> bool:
        """Move behind the next such text; False where there is none."""
        while True:
            place = self._text.find(text, self._at)
            if place >= 0:
                self.before = (self.before + self._text[self._at : place])[-BLOCK:]
                self._at = place + len(text)
                return True
            keep = max(self._at, len(self._text) - len(text))
            self.before = (self.before + self._text[self._at : keep])[-BLOCK:]
            self._at = keep
            if not self._more():
                return False

    def peek(self) -> str:
        """The next sign that is no space; nothing: the text ends."""
        while True:
            found = NO_SPACE.search(self._text, self._at)
            if found:
                return found[0]
            if not self._more():
                return ""

    def objects(self) -> Iterator[Mapping[str, Any]]:
        """Those of a list, from within it.

        Raises:
            EOFError: the text ends before the list does.
        """
        while True:
            sign = self.peek()
            if sign == "]":
                return
            if not sign:
                raise EOFError
            begin = NO_COMMA.search(self._text, self._at)
            start = begin.start() if begin else len(self._text)
            try:
                value, end = self._decoder.raw_decode(self._text, start)
            except (ValueError, RecursionError):
                if len(self._text) - start > LONGEST or not self._more():
                    raise EOFError from None
                continue
            self._at = end
            if isinstance(value, dict):
                yield value

    def tail(self) -> str:
        """What follows, as far as it is short."""
        return self._text[self._at :] + self._file.read(BLOCK)


# ---- tables: CSV and frames ----


def _delimiter(lines: Sequence[str]) -> str:
    """What separates the cells of a table with a header; empty: it is none."""
    if len(lines) < 1:
        return ""
    for delimiter in (",", ";", "\t"):
        table = list(csv.reader(lines, delimiter=delimiter))
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
    delimiter = _delimiter([line for line in head[:20] if line.strip()]) or ","
    text = chain(head, file)
    table = csv.reader((line for line in text if line.strip("\0\r\n \t")), delimiter=delimiter)
    header = [cell.strip().lstrip("\ufeff") for cell in next(table)]
    cells = [cell for row in csv.reader(head[1:], delimiter=delimiter) for cell in row]
    return _read_table(name, "CSV", header, _whole(table), asked, has_decimal_comma(cells))


def _whole(table: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from table
    except csv.Error as error:  # a cell beyond all bounds
        raise Refused(f"got a table that cannot be read: {error}, wanted CSV") from None


def read_frame(frame: Any, asked: Asked) -> tuple[Log, ...]:
    """A frame of pandas or polars."""
    header = [str(title) for title in frame.columns]
    columns = [frame[title].to_numpy() for title in frame.columns]
    rows = ([_cell(value) for value in row] for row in zip(*columns, strict=True))
    return _read_table("the frame", "a frame", header, rows, asked, False)


def _cell(value: Any) -> Any:
    """A frame's NaN stands for what is missing."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _read_table(
    name: str, kind: str, header: list[str], rows: Iterator[Sequence[Any]], asked: Asked,
    decimal_comma: bool,
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
        chosen = choose(header, asked)
    except LookupError as error:
        raise _refused(name, error, f"the columns {', '.join(header[:20])}") from None
    _check_loss(name, chosen, kind, f"the columns {', '.join(header[:20])}")
    found, notes = _read_columns(header, chosen, rows, decimal_comma)
    return (finish(name, kind, chosen, found, notes=notes),)


def _read_columns(
    header: list[str], chosen: Chosen, rows: Iterator[Sequence[Any]], decimal_comma: bool
) -> tuple[Rows, list[str]]:
    places = [(role, header.index(one)) for role, names in chosen.names.items() for one in names]
    columns = [array("d") for _ in places]
    targets = [(column.append, place) for column, (_, place) in zip(columns, places, strict=True)]
    width, bad = len(header), 0
    for row in rows:
        if len(row) < width:
            if not any(cell not in ("", None) for cell in row) or row == header:
                continue
            row = [*row, *[""] * (width - len(row))]
        for append, place in targets:
            cell = row[place]
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
            column = array("d", (np.array(by_role[role]) + np.array(column)).tobytes())
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
        chain.from_iterable(_of_series(one, kind, numbers, {}) for one, numbers in series.items())
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
            raise _refused(name, error, ", ".join(titles)) from None
        if "loss" not in by_metric.names:
            continue
        chosen = Chosen(
            {role: tuple(titles[x] for x in names) for role, names in by_metric.names.items()}
        )
        columns, notes = _read_columns(header, chosen, iter(table), decimal_comma)
        found.append(finish(run, f"{kind} of W&B", chosen, columns, notes=notes))
    return tuple(found)


# ---- MLflow's files: "timestamp value step" ----

MLFLOW = "MLflow's metrics"


def read_mlflow(name: str, file: TextIO, asked: Asked) -> tuple[Log, ...]:  # noqa: ARG001
    """One metric of a run, called as the file; a folder joins those of a run."""
    rows = Rows()
    for line in file:
        words = line.split()
        if len(words) == 3:
            rows.add({"step": float(words[2]), "loss": number(words[1])})
    metric = Path(name).name
    return (finish(name, MLFLOW, Chosen({"loss": (metric,), "step": ("step",)}), rows),)


# ---- TensorBoard's event files ----


def is_events(head: bytes) -> bool:
    """Whether a file begins as TensorBoard's do: a length, its checksum, the first event."""
    if len(head) < 24:
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return 0 < length < 1 << 20 and b"brain.Event:" in head[12 : 12 + min(length, 4096)]


def read_events(path: Path, asked: Asked, name: str) -> Log:
    """The scalars of a run."""
    need("tensorboard", "TensorBoard's event files", "logs")
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415
        EventAccumulator,
    )
    from tensorboard.util import tensor_util  # noqa: PLC0415

    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    series: dict[str, tuple[list[float], list[float]]] = {}
    for tag in tags["scalars"]:
        scalars = events.Scalars(tag)
        series[tag] = [e.step for e in scalars], [e.value for e in scalars]
    for tag in tags["tensors"]:
        tensors = events.Tensors(tag)
        values = [tensor_util.make_ndarray(e.tensor_proto) for e in tensors]
        if all(value.size == 1 and value.dtype.kind in "fiu" for value in values):
            series[tag] = [e.step for e in tensors], [float(value.ravel()[0]) for value in values]
    [log] = _of_series(name, "TensorBoard's events", series, asked)
    return log


# ---- text ----

KEY = re.compile(
    r"(?P<name>[A-Za-z_][\w/.\-]*(?: [A-Za-z_][\w/.\-]*)?)(?P<sign>['\"]?\]?\s*[:=]\s*|\s+)[\[(#]?\s*"
    rf"(?P<number>{NUMBER})(?P<total>\s*/\s*\d+)?(?!:\d|\w|\.\w)"
)
BAR = re.compile(r"(\d+)/(\d+) (?:\[|━)")
BAR_NAME = "progress"


def read_text(name: str, file: TextIO, asked: Asked) -> tuple[Log, ...]:
    """Text with a loss in its lines; all other lines are passed over."""
    blocks = _lines(file)
    sample: list[tuple[list[str], bool]] = []
    count = 0
    for block in blocks:
        sample.append(block)
        count += len(block[0])
        if count >= SAMPLE:
            break
    lines = list(islice(chain.from_iterable(lines for lines, _ in sample), 2 * SAMPLE))
    patterns, chosen = _patterns(name, lines, asked)
    rows = Rows()
    totals = [m[2] for x in lines if (p := patterns.get("step")) and (m := p.search(x))]
    total = int(totals[-1]) if totals and totals[-1] else None
    notes: list[str] = []
    columns = {role: array("d") for role in patterns}
    find = {role: pattern.search for role, pattern in patterns.items() if role != "loss"}
    find_loss = patterns["loss"].search
    decimal = has_decimal_comma(
        m[1] for line in lines for p in patterns.values() if (m := p.search(line))
    )
    quick, order = _joined(patterns, lines)
    for lines, ended in chain(sample, blocks):
        if not ended:
            notes.append(UNFINISHED)
            continue
        table = _table(quick, lines)
        if table is not None:
            for role, column in columns.items():
                column.extend(table[order.index(role)])
            continue
        for line in lines:
            found = find_loss(line)
            others = [(role, m) for role, search in find.items() if (m := search(line))]
            if found is None and not any(
                role in ("evaluation", "epoch", "lr") for role, _ in others
            ):
                continue
            values = {role: _text_number(m[1], decimal, role) for role, m in others}
            if found is not None:
                values["loss"] = _text_number(found[1], decimal, "loss")
            for role, column in columns.items():
                column.append(values.get(role, math.nan))
    rows.take(columns, len(columns["loss"]))
    return (finish(name, "text", chosen, rows, total=total, notes=notes),)


def _joined(
    patterns: Mapping[str, re.Pattern[str]], lines: Sequence[str]
) -> tuple[re.Pattern[str] | None, list[str]]:
    """One pattern for a line that has all, in the order of the first such line; None: it varies."""
    whole = [
        places
        for line in lines
        if len(places := {r: m.start(1) for r, p in patterns.items() if (m := p.search(line))})
        == len(patterns)
    ]
    if 2 * len(whole) < len(lines):
        return None, []
    order = sorted(whole[0], key=whole[0].__getitem__)
    text = ".*?".join(_one_group(patterns[role].pattern) for role in order)
    return re.compile(f"^.*?{text}", re.MULTILINE), order


def _one_group(pattern: str) -> str:
    """A pattern without its second group, a total."""
    return pattern.replace(r"(?:\s*/\s*(\d+))?", "").replace(r"/(\d+)", r"/\d+")


def _table(pattern: re.Pattern[str] | None, lines: Sequence[str]) -> list[list[float]] | None:
    """The numbers of many lines by column; None where they are to be looked at one by one."""
    if pattern is None:
        return None
    found = pattern.findall("\n".join(lines))
    if len(found) != len(lines):
        return None
    columns = [found] if isinstance(found[0], str) else zip(*found, strict=True)
    try:
        table = [list(map(float, column)) for column in columns]
    except ValueError:  # a comma in a number
        return None
    return table if all(map(math.isfinite, map(math.fsum, table))) else None


def _text_number(text: str, decimal_comma: bool, role: str) -> float:
    if "," not in text:
        value = float(text)
        return value if math.isfinite(value) else math.inf
    return number(text, decimal_comma and role not in ("step", "epoch"))


def _patterns(
    name: str, lines: Sequence[str], asked: Asked
) -> tuple[dict[str, re.Pattern[str]], Chosen]:
    """What finds the number of each role in a line, by the names in the first of them."""
    seen: dict[str, str] = {}  # a name, and the sign that follows it
    for line in lines:
        for found in KEY.finditer(line):
            for title in _names(found["name"], found["sign"]):
                seen.setdefault(title, found["sign"])
        if BAR.search(line):
            seen.setdefault(BAR_NAME, "")
    for role, title in asked.items():  # whatever stands before a number
        if any(title in line for line in lines):
            seen.setdefault(title, "")
        del role
    try:
        chosen = choose(seen, asked)
    except LookupError as error:
        raise _refused(name, error, _first(lines)) from None
    if "loss" not in chosen.names:
        raise Refused(
            f"{name}: got text without a loss (looked for 'loss 3.2', 'loss: 3.2', 'loss=3.2' and "
            f"other names with loss), found {_first(lines)}, wanted --loss NAME of what stands "
            "before the number"
        )
    while True:
        names = dict(chosen.names)
        if "step" not in names and BAR_NAME in seen:
            names["step"] = (BAR_NAME,)
        patterns = {role: _pattern(titles[0], seen) for role, titles in names.items()}
        if "step" not in chosen.names or "step" in asked:
            return patterns, Chosen(names)
        with_loss = [line for line in lines if patterns["loss"].search(line)]
        if 2 * sum(1 for line in with_loss if patterns["step"].search(line)) >= len(with_loss):
            return patterns, Chosen(names)
        del seen[names["step"][0]]  # it counts where there is no loss
        chosen = choose(seen, asked)


def _names(title: str, sign: str) -> Iterator[str]:
    """What a key may be called: of "at step" or "train loss", both words, and the last alone."""
    last = title.split(" ")[-1]
    if " " in title and not re.search("[:=]", sign) and meaning(title) is None:
        yield last
        return
    if " " in title and (meaning(title) is None or meaning(last) == meaning(title)):
        yield last
    else:
        yield title


def _pattern(title: str, seen: Mapping[str, str]) -> re.Pattern[str]:
    if title == BAR_NAME:
        return BAR
    # A name that others end with is to stand alone; looking back is slow, and else not needed.
    alone = any(other != title and other.endswith(title) for other in seen)
    short = len(title) <= 2 or plain(title) in ("step", "iter", "epoch", "norm")
    before = r"(?<![\w/.\-])" if alone or short else ""
    if alone and " " not in title:  # "val loss" is not "loss"
        pairs = {other for other in seen if other.endswith(f" {title}")}
        before += "".join(f"(?<!{re.escape(other[: -len(title)])})" for other in sorted(pairs))
    return re.compile(
        rf"{before}{re.escape(title)}['\"]?\]?\s*[:=|]?\s*[\[(#]?\s*({NUMBER})(?:\s*/\s*(\d+))?"
    )


def _first(lines: Sequence[str]) -> str:
    shown = [line.strip()[:80] for line in lines if line.strip()][:3]
    return "the lines " + " | ".join(map(repr, shown)) if shown else "no line"
