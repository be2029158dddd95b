"""Schedules at work: in arrays of ours, in optimizers, with a metric, in units; and the failures
of mutable schedulers, one by one, which none of them can have."""

import array
import copy
import inspect
import json
import math
import pickle
import re
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradstep as gs
from gradstep import _core, schedules
from gradstep.schedules.base import MAKERS

# ---- into arrays ----


def test_out_is_filled_and_returned():
    s, t = schedules.cosine(0.1, 100), np.arange(300)
    out = np.full(300, np.nan)
    assert s(t, out=out) is out
    assert out.tobytes() == s(t).tobytes()
    out[:] = np.nan
    assert s.range(5, 305, out=out) is out
    assert out.tobytes() == s(np.arange(5, 305)).tobytes()
    grid = np.empty((30, 10))
    assert s(t.reshape(30, 10), out=grid) is grid
    assert grid.tobytes() == s(t).tobytes()
    assert s(t, out=None).tobytes() == s(t).tobytes()
    assert s.range(7).tolist() == s(np.arange(7)).tolist()
    assert s.range(7, 7).tolist() == s.range(7, 3).tolist() == []
    assert s.range(2**52 - 3, 2**52).tolist() == [0, 0, 0]
    assert s.range(np.int64(3), np.uint8(5)).shape == (2,)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty(4), ValueError, r"out: got shape \(4,\), wanted that of the steps, \(3,\)"),
        (np.empty((3, 1)), ValueError, r"out: got shape \(3, 1\)"),
        (np.empty(3, np.float32), TypeError, "out: got an array of float32, wanted float64"),
        (np.empty(3, ">f8"), TypeError, "out: got an array of >f8, wanted float64"),
        (np.empty(6)[::2], ValueError, "out: got an array that is read-only, not contiguous or"),
        (np.broadcast_to(np.empty(1), 3), ValueError, "out: got an array that is read-only"),
        ([0.0] * 3, TypeError, "out: got list, wanted a numpy.ndarray"),
        (np.ma.array(np.empty(3)), TypeError, "out: got MaskedArray, wanted a numpy.ndarray"),
    ],
)
def test_what_out_may_not_be(out, error, message):
    s = schedules.constant(1.0)
    for call in (lambda: s(np.arange(3), out=out), lambda: s.range(3, out=out)):
        with pytest.raises(error, match=message):
            call()


class Column:
    """An array of another library, which NumPy reads by a method: a table's column, say."""

    def __init__(self, values, dtype=None):
        self.values = np.array(values, dtype)
        self.dtype = f"column of {self.values.dtype}"

    def __array__(self, dtype=None, copy=None):
        return self.values


