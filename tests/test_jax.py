"""gradstep.jax: the bits of the class for NumPy under jit, and what is refused."""

import copy
import doctest
import functools
import inspect
import os
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
jax = pytest.importorskip("jax", reason="jax is in the jax extra")
pytest.importorskip("optax", reason="optax is in the jax extra")
gj = pytest.importorskip(
    "gradstep.jax", reason="gradstep was built without GRADSTEP_JAX=1", exc_type=ImportError
)

import ml_dtypes  # noqa: E402
import optax  # noqa: E402
from jax import numpy as jnp  # noqa: E402

import gradstep as gs  # noqa: E402
from cases import ANY_SHAPE, BEGINS, OPTIONS, assert_same_bits, given, normal, special  # noqa: E402
from gradstep.jax.configuration import Configuration  # noqa: E402
from gradstep.jax.functions import SHARED  # noqa: E402
from gradstep.jax.transformation import MOST_LEAVES, Transformation  # noqa: E402

STAGES = ("clip_norm", "clip_value", "average", "nonfinite", "seed")
# Of all storages: the parameters' dtype and what else is asked.
STORAGES = {
    "float32": (np.float32, {}),
    "float64": (np.float64, {}),
    "bfloat16": (ml_dtypes.bfloat16, {"rounding": {"params": "stochastic"}}),
    "bfloat16 nearest": (ml_dtypes.bfloat16, {}),
    "float16": (np.float16, {}),
    "q8": (np.float32, {"states": "q8"}),
    "q4": (np.float32, {"states": "q4"}),
    "bfloat16 states": (np.float32, {"states": "bfloat16"}),
    "split": (ml_dtypes.bfloat16, {"split": True}),
    "split q8": (ml_dtypes.bfloat16, {"split": True, "states": "q8"}),
}
SHAPES = {"w": (37, 41), "b": (5,), "one": (), "none": (0, 3), "big": (3, 700)}


def transformation(rule, **asked):
    """A transformation by the arguments of the class for NumPy."""
    shared = {**SHARED, "seed": 0, **{key: asked.pop(key) for key in SHARED if key in asked}}
    stages = {key: shared.pop(key) for key in STAGES}
    mask = asked.pop("mask", None)
    config = Configuration(gs.rule.RULES[rule], asked, stages=stages, mask=mask, **shared)
    return Transformation(config)


@functools.cache
def with_x64():
    return jax.experimental.enable_x64 if not hasattr(jax, "enable_x64") else jax.enable_x64


def numbers(tree):
    """Leaves as NumPy arrays."""
    return {name: np.asarray(leaf) for name, leaf in tree.items()}


def assert_same_state(state, opt, tx):
    """Everything that is kept is what the class for NumPy keeps."""
    saved = opt.state_dict()
    assert int(state.count) == saved["t"]
    for name, entry in saved["state"].items():
        for key in tx.configuration.present:
            mine = state.states[key][name]
            if mine is not None:
                assert_same_bits(np.asarray(mine).reshape(-1), entry[key].reshape(-1), (name, key))
            assert (mine is None) == (key not in entry)
        if state.average is not None:
            assert_same_bits(np.asarray(state.average[name]), entry["average"], name)
        if state.low is not None:
            assert_same_bits(np.asarray(state.low[name]), entry["low"], name)
    names = tx.configuration.rule.memory_names
    rows = [np.ascontiguousarray(state.memory).view(np.float64)[..., 0]] if names else []
    for i, (name, entry) in enumerate(sorted(saved["state"].items()) if rows else ()):
        for k, key in enumerate(names):
            assert np.concatenate(rows)[i, k] == entry[key][0], (name, key)


def train(rule, asked, dtype, draw=normal, steps=4, jit=True, shapes=None):
    """The same gradients through both front doors; everything is compared after each step."""
    rng = np.random.default_rng(1)
    shapes = dict(sorted((shapes or SHAPES).items()))
    params = {k: normal(rng, shape, np.float32).astype(dtype) for k, shape in shapes.items()}
    copies = {k: v.copy() for k, v in params.items()}
    begin = BEGINS.get(rule, {}) if dtype in (ml_dtypes.bfloat16, np.float16) else {}
    asked = {**begin, **asked}
    opt = getattr(gs, rule)(copies, **asked)
    tx = transformation(rule, **asked)
    mine = {k: jnp.array(v) for k, v in params.items()}
    state = tx.init(mine)
    assert_same_state(state, opt, tx)
    loss = given(rule).get("loss")
    apply = jax.jit(tx.apply, donate_argnums=(0, 2)) if jit else tx.apply
    reports = []
    for _ in range(steps):
        grads = {k: draw(rng, shape, np.float32).astype(dtype) for k, shape in shapes.items()}
        report = opt.step(grads, **given(rule))
        mine, state = apply(mine, grads, state, value=loss)
        for name, value in numbers(mine).items():
            assert_same_bits(value, copies[name], name)
        assert_same_state(state, opt, tx)
        reports.append((report, state.report))
    return reports


CASES = [(rule, options) for rule in ANY_SHAPE for options in OPTIONS[rule]]


