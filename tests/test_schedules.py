"""Schedules: every bit against the NumPy reference, every value against mpmath, the contract."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradstep as gs
import reference_schedules as reference
from gradstep import _core, schedules
from gradstep.schedules.base import MAKERS

TARGETS = gs.config()["targets"]

CASES = [
    schedules.constant(0.1),
    schedules.constant(-0.0),
    schedules.linear(0.0, 0.1, total=7),
    schedules.linear(0.1, 0.0, total=999_983, end="inclusive"),
    schedules.linear(-3.0, 5.0, total=10**12),
    schedules.linear(1e-8, 1.0, total=0),
    schedules.linear(1e-8, 1.0, total=1, end="inclusive"),
    schedules.step(0.1, step_size=30),
    schedules.step(1.0, step_size=1, gamma=0.999),
    schedules.step(-2.0, step_size=7, gamma=1.5),
    schedules.step(1.0, step_size=3, gamma=0.0),
    schedules.step(1.0, step_size=3, gamma=5e-324),
    schedules.step(1e-310, step_size=3, gamma=0.75),
    schedules.drop(0.1, milestones=[30, 60, 60, 5000]),
    schedules.drop(0.1, milestones=[0, 1, 10**12], values=[-1.0, 0.0, 7.0]),
    schedules.drop(0.1, milestones=[]),
    schedules.exponential(0.1, decay_rate=0.96, decay_steps=1000),
    schedules.exponential(0.1, decay_rate=1 - 1e-9, begin=100),
    schedules.exponential(0.1, decay_rate=0.5, decay_steps=100, staircase=True, begin=50),
    schedules.exponential(0.1, decay_rate=0.0, decay_steps=10),
    schedules.exponential(-1.0, decay_rate=3.0, decay_steps=7),
    schedules.polynomial(0.1, total=1000),
    schedules.polynomial(0.0, total=10**12, power=0.5, end_value=1.0),
    schedules.polynomial(1.0, total=12345, power=2, end_value=1e-9, end="inclusive"),
    schedules.polynomial(1.0, total=0, power=3),
    schedules.polynomial(1.0, total=10**6, power=1e300),
    schedules.cosine(0.1, total=100),
    schedules.cosine(0.0, total=10**12, end_value=1.0),
    schedules.cosine(1.0, total=12345, end_value=1e-9, end="inclusive"),
    schedules.cosine(1.0, total=0),
    schedules.cyclic(0.001, 0.1, step_size=2000),
    schedules.cyclic(0.95, 0.85, step_size=30, step_size_down=7),
    schedules.cyclic(0.0, 1.0, step_size=10, policy="annealing"),
    schedules.cyclic(0.0, 1.0, step_size=11, policy="annealing", end="inclusive"),
    schedules.cyclic(0.2, 1.0, step_size=13, policy="annealing", anneal="cosine"),
    schedules.cyclic(0.2, 1.0, step_size=1, policy="annealing", anneal="cosine", end="inclusive"),
    schedules.cyclic(0.01, 0.1, step_size=50, policy="triangular2"),
    schedules.cyclic(-1.0, 1.0, step_size=5, step_size_down=3, policy="triangular2"),
    schedules.cyclic(0.01, 0.1, step_size=500, policy="exp_range", gamma=1 - 1e-6),
    schedules.cyclic(0.95, 0.85, 7, step_size_down=40, policy="exp_range", gamma=0.999),
    schedules.geometric(1e-7, 10.0, total=100),
    schedules.geometric(-1.0, -1e-300, total=10**12, end="inclusive"),
    schedules.geometric(2.0, 1.0, total=0),
    schedules.inverse_time(0.1, decay_rate=0.5, decay_steps=1000),
    schedules.inverse_time(1e290, decay_rate=1e290),
    schedules.inverse_time(-1.0, decay_rate=0.01, decay_steps=7, staircase=True),
    schedules.inverse_sqrt(0.1, timescale=100),
    schedules.inverse_sqrt(-0.3, timescale=2.5, warmup=77, start_value=0.1),
    schedules.inverse_sqrt(1e-310, timescale=10),
    schedules.noam(512, warmup=4000),
    schedules.noam(1, warmup=0, factor=-3.0),
    schedules.polynomial(0.1, total=37, power=0.9, end_value=0.01, cycle=True),
    schedules.power_decay(0.1, total=1000),
    schedules.power_decay(-1.0, total=10**12, power=3.5, end_value=2.0, end="inclusive"),
    schedules.power_decay(0.1, total=0, end_value=0.01),
    schedules.power_decay(0.1, total=999, power=2, end_value=0.7),
    schedules.polynomial(0.1, total=999, power=2, end_value=0.7),
    schedules.polynomial(0.1, total=999, power=0.5, end_value=-0.7),
    schedules.cosine(0.1, total=100, power=2.0),
    schedules.cosine(0.3, total=999, end_value=-1.0, power=0.3, end="inclusive"),
    schedules.cosine_wave(0.1, half_period=20, end_value=0.001),
    schedules.cosine_wave(0.0, half_period=0.75, end_value=1.0),
    schedules.cosine_restarts(0.1, first=10),
    schedules.cosine_restarts(0.1, first=10, gamma=0.5, end_value=0.01, end="inclusive"),
    schedules.cosine_restarts(0.1, first=1, t_mult=3),
    schedules.cosine_restarts(0.1, first=7, t_mult=1.5, gamma=0.9, end_value=1e-3),
    schedules.cosine_restarts(-0.1, first=1, t_mult=2, end_value=1.0, end="inclusive"),
    schedules.cosine_restarts(0.1, first=2**40, t_mult=1e300, end="inclusive"),
    schedules.tanh(0.1, total=100),
    schedules.tanh(-1.0, total=10**12, end_value=3.0, lower=5.0, upper=-300.0),
    schedules.tanh(1.0, total=0, end_value=0.5),
    schedules.wsd(0.1, total=1000, decay=200, warmup=50),
    schedules.wsd(0.1, total=300, decay=100, tail="cosine", end_value=0.01, end="inclusive"),
    schedules.wsd(0.1, total=300, decay=300, tail="1-sqrt"),
    schedules.wsd(0.1, total=300, decay=100, warmup=200, tail="1-power", power=2.5),
    schedules.wsd(0.1, total=10**6, decay=10**5, tail="exponential", end_value=1e-5),
    schedules.wsd(0.1, total=10, decay=0, warmup=10, end_value=0.01),
    schedules.one_cycle(0.1, total=100),
    schedules.one_cycle(0.1, total=101, anneal="linear", three_phase=True, end="inclusive"),
    schedules.one_cycle(0.1, total=1, pct_start=0.0),
    schedules.one_cycle(0.1, total=0),
    schedules.one_cycle(0.1, total=10**12, pct_start=0.25),
    schedules.interpolate([(0, 0.0), (10.5, 1.0), (10.5, 0.5), (300, 0.25)]),
    schedules.interpolate([(-3.25, 1.0), (7, 0.0), (10**6, 2.0)], anneal="cosine"),
    schedules.interpolate([(5, 3.0)]),
    schedules.table([0.5, -1.0, 1e-300, 7.0] * 30),
    schedules.table([2.0]),
    schedules.join([schedules.linear(0.0, 0.1, 10), schedules.cosine(0.1, 90)], at=[10]),
    schedules.cosine(0.1, total=100).scale(-0.3),
    schedules.linear(1.0, -1.0, total=100).clamp(-0.25, 0.5),
    schedules.linear(1.0, -1.0, total=10**6).clamp(upper=0.9),
    schedules.cosine(0.1, total=100).shift(37),
    schedules.cosine(0.1, total=100).shift(-37),
    schedules.step(0.1, 7).shift(-(2**52 - 1)),
    schedules.linear(0.1, 0.0, total=5).repeat(5),
    schedules.cosine(0.1, total=500, end="inclusive").repeat(500),
    schedules.exponential(0.1, 0.9).stairs(10),
    schedules.exponential(0.1, 0.9).stairs(1000),
    schedules.cosine(0.1, total=1000).warmup(100),
    schedules.step(0.1, 30).warmup(10, 0.01, one_based=True),
    schedules.constant(0.1).warmup(0),
    schedules.linear(1.0, 0.1, 100) * schedules.step(0.1, 30) + 0.01,
    (0.5 * schedules.cosine(0.1, 50)).repeat(70) * schedules.table([1.0, 2.0, 0.5]),
    schedules.join(
        [
            schedules.join([schedules.constant(1.0), schedules.step(3.0, 2)], at=[5]),
            schedules.constant(9.0),
            schedules.cyclic(0.0, 1.0, step_size=4),
        ],
        at=[17, 17],
    ),
]


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype == np.float64 and a.tobytes() == b.tobytes()


def steps(n=600):
    """The first steps, the last legal ones, and some of each size between, in no order."""
    rng = np.random.default_rng(5)
    some = (10 ** rng.uniform(0, 12, n)).astype(np.int64)
    ends = [999_982, 999_983, 10**12 - 1, 10**12, 10**12 + 1, 2**52 - 1]
    return rng.permutation(np.concatenate([np.arange(n), some, ends]))


# ---- bits ----


def test_every_schedule_is_known_everywhere():
    cases = {case.to_dict()["schedule"] for case in CASES}
    assert cases == set(MAKERS)
    assert all(callable(getattr(reference, name)) for name in MAKERS)
    shapes = {name for name in MAKERS if not hasattr(schedules.Schedule, name)}
    assert shapes - {"add", "multiply"} <= set(schedules.__all__)


@pytest.mark.parametrize("s", CASES, ids=repr)
def test_the_same_bits_on_every_target_scalar_or_array(s):
    t = steps()
    expected = reference.evaluate(s.to_dict(), t)
    for target in TARGETS:
        gs.set_target(target)
        assert same_bits(s(t), expected)
        assert same_bits([s(int(k)) for k in t], expected)
        for run in (np.arange(1077), np.arange(40, 77), np.arange(10**12, 10**12 + 600)):
            expected_run = reference.evaluate(s.to_dict(), run)
            assert same_bits(s(run), expected_run)
            assert same_bits(s.range(int(run[0]), int(run[-1]) + 1), expected_run)
            assert same_bits(s(run[::-1]), expected_run[::-1].copy())


@pytest.mark.parametrize("s", CASES, ids=repr)
def test_the_same_bits_on_any_number_of_threads(s):
    t = np.arange(100_003)
    gs.set_num_threads(1)
    expected = s(t)
    _core.set_eager(True)
    for threads in (2, 3, 4):
        gs.set_num_threads(threads)
        assert same_bits(s(t), expected)
        assert same_bits(s.range(100_003), expected)
    some = t[::997]
    assert same_bits(expected[::997], reference.evaluate(s.to_dict(), some))


# ---- accuracy ----


def exact(described, t, mp):
    """The value at `t` to 60 digits, from the formulas of the docstrings."""
    a = {k: mp.mpf(v) if isinstance(v, float) else v for k, v in described.items()}
    name = a["schedule"]
    value, end = a.get("value"), a.get("end_value")
    if name == "step":
        return value * a["gamma"] ** (t // a["step_size"])
    if name == "exponential":
        n = max(0, t - a["begin"])
        exponent = n // a["decay_steps"] if a["staircase"] else mp.mpf(n) / a["decay_steps"]
        return value * a["decay_rate"] ** exponent
    if name == "inverse_time":
        n = t // a["decay_steps"] if a["staircase"] else mp.mpf(t) / a["decay_steps"]
        return value / (1 + a["decay_rate"] * n)
    if name == "inverse_sqrt":
        return value * mp.sqrt(a["timescale"] / (t + a["timescale"]))
    if name == "noam":
        n, w = mp.mpf(t + 1), mp.mpf(a["warmup"])
        falling = 1 / mp.sqrt(n)
        rise = min(falling, n / w ** mp.mpf(1.5)) if w else falling
        return a["factor"] / mp.sqrt(a["model_size"]) * rise
    if name == "cyclic":
        lower, upper, s = a["lower"], a["upper"], a["step_size"]
        c = 1 + t // (2 * s)
        scale = {"triangular": 1, "triangular2": mp.mpf(2) ** (1 - c)}.get(a["policy"])
        scale = a["gamma"] ** t if scale is None else scale
        y = abs(mp.mpf(t) / s - 2 * c + 1)
        return lower + (upper - lower) * max(0, 1 - y) * scale
    if name == "cosine_wave":
        return end + (value - end) * mp.cospi(mp.mpf(t) / a["half_period"] / 2) ** 2
    if name == "cosine_restarts":
        begin, length, peak = 0, a["first"], value
        while t >= begin + length:
            begin, length, peak = begin + length, length * int(a["t_mult"]), peak * a["gamma"]
        return end + (peak - end) * mp.cospi(mp.mpf(t - begin) / length / 2) ** 2
    if name == "interpolate":
        points = [(mp.mpf(x), mp.mpf(v)) for x, v in a["points"]]
        for (x, v), (x_after, v_after) in itertools.pairwise(points):
            if x <= t < x_after:
                part = (t - x) / (x_after - x)
                if a["anneal"] == "cosine":
                    part = mp.sinpi(part / 2) ** 2
                return v + (v_after - v) * part
        return points[-1][1]
    if name == "polynomial" and a["cycle"]:
        left = 1 - mp.mpf(t) / (a["total"] * max(1, -(-t // a["total"])))
        return end + (value - end) * left ** a["power"]
    x = mp.mpf(min(t, a["total"])) / a["total"]
    if name == "geometric":
        return value * (end / value) ** x
    if name == "power_decay":
        done = x ** a["power"]
        return value * (1 - done) + end * done
    left = {
        "linear": lambda: 1 - x,
        "cosine": lambda: mp.cospi(x / 2) ** (2 * a["power"]),
        "polynomial": lambda: (1 - x) ** a["power"],
        "tanh": lambda: 1 / (1 + mp.exp(2 * (a["lower"] * (1 - x) + a["upper"] * x))),
    }[name]()
    return end + (value - end) * left


def random_schedule(name, rng):
    """One with random arguments, and the step at which it has nearly or wholly ended."""
    a, b = 10.0 ** rng.uniform(-6, 1, 2)
    a, b = [(a, 0.0), (0.0, a), (a, b), (-a, -b), (a, -b)][rng.integers(5)]
    total = int(10 ** rng.uniform(0, 12))
    power = float(rng.choice([0.5, 0.9, 1, 2, 3, rng.uniform(0.1, 10), rng.uniform(10, 100)]))
    if name == "linear":
        return schedules.linear(a, b, total), total
    if name == "cosine":
        return schedules.cosine(a, total, end_value=b), total
    if name == "cosine, power":
        power = float(rng.choice([0.5, 2.0, rng.uniform(0.1, 4)]))
        return schedules.cosine(a, total, end_value=b, power=power), total
    if name == "cosine_wave":
        return schedules.cosine_wave(a, total, end_value=b), 10 * total
    if name == "cosine_restarts":
        first, t_mult = int(10 ** rng.uniform(0, 6)), int(rng.integers(1, 4))
        gamma = float(rng.choice([1.0, 0.5, rng.uniform(0.3, 1)]))
        made = schedules.cosine_restarts(a, first, t_mult, gamma=gamma, end_value=b)
        return made, 30 * first
    if name == "polynomial":
        return schedules.polynomial(a, total, power, end_value=b), total
    if name == "polynomial, cycle":
        return schedules.polynomial(a, total, power, end_value=b, cycle=True), 10 * total
    if name == "power_decay":
        return schedules.power_decay(a, total, power, end_value=b), total
    if name == "tanh":
        lower, upper = rng.uniform(-10, 10, 2)
        return schedules.tanh(a, total, end_value=b, lower=lower, upper=upper), total
    if name == "cyclic, exp_range":
        s, gamma = int(10 ** rng.uniform(0, 6)), 1 - 10.0 ** rng.uniform(-12, -1)
        return schedules.cyclic(a, b, s, policy="exp_range", gamma=gamma), 10 * s
    if name.startswith("cyclic"):
        s = int(10 ** rng.uniform(0, 6))
        return schedules.cyclic(a, b, s, policy=name.partition(", ")[2]), 10 * s
    if name.startswith("interpolate"):
        x = np.sort(rng.integers(0, total + 1, 5)).tolist()
        v = (rng.choice([-1, 1]) * 10.0 ** rng.uniform(-6, 1, 5)).tolist()
        points = list(zip([0, *x], [v[0], *v], strict=True))
        return schedules.interpolate(points, anneal=name.partition(", ")[2]), total
    a = a or 1.0
    if name == "geometric":
        b = a * 10.0 ** rng.uniform(-12, 4)
        return schedules.geometric(a, b, total), total
    if name == "inverse_time":
        rate, steps = 10.0 ** rng.uniform(-6, 2), int(10 ** rng.uniform(0, 9))
        return schedules.inverse_time(a, rate, steps, staircase=bool(rng.integers(2))), total
    if name == "inverse_sqrt":
        return schedules.inverse_sqrt(a, float(int(10 ** rng.uniform(0, 6)))), total
    if name == "noam":
        warmup = int(10 ** rng.uniform(0, 6))
        factor, size = float(rng.choice([1.0, a])), float(rng.integers(1, 4096))
        return schedules.noam(size, warmup, factor), 10 * warmup
    rate = float(rng.choice([0.1, 0.5, 0.96, 1 - 10 ** rng.uniform(-12, -2), rng.uniform(0.01, 2)]))
    length = int(10 ** rng.uniform(0, 9))
    # until nothing but subnormal or infinite values is left
    span = int(min(10**12, 650 / abs(math.log(rate)) * length)) if rate != 1 else 10**12
    if name == "step":
        return schedules.step(a, length, rate), span
    staircase = bool(rng.integers(2))
    begin = int(rng.integers(100))
    return schedules.exponential(a, rate, length, begin=begin, staircase=staircase), span


# Arithmetic within 2 ULP, what has cos, exp or pow within 4.
ULPS = {
    "linear": 2,
    "cyclic, triangular": 2,
    "cyclic, triangular2": 2,
    "interpolate, linear": 2,
    "inverse_time": 2,
    "inverse_sqrt": 2,
    "noam": 2,
    "cyclic, exp_range": 4,
    "cosine": 4,
    "cosine, power": 4,
    "cosine_wave": 4,
    "cosine_restarts": 4,
    "interpolate, cosine": 4,
    "polynomial": 4,
    "polynomial, cycle": 4,
    "power_decay": 4,
    "geometric": 4,
    "tanh": 4,
    "step": 4,
    "exponential": 4,
}


def largest_error(name, count, seed):
    """The largest error in ULP of the value, or of the larger end where signs differ."""
    mp = pytest.importorskip("mpmath").mp.clone()
    mp.dps = 60
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(count // 20):
        s, span = random_schedule(name, rng)
        near = np.minimum(span, (10 ** rng.uniform(0, math.log10(span + 1), 6)).astype(np.int64))
        t = np.concatenate([rng.integers(0, span, 8, endpoint=True), near, span - near])
        described = s.to_dict()
        kind = "lower upper" if described["schedule"] == "cyclic" else "value end_value factor"
        ends = [described[k] for k in kind.split() if k in described] or [
            v for _, v in described["points"]
        ]
        signs_differ = min(ends) < 0 < max(ends)
        for k, got in zip(t.tolist(), s(t).tolist(), strict=True):
            want = exact(described, k, mp)
            size = max(map(abs, ends)) if signs_differ else abs(float(want))
            worst = max(worst, abs(float((mp.mpf(got) - want) / mp.mpf(math.ulp(size)))))
    return worst


@pytest.mark.parametrize("name", ULPS)
def test_error_against_mpmath(name):
    assert largest_error(name, 4000, seed=1) <= ULPS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ULPS)
def test_error_against_mpmath_at_many_points(name):
    assert largest_error(name, 40_000, seed=2) <= ULPS[name]


# ---- where things happen ----

values = st.floats(-1e6, 1e6, allow_subnormal=False)
lengths = st.one_of(st.integers(0, 50), st.integers(0, 10**12))


@settings(deadline=None, max_examples=200)
@given(
    values, values, lengths, st.floats(0.01, 50), st.sampled_from(["exclusive", "inclusive"]),
    st.data(),
)  # fmt: skip
def test_ends_are_exact_and_never_passed(a, b, total, power, end, data):
    for s in (
        schedules.linear(a, b, total, end=end),
        schedules.cosine(a, total, end_value=b, end=end),
        schedules.polynomial(a, total, power, end_value=b, end=end),
    ):
        last = max(0, total - (end == "inclusive"))
        assert s(0) == (a if last > 0 else b)
        assert s(last) == s(last + 1) == s(10**12 + 1) == b
        between = s(data.draw(st.integers(0, last)))
        assert min(a, b) <= between <= max(a, b)


@settings(deadline=None, max_examples=200)
@given(values, values, st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**5))
def test_cycles_turn_at_their_integers(lower, upper, up, down, n):
    s = schedules.cyclic(lower, upper, up, step_size_down=down)
    start = n * (up + down)
    assert s(start) == s(start + up + down) == lower
    assert s(start + up) == upper
    for anneal in ("linear", "cosine"):
        s = schedules.cyclic(lower, upper, up, policy="annealing", anneal=anneal)
        assert s(n * up) == upper
        s = schedules.cyclic(lower, upper, up, policy="annealing", anneal=anneal, end="inclusive")
        assert s(n * up + up - 1) == lower
        assert s(n * up) == (upper if up > 1 else lower)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_steps_drop_at_their_integers(step_size, n):
    s = schedules.step(1.0, step_size, gamma=0.5)
    for m in (n, n % 1000):
        assert s(m * step_size) == s((m + 1) * step_size - 1) == math.ldexp(1.0, -m)
    stairs = schedules.exponential(1.0, 0.5, step_size, staircase=True)
    assert stairs(n * step_size) == s(n * step_size)


def test_a_milestone_is_the_first_step_after_the_drop():
    s = schedules.drop(1.0, [3, 5, 5], gamma=0.5)
    assert s(np.arange(7)).tolist() == [1, 1, 1, 0.5, 0.5, 0.125, 0.125]
    s = schedules.drop(1.0, [0, 5], values=[2, 3])
    assert s(np.arange(7)).tolist() == [2, 2, 2, 2, 2, 3, 3]
    assert schedules.drop(1.0, [2])(2) == schedules.drop(1.0, [2], 0.1)(2) == 0.1


def test_the_tail_of_a_cosine_is_not_lost():
    s = schedules.cosine(1.0, total=10**6)
    tail = s(np.arange(10**6 - 100, 10**6 + 1))
    assert (np.diff(tail) < 0).all()
    assert tail[-2] == pytest.approx((math.pi / 2e6) ** 2, rel=1e-11)


def test_formulas():
    t = np.arange(130)
    x = np.minimum(t, 100) / 100
    close = {"rtol": 1e-13, "atol": 1e-16}
    for s, expected in [
        (schedules.linear(0.5, 0.1, 100), 0.5 - 0.4 * x),
        (schedules.cosine(0.5, 100, end_value=0.1), 0.1 + 0.2 * (1 + np.cos(np.pi * x))),
        (schedules.polynomial(0.5, 100, 3, end_value=0.1), 0.1 + 0.4 * (1 - x) ** 3),
        (schedules.step(0.5, 30, 0.1), 0.5 * 0.1 ** (t // 30)),
        (schedules.exponential(0.5, 0.9, 10), 0.5 * 0.9 ** (t / 10)),
        (schedules.exponential(0.5, 0.9, 10, begin=20), 0.5 * 0.9 ** (np.maximum(0, t - 20) / 10)),
        (schedules.cyclic(1, 2, 8), 2 - np.abs(t / 8 - 2 * np.floor(1 + t / 16) + 1)),
        (
            schedules.cyclic(1, 2, 8, policy="annealing", anneal="cosine"),
            1 + np.cos(np.pi * (t % 8) / 16) ** 2,
        ),
    ]:
        np.testing.assert_allclose(s(t), expected, **close)


def test_no_length_means_finished():
    for end in ("exclusive", "inclusive"):
        assert schedules.linear(1.0, 2.0, 0, end=end)(0) == 2
        assert schedules.cosine(1.0, 0, end_value=2.0, end=end)(0) == 2
        assert schedules.polynomial(1.0, 0, end_value=2.0, end=end)(0) == 2
    assert schedules.cosine(1.0, 1, end_value=2.0, end="inclusive")(0) == 2
    assert schedules.join([schedules.constant(1), schedules.constant(2)], at=[0])(0) == 2


@pytest.mark.parametrize(("end", "last"), [("exclusive", 10), ("inclusive", 9)])
def test_past_the_end(end, last):
    for s in (
        schedules.linear(1, 2, 10, end=end, past_end="raise"),
        schedules.cosine(1, 10, end_value=2, end=end, past_end="raise"),
        schedules.polynomial(1, 10, end_value=2, end=end, past_end="raise"),
        schedules.join(
            [schedules.constant(0), schedules.linear(1, 2, 5, end=end, past_end="raise")], at=[5]
        ),
    ):
        assert s(last) == s(np.array([last]))[0] == 2
        with pytest.raises(ValueError, match=r"t: got \d+, wanted 0 to \d+: the schedule ends"):
            s(last + 1)
        with pytest.raises(ValueError, match="past_end"):
            s(np.array([0, last, last + 1]))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 40), max_size=5), st.data())
def test_join_is_its_children_at_t_minus_the_boundary(at, data):
    at = sorted(at)
    children = [data.draw(st.sampled_from(CASES)) for _ in range(len(at) + 1)]
    s = schedules.join(children, at=at)
    t = np.array(data.draw(st.lists(st.integers(0, 60), max_size=80)), dtype=np.int64)
    expected = []
    for k in t.tolist():
        i = sum(boundary <= k for boundary in at)
        expected.append(children[i](k - ([0, *at][i])))
    assert same_bits(s(t), np.array(expected, dtype=np.float64))
    assert same_bits([s(k) for k in t.tolist()] or np.empty(0), expected or np.empty(0))


# ---- a schedule is a value ----


@pytest.mark.parametrize("s", CASES, ids=repr)
def test_a_schedule_is_a_value(s):
    t = np.arange(100)
    for twin in (
        pickle.loads(pickle.dumps(s)),
        eval(repr(s), {"schedules": schedules}),
        schedules.Schedule.from_dict(s.to_dict()),
        schedules.Schedule.from_dict(json.loads(json.dumps(s.to_dict()))),
        copy.copy(s),
        copy.deepcopy(s),
    ):
        assert isinstance(twin, schedules.Schedule)
        assert twin == s
        assert hash(twin) == hash(s)
        assert repr(twin) == repr(s)
        assert same_bits(twin(t), s(t))


def test_unequal_schedules():
    for a, b in itertools.combinations(CASES, 2):
        assert a != b
    assert CASES[0] != 0.1
    assert len(set(CASES)) == len(CASES)


def test_a_schedule_cannot_be_changed():
    s = schedules.constant(1.0)
    with pytest.raises(AttributeError, match="immutable"):
        s.value = 2.0
    with pytest.raises(AttributeError, match="immutable"):
        s._name = "linear"
    with pytest.raises(AttributeError, match="immutable"):
        del s._name
    milestones = [1, 2]
    s = schedules.drop(1.0, milestones)
    milestones.append(3)
    assert s == schedules.drop(1.0, [1, 2])


def test_a_schedule_that_was_not_made():
    s = schedules.Schedule.__new__(schedules.Schedule)
    with pytest.raises(TypeError, match="__init__"):
        s(0)


# ---- steps ----


@pytest.mark.parametrize(
    "t",
    [
        np.arange(12).reshape(3, 4),
        np.arange(12).reshape(3, 4).T,
        np.arange(12)[::-3],
        np.arange(12, dtype=np.int8),
        np.arange(12, dtype=np.uint64),
        np.arange(12, dtype=">i4"),
        np.array(7),
        np.empty((0, 3), dtype=np.int64),
        np.broadcast_to(np.array([3]), (4,)),
    ],
    ids=lambda t: f"{t.dtype.str}{t.shape}{t.strides}",
)
def test_arrays_of_steps(t):
    s = schedules.linear(0, 1, 20)
    t = t.view()
    t.flags.writeable = False
    got = s(t)
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float64
    assert got.shape == t.shape
    assert same_bits(np.ascontiguousarray(got), (t / 20.0).copy(order="C"))


def test_integers_of_any_kind():
    s = schedules.linear(0, 1, 20)
    for t in (5, np.int8(5), np.uint64(5), np.int64(5)):
        assert type(s(t)) is float
        assert s(t) == 0.25


@pytest.mark.parametrize(
    ("t", "error", "message"),
    [
        (-1, ValueError, "t: got -1, wanted 0 <= t < 2**52"),
        (2**52, ValueError, "t: got 4503599627370496, wanted 0 <= t < 2**52"),
        (10**30, ValueError, f"t: got {10**30}, wanted 0 <= t < 2**52"),
        (-(10**30), ValueError, f"t: got {-(10**30)}, wanted 0 <= t < 2**52"),
        (np.int64(-1), ValueError, "t: got -1, wanted"),
        (True, TypeError, "t: got bool (True), wanted an integer or an array of integers"),
        (np.True_, TypeError, "wanted an integer or an array of integers"),
        (1.0, TypeError, "t: got float (1.0), wanted an integer or an array of integers"),
        (np.float64(1), TypeError, "t: got numpy.float64"),
        ("1", TypeError, "t: got str ('1'), wanted"),
        (None, TypeError, "t: got NoneType (None), wanted"),
        ({1, 2}, TypeError, "t: got set ({1, 2}), wanted an integer or an array of integers"),
        (np.arange(3.0), TypeError, "t: got an array of float64, wanted an integer"),
        (np.array([True]), TypeError, "t: got an array of bool, wanted an integer"),
        (np.array([object()]), TypeError, "t: got an array of object, wanted an integer"),
        (np.array(["2020"], dtype="M8[Y]"), TypeError, "t: got an array of datetime64[Y]"),
        (np.ma.array([1], mask=[True]), TypeError, "t: got a masked array, wanted"),
        (np.array([0, -3]), ValueError, "t: got -3 at index 1, wanted 0 <= t < 2**52"),
        (np.array([0, 2**52]), ValueError, "t: got 4503599627370496 at index 1, wanted"),
        (np.array([2**64 - 1], np.uint64), ValueError, f"t: got {2**64 - 1}, wanted"),
    ],
)
def test_bad_steps(t, error, message):
    for s in (schedules.constant(1.0), schedules.join([schedules.step(1.0, 3)], at=[])):
        with pytest.raises(error, match=re.escape(message)):
            s(t)


def test_a_call_takes_one_argument():
    s = schedules.constant(1.0)
    for call in (s, lambda: s(1, 2), lambda: s(1, at=None), lambda: s(t=1)):
        with pytest.raises(TypeError, match="exactly one argument"):
            call()


# ---- arguments ----

C = schedules.constant(1.0)
BAD_ARGUMENTS = [
    (lambda: schedules.constant("0.1"), TypeError, "value: got '0.1' (str), wanted a number"),
    (lambda: schedules.constant(None), TypeError, "value: got None (NoneType), wanted a number"),
    (lambda: schedules.constant(True), TypeError, "value: got True (bool), wanted a number"),
    (lambda: schedules.constant(1j), TypeError, "value: got 1j (complex), wanted a number"),
    (lambda: schedules.constant(np.ones(1)), TypeError, "value: got array([1.]) (ndarray)"),
    (lambda: schedules.constant(math.nan), ValueError, "value: got nan, wanted a finite number"),
    (lambda: schedules.constant(-math.inf), ValueError, "value: got -inf, wanted a finite number"),
    (lambda: schedules.constant(10**400), ValueError, "wanted a finite number"),
    (lambda: schedules.constant(-1e291), ValueError, "value: got -1e+291, wanted -1e290 to 1e290"),
    (lambda: schedules.linear(0, math.nan, 1), ValueError, "end_value: got nan"),
    (lambda: schedules.linear(0, 1, 1.0), TypeError, "total: got 1.0 (float), wanted an integer"),
    (lambda: schedules.linear(0, 1, True), TypeError, "total: got True (bool), wanted an integer"),
    (lambda: schedules.linear(0, 1, -1), ValueError, "total: got -1, wanted 0 <= total < 2**52"),
    (lambda: schedules.linear(0, 1, 2**52), ValueError, "total: got 4503599627370496, wanted"),
    (
        lambda: schedules.linear(0, 1, 1, end="open"),
        ValueError,
        "end: got 'open', wanted 'exclusive' or 'inclusive'",
    ),
    (
        lambda: schedules.cosine(0, 1, past_end=None),
        ValueError,
        "past_end: got None, wanted 'hold' or 'raise'",
    ),
    (lambda: schedules.cosine(0, None), TypeError, "total: got None (NoneType), wanted an integer"),
    (lambda: schedules.cosine(0, 1, end_value="0"), TypeError, "end_value: got '0' (str)"),
    (lambda: schedules.polynomial(1, 1, 0), ValueError, "power: got 0.0, wanted a number > 0"),
    (lambda: schedules.polynomial(1, 1, -1), ValueError, "power: got -1.0, wanted a number > 0"),
    (lambda: schedules.polynomial(1, 1, math.inf), ValueError, "power: got inf, wanted a finite"),
    (lambda: schedules.step(1, 0), ValueError, "step_size: got 0, wanted 1 <= step_size < 2**52"),
    (lambda: schedules.step(1, 2.5), TypeError, "step_size: got 2.5 (float), wanted an integer"),
    (lambda: schedules.step(1, 1, -0.5), ValueError, "gamma: got -0.5, wanted a number >= 0"),
    (lambda: schedules.step(1, 1, math.nan), ValueError, "gamma: got nan, wanted a finite number"),
    (
        lambda: schedules.drop(1, 5),
        TypeError,
        "milestones: got 5 (int), wanted a sequence of steps",
    ),
    (lambda: schedules.drop(1, "12"), TypeError, "milestones: got '12' (str), wanted a sequence"),
    (lambda: schedules.drop(1, [1.5]), TypeError, "milestones[0]: got 1.5 (float), wanted"),
    (lambda: schedules.drop(1, [1, -1]), ValueError, "milestones[1]: got -1, wanted 0 <="),
    (lambda: schedules.drop(1, [5, 3]), ValueError, "milestones: got (5, 3), wanted steps that do"),
    (lambda: schedules.drop(1, [5], -1.0), ValueError, "gamma: got -1.0, wanted a number >= 0"),
    (lambda: schedules.drop(1, [5], 0.1, values=[1]), ValueError, "gamma: got 0.1 together with"),
    (
        lambda: schedules.drop(1, [5], values=[]),
        ValueError,
        "values: got 0, wanted 1, one for each",
    ),
    (lambda: schedules.drop(1, [5], values=[math.inf]), ValueError, "values[0]: got inf, wanted"),
    (lambda: schedules.drop(1, [5], values=3.0), TypeError, "values: got 3.0 (float), wanted"),
    (lambda: schedules.exponential(1, -1), ValueError, "decay_rate: got -1, wanted a number >= 0"),
    (lambda: schedules.exponential(1, 1, 0), ValueError, "decay_steps: got 0, wanted 1 <="),
    (lambda: schedules.exponential(1, 1, begin=-1), ValueError, "begin: got -1, wanted 0 <="),
    (lambda: schedules.exponential(1, 1, staircase=1), TypeError, "staircase: got 1, wanted True"),
    (lambda: schedules.cyclic(math.nan, 1, 1), ValueError, "lower: got nan, wanted a finite"),
    (lambda: schedules.cyclic(0, math.inf, 1), ValueError, "upper: got inf, wanted a finite"),
    (lambda: schedules.cyclic(0, 1, 0), ValueError, "step_size: got 0, wanted 1 <="),
    (lambda: schedules.cyclic(0, 1, 1, step_size_down=0), ValueError, "step_size_down: got 0"),
    (
        lambda: schedules.cyclic(0, 1, 2**51, step_size_down=2**51),
        ValueError,
        "step_size + step_size_down: got 4503599627370496",
    ),
    (
        lambda: schedules.cyclic(0, 1, 1, policy="triangular3"),
        ValueError,
        "policy: got 'triangular3', wanted 'triangular' or 'triangular2'",
    ),
    (
        lambda: schedules.cyclic(0, 1, 1, policy="annealing", anneal="cos"),
        ValueError,
        "anneal: got 'cos', wanted 'linear' or 'cosine'",
    ),
    (lambda: schedules.cyclic(0, 1, 1, anneal="cosine"), ValueError, "anneal: got 'cosine' with"),
    (lambda: schedules.cyclic(0, 1, 1, end="inclusive"), ValueError, "end: got 'inclusive' with"),
    (
        lambda: schedules.cyclic(0, 1, 4, step_size_down=4, policy="annealing"),
        ValueError,
        "step_size_down: got 4 with",
    ),
    (lambda: schedules.join([], at=[]), ValueError, "at: got 0 boundaries for 0 schedules, wanted"),
    (lambda: schedules.join([C], at=[1]), ValueError, "at: got 1 boundaries for 1 schedules"),
    (lambda: schedules.join([C, C], at=[]), ValueError, "at: got 0 boundaries for 2 schedules"),
    (
        lambda: schedules.join([C, 0.1], at=[1]),
        TypeError,
        "schedules[1]: got 0.1 (float), wanted a",
    ),
    (lambda: schedules.join(C, at=[]), TypeError, "schedules: got schedules.constant(1.0)"),
    (lambda: schedules.join([C, C], at=[-1]), ValueError, "at[0]: got -1, wanted 0 <="),
    (
        lambda: schedules.join([C, C], at=5),
        TypeError,
        "at: got 5 (int), wanted a sequence of steps",
    ),
    (
        lambda: schedules.join([C] * 3, at=[2, 1]),
        ValueError,
        "at: got (2, 1), wanted steps that do",
    ),
    (
        lambda: schedules.Schedule.from_dict({"schedule": "cosin"}),
        ValueError,
        "schedule: got 'cosin', wanted one of",
    ),
    (
        lambda: schedules.Schedule.from_dict({"schedule": "constant", "value": 1, "rate": 2}),
        TypeError,
        "rate",
    ),
]


@pytest.mark.parametrize(
    ("make", "error", "message"), BAD_ARGUMENTS, ids=[message for _, _, message in BAD_ARGUMENTS]
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
