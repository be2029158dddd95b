"""A second oracle of the rules for large models: optax in float64, or the authors' formulas."""

import math

import numpy as np
import pytest

import gradstep as gs
from cases import CASES, case_id

STEPS = 30
SHAPES = [(7,), (4, 5), (3, 2, 2)]


def cases_of(*rules):
    return [case for case in CASES if case[0] in rules and not case[1].get("maximize")]


# ---- optax ----


def slow_beta(t, beta1, beta3, warmup):
    """The paper's formula."""
    if t >= warmup:
        return beta3
    share = t / warmup
    start, end = math.log(beta1), math.log(beta3)
    return math.exp(start * end / ((1 - share) * end + share * start))


def in_optax(optax, rule, group):
    """The rule as optax has it, with a decay where it has none."""
    lr, decay = group["lr"], group["weight_decay"]
    if rule == "SignSGD":
        mean = optax.ema(group["momentum"], debias=False)
        scale = optax.chain(mean, optax.scale_by_sign())
    elif rule == "ADOPT":
        b1, b2 = group["betas"]
        more = {key: group[key] for key in ["eps", "nesterov", "use_clipping"]}
        scale = optax.contrib.scale_by_adopt(b1=b1, b2=b2, **more)
    else:
        b1, b2, b3 = group["betas"]
        alpha, warmups = group["alpha"], (group["alpha_warmup"], group["beta3_warmup"])

        def alpha_at(count):
            return alpha * optax.numpy.minimum(1, (count + 1) / warmups[0]) if warmups[0] else alpha

        table = [slow_beta(t, b1, b3, warmups[1]) for t in range(1, STEPS + 1)]
        scale = optax.contrib.scale_by_ademamix(
            b1=b1, b2=b2, b3=lambda k: table[int(k)], alpha=alpha_at, eps=group["eps"]
        )
    return optax.chain(scale, optax.add_decayed_weights(decay), optax.scale_by_learning_rate(lr))


@pytest.mark.parametrize("case", cases_of("AdEMAMix", "ADOPT", "SignSGD"), ids=case_id)
def test_equals_optax_in_float64(case):
    optax = pytest.importorskip("optax", reason="optax is in the group oracles")
    jax = pytest.importorskip("jax")
    optax.numpy = jax.numpy
    rule, options = case
    if rule == "ADOPT" and options.get("weight_decay"):
        pytest.skip("optax has no decay, which the first update leaves out")
    rng = np.random.default_rng(3)
    ours = [rng.standard_normal(shape) for shape in SHAPES]
    opt = getattr(gs, rule)(ours, **options)
    exact = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with exact(True):
        theirs = [jax.numpy.array(p) for p in ours]
        oracle = in_optax(optax, rule, opt.groups[0])
        state = oracle.init(theirs)
        for _ in range(STEPS):
            gradients = [rng.standard_normal(p.shape) for p in ours]
            opt.step(gradients)
            updates, state = oracle.update([jax.numpy.array(g) for g in gradients], state, theirs)
            theirs = optax.apply_updates(theirs, updates)
        for p, q in zip(ours, theirs, strict=True):
            assert q.dtype == np.float64
            np.testing.assert_allclose(p, np.asarray(q), rtol=1e-10, atol=1e-12)


# ---- the authors' formulas, one number at a time ----


def adan(t, p, g, s, *, lr, betas, eps, weight_decay):
    """As sail-sg/Adan's adan.py writes it, one tensor at a time."""
    b1, b2, b3 = betas
    for i in range(len(p)):
        diff = 0.0 if t == 1 else g[i] - s["before"][i]
        s["m"][i] += (1 - b1) * (g[i] - s["m"][i])
        s["d"][i] += (1 - b2) * (diff - s["d"][i])
        s["n"][i] += (1 - b3) * ((g[i] + b2 * diff) ** 2 - s["n"][i])
        denom = math.sqrt(s["n"][i]) / math.sqrt(1 - b3**t) + eps
        p[i] -= lr / (1 - b1**t) * s["m"][i] / denom
        p[i] -= lr * b2 / (1 - b2**t) * s["d"][i] / denom
        p[i] /= 1 + lr * weight_decay
        s["before"][i] = g[i]