@pytest.mark.parametrize(
    ("rule", "options"), CASES, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(CASES)]
)
def test_apply_equals_numpy(rule, options):
    """Every rule with every option, float32, under jit with donation."""
    train(rule, options, np.float32)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rule", ANY_SHAPE)
def test_every_storage(rule, storage):
    """Every rule with every storage, or the refusal that the class for NumPy has."""
    dtype, asked = STORAGES[storage]
    asked = {**OPTIONS[rule][-1], **asked}
    params = {"w": np.ones(300, dtype)}
    try:
        getattr(gs, rule)(params, **asked)
    except (TypeError, ValueError) as error:
        words = re.escape(str(error).split(",")[0])
        with pytest.raises(type(error), match=words):
            transformation(rule, **asked).init({"w": jnp.asarray(params["w"])})
        return
    with with_x64()(dtype is np.float64):
        train(rule, asked, dtype)


@pytest.mark.parametrize("rule", ["AdamW", "SGD", "LAMB", "RMSprop"])
def test_special_numbers(rule):
    """Denormals, infinities and NaN: XLA flushes denormals in its threads, a step does not."""
    train(rule, OPTIONS[rule][-1], np.float32, draw=special)


@pytest.mark.parametrize("rule", ["AdamW", "Prodigy"])
def test_without_jit(rule):
    train(rule, {}, np.float32, jit=False)


STAGED = [
    {"clip_norm": 1.0},
    {"clip_value": 0.1},
    {"average": 0.9},
    {"average": 0.9, "clip_norm": 0.5, "states": "q8"},
    {"clip_norm": gs.schedules.linear(1.0, 0.1, 3)},
    {"nonfinite": "skip"},
    {"stats": True},
    {"stats": True, "clip_norm": 1.0, "maximize": True},
    {"seed": 7, "states": "q8"},
    {"lr": gs.schedules.cosine(0.1, 10).warmup(3)},
    {
        "lr": gs.schedules.cosine(0.1, 100).warmup(2) * 0.5,
        "betas": (gs.schedules.linear(0.5, 0.9, 3), 0.99),
    },
]


@pytest.mark.parametrize(
    "asked", STAGED, ids=[f"{i}-{'-'.join(asked)}" for i, asked in enumerate(STAGED)]
)
def test_stages_and_schedules(asked):
    """Stages, statistics and schedules of ours: the bits and the report."""
    for theirs, mine in train("AdamW", asked, np.float32):
        for key, value in mine._asdict().items():
            if value is None:
                continue
            wanted = getattr(theirs, key)
            if wanted is None:
                assert np.isnan(value), key
            elif key == "skipped":
                assert bool(value) == wanted
            else:
                assert float(value) == np.float32(wanted), key


@pytest.mark.parametrize("asked", [{}, {"clip_norm": 1.0}, {"states": "q8", "nonfinite": "skip"}])
@pytest.mark.parametrize("rule", ["AdamW", "NAdam", "LAMB", "Prodigy"])
def test_more_leaves_than_a_call_has(rule, asked):
    """Several calls make one step, random bits and norm included."""
    shapes = {f"p{i:03d}": (1 + i % 7, 5) for i in range(2 * MOST_LEAVES + 3)}
    train(rule, asked, np.float32, shapes=shapes)


@pytest.mark.parametrize("rule", ["Adafactor", "LAMB", "AdamW", "DoG"])
def test_programs_of_one_text(rule):
    """Leaves of other shapes may have the same text: nothing is left of the last call."""
    for shape in ((30, 40), (1200,), (40, 30), (7,), (3, 5), (2, 2000), (0, 3), ()):
        train(rule, {}, np.float32, steps=2, shapes={"w": shape})
        train(rule, {}, ml_dtypes.bfloat16, steps=2, shapes={"w": shape})


def test_numbers_that_nothing_uses():
    params = {"w": jnp.ones(3)}
    tx, clipping = gj.adamw(0.1), gj.adamw(0.1, clip_norm=1.0)
    with pytest.raises(ValueError, match="norm: got a norm, which nothing uses here"):
        tx.apply(params, params, tx.init(params), norm=1.0)
    with pytest.raises(ValueError, match="value: got a loss, which AdamW does not use"):
        tx.apply(params, params, tx.init(params), value=1.0)
    loss_taker = gj.polyak_sgd()
    with pytest.raises(ValueError, match="value: got nothing, wanted the loss"):
        loss_taker.apply(params, params, loss_taker.init(params))
    for asked, words in (
        ({"norm": -1.0}, "norm: got -1"),
        ({"loss_scale": 0.0}, "loss_scale: got"),
    ):
        with pytest.raises(Exception, match=words):
            jax.block_until_ready(clipping.apply(params, params, clipping.init(params), **asked))
    with pytest.raises(ValueError, match=r"eps_root: got 0.0010*[0-9]*, wanted 0.0"):
        gj.adamw(0.1, eps_root=jnp.asarray(1e-3))
    masked = gj.adamw(0.1, mask={"v": True})
    with pytest.raises(ValueError, match="mask: got a tree unlike params"):
        masked.apply(params, params, masked.init(params))


