"""Rules that keep a number for each row and column of a matrix: Adafactor."""

import copy
import functools

import ml_dtypes
import numpy as np
import pytest

import gradstep as gs
import reference
import reference_storages
from cases import CASES, DTYPES, MATRICES, assert_same_bits, at_offset, case_id, normal, special

RULE = "Adafactor"
OPTIONS = [options for rule, options in CASES if rule == RULE]
STEPS = 3
NUMBERS = {"normal": normal, "special": special}
STORED = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
}


def draw(rng, shape, dtype, numbers=normal):
    return numbers(rng, int(np.prod(shape, dtype=int)), dtype).reshape(shape)


def placed(x, offset):
    return at_offset(x.reshape(-1), offset).reshape(x.shape)


def states_of(shape, dtype):
    if len(shape) < 2:
        return {"variance": np.zeros(shape, dtype)}
    rows, columns = (*shape[:-1], 1), (*shape[:-2], 1, shape[-1])
    return {"row_var": np.zeros(rows, dtype), "col_var": np.zeros(columns, dtype)}


def assert_same(opt, params, after, states, what=""):
    for i, (param, wanted) in enumerate(zip(params, after, strict=True)):
        assert_same_bits(param, wanted, f"{wanted.shape} {what}")
        own = opt.state[str(i)]
        assert own.keys() - {"step", "low", "average"} == states[i].keys()
        for name, array in states[i].items():
            assert_same_bits(own[name], array, f"{name}, {wanted.shape} {what}")


# ---- bits ----


@functools.cache
def expected(index, dtype, numbers):
    """Parameters before, gradients of each step, parameters and states after."""
    rng = np.random.default_rng(index)
    hyper = dict(gs.Adafactor(np.zeros(1, dtype), **OPTIONS[index]).groups[0])
    before = [draw(rng, shape, dtype, NUMBERS[numbers]) for shape in MATRICES]
    gradients = [
        [draw(rng, shape, dtype, NUMBERS[numbers]) for shape in MATRICES] for _ in range(STEPS)
    ]
    after = [x.copy() for x in before]
    states = [states_of(shape, dtype) for shape in MATRICES]
    for t, each in enumerate(gradients, start=1):
        for p, g, state in zip(after, each, states, strict=True):
            reference.step(RULE, p, g, state, t, hyper)
    return before, gradients, after, states


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("index", range(len(OPTIONS)), ids=[case_id((RULE, o)) for o in OPTIONS])
def test_equals_reference(index, dtype, numbers, target, threads):
    before, gradients, after, states = expected(index, dtype, numbers)
    params = [placed(x, i % 4) for i, x in enumerate(before)]
    opt = gs.Adafactor(params, **OPTIONS[index])
    for each in gradients:
        opt.step([placed(g, 3 - i % 4) for i, g in enumerate(each)])
    assert_same(opt, params, after, states)
    assert {entry["step"] for entry in opt.state.values()} == {STEPS}


@functools.cache
def expected_stored(param, gradient, staged):
    """The same of parameters and gradients in other dtypes, with all stages or none."""
    rng = np.random.default_rng(5)
    split = param == "split"
    dtype = np.dtype(STORED["bfloat16" if split else param])
    T = np.float64 if param == "float64" else np.float32
    hyper = dict(gs.Adafactor(np.zeros(1, T), lr=0.3).groups[0])
    rows = []
    for i, shape in enumerate(MATRICES):
        p = draw(rng, shape, np.float32).astype(dtype)
        low = rng.integers(-(2**15), 2**15, shape).astype(np.int16) if split else None
        gradients = [draw(rng, shape, np.float32).astype(STORED[gradient]) for _ in range(2)]
        row = {"before": p.copy(), "low_before": None if low is None else low.copy()}
        states, extra = states_of(shape, T), {}
        if staged:
            first = reference_storages.unsplit(p, low) if split else p
            extra = {"average": first.astype(T), "copy": np.zeros(shape, ml_dtypes.bfloat16)}
            extra |= {"factor": 1 / 3, "clip_value": 0.2, "decay": 0.75}
        for t, g in enumerate(gradients, start=1):
            reference_storages.step(
                RULE, p, g, states, t, hyper,
                stochastic=("param",) if param in ("bfloat16", "float16") else (),
                low=low, seed=5, key=i, **extra,
            )  # fmt: skip
        rows.append({**row, "after": p, "low": low, "states": states, "g": gradients, **extra})
    return rows


