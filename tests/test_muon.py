"""Muon: every bit but the product's, the product, who steps what, and what is refused."""

import contextlib
import copy
import logging
import math
import pickle
import re

import numpy as np
import pytest

import gradstep as gs
import reference
from cases import DTYPES, OPTIONS, assert_same_bits, normal
from gradstep import _core

SHAPES = [(1, 1), (3, 5), (40, 8), (40, 72), (0, 4), (70, 34), (33, 33)]
STEPS = 2
CASES = [*OPTIONS["Muon"], {**OPTIONS["Muon"][1], "maximize": True}]


class Recorded:
    """An optimizer that remembers what went into the products of its last step, and what came out.

    Attributes:
        found: for each tensor its direction, the orthogonal one, and the factor of its rate.
    """

    def __init__(self, optimizer):
        self.compiled = optimizer._compiled
        self.found = {}
        self._wrap()

    def _wrap(self):
        inner = self.compiled.plan.redirect
        directions, gathered = inner.directions, inner.gathered

        def redirect(indices):
            before = {i: directions[i].copy() for i in indices}
            squares = {i: gathered[i, 0] for i in indices}
            inner(indices)
            for i in indices:
                np.testing.assert_allclose(squares[i], np.square(before[i], dtype=float).sum())
                self.found[i] = before[i], directions[i].copy(), gathered[i, 0]

        self.compiled.plan.redirect = redirect


class Twin:
    """A matrix that the reference steps, with the products of another optimizer."""

    def __init__(self, before, dtype=None):
        self.param = before.copy()
        self.state = {"momentum_buffer": np.zeros(before.shape, dtype or before.dtype)}
        self.t = 0

    def step(self, g, hyper, recorded):
        self.t += 1
        passes = reference.passes("Muon", self.param, g, self.state, self.t, hyper)
        direction, orthogonal, factor = recorded
        assert_same_bits(next(passes), direction, "direction")
        with contextlib.suppress(StopIteration):
            passes.send((orthogonal, factor))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("options", CASES, ids=str)
def test_equals_reference(options, dtype, target, threads):
    """All but the product, to the last bit, and the product within rounding."""
    rng = np.random.default_rng(0)
    shapes = [s for s in SHAPES if not options.get("splits") or s[1] % 2 == 0]
    params = [normal(rng, shape, dtype) for shape in shapes]
    twins = [Twin(p) for p in params]
    opt = gs.Muon(params, **options)
    recorded = Recorded(opt)
    hyper = dict(opt.groups[0])
    for k in range(STEPS):
        gradients = [normal(rng, shape, dtype) for shape in shapes]
        given = [None if (k, i) == (1, 2) else g for i, g in enumerate(gradients)]
        opt.step(given)
        for i, (g, twin) in enumerate(zip(given, twins, strict=True)):
            if g is None:
                continue
            twin.step(g, hyper, recorded.found[i])
            direction, orthogonal, factor = recorded.found[i]
            if direction.size:
                wanted, wanted_factor = reference.expected_direction(direction, hyper)
                tolerance = 2e-5 if dtype == np.float32 else 1e-9
                np.testing.assert_allclose(orthogonal, wanted, atol=tolerance)
                assert factor == wanted_factor
    for i, (param, twin) in enumerate(zip(params, twins, strict=True)):
        assert_same_bits(param, twin.param, f"shape {param.shape}")
        assert_same_bits(opt.state[str(i)]["momentum_buffer"], twin.state["momentum_buffer"])
        assert opt.state[str(i)]["step"] == twin.t


@pytest.mark.parametrize("batch", [1, 10**9])
def test_matrices_of_one_shape_together_or_alone(batch, monkeypatch):
    """How many are multiplied in one call changes nothing that matters."""
    rng = np.random.default_rng(0)
    start = [normal(rng, (12, 20), np.float64) for _ in range(5)]
    start += [normal(rng, (20, 12), np.float64) for _ in range(2)]
    gradients = [normal(rng, p.shape, np.float64) for p in start]
    results = []
    for elements in (500, batch):
        monkeypatch.setattr(gs.orthogonal, "BATCH", elements)
        params = [p.copy() for p in start]
        gs.Muon(params, lr=0.1).step(gradients)
        results.append(np.concatenate([p.ravel() for p in params]))
    np.testing.assert_allclose(*results, rtol=1e-12)