def stable_adamw(t, p, g, s, *, lr, betas, weight_decay, eps):
    """As torch-optimi 0.3.3 writes it."""
    b1, b2 = ((b**t - b) / (b**t - 1) for b in betas)
    for i in range(len(p)):
        s["m"][i] += (1 - b1) * (g[i] - s["m"][i])
        s["n"][i] = b2 * s["n"][i] + (1 - b2) * g[i] ** 2
    rms = math.sqrt(sum(x * x / max(v, eps**2) for x, v in zip(g, s["n"], strict=True)) / len(p))
    lr /= max(1, rms)
    for i in range(len(p)):
        p[i] *= 1 - lr * weight_decay
        p[i] -= lr * s["m"][i] / (math.sqrt(s["n"][i]) + eps)


def adopt(t, p, g, s, *, lr, betas, eps, weight_decay, nesterov, use_clipping):
    """As the authors' adopt.py writes it, with decouple=True."""
    b1, b2 = betas
    for i in range(len(p)):
        if t == 1:
            s["n"][i] = g[i] ** 2
            continue
        p[i] -= lr * weight_decay * p[i]
        u, limit = g[i] / max(math.sqrt(s["n"][i]), eps), (t - 1) ** 0.25
        if use_clipping:
            u = min(max(u, -limit), limit)
        s["m"][i] = b1 * s["m"][i] + (1 - b1) * u
        p[i] -= lr * (b1 * s["m"][i] + (1 - b1) * u if nesterov else s["m"][i])
        s["n"][i] = b2 * s["n"][i] + (1 - b2) * g[i] ** 2


def cautious_step(t, p, g, updates, *, scale, lr, weight_decay, cautious, cautious_weight_decay):
    """C-Optim's mask, which scale makes of their number, and the paper's decay."""
    masked = [u if u * x > 0 or not cautious else 0.0 for u, x in zip(updates, g, strict=True)]
    factor = scale(sum(u * x > 0 for u, x in zip(updates, g, strict=True))) if cautious else 1.0
    for i, u in enumerate(masked):
        decays = not cautious_weight_decay or u * p[i] >= 0
        p[i] -= lr * ((weight_decay * p[i] if decays else 0.0) + factor * u)


def adamw(t, p, g, s, *, betas, eps, amsgrad, **more):
    """c_adamw.py, with the decay of algorithm 2 of AdamW."""
    b1, b2 = betas
    for i in range(len(p)):
        s["m"][i] = b1 * s["m"][i] + (1 - b1) * g[i]
        s["n"][i] = b2 * s["n"][i] + (1 - b2) * g[i] ** 2
        s["d"][i] = max(s["d"][i], s["n"][i]) if amsgrad else s["n"][i]
    updates = [
        m / (1 - b1**t) / (math.sqrt(v / (1 - b2**t)) + eps)
        for m, v in zip(s["m"], s["d"], strict=True)
    ]
    cautious_step(t, p, g, updates, scale=lambda n: 1 / max(n / len(p), 1e-3), **more)


def lion(t, p, g, s, *, betas, **more):
    """c_lion.py."""
    b1, b2 = betas
    signs = [b1 * m + (1 - b1) * x for m, x in zip(s["m"], g, strict=True)]
    updates = [(u > 0) - (u < 0) for u in signs]
    cautious_step(t, p, g, updates, scale=lambda n: len(p) / (n + 1), **more)
    for i in range(len(p)):
        s["m"][i] = b2 * s["m"][i] + (1 - b2) * g[i]


FORMULAS = {
    "Adan": adan, "StableAdamW": stable_adamw, "ADOPT": adopt, "AdamW": adamw, "Lion": lion,
}  # fmt: skip


@pytest.mark.parametrize("case", cases_of(*FORMULAS), ids=case_id)
def test_equals_the_authors_formula(case):
    rule, options = case
    rng = np.random.default_rng(3)
    ours = [rng.standard_normal(shape) for shape in SHAPES]
    theirs = [p.reshape(-1).tolist() for p in ours]
    states = [{key: [0.0] * p.size for key in ["m", "d", "n", "before"]} for p in ours]
    opt = getattr(gs, rule)(ours, **options)
    hyper = {k: v for k, v in opt.groups[0].items() if k not in ("maximize", "frozen")}
    for t in range(1, STEPS + 1):
        # Now and then far larger than they used to be.
        gradients = [rng.standard_normal(p.shape) * (10 if t % 7 == 0 else 1) for p in ours]
        opt.step(gradients)
        for p, g, state in zip(theirs, gradients, states, strict=True):
            FORMULAS[rule](t, p, g.reshape(-1).tolist(), state, **hyper)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.reshape(-1), q, rtol=1e-10, atol=1e-12)
