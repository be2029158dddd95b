"""Logs of runs that go on: read on whenever they grow, and judged anew."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from .curves import Judged, judge
from .finding import Refused
from .formats.files import Growing, read_path
from .logs import Log
from .watching import Watched, Watching, is_own

SHARE = 100  # times as long as a look took is waited before the next: 1 % of a processor
LEAST_WAIT = 1.0  # seconds
BEING_REPLACED: tuple[type[Exception], ...] = (FileNotFoundError,)
if sys.platform == "win32":
    BEING_REPLACED += (PermissionError,)  # it may not be opened meanwhile
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 30  # bars of a status line


def follow(
    path: Path | str,
    asked: Mapping[str, str | None],
    *,
    momentum: bool | None = None,
    name: str | None = None,
    wait: Callable[[float], bool | None] = time.sleep,
) -> Iterator[tuple[Judged, ...] | Watched]:
    """The runs of a file or a folder whenever they have changed, judged.

    A log of our steps' reports is judged by these. Of a file to which lines are appended, these
    alone are read; what was replaced, or became shorter, is read from its begin. While nothing can
    be read of it, it is waited for; if that is so at first, no run is given once.

    Args:
        path: what :func:`read_logs` takes.
        asked: its options; with one of them, the loss alone is judged.
        momentum: see :func:`watch`.
        name: what the log is called; None: its path.
        wait: waits for some seconds; True: nothing more will come, so that the next look is the
            last.

    Raises:
        Refused: a line is no report, where the first is one.
        OSError: a file is there and cannot be read.
    """
    path = Path(path)
    options = {role: title for role, title in asked.items() if title is not None}
    seen: tuple[tuple[int, int, int], ...] | None = None
    is_first, is_last = True, False
    with closing(_Look(path, options, momentum, name or str(path))) as look:
        while True:
            begin = time.thread_time()
            now = _state(path)
            if now != seen:
                found = look()
                if found is not None:
                    seen = now
                    yield found
                elif seen is None:
                    seen = ()
                    yield ()
            if is_last:
                return
            spent = time.thread_time() - begin
            # The first look may be the only one at the whole.
            is_last = bool(wait(LEAST_WAIT if is_first else max(LEAST_WAIT, SHARE * spent)))
            is_first = False


class _Look:
    """Looks at a log: reads on, where that can be, or else anew."""

    def __init__(
        self, path: Path, asked: Mapping[str, str], momentum: bool | None, name: str
    ) -> None:
        self._path, self._asked, self._momentum, self._name = path, asked, momentum, name
        self._growing: Watching | Growing | None = None

    def close(self) -> None:
        if self._growing is not None:
            self._growing.lines.close()
        self._growing = None

    def __call__(self) -> tuple[Judged, ...] | Watched | None:
        """What is there; None: it is being replaced, or nothing is in it yet."""
        is_new = False
        try:
            if self._growing is None or not self._growing.lines.goes_on():
                self.close()
                is_new = True
                self._growing = self._begin()
            if isinstance(self._growing, Watching):
                return self._growing.read()
            if self._growing is not None:
                return tuple(map(judge, self._growing.read()))
            return tuple(map(judge, read_path(self._path, self._asked, self._name)))
        except BEING_REPLACED:
            self.close()
        except Refused:
            if is_new and isinstance(self._growing, Watching):
                raise
            self.close()
        return None

    def _begin(self) -> Watching | Growing | None:
        """What reads on; None: it is to be read anew each time, as short files are."""
        if self._path.is_dir():
            return None
        growing = Growing.of(self._path, self._asked, self._name)
        # Looked at last: what is long enough to grow has its first line, which tells.
        if not self._asked and is_own(self._path):
            if growing is not None:
                growing.lines.close()
            return Watching(self._path, momentum=self._momentum, name=self._name)
        return growing


def _state(path: Path) -> tuple[tuple[int, int, int], ...]:
    """What changes when a file does: which it is, its length and its time."""
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
    except FileNotFoundError:  # a folder went while it was walked through: the next look sees more
        return ()
    found = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            continue
        found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


class Pace:
    """How long a run will take: its steps over the time that it was watched."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def left(self, log: Log) -> float | None:
        """Seconds to its last step; None where that is not known."""
        now, step = self._clock(), float(log.steps[-1])
        if self._first is None or step < self._first[1]:
            self._first = now, step
        begin, at = self._first
        if log.total is None or step <= at or now <= begin:
            return None
        return max(0.0, (log.total - step) * (now - begin) / (step - at))


