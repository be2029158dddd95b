"""The switches of AdamW and Lion: what they choose, what they refuse, and what is saved of them."""

import copy
import re

import numpy as np
import pytest

import gradstep as gs
from cases import assert_same_bits

SWITCHES = ["cautious", "cautious_weight_decay"]


def gradient(k):
    return np.random.default_rng(k).standard_normal(700).astype(np.float32)


def run(steps, rule="AdamW", **options):
    p = gradient(99)
    opt = getattr(gs, rule)(p, lr=0.01, weight_decay=0.1, **options)
    for k in range(steps):
        opt.step(gradient(k))
    return p, opt


@pytest.mark.parametrize("rule", ["AdamW", "Lion"])
def test_each_switch_makes_another_run(rule):
    ends = {run(3, rule)[0].tobytes()}
    ends |= {run(3, rule, **{switch: True})[0].tobytes() for switch in SWITCHES}
    ends.add(run(3, rule, **dict.fromkeys(SWITCHES, True))[0].tobytes())
    assert len(ends) == 4


def test_only_elements_that_agree_move():
    p, opt = run(2, cautious=True)
    before, g = p.copy(), gradient(7)
    opt.groups[0]["weight_decay"] = 0
    opt.step(g)
    agree = opt.state["0"]["exp_avg"] * g > 0
    assert 0 < agree.sum() < p.size
    assert ((p != before) == agree).all()


def test_few_that_agree_go_a_thousand_times_as_far_at_most():
    """One of 3,000, a share below the least that counts; for Lion one more than agree counts."""
    g = np.zeros(3000)
    g[5] = 0.25
    for rule, factor in [("AdamW", 1000), ("Lion", 1500)]:
        plain, cautious = np.zeros(3000), np.zeros(3000)
        getattr(gs, rule)(plain, lr=0.5).step(g)
        getattr(gs, rule)(cautious, lr=0.5, cautious=True).step(g)
        np.testing.assert_allclose(cautious, factor * plain, rtol=1e-6)


def test_weights_decay_only_where_the_step_leads_to_zero():
    g = np.array([1.0, 1.0, -1.0, -1.0, 0.0])
    p = np.array([2.0, -2.0, 2.0, -2.0, 2.0])
    gs.Lion(p, lr=0.5, weight_decay=0.5, cautious_weight_decay=True).step(g)
    assert p.tolist() == [1.0, -2.5, 2.5, -1.0, 1.5]


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("value", [True, False])
def test_a_switch_cannot_be_changed(switch, value):
    p, opt = run(1, **{switch: value})
    before = p.copy()
    opt.groups[0][switch] = not value
    message = f"{switch}: got {not value}, but the group was built with {value}, wanted a new"
    with pytest.raises(ValueError, match=re.escape(message)):
        opt.step(gradient(1))
    assert_same_bits(p, before)
    opt.groups[0][switch] = value
    assert opt.step(gradient(1)).t == 2


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_is_true_or_false(switch):
    with pytest.raises(TypeError, match=f"{switch}: got 1, wanted True or False"):
        run(0, **{switch: 1})
    with pytest.raises(TypeError, match=f"{switch}: got a hyperparameter that Adam does not have"):
        gs.AdamW([{"params": np.ones(2), "rule": "Adam", switch: True}])


def test_state_dict():
    """One from before the switches came loads; another switch is refused, and nothing changes."""
    _, opt = run(2, cautious=True)
    saved = opt.state_dict()
    assert saved["groups"][0]["cautious"] is True
    _, other = run(1, cautious=True)
    q, plain = run(1)
    before = q.copy()
    with pytest.raises(ValueError, match="cautious: got True, but the group was built with False"):
        plain.load_state_dict(saved)
    assert_same_bits(q, before)
    assert plain.t == 1
    assert plain.groups[0]["cautious"] is False
    for switch in SWITCHES:
        del saved["groups"][0][switch]
    plain.load_state_dict(saved)
    assert (plain.t, plain.groups[0]["cautious"]) == (2, False)
    with pytest.raises(ValueError, match="cautious: got False, but the group was built with True"):
        other.load_state_dict(saved)
    assert (other.t, other.groups[0]["cautious"]) == (1, True)


