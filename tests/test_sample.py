"""stats="sample": which blocks it looks at, what it says of them, and that it changes nothing."""

import numpy as np
import pytest

import gradstep as gs
from cases import EXACT, RULES
from gradstep import _core

BLOCK = _core.block_elements
SIZES = [100, 70_001, 513, 40_000]
BLOCKS = _core.sample_elements // BLOCK


def arrays(seed, dtype=np.float32, sizes=SIZES, mean=0.0):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(n) + mean).astype(dtype) for n in sizes]


def sampled(sizes=SIZES, starts=None):
    """The elements of the sample, a mask for each array: every so manieth block of all."""
    starts = starts or [0] * len(sizes)
    phases = [start % BLOCK for start in starts]
    counts = [-(-(phase + n) // BLOCK) for phase, n in zip(phases, sizes, strict=True)]
    every = -(-sum(counts) // BLOCKS)
    masks, first = [], 0
    for phase, n, count in zip(phases, sizes, counts, strict=True):
        index = first + (phase + np.arange(n)) // BLOCK
        masks.append(index % every == 0)
        first += count
    assert every > 1
    assert sum(mask.sum() for mask in masks) <= _core.sample_elements
    return masks


def chosen(values, masks):
    return np.concatenate([v[m] for v, m in zip(values, masks, strict=True)]).astype(np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("starts", [None, [300, 0, 1000, 513]])
@pytest.mark.parametrize("rule", ["SGD", "RMSprop", "Adam"])
def test_sample_is_of_fixed_blocks(rule, starts, dtype):
    """Norms and cosine are those of the sampled blocks, the former scaled to all elements."""
    params = arrays(0, dtype)
    shards = [gs.Shard(p, start=s) for p, s in zip(params, starts or [0] * 4, strict=True)]
    opt = getattr(gs, rule)(shards, lr=0.01, stats="sample", clip_value=2.0)
    masks = sampled(starts=starts)
    scale = np.sqrt(sum(SIZES) / sum(mask.sum() for mask in masks))
    average = np.zeros(sum(mask.sum() for mask in masks))
    for t in range(4):
        grads = arrays(1 + t, dtype, mean=0.2)
        before = chosen(params, masks)
        report = opt.step(grads)
        after, raw = chosen(params, masks), chosen(grads, masks)
        used = np.clip(raw, -2, 2)
        assert report.grad_norm == pytest.approx(np.linalg.norm(raw) * scale, rel=1e-6)
        assert report.param_norm == pytest.approx(np.linalg.norm(after) * scale, rel=1e-6)
        assert report.update_norm == pytest.approx(np.linalg.norm(after - before) * scale, rel=1e-6)
        assert report.groups is None
        if t == 0:
            assert report.cosine is None
        else:
            cosine = used @ average / np.linalg.norm(used) / np.linalg.norm(average)
            assert report.cosine == pytest.approx(cosine, rel=1e-5)
        average += 0.1 * (used - average)  # as Adam's own momentum is
        if rule == "SGD":
            assert report.g2_over_v is None
        elif t == 3:
            v = [opt.state[str(i)]["square_avg" if rule == "RMSprop" else "exp_avg_sq"]
                 for i in range(4)]  # fmt: skip
            corrected = chosen(v, masks) / (1 - 0.999**4 if rule == "Adam" else 1)
            assert report.g2_over_v == pytest.approx(np.mean(used**2 / corrected), rel=1e-4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0, "average": 0.9}, {"states": "q8"}])
def test_sample_changes_no_bit(rule, options):
    if rule in EXACT and options.get("states"):
        options = {"states": "bfloat16"}
    if options.get("states") and not gs.rule.RULES[rule].present(gs.rule.RULES[rule].defaults):
        options = {**options, "momentum": 0.9}
    if gs.rule.RULES[rule].shows:  # an average of its own
        options = {key: value for key, value in options.items() if key != "average"}
    plain, looked_at = arrays(0), arrays(0)
    a = getattr(gs, rule)(plain, **options)
    b = getattr(gs, rule)(looked_at, **options, stats="sample")
    for t in range(3):
        a.step(arrays(t))
        b.step(arrays(t))
    for x, y in zip(plain, looked_at, strict=True):
        assert x.tobytes() == y.tobytes()
    for own, other in zip(a.state.values(), b.state.values(), strict=True):
        for name in own:
            assert np.array_equal(own[name], other[name]), name


def test_sample_has_the_same_bits_on_any_threads_and_target():
    def numbers():
        opt = gs.SGD(arrays(0), lr=0.1, stats="sample")
        return [opt.step(arrays(t)).to_dict() for t in range(3)]

    expected, threads, target = numbers(), gs.get_num_threads(), gs.config()["target"]
    try:
        for count in (1, 2, 3):
            gs.set_num_threads(count)
            _core.set_eager(True)
            assert numbers() == expected
        for name in gs.config()["targets"]:
            gs.set_target(name)
            assert numbers() == expected
    finally:
        _core.set_eager(False)
        gs.set_num_threads(threads)
        gs.set_target(target)


def test_sample_of_little_is_all_of_it():
    params, grads = arrays(0, sizes=[1000, 1]), arrays(1, sizes=[1000, 1])
    whole = gs.Adam([p.copy() for p in params], stats=True).step(grads)
    part = gs.Adam([p.copy() for p in params], stats="sample").step(grads)
    for key in ("grad_norm", "update_norm", "param_norm", "g2_over_v"):
        assert getattr(part, key) == pytest.approx(getattr(whole, key), rel=1e-12)


def test_parameters_without_gradient_do_not_count():
    params = arrays(0, sizes=[100_000, 100_000])
    opt = gs.SGD(params, stats="sample")
    report = opt.step([None, np.ones(100_000, np.float32)])
    assert report.grad_norm == pytest.approx(np.sqrt(100_000))
    assert report.param_norm == pytest.approx(np.linalg.norm(params[1]), rel=0.05)
    assert opt.step([None, None]).grad_norm == 0


@pytest.mark.parametrize("stats", ["all", 2, None])
def test_unknown_stats_are_refused(stats):
    with pytest.raises(TypeError, match=r"stats: got .*, wanted True, False or 'sample'"):
        gs.SGD(np.ones(3, np.float32), stats=stats)
