"""The diagnosis of a training that was logged: what `gradstep watch` does."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import threading
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import machine, plots
from .finding import Refused
from .lines import LONGEST, Lines
from .monitor import NORMS, TURN, Lasts, Measured, Monitor, Verdict

NEEDED = ("loss", "t", *NORMS)
OPTIONAL = ("cosine", "g2_over_v")
BLOCK = 1 << 18  # bytes read at once
SHARED = 1 << 26  # bytes from which on a log is read by several processes
LAST_STEP = 1 << 52


@dataclass(frozen=True)
class Watched:
    """What a log came to.

    `verdict`: the last. `history`: each that was another than the one before, and after how many
    lines; spikes and those that say nothing are left out. `spikes`: how many there were. `steps`,
    `losses`, `rates`, `ratios`: of every line, the rate of the first group and update over weights;
    NaN where unknown; arrays, since a log may be long. `unfinished`: whether the last line had no
    end and was left out.
    """

    verdict: Verdict
    history: tuple[tuple[int, Verdict], ...]
    spikes: int
    steps: Sequence[int]
    losses: Sequence[float]
    rates: Sequence[float]
    ratios: Sequence[float]
    unfinished: bool

    def plot(self, path: Path | str, *, title: str = "A run and its verdict") -> Path:
        """Draw loss, rate and update over weights; see `plots.run`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        marks = [(line, verdict.kind) for line, verdict in self.history]
        return plots.run(self.losses, self.rates, self.ratios, path, title=title, marks=marks)


def watch(
    path: Path | str, *, momentum: bool | None = None, workers: int = 1, name: str | None = None
) -> Watched:
    """Have a :class:`Monitor` look at a log.

    Args:
        path: a file with one JSON object per line, that of a step: ``loss`` and a report's keys.
            null stands for what is not known, and is not judged; NaN and Infinity, as Python writes
            them, for what is not finite.
        momentum: see :class:`Monitor`.
        workers: processes that read the JSON of a long log, which takes most of the time; 1: this
            one.
        name: what the log is called where it is refused; None: its path.

    Raises:
        Refused: a line is no such object; it is named.
        OSError: the file cannot be read.
    """
    watching = Watching(Path(path), momentum=momentum, name=name)
    with closing(watching.lines):
        return watching.read(workers)


class Watching:
    """A log as :func:`watch` looks at it, as far as it goes, and on from there once it has grown.

    Attributes:
        lines: where they come from.
    """

    def __init__(
        self, path: Path, *, momentum: bool | None = None, name: str | None = None
    ) -> None:
        self._name = name or str(path)
        self._log = _Log(Monitor(momentum=momentum))
        self.lines = Lines(path, block=BLOCK)

    def read(self, workers: int = 1) -> Watched:
        """What the log comes to now; its arrays grow when more is read.

        Raises:
            Refused: as of :func:`watch`.
        """
        for block, columns in _read(self._name, self.lines, workers):
            self._take(block, columns)
        if self._is_whole(self.lines.rest):
            self._take(_block(self.lines.before + 1, [self.lines.take_rest()]), None)
        log = self._log
        if not log.steps:
            raise Refused(
                f"{self._name}: got no complete line, wanted one JSON object for each step"
            )
        told = tuple(one for one in log.history if one[1].kind != "inconclusive")
        return Watched(
            log.monitor.verdict, told, log.spikes, log.steps, log.losses, log.rates, log.ratios,
            bool(self.lines.rest.strip()),
        )  # fmt: skip

    def _take(self, block: _Block, columns: _Columns | None) -> None:
        if columns is not None:
            self._log.take_columns(columns)
            return
        for number, text in zip(block.numbers, block.lines, strict=True):
            try:
                self._log.take(*_step(_object(text)))
            except ValueError as error:
                raise Refused(f"{self._name}, line {number}: {error}") from None

    @staticmethod
    def _is_whole(rest: str) -> bool:
        """Whether a last line only lacks its end; one beyond all bounds is then refused."""
        try:
            _step(_object(rest))
        except ValueError:
            return len(rest) >= LONGEST
        return True


