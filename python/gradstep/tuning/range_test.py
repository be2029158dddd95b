"""The range test: one short sweep over learning rates, and what its losses say.

The sweep is that of Smith, Cyclical Learning Rates for Training Neural Networks (2017). How the
curve is read was chosen by measurement: `benchmarks/range_test.py` prints what it reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import notebooks
from ..charts import Axis, Band, Line, Panel, value_axis
from ..checks import real, type_name, whole
from ..rule import ADAPTIVE, MOMENTUM, PLAIN, SIGN
from .handles import handle

Array = NDArray[np.float64]
Confidence = Literal["high", "medium", "low", "inconclusive"]

# All of these were chosen on the problems that `benchmarks/rate_problems.py` has for that.
SMOOTH = 0.32  # decades: the width σ of the smoothing, 4 points of the default sweep
FIRST = 0.15  # the part of the points that tells where the loss began
REACHED = 0.8  # the first rate that reaches this part of the greatest fall gets somewhere
KEPT = 0.3  # the last rate at which this part of the fall is left is about the highest borne
BAND = 0.9  # rates at which this part is reached are alike
# The suggestion lies so far, in the logarithm, from the rate that reaches the fall to the one that
# keeps some of it. A training stays at its rate for longer than a sweep does, so that its best rate
# is the sweep's times a factor; the last number shifts the interval to where the best rate is when
# the suggestion is not.
AIM: dict[str | None, tuple[float, float, float]] = {
    PLAIN: (0.5, 1.0, 0.6),
    MOMENTUM: (0.5, 0.5, 1.0),
    SIGN: (0.15, 0.7, 1.25),
    ADAPTIVE: (0.15, 0.7, 1.25),
    None: (0.35, 0.7, 1.0),
}
MARGIN = 5.5  # the interval on either side, with at most one doubt
UNSURE = 12.0  # the same with more
NARROW = 10**1.2  # from reaching the fall to losing it: a valley that is easily missed
RISE = 0.5  # diverged: above the first loss by this part of the fall, and by 2σ of the noise
STOP = 4.0  # nothing more to learn: above the first loss by so many times the fall, or by 16σ
FALL = 4.0  # σ of a smoothed loss: a fall below it is noise
CLEAR = 20.0  # the same, for a high confidence
BROAD = 10**2.1  # so far half of the fall may last for it: where it lasts longer, little is told
ALIKE = 10.0  # rates that are alike over so much are said to be: take one from their lower half
WIDE = 10**1.6  # so many tell little of which is best
DENSE = 10.0  # points per decade
LEAST = 10  # points

HEIGHT, MOST_SWEEPS = 220, 20  # of what a notebook shows: pixels, and sweeps with a line each


@dataclass(frozen=True)
class RangeTest:
    """What a sweep over rates has shown.

    Attributes:
        rates: the rates of the sweep, float64, shape (points,).
        losses: at each rate the loss before the step at it, float64, shape (sweeps, points); NaN
            from where a sweep was stopped.
        smoothed: the median over sweeps, smoothed without a lag, float64, shape (points,); NaN from
            where the loss diverged.
        interval: the lowest and the highest rate that are worth trying; None where the sweep says
            nothing.
        suggestion: one rate between them; None with ``interval``.
        confidence: how clearly the curve shows a bottom: ``"high"``, ``"medium"``, ``"low"``; or
            ``"inconclusive"``, without an interval.
        reason: why, in words.
    """

    rates: Array
    losses: Array
    smoothed: Array
    interval: tuple[float, float] | None
    suggestion: float | None
    confidence: Confidence
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain lists, numbers and texts; what is not finite is None."""
        values = asdict(self)
        for key in ("rates", "losses", "smoothed"):
            values[key] = _plain(values[key].tolist())
        if self.interval is not None:
            values["interval"] = list(self.interval)
        return values

    def plot(self, path: Path | str) -> Path:
        """Draw it: losses, the smoothed curve, the interval and the suggestion over the rates.

        Args:
            path: the file to write; its ending names the format.

        Returns:
            The path.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from .. import plots  # noqa: PLC0415 - who draws nothing needs no matplotlib

        return plots.range_test(
            self.rates,
            self.losses,
            self.smoothed,
            Path(path),
            interval=self.interval,
            suggestion=self.suggestion,
            confidence=self.confidence,
        )

    @notebooks.whatever_comes
    def _repr_html_(self) -> str:
        return notebooks.chart(self._panel(), f"Loss over rate: {self}")

    @notebooks.whatever_comes
    def _repr_svg_(self) -> str:
        return notebooks.picture(self._panel())

    def _panel(self) -> Panel:
        """What :meth:`plot` draws, as a chart within a page."""
        losses = self.losses[:MOST_SWEEPS]
        axis = value_axis(np.concatenate([self.smoothed, *losses]))
        lines = [Line(self.rates, sweep, "loss") for sweep in losses]
        bands, uprights = [], []
        if self.interval is not None and self.suggestion is not None:
            low, high = np.full(2, axis.low), np.full(2, axis.high)
            bands = [Band(np.array(self.interval), low, high, "band")]
            uprights = [(self.suggestion, f"try {self.suggestion:.2g}")]
        return Panel(
            "range-test", "Loss over rate", str(self), HEIGHT,
            Axis(float(self.rates[0]), float(self.rates[-1]), log=True), axis,
            bands=bands, uprights=uprights, at_top=True,  # where the loss is not
            lines=[*lines, Line(self.rates, self.smoothed, "envelope")],
        )  # fmt: skip

    def __str__(self) -> str:
        if self.interval is None or self.suggestion is None:
            return f"{self.confidence}: {self.reason}"
        low, high = self.interval
        return (
            f"try {self.suggestion:.2g}, between {low:.2g} and {high:.2g} "
            f"({self.confidence} confidence: {self.reason})"
        )


def _plain(values: Any) -> Any:
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values if math.isfinite(values) else None


def range_test(
    train_step: Callable[[], float],
    optimizer: Any,
    low: float = 1e-7,
    high: float = 10.0,
    points: int = 100,
    sweeps: int = 1,
    *,
    save: Callable[[], Any] | None = None,
    restore: Callable[[Any], object] | None = None,
    progress: Callable[[int], object] | None = None,
) -> RangeTest:
    """Find out which learning rates are worth trying, in as many steps as there are points.

    The rate rises from ``low`` to ``high`` by the same factor at each step. A sweep stops when the
    loss is not finite, when an ArithmeticError says that a number was not, or when the loss is far
    above the first. Whatever happens, Ctrl-C and exceptions included, parameters and the
    optimizer's state are to the bit what they were before.

    Args:
        train_step: makes one step of the training, on its next minibatch, and returns the loss
            from before the step, as a float. It must not set the rate itself. Methods ``save``
            and ``restore`` that it has, as :func:`loop`'s, are used where none are given here.
        optimizer: one of gradstep's; one of torch's; or any object with ``set_lr(rate)``,
            ``snapshot()`` and ``restore(snapshot)``; it may say its ``kind``: ``"plain"``,
            ``"momentum"``, ``"sign"`` or ``"adaptive"``. All groups get the same rate. A second
            copy of parameters and states is kept in memory meanwhile.
        low: the first rate, > 0.
        high: the last rate, > low.
        points: how many steps a sweep has, at least 10.
        sweeps: how many times to start again from the same state, at least 1. The median of
            several is less noisy.
        save: returns what else the loop changes, such as the states of random generators or the
            buffers of batch normalization.
        restore: gets what ``save`` returned, once before each further sweep and once at the end.
            Where it rewinds what draws the minibatches, all sweeps see the same ones.
        progress: called after each step with how many have been made.

    Returns:
        The :class:`RangeTest`.

    Raises:
        TypeError, ValueError: an argument is refused, or the training returns no number, or no
            finite one at the very first step.
        Exception: whatever ``train_step``, ``save``, ``restore`` and ``progress`` raise; an
            ArithmeticError of ``train_step`` only at the very first step.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> from gradstep.tuning import range_test
        >>> w, rng = np.zeros(3, np.float32), np.random.default_rng(0)
        >>> opt = gs.SGD(w, lr=0.1)
        >>> def train_step():
        ...     x = rng.standard_normal((32, 3)).astype(np.float32)
        ...     error = x @ w - x @ np.float32([1, 2, 3]) + rng.standard_normal(32, np.float32)
        ...     opt.step(x.T @ error / 32)
        ...     return float(error @ error) / 64
        >>> found = range_test(train_step, opt)
        >>> low, high = found.interval
        >>> bool(low < 0.3 < high), opt.t, opt.groups[0]["lr"]
        (True, 0, 0.1)
    """
    low, high, points, sweeps = check_sweep(low, high, points, sweeps)
    _check_function("train_step", train_step)
    if save is None and restore is None:
        own = getattr(train_step, "save", None), getattr(train_step, "restore", None)
        save, restore = own if all(map(callable, own)) else (None, None)
    for name, hook in {"save": save, "restore": restore, "progress": progress}.items():
        if hook is not None:
            _check_function(name, hook)
    if (save is None) != (restore is None):
        given, missing = ("save", "restore") if restore is None else ("restore", "save")
        raise TypeError(f"{missing}: got nothing, wanted a function to go with {given}")
    target = handle(optimizer)

    rates = np.geomspace(low, high, points)
    losses = np.full((sweeps, points), np.nan)
    back: list[Callable[[], object]] = []
    snapshot = target.snapshot()
    back.append(lambda: target.restore(snapshot))
    if save is not None and restore is not None:
        kept, put = save(), restore
        back.append(lambda: put(kept))
    steps = 0
    try:
        for sweep in range(sweeps):
            if sweep:
                _all(back)
            for i, rate in enumerate(rates.tolist()):
                target.set_lr(rate)
                losses[sweep, i] = _loss(train_step, steps, first=i == 0)
                steps += 1
                if progress is not None:
                    progress(steps)
                if _is_over(losses[sweep, : i + 1], points):
                    break
    finally:
        _all(back)
    return read(rates, losses, target.kind)


def check_sweep(low: Any, high: Any, points: Any, sweeps: Any) -> tuple[float, float, int, int]:
    """The arguments of that name, which say what a sweep tries, in their plain types.

    Raises:
        TypeError, ValueError: one of them is refused.
    """
    low, high = _rate("low", low), _rate("high", high)
    if low >= high:
        raise ValueError(f"low: got {low:g}, wanted less than high, which is {high:g}")
    return low, high, _count("points", points, LEAST), _count("sweeps", sweeps, 1)


def _rate(argument: str, value: Any) -> float:
    wanted = "a finite number > 0"
    rate = real(argument, value, wanted, got=type_name)
    if not 0 < rate < math.inf:
        raise ValueError(f"{argument}: got {value}, wanted {wanted}")
    return rate


def _count(argument: str, value: Any, least: int) -> int:
    return whole(argument, value, least, f"an integer ≥ {least}", got=type_name)


def _check_function(argument: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{argument}: got {type(value).__name__}, wanted a function")


def _all(actions: list[Callable[[], object]]) -> None:
    """Do all of them, whatever one raises, and an interrupted one again."""
    raised: BaseException | None = None
    for action in actions:
        try:
            try:
                action()
            except KeyboardInterrupt as interrupt:
                raised = interrupt
                action()
        except BaseException as error:
            raised = error if raised is None else raised
    if raised is not None:
        raise raised


def _loss(train_step: Callable[[], Any], step: int, first: bool) -> float:
    """The loss of one step: NaN where the numbers ran out, except for the first."""
    try:
        value = train_step()
    except ArithmeticError:
        if first:
            raise
        return math.nan
    except StopIteration:
        raise ValueError(
            f"train_step: got StopIteration from it at step {step + 1}, where its minibatches came "
            "to an end, wanted one that begins again with them: next() of an iterator that is "
            "made anew, or of itertools.cycle"
        ) from None
    if isinstance(value, bool) or not isinstance(value, Real):
        kind = type(value).__name__
        if value is None:
            wanted = "the loss as a float: does it end with `return loss`?"
        elif hasattr(value, "item"):
            wanted = "a float, such as `loss.item()`"
        else:
            wanted = "the loss as a float"
        raise TypeError(f"train_step: got {kind} from it, wanted {wanted}")
    loss = float(value)
    if first and not math.isfinite(loss):
        raise ValueError(
            f"train_step: got the loss {loss} at the very first step, before any rate could harm, "
            "wanted a finite one: look at the data and the first weights"
        )
    return loss


# ---- what the losses say ----


def smooth(values: Array, width: float) -> Array:
    """Each value's average with its neighbours on both sides, by a Gaussian of σ = width points."""
    i = np.arange(len(values))
    weights = np.exp(-0.5 * ((i[:, None] - i) / width) ** 2)
    smoothed: Array = weights @ values / weights.sum(axis=1)
    return smoothed


