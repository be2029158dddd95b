"""What an argument that is a number must be, in words: each check returns it in its plain type.

Raises:
    TypeError: what was given is no number, or no whole one.
    ValueError: it is out of range.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any


def with_type(x: object) -> str:
    """What was given, as an error shows it: the value and its type."""
    return f"{x!r} ({type(x).__name__})"


def type_name(x: object) -> str:
    """The same, where a value may be long: its type alone."""
    return type(x).__name__


def real(
    argument: str,
    x: Any,
    wanted: str = "a number",
    *,
    got: Callable[[object], str] = repr,
    kinds: Any = Real,
) -> float:
    """A number of any type as a float: infinite where it is too large for one.

    Args:
        argument: what to call it in an error.
        x: what was given; True and False are no numbers.
        wanted: what the error says was wanted.
        got: how the error shows what was given.
        kinds: what counts as a number.
    """
    if isinstance(x, bool) or not isinstance(x, kinds):
        raise TypeError(f"{argument}: got {got(x)}, wanted {wanted}")
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def whole(
    argument: str,
    x: Any,
    least: int | None = None,
    wanted: str = "a whole number",
    *,
    got: Callable[[object], str] = repr,
) -> int:
    """A whole number of any type as an int.

    Args:
        argument: what to call it in an error.
        x: what was given; True and False are no numbers.
        least: the least that is allowed, if any.
        wanted: what the error says was wanted where it is none.
        got: how that error shows what was given.
    """
    try:
        if isinstance(x, bool):
            raise TypeError
        value = operator.index(x)
    except TypeError:
        raise TypeError(f"{argument}: got {got(x)}, wanted {wanted}") from None
    if least is not None and value < least:
        raise ValueError(f"{argument}: got {value}, wanted at least {least}")
    return value
