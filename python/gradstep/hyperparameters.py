"""Hyperparameters: what each may be, and how a group's become the numbers of one step."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from .schedules import Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Range(NamedTuple):
    """The numbers a hyperparameter may be."""

    wanted: str
    holds: Callable[[float], bool]


NON_NEGATIVE = Range("a finite number ≥ 0", lambda x: 0 <= x < math.inf)
UNIT = Range("a number in [0, 1]", lambda x: 0 <= x <= 1)
BELOW_ONE = Range("a number in [0, 1)", lambda x: 0 <= x < 1)
POSITIVE = Range("a finite number > 0", lambda x: 0 < x < math.inf)

RANGES: dict[str, Range] = {
    "lr": NON_NEGATIVE,
    "alpha": BELOW_ONE,
    "betas": BELOW_ONE,
    "dampening": UNIT,
    "eps": NON_NEGATIVE,
    "initial_accumulator_value": NON_NEGATIVE,
    "lr_decay": NON_NEGATIVE,
    "momentum": BELOW_ONE,
    "weight_decay": NON_NEGATIVE,
    # of a step's stages
    "average": BELOW_ONE,
    "clip_norm": POSITIVE,
    "clip_value": POSITIVE,
    "loss_scale": POSITIVE,
}
FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_MIN = float(np.finfo(np.float32).smallest_subnormal)

# These describe a state's first content, so they cannot change from step to step.
CONSTANT = frozenset({"initial_accumulator_value"})


class Driven(NamedTuple):
    """A hyperparameter that a schedule or callable gives."""

    column: int
    argument: str
    key: str
    function: Callable[[int], float]
    single: bool


def _shown(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # Python does not print integers of thousands of digits
        return "an integer of thousands of digits"


def number(argument: str, key: str, value: object, single: bool) -> float:
    """``value`` as a float within the range of hyperparameter ``key``, or raise.

    Args:
        argument: what to call it in an error.
        key: the hyperparameter.
        value: anything.
        single: whether a kernel will round it to float32: then it must not become infinite, nor
            ε or a limit nothing.
    """
    wanted, holds = RANGES[key]
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{argument}: got {type(value).__name__}, wanted {wanted}")
    try:
        x = float(value)
    except OverflowError:  # an integer that no float can hold
        x = math.inf
    if not holds(x):
        raise ValueError(f"{argument}: got {_shown(value)}, wanted {wanted}")
    if single and (x > FLOAT32_MAX or (key in ("eps", "clip_value") and 0 < x < FLOAT32_MIN)):
        raise ValueError(
            f"{argument}: got {value}, which rounds to {'infinity' if x > 1 else '0'} in float32, "
            f"wanted {wanted} that float32 can hold"
        )
    return x


def whole(argument: str, value: object, limit: int) -> int:
    """``value`` as an integer from 0, below ``limit`` (a power of 2), or raise."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{argument}: got {type(value).__name__}, wanted an integer")
    if not 0 <= value < limit:
        raise ValueError(
            f"{argument}: got {value}, wanted 0 or more, below 2**{limit.bit_length() - 1}"
        )
    return int(value)


def bounds(key: str, single: bool) -> tuple[float, float, float]:
    """The least and the greatest number that :func:`number` takes, and the least above 0."""
    _, holds = RANGES[key]
    most = FLOAT32_MAX if single else np.finfo(np.float64).max
    lower = next(x for x in (0.0, 5e-324) if holds(x))
    upper = next(float(x) for x in (most, 1.0, math.nextafter(1.0, 0.0)) if holds(x))
    return lower, upper, FLOAT32_MIN if single and key == "eps" else 0.0


