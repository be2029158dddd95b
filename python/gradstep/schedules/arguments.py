"""What a schedule's arguments may be: each check returns the argument in its plain type, or raises.

An error names the argument, what it got and what it wanted: ``TypeError`` for what is not of the
kind, ``ValueError`` for what is out of range.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal, SupportsIndex, get_args

import numpy as np

from .. import _core, checks

End = Literal["exclusive", "inclusive"]
PastEnd = Literal["hold", "raise"]
Anneal = Literal["linear", "cosine"]

FOREVER: int = _core.step_limit - 1


def number(argument: str, x: object) -> float:
    value = checks.real(argument, x, got=checks.with_type)
    if not math.isfinite(value):
        raise ValueError(f"{argument}: got {x!r}, wanted a finite number")
    return value


def value(argument: str, x: object) -> float:
    found = number(argument, x)
    if abs(found) > 1e290:  # so that no product with a length overflows
        raise ValueError(f"{argument}: got {x!r}, wanted -1e290 to 1e290")
    return found


def factor(argument: str, x: object) -> float:
    found = number(argument, x)
    if found < 0:
        raise ValueError(f"{argument}: got {x!r}, wanted a number >= 0")
    return found


def updates(argument: str, x: object, least: int = 0) -> int:
    wanted = "an integer number of updates"
    count = checks.whole(argument, x, wanted=wanted, got=checks.with_type)
    if not least <= count <= FOREVER:
        raise ValueError(f"{argument}: got {count}, wanted {least} <= {argument} < 2**52")
    return count


def choice(argument: str, x: object, choices: Any) -> Any:
    names = get_args(choices)
    if not isinstance(x, str) or x not in names:
        raise ValueError(f"{argument}: got {x!r}, wanted {' or '.join(map(repr, names))}")
    return x


def sequence(argument: str, x: object, of: str) -> list[Any]:
    if isinstance(x, (str, bytes, Mapping)) or not hasattr(x, "__iter__"):
        raise TypeError(f"{argument}: got {x!r} ({type(x).__name__}), wanted a sequence of {of}")
    return list(x)


def steps(argument: str, x: object) -> tuple[int, ...]:
    steps = tuple(
        updates(f"{argument}[{i}]", t) for i, t in enumerate(sequence(argument, x, "steps"))
    )
    if any(a > b for a, b in pairwise(steps)):
        raise ValueError(f"{argument}: got {steps}, wanted steps that do not decrease")
    return steps


# What NumPy makes an array of, besides lists and whatever has a buffer.
_ARRAYS = ("__array__", "__array_interface__", "__dlpack__")
_WANTED = "wanted an integer or an array of integers"
_WHOLE = "numpy.asarray(t, dtype='int64') where all are whole"


def as_steps(t: Any) -> Any:
    """What a schedule is called with, where it is neither an int nor an array of NumPy's.

    Returns:
        An int, or an array of integers: of lists and ranges, and of the arrays, tensors and columns
        of other libraries, where every element is an integer.

    Raises:
        TypeError: it is none of these.
        ValueError: an element is out of range.
    """
    if isinstance(t, range):
        return np.array(t, dtype=None if len(t) else np.int64)
    nested = isinstance(t, list | tuple)
    buffer = isinstance(t, memoryview | array)
    if isinstance(t, np.generic) or not (
        nested or buffer or any(hasattr(t, name) for name in _ARRAYS)
    ):
        if isinstance(t, bool | np.generic) or not hasattr(t, "__index__"):
            raise TypeError(f"t: got {_name(t)} ({t!r}), {_WANTED}")
        return operator.index(t)
    try:
        found = np.asarray(t)
    except Exception as error:  # whatever the other library raises
        text = " ".join(str(error).split())
        raise TypeError(
            f"t: got {_name(t)} that NumPy cannot read ({text}), {_WANTED} in the memory of the "
            "CPU (numpy.asarray makes it)"
        ) from None
    if nested and not found.size:
        return found.astype(np.int64)
    if nested or found.dtype.kind == "O":
        found = _whole_numbers(t if nested else found, _name(t), found.shape)
    elif found.dtype.kind not in "iu":
        raise TypeError(
            f"t: got {_name(t)} of {getattr(t, 'dtype', found.dtype)}, {_WANTED} ({_WHOLE})"
        )
    return found if found.ndim else int(found)


def _name(x: object) -> str:
    kind = type(x)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _whole_numbers(nested: Any, name: str, shape: tuple[int, ...]) -> Any:
    """An array of the integers in a list of lists, or in an array of objects."""

    def leaves(x: Any) -> Iterator[Any]:
        if isinstance(x, list | tuple | range | np.ndarray):
            for item in x:
                yield from leaves(item)
        else:
            yield x

    items = list(leaves(nested))
    for item in items:
        if isinstance(item, bool) or not isinstance(item, Integral):
            raise TypeError(f"t: got {name} with {item!r} in it, {_WANTED} ({_WHOLE})")
        if not 0 <= item <= FOREVER:  # type: ignore[operator]
            raise ValueError(f"t: got {item}, wanted 0 <= t < 2**52")
    return np.array(items, dtype=np.int64).reshape(shape)


def positive(argument: str, x: object) -> float:
    found = value(argument, x)
    if found <= 0:
        raise ValueError(f"{argument}: got {x!r}, wanted a number > 0")
    return found


def fraction(argument: str, x: object) -> float:
    found = number(argument, x)
    if not 0 <= found <= 1:
        raise ValueError(f"{argument}: got {x!r}, wanted a number in [0, 1]")
    return found


def flag(argument: str, x: object) -> bool:
    if not isinstance(x, bool):
        raise TypeError(f"{argument}: got {x!r}, wanted True or False")
    return x


def values(argument: str, x: object) -> tuple[float, ...]:
    if isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype.kind in "fiu":
        x = x.tolist()
    return tuple(
        value(f"{argument}[{i}]", v) for i, v in enumerate(sequence(argument, x, "numbers"))
    )


def part(share: float, count: int) -> int:
    """``share`` times ``count`` updates, rounded up to whole ones.

    0.1 stands for a tenth, not for the binary fraction just above it.
    """
    return math.ceil(Fraction(repr(share)) * count)


def length(argument: str, given: object, epochs: object, steps_per_epoch: object) -> object:
    """A length in updates: ``given`` as such, as what ``argument`` was, or in epochs.

    Raises:
        TypeError, ValueError: it was given both ways, or the epochs' updates are missing, or make
            no number of updates.
    """
    if epochs is None:
        if steps_per_epoch is not None:
            raise ValueError(
                f"steps_per_epoch: got {steps_per_epoch!r} without epochs, wanted epochs, too, or "
                f"{argument} alone"
            )
        return given
    if given is not None:
        raise ValueError(
            f"epochs: got {epochs!r} together with {argument}={given!r}, wanted one of the two"
        )
    if steps_per_epoch is None:
        raise ValueError(
            f"steps_per_epoch: got None with epochs={epochs!r}, wanted the updates of one"
        )
    many = factor("epochs", epochs)
    count = part(many, updates("steps_per_epoch", steps_per_epoch, 1))
    return updates("epochs times steps_per_epoch", count)


def until(
    total: SupportsIndex, end: End, past_end: PastEnd, least: int = 0
) -> tuple[int, int | None, dict[str, Any]]:
    """The step of the end value, the last legal step if there is one, the arguments checked."""
    checked = {
        "total": updates("total", total, least),
        "end": choice("end", end, End),
        "past_end": choice("past_end", past_end, PastEnd),
    }
    length = max(0, checked["total"] - (end == "inclusive"))
    return length, length if past_end == "raise" else None, checked
