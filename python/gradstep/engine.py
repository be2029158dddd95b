"""The engine of a step: hyperparameters and stages compiled into numbers, the plan, the report.

It knows nothing of how parameters are given and named: what holds them does, see :class:`Held`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import _core
from .hyperparameters import FLOAT32_MAX, FLOAT32_MIN, Drive, Rule, call, compile_group, number
from .report import Report, Sums, statistics
from .stages import Stages, compile_stages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Plan, TensorPlan
    from .groups import Group
    from .parameters import Row

    Doubles = NDArray[np.float64]


class Held(Protocol):
    """What an engine asks of whatever holds the parameters."""

    rule: Rule
    defaults: Mapping[str, Any]
    averaging: bool

    @property
    def rows(self) -> Sequence[Row[Any]]:
        """The groups."""

    def plan(
        self,
        counts: NDArray[np.int64],
        settings: Doubles,
        controls: Doubles,
        results: Doubles,
        averages: Doubles,
    ) -> Plan | TensorPlan:
        """The core's plan of all arrays."""

    def prefix(self, index: int) -> str:
        """What stands before a hyperparameter's name in an error."""

    def arguments(self, root: str) -> list[str]:
        """What each of ``"params"`` or its gradient, ``"grads"``, is called in an error."""

    def explain(self, refused: int, grads: list[Any], *, writable: bool) -> list[Any]:
        """Raise for what the core refused, or return gradients that it takes."""


STATS: dict[bool | str, int] = {False: 0, True: 1, "sample": 2}  # as the core has it


def check_stats(stats: object) -> None:
    """Raise TypeError or ValueError unless it is one of ``STATS``."""
    if not isinstance(stats, bool | np.bool_) and stats != "sample":
        raise TypeError(f"stats: got {stats!r}, wanted True, False or 'sample'")


# What follows from the rest and is built anew when arrays come in.
BUILT = ("_plan", "_settings", "_controls", "_results", "_driven", "_drive", "_clock")