def test_skip():
    """A gradient that is not finite changes nothing, and does not count."""
    tx = transformation("AdamW", nonfinite="skip", average=0.9, copy_to="bfloat16")
    params = {"w": jnp.arange(600.0), "b": jnp.ones(3)}
    state = tx.init(params)
    bad = {"w": jnp.full(600, jnp.nan), "b": jnp.ones(3)}
    for grads, skipped in ((bad, True), (params, False), (bad, True)):
        before, kept = params, state
        params, state = jax.jit(tx.apply)(params, grads, state)
        assert bool(state.report.skipped) == skipped
        assert int(state.count) == int(kept.count) + (not skipped)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before, params)
        assert all(jax.tree.leaves(same)) == skipped
        for name, value in state.copy.items():
            np.testing.assert_array_equal(
                np.asarray(value), np.asarray(params[name].astype(jnp.bfloat16))
            )
    tx = transformation("AdamW", nonfinite="skip")
    updates, state = tx.update(bad, tx.init(params), params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    assert int(state.count) == 0


UPDATES = [(rule, options) for rule, options in CASES if rule != "PolyakSGD"]


@pytest.mark.parametrize(
    ("rule", "options"), UPDATES, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(UPDATES)]
)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_update_is_apply_in_two_passes(rule, options, dtype):
    """p + u is what apply gives within a unit of the larger of both; the states are the same."""
    rng = np.random.default_rng(2)
    tx = transformation(rule, **options)
    params = {k: jnp.asarray(normal(rng, s, np.float32).astype(dtype)) for k, s in SHAPES.items()}
    state = tx.init(params)
    for _ in range(3):
        grads = {k: normal(rng, s, np.float32).astype(dtype) for k, s in SHAPES.items()}
        wanted, kept = tx.apply(params, grads, state)
        updates, state = jax.jit(tx.update)(grads, state, params)
        summed = optax.apply_updates(params, updates)
        for name, value in summed.items():
            got, want = np.asarray(value), np.asarray(wanted[name])
            larger = np.maximum(np.abs(np.asarray(params[name])), np.abs(want))
            above = (larger.view(f"i{larger.itemsize}") + 1).view(larger.dtype)
            unit = above.astype(np.float64) - larger.astype(np.float64)
            off = np.abs(got.astype(np.float64) - want.astype(np.float64))
            assert (off <= unit).all(), name
        jax.tree.map(np.testing.assert_array_equal, state.states, kept.states)
        params = wanted


def test_in_place():
    """Donated buffers stay where they are, and nothing is copied."""
    tx = transformation("AdamW", clip_norm=1.0, average=0.9, states="q8")
    params = {"w": jnp.ones((256, 1024)), "b": jnp.ones(1024)}
    state = jax.jit(tx.init)(params)
    grads = jax.tree.map(jnp.ones_like, params)
    step = jax.jit(tx.apply, donate_argnums=(0, 2))
    params, state = step(params, grads, state)

    def addresses():
        kept = (params, state.states, state.average)
        return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(kept)]

    before = addresses()
    for _ in range(3):
        params, state = step(params, grads, state)
    assert addresses() == before
    memory = step.lower(params, grads, state).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4096


def test_what_is_not_donated_stays():
    tx = transformation("SGD", lr=1.0, momentum=0.9)
    params, grads = {"w": jnp.ones(1000)}, {"w": jnp.ones(1000)}
    state = tx.init(params)
    jax.jit(tx.apply)(params, grads, state)
    jax.jit(tx.update)(grads, state, params)
    for leaf in jax.tree.leaves((params, grads)):
        assert (leaf == 1).all()
    assert not state.states["momentum_buffer"]["w"].any()


def test_scan_and_remat():
    """A training as one program equals the same steps one by one."""
    tx = transformation("Adam", lr=0.1, states="q8")
    target = jnp.arange(600.0)

    def loss(params):
        return ((params["w"] - target) ** 2).mean()

    def step(carry, _):
        params, state = carry
        params, state = tx.apply(params, jax.grad(jax.checkpoint(loss))(params), state)
        return (params, state), loss(params)

    begin = {"w": jnp.zeros(600)}
    (scanned, state), losses = jax.lax.scan(step, (begin, tx.init(begin)), length=5)
    assert losses[-1] < losses[0]
    assert int(state.count) == 5
    params, state = begin, tx.init(begin)
    one = jax.jit(lambda params, state: step((params, state), None)[0])
    for _ in range(5):
        params, state = one(params, state)
    assert_same_bits(np.asarray(scanned["w"]), np.asarray(params["w"]))
    remat = jax.checkpoint(lambda p, s: tx.apply(p, p, s))
    again, _ = jax.jit(remat)(begin, tx.init(begin))
    wanted, _ = tx.apply(begin, begin, tx.init(begin))
    assert_same_bits(np.asarray(again["w"]), np.asarray(wanted["w"]))


