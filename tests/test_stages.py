"""What a step does besides the rule, as seen from Python: clipping, loss scales, gradients that are
not finite, averages, copies, zeroed gradients and statistics; how each is changed and refused.

What the bits are under each storage is the business of test_storages.py.
"""

# ruff: noqa: ARG005 - a row's function takes what its column's functions take

import copy
import json
import math
import pickle
import re
import threading

import ml_dtypes
import numpy as np
import pytest

import gradstep as gs
import reference
from cases import BEGINS, RULES, assert_same_bits

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype(np.float32), np.dtype(np.float64), BFLOAT16, np.dtype(np.float16)]
N = 700


def normal(shape=N, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def as_bytes(x):
    return np.ascontiguousarray(x).tobytes()


def factor(norm, limit=math.inf, scale=1.0):
    """What each gradient is multiplied with, as torch's clip_grad_norm_ does it, in double."""
    return min(1.0, limit / (norm / scale + 1e-6)) / scale


# ---- one factor: the loss scale and the norm ----


@pytest.mark.parametrize("scale", [1.0, 1024.0, 0.3, 3])
@pytest.mark.parametrize("limit", [None, 0.5, 1e6])
def test_clip_norm_and_loss_scale(limit, scale):
    """Over all parameters, rounded once; the report has the norm before it."""
    params = {"w": normal((20, 30)), "b": normal(3, np.float64, 1)}
    grads = {"w": normal((20, 30), seed=2), "b": normal(3, np.float64, 3)}
    norm = math.sqrt(reference.sum_squares([grads["w"], grads["b"]]))
    k = factor(norm, math.inf if limit is None else limit, scale)
    plain = {name: p.copy() for name, p in params.items()}
    report = gs.SGD(params, lr=0.5, clip_norm=limit).step(grads, loss_scale=scale)
    gs.SGD(plain, lr=0.5).step({name: g * g.dtype.type(k) for name, g in grads.items()})
    for name, p in params.items():
        assert_same_bits(p, plain[name])
    assert report.grad_norm == (None if limit is None else norm / scale)


def test_clip_norm_over_groups():
    """One norm, of what is stepped: neither None nor frozen groups count."""
    params = [np.zeros(2), np.zeros(2), np.zeros(2)]
    groups = [{"params": p} for p in params[:2]] + [{"params": params[2], "frozen": True}]
    opt = gs.SGD(groups, lr=1.0, clip_norm=1.0)
    report = opt.step([np.array([3.0, 0]), np.array([0, 4.0]), np.array([9.0, 9])])
    assert report.grad_norm == 5.0
    np.testing.assert_allclose(np.stack(params[:2]), [[-0.6, 0], [0, -0.8]], rtol=1e-6)
    assert not params[2].any()
    assert opt.step([None, np.array([0.0, 4]), None]).grad_norm == 4.0


@pytest.mark.parametrize("maximize", [False, True])
def test_clip_value(maximize):
    """After the factor, before maximize; a NaN stays one."""
    p, g = np.zeros(4), np.array([10.0, -10, 1, np.nan])
    gs.SGD(p, lr=1.0, clip_value=2.0, maximize=maximize).step(g, loss_scale=2.0)
    np.testing.assert_array_equal(p, np.array([-2, 2, -0.5, np.nan]) * (1 - 2 * maximize))


def test_functions_of_the_step():
    """Every numeric stage may be one; k is the hyperparameters'."""
    asked = []

    def limit(k):
        asked.append(k)
        return 1.0 + k

    p = np.zeros(1)
    opt = gs.SGD(p, lr=1.0, clip_norm=limit, clip_value=lambda k: 1.5, average=lambda k: 0.5 * k)
    for _ in range(2):
        opt.step(np.array([10.0]))
    assert asked == [0, 1]
    np.testing.assert_allclose(p, -(1 + 1.5), rtol=1e-6)
    np.testing.assert_allclose(opt.average, -1 - 1.5 / 2, rtol=1e-6)


def test_stages_are_changed_like_groups():
    """From the next step on, checked there; until it is mended, no step is made."""
    p = np.zeros(1)
    opt = gs.SGD(p, lr=1.0)
    assert dict(opt.stages) == {
        "clip_norm": None, "clip_value": None, "average": None, "nonfinite": "allow", "seed": 0,
    }  # fmt: skip
    opt.step(np.array([3.0]))
    opt.stages["clip_value"] = 1.0
    opt.step(np.array([3.0]))
    assert p == -4
    opt.stages["clip_value"] = -1
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^clip_value: got -1, wanted a finite number > 0"):
            opt.step(np.array([3.0]))
    opt.stages.update(clip_value=None, clip_norm=lambda k: 0.5)
    assert opt.step(np.array([3.0])).grad_norm == 3.0
    np.testing.assert_allclose(p, -4.5, rtol=1e-6)
    opt.stages["clip_norm"] = None
    assert opt.step(np.array([3.0])) == gs.Report(4, 1.0)


# ---- gradients that are not finite ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nonfinite(nonfinite, zero, bad, dtype):
    """Nothing is written but the zeros, and nothing counts."""
    params = {"w": normal((20, 35)), "b": normal(5, seed=1)}
    opt = gs.Adam(params, nonfinite=nonfinite, average=0.9, copy_to=copy.deepcopy(params))
    good = {name: normal(p.shape, seed=2) for name, p in params.items()}
    assert opt.step(good).skipped is False
    before = pickle.dumps((params, opt.state_dict(), opt.state))
    grads = {name: g.astype(dtype) for name, g in good.items()}
    grads["b"][3] = bad
    if nonfinite == "raise":
        with pytest.raises(FloatingPointError, match=r"^grads\['b'\]: got an element that is not"):
            opt.step(grads, zero_grads=zero)
    else:
        report = opt.step(grads, zero_grads=zero)
        assert (report.skipped, report.t) == (True, 1)
        assert not math.isfinite(report.grad_norm)
        assert json.loads(report.to_json()) == {
            "t": 1,
            "lr": 0.001,
            "skipped": True,
            "grad_norm": None,
        }
    assert pickle.dumps((params, opt.state_dict(), opt.state)) == before
    assert opt.t == 1
    assert any(np.asarray(g, np.float64).any() for g in grads.values()) != zero
    assert opt.step(good).t == 2


def test_nonfinite_allowed():
    """By default it goes where it goes, as in torch; a NaN in the norm reaches every parameter."""
    p = np.zeros(3)
    assert gs.SGD(p, lr=1.0).step(np.array([1, np.nan, np.inf])).skipped is False
    np.testing.assert_array_equal(p, [-1, np.nan, -np.inf])
    q = np.zeros(3)
    report = gs.SGD(q, lr=1.0, clip_norm=1.0).step(np.array([1, np.nan, 2]))
    assert np.isnan(q).all()
    assert math.isnan(report.grad_norm)
    assert json.loads(report.to_json()) == {"t": 1, "lr": 1.0, "grad_norm": None}


def test_schedules_wait_while_steps_are_skipped():
    asked = []
    opt = gs.SGD(np.zeros(2), lr=lambda k: asked.append(k) or 0.1, nonfinite="skip")
    for value in [1.0, np.nan, np.nan, 1.0]:
        opt.step(np.full(2, value))
    assert asked == [0, 1, 1, 1]
    assert opt.t == opt.state["0"]["step"] == 2


def test_a_sum_that_overflows_is_finite():
    """What counts is each element: the norm's square may be too large for a double."""
    p = np.zeros(2)
    assert gs.SGD(p, lr=1.0, nonfinite="skip").step(np.array([1e200, 1e200])).skipped is False
    assert p.tolist() == [-1e200, -1e200]


# ---- zeroed gradients ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_zero_grads(dtype):
    """All of them, frozen groups' too; without it none."""
    for zero in (False, True):
        params = [np.ones(N, dtype), np.ones(3), np.ones(3)]
        plain = [p.copy() for p in params]
        grads = [normal(dtype=dtype), np.ones(3, dtype), np.ones(3, np.float16)]
        kept = [g.copy() for g in grads]
        made = [
            gs.Adam([{"params": p[:2]}, {"params": p[2:], "frozen": True}]) for p in (params, plain)
        ]
        made[0].step([grads[:2], grads[2:]], zero_grads=zero)
        made[1].step([kept[:2], kept[2:]])
        for p, q, g, h in zip(params, plain, grads, kept, strict=True):
            assert as_bytes(p) == as_bytes(q)
            assert as_bytes(g) == (bytes(g.nbytes) if zero else as_bytes(h))


def test_none_needs_no_zeros():
    g = np.ones(2)
    gs.SGD([np.ones(2), np.ones(2)]).step([None, g], zero_grads=True)
    assert not g.any()


# ---- averages ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_average(dtype):
    """Of the parameters as stored, in what the step computes in, from the first ones on."""
    p = np.ones(N, dtype)
    opt = gs.SGD({"w": p}, lr=0.1, average=0.75)
    T = np.float64 if dtype == np.float64 else np.float32
    wanted = p.astype(T)
    for k in range(4):
        opt.step({"w": normal(seed=k)})
        wanted += T(0.25) * (p.astype(T) - wanted)
    assert_same_bits(opt.average["w"], wanted)
    assert_same_bits(opt.state["w"]["average"], wanted)


def test_average_has_the_structure_of_params():
    a, b = np.ones(2), np.ones(3)
    assert gs.SGD(a).average is None
    assert gs.SGD(a, average=0.5).average.tolist() == [1, 1]
    assert [x.size for x in gs.SGD([a, b], average=0.5).average] == [2, 3]
    groups = gs.SGD([{"params": {"a": a}}, {"params": b}], average=0.5).average
    assert groups[0]["a"].tolist() == [1, 1]
    assert groups[1].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="does not own its data"):
        groups[1].resize(100_000, refcheck=False)


