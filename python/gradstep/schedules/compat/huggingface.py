"""Hugging Face's schedules by their own names, with the rate instead of the optimizer first.

Formulas: transformers 4.57 to 5.24, ``optimization.py``, at their edges too: a warm-up that is as
long as the run or longer, none, runs of no updates, no cycles. What divides by zero there raises a
ValueError here. Lengths may be whole numbers of any type, such as 100.0.
"""

from __future__ import annotations

import math
from typing import Any, Literal, SupportsFloat

from ... import checks
from .. import families as own
from ..arguments import FOREVER
from ..base import Schedule, join

Ramp = Literal["linear", "cosine", "1-sqrt"]


def _length(argument: str, x: Any) -> int:
    """A length in updates; below 0 it is legal there, and means none."""
    whole = int(x) if isinstance(x, float) and x.is_integer() else x
    count = checks.whole(argument, whole, wanted="a whole number of updates", got=checks.with_type)
    if abs(count) > FOREVER:
        raise ValueError(f"{argument}: got {count}, wanted less than 2**52")
    return count


def _lengths(num_warmup_steps: Any, num_training_steps: Any) -> tuple[int, int]:
    return (
        _length("num_warmup_steps", num_warmup_steps),
        _length("num_training_steps", num_training_steps),
    )


def _rise(lr: SupportsFloat, warmup: int) -> Schedule:
    """A line from 0, or the rate at once."""
    return own.linear(0.0, lr, max(0, warmup))


def _after(warmup: int, rise: Schedule, decay: Schedule) -> Schedule:
    """``decay`` from its own beginning, after the warm-up; on its way if that ended before 0."""
    if warmup < 0:
        return decay.shift(warmup)
    return join([rise, decay], at=[warmup])


def _refused() -> Schedule:
    """What has a value at no step."""
    return own.linear(0.0, 0.0, 0, past_end="raise").shift(-1)


def get_constant_schedule(lr: SupportsFloat) -> Schedule:
    """The same rate at every step."""
    return own.constant(lr)


def get_constant_schedule_with_warmup(lr: SupportsFloat, num_warmup_steps: int) -> Schedule:
    """A line from 0, then the rate."""
    return _rise(lr, _length("num_warmup_steps", num_warmup_steps))


def get_linear_schedule_with_warmup(
    lr: SupportsFloat, num_warmup_steps: int, num_training_steps: int
) -> Schedule:
    """A line up from 0, a line down to 0; only part of the way up where the run ends before."""
    warmup, total = _lengths(num_warmup_steps, num_training_steps)
    if 0 <= warmup < total:
        return own.linear(lr, 0.0, total).warmup(warmup)
    fall = own.linear(lr, 0.0, total - warmup) if warmup < total else own.constant(0.0)
    return _after(warmup, _rise(lr, warmup), fall)


def get_cosine_schedule_with_warmup(
    lr: SupportsFloat, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5
) -> Schedule:
    """A line from 0, then ``num_cycles`` waves of a cosine, which go on after the last step."""
    return get_cosine_with_min_lr_schedule_with_warmup(
        lr, num_warmup_steps, num_training_steps, num_cycles, min_lr_rate=0.0
    )


def get_cosine_with_hard_restarts_schedule_with_warmup(
    lr: SupportsFloat, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 1
) -> Schedule:
    """A line from 0, then ``num_cycles`` half cosines, each from the full rate, then 0.

    The last of them is cut short where ``num_cycles`` is not whole; without any the rate stays
    until the end.
    """
    warmup, total = _lengths(num_warmup_steps, num_training_steps)
    cycles = checks.real("num_cycles", num_cycles)
    if not 0 <= cycles <= own.MOST_CYCLES:
        raise ValueError(f"num_cycles: got {num_cycles!r}, wanted 0 to {own.MOST_CYCLES}")
    length = max(1, total - warmup)
    points: list[tuple[float, SupportsFloat]] = []
    for i in range(math.ceil(cycles)):
        points += [(length * i / cycles, lr), (length * (i + 1) / cycles, 0.0)]
    if cycles == int(cycles) > 0:
        return _after(warmup, _rise(lr, warmup), own.interpolate(points, "cosine"))
    waves = own.interpolate(points, "cosine") if points else own.constant(lr)
    cut = join([waves, own.constant(0.0)], at=[length])
    return _after(warmup, _rise(lr, warmup), cut)


def get_polynomial_decay_schedule_with_warmup(
    lr: SupportsFloat,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: SupportsFloat = 1e-7,
    power: SupportsFloat = 1.0,
) -> Schedule:
    """A line from 0, then ``(1 - x)^power`` to ``lr_end``, the same whatever the default rate.

    With a warm-up as long as the run, the step after the last is refused, where the original
    divides by zero.
    """
    warmup, total = _lengths(num_warmup_steps, num_training_steps)
    if not float(lr) > float(lr_end):
        raise ValueError(f"lr_end: got {lr_end!r}, wanted less than the rate, {lr!r}")
    if total < 0 or total < warmup:
        return _after(max(0, warmup), _rise(lr, warmup), own.constant(lr_end))
    if total == warmup:
        if total == 0:
            raise ValueError(
                "num_training_steps: got 0, as num_warmup_steps, wanted more: the original divides "
                "by zero"
            )
        parts = [_rise(lr, warmup), _refused(), own.constant(lr_end)]
        return join(parts, at=[warmup, warmup + 1])
    if power == 0:
        return _after(
            warmup, _rise(lr, warmup), own.drop(lr, [total - warmup + 1], values=[lr_end])
        )
    if warmup < 0:
        return own.polynomial(lr, total - warmup, power, end_value=lr_end).shift(warmup)
    return own.polynomial(lr, total, power, end_value=lr_end).warmup(warmup)