def test_rates_do_not_compile_anew():
    """A rate, a limit and a loss scale that change are data."""
    tx = gj.adamw(optax.exponential_decay(0.1, 5, 0.5), clip_norm=lambda k: 1.0 / (k + 1))
    params = {"w": jnp.ones(10)}
    state = tx.init(params)
    traced = 0

    @jax.jit
    def step(params, state, scale):
        nonlocal traced
        traced += 1
        return tx.apply(params, params, state, loss_scale=scale)

    rates = []
    for k in range(4):
        params, state = step(params, state, 2.0**k)
        rates.append(float(state.report.lr))
    assert traced == 1
    wanted = [float(optax.exponential_decay(0.1, 5, 0.5)(k)) for k in range(4)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)


def test_numbers_are_checked_as_they_come():
    tx = gj.adamw(optax.linear_schedule(0.1, -1.0, 2))
    params = {"w": jnp.ones(10)}
    state = tx.init(params)
    params, state = tx.apply(params, params, state)
    with pytest.raises(Exception, match=r"lr: got -0\.4\d* at step 1, wanted a finite number ≥ 0"):
        jax.block_until_ready(tx.apply(params, params, state))
    ending = gs.schedules.linear(0.1, 0.0, 1, past_end="raise")
    tx = gj.sgd(ending)
    state = tx.init(params)._replace(count=jnp.asarray(5, jnp.int32))
    with pytest.raises(Exception, match="lr: t: got 5, wanted 0 to 1: the schedule ends there"):
        jax.block_until_ready(tx.apply(params, params, state))


def test_inject_and_wrappers():
    """optax's wrappers take it: hyperparameters as data, masks, transforms per leaf, chains."""
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    grads = jax.tree.map(lambda p: p * 0.5, params)
    plain = gj.adamw(0.1)
    wanted, _ = plain.update(grads, plain.init(params), params)
    injected = optax.inject_hyperparams(gj.adamw)(learning_rate=0.1)
    state = injected.init(params)
    got, state = jax.jit(injected.update)(grads, state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, wanted)
    state.hyperparams["learning_rate"] = jnp.asarray(0.0)
    got, _ = jax.jit(injected.update)(grads, state, params)
    assert not got["w"].any()

    masked = optax.masked(gj.adamw(0.1), {"w": True, "b": False})
    got, _ = jax.jit(masked.update)(grads, masked.init(params), params)
    np.testing.assert_array_equal(got["w"], wanted["w"])
    np.testing.assert_array_equal(got["b"], grads["b"])

    parts = optax.multi_transform({"a": gj.adamw(0.1), "s": gj.sgd(0.5)}, {"w": "a", "b": "s"})
    got, _ = jax.jit(parts.update)(grads, parts.init(params), params)
    np.testing.assert_array_equal(got["w"], wanted["w"])
    np.testing.assert_array_equal(got["b"], -0.5 * grads["b"])

    chain = optax.chain(optax.clip_by_global_norm(0.1), gj.adamw(0.1))
    jax.jit(chain.update)(grads, chain.init(params), params)
    several = optax.MultiSteps(gj.adamw(0.1), every_k_schedule=2)
    state = several.init(params)
    for k in range(2):
        got, state = jax.jit(several.update)(grads, state, params)
        assert bool(got["w"].any()) == (k == 1)


def test_mask():
    """Leaves that do not decay, as a tree or a function; the others as without a mask."""
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4), "z": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    matrices = lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree)  # noqa: E731
    nested = {"layer": params}
    tx = gj.adamw(0.1, weight_decay=0.5, mask={"layer": False})  # of a subtree
    got, _ = tx.apply(nested, {"layer": zeros}, tx.init(nested))
    assert (got["layer"]["w"] == 1).all()
    for mask in ({"w": True, "b": False, "z": False}, matrices):
        tx = gj.adamw(0.1, weight_decay=0.5, mask=mask)
        got, _ = tx.apply(params, zeros, tx.init(params))
        np.testing.assert_allclose(got["w"], 0.95, rtol=1e-6)
        assert (got["b"] == 1).all()
        assert (got["z"] == 1).all()
    with pytest.raises(
        ValueError, match="mask: got a mask, but Rprop has no weight decay, wanted None"
    ):
        transformation("Rprop", mask={"w": True})


def test_first_momentum_comes_late():
    """A momentum that a function switches on later begins there, as for NumPy."""
    asked = {"momentum": lambda k: (k > 1) * 0.9, "dampening": 0.5, "lr": 0.1}
    train("SGD", asked, np.float32, steps=5)
    asked = {"momentum": lambda _: 0.9, "dampening": 0.5, "lr": 0.1}
    nothing_yet = iter([np.zeros, np.zeros, normal, normal, normal])

    def draw(rng, shape, dtype):
        make = next(nothing_yet)
        return make(shape, dtype) if make is np.zeros else make(rng, shape, dtype)

    train("SGD", asked, np.float32, draw=draw, steps=5, shapes={"w": (30,)})