class Engine:
    """The step of what ``held`` holds; the base of optimizers.

    Args:
        held: the parameters, in groups, with all arrays kept for them.
        stages: what a step does besides the rule.
        stats: what to measure in each step, one of ``STATS``.
        counts: int64, the updates of each parameter and, last, of the optimizer. The core counts
            with the step, so that no signal can come between.
    """

    add_up: Callable[[Doubles], None] | None = None  # over processes, in place; None: one has all
    _drive: Drive | None  # of what schedules give; None: nothing
    _counts: NDArray[np.int64]

    def __init__(
        self, held: Held, stages: Stages, stats: bool | str, counts: NDArray[np.int64]
    ) -> None:
        self._held = held
        self._rows = held.rows
        self._stages = stages
        self._stats = STATS[stats]
        self._counts = counts
        self._prepare()

    def _refresh(self, k: int) -> None:
        """Bring what was changed since the last step, and step k's values, to the core."""
        for row in self._rows:
            if row.group.changed:
                self._compile(row)
                self._compile_drive()
        if self._drive is not None:
            self._drive(k)
        if self._stages.changed:
            self._compile_stages()

    def run(
        self, k: int, grads: list[Any], loss_scale: float = 1.0, norm: float | None = None
    ) -> Report:
        """Step k with a gradient, or None, for each parameter.

        Args:
            k: the index of the step, for which this was refreshed.
            grads: the gradients in the order of the parameters.
            loss_scale: what they are divided by.
            norm: of all gradients, those of other processes included, loss scale and all; None:
                there are no others.
        """
        if self._plain and loss_scale == 1:
            while (refused := self._plan.step(grads)) != -1:
                grads = self._held.explain(refused, grads, writable=False)
            if self._drive is None and len(self._rows) == 1:
                return Report(k + 1, self._rows[0].lr)
            return Report(k + 1, self._rates())
        return self._step(k, grads, loss_scale, False, norm)

    def _step(
        self,
        k: int,
        grads: list[Any],
        loss_scale: Any,
        zero_grads: Any,
        known_norm: float | None = None,
    ) -> Report:
        """A step in which something is not as it is mostly."""
        scale = number("loss_scale", "loss_scale", loss_scale, single=False)
        if any(row.single for row in self._rows) and not FLOAT32_MIN < 1 / scale <= FLOAT32_MAX:
            raise ValueError(
                f"loss_scale: got {loss_scale!r}, whose inverse float32 cannot hold, wanted a "
                "number between 3e-39 and 7e44"
            )
        if not isinstance(zero_grads, bool | np.bool_):
            raise TypeError(f"zero_grads: got {zero_grads!r}, wanted True or False")
        zero = bool(zero_grads)
        for driven in self._driven:
            self._controls[driven.column] = call(driven, k)
        if known_norm is None:
            done = self._staged_step(grads, scale, zero)
            norm, first = self._results[0, :2].tolist()
            culprit = self._held.arguments("grads")[int(first)] if done == -2 else ""
        else:
            norm, culprit = known_norm / scale, "the gradients of all processes"
            done = self._step_with_norm(grads, scale, zero, norm)
        if done == -2 and self._nonfinite == "raise":
            raise FloatingPointError(
                f"{culprit}: got an element that is not finite, wanted finite gradients, as "
                "nonfinite='raise' says"
            )
        measured: dict[str, Any] = {}
        if self._nonfinite != "allow":
            measured["skipped"] = done == -2
        if self._clipping or self._nonfinite != "allow":
            measured["grad_norm"] = norm
        if self._stats and done == -1:
            if self.add_up is not None:
                self.add_up(self._results[1:])
            measured |= self._statistics(scale) | measured
        return Report(k + (done == -1), self._rates(), measured)

    def _staged_step(self, grads: list[Any], scale: float, zero: bool) -> int:
        while (done := self._plan.staged_step(grads, scale, zero, self._stats)) not in (-1, -2):
            grads = self._held.explain(done, grads, writable=zero)
        return done

    def _step_with_norm(self, grads: list[Any], scale: float, zero: bool, norm: float) -> int:
        """A step that takes the norm as given: what it clips is in the scale."""
        limit, checked = self._controls[0], self._controls[3]
        if checked and not math.isfinite(norm):
            return -2
        if limit < math.inf:
            factor = limit / (norm + 1e-6)
            if not factor > 1:  # a NaN stays one, as in the core
                scale = scale / factor if factor else math.inf
        self._controls[0], self._controls[3] = math.inf, 0.0
        try:
            return self._staged_step(grads, scale, zero)
        finally:
            self._controls[0], self._controls[3] = limit, checked

    def _rates(self) -> float | tuple[float, ...]:
        """The rates that the step used."""
        rates: list[float] = self._settings[:, self._lr_column].tolist()
        return rates[0] if len(rates) == 1 else tuple(rates)

    def _statistics(self, scale: float) -> dict[str, Any]:
        """What this step measured, of all groups together and of each."""
        roles = {state.name: state.role for state in self._held.rule.states}
        sampled = self._stats == STATS["sample"]  # there all have one, if only to be measured
        momenta = [sampled or "momentum" in map(roles.get, row.present) for row in self._rows]
        has_moment = "second_moment" in roles.values()
        sums = [Sums(*row) for row in self._results[1:].tolist()]
        groups = tuple(
            statistics(
                sums[i : i + 1],
                math.sqrt(sums[i].raw) / scale,
                momenta[i : i + 1],
                has_moment,
            )
            for i in range(len(sums))
        )
        norm = math.sqrt(sum(row.raw for row in sums)) / scale
        total = statistics(sums, norm, momenta, has_moment)
        return {**total._asdict(), "groups": None if sampled else groups}

    def _check_group(self, prefix: str, group: Mapping[str, Any]) -> None:
        """What a rule demands of several hyperparameters together."""

    def _compile(self, row: Row[Any]) -> None:
        """Bring a group that was changed into the core's settings."""
        group, prefix = row.group, self._held.prefix(row.index)
        group.changed = False  # first: what another thread assigns from here on is seen next time
        try:
            self._compile_checked(row, group, prefix)
        except BaseException:
            group.changed = True
            raise

    def _compile_checked(self, row: Row[Any], group: Group, prefix: str) -> None:
        values, driven = compile_group(
            prefix, self._held.rule, self._held.defaults, group, row.single
        )
        self._check_group(prefix, group)
        row.check_kept(self._held.rule, prefix)
        self._settings[row.index] = values
        for key, value in group.items():
            if isinstance(value, list):
                dict.__setitem__(group, key, tuple(value))  # a change within would go unnoticed
        row.driven = driven
        row.lr = values[self._lr_column]

    def _compile_drive(self) -> None:
        driven = [(row.index, one) for row in self._rows for one in row.driven]
        self._drive = Drive(self._settings, driven) if driven else None

    def _compile_stages(self) -> None:
        """Bring stages that were changed into the core's controls."""
        stages, single = self._stages, any(row.single for row in self._rows)
        stages.changed = False  # first, as for a group
        try:
            values, self._driven = compile_stages(stages, self._held.averaging, single)
        except BaseException:
            stages.changed = True
            raise
        self._controls[:] = values
        self._clipping = stages["clip_norm"] is not None
        self._nonfinite: str = stages["nonfinite"]
        special = self._driven or self._stats or self._clipping or self._nonfinite != "allow"
        self._plain = not special

    def _prepare(self) -> None:
        """Build what the core needs for a step, anew whenever the arrays have changed."""
        hyper_names = self._held.rule.hyper_names
        self._settings = np.zeros((len(self._rows), len(hyper_names) + 2))
        self._controls = np.zeros(5)
        self._results = np.zeros((1 + len(self._rows), len(Sums._fields)))
        self._lr_column = hyper_names.index("lr")
        for row in self._rows:
            self._compile(row)
        self._compile_drive()
        self._compile_stages()
        # It spares a small step a fortieth: how NumPy gives a number.
        self._clock = self._counts.data
        sampled = self._stats == STATS["sample"]
        self._plan = self._held.plan(
            self._counts,
            self._settings,
            self._controls,
            self._results,
            np.zeros(_core.sample_elements if sampled else 0),
        )
