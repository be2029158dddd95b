"""Hugging Face's schedules by their own names, with the rate instead of the optimizer first.

Formulas: transformers 4.57, ``optimization.py``.
"""

from __future__ import annotations

from typing import Literal, SupportsFloat

from .. import families as own
from ..base import Schedule, join

Ramp = Literal["linear", "cosine", "1-sqrt"]


def _after(warmup: int, lr: SupportsFloat, decay: Schedule) -> Schedule:
    """A line from 0, then ``decay`` from its own beginning."""
    return join([own.linear(0.0, lr, warmup), decay], at=[warmup])


def get_constant_schedule(lr: SupportsFloat) -> Schedule:
    """The same rate at every step."""
    return own.constant(lr)


def get_constant_schedule_with_warmup(lr: SupportsFloat, num_warmup_steps: int) -> Schedule:
    """A line from 0, then the rate."""
    return own.linear(0.0, lr, num_warmup_steps)


def get_linear_schedule_with_warmup(
    lr: SupportsFloat, num_warmup_steps: int, num_training_steps: int
) -> Schedule:
    """A line up from 0, a line down to 0."""
    return own.linear(lr, 0.0, num_training_steps).warmup(num_warmup_steps)


def get_cosine_schedule_with_warmup(
    lr: SupportsFloat, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5
) -> Schedule:
    """A line from 0, then ``num_cycles`` waves of a cosine, which go on after the last step."""
    return get_cosine_with_min_lr_schedule_with_warmup(
        lr, num_warmup_steps, num_training_steps, num_cycles, min_lr_rate=0.0
    )


def get_cosine_with_hard_restarts_schedule_with_warmup(
    lr: SupportsFloat, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1
) -> Schedule:
    """A line from 0, then ``num_cycles`` half cosines, each from the full rate, then 0."""
    length = max(1, num_training_steps - num_warmup_steps)
    points: list[tuple[float, SupportsFloat]] = []
    for i in range(num_cycles):
        points += [(length * i / num_cycles, lr), (length * (i + 1) / num_cycles, 0.0)]
    return _after(num_warmup_steps, lr, own.interpolate(points, "cosine"))


def get_polynomial_decay_schedule_with_warmup(
    lr: SupportsFloat,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: SupportsFloat = 1e-7,
    power: SupportsFloat = 1.0,
) -> Schedule:
    """A line from 0, then ``(1 - x)^power`` to ``lr_end``, the same whatever the default rate."""
    return own.polynomial(lr, num_training_steps, power, end_value=lr_end).warmup(num_warmup_steps)


def get_inverse_sqrt_schedule(
    lr: SupportsFloat, num_warmup_steps: int, timescale: int | None = None
) -> Schedule:
    """A line from 0, then ``√(τ/(t - w + τ))``; τ is the warm-up, or 10000 without one."""
    scale = timescale or num_warmup_steps or 10_000
    return own.inverse_sqrt(lr, scale, warmup=num_warmup_steps)


def _waves(lr: SupportsFloat, floor: float, length: int, num_cycles: float) -> Schedule:
    """``½(1 + cos(2π·cycles·t/length))`` of the rate above the floor, without an end."""
    if num_cycles == 0:
        return own.constant(lr)
    return own.cosine_wave(lr, max(1, length) / (2 * num_cycles), end_value=floor)


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
    floor = _floor(lr, min_lr, min_lr_rate)
    waves = _waves(lr, floor, num_training_steps - num_warmup_steps, num_cycles)
    return _after(num_warmup_steps, lr, waves)


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
    floor = _floor(lr, min_lr, min_lr_rate)
    waves = _waves(lr, floor, num_training_steps - num_warmup_steps, num_cycles).shift(-1)
    if warmup_lr_rate is None:
        rise = own.linear(0.0, lr, num_warmup_steps).shift(-1)
    else:
        start = float(lr) * warmup_lr_rate
        rise = own.linear(start, lr, max(1, num_warmup_steps - 1))
    return join([rise, waves], at=[num_warmup_steps])


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
    """Up from the least rate, the rate, down to the least rate."""
    if num_stable_steps is None:
        if num_training_steps is None:
            raise ValueError("num_training_steps: got None, as num_stable_steps, wanted one")
        num_stable_steps = num_training_steps - num_warmup_steps - num_decay_steps
    low, rise, fall = float(lr) * min_lr_ratio, num_warmup_steps, num_decay_steps
    ups = {
        "linear": lambda: own.linear(low, lr, rise),
        "cosine": lambda: own.cosine(low, rise, end_value=lr),
        "1-sqrt": lambda: own.polynomial(low, rise, 0.5, end_value=lr),
    }
    downs = {
        "linear": lambda: own.linear(lr, low, fall),
        "cosine": lambda: _waves(lr, low, fall, num_cycles),
        "1-sqrt": lambda: own.power_decay(lr, fall, 0.5, end_value=low),
    }
    for name, chosen, known in (
        ("warmup_type", warmup_type, ups),
        ("decay_type", decay_type, downs),
    ):
        if chosen not in known:
            raise ValueError(f"{name}: got {chosen!r}, wanted one of {', '.join(known)}")
    begin = rise + num_stable_steps
    parts = [ups[warmup_type](), own.constant(lr), downs[decay_type](), own.constant(low)]
    return join(parts, at=[rise, begin, begin + fall])
