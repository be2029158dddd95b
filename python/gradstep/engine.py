"""The life of an optimizer behind both front doors: its turn, clock, stages, averages and step.

It knows nothing of how parameters are given and named: what holds them does, see :class:`Held`.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import _core
from .hyperparameters import (
    FINITE,
    FLOAT32_MAX,
    FLOAT32_MIN,
    STAGE_RANGES,
    Drive,
    Driven,
    call,
    number,
)
from .report import Report, Statistics, Sums, statistics
from .rule import Rule, switched
from .stages import CONTROLS, Stages, compile_stages
from .turn import Turn
from .watched import Changes, Watched

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Plan, TensorPlan
    from .storages import Storages

    Doubles = NDArray[np.float64]
    Counts = NDArray[np.int64]

DONE, SKIPPED = _core.DONE, _core.SKIPPED
UNKNOWN = -1.0  # a norm
ONE = 1.0  # by identity: a step with nothing special must find that out at no cost
STATS: dict[bool | str, int] = {False: 0, True: 1, "sample": 2}  # as the core has it


def not_finite(culprit: str, number: float | None = None) -> FloatingPointError:
    """What ``nonfinite="raise"`` raises.

    Args:
        culprit: what has an element that is not finite.
        number: what it is, where it is a number.
    """
    got = "an element that is not finite" if number is None else number
    return FloatingPointError(
        f"{culprit}: got {got}, wanted finite numbers, as nonfinite='raise' says"
    )


class Row:
    """What a group was when it was last compiled, and what must be called at each step.

    Args:
        rule: the group's rule.
        storages: how the rule's states are stored.
        index: the group's position.
        group: the hyperparameters by name.
        single: whether it has parameters that are stepped in float32.
        fixed: what its states started from, see :meth:`Rule.fixed`; None: as it is now.
    """

    __slots__ = (
        "driven", "fixed", "gathers", "group", "index", "kernels", "lr", "present", "rule",
        "single", "storages", "values", "version",
    )  # fmt: skip

    def __init__(
        self,
        rule: Rule,
        storages: Storages,
        index: int,
        group: Watched,
        single: bool,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        self.rule = rule
        self.storages = storages
        self.index = index
        self.group = group
        self.present = rule.present(group)  # the states that it was built with
        self.kernels = rule.kernels(group)
        self.gathers = rule.gathers_for(group)
        self.fixed = rule.fixed(group) if fixed is None else fixed
        self.single = single
        self.values: dict[str, Any] = {}  # the hyperparameters, once they were checked
        self.driven: list[Driven] = []
        self.lr = 0.0
        self.version = 0  # of the group, when it was compiled

    def copy(self) -> Row:
        """A row of the same group, to be compiled elsewhere."""
        return copy.copy(self)

    def missing(self, prefix: str) -> list[str]:
        """The states that its hyperparameters call for by now and that it was built without.

        Raises:
            ValueError: a hyperparameter that cannot be changed was changed.
        """
        group, missing = self.group, []
        for state in self.rule.states:
            value = group[state.option] if state.option else None
            had = state.name in self.present
            # A number that becomes 0 leaves its state alone; a switch decides for good.
            if state.is_on(group) != had and state.name not in self.rule.later:
                raise ValueError(
                    f"{prefix}{state.option}: got {value!r}, but the group was built "
                    f"{'with' if had else 'without'} {state.name}, wanted a value that keeps it so"
                )
            if state.is_on(group) and not had:
                missing.append(state.name)
        for key, value in self.fixed.items():
            if group[key] != value:
                if key in self.rule.switches:
                    raise ValueError(switched(prefix + key, group[key], value))
                raise ValueError(
                    f"{prefix}{key}: got {group[key]!r}, but the states started from "
                    f"{value!r}, wanted a new optimizer for another start"
                )
        return missing


class Held(Protocol):
    """What an engine asks of whatever holds the parameters."""

    @property
    def rows(self) -> Sequence[Row]:
        """The groups."""

    def plan(
        self,
        counts: Counts,
        clock: Counts,
        settings: Doubles,
        controls: _core.Controls,
        sums: Doubles,
        averages: Doubles,
    ) -> Plan | TensorPlan:
        """The core's plan of all arrays."""

    def extend(self, row: Row, missing: Sequence[str]) -> None:
        """Make states that a group was built without."""

    def check_params(self, row: Row, group: Mapping[str, Any]) -> None:
        """Raise ValueError for a parameter that the rule cannot step by such hyperparameters."""

    @property
    def has_fresh(self) -> bool:
        """Whether no step has moved yet what starts from a parameter, such as an average."""

    def start_fresh(self) -> None:
        """Put the parameters into what starts from them."""

    def note_begun(self) -> None:
        """Note that a step has moved all of it."""

    @property
    def has_parts(self) -> bool:
        """Whether a rule that looks at whole tensors has one in several shards."""

    def check_parts(self, grads: Sequence[Any]) -> None:
        """Raise ValueError where some of a tensor's shards have a gradient and others have none."""

    def prefix(self, index: int) -> str:
        """What stands before a hyperparameter's name in an error."""

    def arguments(self, root: str) -> list[str]:
        """What each of ``"params"`` or its gradient, ``"grads"``, is called in an error."""

    def explain(self, refused: int, grads: list[Any], *, writable: bool) -> list[Any]:
        """Raise for what the core refused, or return gradients that it takes."""


