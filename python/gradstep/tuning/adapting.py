"""The monitor drives the rate: lower on a plateau, back and lower on divergence."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, SupportsFloat

from ..checks import real, whole
from ..report import Report
from ..schedules import Schedule
from .handles import handle
from .monitor import WINDOW, Callback, Monitor, Verdict

Action = Literal["cut", "rollback", "floor"]


class Diverged(RuntimeError):
    """A training diverged more often than it may; it stands at its last good state."""


@dataclass(frozen=True)
class Decision:
    """What the adapter did, and why.

    Attributes:
        step: the update it came after, as the report counts.
        action: ``"cut"``: the rate was lowered. ``"rollback"``: parameters and optimizer went back
            to the last good state, and the rate was lowered. ``"floor"``: it would have been cut,
            but is as low as it may be.
        reason: why, in words.
        before, after: what the rate is multiplied by, before and after it.
        to: the update that a rollback went back to; else None.
    """

    step: int
    action: Action
    reason: str
    before: float
    after: float
    to: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a logger."""
        return asdict(self)


class Adapter:
    """Lowers the rate of a training that no longer gets better, and takes back one that diverged.

    Call it after each step, as a :class:`Monitor`; it sets the rate of the next. Three things move
    it, each recorded in ``decisions`` with its reason:

    - A plateau: the median loss of 20 steps has not come below its best by more than its noise for
      `patience` steps: the rate is cut.
    - ``diverging``: parameters, optimizer states and counts go back to the last good state, and
      the rate is cut. A state is taken every `keep` steps, the first once the first window has been
      judged, and is good once `keep` further steps went well: so two are kept.
    - The first window is judged ``too high``: the same, back to the start, since what a rate that
      is too high did to the weights a lower one may not undo.

    What else a training has, such as the order of its data, batch-norm buffers or random
    generators, goes on as it is; a rolled back step sees other batches than at first.

    Args:
        optimizer: one of gradstep's or gradstep.torch's, with ``stats``; or an object with
            ``set_lr(rate)``, ``snapshot()`` and ``restore(snapshot)``, whose reports you make.
        lr: the rate before all cuts: a number, a schedule or a callable of the step index. All
            groups get the same.
        monitor: the one to ask; None: a new one. It is called by the adapter, not by you.
        cut: what each cut multiplies the rate by, between 0 and 1.
        patience: steps without improvement that make a plateau; at least 20.
        keep: steps from one state to the next, at least 20.
        rollbacks: how many are made. The next divergence raises; a first window that is too high
            is cut where it stands.
        min_multiplier: the product of cuts does not fall below this.
        path: a folder to keep states in, made where missing; None: in memory. The files are
            pickles, which this object alone reads, and only as it has written them.
        callback: gets the step and a decision as a dict.

    Attributes:
        decisions: a list of :class:`Decision`.
        multiplier: the product of all cuts.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.
        OSError: `path` cannot be written.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> from gradstep.tuning import Adapter
        >>> w = np.ones(3)
        >>> opt = gs.SGD(w, lr=30.0, momentum=0.9, stats="sample")
        >>> adapter = Adapter(opt, lr=30.0)
        >>> for _ in range(700):
        ...     loss = 0.5 * w @ w
        ...     verdict = adapter(opt.step(w.copy()), loss)
        >>> first = adapter.decisions[0]
        >>> print(first.action, first.step, first.reason)
        rollback 30 diverging: the loss, 6.8e+57, is above the first, 1.5
        >>> bool(loss < 1e-3)
        True
    """

    def __init__(
        self,
        optimizer: Any,
        lr: float | Schedule | Callable[[int], float],
        *,
        monitor: Monitor | None = None,
        cut: float = 1 / 3,
        patience: int = 1000,
        keep: int = WINDOW,
        rollbacks: int = 5,
        min_multiplier: float = 1e-4,
        path: str | os.PathLike[str] | None = None,
        callback: Callback | None = None,
    ) -> None:
        if not callable(lr):
            lr = _number("lr", lr, 0, math.inf)
        if monitor is not None and not isinstance(monitor, Monitor):
            raise TypeError(f"monitor: got {type(monitor).__name__}, wanted a Monitor")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback: got {callback!r}, wanted a callable of step and dict")
        self._handle = handle(optimizer)
        self._lr = lr
        self._cut = _number("cut", cut, 0, 1)
        self._patience = whole("patience", patience, 20)
        self._keep = whole("keep", keep, 20)
        self._rollbacks = whole("rollbacks", rollbacks, 0)
        self._floor = _number("min_multiplier", min_multiplier, 0, 1)
        self._monitor = Monitor() if monitor is None else monitor
        self._callback = callback
        self._states = _InMemory() if path is None else _OnDisk(Path(path))
        self.decisions: list[Decision] = []
        self.multiplier = 1.0
        self._rate: float | None = None
        self._step = 0  # of the last report
        self._judged: Verdict | None = None
        self._forget()
        self._good = self._new = self._states.put(self._handle.snapshot())
        self._good_at = self._new_at = 0
        self._set(0)

    @property
    def verdict(self) -> Verdict:
        """The monitor's last."""
        return self._monitor.verdict

    def __call__(self, report: Report | Mapping[str, Any], loss: SupportsFloat) -> Verdict:
        """Take in a step, and set the rate of the next.

        Args:
            report: what the step returned; see :class:`Monitor`.
            loss: of the batch that the gradients were of.

        Returns:
            The monitor's verdict.

        Raises:
            Diverged: more often than `rollbacks`; the last good state is back by then.
            TypeError, ValueError: as the monitor's.
        """
        verdict = self._monitor(report, loss)
        t = report.t if isinstance(report, Report) else report.get("t", self._step + 1)
        self._step = t
        if verdict.kind == "diverging":
            self._roll_back(verdict)
            return verdict
        self._seen += 1
        start = self._seen == t  # nothing has been changed yet
        if verdict.kind != "spike" and verdict is not self._judged:  # there is a new one
            self._judged = verdict
            if verdict.kind == "too high" and start and t == WINDOW:
                if self._made() < self._rollbacks:
                    self._roll_back(verdict)
                    return verdict
                self._lower("cut", f"too high: {verdict.reason}")
            else:
                self._watch(verdict)
        if self._seen % self._keep == 0 and not (start and t < WINDOW):
            self._take(t)
        self._set(t)
        return verdict

    # ---- plateaus ----

    def _forget(self) -> None:
        """After a change of the rate: what comes is compared with nothing before."""
        self._seen = self._last_gain = 0
        self._best = math.inf

    def _watch(self, verdict: Verdict) -> None:
        numbers = verdict.numbers
        if "noise" not in numbers or self._seen < 20:
            return
        # A median of 20 is about 0.3 of the noise off.
        if numbers["loss"] < self._best - 0.3 * numbers["noise"]:
            self._best, self._last_gain = numbers["loss"], self._seen
        elif self._seen - self._last_gain >= self._patience:
            waited = self._seen - self._last_gain
            self._lower("cut", f"no better than {self._best:.3g} for {waited} steps")

    def _lower(self, action: Action, reason: str, to: int | None = None) -> None:
        before = self.multiplier
        self.multiplier = max(before * self._cut, min(self._floor, before))
        if action == "cut" and self.multiplier == before:
            action = "floor"
        decision = Decision(self._step, action, reason, before, self.multiplier, to)
        self.decisions.append(decision)
        self._forget()
        if action == "cut":
            self._monitor.restart()
        if self._callback is not None:
            self._callback(self._step, decision.to_dict())

    def _set(self, k: int) -> None:
        """The rate of the step with index `k`."""
        rate = (self._lr(k) if callable(self._lr) else self._lr) * self.multiplier
        if rate != self._rate:
            self._handle.set_lr(rate)
            self._rate = rate

    # ---- states ----

    def _take(self, t: int) -> None:
        """The state that was taken last has proved good; take another."""
        if self._good is not self._new:
            self._states.drop(self._good)
        self._good, self._good_at = self._new, self._new_at
        self._new, self._new_at = self._states.put(self._handle.snapshot()), t

    def _roll_back(self, verdict: Verdict) -> None:
        if self._new is not self._good:
            self._states.drop(self._new)
            self._new, self._new_at = self._good, self._good_at
        self._handle.restore(self._states.get(self._good))
        self._monitor.restart()
        self._judged = self._rate = None
        if (made := self._made()) >= self._rollbacks:
            raise Diverged(
                f"rollbacks: the training diverged again at step {self._step} after {made} of "
                f"them, its rate × {self.multiplier:.2g} ({verdict.reason}); it stands at step "
                f"{self._good_at} again, wanted a lower rate or another cause found"
            )
        self._lower("rollback", f"{verdict.kind}: {verdict.reason}", to=self._good_at)
        self._set(self._good_at)

    def _made(self) -> int:
        return sum(decision.action == "rollback" for decision in self.decisions)


