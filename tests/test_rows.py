"""Gradients of some rows: to the last bit what the rule gives those rows, and nothing elsewhere."""

import functools

import ml_dtypes
import numpy as np
import pytest

import gradstep as gs
import reference
from cases import DTYPES, assert_same_bits, given, normal, special

CASES = [
    ("SGD", {}),
    ("SGD", {"lr": 0.05, "maximize": True}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "lr": 0.05}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "lr": 0.1, "eps": 1e-3, "maximize": True}),
]
RULES = ["SGD", "Adagrad", "Adam"]
SHAPES = [(1,), (40,), (7, 3), (50, 64), (9, 100), (5, 2, 3), (4, 520), (3, 0)]
STEPS = 3


def case_id(case):
    return f"{case[0]}({', '.join(f'{k}={v}' for k, v in case[1].items())})"


def choices(rng, height):
    """Sets of rows: none, the first, the last, all, some in any order, some several times."""
    some = rng.permutation(height)[: height // 2 + 1]
    return [[], [0], [height - 1], range(height), some, rng.integers(0, height, 2 * height)]


def coalesced(indices, values, dtype):
    """The rows in their order, and their values added up in the order in which they came."""
    rows = np.unique(indices)
    sums = np.empty((rows.size, *values.shape[1:]), dtype)
    with np.errstate(all="ignore"):
        for i, row in enumerate(rows):
            sums[i], *more = values[indices == row].astype(dtype)
            for value in more:
                sums[i] = sums[i] + value
    return rows, sums


def step(rule, p, indices, values, state, t, hyper):
    """The reference's update of those rows."""
    rows, g = coalesced(indices, values, p.dtype)
    param, own = p[rows], {name: array[rows] for name, array in state.items()}
    reference.step(rule, param, g, own, t, hyper)
    p[rows] = param
    for name, array in own.items():
        state[name][rows] = array


@functools.cache
def expected(case_index, dtype, draw):
    """For each table its numbers before, its gradients, and all that is there after the steps."""
    rule, options = CASES[case_index]
    rng = np.random.default_rng(case_index)
    found = []
    for shape in SHAPES:
        for i in range(len(choices(rng, shape[0]))):
            before = draw(rng, int(np.prod(shape)), dtype).reshape(shape)
            grads = []
            for _ in range(STEPS):
                indices = np.array(choices(rng, shape[0])[i], np.int64)
                size = indices.size, *shape[1:]
                grads.append((indices, draw(rng, int(np.prod(size)), dtype).reshape(size)))
            after = before.copy()
            opt = getattr(gs, rule)(before.copy(), **options)
            state = {k: v.copy() for k, v in opt.state["0"].items() if k != "step"}
            for t, grad in enumerate(grads, start=1):
                step(rule, after, *grad, state, t, dict(opt.groups[0]))
            found.append((before, grads, after, state))
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("index", range(len(CASES)), ids=[case_id(c) for c in CASES])
def test_equals_reference(index, dtype, target, threads):
    """All tables in one optimizer."""
    rule, options = CASES[index]
    tables = expected(index, dtype, normal) + expected(index, dtype, special)
    params = [before.copy() for before, *_ in tables]
    opt = getattr(gs, rule)(params, **options)
    for k in range(STEPS):
        opt.step([gs.Rows(*grads[k]) for _, grads, *_ in tables])
    for i, ((_, grads, after, states), param) in enumerate(zip(tables, params, strict=True)):
        what = f"shape {after.shape}, rows {grads[0][0]}"
        assert_same_bits(param, after, what)
        for name, array in states.items():
            assert_same_bits(opt.state[str(i)][name], array, f"{name}, {what}")
        assert opt.state[str(i)]["step"] == STEPS


STORED = [
    ({}, np.float32, np.float64),
    ({}, np.float32, ml_dtypes.bfloat16),
    ({"states": "bfloat16"}, ml_dtypes.bfloat16, ml_dtypes.bfloat16),
    ({"rounding": {"params": "stochastic"}, "seed": 3}, ml_dtypes.bfloat16, np.float32),
    ({"split": True}, ml_dtypes.bfloat16, ml_dtypes.bfloat16),
    ({"clip_value": 0.5, "average": 0.9}, np.float32, np.float32),
    ({"clip_value": 0.5, "average": 0.9}, np.float64, np.float16),
    ({"average": 0.9, "copy_to": np.float16}, np.float32, np.float32),
]


def made(rule, param, options):
    """An optimizer of one table, and all arrays that its step may write."""
    given, copy = dict(options), None
    if "copy_to" in given:
        copy = given["copy_to"] = np.zeros(param.shape, given["copy_to"])
    if rule == "SGD":
        given.pop("states", None)
    opt = getattr(gs, rule)(param, **given)
    opt.groups[0]["lr"] = 0.1

    def arrays():
        own = {k: np.asarray(v) for k, v in opt.state["0"].items() if k != "step"}
        return {"param": param, **own, **({} if copy is None else {"copy": copy})}

    return opt, arrays


@pytest.mark.parametrize(("options", "dtype", "grad_dtype"), STORED, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_rows_get_what_a_dense_step_gives_them(rule, options, dtype, grad_dtype, threads):
    """In every storage and with every stage, random bits included; other rows stay."""
    rng = np.random.default_rng(1)
    shape, rows = (60, 70), np.array([0, 3, 4, 5, 17, 58, 59])
    start = rng.standard_normal(shape).astype(dtype)
    values = rng.standard_normal((rows.size, 70)).astype(grad_dtype)
    full = np.zeros(shape, grad_dtype)
    full[rows] = values
    few, few_arrays = made(rule, start.copy(), options)
    all_, all_arrays = made(rule, start.copy(), options)
    few.step(np.ones(shape, grad_dtype))
    all_.step(np.ones(shape, grad_dtype))
    before = {name: array.copy() for name, array in few_arrays().items()}
    few.step(gs.Rows(rows, values), loss_scale=2.0)
    all_.step(full, loss_scale=2.0)
    others = np.setdiff1d(np.arange(60), rows)
    for name, array in few_arrays().items():
        wanted = all_arrays()[name]
        assert (array[rows].view(np.uint8) == wanted[rows].view(np.uint8)).all(), name
        assert (array[others].view(np.uint8) == before[name][others].view(np.uint8)).all(), name


@pytest.mark.parametrize("given", ["ascending", "reversed", "int32", "coalesced"])
@pytest.mark.parametrize("rule", RULES)
def test_all_rows_are_a_dense_step(rule, given):
    rng = np.random.default_rng(2)
    few = rng.standard_normal((300, 257)).astype(np.float32)
    dense = few.copy()
    first = getattr(gs, rule)(few, lr=0.1, stats=True, clip_norm=3.0)
    second = getattr(gs, rule)(dense, lr=0.1, stats=True, clip_norm=3.0)
    rows = np.arange(300)
    for _ in range(3):
        g = rng.standard_normal((300, 257)).astype(np.float32)
        gradient = {
            "ascending": gs.Rows(rows, g),
            "reversed": gs.Rows(rows[::-1].copy(), g[::-1].copy()),
            "int32": gs.Rows(rows.astype(np.int32), g),
            "coalesced": gs.Rows(rows, g, coalesced=True),
        }[given]
        assert first.step(gradient) == second.step(g)
        assert_same_bits(few, dense)


def test_cost_does_not_follow_the_table(threads):
    """Not the time, which benchmarks/ have: a step of rows touches no other byte."""
    table = np.ones((100, 4))
    untouched = table[1:99].copy()
    opt = gs.Adam(table)
    opt.step(gs.Rows(np.array([99, 0]), np.ones((2, 4))))
    assert_same_bits(table[1:99], untouched)
    assert (opt.state["0"]["exp_avg"][1:99] == 0).all()
    assert (table[[0, 99]] < 1).all()


def test_duplicates_are_added_up_in_their_order():
    """In the compute type: float32 for a bfloat16 gradient, and before anything is squared."""
    big, small = np.float32(2**24), np.float32(1)
    for order, total in [([big, small, -big], 0), ([big, -big, small], 1)]:
        p = np.zeros((3, 1), np.float32)
        values = np.array(order, np.float32).reshape(3, 1)
        report = gs.SGD(p, lr=1.0, nonfinite="skip").step(gs.Rows(np.array([1, 1, 1]), values))
        assert p[1] == -total
        assert report.grad_norm == total
    p = np.zeros((2, 1), ml_dtypes.bfloat16)
    values = np.array([[256], [1], [-256]], ml_dtypes.bfloat16)  # 257 is no bfloat16
    gs.SGD(p, lr=1.0).step(gs.Rows(np.array([0, 0, 0]), values))
    assert p[0] == -1


def test_norm_is_of_coalesced_rows(target, threads):
    rng = np.random.default_rng(4)
    p, dense = np.ones((500, 300), np.float32), np.ones(1000, np.float32)
    indices = rng.integers(0, 500, 900)
    values = rng.standard_normal((900, 300)).astype(np.float32)
    g = rng.standard_normal(1000).astype(np.float32)
    report = gs.SGD([p, dense], clip_norm=1.0).step([gs.Rows(indices, values), g])
    rows, sums = coalesced(indices, values, np.float32)
    assert report.grad_norm == np.sqrt(reference.sum_squares([sums, g]))
    wanted = np.ones((500, 300), np.float32)
    scale = np.float32(1 / (report.grad_norm + 1e-6))
    wanted[rows] -= np.float32(1e-3) * (sums * scale)
    assert_same_bits(p, wanted)


def test_statistics_are_of_the_rows_that_have_a_gradient(target, threads):
    rng = np.random.default_rng(5)
    table = rng.standard_normal((400, 300)).astype(np.float32)
    rows = np.flatnonzero(rng.random(400) < 0.7)
    values = rng.standard_normal((rows.size, 300)).astype(np.float32)
    alone = table[rows]
    first = gs.Adam(table, stats=True).step(gs.Rows(rows, values))
    second = gs.Adam(alone, stats=True).step(values)
    for name in ("grad_norm", "update_norm", "param_norm"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-12)


@pytest.mark.parametrize("order", [[1, 4], [4, 1], [4, 1, 4]], ids=str)
def test_gradients_are_only_read_unless_they_are_to_be_zero(order):
    p, indices = np.ones((5, 2)), np.array(order)
    values = np.arange(2.0 * len(order)).reshape(-1, 2) + 1
    kept = values.copy()
    values.flags.writeable = indices.flags.writeable = False
    opt = gs.Adam([p, np.ones(3)], average=0.5)
    opt.step([gs.Rows(indices, values), None])
    assert_same_bits(values, kept)
    with pytest.raises(ValueError, match=r"grads\[0\].values: got a read-only array"):
        opt.step([gs.Rows(indices, values), None], zero_grads=True)
    opt.step([gs.Rows(indices, kept), np.ones(3)], zero_grads=True)
    assert (kept == 0).all()
    with pytest.raises(ValueError, match=r"overlaps grads\[0\].values"):
        opt.step([gs.Rows(indices, kept), kept.reshape(-1)[:3]], zero_grads=True)


def test_skipped_and_frozen():
    p, frozen = np.ones((5, 2)), np.ones((2, 2))
    opt = gs.Adam([{"params": p}, {"params": frozen, "frozen": True}], nonfinite="skip")
    good = gs.Rows(np.array([0]), np.ones((1, 2)))
    bad = gs.Rows(np.array([3, 1, 3]), np.array([[1, 2], [3, np.inf], [4, 5]]))
    assert opt.step([bad, good], zero_grads=True).skipped
    assert (p == 1).all()
    assert (bad.values == 0).all()
    assert (good.values == 0).all()
    good.values[...] = 1
    assert not opt.step([good, good]).skipped
    assert (p[0] < 1).all()
    assert (frozen == 1).all()
    assert [entry["step"] for entry in opt.state.values()] == [1, 0]


def test_resumes_and_goes_on_with_dense_gradients():
    rng = np.random.default_rng(6)
    grads = [
        rng.standard_normal((20, 3)) if k % 3 == 2
        else gs.Rows(rng.integers(0, 20, 8), rng.standard_normal((8, 3)))
        for k in range(6)
    ]  # fmt: skip
    whole = np.ones((20, 3))
    opt = gs.Adam(whole, lr=0.1)
    for g in grads:
        opt.step(g)
    part = np.ones((20, 3))
    opt = gs.Adam(part, lr=0.1)
    for g in grads[:3]:
        opt.step(g)
    other = gs.Adam(part, lr=0.1)
    other.load_state_dict(opt.state_dict())
    for g in grads[3:]:
        other.step(g)
    assert_same_bits(part, whole)


def test_shards_have_rows_of_their_own():
    """And the random bits of the whole."""
    rng = np.random.default_rng(7)
    whole = rng.standard_normal((30, 40)).astype(ml_dtypes.bfloat16)
    halves = whole[:10].copy(), whole[10:].copy()
    values = rng.standard_normal((3, 40)).astype(np.float32)
    options = {"rounding": {"params": "stochastic"}, "seed": 5, "lr": 0.1}
    gs.Adagrad(whole, **options).step(gs.Rows(np.array([2, 11, 29]), values))
    shards = [gs.Shard(halves[0], key=0), gs.Shard(halves[1], key=0, start=400)]
    gs.Adagrad(shards, **options).step(
        [gs.Rows(np.array([2]), values[:1]), gs.Rows(np.array([1, 19]), values[1:])]
    )
    assert (np.concatenate(halves).view(np.uint16) == whole.view(np.uint16)).all()


def refused(opt, gradient, error, message, **arguments):
    before = {name: array.copy() for name, array in opt.state["0"].items() if name != "step"}
    with pytest.raises(error, match=message):
        opt.step(gradient, **arguments)
    assert opt.t == 0
    for name, array in before.items():
        assert (opt.state["0"][name] == array).all()


def ones(*indices, dtype=np.int64, shape=None, **more):
    return gs.Rows(np.array(indices, dtype), np.ones(shape or (len(indices), 3)), **more)


def test_what_is_refused_by_name():
    p, table = np.ones((6, 3)), np.ones((6, 3))
    flags = np.zeros((6, 1), np.int64).view(np.float64)
    within = gs.Rows(flags.view(np.int64)[:1, 0], np.ones((1, 1)))
    refused(gs.Adam(flags), within, ValueError, "grads.indices: got memory that overlaps params")
    for gradient, error, message in [
        (ones(6), ValueError, r"^grads: got the row 6 in indices\[0\], wanted rows from 0 up to"),
        (ones(2, -1), ValueError, r"got the row -1 in indices\[1\]"),
        (ones(2, 2**40), ValueError, "got the row 1099511627776"),
        (ones(3, 2, coalesced=True), ValueError, "got the row 2 after 3 .* said to be coalesced"),
        (ones(2, 2, coalesced=True), ValueError, "got the row 2 after 2"),
        (ones(2, dtype=np.float64), TypeError, r"grads.indices: got dtype float64, wanted int64"),
        (ones(2, dtype=np.uint64), TypeError, r"grads.indices: got dtype uint64, wanted int64"),
        (ones(2, dtype=np.int16), TypeError, r"grads.indices: got dtype int16"),
        (ones([2]), ValueError, r"grads.indices: got shape \(1, 1\), wanted one index"),
        (ones(2, shape=(2, 3)), ValueError, r"grads.values: got shape \(2, 3\), wanted \(1, 3\)"),
        (ones(2, shape=(1, 4)), ValueError, r"grads.values: got shape \(1, 4\)"),
        (ones(2, shape=(3,)), ValueError, r"grads.values: got shape \(3,\)"),
        (gs.Rows([2], np.ones((1, 3))), TypeError, "grads.indices: got builtins.list"),
        (gs.Rows(np.array([2]), [[1, 1, 1]]), TypeError, "grads.values: got builtins.list"),
        (gs.Rows(np.array([2]), np.ones((1, 3), int)), TypeError, "grads.values: got dtype int64"),
        (gs.Rows(np.array([2, 1]), np.ones((3, 2)).T), ValueError, "grads.values: got strides"),
        (gs.Rows(np.array([2]), p[:1]), ValueError, "grads.values: got memory that overlaps"),
    ]:
        refused(gs.Adam(p), gradient, error, message)
        assert (p == 1).all()
    with pytest.raises(ValueError, match="grads: got some rows of a single number"):
        gs.SGD(np.ones(())).step(gs.Rows(np.array([0]), np.ones(1)))
    with pytest.raises(TypeError, match="coalesced: got 1, wanted True or False"):
        gs.Rows(np.array([0]), np.ones((1, 3)), coalesced=1)
    every = "wanted a gradient of all rows"
    for opt, message in [
        (gs.SGD(table, momentum=0.9), f"got some rows with momentum=0.9, .* {every}"),
        (gs.SGD(table, weight_decay=lambda _: 0.1), "got some rows with weight_decay=0.1"),
        (gs.Adam(table, weight_decay=0.1), "got some rows with weight_decay=0.1"),
        (gs.Adagrad(table, weight_decay=0.1), "got some rows with weight_decay=0.1"),
        (gs.Adam(table.astype(np.float32), states="q8"), "got some rows for exp_avg in q8"),
        (gs.Adagrad(table.astype(np.float32), states="q4"), "got some rows for sum in q4"),
        (gs.Adam(table, stats="sample"), "got some rows with stats='sample'"),
    ]:
        refused(opt, ones(2), ValueError, message)
    assert (table == 1).all()


@pytest.mark.parametrize("rule", [name for name in gs.rule.RULES if name not in RULES])
def test_other_rules_refuse_rows(rule):
    """Those that look at whole tensors, and those that move every row."""
    assert not gs.rule.RULES[rule].takes_rows
    p = np.ones((6, 3))
    message = f"^grads: got some rows for {rule}, wanted"
    refused(getattr(gs, rule)(p), ones(2), ValueError, message, **given(rule))
    assert (p == 1).all()


def test_a_momentum_may_be_0_for_now():
    p = np.ones((6, 3))
    opt = gs.SGD(p, lr=1.0, momentum=lambda k: 0.9 * (k > 0))
    opt.step(ones(2))
    assert (p[2] == 0).all()
    with pytest.raises(ValueError, match=r"momentum=0.9"):
        opt.step(ones(2))


def test_subclasses_are_taken():
    class Mine(np.ndarray):
        pass

    p = np.ones((6, 3))
    gs.SGD(p, lr=1.0).step(gs.Rows(np.array([2, 1]).view(Mine), np.ones((2, 3)).view(Mine)))
    assert (p[1:3] == 0).all()
    assert repr(ones(2)) == "Rows(indices, values of shape (1, 3), coalesced=False)"


def test_global_norm_is_of_arrays():
    with pytest.raises(TypeError, match="arrays"):
        gs.global_norm([ones(2)])