def status(run: Judged | Watched, left: float | None = None) -> str:
    """A run in one line: its loss as bars and a number, its rate, the verdict, the time left."""
    log = run if isinstance(run, Watched) else run.log
    words = [bars(log.losses), f"{getattr(log, 'unit', 'step')} {log.steps[-1]:,.6g}"]
    if isinstance(log, Log) and log.total is not None:
        words[-1] += f"/{log.total:,}"
    words.append(f"loss {log.losses[-1]:.4g}")
    if not math.isnan(log.rates[-1]):
        words.append(f"lr {log.rates[-1]:.3g}")
    words.append(run.verdict.kind)
    if left is not None:
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        words.append(f"{hours}:{minutes:02}:{seconds:02} left")
    return "  ".join(words)


def bars(losses: Any) -> str:
    """Losses as a line of bars; a gap stands for what is not finite."""
    values = np.asarray(losses, np.float64)
    parts = np.array_split(values, min(WIDTH, len(values)))
    middles = [float(np.median(part)) for part in parts]
    finite = [x for x in middles if math.isfinite(x)]
    if not finite:
        return " " * len(parts)
    low, high = min(finite), max(finite)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((x - low) * scale)] if math.isfinite(x) else " " for x in middles)


def describe(judged: Judged) -> list[tuple[str, str]]:
    """A run as rows of a table: verdict, how sure, why, what to try, and what was read."""
    log, verdict = judged.log, judged.verdict
    rows = [
        ("verdict", verdict.kind),
        ("confidence", _sure(judged)),
        ("because", verdict.reason),
        ("try", judged.to_try),
        ("points", f"{len(log.steps):,}, to {log.unit} {log.steps[-1]:,.6g}"),
        ("loss", f"{log.losses[0]:.4g} to {log.losses[-1]:.4g}, lowest {judged.envelope[-1]:.4g}"),
    ]
    if log.has_rates:
        rows.append(("lr", f"{log.rates[0]:.3g} to {log.rates[-1]:.3g}"))
    if len(judged.phases) > 1:
        for phase in judged.phases:
            at = f"{log.steps[phase.begin]:,.6g} to {log.steps[phase.end - 1]:,.6g}"
            rows.append((phase.name, f"{log.unit} {at}: {phase.verdict.kind}"))
    if judged.plateau is not None:
        rows.append(("plateau", f"since {log.unit} {judged.plateau:,.6g}"))
    for spike in judged.spikes[:5]:
        after = "never" if spike.recovered is None else f"after {spike.recovered} points"
        words = f"{log.unit} {spike.step:,.6g}: {spike.loss:.4g}"
        rows.append(("spike", f"{words} where {spike.usual:.4g} was usual, recovered {after}"))
    if len(judged.spikes) > 5:
        rows.append(("spikes", f"{len(judged.spikes)} in all"))
    rows.append(("read", f"{log.kind}: " + ", ".join(f"{k} = {v}" for k, v in log.columns.items())))
    rows += [("note", note) for note in log.notes]
    return rows


def overview(runs: tuple[Judged, ...]) -> list[tuple[str, ...]]:
    """Several runs, a row each, by their rates: name, rate, points, loss, verdict, confidence."""

    def rate(judged: Judged) -> float:
        return float(np.nanmax(judged.log.rates)) if judged.log.has_rates else math.inf

    return [
        (
            judged.log.name,
            f"{rate(judged):.3g}" if judged.log.has_rates else "-",
            f"{len(judged.log.steps):,}",
            f"{judged.log.losses[-1]:.4g}",
            judged.verdict.kind,
            _sure(judged),
        )
        for judged in sorted(runs, key=rate)
    ]


OVERVIEW = ("run", "highest lr", "points", "loss", "verdict", "confidence")


def _sure(judged: Judged) -> str:
    sure = judged.verdict.numbers.get("sure", 0.0)
    return f"{judged.confidence} ({100 * sure:.0f} %)" if judged.confidence != "none" else "none"
