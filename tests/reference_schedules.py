"""Every schedule again, in plain NumPy and double precision: the specification of each bit.

A function takes the steps as a float64 array of integers, then the arguments of the schedule of
the same name. Each operation below rounds once; the order of operations is normative. What is
exact (floor, rint, frexp, ldexp) is taken from NumPy, cos, exp and pow are not: they differ by
processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# ---- twice the precision: pairs (hi, lo) ----


def two_sum(a, b):
    hi = a + b
    b_part = hi - a
    return hi, (a - (hi - b_part)) + (b - b_part)


def quick_two_sum(a, b):
    hi = a + b
    return hi, b - (hi - a)


def first_bits(x, n):
    """The first n of the 53 bits of a double."""
    bits = np.asarray(x, dtype=np.float64).view(np.uint64)
    return (bits & np.uint64(2**64 - 2 ** (53 - n))).view(np.float64)


def two_product(a, b):
    a_hi, b_hi = first_bits(a, 26), first_bits(b, 26)
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


def over_pair(a, b):
    inverse = 1 / b[0]
    quotient = a[0] * inverse
    hi, lo = two_product(quotient, b[0])
    return quick_two_sum(quotient, (((a[0] - hi) - lo) + a[1] - quotient * b[1]) * inverse)


def sqrt_pair(a):
    root = np.sqrt(a[0])
    hi, lo = two_product(root, root)
    return quick_two_sum(root, (((a[0] - hi) - lo) + a[1]) / (root + root))


# ---- integers ----


def whole(t, length):
    """floor(t / length), by a product and what its remainder shows."""
    near = np.floor(t * (1 / length))
    left = t - near * length
    return near + np.where(left >= length, 1.0, 0.0) - np.where(left < 0, 1.0, 0.0)


def remainder(t, length):
    return t - whole(t, length) * length


# ---- functions ----


def horner(x, coefficients):
    """The coefficients from the highest power down to the constant."""
    total = float.fromhex(coefficients[0])
    for c in coefficients[1:]:
        total = total * x + float.fromhex(c)
    return total


TWO_OVER_LN2 = (float.fromhex("0x1.71547652b82fep1"), float.fromhex("0x1.777d0ffda0d24p-55"))
TWO_OVER_LN2_HIGH = float.fromhex("0x1.7154760p1")  # of 26 bits
TWO_OVER_LN2_LOW = float.fromhex("0x1.4ae0bf85ddf44p-25")
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


def log2_ratio(a, b, more=0.0):
    """log2(a / b) as a factor of exponents."""
    a, a_exponent = np.frexp(a)
    b, b_exponent = np.frexp(b)
    a, b = a * 2, b * 2
    a_large, b_large = a > SQRT2 * b, b > SQRT2 * a
    exponent = (a_exponent - b_exponent) + np.where(a_large, 1.0, 0.0) - np.where(b_large, 1.0, 0.0)
    a, b = np.where(a_large, a * 0.5, a), np.where(b_large, b * 0.5, b)
    a_hi, b_hi = first_bits(a, 26), first_bits(b, 26)
    inverse = 1 / (a + b)
    above = a - b
    s_hi = first_bits(above * inverse, 25)
    s_lo = ((above - s_hi * (a_hi + b_hi)) - s_hi * ((a - a_hi) + (b - b_hi))) * inverse
    s = s_hi + s_lo
    w = s * s
    rest = TWO_OVER_LN2_HIGH * s_lo + TWO_OVER_LN2_LOW * s + s * w * horner(w, ARTANH)
    hi, lo = quick_two_sum(exponent, TWO_OVER_LN2_HIGH * s_hi)
    hi, lo = quick_two_sum(hi, lo + rest)
    return factor((hi, lo + more))


def log2(x):
    if x == 0:
        return -(2.0**70), 0.0
    lift = 54 if x < 2.0**-1022 else 0
    a, exponent = np.frexp(np.float64(x) * 2.0**lift)
    a, exponent = a * 2, exponent - 1.0 - lift
    if a > SQRT2:
        a, exponent = a * 0.5, exponent + 1
    s = over_pair((a - 1, 0.0), two_sum(a, 1.0))
    w = times_pair(s, s)
    series = (0.0, 0.0)
    for k in range(41, 0, -2):
        series = plus_pair(times_pair(series, w), over((1.0, 0.0), float(k)))
    fraction = times_pair(times_pair(TWO_OVER_LN2, s), series)
    hi, lo = two_sum(exponent, fraction[0])
    return quick_two_sum(hi, lo + fraction[1])


def factor(x):
    """A pair whose high part has 26 bits."""
    hi = first_bits(x[0], 26)
    return hi, (x[0] - hi) + x[1]


def factor_times(a, n):
    n_hi = first_bits(n, 26)
    return a[0] * n_hi, a[0] * (n - n_hi) + a[1] * n


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


def complement(growth, exponent):
    """1 - 2^x for x <= 0."""
    return np.where(exponent == 0, -growth, 1 - exp2_times(growth, exponent, 1.0))


def power(log2_base, n, value):
    return exp2_times(*exp2(factor_times(factor(log2_base), n)), value)


def haversine_pi(q_squared):
    return (horner(q_squared, HAVERSINE) + HAVERSINE_LAST) * q_squared


def haversine_pi_pair(q_squared):
    q, q_lo = q_squared
    p = horner(q, HAVERSINE[:-1])
    series, series_lo = quick_two_sum(HAVERSINE_LAST, p * q + float.fromhex(HAVERSINE[-1]))
    hi, lo = two_product(series, q)
    return hi, lo + series_lo * q + (series + p * q) * q_lo


def root_over(value, of, x):
    """value * sqrt(of / x)."""
    if value == 0:
        return 0 * x
    lift = 2.0**100 if abs(value) < 2.0**-900 else 1.0
    share, exponent = np.frexp(value * lift)
    share, scale = np.abs(share) * 2, np.copysign(np.ldexp(1.0, exponent - 1), value)
    square = times_pair(two_product(share, share), of)[0]
    return scale / lift * np.sqrt(square / x)


# ---- from start to end, x = min(t, length) / length ----


def least(a, b):
    return np.where(b < a, b, a)


def greatest(a, b):
    return np.where(b > a, b, a)


def within(x, a, b):
    return greatest(least(x, max(a, b)), min(a, b))


def weighted(left, done, length, start, end):
    """(start left + end done) / length, left a pair."""
    inverse = 1 / length
    hi, lo = plus_pair(times(left, start), two_product(end, done))
    quotient = hi * inverse
    back_hi, back_lo = two_product(quotient, length)
    return quotient + (((hi - back_hi) - back_lo) + lo) * inverse


def from_nearer_end(done, length, start, end):
    """Where the nearer end is, its value, what the other one has more, and whether it is passed."""
    early = done + done <= length
    n = np.where(early, done, done - length)
    return n, np.where(early, start, end), early, done >= length


def line(t, length, start, end):
    n, base, _, ended = from_nearer_end(t, length, start, end)
    rise, rise_lo = over(two_sum(end, -start), length)
    risen, risen_lo = two_product(n, rise)
    found, found_lo = two_sum(base, risen)
    return np.where(ended, end + 0.0, found + (found_lo + (risen_lo + n * rise_lo)))


def between(left, done, start, end):
    return within(start * left + end * done, start, end)


def wave(t, length, start, end):
    n, base, early, ended = from_nearer_end(t, length, start, end)
    square = n * n
    inverse, inverse_lo = over_pair((1.0, 0.0), two_product(length, length))
    small = haversine_pi(square * inverse + square * inverse_lo)
    rise = np.where(early, end - start, start - end)
    return base + rise * np.where(ended, 0.0, small)


def power_share(left, length, p):
    growth, exponent = exp2(factor_times(log2_ratio(greatest(left, 1.0), length), min(p, 2.0**70)))
    share = np.where(left > 0, exp2_times(growth, exponent, 1.0), 0.0)
    return share, np.where(left > 0, complement(growth, exponent), 1.0)


def square_share(n, length):
    inverse, inverse_lo = over_pair((1.0, 0.0), two_product(length, length))
    square, rest = n * n, (length - n) * (length + n)
    return square * inverse + square * inverse_lo, rest * inverse + rest * inverse_lo


def root_share(n, length):
    inverse = 1 / length
    left = np.sqrt(n * inverse)
    return left, (length - n) * inverse / (1 + left)


EASY = {2.0: square_share, 0.5: root_share}


def at_ends(t, length, value, start, end):
    return np.where(t <= 0, start, np.where(t >= length, end, value))


def power_law(t, length, start, end, p):
    if p in EASY:
        shares = EASY[p](length - least(t, length), length)
        return at_ends(t, length, between(*shares, start, end), start, end)
    return between(*power_share(length - least(t, length), length, p), start, end)


def power_rise(t, length, start, end, p):
    if p in EASY:
        value = between(*EASY[p](least(t, length), length), end, start)
        return at_ends(t, length, value, start, end)
    return between(*power_share(least(t, length), length, p), end, start)


def wave_power(t, length, start, end, p):
    done = least(t, length)
    left = length - done
    nearer = least(done, left)
    inverse = over_pair((1.0, 0.0), two_product(length, length))
    small, small_lo = haversine_pi_pair(times_pair(two_product(nearer, nearer), inverse))
    early, ended = done <= left, left <= 0
    large = 1 - small
    large_lo = ((1 - large) - small) - small_lo
    share = np.where(ended, 1.0, np.where(early, large, small))
    rest = np.where(early, large_lo, small_lo)
    more = np.where(ended, 0.0, rest / share * float.fromhex("0x1.71547652b82fep0"))
    growth, exponent = exp2(factor_times(log2_ratio(share, 1.0, more), p))
    power = np.where(ended, 0.0, exp2_times(growth, exponent, 1.0))
    return between(power, np.where(ended, 1.0, complement(growth, exponent)), start, end)


def along(t, length, start, end):
    """By a power of their ratio."""
    sign = -1.0 if start < 0 else 1.0
    low, low_lo = log2(sign * start)
    ratio = over(plus_pair(log2(sign * end), (-low, -low_lo)), length)
    value = within(power(ratio, least(t, length), start), start, end)
    return np.where(t < length, value, end)


def decay(shape, t, value, end_value, total, end, *more):
    length = float(total - (end == "inclusive"))
    if length <= 0:
        return np.full(t.shape, end_value)
    return shape(t, length, value, end_value, *more)


def through(shape, t, x, v):
    """Through knots (x, v), each piece by itself; before and after them their values."""
    x, v = np.array(x, dtype=float), np.array(v, dtype=float)
    passed = np.searchsorted(x, t, side="right")
    out = np.where(passed == 0, v[0], v[-1])
    for i in np.unique(passed[(passed > 0) & (passed < len(x))]):
        here = passed == i
        out[here] = shape(t[here] - x[i - 1], x[i] - x[i - 1], v[i - 1], v[i])
    return out


# ---- the shapes ----


def constant(t, value):
    return np.full(t.shape, value)


def linear(t, value, end_value, total, end, past_end):
    return decay(line, t, value, end_value, total, end)


def step(t, value, step_size, gamma):
    return power(log2(gamma), whole(t, step_size), value)


def drop(t, value, milestones, gamma, values):
    if values is None:
        values = power(log2(gamma), np.arange(1.0, len(milestones) + 1), value)
    passed = np.searchsorted(np.array(milestones, dtype=float), t, side="right")
    return np.array([value, *values])[passed]


def exponential(t, value, decay_rate, decay_steps, begin, staircase):
    n = greatest(t - begin, 0.0)
    if staircase:
        return step(n, value, decay_steps, decay_rate)
    return power(over(log2(decay_rate), decay_steps), n, value)


def geometric(t, value, end_value, total, end, past_end):
    return decay(along, t, value, end_value, total, end)


def inverse_time(t, value, decay_rate, decay_steps, staircase):
    if staircase:
        return inverse_time(whole(t, decay_steps), value, decay_rate, 1, False)
    steps = float(decay_steps)
    above, above_lo = two_product(value, steps)
    part, part_lo = two_product(decay_rate, t)
    below, below_lo = two_sum(steps, part)
    quotient = above / below
    rest = above_lo - quotient * (below_lo + part_lo)
    return quotient + rest * (quotient * (1 / above if above else 0.0))


def inverse_sqrt(t, value, timescale, warmup, start_value):
    if warmup:
        return np.where(
            t < warmup,
            line(t, float(warmup), start_value, value),
            inverse_sqrt(t - warmup, value, timescale, 0, 0.0),
        )
    return np.where(t > 0, root_over(value, (timescale, 0.0), t + timescale), value)


def noam(t, model_size, warmup, factor):
    n = t + 1
    w = float(max(warmup, 1))
    scale = over_pair((factor, 0.0), sqrt_pair((model_size, 0.0)))
    slope = over_pair(scale, times(sqrt_pair((w, 0.0)), w))
    falling = root_over(factor, over((1.0, 0.0), model_size), n)
    return np.where(n < warmup, times(slope, n)[0], falling)


def polynomial(t, value, total, power, end_value, cycle, end, past_end):
    if cycle:
        T = float(total)
        before = whole(t, T) * T
        length = greatest(np.where(before < t, before + T, before), T)
        return between(*power_share(length - t, length, power), value, end_value)
    if power == 1:
        return linear(t, value, end_value, total, end, past_end)
    return decay(power_law, t, value, end_value, total, end, power)


def power_decay(t, value, total, power, end_value, end, past_end):
    return decay(power_rise, t, value, end_value, total, end, power)


def cosine(t, value, total, end_value, power, end, past_end):
    if power == 1:
        return decay(wave, t, value, end_value, total, end)
    return decay(wave_power, t, value, end_value, total, end, power)


def cosine_wave(t, value, half_period, end_value):
    begin = whole(t, 2 * half_period) * (2 * half_period)
    in_period = greatest(t - begin, 0.0)
    back = in_period >= half_period
    done = np.where(back, greatest(2 * half_period - in_period, 0.0), in_period)
    early = done + done <= half_period
    origin = np.where(back, begin + 2 * half_period, begin)
    n = t - np.where(early, origin, begin + half_period)
    square = n * n
    inverse, inverse_lo = over_pair((1.0, 0.0), two_product(half_period, half_period))
    small = haversine_pi(square * inverse + square * inverse_lo)
    high, low = np.where(early, value, end_value), np.where(early, end_value, value)
    return high + (low - high) * small


def cosine_restarts(t, value, first, t_mult, gamma, end_value, end):
    early = end == "inclusive"
    if t_mult == 1:
        n, length = remainder(t, first), float(first - early)
        if gamma == 1:
            return decay(wave, n, value, end_value, first, end)
        left, done = (decay(wave, n, *ends, first, end) for ends in [(1.0, 0.0), (0.0, 1.0)])
        return step(t, value, first, gamma) * left + done * end_value
    x, peaks, length, begin = [0], [], first, 0
    while x[-1] < 2**52:
        peaks.append(power(log2(gamma), np.float64(len(peaks)), value) if peaks else value)
        begin += length
        length *= int(t_mult) if t_mult == int(t_mult) else t_mult
        # Of a cycle so long no step sees a fall, and far longer ones would overflow.
        x.append(min(int(np.ceil(begin)) if isinstance(begin, float) else begin, 2**100))
    knots = [
        knot
        for i, peak in enumerate(peaks)
        for knot in ((x[i], peak), (x[i + 1] - early, end_value), (x[i + 1], end_value))
    ]
    return through(wave, t, *zip(*knots, strict=True))


def tanh(t, value, total, end_value, lower, upper, end, past_end):
    length = float(max(0, total - (end == "inclusive")))
    last = times(TWO_OVER_LN2, upper)
    fall = times_pair(TWO_OVER_LN2, two_sum(lower, -upper))
    slope = factor(over(fall, length)) if length else (0.0, 0.0)
    way = factor_times(slope, length - least(t, length))
    y, y_lo = two_sum(last[0], way[0])
    y_lo = y_lo + (last[1] + way[1])
    first_half = y < 0
    sign = np.where(first_half, 1.0, -1.0)
    odds = exp2_times(*exp2((sign * y, sign * y_lo)), 1.0)
    near, far = np.where(first_half, value, end_value), np.where(first_half, end_value, value)
    return within((near + far * odds) / (1 + odds), value, end_value)


def wsd(t, value, total, decay, warmup, tail, power, start_value, end_value, end, past_end):
    fall = (decay - (end == "inclusive"), "exclusive", "hold")
    n = t - (total - decay)
    down = {
        "linear": lambda: linear(n, value, end_value, *fall),
        "cosine": lambda: cosine(n, value, fall[0], end_value, 1, *fall[1:]),
        "1-sqrt": lambda: power_decay(n, value, fall[0], 0.5, end_value, *fall[1:]),
        "1-power": lambda: power_decay(n, value, fall[0], power, end_value, *fall[1:]),
        "exponential": lambda: geometric(n, value, end_value, *fall),
    }[tail]()
    up = linear(t, start_value, value, warmup, "exclusive", "hold")
    return np.where(t < warmup, up, np.where(n < 0, value, down))


def one_cycle(
    t, value, total, pct_start, div_factor, final_div_factor, anneal, three_phase, end, past_end
):
    last = max(0, total - (end == "inclusive"))
    up = max(0, min(round(pct_start * total) - (end == "inclusive"), last))
    low = value / div_factor
    knots = [(0, low), (up, value), (last, low / final_div_factor)]
    if three_phase:
        knots.insert(2, (min(2 * up, last), low))
    return interpolate(t, knots, anneal, past_end)


def interpolate(t, points, anneal, past_end):
    return through(line if anneal == "linear" else wave, t, *zip(*points, strict=True))


def table(t, values, past_end):
    return np.array(values)[np.minimum(t, len(values) - 1).astype(int)]


def cyclic(t, lower, upper, step_size, step_size_down, policy, gamma, anneal, end):
    if policy == "annealing":
        n = remainder(t, step_size)
        return decay(line if anneal == "linear" else wave, n, upper, lower, step_size, end)
    up = float(step_size)
    down = up if step_size_down is None else float(step_size_down)
    cycles = whole(t, up + down)
    in_cycle = t - cycles * (up + down)
    rising = in_cycle < up
    height, length = np.where(rising, in_cycle, up + down - in_cycle), np.where(rising, up, down)
    if policy == "triangular":
        return np.where(
            rising, line(in_cycle, up, lower, upper), line(in_cycle - up, down, upper, lower)
        )
    if policy == "triangular2":
        halvings = least(cycles, 2044.0)
        some = np.floor(halvings * 0.5)
        done = height * two_to(-some) * two_to(some - halvings)
        return weighted(two_sum(length, -done), done, length, lower, upper)
    growth, exponent = exp2(factor_times(factor(log2(gamma)), t))
    left = (length - height) + height * complement(growth, exponent)
    done = height * exp2_times(growth, exponent, 1.0)
    return between(left / length, done / length, lower, upper)


# ---- composition ----


def join(t, schedules, at):
    values = evaluate(schedules[0], t)
    for child, begin in zip(schedules[1:], at, strict=True):
        later = t >= begin
        values[later] = evaluate(child, t[later] - begin)
    return values


def add(t, schedules):
    return evaluate(schedules[0], t) + evaluate(schedules[1], t)


def multiply(t, schedules):
    return evaluate(schedules[0], t) * evaluate(schedules[1], t)


def scale(t, of, factor):
    return evaluate(of, t) * factor


def clamp(t, of, lower, upper):
    x = evaluate(of, t)
    x = x if lower is None else np.where(x < lower, lower, x)
    return x if upper is None else np.where(x > upper, upper, x)


def shift(t, of, by):
    return evaluate(of, np.clip(t - by, 0, 2.0**52 - 1))


def repeat(t, of, every):
    return evaluate(of, remainder(t, every))


def stairs(t, of, every):
    return evaluate(of, whole(t, every))


def warmup(t, of, updates, start_value, one_based):
    peak = evaluate(of, np.zeros(1))[0]
    n = t + 1 if one_based else t
    rise = line(n, float(updates), start_value, peak) if updates else peak
    if "total" in of:
        of = {**of, "total": of["total"] - updates}
    return np.where(t < updates, rise, evaluate(of, np.maximum(t - updates, 0)))


def evaluate(described: dict[str, Any], t: Any) -> Any:
    """The schedule that ``Schedule.to_dict()`` described, at the steps ``t``."""
    arguments = dict(described)
    function = globals()[arguments.pop("schedule")]
    with np.errstate(all="ignore"):
        return function(np.array(t, dtype=np.float64), **arguments)
