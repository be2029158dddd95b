"""Every rule with every storage and rounding against the NumPy reference, to the last bit."""

import contextlib
import functools
import itertools
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import gradstep as gs
import reference
import reference_storages
from cases import (
    BLOCK,
    CASES,
    SHORT,
    assert_same_bits,
    at_offset,
    case_id,
    gathers,
    given,
    normal,
    special,
    table_row,
)

STEPS = 2
DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
# Around a vector, the blocks of q4 and q8, and the walk's.
SIZES = [0, 1, 17, 63, 65, 255, 257, BLOCK, 3 * BLOCK + 5]

# Storages of parameter, gradient and states, and rounding: each pairing with a loop of its own,
# and each storage in each place through scratch.
PAIRINGS = [
    *(
        (p, g, s, {"params": "stochastic"} if chance else None)
        for p, g, s, chance in gs._core.fused()
    ),
    ("float32", "float32", "bfloat16", None),
    ("float32", "float32", "bfloat16", "nearest"),
    ("float32", "float16", "q4", None),
    ("float32", "float64", "q8", "stochastic"),
    ("float32", "float32", "float16", "stochastic"),
    ("float32", "bfloat16", "float64", None),
    ("float64", "bfloat16", "q8", None),
    ("float64", "float32", "bfloat16", "stochastic"),
    ("float64", "float16", "q4", "nearest"),
    ("bfloat16", "float32", "q4", "stochastic"),
    ("bfloat16", "float64", "float16", "nearest"),
    ("bfloat16", "bfloat16", "bfloat16", "nearest"),
    ("float16", "float16", "float32", "stochastic"),
    ("float16", "float16", "float16", None),
    ("float16", "bfloat16", "q8", "nearest"),
    ("split", "float32", "float32", None),
    ("split", "float16", "q4", None),
]
STATES = [*DTYPES, "q8", "q4"]
EVERY = [
    (p, g, s, rounding)
    for p, g, s, rounding in itertools.product(
        [*DTYPES, "split"], DTYPES, STATES, [None, "nearest", "stochastic"]
    )
    if (p, g, s, rounding) not in PAIRINGS
    # refused: nothing there is rounded
    and not (rounding == "stochastic" and "16" not in p and s in ("float32", "float64"))
]


def pairing_id(pairing):
    p, g, s, rounding = pairing
    mode = "params" if isinstance(rounding, dict) else rounding or "usual"
    return f"{p}-{g}-{s}-{mode}"


@functools.cache
def probe(rule, options):
    return getattr(gs, rule)(np.zeros(1, np.float32), **dict(options))


def storages_for(rule, options, wanted):
    """The storage of each state that can have it; None where the rule cannot take it at all."""
    roles = reference_storages.STATES[rule]
    if wanted in ("q8", "q4") and options.get("centered"):
        return None
    present = probe(rule, tuple(options.items())).state["0"]
    may = gs._core.storages()[wanted]
    return {name: wanted for name in roles if name in present and roles[name] in may}


def stochastic_buffers(rule, states, param, rounding):
    """The names of the buffers that are rounded stochastically."""
    roles = reference_storages.STATES[rule]
    kept = {"param": param, **states}
    chosen = set()
    for name, storage in kept.items():
        role = roles.get(name, "param")
        if storage not in reference_storages.ROUNDED or role == "maximum":
            continue
        asked = (
            rounding.get("params" if name == "param" else name)
            if isinstance(rounding, dict)
            else rounding
        )
        if asked == "stochastic" or (
            asked is None and reference_storages.default_stochastic(storage, role)
        ):
            chosen.add(name)
    return chosen


def numbers(rng, size, dtype, odd):
    with np.errstate(all="ignore"):
        return (special if odd else normal)(rng, size, np.float32).astype(dtype)


def rows_of(pairings, every=1):
    """Each case with each pairing that it can have: (case, pairing, its id), both by index.

    With `every` n only each n-th, so that each case and each pairing still has its turns.
    """
    rows = []
    for (index, (rule, options)), (j, (_, _, s, _)) in itertools.product(
        enumerate(CASES), enumerate(pairings)
    ):
        if (index + j) % every:
            continue
        states = storages_for(rule, options, s)
        if states is not None and (states or s in ("float32", "float64")):
            rows.append((index, j, f"{case_id((rule, options))}-{pairing_id(pairings[j])}"))
    return rows


