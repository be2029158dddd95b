"""Is the rate too high or too low? A verdict from what the steps measure, with its numbers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import sub
from typing import Any, Literal, NamedTuple, SupportsFloat

from .. import notebooks
from ..report import Report
from . import calm

Kind = Literal["too high", "too low", "diverging", "spike", "plateau", "fine", "inconclusive"]
Callback = Callable[[int, dict[str, Any]], object]

WINDOW = 100  # steps that a verdict looks at
EVERY = 10  # steps between two looks; what is dear waits for them
RECENT = 20  # steps whose median is the loss now
FIRST = 5  # updates from the start whose size counts
TURN = 50  # steps from one judgement of a later window to the next

# How the start of a training is judged, chosen on the problems that `benchmarks/diagnosis.py
# --choose` lists. Each has a margin within which nothing is said.
ALIGNED, ALIGNED_ADAM, ALIGNED_MARGIN = 0.20, 0.35, 0.08  # cosine; with momentum and g²/v
JUMP, JUMP_ALIGNED, JUMP_MARGIN = -0.4, 4.0, 0.2  # ln of the first updates, less a cosine's share
ROUGH, ROUGH_MARGIN = 4.2, 0.5  # ln of the roughness
OPPOSED, OPPOSED_MARGIN = -0.35, 0.05  # cosine of the last steps
STEADY = 1.2  # without a momentum, updates over gradients differ by no more

# How later windows are judged, chosen on the same: below the first a third of the rate ended lower
# in three of four runs, above the last three times the rate in all; within the middle two, neither.
LATER = (-0.15, -0.10, 0.05, 0.10)  # cosine

RISEN = 3.0  # in noise of the loss
SPIKE = 6.0  # robust z
LOST = 0.5  # the part of all progress that is lost by a run that diverges

CALM = calm.Window(EVERY, TURN, RECENT, SPIKE, RISEN, LOST)

UP, FAR_UP, DOWN, FAR_DOWN = 3.0, 10.0, 1 / 3, 0.1
FAR_ALIGNED = 0.7  # cosine from which a rate is far too low


class Measured(NamedTuple):
    """What one step says of itself; None where that is not known.

    Attributes:
        t: updates applied, this one included.
        loss: of the batch that the gradients were of.
        rate: the learning rate, or several.
        moved, weights, grad: the norms of the update, of the weights after it and of the gradients.
        cosine: of gradient and momentum.
        ratio: the mean of g²/v.
    """

    t: int
    loss: float | None
    rate: Any
    moved: float | None
    weights: float | None
    grad: float | None
    cosine: float | None
    ratio: float | None


Lasts = Callable[[int], Measured]
NORMS = ("update_norm", "param_norm", "grad_norm")


@dataclass(frozen=True)
class Verdict:
    """What the monitor says of the rate.

    Attributes:
        kind: ``"too high"``, ``"too low"``, ``"diverging"``, ``"spike"``, ``"fine"`` or
            ``"inconclusive"``.
        step: updates applied when it was given.
        factor: what to try: the rate times this; 1 where nothing is to be changed.
        reason: why, in words.
        numbers: what it rests on, by name; see :class:`Monitor`. What is not known yet is missing.
    """

    kind: Kind
    step: int
    factor: float
    reason: str
    numbers: Mapping[str, float]

    @property
    def line(self) -> str:
        """All of it in one line, for a progress bar."""
        advice = f", try the rate × {self.factor:.2g}" if self.factor != 1 else ""
        return f"{self.kind}{advice} ({self.reason})"

    def __str__(self) -> str:
        return self.line

    @notebooks.whatever_comes
    def _repr_html_(self) -> str:
        said = {"verdict": self.kind, "step": self.step, "because": self.reason}
        if self.factor != 1:
            said["try"] = f"the rate × {self.factor:.2g}"
        return notebooks.named("Verdict", {**said, **self.numbers})

    def to_dict(self) -> dict[str, Any]:
        """One flat level of plain values for a logger; a number that is not finite is None."""
        numbers = {k: v if math.isfinite(v) else None for k, v in self.numbers.items()}
        return {"verdict": self.kind, "factor": self.factor, "reason": self.reason, **numbers}


class Monitor:
    """Says of a training whether its rate is too high or too low, and shows on what grounds.

    Call it after each step with the step's report and the loss that the gradients were of, the one
    before the update. Reports come from an optimizer with ``stats``; rules without a momentum need
    ``stats="sample"`` for the cosine.

    The first 100 updates of a training are judged together: a rate that is too low goes the same
    way step after step; one that is too high moves the weights by as much as they are (with a
    momentum), has the loss go up and down much more than it falls (without), or has each gradient
    undo the last. From then on every 50 steps are judged by the cosine alone: above 0 a higher rate
    would get further, and well below 0 a lower one would. So a rate that was right at the start may
    be called too high once the loss only bounces: what helps is to lower it. ``diverging`` and
    ``spike`` are said at once. Where batches are so noisy that the cosine is near 0 at any rate,
    a rate that is too low is not seen.

    Numbers of a verdict, as far as they are known:

    - ``loss_start``, ``loss``: the first loss, and the median of the last 20.
    - ``noise``: the standard deviation of the loss from step to step, by the median.
    - ``fall``: how far the median of 20 losses has fallen over the window, in ``noise``.
    - ``alignment``: the mean cosine of gradient and momentum over the last 50 steps; in the first
      window, the mean of that and the one over the first 20.
    - ``first_updates``: norms of the first 5 updates together, as a part of the weights' norm.
    - ``roughness``: how often over the loss went up and down what it fell, in the first window.
    - ``update_to_weight``, ``grad_norm``, ``g2_over_v``: of the last step.

    Args:
        momentum: whether the rule has a momentum. None: found out from the first 20 steps, since
            without one an update is the rate times the gradient, or times g/√v. To be given where
            gradients are clipped.
        callback: gets the step and the verdict as a dict each time there is a new one, every 10
            steps: what a logger wants.

    Raises:
        TypeError: an argument is of the wrong kind.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> from gradstep.tuning import Monitor
        >>> w = np.ones(3)
        >>> opt, monitor = gs.SGD(w, lr=1e-3, momentum=0.9, stats="sample"), Monitor()
        >>> for _ in range(100):
        ...     verdict = monitor(opt.step(w.copy()), 0.5 * w @ w)
        >>> print(verdict)
        too low, try the rate × 10 (successive gradients agree: cosine +1.00)

    Sources: the signs of cos(gₜ, mₜ₋₁) as in Jacobs, Increased rates of convergence through
    learning rate adaptation (1988); the thresholds are our own, see docs/choosing-a-rate.md.
    """

    def __init__(self, *, momentum: bool | None = None, callback: Callback | None = None) -> None:
        if momentum is not None and not isinstance(momentum, bool):
            raise TypeError(f"momentum: got {momentum!r}, wanted True, False or None")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback: got {callback!r}, wanted a callable of step and dict")
        self._momentum = momentum
        self._callback = callback
        self._start: float | None = None  # the first finite loss of all
        self._second = -math.inf  # the least of the next four: the first may happen to be low
        self._best = math.inf
        self._calm = math.inf  # the noise of the first losses: later it may be of a lost run
        self.restart()

    def restart(self) -> None:
        """Begin a new window, as after a change of the rate; the first and best loss are kept.

        What follows is judged as the start of a training only if the next report is of its first
        update.
        """
        self._losses: deque[float] = deque(maxlen=WINDOW)  # NaN where it is not known
        self._cosines: deque[float] = deque(maxlen=TURN)
        self._n = self._lost = self._spikes = 0
        self._early = False
        self._path = self._first_updates = math.nan
        self._first_cosine = math.nan
        self._least, self._most = math.inf, 0.0
        self._ceiling = math.inf
        self._last = Measured(0, None, None, None, None, None, None, None)
        self._verdict = Verdict("inconclusive", 0, 1.0, "no step yet", {})

    @property
    def verdict(self) -> Verdict:
        """The last one that was no spike, which passes."""
        return self._verdict

    def __call__(self, report: Report | Mapping[str, Any], loss: SupportsFloat) -> Verdict:
        """Take in a step; return the verdict, which is looked at anew every 10 steps.

        Args:
            report: what the step returned, or the same as a dict with ``t``, ``lr``,
                ``update_norm``, ``param_norm``, ``grad_norm``, ``cosine`` and ``g2_over_v``. A
                skipped step is passed over.
            loss: of the batch that the gradients were of.

        Raises:
            TypeError: `loss` is no number, or `report` no report.
            ValueError: the report has no statistics.
        """
        value = _number("loss", loss)
        rate: Any
        if isinstance(report, Report):
            t, rate, skipped = report.t, report.lr, report.skipped
            norms = (report.update_norm, report.param_norm, report.grad_norm)
            cosine, ratio = report.cosine, report.g2_over_v
        elif isinstance(report, Mapping):
            get = report.get
            t, rate, skipped = get("t", self._n + 1), get("lr"), get("skipped", False)
            norms = (get("update_norm"), get("param_norm"), get("grad_norm"))
            cosine, ratio = get("cosine"), get("g2_over_v")
        else:
            raise TypeError(f"report: got {type(report).__name__}, wanted a Report or its dict")
        if skipped:
            return self.skip(t)
        if None in norms:
            raise ValueError(
                "report: got one without statistics, wanted that of an optimizer with "
                "stats='sample'"
            )
        moved, weights, grad = map(_number, NORMS, norms)
        cosine = None if cosine is None else _number("cosine", cosine)
        ratio = None if ratio is None else _number("g2_over_v", ratio)
        return self.take(Measured(t, value, rate, moved, weights, grad, cosine, ratio))

    # ---- taking in ----

    def take(self, step: Measured) -> Verdict:
        """Take in a step of which not everything need be known, as in a log.

        What is not known is judged by nobody: it is neither a divergence nor a reason to take back
        a verdict.
        """
        n = self._n = self._n + 1
        loss = step.loss
        known = loss is not None and math.isfinite(loss)
        if known and self._start is None:
            self._start = loss
        self._losses.append(loss if known else math.nan)  # type: ignore[arg-type]
        if n <= RECENT:
            self._begin(n, step)
        if loss is not None and not known:
            return self._lose("loss", step, {"loss": loss})
        if not _are_finite(step.moved, step.weights, step.grad):
            return self._lose("update", step, {} if loss is None else {"loss": loss})
        self._lost = 0
        if step.cosine is not None and math.isfinite(step.cosine):
            self._cosines.append(step.cosine)
        if n == RECENT:
            self._first_cosine = _mean(self._cosines)
        if known:
            self._spikes = self._spikes + 1 if loss > self._ceiling else 0  # type: ignore[operator]
        spike = known and 0 < self._spikes <= 2  # more are no spike, but where the loss is now
        if n % EVERY == 0 or spike:
            self._last = step
            if n % EVERY == 0:
                self._look(step.t)
            if spike:
                return self._spike(step.t, loss)  # type: ignore[arg-type]
        return self._verdict

    @property
    def until_look(self) -> int:
        """Steps up to the next one after which everything is looked at."""
        return EVERY - self._n % EVERY

    def take_calm(
        self, losses: Sequence[float], cosines: Sequence[float], last: Measured
    ) -> Verdict | None:
        """Take in some steps at once, as :meth:`take` would one by one, but faster.

        Args:
            losses, cosines: all of them finite; cosines may be fewer.
            last: the last of the steps, of which everything is finite.

        Returns:
            The verdict; None, and nothing is taken in, where one of them is to be looked at alone.
        """
        n = self._n + len(losses)
        alone = self._start is None or self._n < RECENT or max(losses) > self._ceiling
        if alone or self._n % EVERY + len(losses) > EVERY:
            return None
        self._n, self._lost, self._spikes = n, 0, 0
        self._losses.extend(losses)
        self._cosines.extend(cosines)
        if n % EVERY == 0:
            self._last = last
            self._look(last.t)
        return self._verdict

    def take_calm_turns(
        self, losses: Sequence[float], cosines: Sequence[float | None], lasts: Lasts
    ) -> list[Verdict]:
        """Take in whole turns of 50 steps as :meth:`take` would, while nothing happens in them.

        Args:
            losses, cosines: of as many steps as there are, all of them finite; a cosine may be
                None.
            lasts: gives the step at an index, of which everything is finite.

        Returns:
            The verdict at the end of each turn that was taken in; none if the first is to be looked
            at more closely, or this is not the end of a turn.
        """
        judged = self._n >= 2 * WINDOW and self._n % TURN == 0
        if not judged or self._verdict.kind == "diverging" or len(losses) < TURN:
            return []
        before, recents = self._known()
        if len(before) < WINDOW or not recents or self._start is None or math.isinf(self._calm):
            return []
        known = calm.Known(
            before, self._ceiling, max(self._start, self._second), self._start, self._best,
            self._calm,
        )  # fmt: skip
        count, least = calm.turns(losses, known, CALM)
        verdicts = []
        for end in range(TURN, count * TURN + 1, TURN):
            part = slice(end - TURN, end)
            self._n += TURN
            self._losses.extend(losses[part])
            self._cosines.extend(cosine for cosine in cosines[part] if cosine is not None)
            self._lost = self._spikes = 0
            self._last = lasts(end - 1)
            # What the looks within the turn would have found; the last one follows.
            self._best = float(least[end // EVERY - 2])
            verdicts.append(self._look(self._last.t))
        return verdicts

    def _begin(self, n: int, step: Measured) -> None:
        """What the first steps of a window are asked for once."""
        if n == 1:
            self._early, self._path = step.t == 1, 0.0
        elif step.t != n:  # some were not shown
            self._early = False
        if n == FIRST and self._second == -math.inf:
            after = [loss for loss in list(self._losses)[1:] if math.isfinite(loss)]
            self._second = min(after, default=-math.inf)
        moved, weights, grad = (_or_nan(x) for x in (step.moved, step.weights, step.grad))
        if n <= FIRST:
            self._path += moved
            self._first_updates = self._path / weights if weights != 0 else math.inf
        # Without a momentum an update is lr·g, or lr·g/√v: the quotient stays as it is.
        if isinstance(step.rate, int | float) and step.rate > 0:
            size = _number("lr", step.rate) * (
                grad if step.ratio is None else math.sqrt(max(step.ratio, 0.0))
            )
            if 0 < size < math.inf and 0 < moved < math.inf:
                self._least = min(self._least, moved / size)
                self._most = max(self._most, moved / size)

    def skip(self, t: int) -> Verdict:
        """Pass over a step that was skipped."""
        self._lost += 1
        if self._lost >= RECENT:
            return self._say("diverging", t, DOWN, f"{self._lost} steps in a row were skipped", {})
        return self._verdict

    def _lose(self, what: str, step: Measured, numbers: dict[str, float]) -> Verdict:
        self._last = step
        return self._say("diverging", step.t, FAR_DOWN, f"the {what} is not finite", numbers)

    # ---- judging ----

    def _look(self, t: int) -> Verdict:
        """Everything that is looked at every 10 steps."""
        n = self._n
        losses, recents = self._known()
        numbers = self._numbers(losses, recents)
        if n >= RECENT:
            if not recents:  # nothing new is known of the loss
                return self._verdict
            if self._diverges(t, losses, numbers):
                return self._verdict
        if n < WINDOW:
            reason = f"{n} of {WINDOW} steps seen"
            return self._say("inconclusive", t, 1.0, reason, numbers)
        if len(losses) < WINDOW // 2:
            reason = f"only {len(losses)} of the last {WINDOW} losses are known"
            return self._say("inconclusive", t, 1.0, reason, numbers)
        if n == WINDOW and self._early:
            return self._judge_start(t, losses, numbers)
        kept = self._verdict
        if self._early and n < 2 * WINDOW and kept.kind not in ("diverging", "inconclusive"):
            # Not all of the window is after the start.
            return self._say(kept.kind, t, kept.factor, kept.reason, numbers)
        if n % TURN == 0 or kept.kind == "diverging":
            return self._judge_later(t, numbers)
        return self._say(kept.kind, t, kept.factor, kept.reason, numbers)

    def _known(self) -> tuple[list[float], list[float]]:
        """The losses of the window that are known, and those of the last 20 steps."""
        losses = list(self._losses)
        recents = losses[-RECENT:]
        if not math.isnan(sum(losses)):  # none of them is
            return losses, recents
        return [x for x in losses if not math.isnan(x)], [x for x in recents if not math.isnan(x)]

    def _diverges(self, t: int, losses: list[float], numbers: dict[str, float]) -> bool:
        """Whether the loss is lost, which is said then; and what a spike would be from here."""
        start, recent, noise = (numbers[key] for key in ("loss_start", "loss", "noise"))
        tail = losses[-TURN:]
        middle = median(tail)
        spread = 1.4826 * median([abs(loss - middle) for loss in tail])
        self._ceiling = middle + SPIKE * max(spread, 1e-6 * abs(middle))
        if math.isinf(self._calm):
            self._calm = noise
        if recent > max(start, self._second) + RISEN * min(noise, 2 * self._calm):
            reason = f"the loss, {recent:.3g}, is above the first, {start:.3g}"
            factor = FAR_DOWN if self._early and self._n <= WINDOW else DOWN
            self._say("diverging", t, factor, reason, numbers)
            return True
        gained = start - self._best
        if recent - self._best > max(LOST * gained, SPIKE * noise) and gained > 0:
            reason = f"the loss rose from {self._best:.3g} to {recent:.3g}"
            self._say("diverging", t, DOWN, reason, numbers)
            return True
        self._best = min(self._best, recent)
        return False

    def _numbers(self, losses: list[float], recents: list[float]) -> dict[str, float]:
        """What is known, by name: of the losses in the window and of the last 20 of them."""
        numbers: dict[str, float] = {}
        if self._start is not None and recents:
            tail = losses[-TURN:]
            steps = list(map(abs, map(sub, tail[1:], tail)))
            noise = 1.4826 * median(steps) / math.sqrt(2) if steps else 0.0
            recent = median(recents)
            numbers |= {"loss_start": self._start, "loss": recent, "noise": noise}
            if self._n >= 2 * RECENT:
                fell = median(losses[:RECENT]) - recent
                numbers["fall"] = fell / noise if noise > 0 else math.copysign(math.inf, fell)
        if self._n >= RECENT:
            aligned = _mean(self._cosines)
            if self._early and self._n <= WINDOW:
                aligned = (aligned + self._first_cosine) / 2
            numbers["alignment"] = aligned
        if self._early and self._n <= WINDOW and not math.isnan(self._first_updates):
            numbers["first_updates"] = self._first_updates
        last = self._last
        if last.moved is not None and last.weights is not None:
            numbers["update_to_weight"] = last.moved / last.weights if last.weights else math.inf
        if last.grad is not None:
            numbers["grad_norm"] = last.grad
        if last.ratio is not None:
            numbers["g2_over_v"] = last.ratio
        return numbers

    def _judge_start(self, t: int, losses: list[float], numbers: dict[str, float]) -> Verdict:
        """The first window of a training."""
        fell = losses[0] - numbers["loss"]
        travelled = sum(abs(b - a) for a, b in pairwise(losses))
        rough = numbers["roughness"] = travelled / fell if fell > 0 else math.inf
        cosine, first, jump = numbers["alignment"], self._first_cosine, self._first_updates
        if math.isnan(cosine):
            return self._say("inconclusive", t, 1.0, "no cosine in the reports", numbers)
        momentum = self._momentum
        if momentum is None:  # one is assumed where updates cannot be compared
            momentum = not self._least <= self._most <= STEADY * self._least
        # Each is a distance from its threshold, in margins.
        threshold = ALIGNED_ADAM if momentum and "g2_over_v" in numbers else ALIGNED
        low = (cosine - threshold) / ALIGNED_MARGIN
        opposed = 2 * cosine - first
        highs = [
            ((OPPOSED - opposed) / OPPOSED_MARGIN, f"gradients undo each other: {opposed:+.2f}")
        ]
        if momentum:
            bent = JUMP_ALIGNED * min(max(first, -0.1), 0.3)
            jumped = (math.log(jump) - bent - JUMP) / JUMP_MARGIN if jump > 0 else -math.inf
            highs.append((jumped, f"the first {FIRST} updates came to {jump:.2g} of the weights"))
        else:
            bumpy = (math.log(rough) - ROUGH) / ROUGH_MARGIN if rough > 0 else -math.inf
            highs.append((bumpy, f"the loss went up and down {rough:.2g} times what it fell"))
        high, why = max(highs)
        agree = f"cosine {cosine:+.2f}"
        if high > 1 and low < 0:
            return self._say("too high", t, DOWN, why, numbers)
        if low > 1 and high < 1:
            factor = FAR_UP if cosine > FAR_ALIGNED else UP
            return self._say("too low", t, factor, f"successive gradients agree: {agree}", numbers)
        if low < -1 and high < -1 and fell > 0:
            return self._say("fine", t, 1.0, f"the loss fell, {agree}", numbers)
        return self._say("inconclusive", t, 1.0, f"between two verdicts: {agree}", numbers)

    def _judge_later(self, t: int, numbers: dict[str, float]) -> Verdict:
        """A window that is not the first."""
        fall, cosine = numbers["fall"], numbers["alignment"]
        fell = f"the loss {'fell' if fall > 0 else 'rose'} by {abs(fall):.2g} of its noise"
        if math.isnan(cosine):
            return self._say("inconclusive", t, 1.0, f"{fell}, no cosine in the reports", numbers)
        words = f"cosine {cosine:+.2f}, {fell}"
        if cosine < LATER[0]:
            return self._say("too high", t, DOWN, f"gradients undo each other: {words}", numbers)
        if cosine > LATER[3]:
            return self._say("too low", t, UP, f"successive gradients agree: {words}", numbers)
        if LATER[1] < cosine < LATER[2]:
            return self._say("fine", t, 1.0, words, numbers)
        return self._say("inconclusive", t, 1.0, f"between two verdicts: {words}", numbers)

    def _spike(self, t: int, loss: float) -> Verdict:
        losses, recents = self._known()
        tail = losses[-TURN:-1]
        middle = median(tail)
        spread = 1.4826 * median([abs(one - middle) for one in tail])
        z = (loss - middle) / spread if spread > 0 else math.inf
        numbers = {**self._numbers(losses, recents), "z": z}
        reason = f"loss {loss:.3g} where {middle:.3g} was usual, z = {z:.3g}"
        verdict = Verdict("spike", t, 1.0, reason, numbers)
        if self._callback is not None:
            self._callback(t, verdict.to_dict())
        return verdict

    def _say(
        self, kind: Kind, t: int, factor: float, reason: str, numbers: dict[str, float]
    ) -> Verdict:
        self._verdict = verdict = Verdict(kind, t, factor, reason, numbers)
        if self._callback is not None:
            self._callback(t, verdict.to_dict())
        return verdict


def _number(argument: str, x: Any) -> float:
    """A number of any type, infinite where it is too large for a float."""
    try:
        return float(x)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{argument}: got {x!r}, wanted a number") from None


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x


def _are_finite(*values: float | None) -> bool:
    """Whether none is known not to be."""
    return all(value is None or math.isfinite(value) for value in values)


def median(values: list[float]) -> float:
    """The same as the one of `statistics`, in half the time: logs are long."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values) if values else math.nan
