"""optax's schedules by their own names. Formulas: optax 0.2.8, ``optax/schedules/_schedule.py``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, SupportsFloat

from .. import families as own
from ..arguments import Anneal
from ..base import Schedule, join


def constant_schedule(value: SupportsFloat) -> Schedule:
    """The same value at every step."""
    return own.constant(value)


def polynomial_schedule(
    init_value: SupportsFloat,
    end_value: SupportsFloat,
    power: SupportsFloat,
    transition_steps: int,
    transition_begin: int = 0,
) -> Schedule:
    """``(I - E)·(1 - (t - B)/T)^p + E``; constant at ``init_value`` without steps or a power."""
    if transition_steps <= 0 or power == 0:
        return own.constant(init_value)
    decay = own.polynomial(init_value, transition_steps, power, end_value=end_value)
    return decay.shift(transition_begin) if transition_begin > 0 else decay


def linear_schedule(
    init_value: SupportsFloat,
    end_value: SupportsFloat,
    transition_steps: int,
    transition_begin: int = 0,
) -> Schedule:
    """:func:`polynomial_schedule` of power 1."""
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


def piecewise_constant_schedule(
    init_value: SupportsFloat, boundaries_and_scales: Mapping[int, float] | None = None
) -> Schedule:
    """``init_value`` times the scale of each boundary ``<= t``."""
    steps, values = _scaled(init_value, boundaries_and_scales)
    return own.drop(init_value, steps, values=values[1:])


def piecewise_interpolate_schedule(
    interpolate_type: Anneal,
    init_value: SupportsFloat,
    boundaries_and_scales: Mapping[int, float] | None = None,
) -> Schedule:
    """From each boundary's product of scales to the next one's, by a line or half a cosine."""
    steps, values = _scaled(init_value, boundaries_and_scales)
    return own.interpolate(list(zip([0, *steps], values, strict=True)), interpolate_type)


def _scaled(
    init_value: SupportsFloat, boundaries_and_scales: Mapping[int, float] | None
) -> tuple[list[int], list[float]]:
    pairs = sorted((boundaries_and_scales or {}).items())
    for boundary, scale in pairs:
        if scale < 0:
            raise ValueError(
                f"boundaries_and_scales[{boundary}]: got {scale!r}, wanted a number >= 0"
            )
    scales = [float(scale) for _, scale in pairs]
    return [b for b, _ in pairs], list(
        accumulate(scales, lambda a, b: a * b, initial=float(init_value))
    )


def exponential_decay(
    init_value: SupportsFloat,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: SupportsFloat | None = None,
) -> Schedule:
    """``I·r^((t - B)/T)``, bounded by ``end_value``; constant without steps or at rate 0."""
    if transition_steps <= 0 or decay_rate == 0:
        return own.constant(init_value)
    begin = max(0, transition_begin)
    decay = own.exponential(
        init_value, decay_rate, transition_steps, begin=begin, staircase=staircase
    )
    if end_value is None:
        return decay
    return decay.clamp(lower=end_value) if decay_rate < 1 else decay.clamp(upper=end_value)


def cosine_decay_schedule(
    init_value: SupportsFloat,
    decay_steps: int,
    alpha: SupportsFloat = 0.0,
    exponent: SupportsFloat = 1.0,
) -> Schedule:
    """``I·((1 - α)·(½(1 + cos πt/T))^exponent + α)``: the floor is a part of the value."""
    if decay_steps <= 0:
        raise ValueError(f"decay_steps: got {decay_steps!r}, wanted an integer > 0")
    floor = float(init_value) * float(alpha)
    return own.cosine(init_value, decay_steps, end_value=floor, power=exponent)


def _onecycle(
    anneal: Anneal, steps: int, peak: float, factors: Sequence[tuple[int, float]]
) -> Schedule:
    if steps <= 0:
        raise ValueError(f"transition_steps: got {steps!r}, wanted an integer > 0")
    return piecewise_interpolate_schedule(anneal, peak, dict(factors))


def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Up to the peak, down to where it began, and on to nearly nothing, by lines."""
    n = transition_steps
    factors = [
        (int(pct_start * n), div_factor),
        (int(pct_final * n), 1.0 / div_factor),
        (n, 1.0 / final_div_factor),
    ]
    return _onecycle("linear", n, peak_value / div_factor, factors)


def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Up to the peak and down to nearly nothing, by half cosines."""
    n = transition_steps
    factors = [(int(pct_start * n), div_factor), (n, 1.0 / (div_factor * final_div_factor))]
    return _onecycle("cosine", n, peak_value / div_factor, factors)


def warmup_constant_schedule(
    init_value: SupportsFloat, peak_value: SupportsFloat, warmup_steps: int
) -> Schedule:
    """A line, then its end."""
    return linear_schedule(init_value, peak_value, warmup_steps)


def warmup_cosine_decay_schedule(
    init_value: SupportsFloat,
    peak_value: SupportsFloat,
    warmup_steps: int,
    decay_steps: int,
    end_value: SupportsFloat = 0.0,
    exponent: SupportsFloat = 1.0,
) -> Schedule:
    """A line, then a cosine; ``decay_steps`` counts both. ``end_value`` is absolute."""
    floor = end_value if float(peak_value) else 0.0
    if decay_steps <= warmup_steps:
        raise ValueError(
            f"decay_steps: got {decay_steps!r}, wanted more than warmup_steps={warmup_steps!r}"
        )
    decay = own.cosine(peak_value, decay_steps - warmup_steps, end_value=floor, power=exponent)
    return join([linear_schedule(init_value, peak_value, warmup_steps), decay], at=[warmup_steps])


def warmup_exponential_decay_schedule(
    init_value: SupportsFloat,
    peak_value: SupportsFloat,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: SupportsFloat | None = None,
) -> Schedule:
    """A line, then :func:`exponential_decay`."""
    decay = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return join([linear_schedule(init_value, peak_value, warmup_steps), decay], at=[warmup_steps])


def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """One :func:`warmup_cosine_decay_schedule` after another."""
    cycles = list(cosine_kwargs)
    ends = list(accumulate(int(cycle["decay_steps"]) for cycle in cycles))
    return join([warmup_cosine_decay_schedule(**cycle) for cycle in cycles], at=ends[:-1])


def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """:func:`gradstep.schedules.join`."""
    return join(schedules, boundaries)