@functools.lru_cache(maxsize=1)  # used for each target in turn
def expected(case_index, pairing_index, odd, staged):
    """For each size: parameter and low half before, gradients, and everything after."""
    rule, options = CASES[case_index]
    p, g, s, rounding = (PAIRINGS + EVERY)[pairing_index]
    states = storages_for(rule, options, s)
    rng = np.random.default_rng([case_index, pairing_index])
    param_dtype = DTYPES["bfloat16" if p == "split" else p]
    T = np.float64 if p == "float64" else np.float32
    chosen = stochastic_buffers(rule, states, p, rounding)
    hyper = {**getattr(gs, rule)(np.zeros(1, T), **options).groups[0], **given(rule)}
    roles = reference_storages.STATES[rule]
    rows = []
    for i, size in enumerate(SIZES):
        param = numbers(rng, size, param_dtype, odd)
        low = rng.integers(-(2**15), 2**15, size).astype(np.int16) if p == "split" else None
        gradients = [numbers(rng, size, DTYPES[g], odd) for _ in range(STEPS)]
        own = {name: np.zeros(1) for name in gs.rule.RULES[rule].memory_names}
        with np.errstate(all="ignore"):
            whole = reference_storages.unsplit(param, low) if p == "split" else param.astype(T)
        for name in roles:
            if name in states or name in storages_for(rule, options, "float32"):
                storage = states.get(name, np.dtype(T).name)
                starts = {s.name: s.initial for s in gs.rule.RULES[rule].states}
                initial = hyper[starts[name]] if starts[name] else 0.0
                if roles[name] == "parameter":
                    own[name] = reference_storages.encode(storage, "param", whole)
                else:
                    own[name] = reference_storages.fresh(storage, roles[name], (size,), initial)
        # A rule that looks at whole tensors wants them whole.
        start = 3 * BLOCK - 256 if i % 2 and not gathers(rule, options) else 0
        row = {
            "before": param.copy(),
            "low_before": None if low is None else low.copy(),
            "gradients": gradients,
            "start": start,
            "key": 1000 + i,
        }
        extra = {}
        if staged:
            with np.errstate(all="ignore"):
                first = reference_storages.unsplit(param, low) if p == "split" else param
                average = np.array(first, dtype=T)
            extra = {"average": average, "copy": np.zeros(size, DTYPES["bfloat16"])}
            if gs.rule.RULES[rule].shows:  # has an average of its own
                del extra["average"]
        rows.append({**row, "after": param, "low": low, "states": own, **extra})
    for t in range(1, STEPS + 1):
        runs = []
        for row in rows:
            extra = {key: row[key] for key in ("average", "copy") if key in row}
            if staged:
                extra |= {"factor": 1 / 3, "clip_value": 0.5}
                if "average" in extra:
                    extra["decay"] = 0.75
            runs.append(reference_storages.passes(
                rule, row["after"], row["gradients"][t - 1], row["states"], t, hyper,
                storages=states, stochastic=chosen, low=row["low"], seed=5,
                key=row["key"], start=row["start"], **extra,
            ))  # fmt: skip
        totals = reference.add_up(rule, [next(run) for run in runs])
        for run in runs:
            with contextlib.suppress(StopIteration):
                run.send(totals)
    return rows


