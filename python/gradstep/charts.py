"""Lines over steps as SVG within a page: axes with ticks, lines thinned to what can be seen.

A chart stretches with the page, while its words and marks keep their size: what lies along the
steps is placed in per cent, and lines are drawn in a part that is stretched. Colours, dashes and
sizes of letters are the page's, by the names of classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ACROSS, DOWN = 10_000, 2_000  # the grid that lines are drawn on
MOST_POINTS = 2_000  # of a line
MOST_MARKS = 60  # of one kind
LEAST = 1e-300  # what is below is shown as 0
LARGEST = 1e30  # what is beyond is drawn no more than what is not finite
FAR = 3.0  # times the usual height: what is higher does not stretch the axis
LETTERS = 15  # pixels from one label to the next
MARGIN = 92  # per cent of the width: a line that ends there has its label in the margin


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, both finite, `low` < `high`, and above 0 where it is logarithmic.

    Attributes:
        whole: whether it has whole numbers alone.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, values: Array) -> Array:
        """Where values are: 0 at `low`, 1 at `high`, and beyond for what is beyond."""
        low, high = self._scaled(np.array([self.low, self.high]))
        place: Array = (self._scaled(values) - low) / (high - low)
        return place

    def _scaled(self, values: Array) -> Array:
        if not self.log:
            return values
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(np.maximum(values, 0.0))

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers within, about `most` at most."""
        if not self.log:
            return _even_ticks(self.low, self.high, most, 1.0 if self.whole else 0.0)
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        every = max(1, -(-(last - first + 1) // most))
        digits = (1,) if last - first >= 2 else (1, 2, 5)
        exponents = range(first - 1, last + 1)
        ticks = [
            float(f"{digit}e{exponent}")
            for exponent in exponents
            for digit in digits
            if exponent % every == 0
        ]
        ticks = [tick for tick in ticks if self.low <= tick <= self.high]
        return ticks if len(ticks) > 1 else _even_ticks(self.low, self.high, most)


def _even_ticks(low: float, high: float, most: int, least: float = 0.0) -> list[float]:
    rough = max((high - low) / most, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def step_axis(steps: Array) -> Axis:
    """All steps, from the first to the last."""
    low, high = float(steps.min()), float(steps.max())
    margin = 0 if high > low else 1
    return Axis(low - margin, high + margin, whole=bool((steps == np.rint(steps)).all()))


def value_axis(values: Array, *, log_from: float = 100.0) -> Axis:
    """What to show of values: all that is usual, with a margin.

    Args:
        values: in their order, float64, shape (points,); what is not finite does not count.
        log_from: logarithmic where all are above 0 and the highest is more than so many times the
            lowest.
    """
    known = values[np.isfinite(values) & (np.abs(values) <= LARGEST)]
    if not len(known):
        return Axis(0.0, 1.0)
    low, usual_low, usual, high = map(float, np.quantile(known, [0, 0.02, 0.98, 1]))
    usual = max(usual, float(np.median(known[:5])))
    height = usual - usual_low
    if high > usual + (FAR - 1) * height > usual:
        high = usual + height / 4
    log = min(low, usual_low) > 0 and high > log_from * usual_low
    if log:
        low = max(low, usual_low / 100)
        return Axis(low / (high / low) ** 0.04, high * (high / low) ** 0.04, True)
    if low < usual_low - FAR * height < usual_low:
        low = usual_low - height / 4
    margin = 0.05 * (high - low)
    size = max(abs(low), abs(high))
    if margin <= max(1e-9 * size, LEAST):
        margin = size if size > LEAST else 1.0  # 0 can be seen, too
    return Axis(low - margin, high + margin)


def number(value: float) -> str:
    """A number to read: four digits, powers of ten for what is large or small."""
    if not math.isfinite(value):
        return "infinite" if value > 0 else "-infinite" if value < 0 else "unknown"
    if (value == int(value) or abs(value) >= 1000) and abs(value) < 1e6:
        return f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _tick(value: float) -> str:
    """The same, short enough for an axis."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1000 * size and abs(value) >= 1e4:
            return f"{value / size:.6g}{letter}"
    return number(value)


def thin(values: Array, most: int = MOST_POINTS) -> NDArray[np.intp]:
    """Indices that show what all show: of equal parts the first, lowest, highest and last."""
    count = len(values)
    if count <= most:
        return np.arange(count)
    finite = np.isfinite(values)
    for_low, for_high = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
    edges = np.linspace(0, count, most // 4 + 1).astype(int).tolist()
    parts = list(pairwise(edges))
    lowest = [a + int(np.argmin(for_low[a:b])) for a, b in parts]
    highest = [a + int(np.argmax(for_high[a:b])) for a, b in parts]
    return np.unique([*edges[:-1], *(end - 1 for end in edges[1:]), *lowest, *highest])


@dataclass(frozen=True)
class Line:
    """Values over steps, drawn in the page's class `style`; a gap where they are not finite."""

    steps: Array
    values: Array
    style: str


@dataclass(frozen=True)
class Band:
    """What lies between two lines."""

    steps: Array
    low: Array
    high: Array
    style: str


@dataclass(frozen=True)
class Marks:
    """Symbols at points, each with words; what is beyond the axis stands at its edge."""

    steps: Array
    values: Array
    symbol: str
    words: Sequence[str] = ()


@dataclass(frozen=True)
class Label:
    """Words at the end of a line; `short` alone where the page is narrow."""

    step: float
    value: float
    short: str
    rest: str
    style: str


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        key: unlike that of any other chart in the page.
        title, words: what it shows, for who does not see it.
        height: in pixels.
        uprights: steps and the words that stand at them, at the bottom, or at the top.
    """

    key: str
    title: str
    words: str
    height: int
    steps: Axis
    values: Axis
    bands: Sequence[Band] = ()
    lines: Sequence[Line] = ()
    marks: Sequence[Marks] = ()
    labels: Sequence[Label] = ()
    uprights: Sequence[tuple[float, str]] = ()
    at_top: bool = False

    def svg(self) -> str:
        """The chart, as wide as what it stands in."""
        key = escape(self.key)
        named = f'role="img" aria-labelledby="{key}-title {key}-words"'
        grid = f'viewBox="0 0 {ACROSS} {DOWN}" preserveAspectRatio="none"'
        return "\n".join(
            [
                f'<svg class="chart" width="100%" height="{self.height + 22}" {named}>',
                f'<title id="{key}-title">{escape(self.title)}</title>',
                f'<desc id="{key}-words">{escape(self.words)}</desc>',
                *self._ticks(),
                f'<svg width="100%" height="{self.height}" {grid}>',
                *(self._band(band) for band in self.bands),
                *(self._line(line) for line in self.lines),
                "</svg>",
                *self._single_points(),
                *self._uprights(),
                *(mark for marks in self.marks for mark in self._marks(marks)),
                *self._labels(),
                "</svg>",
            ]
        )

    def _ticks(self) -> Iterator[str]:
        for tick in self.values.ticks(max(4, self.height // 40)):
            y = f"{self._y(tick):.1f}"
            yield (
                f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
                f'<text class="tick" x="-8" y="{y}" dy="4" text-anchor="end">{_tick(tick)}</text>'
            )
        bottom = self.height
        for i, tick in enumerate(self.steps.ticks(10)):
            x = self._x(tick)
            wide = " wide" if i % 2 else ""
            anchor = "middle" if 3 < x < 97 else "start" if x <= 3 else "end"
            yield (
                f'<line class="grid{wide}" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="{bottom}"/>'
                f'<text class="tick{wide}" x="{x:.2f}%" y="{bottom + 17}" '
                f'text-anchor="{anchor}">{_tick(tick)}</text>'
            )
        yield f'<line class="axis" x1="0" x2="100%" y1="{bottom}" y2="{bottom}"/>'

    def _x(self, step: float) -> float:
        """In per cent of the width."""
        return 100 * float(self.steps.at(np.array([step]))[0])

    def _y(self, value: float) -> float:
        """In pixels, within the chart."""
        place = float(self.values.at(np.array([value]))[0])
        return self.height * (1 - min(max(0.0 if math.isnan(place) else place, 0.0), 1.0))

    def _grid(self, steps: Array, values: Array) -> list[str]:
        """Points on the grid; what is far beyond it is brought near: slopes are steep enough."""
        x = np.rint(ACROSS * self.steps.at(steps))
        y = np.rint(DOWN * (1 - np.clip(self.values.at(values), -2, 3)))
        return [f"{a:.0f} {b:.0f}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]

    def _line(self, line: Line) -> str:
        chosen = thin(line.values)
        steps, values = line.steps[chosen], line.values[chosen]
        known = np.isfinite(values)
        pieces = np.split(np.arange(len(values)), np.flatnonzero(np.diff(known)) + 1)
        path = "".join(
            "M" + "L".join(points if len(points) > 1 else points * 2)  # a dot for one alone
            for points in (
                self._grid(steps[piece], values[piece]) for piece in pieces if known[piece].all()
            )
            if points
        )
        return f'<path class="line {line.style}" d="{path}"/>'

    def _band(self, band: Band) -> str:
        known = np.flatnonzero(np.isfinite(band.low) & np.isfinite(band.high))
        if not len(known):
            return ""
        chosen = known[np.unique(np.linspace(0, len(known) - 1, 400).astype(np.intp))]
        steps = band.steps[chosen]
        there, back = self._grid(steps, band.high[chosen]), self._grid(steps, band.low[chosen])
        return f'<path class="{band.style}" d="M{"L".join([*there, *back[::-1]])}z"/>'

    def _uprights(self) -> Iterator[str]:
        y = LETTERS if self.at_top else self.height - 8
        for step, words in self.uprights:
            x = self._x(step)
            side, away = ("end", -6) if x > 55 else ("start", 6)
            yield (
                f'<line class="upright" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="{self.height}"/>'
                f'<text class="note" x="{x:.2f}%" dx="{away}" y="{y}" '
                f'text-anchor="{side}">{escape(words)}</text>'
            )

    def _single_points(self) -> Iterator[str]:
        for line in self.lines:
            if len(line.values) == 1 and math.isfinite(line.values[0]):
                x, y = self._x(float(line.steps[0])), self._y(float(line.values[0]))
                yield f'<circle class="dot" cx="{x:.2f}%" cy="{y:.1f}" r="4"/>'

    def _marks(self, marks: Marks) -> Iterator[str]:
        for i, (step, value) in enumerate(zip(marks.steps, marks.values, strict=True)):
            words = f"<title>{escape(marks.words[i])}</title>" if marks.words else ""
            yield (
                f'<use href="#{marks.symbol}" x="{self._x(float(step)):.2f}%" '
                f'y="{self._y(float(value)):.1f}">{words}</use>'
            )

    def _labels(self) -> Iterator[str]:
        """A label that stands within the chart is shown in full where the page is narrow, too."""
        ends = sorted(self.labels, key=lambda label: self._y(label.value))
        margin = [label for label in ends if self._x(label.step) >= MARGIN]
        within = [label for label in ends if self._x(label.step) < MARGIN]
        for labels, style in ((margin, "wide"), (within, "within")):
            places = _apart([self._y(label.value) for label in labels], self.height)
            for label, y in zip(labels, places, strict=True):
                yield (
                    f'<text class="label {label.style}" x="{self._x(label.step):.2f}%" dx="8" '
                    f'y="{y:.1f}" dy="4">{escape(label.short)}'
                    f'<tspan class="{style}"> {escape(label.rest)}</tspan></text>'
                )


def _apart(places: Sequence[float], height: float) -> list[float]:
    """Rising places, pushed apart down, then those at the bottom up."""
    gap = min(LETTERS, height / max(len(places), 1))
    apart: list[float] = []
    for place in places:
        apart.append(max(place, apart[-1] + gap) if apart else place)
    for i, place in enumerate(reversed(apart)):
        apart[len(apart) - 1 - i] = min(place, height - i * gap)
    return apart


def beyond(steps: Array, values: Array, axis: Axis) -> tuple[Marks, Marks, Marks]:
    """Where values leave the axis at its top, its bottom, and for good: some of the places."""
    infinite = np.isinf(values)
    with np.errstate(invalid="ignore"):
        above, below = (values > axis.high) & ~infinite, (values < axis.low) & ~infinite
    return (
        _some(steps, values, above, "above"),
        _some(steps, values, below, "below"),
        _some(steps, values, infinite, "infinite"),
    )


def _some(steps: Array, values: Array, chosen: NDArray[np.bool_], symbol: str) -> Marks:
    """Of marks that would lie on each other one, the farthest out."""
    at = np.flatnonzero(chosen)
    if len(at) > MOST_MARKS:
        place = (steps[at] - steps[0]) / max(float(steps[-1] - steps[0]), 1e-300)
        part = np.minimum((MOST_MARKS * place).astype(np.intp), MOST_MARKS - 1)
        order = np.lexsort((-np.abs(values[at]), part))
        at = at[order[np.unique(part[order], return_index=True)[1]]]
    pairs = zip(steps[at].tolist(), values[at].tolist(), strict=True)
    words = [f"step {number(step)}: {number(value)}" for step, value in pairs]
    return Marks(steps[at], values[at], symbol, words)
