"""Is the rate too high or too low? A verdict from a curve of losses, as any tool logs it.

There is less to go by than a step's own report has: more often nothing can be said, and each
verdict says how sure it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .. import notebooks
from ..charts import Band, Line, Panel, step_axis, value_axis
from .logs import Log
from .monitor import Verdict
from .signs import LEAST, Likelihoods, likelihoods

Array = NDArray[np.float64]

SURE = 0.7  # what is less likely is not said
FINE_SURE = 0.55  # the same of a rate that is fine: to say so wrongly does less harm
FAR_SURE = 0.9  # from here on, the rate is far off
SPIKE = 8.0  # robust z
SPIKE_POINTS = 20  # before a spike, whose level and spread count
MOST_RECOVERY = 10_000  # points within which a spike may recover
PIECE = 50_000  # points that are looked at together
LOST_SURE = 0.95  # of what is said to be diverging, `benchmarks/loss_curves.py` finds more right
UNMEASURED = 0.5  # where no table says how often it is right
RISE = 0.5  # the part of all progress that is lost by a run that diverges
RISEN = 3.0  # in noise of the loss
STILL = 2.0  # in standard errors: a fall that is no more is none
WARM, DECAYED = 0.7, 0.7  # of the highest rate: below is a warm-up's begin, a decay's end
EARLY = 0.1  # the part of a run that may be missing at its begin
BEGIN = 400  # points of a long run that tell whether its rate is right
HEIGHT = 220  # pixels of the curve in a notebook
GROWN = 5.0  # times that a gradient norm grows


@dataclass(frozen=True)
class Spike:
    """A loss far above what was usual before.

    Attributes:
        step: of the highest loss.
        loss: there; infinite where it was no finite number.
        usual: the median of the points before.
        recovered: points until the loss was usual again; None: never.
    """

    step: float
    loss: float
    usual: float
    recovered: int | None


@dataclass(frozen=True)
class Phase:
    """A part of a run in which its rate rises, stays or falls.

    Attributes:
        name: "warm-up", "steady", "decay", or "all" where the rate is not known.
        begin, end: points ``begin`` to ``end - 1``.
        verdict: of this part alone.
    """

    name: str
    begin: int
    end: int
    verdict: Verdict


@dataclass(frozen=True)
class Judged:
    """What a log says of its rate.

    Attributes:
        log: what was judged.
        verdict: of the run, as far as it got. Its ``numbers`` have ``sure``, from 0 to 1.
        phases: the parts, each with its own verdict.
        middle: the loss without its noise, float64, shape (points,).
        low, high: the band of the noise, float64, shape (points,).
        envelope: the lowest of ``middle`` so far, float64, shape (points,).
        plateau: the step from which on the loss did not fall; None: it does.
    """

    log: Log
    verdict: Verdict
    phases: tuple[Phase, ...]
    middle: Array
    low: Array
    high: Array
    envelope: Array
    plateau: float | None

    @cached_property
    def spikes(self) -> tuple[Spike, ...]:
        """Losses far above what was usual, in order; found when they are asked for."""
        with np.errstate(over="ignore"):
            return _spikes(self.log)

    @property
    def confidence(self) -> str:
        """How sure the verdict is, "high", "medium", "low", or "none" where it says nothing."""
        return confidence(self.verdict)

    @property
    def rate(self) -> float:
        """The learning rate that the verdict is of; NaN where it is not known."""
        at = int(np.searchsorted(self.log.steps, self.verdict.step))
        return float(self.log.rates[min(at, len(self.log.rates) - 1)])

    @property
    def advice(self) -> str:
        """What to try, in words."""
        if self.verdict.kind == "plateau" and self.phases[-1].name == "decay":
            return "nothing: the rate has decayed, and the loss with it"
        return ADVICE[self.verdict.kind]

    @property
    def to_try(self) -> str:
        """The advice with the rate that comes of it."""
        factor = self.verdict.factor
        if factor == 1:
            return self.advice
        new = f", so {self.rate * factor:.3g}" if self.rate > 0 else ""
        return f"{self.advice}: × {factor:.2g}{new}"

    @notebooks.whatever_comes
    def _repr_html_(self) -> str:
        verdict, log = self.verdict, self.log
        sure = f"{self.confidence} ({verdict.numbers.get('sure', 0.0):.2f})"
        said = {"verdict": verdict.kind, "how sure": sure, "because": verdict.reason}
        said |= {"try": self.to_try, "read": f"{log.kind}, {len(log.steps):,} points"}
        steps, low = log.steps, np.where(np.isfinite(log.losses), self.low, np.nan)
        panel = Panel(
            "losses", "Loss", verdict.line, HEIGHT, step_axis(steps), value_axis(log.losses),
            bands=[Band(steps, low, self.high, "band")],
            lines=[Line(steps, log.losses, "loss"), Line(steps, self.envelope, "envelope")],
            uprights=[] if self.plateau is None else [(self.plateau, "no fall from here on")],
        )  # fmt: skip
        caption = f"Loss over {log.unit}s, and the lowest so far without its noise"
        return notebooks.named(log.name, said) + notebooks.chart(panel, caption)


ADVICE = {
    "too low": "a higher rate; a range test finds which",
    "too high": "a lower rate",
    "diverging": "a lower rate, from a state before it, perhaps with a longer warm-up or clipping",
    "plateau": "a lower rate from here on, such as a decay; if that gains nothing, the run is done",
    "fine": "nothing: go on",
    "spike": "nothing if it recovers; else clipping, or a lower rate",
    "inconclusive": "more steps, or a run at another rate beside it",
}


def confidence(verdict: Verdict) -> str:
    """How sure a verdict is, in a word."""
    sure = verdict.numbers.get("sure", 0.0)
    if verdict.kind == "inconclusive":
        return "none"
    return "high" if sure >= FAR_SURE else "medium" if sure >= 0.75 else "low"


def judge(log: Log) -> Judged:
    """What a log's losses say of its rate, with the rate and the gradients' norm where they are.

    Args:
        log: of :func:`read_logs`, or made by hand.

    Returns:
        What it says, as :class:`Judged`.

    Raises:
        ValueError: the log has no point.

    Example:
        >>> import numpy as np
        >>> from gradstep.tuning import judge, Log
        >>> k, unknown = np.arange(1.0, 201), np.full(200, np.nan)
        >>> log = Log("run", "made up", {"loss": "loss"}, k, 2 + k / 40, unknown, unknown)
        >>> judge(log).verdict.kind
        'diverging'
    """
    if not len(log.losses):
        raise ValueError("log: got no point, wanted at least one")
    with np.errstate(over="ignore"):  # losses near the end of what a float holds
        return _judge(log)


def _judge(log: Log) -> Judged:
    middle, low, high = _band(log.losses)
    phases = tuple(
        Phase(name, begin, end, _phase(log, middle, name, begin, end))
        for name, begin, end in _parts(log.rates)
    )
    return Judged(
        log, _overall(phases), phases, middle, low, high,
        np.minimum.accumulate(middle), _plateau(log, middle),
    )  # fmt: skip


class LossMonitor:
    """Judges a run while it goes on, from its losses alone.

    Call it with each step that is logged; it returns the verdict so far, which is looked at anew
    whenever a twentieth more is known.

    Example:
        >>> from gradstep.tuning import LossMonitor
        >>> monitor = LossMonitor()
        >>> for k in range(200):
        ...     verdict = monitor(k + 1, 2.0 + 0.05 * k)
        >>> verdict.kind
        'diverging'
    """

    def __init__(self) -> None:
        self._points: list[tuple[float, float, float, float]] = []
        self._next = LEAST
        self.verdict = Verdict("inconclusive", 0, 1.0, "no step seen", {})

    def __call__(
        self, step: int, loss: float, lr: float | None = None, grad_norm: float | None = None
    ) -> Verdict:
        """Take in a step: its number, its loss, and what else is known."""
        value = float(loss)
        self._points.append(
            (
                float(step),
                value if math.isfinite(value) else math.inf,
                math.nan if lr is None else float(lr),
                math.nan if grad_norm is None else float(grad_norm),
            )
        )
        count = len(self._points)
        newly_lost = not math.isfinite(value) and self.verdict.kind != "diverging"
        if count >= self._next or newly_lost:
            self._next = count + max(10, count // 20)
            self.verdict = judge(self.log()).verdict
        return self.verdict

    def log(self) -> Log:
        """What was seen, as a log."""
        steps, losses, rates, norms = np.array(self._points, np.float64).reshape(-1, 4).T
        return Log("the run", "steps", {}, steps, losses, rates, norms)


# ---- parts of a run ----


def _parts(rates: Array) -> list[tuple[str, int, int]]:
    """Where the rate rises, stays and falls."""
    count = len(rates)
    if not np.isfinite(rates).all() or not count or rates.max() <= 0:
        return [("all", 0, count)]
    top = float(rates.max())
    risen = int(np.argmax(rates >= 0.98 * top))
    fallen = count - int(np.argmax(rates[::-1] >= 0.9 * top))
    begin = risen if risen >= 5 and rates[0] < WARM * top else 0
    end = fallen if rates[-1] < DECAYED * top and count - fallen >= 5 else count
    parts = [("warm-up", 0, begin), ("steady", begin, max(end, begin)), ("decay", end, count)]
    return [part for part in parts if part[2] > part[1]] or [("all", 0, count)]


def _phase(log: Log, middle: Array, name: str, begin: int, end: int) -> Verdict:
    """What a part says: all up to its end where the rate rose before, else itself."""
    step = int(log.steps[end - 1])
    part = slice(0 if name != "decay" else begin, end)
    losses = log.losses[part]
    lost = _lost(log.losses[:end], middle[:end])
    if lost is not None:
        return Verdict("diverging", step, 0.1 if name == "warm-up" else 1 / 3, *lost)
    finite = losses[np.isfinite(losses)]
    count = min(len(finite), end - begin) if name == "steady" else len(finite)
    if count < LEAST:
        since = " since the warm-up" if name == "steady" and begin else ""
        return _nothing(step, f"{count} of {LEAST} points seen{since}")
    if finite.max() == finite.min():
        return _nothing(step, f"the loss never changed from {finite[0]:.4g}")
    still = _still(finite)
    if name == "decay":
        numbers = {"sure": UNMEASURED}
        if still is None:
            return Verdict("fine", step, 1.0, "the loss falls while the rate does", numbers)
        return Verdict("plateau", step, 1.0, "the loss no longer falls with the rate", numbers)
    if not _begins_early(log):
        if still is not None:
            return Verdict("plateau", step, 1.0, still, {"sure": UNMEASURED})
        return _nothing(step, "the log begins late, and the loss still falls")
    growth = _growth(log.grad_norms[part])
    if len(finite) <= 2 * BEGIN:
        return _judged(likelihoods(finite), step, name, still, growth)
    # The signs are those of a run's begin; of a long one, what follows comes first.
    if still is not None:
        return Verdict("plateau", step, 1.0, still, {"sure": UNMEASURED})
    found = likelihoods(finite[:BEGIN])
    found = found._replace(reason=f"over the first {BEGIN} points, {found.reason}")
    return _judged(found, step, name, None, growth)


def _judged(found: Likelihoods, step: int, name: str, still: str | None, growth: float) -> Verdict:
    """The likeliest, where it is likely enough."""
    numbers = {**found.numbers, "sure": max(found.low, found.fine, found.high)}
    if not math.isnan(growth):
        numbers["grad_norm_growth"] = growth
    sure, why = numbers["sure"], found.reason
    if growth > GROWN and found.low < 0.2 and found.high > 0.3:
        sure = numbers["sure"] = max(sure, SURE)
        why = f"the gradients' norm grew {growth:.2g} times, and {why}"
        return Verdict("too high", step, 1 / 3, why, numbers)
    if sure < (FINE_SURE if found.fine == sure else SURE):
        return Verdict("inconclusive", step, 1.0, f"between two verdicts: {why}", numbers)
    far = sure >= FAR_SURE
    if found.high == sure:
        return Verdict("too high", step, 0.1 if far else 1 / 3, why, numbers)
    if found.low == sure:
        if name == "warm-up":
            return Verdict("inconclusive", step, 1.0, "the rate still rises", numbers)
        return Verdict("too low", step, 10.0 if far else 3.0, why, numbers)
    if still is not None:
        return Verdict("plateau", step, 1.0, still, numbers)
    return Verdict("fine", step, 1.0, why, numbers)


def _nothing(step: int, reason: str) -> Verdict:
    return Verdict("inconclusive", step, 1.0, reason, {"sure": 0.0})


def _overall(phases: tuple[Phase, ...]) -> Verdict:
    """The last part that says something."""
    said = [phase.verdict for phase in phases if phase.verdict.kind != "inconclusive"]
    if not said:
        return phases[-1].verdict if phases else _nothing(0, "no point seen")
    return said[-1]


def _begins_early(log: Log) -> bool:
    """Whether the log has the begin of the run."""
    first, last = float(log.steps[0]), float(log.steps[-1])
    typical = float(np.median(np.diff(log.steps))) if len(log.steps) > 1 else 1.0
    return first <= max(EARLY * last, 2 * typical)


# ---- what a curve shows by itself ----


def noise(losses: Array) -> float:
    """The standard deviation from point to point, by the median, which a slope changes little."""
    if len(losses) < 2:
        return 0.0
    return 1.4826 * float(np.median(np.abs(np.diff(losses)))) / math.sqrt(2)


def _lost(losses: Array, middle: Array) -> tuple[str, Mapping[str, float]] | None:
    """Why a run is lost: its reason and numbers; None: it is not."""
    finite = np.isfinite(losses)
    if len(losses) and not finite[-1]:
        since = len(losses) - int(np.argmax(finite[::-1])) if finite.any() else 0
        return f"the loss is not finite, for {len(losses) - since} points", {"sure": 1.0}
    known = losses[finite]
    if len(known) < LEAST:
        return None
    tail = max(5, len(known) // 10)
    start = float(np.median(known[: max(1, len(known) // 50)]))
    recent, best = float(np.median(known[-tail:])), float(np.nanmin(middle))
    scale = noise(known)
    numbers = {"loss_start": start, "loss": recent, "noise": scale, "sure": LOST_SURE}
    if recent > start + RISEN * scale and recent > best:
        return f"the loss, {recent:.3g}, is above the first, {start:.3g}", numbers
    if recent - best > max(RISE * (start - best), RISEN * scale) and start > best:
        return f"the loss rose from {best:.3g} to {recent:.3g}", numbers
    return None


def _still(losses: Array) -> str | None:
    """How the last third does not fall, in words; None: it does."""
    tail = losses[-max(LEAST // 2, len(losses) // 3) :]
    half = len(tail) // 2
    before, after = float(np.mean(tail[:half])), float(np.mean(tail[half:]))
    error = max(float(np.std(tail[:half])), float(np.std(tail[half:]))) * math.sqrt(2 / half)
    if before - after > STILL * error:
        return None
    return f"over the last {len(tail)} points the loss did not fall, {before:.3g} to {after:.3g}"


def _plateau(log: Log, middle: Array) -> float | None:
    """The step from which on the loss did not fall."""
    finite = log.losses[np.isfinite(log.losses)]
    if len(finite) < LEAST or _still(finite) is None:
        return None
    level = float(np.median(finite[-len(finite) // 6 :])) + noise(finite) / 2
    return float(log.steps[int(np.argmax(middle <= level))])


def _growth(norms: Array) -> float:
    """By how much gradients' norms grew: the median of the last third over that of the first."""
    known = norms[np.isfinite(norms)]
    if len(known) < LEAST:
        return math.nan
    third = len(known) // 3
    first = float(np.median(known[:third]))
    return float(np.median(known[-third:])) / first if first > 0 else math.nan


