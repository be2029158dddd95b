"""Every schedule again, in plain NumPy and double precision: the specification of each bit.

A function takes the steps as a float64 array of integers, then the arguments of the schedule of
the same name. Each operation below rounds once; the order of operations is normative. What is
exact (floor, rint, frexp, ldexp) is taken from NumPy, cos, exp and pow are not: they differ by
processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SPLITTER = float(2**27 + 1)


# ---- twice the precision: pairs (hi, lo) ----


def two_sum(a, b):
    hi = a + b
    b_part = hi - a
    return hi, (a - (hi - b_part)) + (b - b_part)


def quick_two_sum(a, b):
    hi = a + b
    return hi, b - (hi - a)


def two_product(a, b):
    a_hi = a * SPLITTER - (a * SPLITTER - a)
    b_hi = b * SPLITTER - (b * SPLITTER - b)
    a_lo, b_lo = a - a_hi, b - b_hi
    hi = a * b
    return hi, ((a_hi * b_hi - hi) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo


def times(a, b):
    """A pair times a number."""
    hi, lo = two_product(a[0], b)
    return quick_two_sum(hi, lo + a[1] * b)


def times_pair(a, b):
    hi, lo = two_product(a[0], b[0])
    return quick_two_sum(hi, lo + (a[0] * b[1] + a[1] * b[0]))


def plus_pair(a, b):
    hi, lo = two_sum(a[0], b[0])
    return quick_two_sum(hi, lo + (a[1] + b[1]))


def over(a, b):
    """A pair over a number."""
    quotient = a[0] / b
    hi, lo = two_product(quotient, b)
    return quick_two_sum(quotient, (((a[0] - hi) - lo) + a[1]) / b)


# ---- functions ----


def horner(x, coefficients):
    """The coefficients from the highest power down to the constant."""
    total = float.fromhex(coefficients[0])
    for c in coefficients[1:]:
        total = total * x + float.fromhex(c)
    return total


TWO_OVER_LN2 = (float.fromhex("0x1.71547652b82fep1"), float.fromhex("0x1.777d0ffda0d24p-55"))
SQRT2 = float.fromhex("0x1.6a09e667f3bcdp0")

# (2 / ln 2) (artanh(s) / s - 1) / s^2 in s^2
ARTANH = (
    "0x1.82e79e1f93c57p-3", "0x1.8805668a68ab1p-3", "0x1.c69bd943596fdp-3",
    "0x1.0c9a6e3de7156p-2", "0x1.484b14030c134p-2", "0x1.a61762a784ce1p-2",
    "0x1.2776c50ef9c75p-1", "0x1.ec709dc3a03fdp-1",
)  # fmt: skip
# (2^f - 1) / f
EXP2 = (
    "0x1.c3bd60f23fd0ep-36", "0x1.e9ec55bf67c8ap-32", "0x1.e4cfaeb5e3758p-28",
    "0x1.b524ebb8c777dp-24", "0x1.62c0221b332b7p-20", "0x1.ffcbfc6dad90cp-17",
    "0x1.430912f87425cp-13", "0x1.5d87fe78a3f95p-10", "0x1.3b2ab6fba4e60p-7",
    "0x1.c6b08d704a0c6p-5", "0x1.ebfbdff82c58fp-3", "0x1.62e42fefa39efp-1",
)  # fmt: skip
# sin^2(pi q / 2) / q^2 in q^2; the last two are one constant in two parts
HAVERSINE = (
    "0x1.21698b3091457p-24", "-0x1.20a5bafa6d145p-19", "0x1.b6e1cb645882fp-15",
    "-0x1.f9d388fe4f36fp-11", "0x1.a6d1f2a04f39fp-7", "-0x1.e1f5068918fbap-4",
    "0x1.55d3c7e3cbfd8p-1", "-0x1.03c1f081b5ac4p+1", "0x1.6909fb535443bp-53",
)  # fmt: skip
HAVERSINE_LAST = float.fromhex("0x1.3bd3cc9be45dep+1")


def logarithm(a, b):
    """log2(a / b) = exponent + 2 / ln 2 * artanh(s), s a pair."""
    a, a_exponent = np.frexp(a)
    b, b_exponent = np.frexp(b)
    a, b = a * 2, b * 2
    a_large, b_large = a > SQRT2 * b, b > SQRT2 * a
    exponent = (a_exponent - b_exponent) + np.where(a_large, 1.0, 0.0) - np.where(b_large, 1.0, 0.0)
    a, b = np.where(a_large, a * 0.5, a), np.where(b_large, b * 0.5, b)
    below, below_lo = two_sum(a, b)
    reciprocal = 1 / below
    s = (a - b) * reciprocal
    hi, lo = two_product(s, below)
    return exponent, (s, (((a - b) - hi) - lo - s * below_lo) * reciprocal)


def plus_exponent(exponent, fraction):
    hi, lo = two_sum(exponent, fraction[0])
    return quick_two_sum(hi, lo + fraction[1])


def log2_ratio(a, b):
    exponent, (s, s_lo) = logarithm(a, b)
    w = s * s
    hi, lo = two_product(TWO_OVER_LN2[0], s)
    rest = TWO_OVER_LN2[0] * s_lo + TWO_OVER_LN2[1] * s + s * w * horner(w, ARTANH)
    return plus_exponent(exponent, quick_two_sum(hi, lo + rest))


def log2(x):
    if x == 0:
        return -(2.0**70), 0.0
    lift = 54 if x < 2.0**-1022 else 0
    exponent, s = logarithm(np.float64(x) * 2.0**lift, 1.0)
    w = times_pair(s, s)
    series = (0.0, 0.0)
    for k in range(41, 0, -2):
        series = plus_pair(times_pair(series, w), over((1.0, 0.0), float(k)))
    return plus_exponent(exponent - lift, times_pair(times_pair(TWO_OVER_LN2, s), series))


def exp2(x):
    """2^x = (1 + growth) * 2^exponent."""
    hi = greatest(least(x[0], 2044.0), -2044.0)
    exponent = np.rint(hi)
    f = (hi - exponent) + np.where(hi == x[0], x[1], 0.0)
    return horner(f, EXP2) * f, exponent


def exp2_times(growth, exponent, value):
    half = np.rint(exponent * 0.5)
    return (value + value * growth) * two_to(half) * two_to(exponent - half)


def two_to(n):
    return np.ldexp(1.0, n.astype(int))


def power(log2_base, n, value):
    return exp2_times(*exp2(times(log2_base, n)), value)


def haversine_pi(q_squared):
    return (horner(q_squared, HAVERSINE) + HAVERSINE_LAST) * q_squared


# ---- from start to end, x = min(t, length) / length ----


def least(a, b):
    return np.where(b < a, b, a)


def greatest(a, b):
    return np.where(b > a, b, a)


def line(t, length, start, end):
    done = least(t, length)
    left = length - done
    return over(plus_pair(two_product(start, left), two_product(end, done)), length)[0]


def between(left, done, start, end):
    value = start * left + end * done
    return greatest(least(value, max(start, end)), min(start, end))


def wave(t, length, start, end):
    done = least(t, length)
    left = length - done
    nearer = least(done, left)
    small = haversine_pi(nearer * nearer / (length * length))
    return between(
        np.where(done <= left, 1 - small, small), np.where(done <= left, small, 1 - small),
        start, end,
    )  # fmt: skip


def power_law(t, length, start, end, p):
    left = length - least(t, length)
    growth, exponent = exp2(times(log2_ratio(greatest(left, 1.0), length), p))
    share = exp2_times(growth, exponent, 1.0)
    rest = np.where(exponent == 0, -growth, 1 - share)
    return between(np.where(left > 0, share, 0.0), np.where(left > 0, rest, 1.0), start, end)


def decay(shape, t, value, end_value, total, end, *more):
    length = float(total - (end == "inclusive"))
    if length <= 0:
        return np.full(t.shape, end_value)
    return shape(t, length, value, end_value, *more)


# ---- the schedules ----


def constant(t, value):
    return np.full(t.shape, value)


def linear(t, value, end_value, total, end, past_end):
    return decay(line, t, value, end_value, total, end)


def step(t, value, step_size, gamma):
    return power(log2(gamma), np.floor(t / step_size), value)


def drop(t, value, milestones, gamma, values):
    if values is None:
        values = power(log2(gamma), np.arange(1.0, len(milestones) + 1), value)
    passed = np.searchsorted(np.array(milestones, dtype=float), t, side="right")
    return np.array([value, *values])[passed]


def exponential(t, value, decay_rate, decay_steps, begin, staircase):
    n = greatest(t - begin, 0.0)
    if staircase:
        return power(log2(decay_rate), np.floor(n / decay_steps), value)
    return power(over(log2(decay_rate), decay_steps), n, value)


def polynomial(t, value, total, power, end_value, end, past_end):
    if power == 1:
        return linear(t, value, end_value, total, end, past_end)
    return decay(power_law, t, value, end_value, total, end, min(power, 2.0**70))


def cosine(t, value, total, end_value, end, past_end):
    return decay(wave, t, value, end_value, total, end)


def cyclic(t, lower, upper, step_size, step_size_down, policy, anneal, end):
    if policy == "triangular":
        up, down = step_size, step_size if step_size_down is None else step_size_down
        in_cycle = t - np.floor(t / (up + down)) * (up + down)
        rising, falling = line(in_cycle, up, lower, upper), line(in_cycle - up, down, upper, lower)
        return np.where(in_cycle < up, rising, falling)
    in_cycle = t - np.floor(t / step_size) * step_size
    return decay(line if anneal == "linear" else wave, in_cycle, upper, lower, step_size, end)


def join(t, schedules, at):
    values = evaluate(schedules[0], t)
    for child, begin in zip(schedules[1:], at, strict=True):
        later = t >= begin
        values[later] = evaluate(child, t[later] - begin)
    return values


def evaluate(described: dict[str, Any], t: Any) -> Any:
    """The schedule that ``Schedule.to_dict()`` described, at the steps ``t``."""
    arguments = dict(described)
    function = globals()[arguments.pop("schedule")]
    with np.errstate(all="ignore"):
        return function(np.array(t, dtype=np.float64), **arguments)
