"""The schedule as a value: what all shapes and compositions of them share."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    ParamSpec,
    Protocol,
    SupportsFloat,
    SupportsIndex,
    TypeVar,
    overload,
)

from .. import _core
from . import arguments as check

if TYPE_CHECKING:
    from numbers import Real

Maker = TypeVar("Maker", bound=Callable[..., Any])
Arguments = ParamSpec("Arguments")

# What makes a schedule, by its name: Schedule.from_dict() calls it with the arguments.
MAKERS: dict[str, Callable[..., Schedule]] = {}

# Required arguments that repr() writes without their names.
_SPEAK_FOR_THEMSELVES = {
    "value", "end_value", "lower", "upper", "schedules", "values", "points", "factor"
}  # fmt: skip


def maker(function: Maker) -> Maker:
    """Enter a function that makes schedules under its own name."""
    MAKERS[function.__name__] = function
    return function


class Lasting(Protocol[Arguments]):
    """A function with a ``total``, which may be told in epochs instead."""

    @property
    def __name__(self) -> str: ...

    @overload
    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Schedule: ...
    @overload
    def __call__(
        self, *args: Any, epochs: SupportsFloat, steps_per_epoch: SupportsIndex, **kwargs: Any
    ) -> Schedule: ...


def lasting(function: Callable[Arguments, Schedule]) -> Lasting[Arguments]:
    """Let ``epochs`` and ``steps_per_epoch`` stand for the ``total`` of a function."""
    position = list(inspect.signature(function).parameters).index("total")

    @functools.wraps(function)
    def made(*args: Any, epochs: Any = None, steps_per_epoch: Any = None, **kwargs: Any) -> Any:
        if epochs is not None or steps_per_epoch is not None:
            given = args[position] if len(args) > position else kwargs.get("total")
            kwargs["total"] = check.length("total", given, epochs, steps_per_epoch)
        return function(*args, **kwargs)

    return made


class Schedule(_core.Schedule):
    """A pure function from the step to a value, made by the functions of this package.

    ``s(t)`` gives a ``float`` for an integer and, for an array of integers, a ``float64`` array of
    the same shape, or fills the one given as ``out``. Steps may also be a list or a range, or an
    array of another library's that NumPy can read. ``s.range(start, stop)`` gives the values of
    consecutive steps. A schedule is a value: immutable, hashable, equal to another that was made
    from the same arguments, and it can be pickled. ``repr(s)`` is the expression that makes it,
    after ``from gradstep import schedules``.

    ``a + b``, ``a * b``, with schedules or numbers, and the methods below make schedules of
    schedules; all of it is evaluated in compiled code.

    Raises:
        TypeError: ``t`` is neither an integer nor an array of integers; booleans are not. ``out``
            is not a float64 array.
        ValueError: ``t`` is negative, 2⁵² or more, or past an end with ``past_end="raise"``;
            nothing is written then. ``out`` has another shape than ``t``, cannot be written in
            place, or shares memory with it.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.step(1.0, step_size=10, gamma=0.5)
        >>> s(9), s(10)
        (1.0, 0.5)
        >>> s.range(8, 12)
        array([1. , 1. , 0.5, 0.5])
        >>> s == schedules.step(1.0, step_size=10, gamma=0.5)
        True
        >>> 2 * s + 0.1
        (schedules.step(1.0, step_size=10, gamma=0.5).scale(2.0) + schedules.constant(0.1))
    """

    __slots__ = ("_arguments", "_name")
    _steps = staticmethod(check.as_steps)  # the compiled call asks it
    _name: str
    _arguments: dict[str, Any]

    def __init__(self, name: str, arguments: dict[str, Any], *compiled: Any) -> None:
        super().__init__(*compiled)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_arguments", arguments)

    # ---- a value ----

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
        arguments = {k: _made(v) for k, v in fields.items()}
        name = arguments.pop("schedule")
        if not isinstance(name, str) or name not in MAKERS:
            raise ValueError(f"schedule: got {name!r}, wanted one of {', '.join(MAKERS)}")
        of = [arguments.pop("of")] if "of" in arguments else []
        if hasattr(Schedule, name) and not (of and isinstance(of[0], Schedule)):
            got = f"{of[0]!r} ({type(of[0]).__name__})" if of else "nothing"
            raise TypeError(f"of: got {got}, wanted the schedule that {name} is of")
        return MAKERS[name](*of, **arguments)

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON. Numbers come back to the bit.

        Example:
            >>> from gradstep import schedules
            >>> schedules.constant(0.5).to_json()
            '{"schedule": "constant", "value": 0.5}'
        """
        return json.dumps(self.to_dict())

    @staticmethod
    def from_json(text: str) -> Schedule:
        """The schedule that :meth:`to_json` described; raises as :meth:`from_dict` does.

        Example:
            >>> from gradstep import schedules
            >>> schedules.Schedule.from_json('{"schedule": "constant", "value": 0.5}')
            schedules.constant(0.5)
        """
        return Schedule.from_dict(json.loads(text))

    def __repr__(self) -> str:
        operator = {"add": "+", "multiply": "*"}.get(self._name)
        if operator:
            a, b = self._arguments["schedules"]
            return f"({a!r} {operator} {b!r})"
        words = []
        for name, parameter in inspect.signature(MAKERS[self._name]).parameters.items():
            if name not in self._arguments:  # another way to tell one that is there
                continue
            value = self._arguments[name]
            if name in _SPEAK_FOR_THEMSELVES and parameter.default is parameter.empty:
                words.append(repr(value))
            elif value != parameter.default:
                words.append(f"{name}={value!r}")
        of = self._arguments.get("of", "schedules")
        return f"{of}.{self._name}({', '.join(words)})"

    def _repr_html_(self) -> str | None:
        from . import drawing  # noqa: PLC0415 - for notebooks alone

        return drawing.html(self)

    def _repr_svg_(self) -> str | None:
        from . import drawing  # noqa: PLC0415

        return drawing.svg(self)

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

    # ---- algebra ----

    def __add__(self, other: Schedule | Real | float) -> Schedule:
        return _added(self, other)  # type: ignore[no-any-return]

    def __radd__(self, other: Real | float) -> Schedule:
        return _added(other, self)  # type: ignore[no-any-return]

    def __mul__(self, other: Schedule | Real | float) -> Schedule:
        if not isinstance(other, Schedule):
            return self.scale(other) if _is_number(other) else NotImplemented
        return _both("multiply", self, other)

    def __rmul__(self, other: Real | float) -> Schedule:
        return self.scale(other) if _is_number(other) else NotImplemented

    def scale(self, factor: Real | SupportsFloat) -> Schedule:
        """``factor`` times the value; ``s * factor`` and ``factor * s`` are the same.

        Raises:
            TypeError, ValueError: ``factor`` is not a finite number.

        Example:
            >>> from gradstep import schedules
            >>> schedules.constant(0.5).scale(3)(0)
            1.5
        """
        factor = check.value("factor", factor)
        return composed("scale", {"of": self, "factor": factor}, [self], [factor])

    def clamp(
        self, lower: SupportsFloat | None = None, upper: SupportsFloat | None = None
    ) -> Schedule:
        """The value, but no lower than ``lower`` and no higher than ``upper``.

        Raises:
            TypeError, ValueError: a bound is not a finite number; both are missing;
                ``lower > upper``.

        Example:
            >>> from gradstep import schedules
            >>> s = schedules.linear(1.0, 0.0, total=10).clamp(lower=0.25)
            >>> s(5), s(9)
            (0.5, 0.25)
        """
        bounds = {
            name: None if bound is None else check.value(name, bound)
            for name, bound in (("lower", lower), ("upper", upper))
        }
        low, high = bounds["lower"], bounds["upper"]
        if low is None and high is None:
            raise ValueError("lower: got None, as upper, wanted at least one bound")
        if low is not None and high is not None and low > high:
            raise ValueError(f"lower: got {low!r}, wanted at most upper={high!r}")
        infinity = float("inf")
        numbers = [-infinity if low is None else low, infinity if high is None else high]
        return composed("clamp", {"of": self, **bounds}, [self], numbers)

    def shift(self, by: SupportsIndex) -> Schedule:
        """The value of ``by`` updates ago, ``s(max(0, t - by))``; for ``by < 0``, of those to come.

        Raises:
            TypeError, ValueError: ``by`` is not an integer, or is 2⁵² or more either way.

        Example:
            >>> from gradstep import schedules
            >>> s = schedules.linear(0.0, 1.0, total=4)
            >>> s.shift(2).range(6).tolist()
            [0.0, 0.0, 0.0, 0.25, 0.5, 0.75]
            >>> s.shift(-1)(0)
            0.25
        """
        steps = check.updates("by", by, -check.FOREVER)
        return composed("shift", {"of": self, "by": steps}, [self], [steps])

    def repeat(self, every: SupportsIndex) -> Schedule:
        """The first ``every`` updates again and again: ``s(t mod every)``.

        Raises:
            TypeError, ValueError: ``every`` is not an integer of at least 1.

        Example:
            >>> from gradstep import schedules
            >>> schedules.linear(1.0, 0.0, total=2).repeat(2).range(5).tolist()
            [1.0, 0.5, 1.0, 0.5, 1.0]
        """
        every = check.updates("every", every, 1)
        return composed("repeat", {"of": self, "every": every}, [self], [every])

    def stairs(self, every: SupportsIndex) -> Schedule:
        """A schedule of epochs, in updates: ``s(⌊t/every⌋)``.

        Raises:
            TypeError, ValueError: ``every`` is not an integer of at least 1.

        Example:
            >>> from gradstep import schedules
            >>> schedules.linear(1.0, 0.0, total=2).stairs(2).range(5).tolist()
            [1.0, 1.0, 0.5, 0.5, 0.0]
        """
        every = check.updates("every", every, 1)
        return composed("stairs", {"of": self, "every": every}, [self], [every])

    def branch(self, t: SupportsIndex, tail: Schedule | Callable[[float], Schedule]) -> Schedule:
        """This schedule before step ``t``, then ``tail`` from its own beginning: cool down here.

        Args:
            t: the step from which ``tail`` holds.
            tail: a schedule, or a function that makes it from the value that this one has at
                ``t``. The result is :func:`join` of the two either way.

        Raises:
            TypeError, ValueError: ``t`` is not a step, or ``tail`` not, or does not give, a
                schedule.

        Example:
            >>> from gradstep import schedules
            >>> s = schedules.constant(0.1)
            >>> s = s.branch(80, lambda value: schedules.linear(value, 0.0, total=20))
            >>> s(79), s(80), s(90), s(100)
            (0.1, 0.1, 0.05, 0.0)
        """
        step = check.updates("t", t)
        if not isinstance(tail, Schedule) and callable(tail):
            tail = tail(self(step))
        if not isinstance(tail, Schedule):
            raise TypeError(
                f"tail: got {tail!r} ({type(tail).__name__}), wanted a Schedule or a function that "
                "makes one from the value there"
            )
        return join([self, tail], at=[step])

    def warmup(
        self,
        updates: SupportsIndex | None = None,
        start_value: SupportsFloat = 0.0,
        *,
        one_based: bool = False,
        ratio: SupportsFloat | None = None,
        epochs: SupportsFloat | None = None,
        steps_per_epoch: SupportsIndex | None = None,
    ) -> Schedule:
        """A straight line to this schedule's first value, then this schedule.

        ``i + (η - i)·t/w`` for ``t < w``, with ``i`` the start value, ``η`` the schedule's value at
        0 and ``w`` the updates, or ``i + (η - i)·(t + 1)/w``. Where the schedule has a ``total``,
        the warm-up counts inside it: the schedule is made anew with ``total - w`` and begins at
        ``w``. Any other, a sum or a product too, just begins at ``w``.

        Args:
            updates: how long.
            start_value: the value at ``t = 0``, one before it if ``one_based``. At 0, the first
                update does nothing.
            one_based: count ``t + 1``: the first update already moves, the last one of the warm-up
                has the full value.
            ratio: how long, instead of ``updates``: of the schedule's ``total``, 0 to 1, rounded up
                to whole updates.
            epochs, steps_per_epoch: how long, instead of ``updates``: their product, rounded up.

        Raises:
            TypeError, ValueError: an argument is of the wrong type or not finite, the length is
                told twice or not at all, the warm-up is longer than the schedule's total, or a
                ratio of a schedule that has none.

        Example:
            >>> from gradstep import schedules
            >>> s = schedules.cosine(1.0, total=8).warmup(4)
            >>> s.range(9).round(2).tolist()
            [0.0, 0.25, 0.5, 0.75, 1.0, 0.85, 0.5, 0.15, 0.0]
            >>> schedules.constant(1.0).warmup(4, one_based=True).range(5).tolist()
            [0.25, 0.5, 0.75, 1.0, 1.0]
            >>> schedules.cosine(1.0, total=8).warmup(ratio=0.5) == s
            True

        Source: Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.2.

        Where others differ: PyTorch's ``LinearLR`` starts from a third; Hugging Face and optax from
        0 by ``t/w``; fairseq and many scripts by ``(t + 1)/w``. Hugging Face and optax's
        ``warmup_cosine_decay_schedule`` count the warm-up inside the total, Keras' ``CosineDecay``
        adds it.
        """
        length = self._warmup_length(updates, ratio, epochs, steps_per_epoch)
        start = check.value("start_value", start_value)
        check.flag("one_based", one_based)
        after = self
        if "total" in self._arguments:
            total = self._arguments["total"]
            if length > total:
                argument = "updates" if epochs is None else "epochs times steps_per_epoch"
                raise ValueError(
                    f"{argument}: got {length}, wanted at most the schedule's total of {total}"
                )
            after = MAKERS[self._name](**{**self._arguments, "total": total - length})
        rise = _core.Schedule("linear", [start, self(0), length])
        if one_based:
            rise = _core.Schedule("shift", [rise], [-1])
        arguments = {
            "of": self,
            "updates": length,
            "start_value": start,
            "one_based": one_based,
        }
        return composed("warmup", arguments, [rise, after], [length], operation="join")

    def _warmup_length(
        self, updates: object, ratio: object, epochs: object, steps_per_epoch: object
    ) -> int:
        """How many updates a warm-up takes, whichever way that is told."""
        if ratio is None:
            return check.updates(
                "updates", check.length("updates", updates, epochs, steps_per_epoch)
            )
        for name, other in (("updates", updates), ("epochs", epochs)):
            if other is not None:
                raise ValueError(
                    f"ratio: got {ratio!r} together with {name}={other!r}, wanted one of the two"
                )
        check.length("ratio", None, None, steps_per_epoch)
        share = check.fraction("ratio", ratio)
        if "total" not in self._arguments:
            raise ValueError(f"ratio: got {ratio!r}, but {self!r} has no total, wanted updates")
        return check.part(share, self._arguments["total"])


