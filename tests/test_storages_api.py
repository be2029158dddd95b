"""How storages, rounding, shards and allocation are asked for, shown, saved and refused.

The bits that each storage keeps are the business of test_storages.py.
"""

# ruff: noqa: ARG005 - a row's function takes what allocate takes

import copy
import pickle
import re

import ml_dtypes
import numpy as np
import pytest

import gradstep as gs
import reference_storages as reference
from cases import assert_same_bits

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype(np.float32), np.dtype(np.float64), BFLOAT16, np.dtype(np.float16)]
N = 700  # ragged in blocks of 64, 256 and 512


def normal(shape=N, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def as_bytes(x):
    return np.ascontiguousarray(x).tobytes()


def train(opt, params, steps=3, seed=9):
    for k in range(steps):
        opt.step([normal(p.shape, np.float32, seed + 10 * k + i) for i, p in enumerate(params)])


# ---- states ----

ELEMENTS = ["float32", "float64", "bfloat16", "float16"]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("storage", [None, "float32", "float64", "bfloat16", "q8", "q4"])
def test_states_are_stored_as_asked(storage, dtype):
    """In arrays of the storage's dtype and the parameter's shape, or in bytes."""
    p = normal((20, 35), dtype)
    opt = gs.Adam({"w": p}, states=storage, amsgrad=True)
    entry = opt.state["w"]
    assert entry.keys() == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    for name in entry.keys() - {"step"}:
        if storage in ("q8", "q4"):
            assert entry[name].dtype == np.uint8
            assert entry[name].shape == (reference.nbytes(storage, p.size),)
        else:
            compute = "float64" if dtype == np.float64 else "float32"
            assert entry[name].dtype.name == (storage or compute)
            assert entry[name].shape == p.shape
        assert not any(as_bytes(entry[name]))
    opt.step({"w": normal(p.shape)})
    assert all(any(as_bytes(entry[name])) for name in entry.keys() - {"step"})


def test_states_by_name():
    """Others stay as they are."""
    opt = gs.Adam(normal(), states={"exp_avg": "bfloat16", "exp_avg_sq": "q8"}, amsgrad=True)
    state = opt.state["0"]
    assert [state[name].dtype.name for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")] == [
        "bfloat16",
        "uint8",
        "float32",
    ]


@pytest.mark.parametrize("storage", ["float32", "float64", "bfloat16", "q8", "q4"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 64, 256, 70_000])
def test_initial_states_are_stored(storage, dtype, n):
    """A state that does not start at 0 is encoded, in any number of blocks."""
    opt = gs.Adagrad(np.zeros(n, dtype), initial_accumulator_value=0.3, states=storage)
    wanted = reference.fresh(storage, "second_moment", (n,), 0.3)
    assert as_bytes(opt.state["0"]["sum"]) == as_bytes(wanted)


def test_gradients_of_any_dtype():
    """With any parameter; exact numbers give the same update."""
    for dtype in FLOATS:
        wanted = np.ones(N, dtype)
        gs.Adam(wanted).step(np.arange(N).astype(np.float32) % 32)
        for gradient in FLOATS:
            p = np.ones(N, dtype)
            gs.Adam(p).step((np.arange(N) % 32).astype(gradient))
            assert as_bytes(p) == as_bytes(wanted), f"{dtype} {gradient}"


@pytest.mark.parametrize("states", ["float32", "bfloat16", "q8", "q4"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, BFLOAT16])
def test_whoever_calls_finds_the_processor_as_it_was(target, dtype, states):
    """NumPy's remainder needs the registers of the x87 unit, which MMX shares."""
    options = {} if dtype == np.float64 else {"states": states}
    p = np.ones(N, dtype)
    opts = [
        gs.Adam(p, stats=True, clip_value=1.0, **options),
        gs.AdamW(p, average=0.9, clip_norm=1.0, copy_to=np.ones(N, BFLOAT16), **options),
        gs.Lion(p, **options),
    ]
    if dtype == BFLOAT16:
        opts.append(gs.AdamW(p, split=True, **options))
    for opt in opts:
        for _ in range(2):
            opt.step(np.full(N, 0.5, np.float32))
            with np.errstate(all="raise"):
                assert (np.arange(64, dtype=np.float32) % 32).max() == 31


def test_repr_says_what_is_unusual():
    p = np.zeros(1000, BFLOAT16)
    opt = gs.Adam({"w": p}, states={"exp_avg": "q8"}, split=True, average=0.9)
    size = reference.nbytes("q8", 1000) + 4000 + 2000 + 4000
    assert repr(opt).startswith(
        f"Adam(t=0, 1 parameter, 1,000 elements, states {size:,} bytes (exp_avg=q8, split))\n"
    )


# ---- rounding ----


def rounded(rounding=None, states="bfloat16", rule="Adam", dtype=BFLOAT16, **hyper):
    """The bytes of everything after three steps, by name."""
    p = np.ones(N, dtype)
    opt = getattr(gs, rule)(p, states=states, rounding=rounding, **hyper)
    for k in range(3):
        opt.step(normal(seed=k))
    kept = {name: as_bytes(x) for name, x in opt.state["0"].items() if name != "step"}
    return {"params": as_bytes(p), **kept}


def test_rounding_defaults():
    """Second moments and q4 momenta stochastic, everything else to nearest."""
    for states in ["bfloat16", "q8", "q4"]:
        momentum = "stochastic" if states == "q4" else "nearest"
        told = {"params": "nearest", "exp_avg": momentum, "exp_avg_sq": "stochastic"}
        assert rounded(None, states) == rounded(told, states)
        assert rounded(None, states) != rounded({**told, "exp_avg_sq": "nearest"}, states)


def test_rounding_of_all_but_the_maximum():
    told = dict.fromkeys(["params", "exp_avg", "exp_avg_sq"], "stochastic")
    every = rounded("stochastic", amsgrad=True)
    assert every == rounded({**told, "max_exp_avg_sq": "nearest"}, amsgrad=True)
    assert every != rounded("nearest", amsgrad=True)


@pytest.mark.parametrize("name", ["params", "exp_avg", "exp_avg_sq"])
def test_rounding_by_name(name):
    """It changes what it names, and depends on the seed from then on."""
    nearest = dict.fromkeys(["params", "exp_avg", "exp_avg_sq"], "nearest")
    base = rounded(nearest)
    assert base == rounded(nearest, seed=1)
    one = {**nearest, name: "stochastic"}
    assert rounded(one)[name] != base[name]
    assert rounded(one)[name] != rounded(one, seed=1)[name]
    assert rounded(one) == rounded(one)


def test_what_is_exact_is_not_rounded():
    """stochastic for all leaves float32 alone where it stands beside what is rounded."""
    beside, alone = np.ones(N, np.float32), np.ones(N, np.float32)
    gs.AdamW([beside, np.ones(N, BFLOAT16)], rounding="stochastic").step([normal(), normal()])
    gs.AdamW([alone]).step([normal()])
    assert as_bytes(beside) == as_bytes(alone)


def test_seed_of_the_next_step():
    p, q = np.ones(N, BFLOAT16), np.ones(N, BFLOAT16)
    one = gs.SGD(p, lr=1e-3, rounding="stochastic", seed=5)
    two = gs.SGD(q, lr=1e-3, rounding="stochastic")
    assert one.stages["seed"] == 5
    two.stages["seed"] = 5
    for opt in (one, two):
        opt.step(normal())
    assert as_bytes(p) == as_bytes(q)


# ---- split parameters ----


def test_split_is_a_float32_parameter():
    """The same bits as a float32 run on the same gradients, decays and averages included."""
    master = normal(seed=1)
    p, low = gs.split(master)
    opt = gs.AdamW({"w": p}, split=True, average=0.9)
    opt.state["w"]["low"][...] = low
    opt.average["w"][...] = master
    plain = gs.AdamW(master, average=0.9)
    for k in range(5):
        g = normal(seed=k)
        opt.step({"w": g})
        plain.step(g)
    assert_same_bits(gs.unsplit(p, opt.state["w"]["low"]), master)
    assert_same_bits(opt.average["w"], plain.average)
    assert_same_bits(opt.state["w"]["exp_avg"], plain.state["0"]["exp_avg"])


def test_split_starts_at_the_parameter():
    p = normal(dtype=BFLOAT16)
    opt = gs.SGD(p, split=True)
    low = opt.state["0"]["low"]
    assert low.dtype == np.int16
    assert low.shape == p.shape
    assert not low.any()
    assert opt.state_dict()["state"]["0"].keys() == {"step", "low"}


def test_split_and_unsplit():
    x = np.array([0, -0.0, 1, 3.1415927, 1e-40, -65536.5, np.inf, -np.inf, 3.4e38], np.float32)
    hi, lo = gs.split(x.reshape(3, 3))
    wanted_hi, wanted_lo = reference.split(x.reshape(3, 3))
    assert as_bytes(hi) == as_bytes(wanted_hi)
    assert_same_bits(lo, wanted_lo)
    assert_same_bits(gs.unsplit(hi, lo), reference.unsplit(hi, lo))
    assert np.isnan(gs.unsplit(*gs.split(np.array([np.nan], np.float32)))).all()


# ---- reading what is stored ----


@pytest.mark.parametrize("role", ["momentum", "second_moment", "maximum"])
@pytest.mark.parametrize("storage", [*ELEMENTS, "q8", "q4"])
def test_decode(storage, role):
    if storage == "float16" and role != "momentum":
        pytest.skip("refused")
    x = normal((20, 35)) if role == "momentum" else normal((20, 35)) ** 2
    data = reference.encode(storage, role, x)
    got = gs.decode(data, storage, role, x.shape)
    assert_same_bits(got, reference.decode(storage, role, data, x.shape))


# ---- shards ----


@pytest.mark.parametrize("states", ["bfloat16", "q8", "q4"])
@pytest.mark.parametrize("start", [256, 512])
def test_shards_round_as_the_whole(states, start):
    """Stochastic rounding depends on the tensor, not on how it was cut."""
    whole = np.ones(N, BFLOAT16)
    before, tensor = np.ones(3, BFLOAT16), whole.copy()
    one = gs.Adam([before.copy(), whole], states=states, rounding="stochastic")
    pieces = [gs.Shard(tensor[start:], key=1, start=start), gs.Shard(tensor[:start], 1)]
    other = gs.Adam([{"params": pieces}, {"params": gs.Shard(before, 0)}], states=states,
                    rounding="stochastic")  # fmt: skip
    for k in range(3):
        g = normal(seed=k)
        one.step([g[:3], g])
        other.step([[g[start:], g[:start]], g[:3]])
    assert as_bytes(tensor) == as_bytes(whole)


def test_shards_in_any_structure():
    """Wherever an array may be; the groups show the arrays."""
    a, b = np.ones(4), np.ones(4)
    for given in (gs.Shard(a), [gs.Shard(a), b], {"a": gs.Shard(a), "b": b}):
        params = gs.SGD(given).groups[0].params
        first = params if isinstance(params, np.ndarray) else next(iter(
            params.values() if isinstance(params, dict) else params))  # fmt: skip
        assert first is a
    opt = gs.SGD([{"params": gs.Shard(a)}])
    opt.add_group({"params": {"b": gs.Shard(b, key=3)}})
    assert opt.groups[1].params["b"] is b
    assert repr(gs.Shard(a, 1, 2)) == "Shard(<float64 (4,)>, 1, 2)"


def test_shards_keep_their_place():
    """A copy rounds as the original does."""
    p = np.ones(N, BFLOAT16)
    opt = gs.SGD(gs.Shard(p, key=9, start=512), rounding="stochastic")
    other = pickle.loads(pickle.dumps(opt))
    elsewhere = p.copy()
    for o in (opt, other, gs.SGD(elsewhere, rounding="stochastic")):
        o.step(normal())
    assert as_bytes(other.groups[0].params) == as_bytes(p) != as_bytes(elsewhere)


# ---- allocation ----


def test_allocate(tmp_path):
    """Every array that is kept comes from it, by name; the numbers are the same."""
    asked = {}

    def allocate(name, shape, dtype):
        asked[name] = shape, dtype.name
        return np.memmap(tmp_path / name, dtype, "w+", shape=shape)

    params = {"w": normal((3, 5), BFLOAT16), "e": np.zeros(0, BFLOAT16)}
    plain = {name: p.copy() for name, p in params.items()}
    hyper = {"split": True, "states": {"exp_avg": "q8"}, "average": 0.5}
    opt = gs.Adam(params, allocate=allocate, **hyper)
    assert asked == {
        "w.exp_avg": ((19,), "uint8"),
        "w.exp_avg_sq": ((3, 5), "float32"),
        "w.low": ((3, 5), "int16"),
        "w.average": ((3, 5), "float32"),
    }
    other = gs.Adam(plain, **hyper)
    for o in (opt, other):
        o.step({"w": normal((3, 5)), "e": None})
    for name in asked:
        key = name.partition(".")[2]
        assert (tmp_path / name).read_bytes() == as_bytes(other.state["w"][key])


def test_allocate_with_groups():
    """Names that no two arrays share."""
    names = []

    def allocate(name, shape, dtype):
        names.append(name)
        return np.zeros(shape, dtype)

    groups = [{"params": {"w": np.ones(2)}, "name": "body"}, {"params": {"w": np.ones(2)}}]
    opt = gs.SGD(groups, momentum=0.9, allocate=allocate)
    opt.add_group({"params": [np.ones(2)]})
    wanted = ["body.w", "1.w", "2.0"]
    assert names == [f"{name}.momentum_buffer" for name in wanted]
    assert list(opt.state) == wanted


# ---- saving ----

KINDS = {
    "q8": {"states": "q8"},
    "q4 and bfloat16": {"states": {"exp_avg": "q4", "exp_avg_sq": "bfloat16"}},
    "split": {"split": True, "states": "float64"},
    "averages": {"average": 0.9, "rounding": "stochastic"},
}


def saved(way, opt, fresh, path):
    """Another optimizer that goes on as ``opt`` would."""
    if way == "pickle":
        return pickle.loads(pickle.dumps(opt))
    if way == "deepcopy":
        return copy.deepcopy(opt)
    other = fresh()
    for mine, its in zip(opt.groups[0].params, other.groups[0].params, strict=True):
        its[...] = mine
    if way == "file":
        opt.save(path)
        other.load(path)
    else:
        other.load_state_dict(opt.state_dict())
    return other


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state dict", "file"])
@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_after_saving(kind, way, tmp_path):
    def fresh():
        params = [np.ones((20, 35), BFLOAT16), np.ones(3, BFLOAT16)]
        return gs.AdamW(params, **KINDS[kind], amsgrad=True, clip_norm=1.0, nonfinite="skip")

    opt = fresh()
    train(opt, opt.groups[0].params)
    opt.stages["seed"] = 3
    opt.stages["clip_norm"] = gs.schedules.linear(2.0, 1.0, total=10)
    other = saved(way, opt, fresh, tmp_path / "a.safetensors")
    assert dict(other.stages) == dict(opt.stages)
    for o in (opt, other):
        train(o, o.groups[0].params, seed=77)
    for mine, its in zip(opt.groups[0].params, other.groups[0].params, strict=True):
        assert as_bytes(mine) == as_bytes(its)
    for name, entry in opt.state.items():
        for key, value in entry.items():
            assert as_bytes(value) == as_bytes(other.state[name][key]), f"{key} of {name}"


def test_state_dict_names_storages():
    opt = gs.Adam([np.ones(2), normal(3)], states={"exp_avg": "q8"})
    assert opt.state_dict()["storages"] == {
        "exp_avg": "q8",
        "exp_avg_sq": "float64/float32",
        "split": False,
        "stochastic": [],
    }
    halves = gs.Adam(normal(3), states="bfloat16", rounding={"exp_avg": "stochastic"})
    assert halves.state_dict()["storages"]["stochastic"] == ["exp_avg", "exp_avg_sq"]


# ---- what is refused ----

ONES, ZEROS = np.ones(4, np.float32), np.zeros(4, np.float32)


def built(rule="Adam", params=ONES, **hyper):
    return lambda: getattr(gs, rule)(params, **hyper)


def allocating(result):
    return built(allocate=lambda name, shape, dtype: result(shape, dtype))


def loaded(change, **hyper):
    def call():
        other = gs.Adam(normal(), **hyper)
        state = other.state_dict()
        change(state)
        gs.Adam(normal(), states="q8").load_state_dict(state)

    return call


def nothing(state):
    pass


def without_storages(state):
    state["storages"] = {}


WANTED = "wanted one of float32, float64, bfloat16, q8, q4"
# fmt: off
REFUSED = {
    "states of int": (built(states=8), TypeError,
        "states: got int, wanted a storage's name or a mapping"),
    "states unknown": (built(states="q2"), ValueError, "states: got 'q2' for exp_avg, wanted one"),
    "states split": (built(states="split"), ValueError, "states: got 'split' for exp_avg, wanted"),
    "states float16": (built(states="float16"), ValueError,
        f"states: got 'float16' for exp_avg_sq, in which squares underflow, {WANTED}"),
    "second moment float16": (built(states={"exp_avg_sq": "float16"}), ValueError,
        f"states['exp_avg_sq']: got 'float16', in which squares underflow, {WANTED}"),
    "sum float16": (built("Adagrad", states="float16"), ValueError,
        "states: got 'float16' for sum, in which squares underflow"),
    "maximum float16": (built(states={"max_exp_avg_sq": "float16"}, amsgrad=True), ValueError,
        "states['max_exp_avg_sq']: got 'float16', in which squares underflow"),
    "state unknown": (built(states={"exp_av": "q8"}), ValueError,
        "states: got the unknown 'exp_av', wanted exp_avg, exp_avg_sq, max_exp_avg_sq"),
    "storage of int": (built(states={"exp_avg": 8}), TypeError,
        "states['exp_avg']: got 8, wanted one of float32"),
    "storage of a list": (built(states={"exp_avg": ["q8"]}), TypeError,
        "states['exp_avg']: got ['q8'], wanted one of float32"),
    "state that is not there": (built(states={"max_exp_avg_sq": "q8"}), ValueError,
        "states['max_exp_avg_sq']: got a value, but Adam was built without that state"),
    "centered in blocks": (built("RMSprop", states="q8", centered=True), ValueError,
        "centered: got True with square_avg in q8, wanted states in float32"),
    "centered, momentum in blocks": (
        built("RMSprop", states={"momentum_buffer": "q4"}, centered=True, momentum=0.9),
        ValueError, "centered: got True with momentum_buffer in q4, wanted states in float32"),
    "rounding of bool": (built(rounding=True), TypeError,
        "rounding: got bool, wanted 'nearest', 'stochastic' or a mapping"),
    "rounding unknown": (built(rounding="up"), ValueError,
        "rounding: got 'up', wanted 'nearest' or 'stochastic'"),
    "rounding of unknown": (built(rounding={"param": "nearest"}), ValueError,
        "rounding: got the unknown 'param', wanted params, exp_avg, exp_avg_sq, max_exp_avg_sq"),
    "rounding of one unknown": (built(rounding={"params": None}), ValueError,
        "rounding['params']: got None, wanted 'nearest' or 'stochastic'"),
    "rounding up a maximum": (
        built(states="q8", amsgrad=True, rounding={"max_exp_avg_sq": "stochastic"}),
        ValueError, "rounding['max_exp_avg_sq']: got 'stochastic', wanted 'nearest'"),
    "rounding float32 states": (built(rounding={"exp_avg": "stochastic"}), ValueError,
        "rounding['exp_avg']: got 'stochastic' for a state in the compute type, which is not"),
    "rounding float64 states": (
        built(states="float64", rounding={"exp_avg": "stochastic"}), ValueError,
        "rounding['exp_avg']: got 'stochastic' for a state in float64, which is not rounded"),
    "rounding float32 parameters": (built(rounding={"params": "stochastic"}), ValueError,
        "rounding['params']: got 'stochastic' for parameters that are not rounded"),
    "rounding split parameters": (
        built(params=np.ones(2, BFLOAT16), split=True, rounding={"params": "stochastic"}),
        ValueError, "rounding['params']: got 'stochastic' for parameters that are not rounded"),
    "rounding what is not there": (
        built(states="q8", rounding={"max_exp_avg_sq": "nearest"}), ValueError,
        "rounding['max_exp_avg_sq']: got a value, but Adam was built without that state"),
    "split of int": (built(split=1), TypeError, "split: got 1, wanted True or False"),
    "split float32": (built(params={"w": ONES}, split=True), TypeError,
        "params['w']: got dtype float32 with split=True, wanted bfloat16"),
    "split float16 beside bfloat16": (
        built(params=[np.ones(2, BFLOAT16), np.ones(2, np.float16)], split=True), TypeError,
        "params[1]: got dtype float16 with split=True, wanted bfloat16"),
    "seed of float": (built(seed=1.0), TypeError, "seed: got float, wanted an integer"),
    "seed of bool": (built(seed=True), TypeError, "seed: got bool, wanted an integer"),
    "seed negative": (built(seed=-1), ValueError, "seed: got -1, wanted 0 or more, below 2**52"),
    "seed huge": (built(seed=2**52), ValueError, "seed: got 4503599627370496, wanted 0 or more"),
    "allocate of text": (built(allocate="memmap"), TypeError,
        "allocate: got str, wanted a callable"),
    "allocated nothing": (allocating(lambda shape, dtype: None), TypeError,
        "allocate('0.exp_avg', …): got builtins.NoneType, wanted numpy.ndarray"),
    "allocated other dtype": (allocating(lambda shape, dtype: np.zeros(shape)), TypeError,
        "allocate('0.exp_avg', …): got dtype float64, wanted float32"),
    "allocated other shape": (allocating(lambda shape, dtype: np.zeros(5, dtype)), ValueError,
        "allocate('0.exp_avg', …): got shape (5,), wanted (4,)"),
    "allocated no zeros": (allocating(np.ones), ValueError,
        "allocate('0.exp_avg', …): got an array with bytes that are not 0, wanted zeros"),
    "allocated minus zeros": (
        allocating(lambda shape, dtype: -np.zeros(shape, dtype)), ValueError,
        "allocate('0.exp_avg', …): got an array with bytes that are not 0, wanted zeros"),
    "allocated twice": (
        allocating(lambda shape, dtype: ZEROS), ValueError,
        "exp_avg_sq of params: got memory that overlaps exp_avg of params, wanted arrays that"),
    "allocated a parameter": (
        lambda: gs.SGD(ZEROS, momentum=0.5, allocate=lambda *_: ZEROS), ValueError,
        "momentum_buffer of params: got memory that overlaps params, wanted arrays that share"),
    "shard of a list": (lambda: gs.Shard([1.0]), TypeError,
        "array: got builtins.list, wanted numpy.ndarray"),
    "shard of integers": (lambda: gs.Shard(np.ones(2, int)), TypeError,
        "array: got dtype int64, wanted float32, float64, bfloat16 or float16"),
    "key of float": (lambda: gs.Shard(ONES, 1.0), TypeError, "key: got float, wanted an integer"),
    "key negative": (lambda: gs.Shard(ONES, -1), ValueError,
        "key: got -1, wanted 0 or more, below 2**63"),
    "start huge": (lambda: gs.Shard(ONES, 1, 2**63), ValueError,
        "start: got 9223372036854775808, wanted 0 or more, below 2**63"),
    "shard within a q8 block": (
        built(params={"w": gs.Shard(ONES, start=128)}, states="q8"), ValueError,
        "params['w']: got a shard that starts at 128, wanted a multiple of 256, the block of exp"),
    "shard within a q4 block": (
        built(params={"w": gs.Shard(ONES, start=32)}, states={"exp_avg_sq": "q4"}), ValueError,
        "params['w']: got a shard that starts at 32, wanted a multiple of 64, the block of exp_a"),
    "start beyond float32": (
        built("Adagrad", np.ones(2), states="q8", initial_accumulator_value=1e300), ValueError,
        "initial_accumulator_value: got 1e+300, which is infinite in q8, wanted a number that the"),
    "start beyond bfloat16": (
        built("Adagrad", states="bfloat16", initial_accumulator_value=3.4e38), ValueError,
        "initial_accumulator_value: got 3.4e+38, which is infinite in bfloat16, wanted a number"),
    "states of no state": (built("SGD", states="q8"), ValueError,
        "states: got 'q8', but SGD was built without states that can be stored so, wanted"),
    "rounding of nothing": (built(rounding="stochastic"), ValueError,
        "rounding: got 'stochastic', but nothing here is rounded, wanted None, or parameters"),
    "unknown argument": (built(storage="q8"), TypeError,
        "Adam: got the unknown argument 'storage', wanted one of lr, betas, eps"),
    "load other storages": (loaded(nothing, states="q4"), ValueError,
        "state_dict['storages']['exp_avg']: got 'q4', wanted 'q8'"),
    "load default storages": (loaded(nothing), ValueError,
        "state_dict['storages']['exp_avg']: got 'float32', wanted 'q8'"),
    "load no storages": (loaded(without_storages, states="q8"), ValueError,
        "state_dict['storages']['exp_avg']: got None, wanted 'q8'"),
    "load averages": (loaded(nothing, states="q8", average=0.5), ValueError,
        "state_dict['state']['0']: got 'step', 'exp_avg', 'exp_avg_sq', 'average', wanted 'step'"),
    "decode role": (lambda: gs.decode(ONES, "float32", "param", (4,)), ValueError,
        "role: got the unknown 'param', wanted momentum, second_moment, maximum"),
    "decode storage": (lambda: gs.decode(ONES, "split", "momentum", (4,)), ValueError,
        "storage: got the unknown 'split', wanted float32, float64, bfloat16, float16, q8, q4"),
    "decode dtype": (lambda: gs.decode(ONES, "q8", "momentum", (4,)), TypeError,
        "array: got dtype float32, wanted uint8"),
    "decode shape": (lambda: gs.decode(np.zeros(9, np.uint8), "q8", "momentum", (4,)), ValueError,
        "array: got shape (9,), wanted (8,)"),
    "split float64": (lambda: gs.split(np.ones(2)), TypeError,
        "values: got dtype float64, wanted float32"),
    "unsplit shapes": (
        lambda: gs.unsplit(np.ones(2, BFLOAT16), np.ones(3, np.int16)), ValueError,
        "lo: got shape (3,), wanted (2,)"),
}


# fmt: on


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match="^" + re.escape(message)) as caught:
        call()
    assert caught.type is error


def test_refused_group_of_other_storage():
    """And the optimizer goes on without it."""
    p = np.ones(3, BFLOAT16)
    opt = gs.SGD(p, lr=1.0, split=True)
    with pytest.raises(TypeError, match=r"params\[1\]\['params'\]: got dtype float32 with split"):
        opt.add_group({"params": ONES})
    assert opt.step(np.ones(3)).t == 1
    assert not p.any()


def test_centered_needs_no_blocks_in_a_later_group():
    opt = gs.RMSprop(ONES.copy(), states="q8")
    with pytest.raises(ValueError, match=r"^groups\[1\] centered: got True with square_avg in q8"):
        opt.add_group({"params": ONES.copy(), "centered": True})


def test_bfloat16_without_ml_dtypes(monkeypatch):
    """It is missed by the name of its extra, where it is asked for."""
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r'pip install "gradstep\[bf16\]"'):
        gs.Adam(ONES.copy(), states="bfloat16")