def _head(points: int) -> int:
    """How many points tell where the loss began."""
    return max(3, round(FIRST * points))


def _noise(losses: Array) -> float:
    """The noise of one loss, σ: that of neighbours' differences, which a slope changes little."""
    return 1.4826 * float(np.median(np.abs(np.diff(losses)))) / math.sqrt(2)


def _is_over(losses: Array, points: int) -> bool:
    """Whether a sweep's last losses are not finite, or beyond all that could be learned from."""
    if not math.isfinite(losses[-1]):
        return True
    if len(losses) < LEAST:
        return False
    first = float(np.median(losses[: _head(points)]))
    best = float(np.median(np.sort(losses)[:3]))
    recent = float(np.median(losses[-3:]))
    return recent > first + STOP * max(first - best, 4 * _noise(losses))


class _Curve(NamedTuple):
    """A sweep, smoothed up to where it diverged, and how the loss fell in it."""

    smoothed: Array
    first: float
    noise: float  # of one loss, σ
    least: float

    def part(self, share: float) -> tuple[int, int]:
        """The first and the last point at which this part of the greatest fall is reached."""
        good = np.flatnonzero(self.smoothed <= self.first - share * (self.first - self.least))
        return int(good[0]), int(good[-1])


def _curve(losses: Array, width: float, head: int) -> _Curve:
    """Read finite losses, at least as many as LEAST."""
    first, noise = float(np.median(losses[:head])), _noise(losses)
    best = np.minimum.accumulate(smooth(losses, 1.0))
    fall = np.maximum(first - best, 0)
    high = losses > first + RISE * fall + 2 * noise
    # One wild batch is no divergence; before the loss has fallen, a high one is noise.
    gone = [i for i in range(len(losses)) if high[i : i + 3].all() and fall[i] > noise]
    stop = max(gone[0], head) if gone else len(losses)
    smoothed = smooth(np.minimum(losses[:stop], first + 2 * noise), width)
    least = float(smoothed.min())
    start = float(np.median(smoothed[:head]))
    return _Curve(smoothed, start, noise, least)


