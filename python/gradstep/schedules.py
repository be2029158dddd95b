"""Schedules: pure functions from the step to a value, for any hyperparameter.

A schedule takes ``t``, the index of the update about to be made, from 0. All lengths are counted
in updates. It holds no state, so any ``t`` up to 2⁵² may be asked for, in any order, and what
resumes after an interruption is one integer. Values are computed in double precision from a closed
form; where a form starts and ends, its value is exactly the one that was given.

    >>> from gradstep import schedules
    >>> s = schedules.cosine(0.1, total=1000)
    >>> s(0), s(500), s(1000), s(5000)
    (0.1, 0.05, 0.0, 0.0)
    >>> import numpy as np
    >>> s(np.arange(0, 1001, 500))
    array([0.1 , 0.05, 0.  ])
    >>> s
    schedules.cosine(0.1, total=1000)

Two conventions are arguments wherever a schedule has an end:

``end``
    ``"exclusive"`` (default): the end value belongs to ``t = total``, one past the last of
    ``total`` updates, as in PyTorch, optax, Keras and Hugging Face. ``"inclusive"``: to
    ``t = total - 1``, so that the last update uses it.
``past_end``
    ``"hold"`` (default): the end value stays. ``"raise"``: a later ``t`` is a ``ValueError``.

A length of 0 means that the end is reached already.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, SupportsFloat, SupportsIndex, get_args

from . import _core

__all__ = [
    "Schedule",
    "constant",
    "cosine",
    "cyclic",
    "drop",
    "exponential",
    "join",
    "linear",
    "polynomial",
    "step",
]

End = Literal["exclusive", "inclusive"]
PastEnd = Literal["hold", "raise"]
Policy = Literal["triangular", "annealing"]
Anneal = Literal["linear", "cosine"]

# Required arguments that repr() writes without their names.
_SPEAK_FOR_THEMSELVES = {"value", "end_value", "lower", "upper", "schedules"}

_FOREVER: int = _core.step_limit - 1


class Schedule(_core.Schedule):
    """A pure function from the step to a value, made by the functions of this module.

    ``s(t)`` gives a ``float`` for an integer and, for an array of integers, a ``float64`` array of
    the same shape. A schedule is a value: immutable, hashable, equal to another that was made from
    the same arguments, and it can be pickled. ``repr(s)`` is the call that makes it, after
    ``from gradstep import schedules``.

    Raises:
        TypeError: ``t`` is neither an integer nor an array of integers; booleans are not.
        ValueError: ``t`` is negative, 2⁵² or more, or past an end with ``past_end="raise"``.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.step(1.0, step_size=10, gamma=0.5)
        >>> s(9), s(10)
        (1.0, 0.5)
        >>> s == schedules.step(1.0, step_size=10, gamma=0.5)
        True
    """

    __slots__ = ("_arguments", "_name")
    _name: str
    _arguments: dict[str, Any]

    def __init__(self, name: str, arguments: dict[str, Any], *compiled: Any) -> None:
        super().__init__(*compiled)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_arguments", arguments)

    def to_dict(self) -> dict[str, Any]:
        """The name and the arguments, in types that JSON has.

        Example:
            >>> from gradstep import schedules
            >>> schedules.constant(0.5).to_dict()
            {'schedule': 'constant', 'value': 0.5}
        """
        return {"schedule": self._name} | {k: _plain(v) for k, v in self._arguments.items()}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Schedule:
        """The schedule that :meth:`to_dict` described, its arguments checked anew.

        Raises:
            KeyError: there is no ``"schedule"``.
            TypeError: an argument is missing or unknown.
            ValueError: no such schedule, or an argument is invalid.

        Example:
            >>> from gradstep import schedules
            >>> schedules.Schedule.from_dict({"schedule": "constant", "value": 0.5})
            schedules.constant(0.5)
        """
        arguments = dict(fields)
        name = arguments.pop("schedule")
        if not isinstance(name, str) or name not in _MAKERS:
            raise ValueError(f"schedule: got {name!r}, wanted one of {', '.join(_MAKERS)}")
        if name == "join":
            children = arguments.pop("schedules")
            return join([Schedule.from_dict(child) for child in children], **arguments)
        return _MAKERS[name](**arguments)

    def __repr__(self) -> str:
        words = []
        for name, parameter in inspect.signature(_MAKERS[self._name]).parameters.items():
            value = self._arguments[name]
            if name in _SPEAK_FOR_THEMSELVES and parameter.default is parameter.empty:
                words.append(repr(value))
            elif value != parameter.default:
                words.append(f"{name}={value!r}")
        return f"schedules.{self._name}({', '.join(words)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return self._name == other._name and self._arguments == other._arguments

    def __hash__(self) -> int:
        return hash((self._name, *self._arguments.items()))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: a schedule is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name}: a schedule is immutable")

    def __copy__(self) -> Schedule:
        return self

    def __deepcopy__(self, memo: object) -> Schedule:
        return self

    def __reduce__(self) -> tuple[Callable[..., Schedule], tuple[dict[str, Any]]]:
        return Schedule.from_dict, (self.to_dict(),)


def _plain(value: Any) -> Any:
    """``value`` in types that JSON has."""
    if isinstance(value, Schedule):
        return value.to_dict()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _closed_form(
    name: str, compiled: Sequence[float], arguments: dict[str, Any], last: int = _FOREVER
) -> Schedule:
    return Schedule(name, arguments, name, compiled, last)


# ---- what arguments may be ----


def _number(argument: str, x: object) -> float:
    if isinstance(x, bool) or not isinstance(x, Real):
        raise TypeError(f"{argument}: got {x!r} ({type(x).__name__}), wanted a number")
    try:
        value = float(x)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{argument}: got {x!r}, wanted a finite number")
    return value


def _value(argument: str, x: object) -> float:
    value = _number(argument, x)
    if abs(value) > 1e290:  # so that no product with a length overflows
        raise ValueError(f"{argument}: got {x!r}, wanted -1e290 to 1e290")
    return value


def _factor(argument: str, x: object) -> float:
    value = _number(argument, x)
    if value < 0:
        raise ValueError(f"{argument}: got {x!r}, wanted a number >= 0")
    return value


def _updates(argument: str, x: object, least: int = 0) -> int:
    try:
        if isinstance(x, bool):
            raise TypeError
        count = operator.index(x)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{argument}: got {x!r} ({type(x).__name__}), wanted an integer number of updates"
        ) from None
    if not least <= count <= _FOREVER:
        raise ValueError(f"{argument}: got {count}, wanted {least} <= {argument} < 2**52")
    return count


def _choice(argument: str, x: object, choices: Any) -> Any:
    names = get_args(choices)
    if not isinstance(x, str) or x not in names:
        raise ValueError(f"{argument}: got {x!r}, wanted {' or '.join(map(repr, names))}")
    return x


def _sequence(argument: str, x: object, of: str) -> list[Any]:
    if isinstance(x, (str, bytes, Mapping)) or not hasattr(x, "__iter__"):
        raise TypeError(f"{argument}: got {x!r} ({type(x).__name__}), wanted a sequence of {of}")
    return list(x)


def _steps(argument: str, x: object) -> tuple[int, ...]:
    steps = tuple(
        _updates(f"{argument}[{i}]", t) for i, t in enumerate(_sequence(argument, x, "steps"))
    )
    if any(a > b for a, b in pairwise(steps)):
        raise ValueError(f"{argument}: got {steps}, wanted steps that do not decrease")
    return steps


def _until(total: SupportsIndex, end: End, past_end: PastEnd) -> tuple[int, int, dict[str, Any]]:
    """The step at which the end value is reached, the last legal step, the arguments checked."""
    checked = {
        "total": _updates("total", total),
        "end": _choice("end", end, End),
        "past_end": _choice("past_end", past_end, PastEnd),
    }
    length = max(0, checked["total"] - (end == "inclusive"))
    return length, length if past_end == "raise" else _FOREVER, checked


# ---- closed forms, in order of complexity ----


def constant(value: SupportsFloat) -> Schedule:
    """The same value at every step.

    Raises:
        TypeError, ValueError: ``value`` is not a finite number.

    Example:
        >>> from gradstep import schedules
        >>> schedules.constant(0.1)(10**12)
        0.1
    """
    value = _value("value", value)
    return _closed_form("constant", [value], {"value": value})


def linear(
    value: SupportsFloat,
    end_value: SupportsFloat,
    total: SupportsIndex,
    *,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """A straight line, up or down: ``value + (end_value - value)·x`` with ``x = min(t, T)/T``.

    Args:
        value: at ``t = 0``. A warm-up from 0 makes the first update do nothing.
        end_value: at the end.
        total: the length in updates; ``T = total``, or ``total - 1`` with ``end="inclusive"``.
        end: whether the end value belongs to ``t = total`` or to the last update.
        past_end: whether to hold the end value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or not finite; ``total < 0``.

    Example:
        >>> from gradstep import schedules
        >>> warmup = schedules.linear(0.0, 1.0, total=4)
        >>> [warmup(t) for t in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    Where others differ: PyTorch's ``LinearLR`` takes factors of the rate, optax's
    ``linear_schedule`` the same values as here.
    """
    value, end_value = _value("value", value), _value("end_value", end_value)
    length, last, until = _until(total, end, past_end)
    arguments = {"value": value, "end_value": end_value, **until}
    return _closed_form("linear", [value, end_value, length], arguments, last)


def step(value: SupportsFloat, step_size: SupportsIndex, gamma: SupportsFloat = 0.1) -> Schedule:
    """A drop by the same factor at equal distances: ``value·gamma^⌊t/step_size⌋``.

    Args:
        value: for the first ``step_size`` updates.
        step_size: updates from drop to drop, at least 1.
        gamma: what each drop multiplies by, at least 0.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.step(1.0, step_size=30, gamma=0.5)
        >>> s(29), s(30), s(90)
        (1.0, 0.5, 0.125)

    The same as PyTorch's ``StepLR``, whose running product rounds at every drop.
    """
    value, gamma = _value("value", value), _factor("gamma", gamma)
    step_size = _updates("step_size", step_size, 1)
    arguments = {"value": value, "step_size": step_size, "gamma": gamma}
    return _closed_form("step", [value, step_size, gamma], arguments)


def drop(
    value: SupportsFloat,
    milestones: Sequence[SupportsIndex],
    gamma: SupportsFloat | None = None,
    *,
    values: Sequence[SupportsFloat] | None = None,
) -> Schedule:
    """Drops at given steps: ``value·gamma^n`` or ``values[n - 1]``, ``n`` the milestones ``<= t``.

    Args:
        value: before the first milestone.
        milestones: steps that do not decrease. The update with index ``m`` is the first after the
            drop at ``m``; a milestone given twice counts twice.
        gamma: what each milestone multiplies by, at least 0; 0.1 where neither this nor ``values``
            is given.
        values: instead of ``gamma``, the value from each milestone on, one for each.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range; both
            ``gamma`` and ``values``; not as many ``values`` as ``milestones``.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.drop(0.1, [30, 60], values=[0.02, 0.005])
        >>> s(29), s(30), s(60)
        (0.1, 0.02, 0.005)

    Where others differ: PyTorch's ``MultiStepLR`` and optax's ``piecewise_constant_schedule`` drop
    at ``t = m`` as here, Keras' ``PiecewiseConstantDecay`` at ``t > m``, timm at ``m - 1``.
    """
    value = _value("value", value)
    steps = _steps("milestones", milestones)
    arguments: dict[str, Any] = {"value": value, "milestones": steps, "gamma": None, "values": None}
    if values is None:
        factor = 0.1 if gamma is None else _factor("gamma", gamma)
        arguments["gamma"] = factor
        powers = _core.Schedule("step", [value, 1, factor], _FOREVER)
        levels = [value, *(powers(n) for n in range(1, len(steps) + 1))]
    else:
        if gamma is not None:
            raise ValueError(f"gamma: got {gamma!r} together with values, wanted one of the two")
        after = _sequence("values", values, "numbers")
        if len(after) != len(steps):
            raise ValueError(
                f"values: got {len(after)}, wanted {len(steps)}, one for each milestone"
            )
        levels = [value, *(_value(f"values[{i}]", v) for i, v in enumerate(after))]
        arguments["values"] = tuple(levels[1:])
    return _closed_form("drop", [*steps, *levels], arguments)


def exponential(
    value: SupportsFloat,
    decay_rate: SupportsFloat,
    decay_steps: SupportsIndex = 1,
    *,
    begin: SupportsIndex = 0,
    staircase: bool = False,
) -> Schedule:
    """Exponential decay: ``value·decay_rate^(max(0, t - begin)/decay_steps)``.

    Args:
        value: at the start.
        decay_rate: what ``decay_steps`` updates multiply by, at least 0.
        decay_steps: updates, at least 1.
        begin: the step at which the decay begins.
        staircase: round the exponent down, so that the value drops every ``decay_steps`` updates.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.exponential(1.0, decay_rate=0.25, decay_steps=1000)
        >>> s(0), s(500), s(1000)
        (1.0, 0.5, 0.25)

    The same as optax's ``exponential_decay`` and Keras' ``ExponentialDecay``; PyTorch's
    ``ExponentialLR`` is the case ``decay_steps=1``, as a running product.
    """
    value, decay_rate = _value("value", value), _factor("decay_rate", decay_rate)
    decay_steps, begin = _updates("decay_steps", decay_steps, 1), _updates("begin", begin)
    if not isinstance(staircase, bool):
        raise TypeError(f"staircase: got {staircase!r}, wanted True or False")
    arguments = {
        "value": value,
        "decay_rate": decay_rate,
        "decay_steps": decay_steps,
        "begin": begin,
        "staircase": staircase,
    }
    return _closed_form("exponential", list(arguments.values()), arguments)


def polynomial(
    value: SupportsFloat,
    total: SupportsIndex,
    power: SupportsFloat = 1.0,
    *,
    end_value: SupportsFloat = 0.0,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """Polynomial decay: ``end_value + (value - end_value)·(1 - x)^power``, ``x = min(t, T)/T``.

    Args:
        value: at ``t = 0``.
        total: the length in updates; ``T = total``, or ``total - 1`` with ``end="inclusive"``.
        power: any number above 0; 1 is :func:`linear`, to the bit.
        end_value: at the end; not a fraction of ``value``.
        end: whether the end value belongs to ``t = total`` or to the last update.
        past_end: whether to hold the end value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.polynomial(1.0, total=4, power=2)
        >>> [s(t) for t in range(6)]
        [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]

    The same as PyTorch's ``PolynomialLR``, optax's ``polynomial_schedule`` and Keras'
    ``PolynomialDecay``. Hugging Face divides the end value by the default rate, which is wrong for
    groups with another.
    """
    value, end_value = _value("value", value), _value("end_value", end_value)
    power = _number("power", power)
    if power <= 0:
        raise ValueError(f"power: got {power!r}, wanted a number > 0")
    length, last, until = _until(total, end, past_end)
    arguments = {"value": value, "power": power, "end_value": end_value, **until}
    if power == 1:
        return Schedule("polynomial", arguments, "linear", [value, end_value, length], last)
    return _closed_form("polynomial", [value, end_value, length, power], arguments, last)


def cosine(
    value: SupportsFloat,
    total: SupportsIndex,
    *,
    end_value: SupportsFloat = 0.0,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """Cosine decay: ``end_value + (value - end_value)·cos²(πx/2)`` with ``x = min(t, T)/T``.

    Args:
        value: at ``t = 0``.
        total: the length in updates; ``T = total``, or ``total - 1`` with ``end="inclusive"``.
        end_value: at the end; not a fraction of ``value``.
        end: whether the end value belongs to ``t = total`` or to the last update.
        past_end: whether to hold the end value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or not finite; ``total < 0``.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.cosine(0.1, total=100, end_value=0.01)
        >>> s(0), s(100), s(1000)
        (0.1, 0.01, 0.01)

    Source: Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
    equation 5, without restarts: ``(1 + cos πx)/2 = cos²(πx/2)``.

    Where others differ: PyTorch's ``CosineAnnealingLR`` and Hugging Face's rise again after the
    end; the floor is a fraction of the value in optax's ``cosine_decay_schedule`` and Keras'
    ``CosineDecay``.
    """
    value, end_value = _value("value", value), _value("end_value", end_value)
    length, last, until = _until(total, end, past_end)
    arguments = {"value": value, "end_value": end_value, **until}
    return _closed_form("cosine", [value, end_value, length], arguments, last)


def cyclic(
    lower: SupportsFloat,
    upper: SupportsFloat,
    step_size: SupportsIndex,
    *,
    step_size_down: SupportsIndex | None = None,
    policy: Policy = "triangular",
    anneal: Anneal = "linear",
    end: End = "exclusive",
) -> Schedule:
    """Cycles between two values.

    ``policy="triangular"``: from ``lower`` to ``upper`` in ``step_size`` updates and back in
    ``step_size_down``: with both equal to ``s``, ``lower + (upper - lower)·max(0, 1 - y)``,
    ``y = |t/s - 2c + 1|``, ``c = ⌊1 + t/(2s)⌋``.

    ``policy="annealing"``: from ``upper`` to ``lower`` within every ``step_size`` updates, then
    back up at once: ``lower + (upper - lower)·(1 - x)``, or ``cos²(πx/2)`` for ``1 - x``, with
    ``x = (t mod step_size)/step_size``.

    Args:
        lower: the lower bound.
        upper: the upper bound. It may be below ``lower``, as for a momentum that falls while the
            rate rises.
        step_size: half a cycle if triangular, a whole one if annealing; updates, at least 1.
        step_size_down: for triangular, updates on the way down; ``step_size`` if not given.
        policy: ``"triangular"`` or ``"annealing"``.
        anneal: for annealing, ``"linear"`` or ``"cosine"``.
        end: for annealing, whether a cycle reaches ``lower`` where the next one starts, so that no
            update uses it, or at its last update.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite, out of range, or
            belongs to the other policy.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.cyclic(0.0, 1.0, step_size=2)
        >>> [s(t) for t in range(6)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
        >>> s = schedules.cyclic(0.0, 1.0, step_size=3, policy="annealing", end="inclusive")
        >>> [s(t) for t in range(6)]
        [1.0, 0.5, 0.0, 1.0, 0.5, 0.0]

    Source: Smith, "Cyclical learning rates for training neural networks", WACV 2017; annealing:
    Loshchilov & Hutter, "SGDR", ICLR 2017.

    Where others differ: PyTorch's ``CyclicLR`` calls ``step_size`` ``step_size_up`` and cycles the
    momentum too unless told otherwise; here momentum takes a schedule of its own.
    """
    lower, upper = _value("lower", lower), _value("upper", upper)
    step_size = _updates("step_size", step_size, 1)
    policy = _choice("policy", policy, Policy)
    anneal = _choice("anneal", anneal, Anneal)
    end = _choice("end", end, End)
    if policy == "triangular":
        for argument, given, unset in (("anneal", anneal, "linear"), ("end", end, "exclusive")):
            if given != unset:
                raise ValueError(
                    f'{argument}: got {given!r} with policy="triangular", '
                    'which has none, wanted policy="annealing"'
                )
        if step_size_down is not None:
            step_size_down = _updates("step_size_down", step_size_down, 1)
        up, down = step_size, step_size if step_size_down is None else step_size_down
        cycle = _updates("step_size + step_size_down", up + down)
    else:
        if step_size_down is not None:
            raise ValueError(
                f'step_size_down: got {step_size_down!r} with policy="annealing", '
                "whose cycle is step_size updates long, wanted None"
            )
        up, down, cycle = 0, step_size - (end == "inclusive"), step_size
    arguments = {
        "lower": lower,
        "upper": upper,
        "step_size": step_size,
        "step_size_down": step_size_down,
        "policy": policy,
        "anneal": anneal,
        "end": end,
    }
    return _closed_form("cyclic", [lower, upper, up, down, cycle, anneal == "cosine"], arguments)


# ---- composition ----


def join(schedules: Sequence[Schedule], at: Sequence[SupportsIndex]) -> Schedule:
    """One schedule after another: ``schedules[i + 1]`` from ``at[i]`` on, as if it started there.

    At ``t >= at[i]`` (and before ``at[i + 1]``) the value is ``schedules[i + 1](t - at[i])``.

    Args:
        schedules: at least one.
        at: the steps at which the second and later ones take over; they do not decrease. Two equal
            ones leave the schedule between them no step.

    Raises:
        TypeError: an entry is not a ``Schedule`` or not an integer.
        ValueError: not one boundary fewer than schedules, or boundaries that decrease.

    Example:
        >>> from gradstep import schedules
        >>> warm = schedules.linear(0.0, 0.1, total=10)
        >>> s = schedules.join([warm, schedules.cosine(0.1, total=90)], at=[10])
        >>> s(5), s(10), s(55), s(100)
        (0.05, 0.1, 0.05, 0.0)

    The same as optax's ``join_schedules`` and, without its mutable counters, PyTorch's
    ``SequentialLR``.
    """
    children = tuple(_sequence("schedules", schedules, "schedules"))
    for i, child in enumerate(children):
        if not isinstance(child, Schedule):
            raise TypeError(
                f"schedules[{i}]: got {child!r} ({type(child).__name__}), wanted a Schedule"
            )
    boundaries = _steps("at", at)
    if len(children) != len(boundaries) + 1:
        raise ValueError(
            f"at: got {len(boundaries)} boundaries for {len(children)} schedules, "
            "wanted one fewer than schedules"
        )
    return Schedule(
        "join", {"schedules": children, "at": boundaries}, list(children), list(boundaries)
    )


_MAKERS: dict[str, Callable[..., Schedule]] = {
    maker.__name__: maker
    for maker in (constant, linear, step, drop, exponential, polynomial, cosine, cyclic, join)
}