def _band(losses: Array) -> tuple[Array, Array, Array]:
    """The loss without its noise, and the noise around it, both by medians of some points."""
    count = len(losses)
    finite = np.where(np.isfinite(losses), losses, np.nan)
    if not count or np.isnan(finite).all():
        nothing = np.full(count, np.nan)
        return nothing, nothing, nothing
    width = max(1, count // 40)
    edges = np.unique(np.linspace(0, count, max(2, count // width + 1)).astype(int))
    places, middles, spreads = [], [], []
    for a, b in pairwise(edges):
        part = finite[a:b]
        part = part[~np.isnan(part)]
        if len(part):
            usual = float(np.median(part))
            places.append((a + b - 1) / 2)
            middles.append(usual)
            spreads.append(1.4826 * float(np.median(np.abs(part - usual))))
    at = np.arange(count)
    middle, spread = np.interp(at, places, middles), np.interp(at, places, spreads)
    return middle, middle - 2 * spread, middle + 2 * spread


def _spikes(log: Log) -> tuple[Spike, ...]:
    """Losses far above what was usual before, for no more than a few points each."""
    losses = log.losses
    found: list[Spike] = []
    end = 0
    for i, usual, spread in _above(losses):
        if i < end:
            continue
        after = losses[i : i + MOST_RECOVERY]
        back = np.flatnonzero(after <= usual + 3 * spread)
        recovered = int(back[0]) if len(back) else None
        end = i + (recovered if recovered is not None else len(after))
        top = i + int(np.argmax(losses[i:end]))
        found.append(Spike(float(log.steps[top]), float(losses[top]), usual, recovered))
        end += 1
    return tuple(found)


def _above(losses: Array) -> Iterator[tuple[int, float, float]]:
    """Points above all that the points before them make likely: place, usual loss, spread."""
    for begin in range(SPIKE_POINTS, len(losses), PIECE):
        piece = losses[begin - SPIKE_POINTS : begin + PIECE - 1]
        now = losses[begin : begin + PIECE]
        before = np.lib.stride_tricks.sliding_window_view(piece, SPIKE_POINTS)[: len(now)]
        usual = np.median(before, axis=1)
        with np.errstate(invalid="ignore"):
            spread = 1.4826 * np.median(np.abs(before - usual[:, None]), axis=1)
        spread = np.maximum(spread, 1e-6 * np.abs(usual))
        high = np.isfinite(usual) & np.isfinite(spread) & (now > usual + SPIKE * spread)
        for i in np.flatnonzero(high).tolist():
            yield begin + i, float(usual[i]), float(spread[i])