def test_statistics_come_and_go():
    """A state goes on with another transformation that keeps the same: memory is one array."""
    params = {f"p{i:03d}": jnp.ones(3) for i in range(MOST_LEAVES + 6)}
    grads = jax.tree.map(lambda p: p * 0.5, params)
    quiet, loud = gj.nadam(0.1), gj.nadam(0.1, stats=True)
    p, s = quiet.apply(params, grads, quiet.init(params))
    q, t = loud.apply(params, grads, loud.init(params))
    for _ in range(2):
        p, s = loud.apply(p, grads, s)
        q, t = quiet.apply(q, grads, t)
    jax.tree.map(np.testing.assert_array_equal, (p, s.states, s.memory), (q, t.states, t.memory))


def test_locale_has_no_say():
    """A text has no decimal point that a locale could write otherwise."""
    tx = gj.adamw(gs.schedules.cosine(0.1, 10).warmup(3), clip_norm=1.5, average=0.9)
    assert "." not in tx.configuration.text(["float32"], [0], {}, 0, True).text.replace(
        f"version {gs.__version__}", ""
    )


def test_none_is_no_leaf():
    """As in Equinox's trees: where a parameter is None, so is its gradient."""
    params = {"w": jnp.ones(3), "x": None}
    tx = gj.adamw(0.1)
    got, state = tx.apply(params, params, tx.init(params))
    assert got["x"] is None
    updates, _ = tx.update(params, state, params)
    assert updates["x"] is None


@pytest.mark.parametrize("name", sorted(gj.functions.names()))
def test_injected_defaults(name):
    """inject_hyperparams takes each function with its defaults."""
    function = getattr(gj, name)
    wanted = {} if name in ("polyak_sgd",) else {"learning_rate": 0.1}
    static = {"clip_value_fn", "weight_lr_power"} & {*inspect.signature(function).parameters}
    tx = optax.inject_hyperparams(function, static_args=tuple(static))(**wanted)
    params = {"w": jnp.ones((3, 4))}
    more = {"value": jnp.asarray(1.0)} if name == "polyak_sgd" else {}
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params, **more)
    assert updates["w"].shape == (3, 4)


def test_float64_without_x64():
    for asked in ({"copy_to": "float64"}, {"states": "float64"}):
        with pytest.raises(ValueError, match="got float64, of which JAX makes float32"):
            transformation("AdamW", **asked).init({"w": jnp.ones(3)})


def test_what_starts_from_the_parameter():
    """It is the parameter that the first step finds, as for NumPy, not that of init."""
    for rule, asked in (("AdamW", {"average": 0.9}), ("DoG", {}), ("ScheduleFreeSGD", {})):
        tx = transformation(rule, **asked)
        params, early = {"w": jnp.arange(900.0)}, {"w": jnp.zeros(900)}
        got = tx.apply(params, params, tx.init(early))
        wanted = tx.apply(params, params, tx.init(params))
        jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_files_of_many_leaves(tmp_path):
    """The numbers of each leaf come back to it."""
    tx = transformation("NAdam")
    params = {f"p{i:03d}": jnp.full(3, i, jnp.float32) for i in range(2 * MOST_LEAVES + 3)}
    state = tx.init(params)
    numbers = np.arange(len(params), dtype=np.float64).reshape(-1, 1, 1) / 3
    state = state._replace(memory=jnp.asarray(numbers.view(np.uint32)))
    gj.save(tmp_path / "state", tx, params, state)
    back = gj.load(tmp_path / "state", tx, params)
    np.testing.assert_array_equal(back.memory, state.memory)


def test_files_with_a_mask_and_functions(tmp_path):
    """A mask is two groups of the class for NumPy; a function is saved as its number."""
    asked = {"weight_decay": 0.5, "lr": optax.exponential_decay(0.1, 1, 0.5)}
    tx = transformation("AdamW", mask={"w": True, "b": False}, **asked)
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    params, state = tx.apply(params, params, tx.init(params))
    gj.save(tmp_path / "state", tx, params, state)
    w, b = np.array(params["w"]), np.array(params["b"])
    opt = gs.AdamW(
        [
            {"name": "decayed", "params": {"w": w}},
            {"name": "undecayed", "params": {"b": b}, "weight_decay": 0.0},
        ]
    )
    opt.load(tmp_path / "state")
    assert opt.groups[0]["lr"] == pytest.approx(0.05)
    opt.step([{"w": w.copy()}, {"b": b.copy()}])
    back = gj.load(tmp_path / "state", tx, params)
    params, _ = tx.apply(params, params, back)
    assert_same_bits(np.asarray(params["w"]), w)
    assert_same_bits(np.asarray(params["b"]), b)