for _method in ("scale", "clamp", "shift", "repeat", "stairs", "warmup"):
    MAKERS[_method] = getattr(Schedule, _method)


def _is_number(x: object) -> bool:
    return hasattr(x, "__float__") and not hasattr(x, "__len__")


def _plain(value: Any) -> Any:
    """``value`` in types that JSON has."""
    if isinstance(value, Schedule):
        return value.to_dict()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _made(value: Any) -> Any:
    """``value`` with the schedules made that it describes."""
    if isinstance(value, Mapping):
        return Schedule.from_dict(value)
    if isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        return [_made(v) for v in value]
    return value


# ---- making one ----


def composed(
    name: str,
    arguments: dict[str, Any],
    children: Sequence[_core.Schedule],
    numbers: Sequence[float],
    operation: str = "",
) -> Schedule:
    return Schedule(name, arguments, operation or name, list(children), list(numbers))


def formed(
    name: str,
    arguments: dict[str, Any],
    form: str,
    numbers: Sequence[float],
    last: int | None = None,
) -> Schedule:
    """A closed form of the catalogue, which ends at the step ``last`` if there is one."""
    if last is None:
        return Schedule(name, arguments, form, list(numbers))
    return composed(
        name, arguments, [_core.Schedule(form, list(numbers))], [last], operation="until"
    )


