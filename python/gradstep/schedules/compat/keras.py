"""Keras' schedules by their own names. Formulas: Keras 3.15, ``learning_rate_schedule.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsFloat

from .. import families as own
from ..arguments import FOREVER
from ..base import Schedule, join


def _check_length(argument: str, steps: int) -> None:
    if steps <= 0:
        raise ValueError(f"{argument}: got {steps!r}, wanted an integer > 0")


def ExponentialDecay(
    initial_learning_rate: SupportsFloat,
    decay_steps: int,
    decay_rate: SupportsFloat,
    staircase: bool = False,
) -> Schedule:
    """``η·r^(t/s)``."""
    return own.exponential(initial_learning_rate, decay_rate, decay_steps, staircase=staircase)


def PiecewiseConstantDecay(boundaries: Sequence[int], values: Sequence[SupportsFloat]) -> Schedule:
    """The i-th value up to and including boundary i: Keras drops at ``t > m``."""
    if len(boundaries) != len(values) - 1:
        raise ValueError(
            f"values: got {len(values)}, wanted {len(boundaries) + 1}, one more than boundaries"
        )
    return own.drop(values[0], [b + 1 for b in boundaries], values=values[1:])


def PolynomialDecay(
    initial_learning_rate: SupportsFloat,
    decay_steps: int,
    end_learning_rate: SupportsFloat = 0.0001,
    power: SupportsFloat = 1.0,
    cycle: bool = False,
) -> Schedule:
    """``(η - e)·(1 - t/T)^p + e``; the rate stays at a power of 0."""
    _check_length("decay_steps", decay_steps)
    if power == 0:
        return own.constant(initial_learning_rate)
    return own.polynomial(
        initial_learning_rate, decay_steps, power, end_value=end_learning_rate, cycle=cycle
    )


def InverseTimeDecay(
    initial_learning_rate: SupportsFloat,
    decay_steps: int,
    decay_rate: SupportsFloat,
    staircase: bool = False,
) -> Schedule:
    """``η/(1 + r·t/s)``."""
    return own.inverse_time(initial_learning_rate, decay_rate, decay_steps, staircase=staircase)


def CosineDecay(
    initial_learning_rate: SupportsFloat,
    decay_steps: int,
    alpha: SupportsFloat = 0.0,
    warmup_target: SupportsFloat | None = None,
    warmup_steps: int = 0,
) -> Schedule:
    """A cosine to a part α of its peak; a warm-up before it is added to ``decay_steps``."""
    _check_length("decay_steps", decay_steps)
    peak = initial_learning_rate if warmup_target is None else warmup_target
    decay = own.cosine(peak, decay_steps, end_value=float(alpha) * float(peak))
    if warmup_target is None:
        return decay
    rise = own.linear(initial_learning_rate, warmup_target, warmup_steps)
    return join([rise, decay], at=[warmup_steps])


def CosineDecayRestarts(
    initial_learning_rate: SupportsFloat,
    first_decay_steps: int,
    t_mul: float = 2.0,
    m_mul: float = 1.0,
    alpha: float = 0.0,
) -> Schedule:
    """Cosines that grow by ``t_mul`` and whose height above the floor shrinks by ``m_mul``.

    Cycles begin at the real sums of their lengths, between updates if ``t_mul`` is not an integer.
    """
    _check_length("first_decay_steps", first_decay_steps)
    rate, floor = float(initial_learning_rate), float(initial_learning_rate) * float(alpha)
    if t_mul == 1:
        # η·((1 - α)·m^i·cos² + α)
        height = own.cosine_restarts(rate - floor, first_decay_steps, gamma=m_mul)
        return height + floor if floor else height
    if t_mul < 1:
        raise ValueError(f"t_mul: got {t_mul!r}, wanted a number >= 1")
    begin, length, height_ = 0.0, float(first_decay_steps), rate - floor
    points: list[tuple[float, float]] = []
    while begin <= FOREVER and len(points) < 2 * own.MOST_CYCLES:
        points.append((begin, height_ + floor))
        begin = min(begin + length, FOREVER + 1.0)
        points.append((min(begin, float(FOREVER)), floor))
        length *= t_mul
        height_ *= m_mul
    return own.interpolate(points, "cosine")