def test_files(tmp_path):
    """A state goes to the class for NumPy and back, and both go on with the same bits."""
    for rule, asked in (
        ("AdamW", {"states": "q8", "average": 0.9, "clip_norm": 1.0}),
        ("NAdam", {}),
        ("Prodigy", {"d0": 0.1}),
        ("Adafactor", {}),
        ("SGD", {"lr": gs.schedules.cosine(0.1, 10), "momentum": 0.9}),
    ):
        tx = transformation(rule, **asked)
        rng = np.random.default_rng(3)
        params = {k: jnp.asarray(normal(rng, SHAPES[k], np.float32)) for k in ("w", "b")}
        state = tx.init(params)
        grads = {k: normal(rng, SHAPES[k], np.float32) for k in params}
        for _ in range(2):
            params, state = tx.apply(params, grads, state)
        gj.save(tmp_path / rule, tx, params, state)
        arrays = {k: np.array(v) for k, v in params.items()}
        before = {k: v.copy() for k, v in arrays.items()}
        opt = getattr(gs, rule)(arrays, **asked)
        opt.load(tmp_path / rule)
        opt.step(grads)
        back = gj.load(tmp_path / rule, tx, params)
        params, state = tx.apply(params, grads, state)
        resumed, _ = tx.apply({k: jnp.asarray(v) for k, v in before.items()}, grads, back)
        for k in params:
            assert_same_bits(np.asarray(params[k]), arrays[k], k)
            assert_same_bits(np.asarray(resumed[k]), arrays[k], k)
        opt.save(tmp_path / "second")
        back = gj.load(tmp_path / "second", tx, params)
        jax.tree.map(np.testing.assert_array_equal, back.states, state.states)
        jax.tree.map(np.testing.assert_array_equal, back.memory, state.memory)
        assert int(back.count) == 3


def test_flax_and_orbax(tmp_path):
    """nnx.Optimizer and TrainState take it; its state is serialised."""
    flax = pytest.importorskip("flax", reason="flax is not in an extra")
    from flax import nnx, serialization  # noqa: PLC0415
    from flax.training import train_state  # noqa: PLC0415

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, gj.adamw(0.1), wrt=nnx.Param)
    x = jnp.ones((4, 3))

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: (m(x) ** 2).mean())(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(5)]
    assert losses[-1] < losses[0]
    params = {"w": jnp.ones(3)}
    held = train_state.TrainState.create(apply_fn=None, params=params, tx=gj.adamw(0.1))
    held = held.apply_gradients(grads=params)
    assert int(held.opt_state.count) == 1
    stored = serialization.to_bytes(held.opt_state)
    back = serialization.from_bytes(gj.adamw(0.1).init(params), stored)
    jax.tree.map(np.testing.assert_array_equal, back, held.opt_state)
    assert flax is not None
    orbax = pytest.importorskip("orbax.checkpoint", reason="orbax is not in an extra")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saver = orbax.StandardCheckpointer()
        saver.save(tmp_path / "state", held.opt_state)
        saver.wait_until_finished()
        found = saver.restore(tmp_path / "state", held.opt_state)
    jax.tree.map(np.testing.assert_array_equal, found, held.opt_state)


def shard_map():
    """Before 0.9.1 JAX's check of what is replicated asked too much of the count."""
    if tuple(map(int, jax.__version__.split(".")[:3])) < (0, 9, 1):
        return functools.partial(jax.shard_map, check_vma=False)
    return jax.shard_map


def test_several_devices():
    """Each device steps its part under shard_map; plain jit over several is refused."""
    if len(jax.devices()) < 2:
        pytest.skip("jax was started with one device")
    spec, one = jax.sharding.PartitionSpec("x"), jax.sharding.PartitionSpec()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))
    tx = transformation("AdamW", lr=0.1)
    rng = np.random.default_rng(5)
    params = {"w": jnp.asarray(normal(rng, (64, 3), np.float32))}
    grads = {"w": jnp.asarray(normal(rng, (64, 3), np.float32))}
    state = tx.init(params)
    wanted, _ = tx.apply(params, grads, state)
    specs = state._replace(count=one, states=jax.tree.map(lambda _: spec, state.states))
    specs = specs._replace(report=jax.tree.map(lambda _: one, state.report))
    step = shard_map()(tx.apply, mesh=mesh, in_specs=(spec, spec, specs), out_specs=(spec, specs))
    got, _ = jax.jit(step)(params, grads, state)
    assert_same_bits(np.asarray(got["w"]), np.asarray(wanted["w"]))
    laid = jax.device_put(params, jax.sharding.NamedSharding(mesh, spec))
    with pytest.raises(NotImplementedError, match="got arrays on 2 devices under plain jit"):
        jax.jit(tx.apply)(laid, grads, state)
    for asked, words in (
        ({"clip_norm": 1.0}, "norm: got nothing within shard_map"),
        ({"stats": True}, "got stats=True, within shard_map"),
    ):
        alone = transformation("AdamW", lr=0.1, **asked)
        kept = alone.init(params)
        specs = kept._replace(
            count=one,
            states=jax.tree.map(lambda _: spec, kept.states),
            report=jax.tree.map(lambda _: one, kept.report),
        )
        inner = shard_map()(
            alone.apply, mesh=mesh, in_specs=(spec, spec, specs), out_specs=(spec, specs)
        )
        with pytest.raises(NotImplementedError, match=words):
            jax.jit(inner)(params, grads, kept)
    clipping = transformation("AdamW", lr=0.1, clip_norm=1.0)
    kept = clipping.init(params)
    wanted, _ = clipping.apply(params, grads, kept)

    def clipped(params, grads, state):
        squares = jax.lax.psum((grads["w"] ** 2).sum(), "x")
        return clipping.apply(params, grads, state, norm=jnp.sqrt(squares))

    specs = kept._replace(
        count=one,
        states=jax.tree.map(lambda _: spec, kept.states),
        report=jax.tree.map(lambda _: one, kept.report),
    )
    inner = shard_map()(clipped, mesh=mesh, in_specs=(spec, spec, specs), out_specs=(spec, specs))
    got, _ = jax.jit(inner)(params, grads, kept)
    np.testing.assert_allclose(got["w"], wanted["w"], rtol=1e-5)


