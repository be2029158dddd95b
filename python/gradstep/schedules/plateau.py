"""The one schedule with a state: it follows a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, SupportsFloat, SupportsIndex

from . import arguments as check
from .base import Schedule

Mode = Literal["min", "max"]
ThresholdMode = Literal["rel", "abs"]

_STATE = ("multiplier", "best", "bad", "cooling", "observed")


class Plateau:
    """A schedule, multiplied by ``gamma`` whenever a metric has not improved for a while.

    Give it to an optimizer as any hyperparameter and call :meth:`observe` with each new value of
    the metric. It is not pure, so it is not a :class:`Schedule`: what is computed from it belongs
    around it, as its ``schedule``, which may be any composition.

    A metric improves if it is below ``best - threshold·|best|`` (rel) or ``best - threshold``
    (abs), for ``mode="max"`` above the same with ``+``. So metrics may be negative. One that is not
    finite does not improve.

    Args:
        schedule: what to multiply, a schedule or a number.
        gamma: what each plateau multiplies by, 0 to 1.
        patience: how many observations in a row may pass without improvement; one more is a
            plateau.
        mode: whether the metric is to get smaller, ``"min"``, or larger, ``"max"``.
        threshold: by how much it must improve to count, at least 0.
        threshold_mode: whether that is relative to the best value so far, ``"rel"``, or
            ``"abs"``.
        cooldown: observations after each reduction that are not counted as bad.
        min_multiplier: the lowest product of gammas, 0 to 1.
        eps: a reduction of the product of gammas by no more than this is not made.

    Attributes:
        multiplier: the product of gammas so far.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.Plateau(schedules.constant(0.1), gamma=0.5, patience=1)
        >>> [s.observe(loss) for loss in (1.0, 0.9, 0.95, 0.9)]
        [False, False, False, True]
        >>> s(4)
        0.05
        >>> schedules.Plateau.from_dict(s.to_dict()) == s
        True

    The same as PyTorch's ``ReduceLROnPlateau`` for positive metrics; its margin ``threshold·best``
    makes negative ones improve by getting worse. Its lower bound is a rate, here it is a part of
    the schedule.
    """

    def __init__(
        self,
        schedule: Schedule | SupportsFloat,
        gamma: SupportsFloat = 0.1,
        patience: SupportsIndex = 10,
        *,
        mode: Mode = "min",
        threshold: SupportsFloat = 1e-4,
        threshold_mode: ThresholdMode = "rel",
        cooldown: SupportsIndex = 0,
        min_multiplier: SupportsFloat = 0.0,
        eps: SupportsFloat = 0.0,
    ) -> None:
        if not isinstance(schedule, Schedule):
            schedule = Schedule.from_dict(
                {"schedule": "constant", "value": check.value("schedule", schedule)}
            )
        self._schedule = schedule
        self._arguments: dict[str, Any] = {
            "gamma": check.fraction("gamma", gamma),
            "patience": check.updates("patience", patience),
            "mode": check.choice("mode", mode, Mode),
            "threshold": check.factor("threshold", threshold),
            "threshold_mode": check.choice("threshold_mode", threshold_mode, ThresholdMode),
            "cooldown": check.updates("cooldown", cooldown),
            "min_multiplier": check.fraction("min_multiplier", min_multiplier),
            "eps": check.factor("eps", eps),
        }
        self.multiplier = 1.0
        self._best: float | None = None
        self._bad = self._cooling = self._observed = 0

    def __call__(self, t: int) -> float:
        """The schedule's value at step ``t``, times the product of gammas."""
        return self._schedule(t) * self.multiplier

    def observe(self, metric: SupportsFloat) -> bool:
        """Take in a value of the metric; return whether the multiplier has fallen.

        Raises:
            TypeError: it is not a number.
        """
        try:
            value = float(metric)
        except (TypeError, ValueError):
            raise TypeError(
                f"metric: got {metric!r} ({type(metric).__name__}), wanted a number"
            ) from None
        a = self._arguments
        self._observed += 1
        if self._is_better(value):
            self._best, self._bad = value, 0
        else:
            self._bad += 1
        if self._cooling > 0:
            self._cooling, self._bad = self._cooling - 1, 0
        if self._bad <= a["patience"]:
            return False
        self._bad, self._cooling = 0, a["cooldown"]
        lower = max(self.multiplier * a["gamma"], a["min_multiplier"])
        if self.multiplier - lower <= a["eps"]:
            return False
        self.multiplier = lower
        return True

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self._best is None:
            return True
        a = self._arguments
        margin: float = a["threshold"] * (abs(self._best) if a["threshold_mode"] == "rel" else 1)
        if a["mode"] == "min":
            return value < self._best - margin
        return value > self._best + margin

    def state_dict(self) -> dict[str, Any]:
        """What it has seen: ``multiplier``, ``best``, ``bad``, ``cooling`` and ``observed``."""
        return {
            name: self.multiplier if name == "multiplier" else getattr(self, f"_{name}")
            for name in _STATE
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a :meth:`state_dict`.

        Raises:
            TypeError, ValueError: it is not one; nothing is changed then.
        """
        if set(state) != set(_STATE):
            raise ValueError(f"state: got {', '.join(state)}, wanted {', '.join(_STATE)}")
        multiplier = check.fraction("multiplier", state["multiplier"])
        best = None if state["best"] is None else check.number("best", state["best"])
        counts = [check.updates(name, state[name]) for name in ("bad", "cooling", "observed")]
        self.multiplier, self._best = multiplier, best
        self._bad, self._cooling, self._observed = counts

    def to_dict(self) -> dict[str, Any]:
        """All of it, the schedule and what it has seen, in types that JSON has."""
        return {
            "schedule": "Plateau",
            "of": self._schedule.to_dict(),
            **self._arguments,
            "state": self.state_dict(),
        }

    def is_like(self, other: Plateau) -> bool:
        """Whether it differs from another in nothing but what it has seen."""
        return self.to_dict() | {"state": None} == other.to_dict() | {"state": None}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Plateau:
        """The one that :meth:`to_dict` described.

        Raises:
            KeyError, TypeError, ValueError: it is not such a description.
        """
        arguments = dict(fields)
        if arguments.pop("schedule") != "Plateau":
            raise ValueError(f"schedule: got {fields['schedule']!r}, wanted 'Plateau'")
        of, state = arguments.pop("of"), arguments.pop("state")
        made = Plateau(of if isinstance(of, Schedule) else Schedule.from_dict(of), **arguments)
        made.load_state_dict(state)
        return made

    def __repr__(self) -> str:
        words = ", ".join(f"{name}={value!r}" for name, value in self._arguments.items())
        seen = ", ".join(f"{name}={value!r}" for name, value in self.state_dict().items())
        return f"<schedules.Plateau({self._schedule!r}, {words}) at {seen}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plateau) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]