def check(case_index, pairing_index, odd, staged):
    rule, options = CASES[case_index]
    p, _, s, rounding = (PAIRINGS + EVERY)[pairing_index]
    states = storages_for(rule, options, s)
    rows = expected(case_index, pairing_index, odd, staged)
    params = [at_offset(row["before"], i % 3) for i, row in enumerate(rows)]
    copies = [np.zeros(row["after"].shape, DTYPES["bfloat16"]) for row in rows] if staged else None
    places = [{"key": row["key"], "start": row["start"]} for row in rows]
    averaged = staged and not gs.rule.RULES[rule].shows
    opt = getattr(gs, rule)(
        [gs.Shard(q, **place) for q, place in zip(params, places, strict=True)],
        **options, states=states, rounding=rounding, split=p == "split", seed=5,
        **({"clip_value": 0.5, "copy_to": copies} if staged else {}),
        **({"average": 0.75} if averaged else {}),
    )  # fmt: skip
    kept = opt.state
    for i, row in enumerate(rows):
        if row["low"] is not None:
            kept[str(i)]["low"][...] = row["low_before"]
            with np.errstate(all="ignore"):
                master = reference_storages.unsplit(row["before"], row["low_before"])
                for name, role in reference_storages.STATES[rule].items():
                    if role == "parameter":
                        np.copyto(kept[str(i)][name], master, casting="unsafe")
            if averaged:
                kept[str(i)]["average"][...] = master
    for k in range(STEPS):
        gradients = [at_offset(row["gradients"][k], 2 - i % 3) for i, row in enumerate(rows)]
        opt.step(gradients, loss_scale=3.0 if staged else 1.0, zero_grads=staged, **given(rule))
        if staged:
            assert not any(gradient.any() for gradient in gradients)
    for i, row in enumerate(rows):
        what = f"size {row['after'].size}"
        assert_same_bits(params[i], row["after"], what)
        own = kept[str(i)]
        for name, array in row["states"].items():
            assert_same_bits(own[name], array, f"{name}, {what}")
        if row["low"] is not None:
            assert_same_bits(own["low"], row["low"], f"low, {what}")
        if averaged:
            assert_same_bits(own["average"], row["average"], f"average, {what}")
        if staged:
            assert_same_bits(copies[i], row["copy"], f"copy, {what}")


def check_on_every_target(case_index, pairing_index, odd, staged):
    gs.set_num_threads(3)
    gs._core.set_eager(True)
    for target in gs.config()["targets"]:
        gs.set_target(target)
        check(case_index, pairing_index, odd, staged)


# Every day each row once, plain or staged in turns, as its numbers are odd in turns.
TABLE = [
    table_row(
        i, j, staged, id=f"{name}-{'staged' if staged else 'plain'}", every_day=turn == staged
    )
    for i, j, name in rows_of(PAIRINGS)
    for turn in [(i + j) // 2 % 2]
    for staged in (False, True)
]


@pytest.mark.parametrize(("index", "pairing", "staged"), TABLE)
def test_equals_reference(index, pairing, staged):
    """At every size, as shards that begin in the midst of a tensor."""
    check_on_every_target(index, pairing, (index + pairing) % 2 == 1, staged)


# These rules have a loop of their own for each pairing of fused().
LONG = {"SGD", "Adam", "AdamW"}


@pytest.mark.parametrize("case", CASES, ids=map(case_id, CASES))
def test_what_has_a_loop_of_its_own_takes_it(case, target):
    """Through scratch it would compute the same, slower: no other test would see it."""
    rule, options = case
    rare = {"amsgrad", *gs.rule.RULES[rule].switches}
    every = (
        rule in LONG
        and not any(options.get(key) for key in rare)
        and target not in ("baseline", "sse4")
    )
    for p, g, s, chance in gs._core.fused():
        states = storages_for(rule, options, s)
        if states is None or not (states or s in ("float32", "float64")):
            continue
        param = np.ones(5, DTYPES["bfloat16" if p == "split" else p])
        rounding = {"params": "stochastic"} if chance else None
        optimizer = getattr(gs, rule)(
            param, **options, states=states, rounding=rounding, split=p == "split"
        )
        optimizer.step(np.ones(5, DTYPES[g]), **given(rule))
        known = gs.rule.RULES[rule]
        mixed = any(state.role in ("parameter", "rate") for state in known.states)
        no_blocks = s == "q8" and (gathers(rule, options) or mixed)
        wanted = (every or (p, g, s, chance) in SHORT) and not no_blocks
        assert optimizer._compiled.plan.direct() == [wanted], (p, g, s, chance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "pairing"), [pytest.param(i, j, id=name) for i, j, name in rows_of(EVERY, every=5)]
)
def test_every_pairing_equals_reference(index, pairing):
    """A fifth of the full product of storages and roundings, with each rule."""
    check_on_every_target(index, len(PAIRINGS) + pairing, (index + pairing) % 2 == 1, False)