def _both(name: str, a: Schedule, b: Schedule) -> Schedule:
    return composed(name, {"schedules": (a, b)}, [a, b], [])


def _added(a: Any, b: Any) -> Any:
    if not all(isinstance(term, Schedule) or _is_number(term) for term in (a, b)):
        return NotImplemented
    a, b = (t if isinstance(t, Schedule) else MAKERS["constant"](t) for t in (a, b))
    return _both("add", a, b)


def _pair(name: str, schedules: Sequence[Schedule]) -> Schedule:
    both = _schedules(schedules)
    if len(both) != 2:
        raise ValueError(f"schedules: got {len(both)}, wanted the two that are combined")
    return _both(name, *both)


def _schedules(schedules: Sequence[Schedule]) -> tuple[Schedule, ...]:
    children = tuple(check.sequence("schedules", schedules, "schedules"))
    for i, child in enumerate(children):
        if not isinstance(child, Schedule):
            raise TypeError(
                f"schedules[{i}]: got {child!r} ({type(child).__name__}), wanted a Schedule"
            )
    return children


MAKERS["add"] = lambda schedules: _pair("add", schedules)
MAKERS["multiply"] = lambda schedules: _pair("multiply", schedules)


@maker
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
    children = _schedules(schedules)
    boundaries = check.steps("at", at)
    if len(children) != len(boundaries) + 1:
        raise ValueError(
            f"at: got {len(boundaries)} boundaries for {len(children)} schedules, "
            "wanted one fewer than schedules"
        )
    return composed("join", {"schedules": children, "at": boundaries}, children, boundaries)