def read(rates: Array, losses: Array, kind: str | None = None) -> RangeTest:
    """What the losses of a sweep say.

    Args:
        rates: float64, shape (points,), rising by the same factor from each to the next.
        losses: float64, shape (sweeps, points); from the first that is not finite on, a sweep's
            losses do not count.
        kind: of the optimizer: ``"plain"`` SGD, ``"momentum"``, ``"adaptive"``, or None.

    Returns:
        The :class:`RangeTest`.
    """
    density = (len(rates) - 1) / math.log10(rates[-1] / rates[0])  # points per decade
    width = max(1.0, SMOOTH * density)
    smoothed = np.full(len(rates), np.nan)
    middle = np.median(losses, axis=0)
    count = int(np.argmin([*np.isfinite(middle), False]))

    def said(
        confidence: Confidence,
        reason: str,
        interval: tuple[float, float] | None = None,
        suggestion: float | None = None,
    ) -> RangeTest:
        return RangeTest(rates, losses, smoothed, interval, suggestion, confidence, reason)

    if count < LEAST:
        return said(
            "inconclusive",
            f"the loss was not finite after {count} points: begin at a rate below {rates[0]:.2g}",
        )
    curve = _curve(middle[:count], width, _head(len(rates)))
    smoothed[: len(curve.smoothed)] = curve.smoothed
    # The noise of a smoothed value: the Gaussian averages about 2√π·σ losses.
    error = curve.noise / math.sqrt(max(1.0, 2 * math.sqrt(math.pi) * width))
    fall = curve.first - curve.least
    # also where losses are all alike
    if fall <= FALL * error or fall <= 1e-9 * abs(curve.first):
        return said(
            "inconclusive",
            f"the loss never fell by more than its noise ({fall:.2g}, noise {error:.2g}): try more "
            "points or sweeps, or a wider range of rates",
        )
    return said(*_judge(rates, curve, kind, fall / error if error else math.inf))


