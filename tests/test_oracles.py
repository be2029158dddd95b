"""A second, independent oracle: PyTorch's own optimizers in float64, within rounding."""

import inspect

import numpy as np
import pytest

import gradstep as gs
from cases import CASES, case_id

STEPS = 30


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_equals_torch_in_float64(case):
    torch = pytest.importorskip("torch", reason="torch is in the oracles extra")
    rule, options = case
    if not hasattr(torch.optim, rule):
        pytest.skip(f"torch has no {rule}")
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
    torch = pytest.importorskip("torch", reason="torch is in the oracles extra")
    if not hasattr(torch.optim, rule):
        pytest.skip(f"torch has no {rule}")
    ours = inspect.signature(getattr(gs, rule)).parameters
    theirs = inspect.signature(getattr(torch.optim, rule)).parameters
    for name, parameter in ours.items():
        if name == "shared":  # what we add for every rule
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
        if key in ("lr", "maximize", "frozen"):
            continue
        name = OPTAX[rule].get(key, key)
        named |= dict(zip(name, group[key], strict=True)) if isinstance(name, tuple) else {}
        named |= {} if isinstance(name, tuple) else {name: group[key]}
    return named


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in OPTAX], ids=case_id)
def test_equals_optax_in_float64(case):
    optax = pytest.importorskip("optax", reason="optax is in the oracles extra")
    jax = pytest.importorskip("jax")
    rule, options = case
    if options.get("maximize"):
        pytest.skip("optax goes down")
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
    "case", [case for case in CASES if case[0] == "ScheduleFreeAdamW"], ids=case_id
)
def test_equals_the_authors_schedule_free_in_float64(case):
    torch = pytest.importorskip("torch", reason="torch is in the oracles extra")
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
    oracle = schedulefree.AdamWScheduleFree(theirs, **named)
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