def test_host_compute():
    """A step within compute_on, as states in host memory are stepped; here the host is all."""
    from jax.experimental.compute_on import compute_on  # noqa: PLC0415

    tx = transformation("AdamW", lr=0.1)
    params = {"w": jnp.ones(1000)}
    state = tx.init(params)
    wanted, _ = tx.apply(params, params, state)

    @compute_on("device_host")
    @jax.jit
    def on_host(params, grads, state):
        return tx.apply(params, grads, state)

    got, _ = jax.jit(on_host)(params, params, state)
    assert_same_bits(np.asarray(got["w"]), np.asarray(wanted["w"]))


# ---- what is refused ----

ONE = {"w": np.ones(3, np.float32)}


def leaf(value):
    return {"w": value}


@pytest.mark.parametrize(
    ("params", "grads", "words"),
    [
        (leaf(np.ones(3, np.int32)), ONE, r"params\['w'\]: got dtype int32"),
        (leaf(np.ones(3, np.complex64)), ONE, r"params\['w'\]: got dtype complex64"),
        (leaf(None), ONE, r"grads\['w'\]: got a gradient without a parameter"),
        (leaf([1.0]), ONE, r"params\['w'\]\[0\]: got float"),
        (ONE, leaf(None), r"grads\['w'\]: got None, wanted an array"),
        (ONE, leaf(np.ones(3, np.int32)), r"grads\['w'\]: got dtype int32"),
        (ONE, leaf(np.zeros(3, "V")), r"grads\['w'\]: got"),
        (ONE, leaf(np.ones(4, np.float32)), r"grads\['w'\]: got shape \(4,\), wanted \(3,\)"),
        (ONE, {"v": np.ones(3, np.float32)}, r"grads\['w'\]: got nothing there"),
        ({**ONE, "v": ONE["w"]}, ONE, r"grads\['v'\]: got nothing there"),
        (ONE, {**ONE, "v": ONE["w"]}, r"grads\['v'\]: got a gradient without a parameter"),
        (ONE, [np.ones(3, np.float32)], r"grads"),
        (leaf("weak"), ONE, r"params\['w'\]: got a weakly typed float32"),
        (ONE, leaf("float0"), r"grads\['w'\]: got float0"),
        (leaf("deleted"), ONE, r"params\['w'\]: got an array that was donated"),
    ],
)
def test_bad_leaves(params, grads, words):
    """By path, whether an error comes from init or from a step."""
    made = {
        "weak": lambda: jnp.broadcast_to(jnp.asarray(1.0), 3),
        "float0": lambda: np.zeros(3, jax.dtypes.float0),
        "deleted": deleted,
    }
    params, grads = (
        {k: made[v]() if isinstance(v, str) else v for k, v in tree.items()}
        if isinstance(tree, dict)
        else tree
        for tree in (params, grads)
    )
    tx = transformation("AdamW")
    with pytest.raises((TypeError, ValueError), match=words):
        tx.apply(params, grads, tx.init(ONE if "donated" in words else params))


def deleted():
    array = jnp.ones(3)
    array.delete()
    return array


def test_bad_states():
    tx, other = transformation("AdamW"), transformation("SGD")
    params = {"w": jnp.ones(3)}
    with pytest.raises(TypeError, match=r"state: got tuple, wanted the State of tx.init"):
        tx.apply(params, params, ())
    with pytest.raises(ValueError, match=r"state: got what another .* wanted .*exp_avg"):
        tx.apply(params, params, other.init(params))
    with pytest.raises(ValueError, match=r"state.states\['exp_avg'\]: got a tree unlike params"):
        tx.apply(params, params, tx.init({"v": jnp.ones(3)}))
    with pytest.raises(ValueError, match=r"state: got exp_avg of params.* as float32 of shape"):
        tx.apply(params, params, tx.init({"w": jnp.ones(4)}))
    state = tx.init(params)
    for count in (jnp.float32(0), jnp.zeros(2, jnp.int32), jnp.zeros(0, jnp.int32), 0):
        with pytest.raises(ValueError, match="state: got count as"):
            tx.apply(params, params, state._replace(count=count))
    tx = transformation("NAdam")
    state = tx.init(params)
    for memory in (jnp.zeros((2, 1, 2), jnp.uint32), jnp.zeros((1, 1, 2), jnp.float32)):
        with pytest.raises(ValueError, match="state: got memory as"):
            tx.apply(params, params, state._replace(memory=memory))