@pytest.mark.parametrize("staged", [False, True], ids=["plain", "staged"])
@pytest.mark.parametrize(
    ("param", "gradient"),
    [
        ("float32", "bfloat16"),
        ("float32", "float64"),
        ("float64", "float16"),
        ("float64", "float64"),
        ("bfloat16", "bfloat16"),
        ("float16", "float32"),
        ("split", "bfloat16"),
    ],
)
def test_stored_otherwise(param, gradient, staged, target):
    """Gradients, parameters and stages as every rule has them."""
    gs.set_num_threads(3)
    gs._core.set_eager(True)
    rows = expected_stored(param, gradient, staged)
    params = [placed(row["before"], i % 3) for i, row in enumerate(rows)]
    copies = [np.zeros(p.shape, ml_dtypes.bfloat16) for p in params]
    opt = gs.Adafactor(
        params, lr=0.3, seed=5, split=param == "split",
        rounding={"params": "stochastic"} if param in ("bfloat16", "float16") else None,
        **({"clip_value": 0.2, "copy_to": copies, "average": 0.75} if staged else {}),
    )  # fmt: skip
    for i, row in enumerate(rows):
        if row["low"] is not None:
            opt.state[str(i)]["low"][...] = row["low_before"]
            if staged:
                first = reference_storages.unsplit(row["before"], row["low_before"])
                opt.state[str(i)]["average"][...] = first
    for k in range(2):
        gradients = [row["g"][k].copy() for row in rows]
        opt.step(gradients, loss_scale=3.0 if staged else 1.0, zero_grads=staged)
        assert not staged or not any(g.any() for g in gradients)
    assert_same(opt, params, [row["after"] for row in rows], [row["states"] for row in rows])
    for i, row in enumerate(rows):
        if row["low"] is not None:
            assert_same_bits(opt.state[str(i)]["low"], row["low"])
        if staged:
            assert_same_bits(copies[i], row["copy"])
            assert_same_bits(opt.state[str(i)]["average"], row["average"])


def test_norm_frozen_and_missing_gradients(threads):
    """What clips by the norm is one factor; a frozen or idle matrix keeps its rows."""
    rng = np.random.default_rng(2)
    shapes = [(300, 400), (5, 6), (9, 4)]
    before = [draw(rng, shape, np.float32) for shape in shapes]
    gradients = [draw(rng, shape, np.float32) for shape in shapes]
    params = [x.copy() for x in before]
    opt = gs.Adafactor(
        [{"params": params[:2]}, {"params": params[2], "frozen": True}], clip_norm=1.0
    )
    report = opt.step([[gradients[0], None], gradients[2]])
    assert_same_bits(params[1], before[1])
    assert_same_bits(params[2], before[2])
    kept = list(opt.state.values())
    assert [entry["step"] for entry in kept] == [1, 0, 0]
    assert not kept[1]["row_var"].any()
    assert not kept[2]["col_var"].any()
    wanted, state = before[0].copy(), states_of(shapes[0], np.float32)
    scaled = gradients[0] * np.float32(1 / (report.grad_norm + 1e-6))
    reference.step(RULE, wanted, scaled, state, 1, dict(opt.groups[0]))
    assert_same_bits(params[0], wanted)