# How a parameter can be left alone by a step.
UNTOUCHED = {
    "no gradient": ({}, None),
    "frozen": ({"frozen": True}, np.ones(1)),
    "a rate of 0": ({"lr": 0.0}, np.zeros(1)),
}


def without_decay(rule):
    return {"weight_decay": 0.0} if "weight_decay" in gs.rule.RULES[rule].ranges else {}


@pytest.mark.parametrize("way", UNTOUCHED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("rule", [name for name in RULES if not gs.rule.RULES[name].shows])
def test_every_average_moves_at_every_step(rule, dtype, way, threads):
    """Also that of a parameter that steps leave alone, whose numbers somebody else has changed."""
    options, g = UNTOUCHED[way]
    a, b = np.zeros(1, dtype), np.full(1, 4, dtype)
    groups = [{"params": [a]}, {"params": [b], **options}]
    opt = getattr(gs, rule)(groups, lr=1.0, average=0.5, **without_decay(rule))
    opt.step([[np.ones(1)], [g]])
    assert opt.average[1][0] == 4
    b[:] = 8
    for wanted in (6, 7, 7.5):
        opt.step([[np.ones(1)], [g]])
        assert opt.average[1][0] == wanted
    assert b[0] == 8


@pytest.mark.parametrize("how", ["frozen", "no gradient", "with gradient", "added later"])
@pytest.mark.parametrize("rule", [name for name in RULES if not gs.rule.RULES[name].shows])
def test_the_first_average_is_the_parameter_as_the_first_step_finds_it(rule, how):
    """Weights may be loaded after the optimizer is built; a skipped step begins nothing."""
    w, other = np.zeros(3), np.zeros(1)
    group = {"params": [w], "frozen": how == "frozen"}
    if how == "added later":
        opt = getattr(gs, rule)([{"params": [other]}], average=0.999, nonfinite="skip")
        opt.step([[np.ones(1)]])
        opt.add_group(group)
    else:
        opt = getattr(gs, rule)([{"params": [other]}, group], average=0.999, nonfinite="skip")
    w[:] = 5
    assert opt.step([[np.full(1, np.nan)], [np.zeros(3)]]).skipped
    w[:] = 6
    opt.step([[np.ones(1)], [None if how == "no gradient" else np.zeros(3)]])
    assert opt.average[1][0] == pytest.approx(6)
    average = opt.average[1][0].copy()
    assert opt.step([[np.full(1, np.nan)], [None]]).skipped
    assert (opt.average[1][0] == average).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", ["state dict", "file", "pickle", "deepcopy"])
def test_copies_follow_what_is_loaded(rule, how, tmp_path):
    """Built, then the weights, then the optimizer's state: also where a parameter is frozen."""

    def build(copies=True):
        w = [np.zeros(3, np.float32) for _ in range(2)]
        low = [np.zeros(3, np.float16) for _ in range(2)]
        groups = [{"params": [w[0]]}, {"params": [w[1]], "frozen": True}]
        opt = getattr(gs, rule)(groups, copy_to=[[low[0]], [low[1]]] if copies else None)
        return w, low, opt

    w, low, opt = build()
    for p in w:
        p[:] = 0.5
    opt.step([[np.ones(3)], [None]])
    opt.fill_copies()
    assert (low[1] == 0.5).all()
    if how in ("pickle", "deepcopy"):
        other = pickle.loads(pickle.dumps(opt)) if how == "pickle" else copy.deepcopy(opt)
        for group, kept in zip(other.groups, other.copies, strict=True):
            assert (kept[0] == group.params[0].astype(np.float16)).all()
        return
    opt.save(tmp_path / "state")
    again, low, other = build()
    for p, q in zip(again, w, strict=True):
        p[:] = q
    if how == "file":
        other.load(tmp_path / "state")
    else:
        other.load_state_dict(opt.state_dict())
    for p, kept in zip(again, low, strict=True):
        assert (kept == p.astype(np.float16)).all()
    with pytest.raises(RuntimeError, match="fill_copies: got an optimizer without copies"):
        build(copies=False)[2].fill_copies()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("rule", RULES)
def test_copies_show_what_is_to_be_evaluated(rule, dtype):
    """Within averaged() the model that reads a copy sees what the parameter shows."""
    w, low = normal(700, dtype), np.zeros(700, np.float32)
    options = {} if gs.rule.RULES[rule].shows else {"average": 0.5}
    options |= {"t0": 0.0} if rule == "ASGD" else {}  # averages from the start
    options |= BEGINS.get(rule, {})
    opt = getattr(gs, rule)(w, lr=10.0 if rule == "LARS" else 0.1, copy_to=low, **options)
    for _ in range(3):
        opt.step(normal(700, dtype))
    before, copied = w.copy(), low.copy()
    with opt.averaged():
        np.testing.assert_allclose(low, w.astype(np.float32), rtol=0.01, atol=1e-3)
        assert (w != before).any()
    assert w.tobytes() == before.tobytes()
    assert low.tobytes() == copied.tobytes()


def trained(dtype, n=200_000):
    params = {"w": normal(n, dtype), "s": np.array(2, dtype), "e": np.zeros(0, dtype)}
    opt = gs.SGD(params, lr=0.5, average=0.5)
    for k in range(2):
        opt.step({name: np.asarray(normal(p.shape, seed=k)) for name, p in params.items()})
    return opt, params


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_averaged(dtype):
    """Within it the parameters are the averages, rounded; after it, what they were, to the bit."""
    opt, params = trained(dtype)
    before, average = pickle.dumps(params), copy.deepcopy(opt.average)
    with opt.averaged():
        for name, p in params.items():
            assert as_bytes(p) == as_bytes(average[name].astype(dtype))
    assert pickle.dumps(params) == before
    assert pickle.dumps(opt.average) == pickle.dumps(average)
    with pytest.raises(KeyError, match="mine"), opt.averaged():
        raise KeyError("mine")
    assert pickle.dumps(params) == before
    assert opt.step(dict.fromkeys(params)).t == 3


def test_averaged_float16_beyond_its_range():
    p = np.ones(3, np.float16)
    opt = gs.SGD(p, average=0.5)
    opt.average[...] = [1e6, -1e6, np.nan]
    with opt.averaged():
        np.testing.assert_array_equal(p, np.array([np.inf, -np.inf, np.nan], np.float16))
    assert p.tolist() == [1, 1, 1]


def test_averaged_split():
    """The lower halves stay where they are."""
    p = np.ones(N, BFLOAT16)
    opt = gs.SGD(p, lr=0.3, split=True, average=0.5)
    for k in range(3):
        opt.step(normal(seed=k))
    before = as_bytes(p), as_bytes(opt.state["0"]["low"])
    wanted = as_bytes(opt.average.astype(BFLOAT16))
    with opt.averaged():
        assert as_bytes(p) == wanted
        assert "average" not in opt.state["0"]
    assert (as_bytes(p), as_bytes(opt.state["0"]["low"])) == before


def nested(opt):
    with opt.averaged():
        pass


def test_nothing_within_averaged(tmp_path):
    """What needs the parameters or the averages is refused by name, and changes nothing."""
    opt, params = trained(np.float32)
    saved = opt.state_dict()
    before = pickle.dumps((params, saved))
    for what, call in {
        "step": lambda: opt.step(dict.fromkeys(params)),
        "averaged": lambda: nested(opt),
        "average": lambda: opt.average,
        "add_group": lambda: opt.add_group({"params": np.ones(1)}),
        "state_dict": opt.state_dict,
        "load_state_dict": lambda: opt.load_state_dict(saved),
        "save": lambda: opt.save(tmp_path / "a"),
        "pickling": lambda: pickle.dumps(opt),
    }.items():
        with (
            opt.averaged(),
            pytest.raises(RuntimeError, match=rf"^{what}: .*within averaged\(\), where the param"),
        ):
            call()
    assert pickle.dumps((params, opt.state_dict())) == before
    assert not list(tmp_path.iterdir())


def test_averaged_while_a_step_runs():
    entered, leave = threading.Event(), threading.Event()

    def rate(k):
        entered.set()
        assert leave.wait(20)
        return 0.5

    opt = gs.SGD(np.ones(1), lr=rate, average=0.5)
    worker = threading.Thread(target=opt.step, args=(np.ones(1),))
    worker.start()
    try:
        assert entered.wait(20)
        with pytest.raises(RuntimeError, match=r"^averaged: this optimizer is at work in another"):
            nested(opt)
    finally:
        leave.set()
        worker.join()


def test_averaged_without_averages():
    with pytest.raises(RuntimeError, match=r"^averaged: got SGD without averages, wanted one that"):
        nested(gs.SGD(np.ones(1)))


def test_averaged_with_a_locked_parameter():
    """Nothing is exchanged before all is known to be writable."""
    a, b = np.ones(2), np.ones(2)
    opt = gs.SGD([a, b], lr=1.0, average=0.5)
    opt.step([np.ones(2), np.ones(2)])
    b.flags.writeable = False
    with pytest.raises(ValueError, match=r"^params\[1\]: got a read-only array"):
        nested(opt)
    assert a.tolist() == [0, 0]
    b.flags.writeable = True
    nested(opt)
    assert opt.step([None, None]).t == 2


# ---- copies ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("to", FLOATS, ids=str)
def test_copy_to(dtype, to):
    """Always the parameters, rounded to nearest, those that no step changes included."""
    params = {"w": normal((20, 35), dtype), "b": normal(3, dtype)}
    copies = {name: np.full(p.shape, 7, to) for name, p in params.items()}
    opt = gs.Adam(params, lr=0.1, copy_to=copies)
    for k in range(2):
        opt.step({"w": normal((20, 35), seed=k), "b": None})
        single = params["w"].astype(np.float32)  # what is stored in 16 bits goes through it
        rounded = params["w"].astype(to) if to == np.float64 else single.astype(to)
        assert as_bytes(copies["w"]) == as_bytes(rounded)
    assert (copies["b"] == params["b"].astype(to)).all()


def test_copies_of_groups():
    a, b, c = np.ones(2), np.ones(2), np.ones(2)
    to = [np.zeros(2, np.float32) for _ in range(3)]
    opt = gs.SGD([{"params": [a]}, {"params": b}], lr=1.0, copy_to=[[to[0]], to[1]])
    opt.add_group({"params": {"c": c}}, copy_to={"c": to[2]})
    opt.step([[np.ones(2)], np.ones(2), {"c": np.full(2, 2.0)}])
    assert [x.tolist() for x in to] == [[0, 0], [0, 0], [-1, -1]]
    assert opt.copies[0][0] is to[0]
    assert opt.copies[1] is to[1]
    assert opt.copies[2]["c"] is to[2]
    other = copy.deepcopy(opt)
    other.step([[None], np.ones(2), {"c": None}])
    assert other.copies[1].tolist() == [-1, -1]
    assert to[1].tolist() == [0, 0]
    assert gs.SGD(a).copies is None


# ---- statistics ----


def test_statistics():
    """Against sums in plain NumPy, over two steps."""
    p = normal(N, np.float64)
    opt = gs.Adam({"w": p}, lr=0.1, stats=True)
    for t in (1, 2):
        g, old, m = normal(N, np.float64, t), p.copy(), opt.state["w"]["exp_avg"].copy()
        report = opt.step({"w": g * 4}, loss_scale=4.0)
        v = opt.state["w"]["exp_avg_sq"]
        wanted = {
            "grad_norm": np.linalg.norm(g),
            "update_norm": np.linalg.norm(p - old),
            "param_norm": np.linalg.norm(p),
            "cosine": None if t == 1 else g @ m / np.linalg.norm(g) / np.linalg.norm(m),
            "g2_over_v": np.mean(g * g / v) * (1 - 0.999**t),
        }
        for name, value in wanted.items():
            got = getattr(report, name)
            assert got == (None if value is None else pytest.approx(value, rel=1e-12)), name
            assert getattr(report.groups[0], name) == got
        assert len(report.groups) == 1
        assert report.skipped is False


def test_statistics_of_groups():
    """Each group's own, and of all together; what was not stepped does not count."""
    a, b, c = normal(N, np.float64), normal(5, np.float64, 1), normal(5, np.float64, 2)
    groups = [
        {"params": [a, b], "momentum": 0.5},
        {"params": c},
        {"params": np.ones(3), "frozen": True},
    ]
    opt = gs.SGD(groups, lr=0.1, stats=True, maximize=True)
    g = [normal(N, np.float64, 3), normal(5, np.float64, 4), normal(5, np.float64, 5)]
    for _ in range(2):
        report = opt.step([g[:2], g[2], np.ones(3)])
    one, two, frozen = report.groups
    norm = np.linalg.norm
    assert one.grad_norm == pytest.approx(norm(np.concatenate(g[:2])))
    assert two.grad_norm == pytest.approx(norm(g[2]))
    assert report.grad_norm == pytest.approx(norm(np.concatenate(g)))
    assert one.param_norm == pytest.approx(norm(np.concatenate([a, b])))
    assert report.param_norm == pytest.approx(norm(np.concatenate([a, b, c])))
    # the second update of a momentum ½ on a constant gradient is 1½ of the rate
    assert one.update_norm == pytest.approx(0.15 * one.grad_norm)
    assert two.update_norm == pytest.approx(0.1 * two.grad_norm)
    assert report.update_norm == pytest.approx(math.hypot(one.update_norm, two.update_norm))
    # Only what has a momentum has an angle to it.
    assert one.cosine == report.cosine == pytest.approx(1.0)
    assert two.cosine is None
    assert {x.g2_over_v for x in (report, *report.groups)} == {None}
    assert frozen == (0.0, 0.0, 0.0, None, None)


def test_statistics_after_clipping():
    """The norm is that before it; angles and g²/v are of what the rule gets."""
    p, g = np.zeros(4), np.array([30.0, 40, 0, 0])
    report = gs.Adagrad(p, lr=1.0, clip_norm=1.0, clip_value=0.7, stats=True).step(g)
    assert report.grad_norm == 50
    assert report.g2_over_v == 0.5  # g² is all of the sum, where it is not 0
    assert report.cosine is None
    assert report.update_norm == pytest.approx(math.sqrt(2))


def test_statistics_do_not_change_the_step():
    p, q = normal(dtype=BFLOAT16), normal(dtype=BFLOAT16)
    one, two = (gs.Adam(x, states="q8", stats=stats) for x, stats in ((p, True), (q, False)))
    for k in range(3):
        assert one.step(normal(seed=k)).grad_norm == gs.global_norm(normal(seed=k))
        assert two.step(normal(seed=k)).grad_norm is None
    assert as_bytes(p) == as_bytes(q)


def test_statistics_of_a_skipped_step():
    opt = gs.SGD(np.ones(2), stats=True, nonfinite="skip")
    opt.step(np.ones(2))
    report = opt.step(np.array([1, np.inf]))
    assert report.skipped
    assert report.grad_norm == math.inf
    assert report.groups is report.update_norm is None


def test_statistics_of_nothing():
    report = gs.Adam(np.ones(2), stats=True).step(None)
    assert report.to_dict() == {
        "t": 1,
        "lr": 0.001,
        "grad_norm": 0.0,
        "update_norm": 0.0,
        "param_norm": 0.0,
        "cosine": None,
        "g2_over_v": None,
        "groups": (dict.fromkeys(["grad_norm", "update_norm", "param_norm"], 0.0)
                   | dict.fromkeys(["cosine", "g2_over_v"]),),
    }  # fmt: skip


def test_report_of_what_was_measured():
    """In the repr, the dict and JSON alike."""
    report = gs.SGD(np.ones(2), lr=0.5, clip_norm=1.0, nonfinite="skip").step(np.array([3.0, 4]))
    assert repr(report) == "Report(t=1, lr=0.5, skipped=False, grad_norm=5.0)"
    assert report.to_dict() == {"t": 1, "lr": 0.5, "skipped": False, "grad_norm": 5.0}
    assert json.loads(report.to_json()) == report.to_dict()
    assert report == gs.Report(1, 0.5, {"skipped": False, "grad_norm": 5.0})
    assert pickle.loads(pickle.dumps(report)) == copy.copy(report) == report
    assert report != gs.Report(1, 0.5)
    statistics = json.loads(gs.Adam(np.ones(2), stats=True).step(np.ones(2)).to_json())
    assert statistics["groups"][0]["update_norm"] == statistics["update_norm"] > 0


def test_global_norm_of_every_dtype():
    arrays = [np.array([3], dtype) for dtype in FLOATS]
    assert gs.global_norm(arrays) == 6.0


# ---- what is refused ----


def built(params=None, **hyper):
    return lambda: gs.SGD(np.ones(2) if params is None else params, **hyper)


def assigned(**stages):
    """A step after stages were assigned."""
    opt = gs.SGD(np.ones(2), average=0.5 if "average" in stages else None)
    opt.stages.update(stages)
    return lambda: opt.step(np.ones(2))


def stepped(grads=None, params=None, **how):
    opt = gs.SGD(np.ones(2) if params is None else params)
    return lambda: opt.step(np.ones(2) if grads is None else grads, **how)


def loaded(key, value):
    state = gs.SGD(np.ones(2)).state_dict()
    state["stages"] = value if key is None else {**state["stages"], key: value}
    return lambda: gs.SGD(np.ones(2)).load_state_dict(state)


def read_only(array):
    array.flags.writeable = False
    return array


def unaveraged(opt):
    opt.stages["average"] = 0.9
    return lambda: opt.step(np.ones(2))


TWICE = np.ones(3)
LIMIT = "wanted a finite number > 0"
DECAY = "wanted a number in [0, 1)"
NONFINITE = "wanted one of 'allow', 'skip', 'raise'"
# fmt: off
REFUSED = {
    **{f"{place.__name__} {key}={bad!r}": (
           place(**{key: bad}), error, f"{key}: got {got}, {wanted}")
       for place in (built, assigned)
       for key, bad, error, got, wanted in [
           *[(key, bad, error, got, LIMIT)
             for key in ("clip_norm", "clip_value")
             for bad, error, got in [
                 (0, ValueError, "0"), (-1.0, ValueError, "-1.0"), (math.inf, ValueError, "inf"),
                 (math.nan, ValueError, "nan"), ("1", TypeError, "str"), (True, TypeError, "bool"),
                 ((1.0,), TypeError, "tuple")]],
           *[("average", bad, error, got, DECAY)
             for bad, error, got in [
                 (1.0, ValueError, "1.0"), (-0.1, ValueError, "-0.1"), ("x", TypeError, "str"),
                 (True, TypeError, "bool")]],
           *[("nonfinite", bad, ValueError, repr(bad), NONFINITE)
             for bad in [None, "ignore", True, ["skip"]]],
           ("seed", None, TypeError, "NoneType", "wanted an integer"),
           ("seed", -1, ValueError, "-1", "wanted 0 or more, below 2**52")]},
    "clip_value that float32 loses": (built(np.ones(2, BFLOAT16), clip_value=1e-60), ValueError,
        "clip_value: got 1e-60, which rounds to 0 in float32, wanted a finite number > 0 that"),
    "clip_value above float32": (built(np.ones(2, np.float32), clip_value=1e39), ValueError,
        "clip_value: got 1e+39, which rounds to infinity in float32, wanted a finite number"),
    "function of clip_norm": (assigned(clip_norm=lambda k: -1.0), ValueError,
        f"clip_norm: got -1.0, {LIMIT} (from <function"),
    "function of average": (assigned(average=lambda k: 1.0), ValueError,
        f"average: got 1.0, {DECAY} (from <function"),
    "averages switched on": (unaveraged(gs.SGD(np.ones(2))), ValueError,
        "average: got 0.9, but the optimizer was built without averages, wanted None"),
    "averages switched off": (assigned(average=None), ValueError,
        "average: got None, but the optimizer was built with averages, wanted a decay"),
    "unknown stage": (assigned(clip=1.0), TypeError,
        "clip: got an unknown stage, wanted one of clip_norm, clip_value, average, "),
    "loaded stages": (loaded(None, [1]), TypeError,
        "state_dict['stages']: got list, wanted a mapping"),
    "loaded clip_norm": (loaded("clip_norm", -1), ValueError, f"clip_norm: got -1, {LIMIT}"),
    "loaded average": (loaded("average", 0.5), ValueError,
        "average: got 0.5, but the optimizer was built without averages, wanted None"),
    "stats of int": (built(stats=1), TypeError, "stats: got 1, wanted True, False or 'sample'"),
    **{f"loss_scale={bad!r}": (stepped(loss_scale=bad), error, f"loss_scale: got {got}, {LIMIT}")
       for bad, error, got in [
           (0.0, ValueError, "0.0"), (-2.0, ValueError, "-2.0"), (math.nan, ValueError, "nan"),
           (math.inf, ValueError, "inf"), (True, TypeError, "bool"), (None, TypeError, "NoneType"),
           ("2", TypeError, "str"), (np.ones(1), TypeError, "ndarray")]},
    **{f"zero_grads={bad!r}": (stepped(zero_grads=bad), TypeError,
        f"zero_grads: got {bad!r}, wanted True or False") for bad in [1, None, "yes"]},
    "zeroing what is locked": (stepped(read_only(np.ones(2)), zero_grads=True), ValueError,
        "grads: got a read-only array, wanted a writable one"),
    "zeroing a scalar": (
        stepped(np.float64(1), np.array(1.0), zero_grads=True), TypeError,
        "grads: got numpy.float64, wanted numpy.ndarray"),
    "zeroing one for two": (
        stepped([TWICE[:2], TWICE[1:]], [np.ones(2), np.ones(2)], zero_grads=True), ValueError,
        "grads[1]: got memory that overlaps grads[0], wanted arrays that share no byte"),
    "copy of another shape": (built(copy_to=np.ones(3)), ValueError,
        "copy_to: got shape (3,), wanted (2,)"),
    "copy of integers": (built(copy_to=np.ones(2, np.int16)), TypeError,
        "copy_to: got dtype int16, wanted float32, float64, bfloat16 or float16"),
    "copy that is locked": (built(copy_to=read_only(np.ones(2))), ValueError,
        "copy_to: got a read-only array, wanted a writable one"),
    "copy of a part": (built([np.ones(2), np.ones(2)], copy_to=[np.ones(2), None]), TypeError,
        "copy_to[1]: got builtins.NoneType, wanted numpy.ndarray"),
    "copy of another structure": (built({"w": np.ones(2)}, copy_to=[np.ones(2)]), TypeError,
        "copy_to: got list, wanted a mapping with the keys 'w'"),
    "copy of groups": (built([{"params": np.ones(2)}], copy_to=np.ones(2)), TypeError,
        "copy_to: got ndarray, wanted a list of 1, each group's arrays"),
    "copy of more groups": (built([{"params": np.ones(2)}], copy_to=[np.ones(2)] * 2), ValueError,
        "copy_to: got 2 values, wanted 1, as many as groups"),
    "copy into a parameter": (built(TWICE[:2], copy_to=TWICE[1:]), ValueError,
        "copy_to: got memory that overlaps params, wanted arrays that share no byte"),
    "copies into each other": (
        built([np.ones(2), np.ones(2)], copy_to=[TWICE[:2], TWICE[1:]]), ValueError,
        "copy_to[1]: got memory that overlaps copy_to[0], wanted arrays that share no byte"),
    "group without copies": (
        lambda: gs.SGD(np.ones(2), copy_to=np.ones(2)).add_group({"params": np.ones(2)}),
        ValueError, "copy_to: got NoneType, but the optimizer was built with copies, wanted arr"),
    "group with copies": (
        lambda: gs.SGD(np.ones(2)).add_group({"params": np.ones(2)}, np.ones(2)),
        ValueError, "copy_to: got ndarray, but the optimizer was built without copies, wanted N"),
}


# fmt: on


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=r"^" + re.escape(message)) as caught:
        call()
    assert caught.type is error