class _InMemory:
    """States as they are."""

    def put(self, state: Any) -> Any:
        return [state]  # by identity

    def get(self, kept: Any) -> Any:
        return kept[0]

    def drop(self, kept: Any) -> None:
        kept.clear()


class _OnDisk:
    """States in files of a folder, which are read only if nobody else wrote to them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._count = folder, 0

    def put(self, state: Any) -> Any:
        try:
            data = pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise TypeError(
                f"path: got a state that cannot be written ({error}), wanted hyperparameters that "
                "are numbers or schedules, or no path"
            ) from None
        self._count += 1
        path = self._folder / f"state-{os.getpid()}-{id(self):x}-{self._count}.pickle"
        part = path.with_suffix(".part")
        part.write_bytes(data)
        part.replace(path)
        return path, hashlib.sha256(data).digest()

    def get(self, kept: Any) -> Any:
        path, digest = kept
        data = path.read_bytes()
        if hashlib.sha256(data).digest() != digest:
            raise ValueError(f"path: got a changed {path.name}, wanted it as it was written")
        return pickle.loads(data)

    def drop(self, kept: Any) -> None:
        kept[0].unlink(missing_ok=True)


def _number(name: str, value: Any, low: float, high: float) -> float:
    number = real(name, value, kinds=SupportsFloat)
    if not low < number < high:
        raise ValueError(f"{name}: got {value!r}, wanted a number between {low:g} and {high:g}")
    return number