def test_parts_are_orthogonal_each_for_itself():
    rng = np.random.default_rng(0)
    g = normal(rng, (12, 6), np.float64)
    for splits, transposed in ((2, False), ((4, 8), False), ((2, 4), True), (3, True)):
        p = np.zeros_like(g)
        gs.Muon(p, lr=1.0, weight_decay=0, splits=splits, transposed=transposed).step(g)
        axis = int(transposed)
        counts = [g.shape[axis] // splits] * splits if isinstance(splits, int) else splits
        cuts = np.cumsum(counts)[:-1]
        for part, whole in zip(np.split(p, cuts, axis), np.split(g, cuts, axis), strict=True):
            alone = np.zeros(part.shape)
            gs.Muon(alone, lr=1.0, weight_decay=0, transposed=transposed).step(whole.copy())
            np.testing.assert_allclose(part, alone, atol=1e-12)


def test_fan_in_is_rows_or_columns():
    """A kernel that lies the other way steps as its transpose does."""
    rng = np.random.default_rng(0)
    g = normal(rng, (12, 6), np.float64)
    p, q = np.zeros((12, 6)), np.zeros((6, 12))
    gs.Muon(p, lr=1.0).step(g)
    gs.Muon(q, lr=1.0, transposed=True).step(np.ascontiguousarray(g.T))
    np.testing.assert_allclose(p, q.T, atol=1e-12)
    r = np.zeros((6, 12))
    gs.Muon(r, lr=1.0).step(np.ascontiguousarray(g.T))
    np.testing.assert_allclose(p, math.sqrt(2) * r.T, atol=1e-12)


# ---- storages, stages, groups ----


@pytest.mark.parametrize(
    ("param", "options"),
    [
        ("float32", {"states": "q8"}),
        ("float32", {"states": "q4"}),
        ("float64", {"states": "float32"}),
        ("bfloat16", {"states": "bfloat16", "rounding": "stochastic"}),
        ("bfloat16", {"split": True}),
        ("float16", {"states": "float16"}),
    ],
    ids=str,
)
def test_storages(param, options, target, threads):
    """The direction follows the stored momentum, and what is stored what the twin has, rounded."""
    if param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    dtype, shape = gs.storages.dtype_of(param), (40, 70)
    compute = np.float64 if param == "float64" else np.float32
    p = normal(rng, shape, np.float32).astype(dtype)
    opt = gs.Muon(p, lr=0.1, **options)
    recorded = Recorded(opt)
    hyper, stored = dict(opt.groups[0]), options.get("states", "float32")
    stochastic = options.get("rounding") == "stochastic"

    def kept():
        """The parameter and the momentum in what the step computes in."""
        state = opt.state["0"]
        momentum = state["momentum_buffer"]
        if stored in ("q8", "q4"):
            momentum = gs.decode(momentum, stored, "momentum", shape)
        whole = gs.unsplit(p, state["low"]) if "low" in state else p
        return whole.astype(compute), np.asarray(momentum).astype(compute)

    def rounded(storage, role, values, buffer, t):
        stored_so = _core.storage_bytes(storage, values.size) if storage in ("q8", "q4") else shape
        out = np.empty(stored_so, gs.storages.dtype_of(storage))
        draws = (stochastic or storage == "q4") and storage in ("bfloat16", "q4")
        flat = np.ascontiguousarray(values).reshape(-1)
        _core.encode(storage, role, flat, out.reshape(-1), draws, 0, t, 0, buffer, 0)
        return out

    for t in (1, 2):
        before, momentum = kept()
        twin = Twin(before)
        twin.state["momentum_buffer"][...] = momentum
        twin.t = t - 1
        g = normal(rng, p.shape, np.float32).astype(dtype)
        opt.step(g)
        twin.step(g.astype(compute), hyper, recorded.found[0])
        if "split" in options:
            assert_same_bits(kept()[0], twin.param)
        else:
            assert_same_bits(p, rounded(param, "param", twin.param, 0, t))
        wanted = rounded(stored, "momentum", twin.state["momentum_buffer"], 1, t)
        assert_same_bits(opt.state["0"]["momentum_buffer"], wanted)


def matrices(rng, dtype=np.float32):
    return [normal(rng, shape, dtype) for shape in [(24, 36), (36, 24), (7,)]]


def grouped(params, **shared):
    first = {"params": params[:2], "weight_decay": 0.1}
    return gs.Muon([first, {"params": params[2:], "rule": "AdamW", "lr": 0.01}], **shared)


def test_stages(target):
    """Clipping over all groups, averages, copies, zeroing and the report."""
    rng = np.random.default_rng(0)
    params = matrices(rng)
    half = [[np.zeros(p.shape, np.float16) for p in params[:2]], [np.zeros(7, np.float16)]]
    plain = [p.copy() for p in params]
    opt = grouped(params, clip_norm=1.0, average=0.5, copy_to=half, stats=True)
    gradients = [np.float32(3) * normal(rng, p.shape, np.float32) for p in params]
    again = [g.copy() for g in gradients]
    norm = gs.global_norm(gradients)
    report = opt.step([gradients[:2], gradients[2:]], 1.0, True)
    assert report.grad_norm == norm
    assert report.update_norm > 0
    assert all((g == 0).all() for g in gradients)
    averages, copied = ([x for group in lists for x in group] for lists in (opt.average, half))
    for p, average, copy_of_it in zip(params, averages, copied, strict=True):
        assert_same_bits(copy_of_it, p.astype(np.float16))
        assert not np.array_equal(average, p)
    # the momentum is of the clipped gradients
    other = grouped(plain)
    other.step([again[:2], again[2:]], loss_scale=(norm + 1e-6))
    assert_same_bits(opt.state["0.0"]["momentum_buffer"], other.state["0.0"]["momentum_buffer"])
    for p, q in zip(params, plain, strict=True):
        np.testing.assert_allclose(p, q, atol=1e-6)


@pytest.mark.parametrize("how", ["skip", "raise"])
def test_a_step_that_is_skipped_changes_nothing(how):
    rng = np.random.default_rng(0)
    params = matrices(rng)
    before = [p.copy() for p in params]
    opt = grouped(params, nonfinite=how)
    gradients = [np.ones_like(p) for p in params]
    gradients[1][3, 3] = np.nan
    if how == "raise":
        with pytest.raises(FloatingPointError):
            opt.step([gradients[:2], gradients[2:]])
    else:
        assert opt.step([gradients[:2], gradients[2:]]).skipped
    for p, q in zip(params, before, strict=True):
        assert_same_bits(p, q)
    assert not opt.state["0.0"]["momentum_buffer"].any()
    assert opt.t == 0


# They change numbers in a first pass of their own, or as their scalars are made.
BESIDE = [
    {"rule": "LAMB"},
    {"rule": "NAdam"},
    {"rule": "Adafactor"},
    {"rule": "AdamW", "cautious": True},
    {"rule": "Prodigy"},
]


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_a_product_that_fails_changes_nothing(first, monkeypatch):
    """Of any rule; and then the run goes on as if the step had not been tried."""
    rng = np.random.default_rng(0)
    shapes = [(24, 36), (36, 24), *[(5, 7)] * len(BESIDE)]
    start = [normal(rng, shape, np.float32) for shape in shapes]
    gradients = [[normal(rng, shape, np.float32) for shape in shapes] for _ in range(2)]
    gradients = [[g[:2], *([one] for one in g[2:])] for g in gradients]

    def build(params):
        beside = [{"params": [p], **group} for p, group in zip(params[2:], BESIDE, strict=True)]
        return gs.Muon([{"params": params[:2]}, *beside])

    def fails(*_):
        raise MemoryError

    opt, other = build([p.copy() for p in start]), build([p.copy() for p in start])
    if not first:
        for one in (opt, other):
            one.step(gradients[0])
    with monkeypatch.context() as patched:
        patched.setattr(gs.orthogonal.Redirection, "orthogonalise", fails)
        with pytest.raises(MemoryError):
            opt.step(gradients[1])
    assert_same(opt, other)
    for one in (opt, other):
        one.step(gradients[1])
    assert_same(opt, other)


@pytest.mark.parametrize(
    ("key", "bad", "message"),
    [
        ("splits", 5, r"params\[0\]\['params'\]\[0\]: got 24 rows with splits=5, wanted parts"),
        ("splits", (12, 11), r"got 24 rows with splits=\(12, 11\)"),
        ("transposed", True, r"params\[0\]\['params'\]\[0\]: got 36 columns with splits=24"),
        ("dtype", "bfloat16", r"groups\[0\] dtype: got 'bfloat16' for arrays, wanted None, "),
        ("dtype", "int8", r"groups\[0\] dtype: got 'int8', wanted one of"),
    ],
)
def test_a_hyperparameter_that_does_not_fit_is_refused(key, bad, message, monkeypatch):
    """As it is read, before anything changes, from a group and from a checkpoint."""
    rng = np.random.default_rng(0)
    params = [normal(rng, shape, np.float32) for shape in [(24, 36), (48, 24), (7,)]]
    gradients = [np.ones_like(p) for p in params]
    gradients = [gradients[:2], gradients[2:]]
    opt, other = grouped(params), grouped([p.copy() for p in params])
    for one in (opt, other):
        one.groups[0]["splits"] = 24 if key == "transposed" else None
        one.step(gradients)
    good, saved = opt.groups[0][key], opt.state_dict()
    with monkeypatch.context() as patched:
        patched.setattr(gs.orthogonal.Redirection, "__call__", lambda *_: pytest.fail("too late"))
        opt.groups[0][key] = bad
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                opt.step(gradients)
        opt.groups[0][key] = good
        saved["groups"][0][key] = bad
        with pytest.raises(ValueError, match=message.rpartition("]: ")[2]):
            opt.load_state_dict(saved)
    assert opt.groups[0][key] == good
    assert_same(opt, other)
    for one in (opt, other):
        one.step(gradients)
    assert_same(opt, other)


def assert_same(opt, other):
    """Parameters, states and counts are the same."""
    assert opt.t == other.t
    for mine, theirs in zip(opt.groups, other.groups, strict=True):
        for p, q in zip(mine.params, theirs.params, strict=True):
            assert_same_bits(p, q)
    for name, own in other.state.items():
        for key, value in own.items():
            assert_same_bits(np.asarray(opt.state[name][key]), np.asarray(value), f"{name} {key}")


def test_frozen_groups_and_missing_gradients_are_left_alone():
    rng = np.random.default_rng(0)
    a, b, c = (normal(rng, (4, 6), np.float32) for _ in range(3))
    before = [x.copy() for x in (a, b)]
    opt = gs.Muon([{"params": a, "frozen": True}, {"params": [b, c]}])
    opt.step([np.ones_like(a), [None, np.ones_like(c)]])
    assert_same_bits(a, before[0])
    assert_same_bits(b, before[1])
    assert [own["step"] for own in opt.state.values()] == [0, 0, 1]
    opt.step([np.ones_like(a), [None, None]])


@pytest.mark.parametrize("how", ["dict", "file", "pickle", "copy"])
def test_a_run_goes_on(how, tmp_path):
    """Saved after two steps: the same bits as without."""
    rng = np.random.default_rng(0)
    start = matrices(rng)
    gradients = [matrices(rng) for _ in range(4)]
    rate = gs.schedules.linear(0.1, 0.01, total=9)

    def build(params):
        groups = [
            {"params": params[:1], "splits": (8, 16), "ns_coefficients": "polar_express"},
            {"params": params[1:2], "splits": 2, "adjust_lr_fn": "match_rms_adamw"},
            {"params": params[2:], "rule": "AdamW"},
        ]
        return gs.Muon(groups, lr=rate, states={"momentum_buffer": "q8"})

    whole = [p.copy() for p in start]
    opt = build(whole)
    for g in gradients:
        opt.step([g[:1], g[1:2], g[2:]])
    params = [p.copy() for p in start]
    opt = build(params)
    for g in gradients[:2]:
        opt.step([g[:1], g[1:2], g[2:]])
    if how == "dict":
        saved, opt = opt.state_dict(), build(params)
        opt.load_state_dict(saved)
    elif how == "file":
        opt.save(tmp_path / "run")
        opt = build(params)
        opt.load(tmp_path / "run")
    else:
        opt = pickle.loads(pickle.dumps(opt)) if how == "pickle" else copy.deepcopy(opt)
        params = [p for group in opt.groups for p in group.params]
    assert opt.groups[0]["splits"] == (8, 16)
    assert opt.groups[1]["adjust_lr_fn"] == "match_rms_adamw"
    for g in gradients[2:]:
        opt.step([g[:1], g[1:2], g[2:]])
    for p, q in zip(params, whole, strict=True):
        assert_same_bits(p, q)


def test_converges_on_a_quadratic_of_a_matrix():
    """‖A W B − C‖² with a badly conditioned A: the loss falls to nothing as the rate does."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((20, 12)) * np.logspace(0, -1, 12)
    target = rng.standard_normal((12, 30))
    w = np.zeros((12, 30))
    opt = gs.Muon(w, lr=gs.schedules.linear(0.3, 0.0, total=400), weight_decay=0)
    first = np.square(a @ (w - target)).sum()
    for _ in range(400):
        opt.step(2 * a.T @ (a @ (w - target)))
    assert np.square(a @ (w - target)).sum() < 1e-3 * first


# ---- what is refused ----


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        (np.zeros(3), {}, r"params: got shape \(3,\), wanted a matrix"),
        (np.zeros((2, 2, 2, 2)), {}, r"params: got shape \(2, 2, 2, 2\), wanted a matrix"),
        ({"w": np.zeros(3)}, {}, r"params\['w'\]: got shape \(3,\)"),
        (gs.Shard(np.zeros((2, 4)), 1, 8), {}, "params: got a shard that starts at 8"),
        (np.zeros((6, 4)), {"splits": 4}, r"params: got 6 rows with splits=4"),
        (np.zeros((6, 4)), {"splits": (3, 2)}, r"params: got 6 rows with splits=\(3, 2\)"),
        (np.zeros((6, 4)), {"splits": 3, "transposed": True}, "got 4 columns with splits=3"),
        (np.zeros((6, 4)), {"splits": 0}, "splits: got 0, wanted"),
        (np.zeros((6, 4)), {"splits": ()}, r"splits: got \(\), wanted"),
        (np.zeros((6, 4)), {"dtype": "bfloat16"}, "dtype: got 'bfloat16' for arrays"),
        (np.zeros((6, 4)), {"dtype": "int8"}, "dtype: got 'int8', wanted one of None, 'float32'"),
        (np.zeros((6, 4)), {"adjust_lr_fn": "mine"}, "adjust_lr_fn: got 'mine', wanted one of"),
        (np.zeros((6, 4)), {"ns_coefficients": "mine"}, "ns_coefficients: got 'mine'"),
        (np.zeros((6, 4)), {"ns_coefficients": (1, 2)}, r"ns_coefficients: got \(1, 2\)"),
        (np.zeros((6, 4)), {"ns_coefficients": ((1, 2, 3), 4)}, "ns_coefficients: got"),
        (np.zeros((6, 4)), {"ns_steps": 100}, "ns_steps: got 100, wanted a whole number from 0"),
        (np.zeros((6, 4)), {"ns_steps": 2.5}, "ns_steps: got float, wanted an integer"),
        (np.zeros((6, 4)), {"eps": -1.0}, "eps: got -1.0"),
        (np.zeros((6, 4)), {"eps": float}, "eps: got type"),
        (np.zeros((6, 4)), {"transposed": 1}, "transposed: got 1, wanted True or False"),
    ],
)
def test_refused(params, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gs.Muon(params, **options)


def test_a_checkpoint_of_another_rule_names_both():
    w = np.zeros((2, 2))
    with pytest.raises(ValueError, match="got 'AdamW', wanted 'Muon'"):
        gs.Muon(w).load_state_dict(gs.AdamW(w).state_dict())


# ---- who steps what ----


def named():
    shapes = {
        "wte.weight": (11, 8),
        "h.0.attn/kernel": (8, 24),
        "h.0.norm": (8,),
        "h.0.conv.weight": (4, 3, 2, 2),
        "h.0.output.dense.weight": (24, 8),
        "lm_head.weight": (11, 8),
    }
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def test_parameters_are_sorted_by_name(caplog):
    params = named()
    with caplog.at_level(logging.INFO, "gradstep"):
        groups = gs.muon_groups(params, muon={"lr": 0.02}, adamw={"lr": 1e-3})
    assert [list(group["params"]) for group in groups] == [
        ["h.0.attn/kernel", "h.0.output.dense.weight"],
        ["wte.weight", "h.0.norm", "h.0.conv.weight", "lm_head.weight"],
    ]
    text = repr(groups)
    assert text in caplog.text
    for name in params:
        assert name in text
    opt = gs.Muon(groups, clip_norm=1.0)
    report = opt.step(groups.split({name: np.ones_like(p) for name, p in params.items()}))
    assert report.lr == (0.02, 1e-3)
    assert all((p != 1).all() for p in params.values())
    assert len(opt.state) == len(params)


@pytest.mark.parametrize("argument", ["embeddings", "heads", "muon_for", "adamw_for"])
def test_patterns_come_in_anything_but_a_text(argument):
    params, pattern = named(), "*output*"
    wanted = gs.muon_groups(params, **{argument: [pattern]})
    for given in ((p for p in [pattern]), {pattern: 1}, {pattern}, (pattern,)):
        assert repr(gs.muon_groups(params, **{argument: given})) == repr(wanted)
    for bad, shown in ((pattern, r"'\*output\*'"), (3, "3"), ([3], r"\(3,\)"), (None, "None")):
        with pytest.raises(TypeError, match=f"^{argument}: got {shown}, wanted a list of names"):
            gs.muon_groups(params, **{argument: bad})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.pop("h.0.norm"), "values: got no 'h.0.norm', wanted the names 'wte.weight', "),
        (lambda g: g.update(x=1), "values: got the unknown 'x', wanted the names 'wte.weight', "),
    ],
)
def test_a_split_wants_every_name(change, message):
    groups, values = gs.muon_groups(named()), named()
    assert [list(part) for part in groups.split(values)] == [list(g["params"]) for g in groups]
    assert groups.split(list(values.values())) == groups.split(values)
    with pytest.raises(ValueError, match="values: got 2, wanted 6, as many as parameters"):
        groups.split([1, 2])
    change(values)
    with pytest.raises(ValueError, match=re.escape(message)):
        groups.split(values)


def test_sorting_can_be_told_otherwise():
    params = named()

    def muon(**options):
        return list(gs.muon_groups(params, **options)[0]["params"])

    assert muon(heads=()) == ["h.0.attn/kernel", "h.0.output.dense.weight", "lm_head.weight"]
    assert muon(embeddings=()) == ["wte.weight", "h.0.attn/kernel", "h.0.output.dense.weight"]
    assert muon(adamw_for=["*dense*"]) == ["h.0.attn/kernel"]
    assert muon(muon_for=["wte"])[0] == "wte.weight"
    groups = gs.muon_groups([np.ones((2, 3)), np.ones(3)])
    assert [list(group["params"]) for group in groups] == [["0"], ["1"]]
    assert [list(part) for part in groups.split([1, 2])] == [["0"], ["1"]]
    for options, message in [
        ({"params": np.ones((2, 2))}, "params: got ndarray, wanted a mapping"),
        ({"params": [np.ones(3)]}, "params: got no matrix for Muon"),
        ({"params": params, "muon_for": ["x"]}, "muon_for: got 'x', which no parameter is called"),
        ({"params": params, "muon_for": ["h.0.norm"]}, "wanted a matrix for Muon"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            gs.muon_groups(**options)