@pytest.mark.parametrize("what", ["copy_to", "average", "low"])
def test_gradient_in_what_a_step_writes(what):
    p, to = np.ones(2, BFLOAT16), np.ones(2, BFLOAT16)
    opt = gs.SGD(p, copy_to=to, average=0.5, split=True)
    written = to if what == "copy_to" else opt.state["0"][what].view(BFLOAT16)[:2]
    name = what if what == "copy_to" else f"{what} of params"
    with pytest.raises(ValueError, match=rf"^grads: got memory that overlaps {name}, which the"):
        opt.step(written)


def test_a_copy_that_was_locked():
    to = np.ones(2)
    opt = gs.SGD(np.ones(2), copy_to=to)
    to.flags.writeable = False
    with pytest.raises(ValueError, match=r"^copy_to: got a read-only array"):
        opt.step(np.ones(2))
    assert opt.t == 0


def test_a_missing_stage():
    opt = gs.SGD(np.ones(2))
    del opt.stages["clip_norm"]
    with pytest.raises(ValueError, match=r"^clip_norm: got nothing, wanted a value for this stage"):
        opt.step(np.ones(2))


def test_refused_state_dict_leaves_the_stages():
    """Also where the last thing is refused."""
    opt = gs.SGD(np.ones(2), clip_norm=1.0)
    state = opt.state_dict()
    state["groups"][0]["lr"], state["stages"]["seed"] = 0.5, "x"
    with pytest.raises(TypeError, match=r"^seed: got str"):
        opt.load_state_dict(state)
    assert opt.stages["seed"] == 0
    assert opt.step(np.ones(2)).lr == 1e-3