def is_own(path: Path) -> bool:
    """Whether a log has the reports of our steps, by its first line."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = file.readline(LONGEST).strip() or file.readline(LONGEST)
        entry = json.loads(first)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and ("update_norm" in entry or "param_norm" in entry)


class _Log:
    """What is gathered of a log, from its first line on; see :class:`Watched`."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.history: list[tuple[int, Verdict]] = []
        self.spikes = 0
        self.steps, self.losses = array("q"), array("d")
        self.rates, self.ratios = array("d"), array("d")
        self._kind = "inconclusive"

    def take(self, step: Measured, skipped: bool) -> None:
        if self.steps and step.t < self.steps[-1]:  # it went back to an earlier state
            self.monitor.restart()
        self.steps.append(step.t)
        self._hear(self.monitor.skip(step.t) if skipped else self.monitor.take(step))
        self.losses.append(_or_nan(step.loss))
        self.rates.append(_or_nan(step.rate))
        weights = _or_nan(step.weights)
        self.ratios.append(_or_nan(step.moved) / weights if weights else math.nan)

    def take_columns(self, columns: _Columns) -> None:
        """The same for many lines, of which everything is known and finite."""
        count, begin = len(columns.t), 0
        while begin < count:
            if self.steps and columns.t[begin] < self.steps[-1]:
                self.monitor.restart()
            for judged in self.monitor.take_calm_turns(
                columns.losses[begin:], columns.cosines[begin:], columns.row_after(begin)
            ):
                self._add(columns, slice(begin, begin + TURN), judged)
                begin += TURN
            end = min(count, begin + self.monitor.until_look)
            if end == begin:
                break
            part = slice(begin, end)
            cosines = [cosine for cosine in columns.cosines[part] if cosine is not None]
            losses = columns.losses[part]
            verdict = self.monitor.take_calm(losses, cosines, columns.row(end - 1))
            if verdict is None:
                for i in range(begin, end):
                    self.take(columns.row(i), skipped=False)
            else:
                self._add(columns, part, verdict)
            begin = end

    def _add(self, columns: _Columns, part: slice, verdict: Verdict) -> None:
        self.steps.extend(columns.t[part])
        self.losses.extend(columns.losses[part])
        self.rates.extend(columns.rates[part])
        self.ratios.extend(columns.ratios[part])
        self._hear(verdict)

    def _hear(self, verdict: Verdict) -> None:
        if verdict.kind == "spike":
            self.spikes += 1
        elif verdict.kind != self._kind:
            self._kind = verdict.kind
            self.history.append((len(self.steps), verdict))


class _Block(NamedTuple):
    """Lines of a log that are not empty, and their numbers."""

    numbers: list[int]
    lines: list[str]


def workers_for(path: Path) -> int:
    """How many processes are to read a log: one for each processor, if it is long."""
    try:
        if path.stat().st_size < SHARED:
            return 1
        return min(4, machine.processors())
    except OSError:  # none there
        return 1


def _read(name: str, lines: Lines, workers: int) -> Iterator[tuple[_Block, _Columns | None]]:
    """The lines of a log, some hundred at a time: so many are read faster than each alone."""
    blocks = (_block(lines.before + 1, some) for some in lines)
    if workers > 1:
        context = multiprocessing.get_context("spawn")
        waiting: deque[tuple[_Block, Future[_Columns | None]]] = deque()
        try:
            with ProcessPoolExecutor(workers, context, _begin_worker) as pool:
                for block in blocks:
                    waiting.append((block, pool.submit(_columns, block)))
                    if len(waiting) > 4 * workers:  # no more of the log is kept than that
                        oldest, future = waiting.popleft()
                        yield oldest, future.result()
                for oldest, future in waiting:
                    yield oldest, future.result()
        except BrokenProcessPool:
            raise Refused(f"{name}: a process that read it was ended by another") from None
        return
    for block in blocks:
        yield block, _columns(block)