class Rule:
    """One row of the compiled catalogue: a rule's hyperparameters and states, by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hyper_names, states = _core.rules()[name]
        self.states = tuple(State(*state) for state in states)
        self.lengths = Counter(name.partition("[")[0] for name in self.hyper_names)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rule, (self.name,)


def is_on(value: object) -> bool:
    """Whether a hyperparameter is anything but a plain 0: a function of the step is."""
    return callable(value) or bool(value)


class State(NamedTuple):
    """A state of a rule: always there, or switched on by a hyperparameter."""

    name: str
    option: str | None
    initial: str | None
    role: str

    def is_on(self, group: Mapping[str, Any]) -> bool:
        """Whether a group with these hyperparameters has it: its option is not simply 0."""
        if self.option is None:
            return True
        return is_on(group[self.option])


def compile_group(
    prefix: str,
    rule: Rule,
    defaults: Mapping[str, Any],
    group: Mapping[str, Any],
    single: bool,
) -> tuple[list[float], list[Driven]]:
    """Check a group and lay its hyperparameters out as the rule's kernels want them.

    Args:
        prefix: what to put before a hyperparameter's name in an error.
        rule: the rule whose order of hyperparameters counts.
        defaults: the hyperparameters the group must have.
        group: the hyperparameters, and ``maximize`` and ``frozen``.
        single: whether any of the group's parameters is stepped in float32.

    Returns:
        The row of numbers (the rule's, then the gradient factor, then frozen), and what must be
        called to fill in the rest.

    Raises:
        TypeError, ValueError: a hyperparameter is missing, unknown, of a wrong type or range.
    """
    for key in group:
        if key not in defaults:
            raise TypeError(
                f"{prefix}{key}: got an unknown hyperparameter, wanted one of "
                + ", ".join(defaults)
            )
    for key, default in defaults.items():
        if key not in group:
            raise ValueError(f"{prefix}{key}: got nothing, wanted a value such as {default!r}")
        if key not in RANGES and not isinstance(group[key], bool | np.bool_):
            raise TypeError(f"{prefix}{key}: got {group[key]!r}, wanted True or False")

    row: list[float] = []
    driven: list[Driven] = []
    for column, name in enumerate(rule.hyper_names):
        key, _, index = name.partition("[")
        value = group[key]
        argument = prefix + name
        if index:
            length = rule.lengths[key]
            if not isinstance(value, tuple | list) or len(value) != length:
                raise TypeError(
                    f"{prefix}{key}: got {value!r}, wanted {length} numbers or "
                    "schedules, as a tuple"
                )
            value = value[int(index[:-1])]
        if key not in RANGES:
            row.append(float(value))
        elif callable(value):
            if key in CONSTANT:
                raise TypeError(
                    f"{argument}: got a function of the step, wanted {RANGES[key].wanted}"
                )
            check_takes_step(argument, value)
            row.append(math.nan)
            driven.append(Driven(column, argument, key, value, single))
        else:
            row.append(number(argument, key, value, single))
    return [*row, -1.0 if group["maximize"] else 1.0, float(group["frozen"])], driven


def check_takes_step(argument: str, function: Callable[[int], float]) -> None:
    """Raise TypeError if a function cannot be called with the step alone."""
    if isinstance(function, Schedule):
        return
    try:
        inspect.signature(function).bind(0)
    except TypeError:
        raise TypeError(
            f"{argument}: got {function!r}, which cannot be called with the step alone, wanted a "
            "number, a schedule or a function of the step"
        ) from None
    except ValueError:  # a compiled function may not say what it takes
        return


def call(driven: Driven, k: int) -> float:
    """The value of a driven hyperparameter at step index ``k``, checked."""
    _, argument, key, function, single = driven
    try:
        value = function(k)
    except (TypeError, ValueError) as error:
        if not isinstance(function, Schedule):
            raise  # it is the caller's own
        raise type(error)(f"{argument}: {error} (from {function!r})") from None
    try:
        return number(argument, key, value, single)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error} (from {function!r} at step {k})") from None


class Drive:
    """The driven hyperparameters of all groups, written into the settings at each step.

    All schedules are evaluated and checked in one compiled call, functions one by one.

    Args:
        settings: float64, a row for each group.
        driven: the row and what drives it, for each.
    """

    def __init__(self, settings: NDArray[np.float64], driven: Iterable[tuple[int, Driven]]) -> None:
        self._settings = settings
        self._schedules: list[Driven] = []
        self._functions: list[tuple[int, Driven]] = []
        entries = []
        for row, one in driven:
            if isinstance(one.function, Schedule):
                index = row * settings.shape[1] + one.column
                entries.append((one.function, index, *bounds(one.key, one.single)))
                self._schedules.append(one)
            else:
                self._functions.append((row, one))
        self._compiled = _core.Drive(settings, entries)

    def __call__(self, k: int) -> None:
        """The values at step index ``k``; raises as :func:`call` does."""
        if (refused := self._compiled(k)) != -1:
            one = self._schedules[refused]
            call(one, k)
            raise RuntimeError(f"{one.argument}: refused by the core, not by the checks: a defect")
        for row, one in self._functions:
            self._settings[row, one.column] = call(one, k)