def test_deepcopy_goes_on():
    p, opt = run(2, cautious=True, states="q8")
    other = copy.deepcopy(opt)
    opt.step(gradient(2))
    other.step(gradient(2))
    assert_same_bits(np.asarray(other.groups[0].params), p)


# ---- tensors ----


def tensors(torch, optimizer, steps=2, **options):
    p = torch.nn.Parameter(torch.from_numpy(gradient(99)))
    opt = optimizer([p], lr=0.01, weight_decay=0.1, **options)
    for k in range(steps):
        p.grad = torch.from_numpy(gradient(k))
        opt.step()
    return p, opt


@pytest.mark.parametrize("options", [{}, {"cautious": True}, {"cautious_weight_decay": True}])
def test_tensors_as_arrays(options):
    torch = pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")
    for rule in ("AdamW", "Lion"):
        p, _ = tensors(torch, getattr(gt, rule), **options)
        assert_same_bits(p.detach().numpy(), run(2, rule, **options)[0])


def test_checkpoints_of_pytorch():
    """Both ways, and with the same entries while the switches are off."""
    torch = pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")
    _, theirs = tensors(torch, torch.optim.AdamW)
    _, ours = tensors(torch, gt.AdamW)
    assert ours.state_dict()["param_groups"][0].keys() == (
        theirs.state_dict()["param_groups"][0].keys()
    )
    theirs.load_state_dict(ours.state_dict())
    _, opt = tensors(torch, gt.AdamW)
    opt.load_state_dict(theirs.state_dict())
    assert "cautious" not in opt.param_groups[0]
    opt.step()
    _, opt = tensors(torch, gt.AdamW, cautious=True)
    saved = opt.state_dict()
    assert saved["param_groups"][0]["cautious"] is True
    _, again = tensors(torch, gt.AdamW, cautious=True)
    again.load_state_dict(saved)
    again.step()


@pytest.mark.parametrize("rule", ["AdamW", "Lion"])
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("saved", [True, False])
def test_a_switch_of_tensors_is_not_loaded(rule, switch, saved):
    """What is off is missing in a checkpoint of tensors, and counts as off in both directions."""
    torch = pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")
    _, opt = tensors(torch, getattr(gt, rule), **{switch: saved})
    _, other = tensors(torch, getattr(gt, rule), steps=1, **{switch: not saved})
    message = f"{switch}: got {saved}, but the group was built with {not saved}, wanted a new"
    with pytest.raises(ValueError, match=re.escape(message)):
        other.load_state_dict(opt.state_dict())
    assert other.param_groups[0].get(switch, False) is not saved
    other.step()
    assert other.report.t == 2


def test_a_switch_of_tensors_cannot_be_changed():
    torch = pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")
    p, opt = tensors(torch, gt.AdamW)
    before = p.detach().clone()
    opt.param_groups[0]["cautious"] = True
    with pytest.raises(ValueError, match="cautious: got True, but the group was built with False"):
        opt.step()
    assert torch.equal(p, before)


def test_a_rule_per_group_of_tensors():
    """A group of another rule needs no switches, and what is saved of it loads."""
    torch = pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    def build():
        params = [torch.nn.Parameter(torch.ones(5)) for _ in range(2)]
        groups = [{"params": params[:1]}, {"params": params[1:], "rule": "SGD", "lr": 0.1}]
        opt = gt.AdamW(groups, cautious=True)
        for p in params:
            p.grad = torch.ones(5)
        opt.step()
        return opt

    opt = build()
    build().load_state_dict(opt.state_dict())
    assert opt.state_dict()["param_groups"][0]["cautious"] is True
