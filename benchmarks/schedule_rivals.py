"""Every shape, as gradstep has it and as people write it in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gradstep import schedules


class Shape(NamedTuple):
    """A schedule and the formula of an array of steps that it is held against."""

    schedule: schedules.Schedule
    formula: Callable[[Any], Any]


def shapes(n: int) -> dict[str, Shape]:
    """By name, each lasting `n` updates or made of parts that fit into them."""
    w, s, milestones = n // 20, n // 100, [n // 3, n // 2, 2 * n // 3]
    table = np.sin(np.arange(n) * 1e-3)
    polynomial = schedules.polynomial
    bounds = np.cumsum([0, *(s * 2**i for i in range(30))])

    def restarts(t):
        i = np.searchsorted(bounds, t, side="right") - 1
        return 0.05 * (1 + np.cos(np.pi * (t - bounds[i]) / (s * 2**i)))

    def cyclic(t, scale=lambda *_: 1.0):
        c = np.floor(1 + t / (2 * s))
        return 0.01 + 0.09 * np.maximum(0, 1 - np.abs(t / s - 2 * c + 1)) * scale(t, c)

    def one_cycle(t):
        up = round(0.3 * n)
        rise = 0.1 + (0.004 - 0.1) / 2 * (np.cos(np.pi * t / up) + 1)
        fall = 4e-7 + (0.1 - 4e-7) / 2 * (np.cos(np.pi * (t - up) / (n - up)) + 1)
        return np.where(t < up, rise, fall)

    def wsd(t, left):
        down = n - n // 5
        x = np.clip((t - down) / (n // 5), 0, 1)
        return np.where(t < w, 0.1 * t / w, np.where(t < down, 0.1, 0.1 * left(x)))

    def tail(name, left):
        power = 2.0 if name == "1-power" else None
        end = 1e-4 if name == "exponential" else 0.0
        made = schedules.wsd(0.1, n, n // 5, warmup=w, tail=name, power=power, end_value=end)
        return Shape(made, lambda t: wsd(t, left))

    return {
        "constant": Shape(schedules.constant(0.1), lambda t: np.full(t.shape, 0.1)),
        "table": Shape(schedules.table(table), lambda t: table[np.minimum(t, n - 1)]),
        "linear": Shape(
            schedules.linear(0.1, 0.01, n), lambda t: 0.1 + (0.01 - 0.1) * np.minimum(t, n) / n
        ),
        "step": Shape(schedules.step(0.1, s, 0.5), lambda t: 0.1 * 0.5 ** (t // s)),
        "drop": Shape(
            schedules.drop(0.1, milestones),
            lambda t: 0.1 * 0.1 ** np.searchsorted(milestones, t, side="right"),
        ),
        "exponential": Shape(
            schedules.exponential(0.1, 0.5, s), lambda t: 0.1 * 0.5 ** (t / s)
        ),
        "exponential, from a step on": Shape(
            schedules.exponential(0.1, 0.5, s, begin=w),
            lambda t: 0.1 * 0.5 ** (np.maximum(0, t - w) / s),
        ),
        "exponential, staircase": Shape(
            schedules.exponential(0.1, 0.5, s, staircase=True),
            lambda t: 0.1 * 0.5 ** np.floor(t / s),
        ),
        "geometric": Shape(
            schedules.geometric(1e-7, 10.0, n),
            lambda t: 1e-7 * (10 / 1e-7) ** (np.minimum(t, n) / n),
        ),
        "inverse_time": Shape(
            schedules.inverse_time(0.1, 0.5, s), lambda t: 0.1 / (1 + 0.5 * t / s)
        ),
        "polynomial, power 0.9": Shape(
            polynomial(0.1, n, 0.9, end_value=0.01),
            lambda t: 0.01 + 0.09 * (1 - np.minimum(t, n) / n) ** 0.9,
        ),
        "polynomial, power 2": Shape(
            polynomial(0.1, n, 2, end_value=0.01),
            lambda t: 0.01 + 0.09 * (1 - np.minimum(t, n) / n) ** 2,
        ),
        "polynomial, cycle": Shape(
            polynomial(0.1, s, 0.9, end_value=0.01, cycle=True),
            lambda t: 0.01 + 0.09 * (1 - t / (s * np.maximum(1, np.ceil(t / s)))) ** 0.9,
        ),
        "power_decay": Shape(
            schedules.power_decay(0.1, n), lambda t: 0.1 * (1 - np.sqrt(np.minimum(t, n) / n))
        ),
        "cosine": Shape(
            schedules.cosine(0.1, n, end_value=0.01),
            lambda t: 0.01 + 0.09 * 0.5 * (1 + np.cos(np.pi * np.minimum(t, n) / n)),
        ),
        "cosine, power 2": Shape(
            schedules.cosine(0.1, n, power=2),
            lambda t: 0.1 * (0.5 * (1 + np.cos(np.pi * np.minimum(t, n) / n))) ** 2,
        ),
        "cosine_wave": Shape(
            schedules.cosine_wave(0.1, s), lambda t: 0.1 * 0.5 * (1 + np.cos(np.pi * t / s))
        ),
        "cosine_restarts": Shape(schedules.cosine_restarts(0.1, s, 2), restarts),
        "inverse_sqrt": Shape(
            schedules.inverse_sqrt(0.1, w, warmup=w),
            lambda t: np.where(t < w, 0.1 * t / w, 0.1 * np.sqrt(w / np.maximum(t, 1))),
        ),
        "noam": Shape(
            schedules.noam(512, w),
            lambda t: 512**-0.5 * np.minimum((t + 1) ** -0.5, (t + 1) * w**-1.5),
        ),
        "wsd, linear": tail("linear", lambda x: 1 - x),
        "wsd, cosine": tail("cosine", lambda x: 0.5 * (1 + np.cos(np.pi * x))),
        "wsd, 1-sqrt": tail("1-sqrt", lambda x: 1 - np.sqrt(x)),
        "wsd, 1-power": tail("1-power", lambda x: 1 - x**2),
        "wsd, exponential": tail("exponential", lambda x: 1e-3**x),
        "one_cycle": Shape(schedules.one_cycle(0.1, n), one_cycle),
        "cyclic, triangular": Shape(schedules.cyclic(0.01, 0.1, s), cyclic),
        "cyclic, triangular2": Shape(
            schedules.cyclic(0.01, 0.1, s, policy="triangular2"),
            lambda t: cyclic(t, lambda _, c: 0.5 ** (c - 1)),
        ),
        "cyclic, exp_range": Shape(
            schedules.cyclic(0.01, 0.1, s, policy="exp_range", gamma=1 - 1 / n),
            lambda t: cyclic(t, lambda t, _: (1 - 1 / n) ** t),
        ),
        "cyclic, annealing": Shape(
            schedules.cyclic(0.01, 0.1, s, policy="annealing", anneal="cosine"),
            lambda t: 0.01 + 0.09 * 0.5 * (1 + np.cos(np.pi * (t % s) / s)),
        ),
        "tanh": Shape(
            schedules.tanh(0.1, n),
            lambda t: 0.1 * 0.5 * (1 - np.tanh(-7 * (1 - np.minimum(t, n) / n) + 3 * t / n)),
        ),
        "interpolate": Shape(
            schedules.interpolate([(0, 0.0), (w, 0.1), (n // 2, 0.05), (n, 0.0)]),
            lambda t: np.interp(t, [0, w, n // 2, n], [0.0, 0.1, 0.05, 0.0]),
        ),
        "warmup": Shape(
            schedules.cosine(0.1, n).warmup(w),
            lambda t: np.where(
                t < w, 0.1 * t / w, 0.05 * (1 + np.cos(np.pi * (t - w) / (n - w)))
            ),
        ),
        "sum and product": Shape(
            schedules.linear(1.0, 0.5, n) * schedules.step(0.1, s, 0.9) + 0.001,
            lambda t: (1 - 0.5 * np.minimum(t, n) / n) * (0.1 * 0.9 ** (t // s)) + 0.001,
        ),
    }  # fmt: skip