def test_bad_places():
    tx = transformation("AdamW")
    params = {"w": jnp.ones((2, 3))}
    state = tx.init(params)
    with pytest.raises(NotImplementedError, match="within vmap, wanted"):
        jax.vmap(lambda p: tx.apply(p, p, tx.init(p)))(params)
    with pytest.raises(NotImplementedError, match="that is differentiated"):
        jax.grad(lambda p: tx.apply(p, p, state)[0]["w"].sum())(params)
    from jax import export  # noqa: PLC0415

    with pytest.raises(NotImplementedError, match="that is exported"):
        export.export(jax.jit(tx.apply))(params, params, state)
    with pytest.raises(NotImplementedError, match=r"got arrays on cuda|got arrays on tpu"):
        jax.jit(tx.apply).trace(params, params, state).lower(lowering_platforms=("cuda",))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (gj.adamw, "learning_rate"),
        (lambda: gj.adamw(0.1, b3=0.5), "adamw: .*b3.*, wanted learning_rate, b1, b2"),
        (lambda: gj.adamw(-1.0), "lr: got -1.0, wanted a finite number ≥ 0"),
        (lambda: gj.adamw(0.1, eps_root=1e-3), "eps_root: got 0.001, wanted 0.0"),
        (lambda: gj.rmsprop(0.1, eps_in_sqrt=True), "eps_in_sqrt: got True, wanted False"),
        (lambda: gj.adamw(0.1, states="q9"), "states: got 'q9'"),
        (lambda: gj.adamw(0.1, states="q8", mu_dtype="bfloat16"), "states: got 'q8' beside"),
        (lambda: gj.adamw(0.1, nonfinite="raise"), "nonfinite: got 'raise', wanted 'allow' or"),
        (lambda: gj.adamw(0.1, copy_to="int8"), "copy_to: got 'int8'"),
        (lambda: gj.adamw(0.1, stats="sample"), "stats: got 'sample', wanted True or False"),
        (lambda: gj.adamw(0.1, clip_norm=-1.0), "clip_norm: got -1.0"),
        (lambda: gj.muon, "gradstep.jax.muon: got a rule with products"),
    ],
)  # fmt: skip
def test_bad_arguments(make, words):
    with pytest.raises((TypeError, ValueError, AttributeError), match=words):
        make()


@pytest.mark.parametrize(
    ("asked", "dtype", "words"),
    [
        ({"average": 0.9}, "float32", "average: got 0.9 through update"),
        ({"copy_to": "bfloat16"}, "float32", "copy_to: got bfloat16 through update"),
        ({"stats": True}, "float32", "stats: got True through update"),
        ({"split": True}, "bfloat16", "split: got True through update"),
        ({"rounding": {"params": "stochastic"}}, "bfloat16", "rounding: got parameters"),
    ],
)
def test_what_update_cannot(asked, dtype, words):
    tx = transformation("AdamW", **asked)
    params = {"w": jnp.ones(3, dtype)}
    with pytest.raises(ValueError, match=words):
        tx.update(params, tx.init(params), params)


def test_update_without_parameters():
    params = {"w": jnp.ones(3)}
    tx = gj.adam(0.1)
    got, _ = tx.update(params, tx.init(params))
    wanted, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(got["w"], wanted["w"], rtol=1e-6)
    tx = gj.adamw(0.1)
    with pytest.raises(ValueError, match="params: got None, but AdamW reads the parameters"):
        tx.update(params, tx.init(params))


def test_copying():
    tx = gj.adamw(0.1)
    assert copy.deepcopy({"tx": tx})["tx"] is copy.copy(tx) is tx
    with pytest.raises(TypeError, match="to pickle, wanted it made anew"):
        pickle.dumps(tx)


def test_another_version_is_refused():
    """A program that was compiled by another gradstep says so."""
    from gradstep.jax import native  # noqa: PLC0415

    with pytest.raises(Exception, match=r"compiled by another gradstep, version 0.0, wanted"):
        jax.block_until_ready(
            native.step("version 0.0", [jnp.ones(1)], [((1,), np.float32)], [], "")
        )


def test_page():
    """The examples of docs/jax.md, and of the package, run and print what they say."""
    if tuple(map(int, jax.__version__.split(".")[:3])) < (0, 9, 1):
        pytest.skip("the page is for JAX 0.9.1 and later, as it says of shard_map")
    page = Path(__file__).parent.parent / "docs" / "jax.md"
    failed, ran = doctest.testfile(str(page), module_relative=False)
    assert (failed, ran > 30) == (0, True)
    for module in (gj, gj.transformation, gj.files):
        failed, ran = doctest.testmod(module)
        assert (failed, ran > 0) == (0, True), module


def test_page_with_flax():
    """The page's blocks without prompts are one program, of flax and Orbax."""
    pytest.importorskip("flax", reason="flax is not in an extra")
    pytest.importorskip("orbax.checkpoint", reason="orbax is not in an extra")
    text = (Path(__file__).parent.parent / "docs" / "jax.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    program = "".join(block for block in blocks if ">>>" not in block)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(program, names)
    assert int(names["held"].opt_state.count) == 2
    jax.tree.map(np.testing.assert_array_equal, names["state"], names["held"].opt_state)
