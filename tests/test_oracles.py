"""A second, independent oracle: PyTorch's own optimizers in float64, within rounding."""

import inspect
import math

import numpy as np
import pytest

import gradstep as gs
from cases import CASES, case_id

STEPS = 30


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_equals_torch_in_float64(case):
    torch = pytest.importorskip("torch", reason="torch is in the group oracles")
    rule, options = case
    if not hasattr(torch.optim, rule) or set(options) & {*gs.rule.RULES[rule].switches}:
        pytest.skip(f"torch has no {rule}, or not so")
    rng = np.random.default_rng(3)
    ours = [rng.standard_normal(shape) for shape in [(7,), (4, 5), ()]]
    theirs = [torch.tensor(p, requires_grad=True) for p in ours]
    opt = getattr(gs, rule)(ours, **options)
    oracle = getattr(torch.optim, rule)(theirs, **{"lr": opt.groups[0]["lr"], **options})
    for k in range(STEPS):
        # The last parameter has no gradient now and then: each has its own count of updates.
        gradients = [rng.standard_normal(p.shape) for p in ours]
        if k % 3 == 1:
            gradients[-1] = None
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        opt.step([None if g is None else np.asarray(g) for g in gradients])
        oracle.step()
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-10, atol=1e-12)
        state = oracle.state[q]
        for name, array in opt.state[str(i)].items():
            if name == "step":
                if "step" in state:  # torch's SGD does not count
                    assert array == state["step"]
            else:
                np.testing.assert_allclose(array, state[name].numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", gs._core.rules())
def test_torch_signature(rule):
    """PyTorch's argument names, order of the first ones, and defaults."""
    torch = pytest.importorskip("torch", reason="torch is in the group oracles")
    if not hasattr(torch.optim, rule):
        pytest.skip(f"torch has no {rule}")
    ours = inspect.signature(getattr(gs, rule)).parameters
    theirs = inspect.signature(getattr(torch.optim, rule)).parameters
    for name, parameter in ours.items():
        if name in ("shared", *gs.rule.RULES[rule].switches):  # what we add
            continue
        if name not in theirs and rule == "Muon":
            assert name in ("dtype", "splits", "transposed", "maximize")
            assert parameter.kind is parameter.KEYWORD_ONLY
            continue
        assert name in theirs, name
        if name != "params":
            assert parameter.default == theirs[name].default, name


SHAPES = [(7,), (4, 5), (3, 2, 2)]

# What optax calls the hyperparameters of the rules that torch lacks.
OPTAX = {
    "LARS": {},
    "LAMB": {"betas": ("b1", "b2")},
    "Lion": {"betas": ("b1", "b2")},
}


def in_optax(rule, group):
    """The same hyperparameters by optax's names."""
    named = {}
    for key in gs.rule.RULES[rule].defaults:
        if key in ("lr", "maximize", "frozen", *gs.rule.RULES[rule].switches):
            continue
        name = OPTAX[rule].get(key, key)
        named |= dict(zip(name, group[key], strict=True)) if isinstance(name, tuple) else {}
        named |= {} if isinstance(name, tuple) else {name: group[key]}
    return named


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in OPTAX], ids=case_id)
def test_equals_optax_in_float64(case):
    optax = pytest.importorskip("optax", reason="optax is in the group oracles")
    jax = pytest.importorskip("jax")
    rule, options = case
    if options.get("maximize") or set(options) & {*gs.rule.RULES[rule].switches}:
        pytest.skip("optax goes down, and has no switches")
    rng = np.random.default_rng(3)
    ours = [rng.standard_normal(shape) for shape in SHAPES]
    opt = getattr(gs, rule)(ours, **options)
    exact = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with exact(True):
        theirs = [jax.numpy.array(p) for p in ours]
        group = opt.groups[0]
        oracle = getattr(optax, rule.lower())(group["lr"], **in_optax(rule, group))
        state = oracle.init(theirs)
        for _ in range(STEPS):
            gradients = [rng.standard_normal(p.shape) for p in ours]
            opt.step(gradients)
            updates, state = oracle.update([jax.numpy.array(g) for g in gradients], state, theirs)
            theirs = optax.apply_updates(theirs, updates)
        for p, q in zip(ours, theirs, strict=True):
            assert q.dtype == np.float64
            np.testing.assert_allclose(p, np.asarray(q), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0].startswith("ScheduleFree")], ids=case_id
)
def test_equals_the_authors_schedule_free_in_float64(case):
    torch = pytest.importorskip("torch", reason="torch is in the group oracles")
    schedulefree = pytest.importorskip("schedulefree")
    rule, options = case
    if options.get("maximize"):
        pytest.skip("schedulefree goes down")
    rng = np.random.default_rng(3)
    ours = [rng.standard_normal(shape) for shape in SHAPES]
    theirs = [torch.tensor(p, requires_grad=True) for p in ours]
    opt = getattr(gs, rule)(ours, **options)
    named = {key: opt.groups[0][key] for key in gs.rule.RULES[rule].defaults}
    del named["maximize"]
    named.pop("frozen", None)
    made = {"ScheduleFreeAdamW": "AdamWScheduleFree", "ScheduleFreeSGD": "SGDScheduleFree"}
    oracle = getattr(schedulefree, made[rule])(theirs, **named)
    oracle.train()
    for _ in range(STEPS):
        gradients = [rng.standard_normal(p.shape) for p in ours]
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = torch.tensor(g)
        opt.step(gradients)
        oracle.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-10, atol=1e-12)
    oracle.eval()
    with opt.averaged():
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-10, atol=1e-12)


