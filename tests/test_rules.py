"""Every rule and option against the NumPy reference, to the last bit."""

import functools
import itertools

import numpy as np
import pytest

import gradstep as gs
import reference
from cases import (
    BLOCK,
    CASES,
    DTYPES,
    SIZES,
    assert_same_bits,
    at_offset,
    case_id,
    gathers,
    given,
    normal,
    special,
)

STEPS, OFFSETS = 4, 4
LATER = ("NAdam", "RAdam", "ASGD")  # whose later updates are not like the first ones
NUMBERS = {"normal": normal, "special": special}


def build(rule, options, params):
    return getattr(gs, rule)(params, **options)


@functools.cache
def expected(case_index, dtype, numbers):
    """Parameters before, gradients of each step, and parameters and states after, by size."""
    rule, options = CASES[case_index]
    rng = np.random.default_rng(case_index)
    draw = NUMBERS[numbers]
    result = []
    for size in SIZES:
        before = draw(rng, size, dtype)
        gradients = [draw(rng, size, dtype) for _ in range(STEPS)]
        opt = build(rule, options, [before.copy()])
        state = {k: v.copy() for k, v in opt.state["0"].items() if k != "step"}
        result.append((before, gradients, before.copy(), state))
    hyper = {**opt.groups[0], **given(rule)}
    for t in range(1, STEPS + 1):
        rows = [(after, gradients[t - 1], state, t) for _, gradients, after, state in result]
        # As often as in the test, where sums are over all of them.
        reference.step_together(rule, rows, hyper, times=OFFSETS)
    return result


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("index", range(len(CASES)), ids=[case_id(c) for c in CASES])
def test_equals_reference(index, dtype, numbers, target, threads):
    """Each size at each offset from vector alignment, all in one optimizer."""
    rule, options = CASES[index]
    rows = [(*row, offset) for row in expected(index, dtype, numbers) for offset in range(OFFSETS)]
    params = [at_offset(before, offset) for before, _, _, _, offset in rows]
    opt = build(rule, options, params)
    for k in range(STEPS):
        g = [at_offset(gradients[k], 3 - offset) for _, gradients, _, _, offset in rows]
        opt.step(g, **given(rule))
    state = opt.state
    for i, ((_, _, after, states, _), param) in enumerate(zip(rows, params, strict=True)):
        what = f"size {after.size}"
        assert_same_bits(param, after, what)
        assert state[str(i)].keys() == {"step", *states}
        for name, array in states.items():
            assert_same_bits(state[str(i)][name], array, f"{name}, {what}")
        assert state[str(i)]["step"] == STEPS


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("index", range(len(CASES)), ids=[case_id(c) for c in CASES])
def test_split_into_shards(index, dtype, threads):
    """A tensor cut anywhere gives the same bits as the whole."""
    rule, options = CASES[index]
    rng = np.random.default_rng(index)
    # What is summed over a tensor is the same within rounding, and an infinity would hide the rest.
    sums = gathers(rule, options)
    draw = normal if sums else special
    before = draw(rng, 5000, dtype)
    gradients = [draw(rng, 5000, dtype) for _ in range(3)]
    whole, shards = before.copy(), before.copy()
    cuts = [0, 1, 17, 511, 1024, 1025, 3333, 5000]

    def split(x):
        return [x[a:b] for a, b in itertools.pairwise(cuts)]

    parts = [gs.Shard(x, key=7, start=at) for x, at in zip(split(shards), cuts, strict=False)]
    one, many = build(rule, options, whole), build(rule, options, parts)
    for g in gradients:
        one.step(g, **given(rule))
        many.step(split(g), **given(rule))
    tolerance = {np.float32: 1e-6, np.float64: 1e-12}[dtype]
    states = [s.name for s in gs.rule.RULES[rule].states]
    for name, array in [("param", whole), *one.state["0"].items()]:
        kept = split(shards) if name == "param" else [own.get(name) for own in many.state.values()]
        if name == "step":
            continue
        if name in gs.rule.RULES[rule].memory_names:
            close = 1e-9 if gs.rule.RULES[rule].common else 0
            assert all(abs(part - array) <= close * abs(array) for part in kept), name
        elif sums:
            scale = np.abs(array).max()
            np.testing.assert_allclose(
                np.concatenate(kept) / scale, array / scale, atol=tolerance, rtol=0, err_msg=name
            )
        else:
            assert_same_bits(np.concatenate(kept), array, name)
        assert name in ("param", *states, *gs.rule.RULES[rule].memory_names)


def test_counts_resolve_scalars_for_each_parameter():
    """A parameter that missed steps is corrected by its own count, not the optimizer's."""
    a, b, alone = np.ones(5), np.ones(5), np.ones(5)
    g = np.full(5, 0.3)
    opt, other = gs.Adam([a, b]), gs.Adam(alone)
    opt.step([g, None])
    opt.step([g, g])
    other.step(g)
    assert_same_bits(b, alone)
    assert [entry["step"] for entry in opt.state.values()] == [2, 1]


def test_long_run_stays_equal():
    """Powers of beta over many steps follow the reference's own sequence."""
    p = np.linspace(-1, 1, 50, dtype=np.float32)
    opt = gs.AdamW(p, lr=0.01)
    wanted = p.copy()
    state = {k: v.copy() for k, v in opt.state["0"].items() if k != "step"}
    rng = np.random.default_rng(0)
    for t in range(1, 1200):
        g = normal(rng, 50, np.float32)
        opt.step(g)
        reference.step("AdamW", wanted, g, state, t, dict(opt.groups[0]))
    assert_same_bits(p, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("case", [case for case in CASES if case[0] in LATER], ids=case_id)
def test_what_begins_later(case, dtype, target):
    """RAdam divides by the second moment from the sixth update on; memory goes on and on."""
    rule, options = case
    rng = np.random.default_rng(1)
    p = special(rng, BLOCK + 9, dtype)
    opt = build(rule, options, p)
    wanted = p.copy()
    state = {k: v.copy() for k, v in opt.state["0"].items() if k != "step"}
    for t in range(1, 13):
        g = special(rng, p.size, dtype)
        opt.step(g)
        reference.step(rule, wanted, g, state, t, dict(opt.groups[0]))
        assert_same_bits(p, wanted, f"update {t}")
    for name, array in state.items():
        assert_same_bits(opt.state["0"][name], array, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_denormals_survive(dtype, target, threads):
    """No target and no worker flushes what the caller does not (the self-test has the rest)."""
    tiny = np.finfo(dtype).smallest_subnormal
    p = np.zeros(40_000, dtype)
    gs.SGD(p, lr=1.0).step(np.full(p.size, tiny * 3, dtype))
    assert (p == -tiny * 3).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_sum_squares(dtype, target, threads):
    """Sums have the same bits on any target and threads, those of the reference's order."""
    rng = np.random.default_rng(5)
    arrays = [normal(rng, n, dtype) for n in [0, 1, 17, 513, 70_001, 200_000]]
    assert gs._core.sum_squares(arrays) == reference.sum_squares(arrays)
    whole = np.concatenate(arrays)
    np.testing.assert_allclose(gs.global_norm(arrays), gs.global_norm(whole), rtol=1e-12)
    np.testing.assert_allclose(
        gs.global_norm(whole), np.linalg.norm(whole.astype(float)), rtol=1e-12
    )
