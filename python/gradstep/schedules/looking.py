"""Schedules in words and in one line: what a run would use, and what changes between two."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np

from . import arguments as check
from .base import MAKERS, Schedule

_AT_ONCE = 1 << 20  # steps looked at in one go
_BARS = " ▁▂▃▄▅▆▇█"
_JUMPS = 10  # that are listed
_SHOWN = 200  # characters of a text that an error quotes


@dataclass(frozen=True)
class Explanation:
    """What a schedule does in ``total`` updates; ``str()`` of it is in words.

    Attributes:
        schedule, total: what was asked.
        first, last: the values of the first and the last update.
        peak, peak_at: the largest value, and the first update that uses it.
        lowest, lowest_at: the same for the smallest.
        zeros: how many updates use the value 0.
        jumps: ``(t, before, after)`` for each update whose value is far from the one before it,
            compared to its neighbours' and to the whole range.
        after: the value at ``t = total``, one past the last update; None if that is refused.
    """

    schedule: Schedule
    total: int
    first: float
    last: float
    peak: float
    peak_at: int
    lowest: float
    lowest_at: int
    zeros: int
    jumps: tuple[tuple[int, float, float], ...]
    after: float | None

    def __str__(self) -> str:
        lines = [
            f"{self.total:,} updates of {self.schedule!r}",
            f"first value {self.first:g}, last used value {self.last:g}",
            f"peak {self.peak:g} at t = {self.peak_at:,}",
            f"lowest {self.lowest:g} at t = {self.lowest_at:,}",
        ]
        if self.zeros:
            does = "it does" if self.zeros == 1 else "they do"
            lines.append(f"{_count(self.zeros, 'update')} spent at zero: {does} nothing")
        shown = [f"{a:g} → {b:g} at t = {t:,}" for t, a, b in self.jumps[:_JUMPS]]
        if shown:
            more = len(self.jumps) - len(shown)
            lines.append(
                f"{_count(len(self.jumps), 'jump')}: {', '.join(shown)}"
                + (f" and {more} more" if more else "")
            )
        if self.after is None:
            lines.append(f"t = {self.total:,} is refused")
        elif self.after != self.last:
            lines.append(f"t = {self.total:,}, which no update uses, would be {self.after:g}")
        return "\n".join(lines)


def explain(schedule: Schedule, total: SupportsIndex) -> Explanation:
    """What a schedule does in a run of ``total`` updates.

    Args:
        schedule: the schedule.
        total: updates, at least 1.

    Raises:
        TypeError: ``schedule`` is none.
        ValueError: ``total`` is out of range, or the schedule ends before.

    Example:
        >>> from gradstep import schedules
        >>> print(schedules.explain(schedules.step(0.1, 30).warmup(5), total=60))
        60 updates of schedules.step(0.1, step_size=30).warmup(updates=5)
        first value 0, last used value 0.01
        peak 0.1 at t = 5
        lowest 0 at t = 0
        1 update spent at zero: it does nothing
        1 jump: 0.1 → 0.01 at t = 35
    """
    _is_schedule("schedule", schedule)
    n = check.updates("total", total, 1)
    peak, peak_at, lowest, lowest_at, zeros = -np.inf, 0, np.inf, 0, 0
    for begin, values in _parts(schedule, n):
        high, low = int(values.argmax()), int(values.argmin())
        if values[high] > peak:
            peak, peak_at = float(values[high]), begin + high
        if values[low] < lowest:
            lowest, lowest_at = float(values[low]), begin + low
        zeros += int((values == 0).sum())
    try:
        after = schedule(n)
    except ValueError:
        after = None
    return Explanation(
        schedule=schedule,
        total=n,
        first=schedule(0),
        last=schedule(n - 1),
        peak=peak,
        peak_at=peak_at,
        lowest=lowest,
        lowest_at=lowest_at,
        zeros=zeros,
        jumps=tuple(_jumps(schedule, n, peak - lowest)),
        after=after,
    )


def _parts(schedule: Schedule, total: int, overlap: int = 0) -> Iterator[tuple[int, Any]]:
    """The first steps and values of stretches of `total`, each `overlap` longer than the rest."""
    for begin in range(0, total, _AT_ONCE):
        yield begin, schedule.range(begin, min(total, begin + _AT_ONCE + overlap))


def _jumps(schedule: Schedule, total: int, span: float) -> Iterator[tuple[int, float, float]]:
    """Changes of a twentieth of the span that are five times as large as those beside them."""
    for begin, values in _parts(schedule, total, overlap=3):
        change = np.abs(np.diff(values))
        around = np.zeros_like(change)
        around[1:] = change[:-1]
        around[:-1] = np.maximum(around[:-1], change[1:])
        found = np.flatnonzero((change > 0.05 * span) & (change > 5 * around))
        for i in found.tolist():
            # The first and the last change of a stretch lack a neighbour here.
            if (i > 0 or begin == 0) and (i < len(change) - 1 or begin + len(values) >= total):
                yield begin + i + 1, float(values[i]), float(values[i + 1])


@dataclass(frozen=True)
class Difference:
    """What another schedule changes from step ``at`` on; ``str()`` of it is in words.

    Attributes:
        at: the first update that would use the other one.
        used: the value of the update before it, by the old one; None at 0.
        old, new: their values at ``at``.
        first: the first step from ``at`` on where they differ; None if they do not.
        largest, largest_at: the largest difference and where it is.
        arguments: ``(name, old, new)`` of each argument that differs, where both are of one kind.
        total: how far was looked.
    """

    at: int
    used: float | None
    old: float
    new: float
    first: int | None
    largest: float
    largest_at: int
    arguments: tuple[tuple[str, Any, Any], ...]
    total: int

    def __str__(self) -> str:
        lines = [f"{name}: {a!r} → {b!r}" for name, a, b in self.arguments]
        if self.first is None:
            return "\n".join([*lines, f"the same values from t = {self.at:,} to {self.total:,}"])
        ratio = f" ({self.new / self.old:.3g} times)" if self.old else ""
        if self.old == self.new:
            lines.append(f"at t = {self.at:,} both give {self.new:g}")
        else:
            lines.append(f"at t = {self.at:,}: {self.old:g} → {self.new:g}{ratio}")
        if self.used is not None:
            lines.append(f"the update before it used {self.used:g}")
        lines.append(
            f"they differ from t = {self.first:,} on, most at t = {self.largest_at:,}, "
            f"by {self.largest:g}"
        )
        return "\n".join(lines)


def diff(
    a: Schedule, b: Schedule, at: SupportsIndex, total: SupportsIndex | None = None
) -> Difference:
    """What changes if a run that used ``a`` goes on with ``b`` from step ``at``.

    Args:
        a, b: the schedules.
        at: the number of updates done so far.
        total: how far to look; without it as far as their own totals say, or 10000 updates
            further.

    Raises:
        TypeError: ``a`` or ``b`` is no schedule.
        ValueError: ``at`` or ``total`` is out of range, or a schedule ends before.

    Example:
        >>> from gradstep import schedules
        >>> old, new = schedules.cosine(0.1, total=100), schedules.cosine(0.1, total=200)
        >>> print(schedules.diff(old, new, at=50))
        total: 100 → 200
        at t = 50: 0.05 → 0.0853553 (1.71 times)
        the update before it used 0.0515705
        they differ from t = 50 on, most at t = 84, by 0.0562498
    """
    _is_schedule("a", a)
    _is_schedule("b", b)
    begin = check.updates("at", at)
    own = [s._arguments.get("total", 0) for s in (a, b)]
    until = max(*own, begin + 1) if any(n > begin for n in own) else begin + 10_000
    if total is not None:
        until = check.updates("total", total, begin + 1)
    until = min(until, check.FOREVER)
    first, largest, largest_at = None, 0.0, begin
    for start in range(begin, until, _AT_ONCE):
        stop = min(until, start + _AT_ONCE)
        gap = np.abs(a.range(start, stop) - b.range(start, stop))
        if first is None and gap.any():
            first = start + int(np.flatnonzero(gap)[0])
        if gap.max() > largest:
            largest, largest_at = float(gap.max()), start + int(gap.argmax())
    return Difference(
        at=begin,
        used=a(begin - 1) if begin else None,
        old=a(begin),
        new=b(begin),
        first=first,
        largest=largest,
        largest_at=largest_at,
        arguments=_changed(a, b),
        total=until,
    )


def _changed(a: Schedule, b: Schedule) -> tuple[tuple[str, Any, Any], ...]:
    if a._name != b._name:
        return (("schedule", a, b),) if a != b else ()
    pairs = ((name, a._arguments[name], b._arguments[name]) for name in a._arguments)
    return tuple((name, old, new) for name, old, new in pairs if old != new)


def sparkline(schedule: Schedule, total: SupportsIndex, width: SupportsIndex = 60) -> str:
    """The values of ``total`` updates as a line of ``width`` bars, from 0 or the lowest, if lower.

    Only what is lowest has no bar.

    Raises:
        TypeError: ``schedule`` is none.
        ValueError: ``total`` or ``width`` is not at least 1, the schedule ends before, or its
            values are not finite.

    Example:
        >>> from gradstep import schedules
        >>> schedules.sparkline(schedules.cosine(0.1, total=100).warmup(20), total=100, width=20)
        ' ▃▅▇████▇▆▆▅▄▃▃▂▁▁▁▁'
    """
    _is_schedule("schedule", schedule)
    n = check.updates("total", total, 1)
    t = np.linspace(0, n - 1, check.updates("width", width, 1)).round().astype(np.int64)
    values = schedule(t)
    low = min(0.0, float(values.min()))
    span = float(values.max()) - low
    if not np.isfinite(span):
        raise ValueError(f"schedule: got values up to {values.max():g}, wanted finite ones")
    places = (values - low) / span * (len(_BARS) - 1) if span else np.zeros_like(values)
    return "".join(_BARS[i] for i in np.ceil(places).astype(int).tolist())


def parse(text: str) -> Schedule:
    """The schedule that a text describes: what ``repr`` or ``to_json`` gave, or less formal.

    Only names of this package, numbers, texts, lists, ``+`` and ``*`` are understood: nothing else
    is run.

    Raises:
        ValueError: it cannot be understood, or an argument is invalid.
        TypeError: an argument is of the wrong type, missing or unknown.

    Example:
        >>> from gradstep import schedules
        >>> schedules.parse("0.5 * cosine(0.1, total=1000).warmup(100)")
        schedules.cosine(0.1, total=1000).warmup(updates=100).scale(0.5)
    """
    shown = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
    try:
        if text.lstrip().startswith("{"):
            made = Schedule.from_json(text)
        else:
            made = _evaluated(ast.parse(text.strip(), mode="eval").body)
        repr(made)  # whoever shows it would find out that it is too deep
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"text: got {shown}, which is no schedule: {error}") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"text: got {shown}, which is nested too deeply") from None
    except (SyntaxError, OverflowError) as error:
        raise ValueError(f"text: got {shown}, which cannot be read: {error}") from None
    if not isinstance(made, Schedule):
        raise ValueError(f"text: got {shown}, wanted a schedule such as 'cosine(0.1, total=100)'")
    return made


def _evaluated(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and not isinstance(node.value, bytes | complex):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluated(item) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluated(node.operand)
        if isinstance(value, int | float):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        a, b = _evaluated(node.left), _evaluated(node.right)
        terms = all(isinstance(x, int | float | Schedule) for x in (a, b))  # no texts or lists
        if isinstance(node.op, ast.Add) and terms:
            return a + b
        if isinstance(node.op, ast.Mult) and terms:
            return a * b
        numbers = all(isinstance(x, int | float) for x in (a, b))
        if isinstance(node.op, ast.Div) and numbers and b:
            return a / b
    if isinstance(node, ast.Call) and all(k.arg for k in node.keywords):
        args = [_evaluated(arg) for arg in node.args]
        options = {str(k.arg): _evaluated(k.value) for k in node.keywords}
        return _maker(node.func)(*args, **options)
    raise ValueError(f"text: got {ast.unparse(node)!r}, which no schedule is made of")


def _maker(node: ast.expr) -> Any:
    """The function that a name stands for, or the method of a schedule."""
    if isinstance(node, ast.Attribute):
        of = node.value
        if not (isinstance(of, ast.Name) and of.id == "schedules"):
            made = _evaluated(of)
            if isinstance(made, Schedule) and hasattr(Schedule, node.attr) and node.attr in MAKERS:
                return getattr(made, node.attr)
            raise ValueError(f"text: got .{node.attr}, wanted one of {_names(methods=True)}")
        name = node.attr
    else:
        name = node.id if isinstance(node, ast.Name) else ast.unparse(node)
    if name not in _names(methods=False).split(", "):
        raise ValueError(f"text: got {name}, wanted one of {_names(methods=False)}")
    return MAKERS[name]


def _names(methods: bool) -> str:
    return ", ".join(name for name in MAKERS if hasattr(Schedule, name) == methods)


def _is_schedule(argument: str, x: object) -> None:
    if not isinstance(x, Schedule):
        raise TypeError(f"{argument}: got {x!r} ({type(x).__name__}), wanted a Schedule")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