@pytest.mark.parametrize("pairing", range(len(PAIRINGS)), ids=map(pairing_id, PAIRINGS))
def test_split_into_shards(pairing, threads):
    """Shards that say where they start draw the random bits of the whole tensor."""
    p, g, s, rounding = PAIRINGS[pairing]
    rng = np.random.default_rng(pairing)
    size = 9 * BLOCK + 100
    dtype = DTYPES["bfloat16" if p == "split" else p]
    before = normal(rng, size, np.float32).astype(dtype)
    gradients = [normal(rng, size, np.float32).astype(DTYPES[g]) for _ in range(3)]
    states = storages_for("AdamW", {}, s)
    unit = 256 if "q8" in states.values() else 64 if "q4" in states.values() else 1
    cuts = [0, *(max(1, at // unit) * unit for at in (7, 512, 1000, 1300, 3000, 3333)), size]

    def build(params):
        return gs.AdamW(params, states=states, rounding=rounding, split=p == "split", seed=3)

    whole, parts = before.copy(), before.copy()
    one = build(whole)
    many = build([gs.Shard(parts[a:b], key=0, start=a) for a, b in itertools.pairwise(cuts)])
    for gradient in gradients:
        one.step(gradient)
        many.step([gradient[a:b] for a, b in itertools.pairwise(cuts)])
    assert_same_bits(parts, whole)
    for name, array in one.state["0"].items():
        if name != "step":
            joined = np.concatenate([entry[name] for entry in many.state.values()])
            assert_same_bits(joined, array, name)


@pytest.mark.parametrize("storage", ["q8", "q4", "bfloat16", "float16"])
@pytest.mark.parametrize("role", ["momentum", "second_moment", "maximum"])
@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
def test_encode_and_decode(storage, role, stochastic, target):
    """The codec alone, with a block that holds a NaN and numbers down to denormals."""
    if role not in gs._core.storages()[storage] or (stochastic and role == "maximum"):
        pytest.skip("refused")
    rng = np.random.default_rng(1)
    x = special(rng, 5 * BLOCK + 3, np.float32)
    x[:BLOCK][~np.isfinite(x[:BLOCK])] = 0
    if role != "momentum":
        with np.errstate(all="ignore"):
            x = x * x
    where = {"seed": 1, "t": 7, "key": 2**40, "buffer": 2, "start": 3 * BLOCK}
    random = reference_storages.random_bits(x.size, **where) if stochastic else None
    wanted = reference_storages.encode(storage, role, x, random)
    got = np.zeros_like(wanted)
    gs._core.encode(storage, role, x, got, stochastic, *where.values())
    assert_same_bits(got, wanted)
    numbers = np.zeros_like(x)
    gs._core.decode(storage, role, got, numbers)
    assert_same_bits(numbers, reference_storages.decode(storage, role, wanted, x.shape))


def test_sum_squares_of_halves(target, threads):
    """Norms of 16-bit gradients: the same order of additions, in double."""
    rng = np.random.default_rng(2)
    arrays = [
        normal(rng, n, np.float32).astype(DTYPES[name])
        for n in (0, 1, 513, 70_001)
        for name in ("bfloat16", "float16")
    ]
    assert gs._core.sum_squares(arrays) == reference.sum_squares(arrays)


def test_sizes_in_bytes():
    """What the docs say of bytes per parameter."""
    n = 124_000_000
    for storage in ("q8", "q4"):
        for size in (0, 1, 63, 64, 65, 255, 256, 257, 1000):
            assert gs._core.storage_bytes(storage, size) == reference_storages.nbytes(storage, size)
    assert 2 * gs._core.storage_bytes("q8", n) / n <= 2.1
    assert 2 * gs._core.storage_bytes("q4", n) / n <= 1.2
    assert 2 * gs._core.storage_bytes("float32", n) / n == 8
    assert gs._core.storage_bytes("split", n) / n == 4


def test_every_storage_is_specified():
    """In the reference, in the tables above and in the docs."""
    names = set(gs._core.storages())
    assert names == {*reference_storages.STORAGES, "split"}
    assert names == {*STATES, "split"}
    page = (Path(__file__).parent.parent / "docs" / "storages.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in names)