def _judge(
    rates: Array, curve: _Curve, kind: str | None, times: float
) -> tuple[Confidence, str, tuple[float, float], float]:
    """Confidence, reason, interval and suggestion of a curve that fell so many times its noise."""
    density = (len(rates) - 1) / math.log10(rates[-1] / rates[0])  # points per decade
    reached, kept = (float(rates[i]) for i in (curve.part(REACHED)[0], curve.part(KEPT)[1]))
    low, high = (float(rates[i]) for i in curve.part(BAND))
    weight, factor, shift = AIM[kind]
    suggestion = reached * (kept / reached) ** weight * factor
    alike = ""
    if high >= ALIKE * low:
        suggestion = min(suggestion, math.sqrt(low * high))
        alike = f"the loss is alike over {math.log10(high / low):.1f} decades"
    falling = low <= rates[_head(len(rates)) - 1]
    doubts = [
        (falling, f"the loss fell from the start: begin at a rate below {rates[0]:.2g}"),
        (high == rates[-1], f"the loss never rose: above {rates[-1]:.2g} it may be as low"),
        (high >= WIDE * low, alike),
        (kept < NARROW * reached, f"only from {reached:.2g} to {kept:.2g} did it fall far"),
        (density < DENSE, f"there are only {density:.1f} points per decade"),
        (
            times < CLEAR,
            "the loss fell by little more than its noise: try more sweeps",
        ),
    ]
    found = [text for holds, text in doubts if holds]
    margin = UNSURE if len(found) > 1 else MARGIN
    interval = suggestion * shift / margin, suggestion * shift * margin
    if not found:
        low, high = (float(rates[i]) for i in curve.part(0.5))
        above = f"{times:.0f} times its noise" if times < math.inf else "without noise"
        text = f"the loss fell by {curve.first - curve.least:.2g}, {above}, and rose again"
        if broad := high > BROAD * low:
            text += f", but over {math.log10(high / low):.1f} decades at half of the fall"
        text = "; ".join(filter(None, [text, alike]))
        return "medium" if broad else "high", text, interval, suggestion
    confidence: Confidence = "low" if falling or len(found) > 1 else "medium"
    return confidence, "; ".join(found), interval, suggestion