def _begin_worker() -> None:
    """Leave Ctrl-C, which goes to all processes, to the one that was started, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _block(first: int, lines: list[str]) -> _Block:
    numbers = [number for number, line in enumerate(lines, first) if line.strip()]
    return _Block(numbers, [lines[number - first] for number in numbers])


class _Columns(NamedTuple):
    """The steps of a block, everything of which is known and finite; cosines may be missing."""

    t: array[int]
    losses: array[float]
    norms: tuple[array[float], array[float], array[float]]
    rates: array[float]
    ratios: array[float]  # of the update and the weights
    cosines: Sequence[float | None]
    squares: Sequence[float | None]  # g²/v

    def row_after(self, begin: int) -> Lasts:
        return lambda i: self.row(begin + i)

    def row(self, i: int) -> Measured:
        moved, weights, grad = (norm[i] for norm in self.norms)
        cosine, square = self.cosines[i], self.squares[i]
        return Measured(
            self.t[i], self.losses[i], self.rates[i], moved, weights, grad, cosine, square
        )


def _table(lines: list[str]) -> dict[str, Sequence[Any]]:
    """The values of each key, where every line has the same keys.

    Raises:
        ValueError, LookupError, TypeError, RecursionError: one has not, or a line is no object.
    """
    keys = tuple(json.loads(lines[0]))
    flat = _flat(lines, keys)
    if flat is not None:
        return {key: flat[i :: len(keys)] for i, key in enumerate(keys)}
    # What lies between shows that each line is one value, and no part of one.
    values = json.loads(f"[{',null,'.join(lines)}]")
    entries = values[::2]
    if len(entries) != len(lines) or any(values[1::2]) or set(map(len, entries)) != {len(keys)}:
        raise ValueError("a line is not one value")
    rows = map(itemgetter(*keys), entries)  # a KeyError where one has others
    return dict(zip(keys, zip(*rows, strict=True), strict=True))


def _flat(lines: list[str], keys: tuple[str, ...]) -> list[Any] | None:
    """The values of all lines in a row, if each has these keys in this order, spaced as by `json`.

    Reading them without the keys takes half of the time. None where that cannot be done: everything
    but the values is compared.
    """
    text = "\n".join(lines)
    pieces = text.split('"')
    count = len(lines) * len(keys)
    if pieces[1::2] != list(keys) * len(lines):
        return None
    for comma, colon in ((", ", ": "), (",", ":")):
        # As often as there are keys, and no key begins so: each is followed by it.
        if text.count(f'"{colon}') != count or any(key.startswith(colon) for key in keys):
            continue
        values = "".join(pieces[::2])
        if not (values.startswith("{" + colon) and values.endswith("}")):
            return None
        # Where other things lie between two values, a colon or brace is left, which is no JSON.
        values = values[1 + len(colon) : -1]
        values = values.replace("}\n{" + colon, ",").replace(comma + colon, ",")
        flat: list[Any] = json.loads(f"[{values}]")
        return flat if len(flat) == count else None
    return None


def _columns(block: _Block) -> _Columns | None:
    """The columns of a block; None where its lines are to be looked at one by one."""
    try:
        table = _table(block.lines)
        t, *needed = (table[key] for key in ("t", "loss", *NORMS))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    count = len(t)
    unknown = (None,) * count
    cosines, squares, skipped = (table.get(key, unknown) for key in (*OPTIONAL, "skipped"))
    rates = table.get("lr", (math.nan,) * count)
    perhaps = set(map(type, chain(cosines, squares)))
    if not (
        set(map(type, t)) == {int}
        and set(map(type, chain(*needed, rates))) <= {float, int}
        and perhaps <= {float, int, type(None)}
        and set(map(type, skipped)) <= {bool, type(None)}
        and not any(skipped)
    ):
        return None
    optional = (x for x in chain(cosines, squares) if x is not None)
    try:
        steps, losses, rate = array("q", t), array("d", needed[0]), array("d", rates)
        moved, weights, grad = (array("d", norm) for norm in needed[1:])
        finite = all(map(math.isfinite, optional))
    except OverflowError:  # an integer that no float holds
        return None
    finite = finite and all(np.isfinite(x).all() for x in (losses, moved, weights, grad))
    rises = steps[0] >= 0 and steps[-1] < LAST_STEP and (np.diff(steps) >= 0).all()
    if not (finite and rises and all(weights)):
        return None
    ratios = array("d", np.divide(moved, weights).tobytes())
    return _Columns(steps, losses, (moved, weights, grad), rate, ratios, cosines, squares)


def _step(entry: dict[str, Any]) -> tuple[Measured, bool]:
    """What a line says of a step, and whether that was skipped.

    Raises:
        ValueError: it is no object of a step.
    """
    get = entry.get
    skipped = get("skipped")
    if skipped is not None and not isinstance(skipped, bool):
        raise ValueError(f"skipped: got {_kind(skipped)}, wanted true or false")
    for key in NEEDED:
        if key not in entry and not (skipped and key.endswith("norm")):
            raise ValueError(f"got no {key!r}, wanted it, as an optimizer with stats reports it")
    t = entry["t"]
    if type(t) is not int or not 0 <= t < LAST_STEP:
        got = _shown(t) if isinstance(t, int | float) and not isinstance(t, bool) else _kind(t)
        raise ValueError(f"t: got {got}, wanted a whole number from 0, below 2**52")
    loss, moved, weights, grad = (_number(key, get(key)) for key in ("loss", *NORMS))
    cosine, ratio = (_number(key, get(key)) for key in OPTIONAL)
    rate, wanted = get("lr"), "a number or a list of numbers"
    rates = [_number("lr", one, wanted) for one in (rate if isinstance(rate, list) else [rate])]
    first = rates[0] if rates else None
    return Measured(t, loss, first, moved, weights, grad, cosine, ratio), bool(skipped)


def _object(text: str) -> dict[str, Any]:
    """A line's object.

    Raises:
        ValueError: it is none.
    """
    if len(text) >= LONGEST:
        raise ValueError(f"got {LONGEST:,} characters and more, wanted one JSON object of a step")
    try:
        entry = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"got no JSON ({error.msg}), wanted an object") from None
    except RecursionError:
        raise ValueError("got JSON that is nested too deeply, wanted an object") from None
    except ValueError:  # the only other one: Python reads no integer of so many digits
        raise ValueError("got a number of thousands of digits, wanted an object") from None
    if not isinstance(entry, dict):
        raise ValueError(f"got {_kind(entry)}, wanted an object")
    return entry


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x


def _number(key: str, value: Any, wanted: str = "a number") -> float | None:
    """A value as a float; None for null, which is not known.

    Raises:
        ValueError: it is no number, or none that a float can hold.
    """
    if value is None or type(value) is float:
        return value
    if type(value) is not int:
        raise ValueError(f"{key}: got {_kind(value)}, wanted {wanted}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{key}: got {_shown(value)}, wanted {wanted} below 1e308") from None


def _shown(number: float) -> str:
    text = repr(number)
    return text if len(text) <= 25 else f"a number of {len(text)} digits"


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
