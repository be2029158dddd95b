"""What a schedule's arguments may be: each check returns the argument in its plain type, or raises.

An error names the argument, what it got and what it wanted: ``TypeError`` for what is not of the
kind, ``ValueError`` for what is out of range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
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