def test_a_skipped_step_changes_no_row():
    p, g = np.ones((40, 30), np.float32), np.ones((40, 30), np.float32)
    opt = gs.Adafactor(p, nonfinite="skip")
    g[3, 4] = np.inf
    assert opt.step(g).skipped
    assert not opt.state["0"]["row_var"].any()
    assert (p == 1).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_statistics(sign):
    """The second moment of g²/v is what rows and columns make."""
    rng = np.random.default_rng(3)
    p, g = draw(rng, (60, 70), np.float64), draw(rng, (60, 70), np.float64)
    before = p.copy()
    opt = gs.Adafactor(p, stats=True, maximize=sign < 0)
    report = opt.step(g)
    own = opt.state["0"]
    v = own["row_var"] / own["row_var"].mean() * own["col_var"]
    assert report.update_norm == pytest.approx(np.linalg.norm(p - before), rel=1e-12)
    assert report.g2_over_v == pytest.approx((g * g / v).mean(), rel=1e-12)
    plain = before.copy()
    gs.Adafactor(plain, maximize=sign < 0).step(g)
    assert_same_bits(plain, p)


# ---- eps ----


@pytest.mark.parametrize("dtype", [*STORED, "split"])
def test_epsilon_of_the_dtype(dtype):
    """None is the epsilon of the parameter's dtype, of float32 where a split one is."""
    split = dtype == "split"
    start = np.ones((4, 5)).astype(STORED["bfloat16" if split else dtype])
    g = np.full((4, 5), 1e-9, np.float64)
    epsilon = 2.0**-23 if split else float(ml_dtypes.finfo(start.dtype).eps)
    one, other = start.copy(), start.copy()
    gs.Adafactor(one, lr=1.0, split=split).step(g)
    gs.Adafactor(other, lr=1.0, split=split, eps=(epsilon, 1e-3)).step(g)
    assert_same_bits(one, other)
    with pytest.raises(TypeError, match=r"eps\[1\]: got NoneType, wanted a finite number ≥ 0"):
        gs.Adafactor(one, eps=(1e-30, None))
    with pytest.raises(TypeError, match=r"lr: got NoneType"):
        gs.Adafactor(one, lr=None)


def test_schedules_beside_none():
    p, q = np.ones((3, 4)), np.ones((3, 4))
    opt = gs.Adafactor(
        p, lr=1.0, eps=(None, gs.schedules.linear(0.5, 0.1, total=2)), d=gs.schedules.constant(2.0)
    )
    other = gs.Adafactor(q, lr=1.0, eps=(None, 0.5), d=2.0)
    opt.step(np.ones((3, 4)))
    other.step(np.ones((3, 4)))
    assert_same_bits(p, q)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"beta2_decay": 0.1}, r"beta2_decay: got 0\.1, wanted a finite number ≤ 0"),
        ({"d": 0.5}, r"d: got 0\.5, wanted a finite number ≥ 1"),
        ({"eps": 1e-3}, r"eps: got 0\.001, wanted 2 numbers"),
        ({"eps": (-1.0, 1e-3)}, r"eps\[0\]: got -1\.0, wanted a finite number ≥ 0"),
        ({"states": {"row_var": "q8"}}, r"states\['row_var'\]: got 'q8', but row_var has a number"),
        ({"states": {"col_var": "q4"}}, r"states\['col_var'\]: got 'q4', but col_var has a number"),
        ({"states": "q8"}, r"states: got 'q8', but Adafactor was built without states that can"),
        ({"states": {"variance": "q8"}}, r"states\['variance'\]: got a value, but Adafactor was"),
    ],
)
def test_refused(options, wanted):
    with pytest.raises((TypeError, ValueError), match=wanted):
        gs.Adafactor(np.ones((3, 4), np.float32), **options)


# ---- what is kept ----


