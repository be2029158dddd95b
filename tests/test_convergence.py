"""Every rule trains: a small network as the reference does, and down two valleys.

Its bits are `test_rules.py`'s; here a formula that is wrong in the same way in both would show.
"""

import numpy as np
import pytest

import convergence
import gradstep as gs

DIGITS = [rule for rule in gs.rule.RULES if rule in convergence.DIGITS]
VALLEYS = [rule for rule in gs.rule.RULES if rule in convergence.VALLEYS]
BESIDE = 0.01  # the most by which final losses may differ


def check(found, wanted):
    """The final losses are alike, and far below the first."""
    np.testing.assert_allclose(found[:, 0], wanted[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], wanted[:, 1], rtol=BESIDE)
    assert (found[:, 1] < convergence.LEARNED * found[:, 0]).all(), found


@pytest.mark.parametrize("rule", DIGITS)
def test_digits_are_learned_as_by_the_reference(rule):
    """Ours in float32, the reference mostly in float64, from the same weights and batches."""
    pytest.importorskip("sklearn")
    options = convergence.DIGITS[rule]
    check(convergence.ours(rule, options), convergence.reference_losses(rule, options))


@pytest.mark.slow
@pytest.mark.parametrize("rule", DIGITS)
def test_digits_are_learned_as_by_torch(rule):
    pytest.importorskip("sklearn")
    torch = pytest.importorskip("torch", reason="torch is in the group oracles")
    if not hasattr(torch.optim, rule):
        pytest.skip(f"torch has no {rule}")
    options = convergence.DIGITS[rule]
    check(convergence.ours(rule, options), convergence.torch_losses(rule, options))


@pytest.mark.parametrize("rule", VALLEYS)
def test_valleys_are_descended(rule):
    """From each start the value falls below the rule's bound for the function."""
    options, *bounds = convergence.VALLEYS[rule]
    before, after = convergence.descend(rule, options)
    for (name, values), bound in zip(after.items(), bounds, strict=True):
        assert (before[name] > bound).all(), f"{name}: the bound says nothing"
        assert (values < bound).all(), f"{name}: {values}, wanted below {bound}"


def test_gradients_are_those_of_the_losses():
    """By differences: the network's, and the two functions'."""
    rng = np.random.default_rng(0)
    for whole in (True, False):
        arrays = convergence.weights(np.float64, whole)
        x = np.concatenate([rng.random((5, 20, convergence.INPUTS)), np.ones((5, 20, 1))], axis=2)
        y = rng.integers(0, convergence.CLASSES, (5, 20))
        _, grads = convergence.loss_and_gradients(arrays, x, y)
        steps = [rng.standard_normal(g.shape) * 1e-6 for g in grads]
        ahead, behind = (
            convergence.loss_and_gradients(
                [a + sign * step for a, step in zip(arrays, steps, strict=True)], x, y
            )[0]
            for sign in (1, -1)
        )
        slopes = [(g * s).reshape(5, -1).sum(axis=1) for g, s in zip(grads, steps, strict=True)]
        np.testing.assert_allclose((ahead - behind) / 2, sum(slopes), rtol=1e-4, atol=1e-9)
    for function in convergence.FUNCTIONS.values():
        points = rng.standard_normal((5, 2))
        step = rng.standard_normal((5, 2)) * 1e-6
        difference = function(points + step)[0] - function(points - step)[0]
        slopes = (function(points)[1] * step).sum(axis=1)
        np.testing.assert_allclose(difference / 2, slopes, rtol=1e-6, atol=1e-12)