class Exchange(Protocol):
    """Other numbers in the place of the parameters, and back."""

    def there(self) -> None:
        """Bring the other numbers in."""

    def back(self) -> None:
        """Bring the parameters back, to the bit; nothing where they are there."""


class Engine:
    """What an optimizer lives by, whatever arrays it steps.

    Args:
        stages: what a step does besides the rule, by name, see :class:`Stages`.
        stats: what to measure in each step, one of ``STATS``.

    Attributes:
        turn: who is at work.
        clock: int64, one element: the steps that were made. The core counts with the step, so that
            no signal can come between.
        stages: what a step does besides the rule; assign to its entries to change it.
        averaging: whether there are averages.
        sample: what a sample of the statistics keeps of the gradients.
        changes: whether a group or a stage was changed.

    Raises:
        TypeError, ValueError: a stage or ``stats`` is refused.
    """

    def __init__(self, stages: Mapping[str, Any], stats: bool | str) -> None:
        if not isinstance(stats, bool | np.bool_) and stats != "sample":
            raise TypeError(f"stats: got {stats!r}, wanted True, False or 'sample'")
        self.stats = STATS[stats]
        self.stages = Stages(stages)
        self.averaging = stages["average"] is not None
        compile_stages(self.stages, self.averaging, single=False)  # before arrays are made
        self.clock: Counts = np.zeros(1, dtype=np.int64)
        self.sample = np.zeros(_core.sample_elements if stats == "sample" else 0)
        self._start()

    def _start(self) -> None:
        self.turn = Turn()
        self.changes = Changes()
        self.stages.changes = self.changes
        self._exchange: Exchange | None = None

    @property
    def t(self) -> int:
        """Steps made so far: the index that schedules get at the next one."""
        return int(self.clock[0])

    @property
    def shows_averages(self) -> bool:
        """Whether the parameters hold something else, within :meth:`averaged`."""
        return self._exchange is not None

    @contextlib.contextmanager
    def averaged(self, begin: Callable[[], Exchange]) -> Iterator[None]:
        """Have other numbers in the parameters for a ``with`` block.

        Args:
            begin: makes them.

        Raises:
            RuntimeError: a step or something else that needs the parameters goes on.
        """
        try:
            del self.turn.free[0]
        except IndexError:
            raise self.turn.taken("averaged") from None
        try:
            exchange = begin()
            self.turn.averaged = get_ident()
            self._exchange = exchange
            # What interrupts the way out finds a second try.
            try:
                exchange.there()
                yield
            finally:
                try:
                    exchange.back()
                finally:
                    exchange.back()
        finally:
            self._exchange, self.turn.averaged = None, 0
            self.turn.free.append(None)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("stats", "stages", "averaging", "clock", "sample")
        return {key: self.__dict__[key] for key in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


class Compiled:
    """An engine's step over the arrays that ``held`` holds: the core's numbers and its plan.

    Args:
        engine: the optimizer's.
        held: the parameters, in groups, with all arrays kept for them.
        counts: int64, the updates of each parameter; the core counts.

    Attributes:
        clock: the steps that the optimizer has made, as a memoryview of one number.
        drive: what fills in the values that schedules give; None where there are none.
        wants_norm: whether a stage asks for the norm of all gradients.
        add_up: adds the statistics' sums over processes, in place; None: one has all.

    Raises:
        TypeError, ValueError: a hyperparameter is refused.
    """

    def __init__(self, engine: Engine, held: Held, counts: Counts) -> None:
        self.engine = engine
        self.held = held
        self.rows = held.rows
        self.counts = counts
        self.add_up: Callable[[Doubles], None] | None = None
        self.drive: Drive | None = None
        widest = max((len(row.rule.hyper_names) for row in self.rows), default=1)
        self.settings = np.zeros((len(self.rows), _core.FIRST_HYPER + widest))
        self._numbers = self.settings.data  # indexing it is faster than an array
        self._rate_places = [
            (row.index, _core.FIRST_HYPER + row.rule.lr_column) for row in self.rows
        ]
        self._controls = _core.Controls()
        self._sums = np.zeros((len(self.rows), len(Sums._fields)))
        self.clock = engine.clock.data  # indexing it is faster than ndarray.item()
        self._waits = held.has_fresh
        self._has_parts = held.has_parts
        self._loss_takers = [row.rule.name for row in self.rows if row.rule.takes_loss]
        self._common = [rule for rule in dict.fromkeys(r.rule for r in self.rows) if rule.common]
        self._stages_version = 0
        self._plan_is_old = False
        for row in self.rows:
            row.group.changes = engine.changes
            row.version = 0
        self.compile_changes()
        self.plan = self._new_plan()

    # ---- numbers ----

    @property
    def is_driven(self) -> bool:
        """Whether a schedule or function gives a hyperparameter or a stage."""
        return self.drive is not None or bool(self.driven_stages)

    def refresh(self, k: int) -> None:
        """Bring what was changed since the last step, and step k's values, to the core."""
        if self.engine.changes.version != self._version:
            self.compile_changes()
        if self.drive is not None:
            self.drive(k)
            self._check_common()

    def compile_changes(self) -> None:
        """Bring groups and stages that were changed to the core."""
        version = self.engine.changes.version  # first: a change from here on is seen next time
        changed = [row for row in self.rows if row.version != row.group.version]
        for row in changed:
            self._compile(row)
        if changed or not self._stages_version:
            first = _core.FIRST_HYPER
            driven = [(r.index, first + one.column, one) for r in self.rows for one in r.driven]
            self.drive = Drive(self.settings, driven) if driven else None
            alone = len(self.rows) == 1 and self.drive is None
            self._lr = self.rows[0].lr if alone else None
        if self._stages_version != self.engine.stages.version:
            self._compile_stages()
        self._check_common()
        if self._plan_is_old:
            self.plan = self._new_plan()
            self._plan_is_old = False
        self._version = version

    def _compile(self, row: Row) -> None:
        """Bring a group into the core's settings."""
        group, prefix = row.group, self.held.prefix(row.index)
        version, values = group.version, dict(group)
        numbers = row.rule.compile(prefix, values, row.single)
        if row.rule.checks_params:
            self.held.check_params(row, values)
        if missing := row.missing(prefix):
            self.held.extend(row, missing)
            self.plan = self._new_plan()
        settings = self.settings[row.index]
        settings[_core.SIGN], settings[_core.FROZEN] = numbers.sign, numbers.frozen
        settings[_core.FIRST_HYPER : _core.FIRST_HYPER + len(numbers.hyper)] = numbers.hyper
        for key, value in group.items():
            if isinstance(value, list):
                dict.__setitem__(group, key, tuple(value))  # a change within would go unnoticed
        row.values = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        row.driven = numbers.driven
        row.lr = numbers.hyper[row.rule.lr_column]
        row.version = version

    def _check_common(self) -> None:
        """Raise ValueError where groups of a rule differ in what they are to share."""
        for rule in self._common:
            rows = [row for row in self.rows if row.rule is rule]
            numbers = [self.settings[row.index].tolist() for row in rows]
            rule.check_common(
                [
                    (self.held.prefix(row.index), own[_core.FIRST_HYPER :])
                    for row, own in zip(rows, numbers, strict=True)
                    if not own[_core.FROZEN]
                ]
            )

    def _compile_stages(self) -> None:
        """Bring the stages into the core's controls."""
        stages, single = self.engine.stages, any(row.single for row in self.rows)
        version = stages.version
        values, self.driven_stages = compile_stages(stages, self.engine.averaging, single)
        for name, value in values.items():
            setattr(self._controls, name, value)
        self._clips_norm = stages["clip_norm"] is not None
        self._nonfinite: str = stages["nonfinite"]
        self.wants_norm = self._clips_norm or self._nonfinite != "allow"
        self._stages_version = version
        self._decide()

    def renew_plan(self) -> None:
        """Have a new plan made at the next step: counts and states are about to be replaced."""
        self._plan_is_old = True
        self._version = 0

    def _decide(self) -> None:
        """Whether a step has nothing to do but the rule, copies and averages."""
        special = self.driven_stages or self.engine.stats or self.wants_norm or self._loss_takers
        self._plain = not (special or self._waits or self._has_parts)

    def _new_plan(self) -> Plan | TensorPlan:
        _core.find_openmp()  # PyTorch may have been loaded since the last time
        return self.held.plan(
            self.counts,
            self.engine.clock,
            self.settings,
            self._controls,
            self._sums,
            self.engine.sample,
        )

    def look_at_fresh(self) -> None:
        """See anew whether everything has begun that starts from a parameter."""
        self._waits = self.held.has_fresh
        self._decide()

    def show(self, index: int, out: Any) -> Any:
        """The point to evaluate of a parameter whose rule has another than that, into ``out``."""
        if self.engine.changes.version != self._version:
            self.compile_changes()
        self.plan.show(index, out)
        return out

    # ---- the step ----

    def run(
        self,
        k: int,
        grads: list[Any],
        loss_scale: Any = ONE,
        zero_grads: Any = False,
        norm: float | None = None,
        loss: Any = None,
    ) -> Report:
        """Step k with a gradient, or None, for each parameter.

        Args:
            k: the index of the step, for which this was refreshed.
            grads: the gradients in the order of the parameters.
            loss_scale: what they are divided by.
            zero_grads: whether to set them to 0.
            norm: of all gradients, those of other processes included, loss scale and all; None:
                there are no others.
            loss: what they are the gradients of, for rules that take it; None: none was given.
        """
        if self._plain and loss_scale is ONE and zero_grads is False and loss is None:
            while (refused := self.plan.step(grads)) != DONE:
                grads = self._explain(refused, grads, writable=False)
            # A call less: it would take 2% of a small step's time.
            return Report(k + 1, self.rates() if self._lr is None else self._lr)
        loss = self._checked_loss(loss)
        return self._run_stages(k, grads, loss_scale, zero_grads, norm, loss)

    def rates(self) -> float | tuple[float, ...]:
        """The rates of the step that was last refreshed."""
        if self._lr is not None:
            return self._lr
        rates = tuple([self._numbers[place] for place in self._rate_places])
        return rates[0] if len(rates) == 1 else rates

    def _run_stages(
        self,
        k: int,
        grads: list[Any],
        loss_scale: Any,
        zero_grads: Any,
        known_norm: float | None,
        loss: float,
    ) -> Report:
        """The general step: stages, statistics or a loss scale are in use."""
        scale = self._checked_scale(loss_scale)
        if not isinstance(zero_grads, bool | np.bool_):
            raise TypeError(f"zero_grads: got {zero_grads!r}, wanted True or False")
        zero = bool(zero_grads)
        for driven in self.driven_stages:
            setattr(self._controls, CONTROLS[driven.key], call(driven, k))
        if self._has_parts:
            self.held.check_parts(grads)
        if self._waits:
            self.held.start_fresh()
        self.plan.loss = loss
        self.plan.norm = UNKNOWN if known_norm is None else known_norm
        done = self._staged_step(grads, scale, zero)
        if done == SKIPPED and self._nonfinite == "raise":
            culprit = "loss" if not math.isfinite(loss) else "the gradients of all processes"
            if culprit != "loss" and known_norm is None:
                culprit = self.held.arguments("grads")[self.plan.not_finite]
            raise not_finite(culprit, loss if culprit == "loss" else None)
        if self._waits and done == DONE:
            self.held.note_begun()
            self.look_at_fresh()
        measured = self._measured(done, self.plan.gradient_norm, scale)
        return Report(k + (done == DONE), self.rates(), measured)

    def _checked_scale(self, loss_scale: Any) -> float:
        if loss_scale is ONE:
            return 1.0
        scale = number("loss_scale", STAGE_RANGES["loss_scale"], loss_scale, single=False)
        if any(row.single for row in self.rows) and not FLOAT32_MIN < 1 / scale <= FLOAT32_MAX:
            raise ValueError(
                f"loss_scale: got {loss_scale!r}, whose inverse float32 cannot hold, wanted a "
                "number between 3e-39 and 7e44"
            )
        return scale

    def _checked_loss(self, loss: Any) -> float:
        """The loss as the core wants it: 0 where no rule takes one."""
        if not self._loss_takers:
            if loss is None:
                return 0.0
            names = ", ".join(dict.fromkeys(row.rule.name for row in self.rows))
            raise ValueError(f"loss: got {loss!r}, which {names} does not use, wanted none")
        if loss is None:
            raise ValueError(
                "loss: got nothing, wanted the loss that the gradients are of: "
                f"{self._loss_takers[0]} steps by it"
            )
        if isinstance(loss, Real) and not math.isfinite(loss) and self._nonfinite != "allow":
            return float(loss)  # the step is skipped, as for such a gradient
        return number("loss", FINITE, loss, single=False)

    def _staged_step(self, grads: list[Any], scale: float, zero: bool) -> int:
        stats = self.engine.stats
        while (done := self.plan.staged_step(grads, scale, zero, stats)) not in (DONE, SKIPPED):
            grads = self._explain(done, grads, writable=zero)
        return done

    def _explain(self, refused: int, grads: list[Any], *, writable: bool) -> list[Any]:
        """Gradients that the core takes; raise for what it refused, in its words or ours."""
        if self.plan.refusal:
            raise ValueError(f"{self.held.arguments('grads')[refused]}: {self.plan.refusal}")
        return self.held.explain(refused, grads, writable=writable)

    # ---- the report ----

    def _measured(self, done: int, norm: float, scale: float) -> dict[str, Any]:
        """What the report of a step says besides its index and rates."""
        measured: dict[str, Any] = {}
        if self._nonfinite != "allow":
            measured["skipped"] = done == SKIPPED
        if self.wants_norm:
            measured["grad_norm"] = norm
        if self.engine.stats and done == DONE:
            if self.add_up is not None:
                self.add_up(self._sums)
            measured |= self._statistics(scale) | measured
        return measured

    def _statistics(self, scale: float) -> dict[str, Any]:
        """What this step measured, of all groups together and of each."""
        sampled = self.engine.stats == STATS["sample"]
        parts = [
            self._group_sums(row, sums, sampled)
            for row, sums in zip(self.rows, self._sums.tolist(), strict=True)
        ]

        def of(some: Sequence[tuple[Sums, bool, bool]]) -> Statistics:
            norm = math.sqrt(sum(sums.raw_gradient for sums, _, _ in some)) / scale
            return statistics(some, norm)

        groups = None if sampled else tuple(of([part]) for part in parts)
        return {**of(parts)._asdict(), "groups": groups}

    @staticmethod
    def _group_sums(row: Row, sums: list[float], sampled: bool) -> tuple[Sums, bool, bool]:
        """A group's sums, and whether it has a momentum and a second moment."""
        roles = {state.role for state in row.rule.states if state.name in row.present}
        # in a sample all have a momentum, if only to be measured
        has_moment = "second_moment" in roles and not row.rule.scales_moment
        return Sums(*sums), sampled or "momentum" in roles, has_moment