def test_refused_group_leaves_everything_at_work():
    """Even where what is refused is an older change that no step has met yet."""
    p = np.ones(2)
    opt = gs.SGD(p, lr=1.0, average=0.5)
    opt.step(np.ones(2))
    opt.stages["clip_norm"] = -1
    with pytest.raises(ValueError, match=r"^clip_norm: got -1"):
        opt.add_group({"params": np.ones(2)})
    assert len(opt.groups) == 1
    opt.stages["clip_norm"] = 0.5
    report = opt.step(np.array([3.0, 4.0]))
    assert (report.t, report.grad_norm) == (2, 5.0)
    np.testing.assert_allclose(p, [-0.3, -0.4], rtol=1e-6)


@pytest.mark.parametrize("door", ["arrays", "tensors"])
def test_no_average_beside_that_of_the_rule(door):
    """Nor in a group of such a rule, which may come later."""
    if door == "tensors":
        torch = pytest.importorskip("torch")
        module, make = pytest.importorskip("gradstep.torch"), torch.ones
    else:
        module, make = gs, np.ones
    message = r"^average: got a decay with ASGD, whose averaged\(\) shows an average of its own"
    with pytest.raises(ValueError, match=message):
        module.ASGD([make(3)], average=0.5)
    opt = module.SGD([{"params": [make(3)]}], average=0.5)
    add = opt.add_param_group if door == "tensors" else opt.add_group
    with pytest.raises(ValueError, match=message):
        add({"params": [make(3)], "rule": "ASGD"})