def get_inverse_sqrt_schedule(
    lr: SupportsFloat, num_warmup_steps: int, timescale: int | None = None
) -> Schedule:
    """A line from 0, then ``√(τ/(t - w + τ))``; τ is the warm-up, or 10000 without one.

    With ``timescale=0`` only the warm-up has values: after it the original divides by zero.
    """
    warmup = _length("num_warmup_steps", num_warmup_steps)
    scale = (warmup or 10_000) if timescale is None else timescale
    if scale == 0 and warmup > 0:
        return join([_rise(lr, warmup), _refused()], at=[warmup])
    if warmup < 0:
        return own.inverse_sqrt(lr, scale).shift(warmup)
    return own.inverse_sqrt(lr, scale, warmup=warmup)


def _waves(lr: SupportsFloat, floor: float, length: int, num_cycles: float) -> Schedule:
    """``½(1 + cos(2π·cycles·t/length))`` of the rate above the floor, without an end."""
    cycles = abs(checks.real("num_cycles", num_cycles))
    if cycles == 0:
        return own.constant(lr)
    waves = own.cosine_wave(lr, max(1, length) / (2 * cycles), end_value=floor)
    return _not_below_zero(floor, waves)


def _not_below_zero(floor: float, schedule: Schedule) -> Schedule:
    """As the originals, which cut what is negative, where the least rate is."""
    return schedule.clamp(lower=0.0) if floor < 0 else schedule


def _floor(lr: SupportsFloat, min_lr: float | None, min_lr_rate: float | None) -> float:
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError(f"min_lr: got {min_lr!r} and min_lr_rate={min_lr_rate!r}, wanted one")
    return float(lr) * min_lr_rate if min_lr is None else min_lr  # type: ignore[operator]


def get_cosine_with_min_lr_schedule_with_warmup(
    lr: SupportsFloat,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Schedule:
    """A line from 0, then waves between the rate and its least, which go on after the last step."""
    warmup, total = _lengths(num_warmup_steps, num_training_steps)
    waves = _waves(lr, _floor(lr, min_lr, min_lr_rate), total - warmup, num_cycles)
    return _after(warmup, _rise(lr, warmup), waves)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    lr: SupportsFloat,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Schedule:
    """The same a step earlier, after ``(t + 1)/w`` or a line from a part of the rate."""
    warmup, total = _lengths(num_warmup_steps, num_training_steps)
    waves = _waves(lr, _floor(lr, min_lr, min_lr_rate), total - warmup, num_cycles).shift(-1)
    if warmup_lr_rate is None:
        rise = _rise(lr, warmup).shift(-1)
    else:
        rise = own.linear(float(lr) * warmup_lr_rate, lr, max(1, warmup - 1))
    return _after(warmup, rise, waves)


def get_wsd_schedule(
    lr: SupportsFloat,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: Ramp = "linear",
    decay_type: Ramp = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
) -> Schedule:
    """Up from the least rate, the rate, down to the least rate.

    Where warm-up and decay are longer than the run, the decay is on its way when the warm-up ends.
    """
    rise, fall = (
        _length("num_warmup_steps", num_warmup_steps),
        _length("num_decay_steps", num_decay_steps),
    )
    if num_stable_steps is not None:
        stable = _length("num_stable_steps", num_stable_steps)
    elif num_training_steps is not None:
        stable = _length("num_training_steps", num_training_steps) - rise - fall
    else:
        raise ValueError("num_training_steps: got None, as num_stable_steps, wanted one")
    low, up, down = float(lr) * min_lr_ratio, max(0, rise), max(0, fall)
    ups = {
        "linear": lambda: own.linear(low, lr, up),
        "cosine": lambda: own.cosine(low, up, end_value=lr),
        "1-sqrt": lambda: own.polynomial(low, up, 0.5, end_value=lr),
    }
    downs = {
        "linear": lambda: own.linear(lr, low, down),
        "cosine": lambda: _waves(lr, low, down, num_cycles),
        "1-sqrt": lambda: own.power_decay(lr, down, 0.5, end_value=low),
    }
    for name, chosen, known in (
        ("warmup_type", warmup_type, ups),
        ("decay_type", decay_type, downs),
    ):
        if chosen not in known:
            raise ValueError(f"{name}: got {chosen!r}, wanted one of {', '.join(known)}")
    begin = max(rise + stable, up)  # of the decay
    decay = _not_below_zero(low, downs[decay_type]()).shift(rise + stable - begin)
    parts = [_not_below_zero(low, ups[warmup_type]()), own.constant(lr), decay, own.constant(low)]
    return join(parts, at=[up, begin, max(rise + stable + fall, begin)])