class Elsewhere:
    """One in the memory of another device."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0\ndevice type")


class Index:
    def __index__(self):
        return 3


def of(module, make):
    """A call that skips the test where a library is missing."""
    return lambda: make(pytest.importorskip(module))


OTHER_STEPS = {
    "a list": lambda: [0, 3, 5],
    "a tuple": lambda: (np.int8(0), 3, np.uint64(5)),
    "lists": lambda: [[0, 3], [5, 7]],
    "a list of arrays": lambda: [np.arange(3), np.arange(3)],
    "an empty list": list,
    "a range": lambda: range(2, 9, 3),
    "an empty range": lambda: range(0),
    "a buffer": lambda: memoryview(np.arange(4, dtype=np.int16)),
    "an array of Python's": lambda: array.array("q", [3, 4]),
    "a column": lambda: Column([3, 4], np.int32),
    "a column of objects": lambda: Column([3, 4], object),
    "a column of no dimension": lambda: Column(3),
    "an index": Index,
    "torch": of("torch", lambda torch: torch.arange(5)),
    "torch, every second": of("torch", lambda torch: torch.arange(9, dtype=torch.int32)[::2]),
    "torch, one element": of("torch", lambda torch: torch.tensor([3])),
    "torch, no dimension": of("torch", lambda torch: torch.tensor(3)),
    "jax": of("jax.numpy", lambda jax: jax.arange(5)),
    "jax, no dimension": of("jax.numpy", lambda jax: jax.array(3)),
    "pandas": of("pandas", lambda pandas: pandas.Series([3, 4])),
    "pandas, an index": of("pandas", lambda pandas: pandas.RangeIndex(4)),
    "pandas, nullable": of("pandas", lambda pandas: pandas.Series([3, 4], dtype="Int64")),
    "polars": of("polars", lambda polars: polars.Series([3, 4])),
}


@pytest.mark.parametrize("make", OTHER_STEPS.values(), ids=OTHER_STEPS)
def test_steps_of_other_kinds(make):
    s, t = schedules.cosine(1.0, total=20), make()
    if np.ndim(t) == 0:
        assert type(s(t)) is float
        assert s(t) == s(3)
        return
    got = s(t)
    wanted = s(np.asarray(t).astype(np.int64))
    assert type(got) is np.ndarray
    assert (got.dtype, got.shape, got.tobytes()) == (np.float64, wanted.shape, wanted.tobytes())
    out = np.full(wanted.shape, np.nan)
    assert s(t, out=out) is out
    assert out.tobytes() == wanted.tobytes()


STEPS = "wanted an integer or an array of integers"
WHOLE = " (numpy.asarray(t, dtype='int64') where all are whole)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: [1, 2.0], TypeError, f"t: got list with 2.0 in it, {STEPS}{WHOLE}"),
        (lambda: [True, 2], TypeError, "t: got list with True in it"),
        (lambda: [[1], [None]], TypeError, "t: got list with None in it"),
        (lambda: [[1], [2, 3]], TypeError, "t: got list that NumPy cannot read (setting an array"),
        (lambda: [2**70], ValueError, f"t: got {2**70}, wanted 0 <= t < 2**52"),
        (lambda: [2**63, -1], ValueError, f"t: got {2**63}, wanted 0 <= t < 2**52"),
        (lambda: [0, -1], ValueError, "t: got -1, wanted 0 <= t < 2**52"),
        (lambda: range(-2, 2), ValueError, "t: got -2 at index 0, wanted 0 <= t < 2**52"),
        (lambda: {1: 2}, TypeError, "t: got dict ({1: 2}), wanted an integer or an array of"),
        (lambda: b"ab", TypeError, "t: got bytes (b'ab'), wanted an integer or an array"),
        (lambda: np.arange(3.0), TypeError,
         f"t: got an array of float64, {STEPS} (t.astype('int64') where all are whole)"),
        (lambda: Column([1.0]), TypeError, f"Column of column of float64, {STEPS}{WHOLE}"),
        (lambda: Column([1, None], object), TypeError, "Column with None in it"),
        (lambda: Column([1, 2.5], object), TypeError, "Column with 2.5 in it"),
        (Elsewhere, TypeError,
         f"Elsewhere that NumPy cannot read (can't convert cuda:0 device type), {STEPS} in the me"),
        (of("torch", lambda torch: torch.ones(2)), TypeError,
         f"t: got torch.Tensor of torch.float32, {STEPS}{WHOLE}"),
        (of("torch", lambda torch: torch.tensor(1.0)), TypeError, "got torch.Tensor of"),
        (of("torch", lambda torch: torch.tensor(True)), TypeError, "torch.Tensor of torch.bool"),
        (of("torch", lambda torch: torch.empty(2, dtype=torch.int64, device="meta")), TypeError,
         "t: got torch.Tensor that NumPy cannot read"),
        (of("torch", lambda torch: torch.tensor([3, -1])), ValueError, "t: got -1 at index 1"),
        (of("jax.numpy", lambda jax: jax.ones(2)), TypeError, "of float32, wanted an integer"),
        (of("pandas", lambda pandas: pandas.Series([1, None])), TypeError, "Series of float64"),
        (of("pandas", lambda pandas: pandas.Series([1, None], dtype="Int64")), TypeError,
         "Series of Int64, wanted"),
        (of("polars", lambda polars: polars.Series([1, None])), TypeError, "Series of Int64"),
    ],
)  # fmt: skip
def test_steps_that_are_no_integers(make, error, message):
    s, t = schedules.cosine(1.0, total=20), make()
    with pytest.raises(error, match=re.escape(message)):
        s(t)


def test_out_shares_no_memory_with_the_steps():
    t = np.arange(6)
    with pytest.raises(ValueError, match="out: got memory that overlaps t"):
        schedules.constant(1.0)(t[:3], out=t.view(np.float64)[1:4])
    with pytest.raises(TypeError, match="out: got an array for a single step"):
        schedules.constant(1.0)(3, out=np.empty(1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1,), ValueError, "stop: got -1, wanted 0 to"),
        ((-1, 5), ValueError, "start: got -1, wanted 0 to"),
        ((0, 2**52 + 1), ValueError, "stop: got 4503599627370497, wanted 0 to"),
        ((0, 10**30), ValueError, "stop: got 1"),
        ((1.0,), TypeError, "stop: got 1.0, wanted an integer"),
        ((True, 2), TypeError, "start: got True, wanted an integer"),
        (("1",), TypeError, "stop: got '1', wanted an integer"),
    ],
)
def test_what_a_range_may_not_be(arguments, error, message):
    with pytest.raises(error, match=message):
        schedules.constant(1.0).range(*arguments)


def test_nothing_is_written_where_a_step_is_refused():
    ends = schedules.linear(1, 0, 10, past_end="raise")
    cases = [
        ends, ends + 1, 2 * ends, ends * ends, ends.clamp(0, 1), ends.shift(3), ends.repeat(50),
        ends.stairs(2), ends.warmup(5), schedules.join([schedules.constant(1), ends], at=[4]),
        schedules.wsd(1, 10, 5, past_end="raise"), schedules.one_cycle(1, 10, past_end="raise"),
        schedules.table([1, 2, 3], past_end="raise"),
        schedules.interpolate([(0, 1), (9.5, 2)], past_end="raise"),
    ]  # fmt: skip
    for s in cases:
        out = np.full(3000, 7.0)
        for call in (
            lambda s=s, o=out: s(np.arange(3000), out=o),
            lambda s=s, o=out: s.range(3000, out=o),
        ):
            with pytest.raises(ValueError, match=r"t: got \d+, wanted 0 to .*past_end"):
                call()
            assert (out == 7).all()
    t = np.array([5, 2**52, 3])
    out = np.full(3, 7.0)
    with pytest.raises(ValueError, match="t: got 4503599627370496 at index 1"):
        schedules.constant(1.0)(t, out=out)
    assert (out == 7).all()


def test_only_the_steps_asked_for_may_be_refused():
    ends = schedules.linear(1, 0, 10, past_end="raise")
    s = schedules.join([ends, schedules.constant(5.0)], at=[20])
    assert s(np.array([3, 10, 20, 99])).tolist() == [0.7, 0.0, 5.0, 5.0]
    assert ends.repeat(5).range(100).max() == 1
    assert ends.repeat(11).range(3, 40).min() == 0
    assert ends.stairs(10).range(110).min() == 0
    assert ends.shift(100).range(111).min() == 0
    for refused in (s, ends.repeat(12), ends.stairs(10), ends.shift(100)):
        with pytest.raises(ValueError, match="past_end"):
            refused.range(200)


# ---- algebra ----


@settings(deadline=None, max_examples=100)
@given(st.integers(-50, 50), st.integers(1, 60), st.integers(1, 60), st.integers(0, 10**12))
def test_time_is_moved_by_integers(by, every, stairs, t):
    s = schedules.exponential(1.0, 0.999, 7)
    assert s.shift(by)(t) == s(max(0, t - by))
    assert s.repeat(every)(t) == s(t % every)
    assert s.stairs(stairs)(t) == s(t // stairs)
    far = s.repeat(every).stairs(stairs).shift(by)
    assert far.range(t, t + 100).tolist() == [far(k) for k in range(t, t + 100)]


def test_values_are_combined():
    a, b = schedules.linear(1, 0, 10), schedules.constant(0.25)
    t = np.arange(15)
    for s, wanted in [
        (a + b, a(t) + b(t)), (a * b, a(t) * b(t)), (a + 2, a(t) + 2), (2 + a, 2 + a(t)),
        (a * 3, a(t) * 3), (3 * a, 3 * a(t)), (a * np.float32(0.5), a(t) * 0.5),
        (a.clamp(0.2, 0.8), np.clip(a(t), 0.2, 0.8)), (a.clamp(upper=0.5), np.minimum(a(t), 0.5)),
    ]:  # fmt: skip
        np.testing.assert_array_equal(s(t), wanted)
        assert s == eval(repr(s), {"schedules": schedules})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda s: s + "1", TypeError, "unsupported operand"),
        (lambda s: [1] * s, TypeError, "multiply|unsupported"),
        (lambda s: s * None, TypeError, "unsupported operand type"),
        (lambda s: s * np.inf, ValueError, "factor: got inf"),
        (lambda s: s.clamp(), ValueError, "lower: got None, as upper"),
        (lambda s: s.clamp(2, 1), ValueError, "lower: got 2.0, wanted at most upper=1.0"),
        (lambda s: s.shift(1.5), TypeError, "by: got 1.5"),
        (lambda s: s.shift(-(2**52)), ValueError, "by: got -4503599627370496"),
        (lambda s: s.repeat(0), ValueError, "every: got 0"),
        (lambda s: s.stairs(-1), ValueError, "every: got -1"),
        (lambda s: s.branch(-1, s), ValueError, "t: got -1"),
        (lambda s: s.branch(1, 0.5), TypeError, "tail: got 0.5"),
        (lambda s: s.branch(1, lambda v: v), TypeError, "tail: got 1.0"),
        (lambda s: s.warmup(-1), ValueError, "updates: got -1"),
        (lambda s: s.warmup(5, one_based=1), TypeError, "one_based: got 1"),
        (lambda _: schedules.cosine(1, 9).warmup(10), ValueError, "updates: got 10, wanted at mo"),
    ],
)
def test_what_algebra_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make(schedules.constant(1.0))


def test_branch_cools_down_from_where_it_is():
    s = schedules.cosine(0.1, 1000).warmup(100)
    cooled = s.branch(300, lambda value: schedules.power_decay(value, 50))
    assert cooled.range(300).tolist() == s.range(300).tolist()
    assert cooled(300) == s(300)
    assert cooled(350) == 0


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 50), st.integers(0, 100), st.booleans())
def test_warm_up_lengths_count_inside_the_total(w, more, one_based):
    total = w + more
    for s in (schedules.cosine(0.3, total), schedules.linear(0.3, 0.1, total, end="inclusive")):
        warm = s.warmup(w, one_based=one_based)
        assert warm(total) == s(total)
        if more > 1:
            assert warm(w) == 0.3
        if w:
            assert warm(0) == (pytest.approx(s(0) / w) if one_based else 0)
    wsd = schedules.wsd(0.3, total, decay=more // 2, warmup=w, end_value=0.1)
    assert wsd(total) == 0.1
    assert wsd(w) == (0.3 if more > 1 or (more // 2 == 0 and more) else wsd(w))


# ---- where things happen ----


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 1000), st.integers(1, 5), st.integers(0, 40), st.floats(0.1, 1))
def test_restarts_hit_their_integers(first, t_mult, n, gamma):
    s = schedules.cosine_restarts(0.3, first, t_mult, gamma=gamma, end_value=0.01)
    powers = schedules.step(0.3, 1, gamma)
    begin, length = 0, first
    for i in range(n):
        if begin >= 2**52:
            return
        assert s(begin) == powers(i)
        # Only as far as a cosine's first step of this height and length is seen in a double.
        height = abs(powers(i) - 0.01)
        if length > 1 and height * (math.pi / length) ** 2 / 4 > 4 * math.ulp(s(begin)):
            assert s(begin + 1) != s(begin)
        begin, length = begin + length, length * t_mult


def test_the_restart_that_logarithms_miss():
    s = schedules.cosine_restarts(1.0, first=1, t_mult=3)
    assert s(121) == 1
    assert s(120) < 1e-3


@pytest.mark.parametrize("t_mult", [1e9, 2.5e16, 1e300, sys.float_info.max])
@pytest.mark.parametrize("first", [1, 2**40, 2**52 - 1])
def test_cycles_longer_than_any_training(first, t_mult):
    s = schedules.cosine_restarts(1.0, first, t_mult)
    assert s(first) == s(0) == 1
    assert s(min(first + 1000, 2**52 - 1)) > 0.99


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 1000), st.floats(1.05, 4), st.booleans())
def test_restarts_of_any_growth_begin_at_integers_that_are_rounded_up(first, t_mult, inclusive):
    end = "inclusive" if inclusive else "exclusive"
    s = schedules.cosine_restarts(1.0, first, t_mult, end=end)
    real, length = 0.0, float(first)
    while real < 10**6:
        assert s(int(np.ceil(real))) == 1 or (inclusive and length < 2)
        if inclusive and real:
            assert s(int(np.ceil(real)) - 1) == 0
        real, length = real + length, length * t_mult


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6), st.floats(0, 1), st.booleans(), st.booleans())
def test_one_cycle_uses_its_peak_and_its_end(total, pct_start, linear, inclusive):
    end = "inclusive" if inclusive else "exclusive"
    anneal = "linear" if linear else "cosine"
    s = schedules.one_cycle(0.7, total, pct_start, anneal=anneal, end=end)
    last = max(0, total - inclusive)
    up = max(0, min(round(pct_start * total) - inclusive, last))
    low = 0.7 / 25 / 1e4
    assert s(last) == s(last + 5) == low
    if up < last:
        assert s(up) == 0.7
        assert s.range(max(0, up - 50), up + 50).max() == 0.7


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 500), st.integers(0, 500), st.integers(0, 500),
    st.sampled_from(["linear", "cosine", "1-sqrt", "1-power", "exponential"]),
)  # fmt: skip
def test_wsd_begins_and_ends_at_its_integers(warmup, stable, decay, tail):
    total = warmup + stable + decay
    power = 2.0 if tail == "1-power" else None
    s = schedules.wsd(
        0.3, total, decay, warmup=warmup, tail=tail, power=power, start_value=0.1, end_value=0.01
    )
    assert s(total) == s(total + 7) == 0.01
    if stable:
        assert (s.range(warmup, warmup + stable) == 0.3).all()
    if decay:
        assert s(warmup + stable) == 0.3
    if warmup:
        assert s(0) == 0.1


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 10**9), st.floats(0.1, 9), st.integers(1, 1000))
def test_cycles_of_a_polynomial_end_at_multiples(total, power, n):
    s = schedules.polynomial(0.3, total, power, end_value=0.1, cycle=True)
    assert s(0) == 0.3
    assert s(n * total) == 0.1


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 10**9), st.integers(0, 1000))
def test_waves_turn_at_their_integers(half, n):
    s = schedules.cosine_wave(0.3, half, end_value=0.01)
    assert s(2 * n * half) == 0.3
    assert s((2 * n + 1) * half) == 0.01


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 1000), st.floats(-9, 9)), min_size=1, max_size=8),
    st.sampled_from(["linear", "cosine"]),
)
def test_interpolation_goes_through_its_points(points, anneal):
    points.sort(key=lambda point: point[0])
    s = schedules.interpolate(points, anneal)
    for x, v in dict(points).items():  # the last of those at the same step
        assert s(x) == v
    assert s(points[-1][0] + 9) == points[-1][1]


def test_noam_counts_from_one():
    s = schedules.noam(64, 10)
    assert s(0) == pytest.approx(64**-0.5 * 10**-1.5, rel=1e-15)
    assert s.range(100).argmax() == 9


# ---- in an optimizer ----


def test_one_call_for_all_hyperparameters():
    groups = [
        {"params": [np.zeros(2, np.float32)], "lr": schedules.cosine(0.1 + i, 50).warmup(5),
         "momentum": schedules.linear(0.5, 0.9, 20), "weight_decay": lambda k: 0.01 * k}
        for i in range(20)
    ]  # fmt: skip
    opt = gs.SGD(groups, lr=0.1)
    for k in range(30):
        report = opt.step([[np.ones(2, np.float32)]] * 20)
        assert report.lr == tuple(g["lr"](k) for g in opt.groups)
    opt.groups[3]["lr"] = 0.5
    opt.groups[4]["lr"] = schedules.constant(0.25)
    assert opt.step([[np.ones(2, np.float32)]] * 20).lr[3:5] == (0.5, 0.25)


def test_a_schedule_is_the_same_as_its_values():
    rng = np.random.default_rng(0)
    betas = (schedules.linear(0.8, 0.95, 10), schedules.constant(0.99))
    lr, decay = schedules.cosine(0.1, 20), schedules.step(0.1, 3)
    p = [rng.standard_normal(5) for _ in range(2)]
    q = [x.copy() for x in p]
    a = gs.AdamW(p, lr=lr, betas=betas, weight_decay=decay)
    b = gs.AdamW(q)
    for k in range(25):
        b.groups[0].update(lr=lr(k), betas=(betas[0](k), betas[1](k)), weight_decay=decay(k))
        gradients = [rng.standard_normal(5) for _ in range(2)]
        a.step(gradients)
        b.step(gradients)
    assert all(x.tobytes() == y.tobytes() for x, y in zip(p, q, strict=True))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", schedules.linear(1.0, -1.0, 4), r"lr: got -0.5, wanted .* at step 3\)"),
        (
            "momentum",
            schedules.linear(0.5, -0.5, 4),
            r"momentum: got -0\.25, wanted .* at step 3\)",
        ),
        ("weight_decay", schedules.constant(1.0) + -2, "weight_decay: got -1"),
        ("lr", 1e280 * schedules.constant(1e280), "lr: got inf, wanted a finite number"),
        ("lr", schedules.constant(1e39), "lr: got 1e\\+39, which rounds to infinity in float32"),
        ("lr", schedules.table([1, 2, 3], past_end="raise"), "lr: t: got 3, wanted 0 to 2"),
    ],
)
def test_values_are_checked_where_they_are_applied(key, value, message):
    p = np.ones(3, np.float32)
    opt = gs.SGD(p, **{"lr": 0.1, "momentum": 0.5, key: value})
    before, told = p.copy(), ""
    for _ in range(4):
        try:
            opt.step(np.ones(3, np.float32))
        except ValueError as error:
            told = str(error)
            break
        before = p.copy()
    assert re.search(message, told)
    assert (p == before).all()


def test_a_drive_refuses_what_does_not_fit():
    with pytest.raises(IndexError, match="Drive"):
        _core.Drive(np.zeros((1, 2)), [(schedules.constant(1.0), 2, 0.0, 1.0, 0.0)])
    drive = _core.Drive(np.zeros((1, 2)), [])
    assert drive(0) == -1
    with pytest.raises(ValueError, match="t: got -1"):
        drive(-1)


# ---- the one with a state ----


def losses():
    return [3.0, 2.0, 1.99, 2.5, float("nan"), 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_plateau():
    s = schedules.Plateau(schedules.linear(1.0, 0.0, 100), gamma=0.5, patience=2, cooldown=1)
    fell = [s.observe(x) for x in losses()]
    assert fell == [False] * 8 + [True] + [False] * 3
    assert s.multiplier == 0.5
    assert s(0) == 0.5
    assert s(50) == 0.25
    for make in (
        copy.deepcopy,
        lambda s: pickle.loads(pickle.dumps(s)),
        lambda s: schedules.Plateau.from_dict(json.loads(json.dumps(s.to_dict()))),
    ):
        twin = make(s)
        assert twin == s
        assert twin.observe(1.0) == s.observe(1.0)
        assert twin == s
    assert s != schedules.Plateau(schedules.linear(1.0, 0.0, 100))
    assert "multiplier=" in repr(s)


def test_a_plateau_of_negative_metrics():
    """The margin is a part of |best|: with best·(1 - threshold) -1.00001 would pass for better."""
    s = schedules.Plateau(1.0, patience=0, threshold=0.1)
    assert not s.observe(-1.0)
    assert not s.observe(-1.2)
    assert s.observe(-1.25)
    s = schedules.Plateau(1.0, patience=0, threshold=0.1, mode="max")
    assert not s.observe(-1.0)
    assert not s.observe(-0.5)
    assert s.observe(-0.49)


def test_a_plateau_drives_an_optimizer():
    s = schedules.Plateau(schedules.constant(0.1).warmup(2), gamma=0.1, patience=0)
    opt = gs.SGD(np.zeros(1), lr=s)
    assert [opt.step(np.ones(1)).lr for _ in range(3)] == [0.0, 0.05, 0.1]
    s.observe(1.0)
    s.observe(1.0)
    assert opt.step(np.ones(1)).lr == pytest.approx(0.01)


def test_the_floor_of_a_plateau():
    s = schedules.Plateau(1.0, gamma=0.5, patience=0, min_multiplier=0.3)
    assert [s.observe(1.0) for _ in range(4)] == [False, True, True, False]
    assert s.multiplier == 0.3
    s = schedules.Plateau(1.0, gamma=0.5, patience=0, eps=0.3)
    assert [s.observe(1.0) for _ in range(4)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gamma": 1.5}, ValueError, "gamma: got 1.5"),
        ({"patience": -1}, ValueError, "patience: got -1"),
        ({"mode": "least"}, ValueError, "mode: got 'least', wanted 'min' or 'max'"),
        ({"threshold": -1}, ValueError, "threshold: got -1"),
        ({"threshold_mode": "x"}, ValueError, "threshold_mode: got 'x'"),
        ({"cooldown": 1.5}, TypeError, "cooldown: got 1.5"),
        ({"min_multiplier": 2}, ValueError, "min_multiplier: got 2"),
        ({"schedule": "x"}, TypeError, "schedule: got 'x'"),
    ],
)
def test_what_a_plateau_refuses(options, error, message):
    with pytest.raises(error, match=message):
        schedules.Plateau(**{"schedule": 1.0, **options})
    s = schedules.Plateau(1.0)
    with pytest.raises(TypeError, match="metric: got None"):
        s.observe(None)
    with pytest.raises(ValueError, match="state: got multiplier, wanted"):
        s.load_state_dict({"multiplier": 1.0})
    with pytest.raises(ValueError, match="bad: got -1"):
        s.load_state_dict({**s.state_dict(), "bad": -1})
    with pytest.raises(ValueError, match="schedule: got 'constant', wanted 'Plateau'"):
        schedules.Plateau.from_dict({"schedule": "constant"})


# ---- units and scaling ----


@settings(deadline=None)
@given(
    st.integers(1, 20), st.integers(0, 500), st.integers(1, 60), st.integers(1, 5), st.booleans()
)
def test_updates_are_those_of_a_loop(epochs, samples, batch_size, accumulate, drop_last):
    made = 0
    for _ in range(epochs):
        sizes = [min(batch_size, samples - i) for i in range(0, samples, batch_size)]
        batches = sum(size == batch_size or not drop_last for size in sizes)
        made += sum(1 for i in range(batches) if (i + 1) % accumulate == 0)
        made += batches % accumulate != 0 and not drop_last
    assert made == schedules.updates(
        epochs=epochs, samples=samples, batch_size=batch_size, accumulate=accumulate,
        drop_last=drop_last,
    )  # fmt: skip


def test_parts_of_epochs():
    assert schedules.updates(epochs=0.1, samples=1000, batch_size=1) == 100
    assert schedules.updates(epochs=0.1, samples=1001, batch_size=1) == 101
    assert schedules.updates(epochs=0, samples=1001, batch_size=1) == 0
    for options, message in [
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"samples": -1}, "samples: got -1"),
        ({"epochs": -1}, "epochs: got -1"),
        ({"accumulate": 0}, "accumulate: got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            schedules.updates(**{"samples": 10, "batch_size": 2, **options})


# Each shape that has a total, without it.
LASTING = {
    "linear": {"value": 0.0, "end_value": 0.1},
    "polynomial": {"value": 0.1, "power": 2.5},
    "power_decay": {"value": 0.1},
    "cosine": {"value": 0.1, "end": "inclusive"},
    "geometric": {"value": 1e-7, "end_value": 10.0},
    "tanh": {"value": 0.1, "past_end": "raise"},
    "wsd": {"value": 0.1, "decay": 11, "warmup": 7},
    "one_cycle": {"value": 0.1},
}


def test_every_shape_with_a_total_may_be_told_in_epochs():
    found = {name for name, make in MAKERS.items() if "total" in inspect.signature(make).parameters}
    assert found == set(LASTING)


@pytest.mark.parametrize("name", LASTING)
@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "total"),
    [(3, 391, 1173), (0.1, 1000, 100), (0.1, 1001, 101), (np.float32(2.5), np.int64(7), 18),
     (30, 1, 30)],
)  # fmt: skip
def test_epochs_are_updates_to_the_bit(name, epochs, steps_per_epoch, total):
    make, rest = getattr(schedules, name), LASTING[name]
    in_epochs = make(**rest, epochs=epochs, steps_per_epoch=steps_per_epoch)
    in_updates = make(**rest, total=total)
    assert in_epochs == in_updates
    assert repr(in_epochs) == repr(in_updates)
    assert schedules.parse(repr(in_epochs)) == in_updates
    assert schedules.Schedule.from_json(in_epochs.to_json()) == in_updates
    assert in_epochs.range(total).tobytes() == in_updates.range(total).tobytes()
    explained = schedules.explain(in_epochs, total)
    assert explained == schedules.explain(in_updates, total)
    assert f"{total:,} updates of {in_updates!r}" in str(explained)
    told = {"schedule": name, **rest, "epochs": float(epochs)}
    assert schedules.Schedule.from_dict({**told, "steps_per_epoch": steps_per_epoch}) == in_updates


def test_a_positional_end_value_is_not_taken_for_the_total():
    assert schedules.linear(0.0, 0.1, epochs=2, steps_per_epoch=5) == schedules.linear(0, 0.1, 10)
    made = schedules.sample(lambda t: 1.0 + t, epochs=1, steps_per_epoch=2)
    assert made == schedules.table([1, 2])


@pytest.mark.parametrize(
    ("told", "updates"),
    [
        ({"ratio": 0.05}, 50),
        ({"ratio": 0.1}, 100),  # a tenth, not the binary fraction above it
        ({"ratio": 0.0501}, 51),
        ({"ratio": 0}, 0),
        ({"ratio": 1}, 1000),
        ({"ratio": np.float64(0.25)}, 250),
        ({"epochs": 2, "steps_per_epoch": 39}, 78),
        ({"epochs": 0.5, "steps_per_epoch": 39}, 20),
        ({"epochs": 0, "steps_per_epoch": 39}, 0),
    ],
)
def test_warm_ups_in_other_units(told, updates):
    s = schedules.cosine(0.1, total=1000)
    made, wanted = s.warmup(**told, one_based=True), s.warmup(updates, one_based=True)
    assert made == wanted
    assert repr(made) == repr(wanted)
    assert f"warmup(updates={updates}" in repr(made)
    assert schedules.Schedule.from_json(made.to_json()) == wanted
    assert made.range(1001).tobytes() == wanted.range(1001).tobytes()


def test_a_warm_up_in_epochs_of_what_has_no_total():
    s = 2 * schedules.constant(0.1)
    assert s.warmup(epochs=2, steps_per_epoch=5) == s.warmup(10)
    whole = schedules.cosine(0.1, epochs=90, steps_per_epoch=391)
    text = "cosine(0.1, epochs=90, steps_per_epoch=391).warmup(epochs=5, steps_per_epoch=391)"
    assert schedules.parse(text) == whole.warmup(1955)


COSINE = schedules.cosine(0.1, 100)
NO_COUNT = "epochs times steps_per_epoch: got"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.cosine(0.1, 100, epochs=3, steps_per_epoch=10), ValueError,
         "epochs: got 3 together with total=100, wanted one of the two"),
        (lambda: schedules.wsd(0.1, total=9, decay=2, epochs=3, steps_per_epoch=10), ValueError,
         "epochs: got 3 together with total=9"),
        (lambda: schedules.cosine(0.1, epochs=3), ValueError,
         "steps_per_epoch: got None with epochs=3, wanted the updates of one"),
        (lambda: schedules.cosine(0.1, steps_per_epoch=3), ValueError,
         "steps_per_epoch: got 3 without epochs, wanted epochs, too, or total alone"),
        (lambda: schedules.cosine(0.1, 100, steps_per_epoch=3), ValueError,
         "steps_per_epoch: got 3 without epochs"),
        (lambda: schedules.cosine(0.1), TypeError, "'total'"),
        (lambda: schedules.cosine(0.1, epochs=-1, steps_per_epoch=3), ValueError,
         "epochs: got -1, wanted a number >= 0"),
        (lambda: schedules.cosine(0.1, epochs=math.inf, steps_per_epoch=3), ValueError,
         "epochs: got inf, wanted a finite number"),
        (lambda: schedules.cosine(0.1, epochs="3", steps_per_epoch=3), TypeError,
         "epochs: got '3' (str), wanted a number"),
        (lambda: schedules.cosine(0.1, epochs=True, steps_per_epoch=3), TypeError, "got True"),
        (lambda: schedules.cosine(0.1, epochs=3, steps_per_epoch=0), ValueError,
         "steps_per_epoch: got 0, wanted 1 <= steps_per_epoch"),
        (lambda: schedules.cosine(0.1, epochs=3, steps_per_epoch=2.5), TypeError,
         "steps_per_epoch: got 2.5 (float), wanted an integer number of updates"),
        (lambda: schedules.cosine(0.1, epochs=1e300, steps_per_epoch=3), ValueError, NO_COUNT),
        (COSINE.warmup, TypeError, "updates: got None"),
        (lambda: COSINE.warmup(5, ratio=0.05), ValueError,
         "ratio: got 0.05 together with updates=5, wanted one of the two"),
        (lambda: COSINE.warmup(ratio=0.05, epochs=1, steps_per_epoch=5), ValueError,
         "ratio: got 0.05 together with epochs=1, wanted one of the two"),
        (lambda: COSINE.warmup(ratio=0.05, steps_per_epoch=5), ValueError,
         "steps_per_epoch: got 5 without epochs, wanted epochs, too, or ratio alone"),
        (lambda: COSINE.warmup(5, epochs=1, steps_per_epoch=5), ValueError,
         "epochs: got 1 together with updates=5, wanted one of the two"),
        (lambda: COSINE.warmup(epochs=1), ValueError, "steps_per_epoch: got None with epochs=1"),
        (lambda: COSINE.warmup(epochs=3, steps_per_epoch=50), ValueError,
         f"{NO_COUNT} 150, wanted at most the schedule's total of 100"),
        (lambda: COSINE.warmup(ratio=-0.1), ValueError, "ratio: got -0.1, wanted a number in [0"),
        (lambda: COSINE.warmup(ratio=1.1), ValueError, "ratio: got 1.1, wanted a number in [0, 1]"),
        (lambda: COSINE.warmup(ratio=math.nan), ValueError, "ratio: got nan, wanted a finite"),
        (lambda: COSINE.warmup(ratio="5%"), TypeError, "ratio: got '5%' (str), wanted a number"),
        (lambda: schedules.constant(0.1).warmup(ratio=0.05), ValueError,
         "ratio: got 0.05, but schedules.constant(0.1) has no total, wanted updates"),
        (lambda: (2 * COSINE).warmup(ratio=0.05), ValueError,
         "but schedules.cosine(0.1, total=100).scale(2.0) has no total, wanted updates"),
    ],
)  # fmt: skip
def test_what_lengths_in_other_units_refuse(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_batch_scaling():
    s = schedules.cosine(0.1, 10)
    assert schedules.linear_scaling(512, 128, lr=s) == {"lr": s.scale(4)}
    assert schedules.sqrt_scaling(512, 128, lr=s) == {"lr": s.scale(2)}
    assert schedules.sqrt_scaling(64, 256, lr=1e-3, betas=(0.9, 0.999), eps=1e-8) == {
        "lr": 5e-4, "betas": (0.975, 0.99975), "eps": 2e-8,
    }  # fmt: skip
    assert schedules.average_scaling(256, 128, decay=0.5) == 0.25
    gs.AdamW(np.ones(1), **schedules.sqrt_scaling(512, 256, lr=0.1, betas=(0.9, 0.9), eps=1e-8))
    for call, message in [
        (lambda: schedules.sqrt_scaling(11, 1, lr=1, betas=(0.9,)), r"betas\[0\]: got 0.9, which"),
        (lambda: schedules.sqrt_scaling(2, 1, lr=1, betas=(1.0,)), r"betas\[0\]: got 1.0"),
        (lambda: schedules.linear_scaling(0, 1, lr=1), "batch_size: got 0"),
        (lambda: schedules.linear_scaling(1, 0, lr=1), "base_batch_size: got 0"),
        (lambda: schedules.linear_scaling(1, 1, lr=-1), "lr: got -1"),
        (lambda: schedules.average_scaling(1, 1, decay=2), "decay: got 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


# ---- what users of mutable schedulers report again and again ----


def test_nested_sequences_do_not_advance_a_step():
    inner = schedules.join([schedules.constant(1.0), schedules.linear(2.0, 0.0, 10)], at=[3])
    s = schedules.join([schedules.constant(5.0), inner], at=[4])
    wanted = [5.0] * 4 + [1.0] * 3 + [2.0 - 0.2 * k for k in range(10)]
    assert s.range(17).tolist() == pytest.approx(wanted)
    assert [s(t) for t in range(17)] == s.range(17).tolist()  # asking does not advance it either


def test_what_resumes_is_the_count_of_updates():
    def make():
        return gs.SGD(np.zeros(3), lr=schedules.cosine(0.1, 20).warmup(5))

    whole = make()
    rates = [whole.step(np.ones(3)).lr for _ in range(20)]
    first = make()
    for _ in range(7):
        first.step(np.ones(3))
    second = make()
    second.load_state_dict(first.state_dict())
    assert second.t == 7
    assert [second.step(np.ones(3)).lr for _ in range(13)] == rates[7:]


def test_no_order_of_calls_to_warn_of():
    """There is no step() of a schedule, so a skipped update under loss scaling warns of nothing."""
    opt = gs.SGD(np.zeros(3), lr=schedules.linear(0.1, 0.0, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.groups[0]["lr"](3)
        opt.step(None)
        assert opt.step(np.ones(3)).lr == schedules.linear(0.1, 0.0, 10)(1)
    assert not hasattr(schedules.Schedule, "step")


def test_accumulated_gradients_are_one_update():
    total = schedules.updates(epochs=2, samples=64, batch_size=8, accumulate=4)
    s = schedules.cosine(0.1, total)
    opt = gs.SGD(np.zeros(1), lr=s)
    for _ in range(2):
        accumulated = np.zeros(1)
        for batch in range(8):
            accumulated += 1
            if batch % 4 == 3:
                opt.step(accumulated)
    assert opt.t == total == 4
    assert s(opt.t) == 0


def test_a_function_can_be_pickled_once_it_is_a_table():
    function = lambda t: 0.1 / (1 + t)  # noqa: E731
    s = schedules.sample(function, 50)
    assert pickle.loads(pickle.dumps(s)) == s == schedules.Schedule.from_json(s.to_json())
    assert [s(t) for t in range(50)] == [function(t) for t in range(50)]
    with pytest.raises(TypeError, match=r"values\[0\]: got None"):
        schedules.sample(lambda _: None, 3)


def test_each_group_has_its_own():
    """No list of schedules beside a list of groups, to be cut to the shorter of the two."""
    groups = [{"params": [np.zeros(1)], "lr": schedules.constant(0.1 * i)} for i in (1, 2, 3)]
    opt = gs.SGD(groups, lr=0.5)
    opt.add_group({"params": [np.zeros(1)]})
    assert opt.step([[np.ones(1)]] * 4).lr == pytest.approx((0.1, 0.2, 0.3, 0.5))


def test_a_mean_is_not_cycled_past_one():
    opt = gs.Adam(np.zeros(1), betas=(schedules.cyclic(0.85, 1.05, 4), 0.9))
    for _ in range(3):
        opt.step(np.ones(1))
    with pytest.raises(ValueError, match=r"betas\[0\]: got 1\.0\d*, wanted a number in \[0, 1\)"):
        opt.step(np.ones(1))