@pytest.mark.parametrize("door", ["arrays", "tensors"])
@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize(
    ("adafactor", "adamw", "states", "refused"),
    [
        ((6, 4), (4,), {"variance": "bfloat16"}, True),
        ((6, 4), (4,), {"variance": "bfloat16", "exp_avg": "q8"}, True),
        ((4,), (6, 4), {"variance": "bfloat16"}, False),
        ((6, 4), (4,), {"exp_avg": "q8"}, False),
    ],
)
def test_states_that_only_another_rules_shapes_would_have(
    adafactor, adamw, states, refused, later, door
):
    """A storage that is asked for them would do nothing."""
    if door == "tensors":
        torch = pytest.importorskip("torch")
        module, make = pytest.importorskip("gradstep.torch"), torch.ones
    else:
        module, make = gs, np.ones
    groups = [
        {"params": [make(adafactor)]},
        {"params": [make(adamw)], "rule": "AdamW"},
    ][:: -1 if later else 1]
    if not refused:
        module.Adafactor(groups, states=states)
        return
    with pytest.raises(ValueError, match=r"states\['variance'\]: got a value, but .* without"):
        module.Adafactor(groups, states=states)


def test_bytes_and_repr():
    """A number for each row and column; a vector is kept whole, and repr says which."""
    params = {"w": np.ones((768, 3072), np.float32), "b": np.ones(768, np.float32)}
    opt = gs.Adafactor(params)
    own = opt.state
    assert sum(a.nbytes for n, a in own["w"].items() if n != "step") == 4 * (768 + 3072)
    assert own["b"]["variance"].shape == (768,)
    first, group = repr(opt).splitlines()
    assert f"states {4 * (768 + 3072 + 768):,} bytes" in first
    assert group.endswith("maximize=False, frozen=False; without rows, whole: 'b'")
    assert "without" not in repr(gs.Adafactor(params["w"]))
    assert "without" not in repr(gs.AdamW(params))
    stored = gs.Adafactor(params, states="q8").state
    assert stored["b"]["variance"].dtype == np.uint8
    assert stored["w"]["row_var"].dtype == np.float32


def test_memory_of_states_is_asked_for_by_shape():
    asked = []

    def allocate(name, shape, dtype):
        asked.append((name, shape, dtype.name))
        return np.zeros(shape, dtype)

    gs.Adafactor({"w": np.ones((2, 3, 4)), "b": np.ones(4)}, allocate=allocate)
    assert asked == [
        ("w.row_var", (2, 3, 1), "float64"),
        ("w.col_var", (2, 1, 4), "float64"),
        ("b.variance", (4,), "float64"),
    ]


def test_shards_of_a_matrix_are_refused():
    w = np.ones((6, 4), np.float32)
    halves = [gs.Shard(w[:3], key=7), gs.Shard(w[3:], key=7, start=12)]
    with pytest.raises(
        ValueError, match=r"params\[0\]: got one of several shards, of shape \(3, 4\)"
    ):
        gs.Adafactor(halves)
    with pytest.raises(ValueError, match=r"params\[0\]: got a shard of key 7 that starts at 12"):
        gs.Adafactor([halves[1]])
    gs.Adafactor([halves[0]])


@pytest.mark.parametrize("way", ["state dict", "file", "deepcopy"])
def test_it_goes_on(way, tmp_path):
    rng = np.random.default_rng(4)
    params = [draw(rng, shape, np.float32) for shape in MATRICES]
    opt = gs.Adafactor(params, lr=0.1)

    def steps(optimizer, first):
        again = np.random.default_rng(first)
        for _ in range(2):
            optimizer.step([draw(again, shape, np.float32) for shape in MATRICES])

    steps(opt, 0)
    if way == "deepcopy":
        other = copy.deepcopy(opt)
        others = list(other.groups[0].params)
    else:
        others = [p.copy() for p in params]
        other = gs.Adafactor(others, lr=0.5)
        if way == "file":
            opt.save(tmp_path / "a.safetensors")
            other.load(tmp_path / "a.safetensors")
        else:
            other.load_state_dict(opt.state_dict())
    steps(opt, 1)
    steps(other, 1)
    for mine, its in zip(params, others, strict=True):
        assert_same_bits(mine, its)
    transposed = gs.Adafactor([p.T.copy() for p in params])
    with pytest.raises(ValueError, match="row_var"):
        transposed.load_state_dict(opt.state_dict())
