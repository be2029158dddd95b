"""What the callbacks for other frameworks have in common; each has a file called after it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from .curves import LossMonitor
from .monitor import Monitor, Verdict
from .range_test import RangeTest, check_sweep, range_test


class Source(NamedTuple):
    """What a range test needs of a training: ``range_test(*source)``.

    Attributes:
        train_step: makes one step and returns the loss from before it, as a float.
        optimizer: what sets the rate, and takes and puts back snapshots.
    """

    train_step: Callable[[], float]
    optimizer: Any


class Judge(Protocol):
    """What says of each step whether the rate is too high or too low."""

    def __call__(
        self, step: int, loss: float, lr: float | None = None, grad_norm: float | None = None
    ) -> Verdict:
        """Take in a step, counted from 1, and the loss from before it."""


class _FromReports:
    """The monitor, which gets the reports of an optimizer that has them."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer, self._monitor = optimizer, Monitor()

    def __call__(
        self,
        step: int,  # noqa: ARG002 - the report has these
        loss: float,
        lr: float | None = None,  # noqa: ARG002
        grad_norm: float | None = None,  # noqa: ARG002
    ) -> Verdict:
        report = self._optimizer.report
        if report is None:  # no step yet
            return self._monitor.verdict
        return self._monitor(report, loss)


def monitor_for(optimizer: Any) -> Judge:
    """Who is to judge a training with this optimizer.

    Args:
        optimizer: any.

    Returns:
        A callable of step, loss, and perhaps rate and gradient norm, that gives a
        :class:`Verdict`: the :class:`Monitor` with the optimizer's reports, where it is one of
        ``gradstep.torch``'s with ``stats``; else a ``LossMonitor``, for which loss and rate are
        enough.
    """
    if hasattr(optimizer, "report") and getattr(getattr(optimizer, "engine", None), "stats", None):
        return _FromReports(optimizer)
    return LossMonitor()


class Finding:
    """What callbacks that run a range test before a training have in common.

    Args:
        use: whether the training then begins with the rate that is suggested; where nothing is, it
            keeps its own.
        low, high, points, sweeps: see :func:`range_test`.

    Attributes:
        found: the :class:`RangeTest`; None before it.

    Raises:
        TypeError, ValueError: an argument is refused.
    """

    def __init__(
        self,
        *,
        use: bool = False,
        low: float = 1e-7,
        high: float = 10.0,
        points: int = 100,
        sweeps: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(use, bool):
            raise TypeError(f"use: got {use!r}, wanted True or False")
        self.use = use
        self._sweep: Any = check_sweep(low, high, points, sweeps)
        self.found: RangeTest | None = None

    def find(self, source: Source, log: logging.Logger) -> dict[str, float]:
        """Run the test, and write what it says to a log.

        Returns:
            The suggestion and the interval by name, for a logger; nothing where there is none.
        """
        self.found = found = range_test(*source, *self._sweep)
        log.log(logging.INFO if found.interval else logging.WARNING, "range test: %s", found)
        if found.interval is None or found.suggestion is None:
            return {}
        low, high = found.interval
        return {"rate_suggestion": found.suggestion, "rate_low": low, "rate_high": high}


class Watching:
    """What callbacks that ask a monitor after each step have in common.

    Attributes:
        verdict: the last :class:`Verdict`; None before the first step.
        told: those that were written to the log: one each time its kind is another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.verdict: Verdict | None = None
        self.told: list[Verdict] = []
        self._judge: Judge | None = None

    def begin(self, optimizer: Any) -> None:
        """Watch a new training."""
        self.verdict, self.told = None, []
        self._judge = monitor_for(optimizer)

    def see(self, step: int, loss: Any, lr: Any, log: logging.Logger) -> Verdict:
        """Judge a step; write the verdict to a log where it is of another kind than before."""
        assert self._judge is not None
        rate = None if lr is None or callable(lr) else float(lr)
        self.verdict = verdict = self._judge(step, float(loss), rate)
        if verdict.kind != (self.told[-1].kind if self.told else "inconclusive"):
            self.told.append(verdict)
            quiet = verdict.kind in ("fine", "inconclusive", "spike")
            log.log(
                logging.INFO if quiet else logging.WARNING, "rate at step %d: %s", step, verdict
            )
        return verdict

    def numbers(self) -> dict[str, float]:
        """What to log beside the loss: the factor that is advised, and what it rests on."""
        if self.verdict is None:
            return {}
        numbers = {"factor": self.verdict.factor, **self.verdict.numbers}
        return {f"rate_{key}": float(x) for key, x in numbers.items() if math.isfinite(x)}
