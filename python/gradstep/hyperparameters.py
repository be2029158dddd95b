"""Hyperparameters: which numbers each may be, and those that a schedule or function gives."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from .schedules import Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT64_MAX = float(np.finfo(np.float64).max)
FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_MIN = float(np.finfo(np.float32).smallest_subnormal)
# What a sum that should end at 0 may miss it by: torch's LinearLR(end_factor=0) gives −1.9e-18.
ROUNDING = 1e-12


class Range(NamedTuple):
    """The numbers a hyperparameter may be: from the least to the most, in words."""

    wanted: str
    least: float
    most: float
    never_to_zero: bool = False  # whether what float32 rounds to 0 is refused
    unit: float = 0.0  # of which it is a multiple; 0: of none. No function gives such a number
    none: float | None = None  # what the kernels get for None; None: that is refused
    exact: bool = False  # whether the kernels use it only in double


class Choice(NamedTuple):
    """The values allowed for a hyperparameter that only a rule's part in Python reads."""

    wanted: str  # in words
    check: Callable[[str, Any], object]  # of an argument and its value; raises


NON_NEGATIVE = Range("a finite number ≥ 0", 0.0, FLOAT64_MAX)
FINITE = Range("a finite number", -FLOAT64_MAX, FLOAT64_MAX)
BELOW_ONE = Range("a number in [0, 1)", 0.0, math.nextafter(1.0, 0.0))
POSITIVE = Range("a finite number > 0", math.nextafter(0.0, 1.0), FLOAT64_MAX)
UP_TO_ONE = Range("a number from 0 to 1", 0.0, 1.0)
ABOVE_ONE = Range("a finite number > 1", math.nextafter(1.0, 2.0), FLOAT64_MAX)
BETWEEN = Range("a number above 0 and below 1", math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0))
HALVES = Range("a multiple of 1/2 from 0 to 64", 0.0, 64.0, unit=0.5)
LENGTH = POSITIVE._replace(exact=True)
GROWTH = Range("a number ≥ 1, or infinity", 1.0, math.inf, exact=True)
UNLIMITED = Range("a number ≥ 0, or infinity", 0.0, math.inf, exact=True)
EPSILON = NON_NEGATIVE._replace(never_to_zero=True)

# By what a hyperparameter is called. Where PyTorch's classes have it, the range is theirs.
RANGES: dict[str, Range] = {
    "lr": NON_NEGATIVE,
    "alpha": NON_NEGATIVE,
    "alpha_warmup": NON_NEGATIVE,
    "beta3_warmup": NON_NEGATIVE,
    "betas": BELOW_ONE,
    "dampening": FINITE,
    "eps": EPSILON,
    "etas": POSITIVE,
    "etas[0]": BETWEEN,
    "etas[1]": ABOVE_ONE,
    "initial_accumulator_value": NON_NEGATIVE,
    "lambd": NON_NEGATIVE,
    "lr_decay": NON_NEGATIVE,
    "momentum": NON_NEGATIVE,
    "momentum_decay": NON_NEGATIVE,
    "rho": UP_TO_ONE,
    "step_sizes": NON_NEGATIVE,
    "t0": NON_NEGATIVE,
    "trust_coefficient": NON_NEGATIVE,
    "warmup_steps": NON_NEGATIVE,
    "weight_decay": NON_NEGATIVE,
}
STAGE_RANGES: dict[str, Range] = {
    "average": BELOW_ONE,
    "clip_norm": POSITIVE,
    "clip_value": POSITIVE._replace(never_to_zero=True),
    "loss_scale": POSITIVE,
}


class Driven(NamedTuple):
    """A hyperparameter that a schedule or callable gives."""

    column: int  # among the rule's numbers, or the stages'
    argument: str  # what it is called in an error
    key: str
    range: Range
    function: Callable[[int], float]
    single: bool  # whether it is rounded to float32


def _shown(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # Python does not print integers of thousands of digits
        return "an integer of thousands of digits"


def number(argument: str, allowed: Range, value: object, single: bool) -> float:
    """``value`` as a float within a range, or raise.

    A number that is below 0 by no more than rounding is 0 where 0 is the least.

    Args:
        argument: what to call it in an error.
        allowed: the range.
        value: anything.
        single: whether a kernel will round it to float32: then it must not become infinite, nor
            ε or a limit nothing.
    """
    wanted, single = allowed.wanted, single and not allowed.exact
    if value is None and allowed.none is not None:
        return allowed.none
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{argument}: got {type(value).__name__}, wanted {wanted}")
    try:
        x = float(value)
    except OverflowError:  # an integer that no float can hold
        x = math.inf
    if allowed.least == 0 and -ROUNDING < x < 0:
        x = 0.0
    if not allowed.least <= x <= allowed.most or (allowed.unit and x % allowed.unit):
        raise ValueError(f"{argument}: got {_shown(value)}, wanted {wanted}")
    if single and (abs(x) > FLOAT32_MAX or (allowed.never_to_zero and 0 < x < FLOAT32_MIN)):
        raise ValueError(
            f"{argument}: got {value}, which rounds to {'infinity' if abs(x) > 1 else '0'} in "
            f"float32, wanted {wanted} that float32 can hold"
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


def bounds(allowed: Range, single: bool) -> tuple[float, float, float]:
    """The least and the greatest number taken as they are, and the least above 0."""
    single = single and not allowed.exact
    most = min(allowed.most, FLOAT32_MAX) if single else allowed.most
    least = max(allowed.least, -FLOAT32_MAX) if single else allowed.least
    return least, most, FLOAT32_MIN if single and allowed.never_to_zero else 0.0


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
    argument, function = driven.argument, driven.function
    try:
        value = function(k)
    except (TypeError, ValueError) as error:
        if not isinstance(function, Schedule):
            raise  # it is the caller's own
        raise type(error)(f"{argument}: {error} (from {function!r})") from None
    try:
        return number(argument, driven.range, value, driven.single)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error} (from {function!r} at step {k})") from None


class Drive:
    """The driven hyperparameters of all groups, written into the settings at each step.

    All schedules are evaluated and checked in one compiled call, functions one by one.

    Args:
        settings: float64, a row for each group.
        driven: the row and the column of a value, and what drives it, for each.
    """

    def __init__(
        self, settings: NDArray[np.float64], driven: Iterable[tuple[int, int, Driven]]
    ) -> None:
        self._settings = settings
        self._schedules: list[tuple[int, int, Driven]] = []
        self._functions: list[tuple[int, int, Driven]] = []
        entries = []
        for row, column, one in driven:
            if isinstance(one.function, Schedule):
                index = row * settings.shape[1] + column
                entries.append((one.function, index, *bounds(one.range, one.single)))
                self._schedules.append((row, column, one))
            else:
                self._functions.append((row, column, one))
        self._compiled = _core.Drive(settings, entries)

    def __call__(self, k: int) -> None:
        """The values at step index ``k``; raises as :func:`call` does."""
        called = self._functions
        if self._compiled(k) != -1:  # one is refused, or is 0 except for rounding
            called = self._schedules + called
        for row, column, one in called:
            self._settings[row, column] = call(one, k)