# What optax calls the rules without a rate to choose, and their hyperparameters.
WITHOUT_RATE = {
    "DoG": lambda optax, lr, reps_rel, **same: optax.contrib.dog(
        lr, init_step=("heuristic", reps_rel), **same
    ),
    "DoWG": lambda optax, lr, **same: optax.contrib.dowg(lr, **same),
    "DAdaptAdamW": lambda optax, lr, **same: optax.contrib.dadapt_adamw(lr, **same),
    "PolyakSGD": lambda optax, lr, positive, **same: optax.polyak_sgd(
        scaling=lr, variant="sps+" if positive else "sps", **same
    ),
}


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in WITHOUT_RATE], ids=case_id)
def test_equals_optax_without_a_rate_in_float64(case):
    """Over all tensors together; the problem is one in which steps come to something."""
    optax = pytest.importorskip("optax", reason="optax is in the group oracles")
    jax = pytest.importorskip("jax")
    rule, options = case
    if options.get("maximize"):
        pytest.skip("optax goes down")
    rng = np.random.default_rng(3)
    ours, targets = ([rng.standard_normal(shape) for shape in SHAPES] for _ in range(2))
    opt = getattr(gs, rule)(ours, **options)
    named = {key: opt.groups[0][key] for key in gs.rule.RULES[rule].defaults}
    del named["maximize"], named["frozen"]
    exact = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with exact(True):
        theirs = [jax.numpy.array(p) for p in ours]
        oracle = WITHOUT_RATE[rule](optax, **named)
        state = oracle.init(theirs)
        for _ in range(4 * STEPS):
            noise = [0.1 * rng.standard_normal(p.shape) for p in ours]
            gradients = [p - q + e for p, q, e in zip(ours, targets, noise, strict=True)]
            loss = 1 + 0.5 * sum(((p - q) ** 2).sum() for p, q in zip(ours, targets, strict=True))
            opt.step(gradients, **({"loss": loss} if rule == "PolyakSGD" else {}))
            more = {"value": loss} if rule == "PolyakSGD" else {}
            given = [jax.numpy.array(g) for g in gradients]
            updates, state = oracle.update(given, state, theirs, **more)
            theirs = optax.apply_updates(theirs, updates)
        for p, q in zip(ours, theirs, strict=True):
            assert q.dtype == np.float64
            np.testing.assert_allclose(p, np.asarray(q), rtol=1e-9, atol=1e-11)


def prodigy_in_floats(params, gradients_of, steps, h):
    """The authors' algorithm over lists of Python floats, all parameters in one list."""
    beta1, beta2 = h["betas"]
    beta3 = math.sqrt(beta2) if h["beta3"] is None else h["beta3"]
    p, start = list(params), list(params)
    m, v, s = ([0.0] * len(p) for _ in range(3))
    d = d_max = h["d0"]
    numerator = 0.0
    for t in range(1, steps + 1):
        g = gradients_of(p)
        if not h["decouple"]:
            g = [a + h["weight_decay"] * b for a, b in zip(g, p, strict=True)]
        rate = d * h["lr"]
        if h["use_bias_correction"]:
            rate *= math.sqrt(1 - beta2**t) / (1 - beta1**t)
        ratio = d / h["d0"]
        m = [beta1 * a + d * (1 - beta1) * b for a, b in zip(m, g, strict=True)]
        v = [beta2 * a + d * d * (1 - beta2) * b * b for a, b in zip(v, g, strict=True)]
        share = ratio * (d if h["safeguard_warmup"] else rate)
        s = [beta3 * a + share * b for a, b in zip(s, g, strict=True)]
        way = sum(b * (q - a) for a, b, q in zip(p, g, start, strict=True))
        numerator = beta3 * numerator + ratio * rate * way
        d_hat = h["d_coef"] * numerator / sum(map(abs, s))
        if d == h["d0"]:
            d = max(d, d_hat)
        d_max = max(d_max, d_hat)
        d = min(d_max, d * h["growth_rate"])
        if h["decouple"]:
            p = [a - h["weight_decay"] * rate * a for a in p]
        p = [a - rate * b / (math.sqrt(c) + d * h["eps"]) for a, b, c in zip(p, m, v, strict=True)]
    return p, d


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "Prodigy"], ids=case_id)
def test_equals_prodigy_in_plain_floats(case):
    """Written again from prodigyopt 1.1.2, against which the text below was held once by hand."""
    rule, options = case
    rng = np.random.default_rng(3)
    ours, targets = ([rng.standard_normal(shape) for shape in SHAPES] for _ in range(2))
    start = np.concatenate([p.ravel() for p in ours]).tolist()
    target = np.concatenate([q.ravel() for q in targets]).tolist()
    opt = getattr(gs, rule)(ours, **options)
    wanted, d = prodigy_in_floats(
        start, lambda p: [a - b for a, b in zip(p, target, strict=True)], 100, dict(opt.groups[0])
    )
    sign = -1 if options.get("maximize") else 1
    for _ in range(100):
        opt.step([sign * (p - q) for p, q in zip(ours, targets, strict=True)])
    got = np.concatenate([p.ravel() for p in ours])
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(opt.state["0"]["d"], d, rtol=1e-9)
    assert d > 100 * opt.groups[0]["d0"] or options  # it did grow
