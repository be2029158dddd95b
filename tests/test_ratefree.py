"""Rules that look at all tensors together, and those that take the loss: their life."""

import copy
import re

import numpy as np
import pytest

import cases
import gradstep as gs
import reference
from cases import EVERY, RULES, assert_same_bits
from gradstep.rule import RULES as KNOWN

TOGETHER = [rule for rule in RULES if KNOWN[rule].common]
TAKING = [rule for rule in EVERY if KNOWN[rule].takes_loss]
OTHER = {"lr": 0.5, "betas": (0.5, 0.5), "beta3": 0.5, "eps": 0.5, "d0": 0.5, "d_coef": 0.5,
         "growth_rate": 2.0, "reps_rel": 0.5, "init_estim_sq_dist": 0.5, "estim_lr0": 0.5,
         "use_bias_correction": True, "safeguard_warmup": True}  # fmt: skip


def arrays(n, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(700 + i).astype(np.float32) for i in range(n)]


def numbers(opt, rule):
    """The rule's memory in each of its tensors."""
    return [[float(own[k][0]) for k in KNOWN[rule].memory_names] for own in opt.state.values()]


@pytest.mark.parametrize("rule", TOGETHER)
def test_its_numbers_are_the_same_in_all_tensors(rule):
    """In those without a gradient, too, in frozen ones, and from the first step on in new ones."""
    params = arrays(4)
    groups = [{"params": params[:2]}, {"params": params[2:3], "frozen": True}]
    opt = getattr(gs, rule)(groups)
    before = params[2].copy()
    for k in range(3):
        g = arrays(4, seed=k + 1)
        opt.step([[g[0], g[1] if k == 1 else None], [g[2]]])
        found = numbers(opt, rule)
        assert all(one == found[0] for one in found)
        assert any(found[0])
    opt.add_group({"params": params[3:]})
    assert not any(numbers(opt, rule)[3])
    last = numbers(opt, rule)[0]
    opt.step([[None, None], [None], [arrays(4, seed=9)[3]]])
    found = numbers(opt, rule)
    assert all(one == found[0] for one in found)
    assert found[0] != last
    if "k" in KNOWN[rule].memory_names:
        assert found[0][-1] == 4
    assert_same_bits(params[2], before)
    steps = [own["step"] for own in opt.state.values()]
    assert steps == [3, 1, 0, 1]


@pytest.mark.parametrize("rule", TOGETHER)
def test_one_tensor_in_two_is_the_same_training(rule):
    """What it decides by is all that it steps."""
    whole, parts = np.concatenate(arrays(2)).astype(float), [a.astype(float) for a in arrays(2)]
    one, two = getattr(gs, rule)(whole), getattr(gs, rule)(parts)
    for _ in range(5):
        one.step(whole - 1)
        two.step([p - 1 for p in parts])
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-9)


@pytest.mark.parametrize("rule", TOGETHER)
def test_a_skipped_step_changes_nothing(rule):
    params = arrays(2)
    opt = getattr(gs, rule)(params, nonfinite="skip")
    opt.step(arrays(2, seed=1))
    before = copy.deepcopy((params, opt.state_dict()["state"]))
    bad = arrays(2, seed=2)
    bad[1][5] = np.nan
    assert opt.step(bad).skipped
    for p, q in zip(params, before[0], strict=True):
        assert_same_bits(p, q)
    for name, own in opt.state.items():
        assert all(np.array_equal(own[key], before[1][name][key]) for key in own)


@pytest.mark.parametrize("way", ["state dict", "file", "deepcopy"])
@pytest.mark.parametrize("rule", TOGETHER)
def test_it_goes_on(rule, way, tmp_path):
    whole, resumed = arrays(3), arrays(3)
    opt, again = getattr(gs, rule)(whole), getattr(gs, rule)(resumed)
    for k in range(6):
        if k == 3:
            if way == "deepcopy":
                again, resumed = copy.deepcopy((again, resumed))
            else:
                again.save(tmp_path / "opt")
                saved = again.state_dict()
                again = getattr(gs, rule)(resumed)
                if way == "file":
                    again.load(tmp_path / "opt")
                else:
                    again.load_state_dict(saved)
        g = arrays(3, seed=k + 1)
        opt.step([g[0], None, g[2]] if k % 2 else g)
        again.step([g[0], None, g[2]] if k % 2 else g)
    for p, q in zip(whole, resumed, strict=True):
        assert_same_bits(p, q)


CLASHES = [
    (rule, key)
    for rule in [*TOGETHER, *TAKING]
    for key in dict.fromkeys(name.partition("[")[0] for name in KNOWN[rule].common)
    if key in OTHER
]


@pytest.mark.parametrize("driven", [False, True], ids=["fixed", "driven"])
@pytest.mark.parametrize(("rule", "key"), CLASHES)
def test_groups_that_differ_are_refused(rule, key, driven):
    params = arrays(2)
    before = copy.deepcopy(params)
    value = OTHER[key]
    if driven and (isinstance(value, bool | tuple)):
        pytest.skip("no function gives it")
    given = (lambda _: value) if driven else value
    groups = [{"params": params[:1]}, {"params": params[1:], key: given}]
    shown = value[0] if isinstance(value, tuple) else float(value)
    message = f"groups[1] {key}" + ("[0]" if isinstance(value, tuple) else "")

    def build_and_step():
        g = arrays(2, seed=1)
        getattr(gs, rule)(groups).step([g[:1], g[1:]], **cases.given(rule))

    with pytest.raises(ValueError, match=re.escape(f"{message}: got {shown}, but groups[0] ")):
        build_and_step()
    for p, q in zip(params, before, strict=True):
        assert_same_bits(p, q)


def test_a_change_that_makes_groups_differ_is_refused_until_it_is_undone():
    params = arrays(2)
    opt = gs.Prodigy([{"params": params[:1]}, {"params": params[1:]}])
    g = arrays(2, seed=1)
    opt.step([g[:1], g[1:]])
    opt.groups[1]["lr"] = 0.5
    before = copy.deepcopy(params)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"groups\[1\] lr: got 0.5, .* or 0"):
            opt.step([g[:1], g[1:]])
    for p, q in zip(params, before, strict=True):
        assert_same_bits(p, q)
    opt.groups[1]["lr"] = 0.0
    opt.step([g[:1], g[1:]])
    assert_same_bits(params[1], before[1])
    assert not np.array_equal(params[0], before[0])


def test_prodigy_without_gradients_does_not_count():
    p = np.ones(3)
    opt = gs.Prodigy(p, weight_decay=0.1)
    opt.step(np.zeros(3))
    assert (p == 1).all()
    assert numbers(opt, "Prodigy") == [[0, 0, 0, 0]]


WITHOUT_EPSILON = {
    "DoWG": {"eps": 0.0, "init_estim_sq_dist": 1e-4},
    "DAdaptAdamW": {"eps": 1e-30},  # it has to have one, by which a sum begins as 0 / ε
}


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "eps": 0.0}], ids=["plain", "eps 0"])
@pytest.mark.parametrize("rest", [0, 5])
@pytest.mark.parametrize("rule", TOGETHER)
def test_a_step_at_rate_0_moves_nothing_and_is_not_counted(rule, rest, options):
    """The first one or a later one: in the end it is as if it had not been."""
    if "eps" in options:
        options = options | WITHOUT_EPSILON.get(rule, {"eps": 0.0})
    ours, twin = arrays(2), arrays(2)
    opt = getattr(gs, rule)(ours, lr=lambda k: float(k != rest), **options)
    group = dict(getattr(gs, rule)(arrays(2), **options).groups[0])
    states = [
        {name: kept.copy() for name, kept in own.items() if name != "step"}
        for own in getattr(gs, rule)(twin, **options).state.values()
    ]
    for k in range(8):
        g, before = arrays(2, seed=k), copy.deepcopy(ours)
        opt.step(g)
        known = [*zip(twin, g, states, [k + 1] * 2, strict=True)]
        reference.step_together(rule, known, group | {"lr": float(k != rest)})
        for p, q, old in zip(ours, twin, before, strict=True):
            assert np.isfinite(p).all()
            assert_same_bits(p, q)
            assert np.array_equal(p, old) == (k == rest)
    names = KNOWN[rule].memory_names
    assert numbers(opt, rule) == [[float(own[name][0]) for name in names] for own in states]
    if "k" in names:
        assert numbers(opt, rule)[0][names.index("k")] == 7


@pytest.mark.parametrize("rule", TOGETHER)
def test_a_group_of_rate_0_without_an_epsilon_stays(rule):
    options = WITHOUT_EPSILON.get(rule, {"eps": 0.0})
    params = arrays(2)
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.0, "weight_decay": 0.1}]
    opt = getattr(gs, rule)(groups, **options)
    for k in range(3):
        g = arrays(2, seed=k + 1)
        opt.step([g[:1], g[1:]])
    assert np.isfinite(params[0]).all()
    assert not np.array_equal(params[0], arrays(2)[0])
    assert_same_bits(params[1], arrays(2)[1])


@pytest.mark.parametrize("rule", [*TOGETHER, *TAKING])
def test_gradients_of_0_without_an_epsilon_move_nothing(rule):
    """And the step after them is one."""
    p = np.ones(3)
    opt = getattr(gs, rule)(p, **WITHOUT_EPSILON.get(rule, {"eps": 0.0}))
    opt.step(np.zeros(3), **cases.given(rule))
    assert (p == 1).all()
    opt.step(np.ones(3), **cases.given(rule))
    assert np.isfinite(p).all()
    assert (p < 1).all()


def test_d_adaptation_without_an_epsilon_is_refused():
    with pytest.raises(ValueError, match=r"eps: got 0.0, wanted a finite number > 0"):
        gs.DAdaptAdamW(np.ones(3), eps=0.0)


def test_a_distance_that_starts_from_an_epsilon_of_0_is_refused():
    message = "eps: got 0.0 with init_estim_sq_dist=None, which starts from it, wanted a finite"
    with pytest.raises(ValueError, match=re.escape(message)):
        gs.DoWG(np.ones(3), eps=0.0)
    gs.DoWG(np.ones(3), eps=0.0, init_estim_sq_dist=1.0)


def test_g2_over_v_of_a_scaled_moment_is_not_said():
    report = gs.Prodigy(np.ones(3), stats=True).step(np.ones(3))
    assert report.g2_over_v is None
    assert report.grad_norm is not None
    assert gs.DAdaptAdamW(np.ones(3), stats=True).step(np.ones(3)).g2_over_v is not None


@pytest.mark.parametrize("value", [0.5, float("inf")])
def test_a_growth_without_end_is_a_number(value, tmp_path):
    p = np.ones(3, np.float32)
    opt = gs.Prodigy(p, growth_rate=1 + value, beta3=None)
    opt.save(tmp_path / "opt")
    other = gs.Prodigy(p.copy(), growth_rate=3.0, beta3=0.5)
    other.load(tmp_path / "opt")
    assert other.groups[0]["growth_rate"] == 1 + value
    assert other.groups[0]["beta3"] is None


# ---- the loss ----


@pytest.mark.parametrize("rule", TAKING)
@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (None, ValueError, "loss: got nothing, wanted the loss that the gradients are of"),
        (float("nan"), ValueError, "loss: got nan, wanted a finite number"),
        (float("inf"), ValueError, "loss: got inf, wanted a finite number"),
        ("1", TypeError, "loss: got str, wanted a finite number"),
        (True, TypeError, "loss: got bool, wanted a finite number"),
    ],
)
def test_a_loss_that_is_none_is_refused(rule, loss, error, message):
    p = np.ones(3)
    opt = getattr(gs, rule)(p)
    with pytest.raises(error, match=re.escape(message)):
        opt.step(np.ones(3), loss=loss)
    assert (p == 1).all()
    assert opt.t == 0


@pytest.mark.parametrize("rule", TAKING)
def test_a_loss_that_is_not_finite_is_skipped_as_a_gradient_is(rule):
    p, g = np.ones(3), np.ones(3)
    opt = getattr(gs, rule)(p, nonfinite="skip")
    assert opt.step(g, loss=np.nan, zero_grads=True).skipped
    assert not g.any()
    assert (p == 1).all()
    assert not opt.step(np.ones(3), loss=np.float32(1)).skipped
    opt.stages["nonfinite"] = "raise"
    with pytest.raises(FloatingPointError, match="loss: got inf"):
        opt.step(np.ones(3), loss=np.inf)
    assert opt.t == 1


@pytest.mark.parametrize("rule", ["SGD", "Prodigy"])
def test_a_loss_that_no_rule_takes_is_refused(rule):
    p = np.ones(3)
    opt = getattr(gs, rule)(p)
    with pytest.raises(ValueError, match=f"loss: got 1.0, which {rule} does not use, wanted none"):
        opt.step(np.ones(3), loss=1.0)
    assert (p == 1).all()


def test_a_group_that_takes_the_loss_beside_one_that_does_not():
    a, b, alone = np.ones(3), np.ones(3), np.ones(3)
    opt = gs.SGD([{"params": a}, {"params": b, "rule": "PolyakSGD"}])
    opt.step([np.ones(3), np.ones(3)], loss=0.5)
    gs.PolyakSGD(alone).step(np.ones(3), loss=0.5)
    assert_same_bits(b, alone)
    assert (a == 1 - 0.001).all()


# ---- PyTorch ----


def tensors(seed=0):
    torch = pytest.importorskip("torch")
    return [torch.tensor(a, requires_grad=True) for a in arrays(3, seed)]


@pytest.mark.parametrize("rule", TOGETHER)
def test_tensors_step_as_arrays(rule):
    """Also where one gets its first gradient late, and a checkpoint comes between."""
    pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    ours, theirs = arrays(3), tensors()
    opt, other = getattr(gs, rule)(ours), getattr(gt, rule)(theirs)
    for k in range(5):
        if k == 3:
            saved = other.state_dict()
            other = getattr(gt, rule)(theirs)
            other.load_state_dict(saved)
        g = arrays(3, seed=k + 1)
        given = g if k > 1 else [g[0], None, g[2]]
        opt.step(given)
        for p, one in zip(theirs, given, strict=True):
            p.grad = None if one is None else p.new_tensor(one)
        other.step()
    for p, q in zip(ours, theirs, strict=True):
        assert_same_bits(q.detach().numpy(), p)
    names = KNOWN[rule].memory_names
    found = [[own[name].item() for name in names] for own in other.state.values()]
    assert found == numbers(opt, rule)


@pytest.mark.parametrize("rule", TOGETHER)
def test_a_step_in_the_backward_pass_comes_at_its_end(rule):
    pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    plain, hooked = tensors(), tensors()
    one, two = getattr(gt, rule)(plain), getattr(gt, rule)(hooked)
    gt.step_in_backward(two)
    for _ in range(3):
        sum(((p - 1) ** 2).sum() for p in hooked).backward()
        sum(((p - 1) ** 2).sum() for p in plain).backward()
        one.step()
        one.zero_grad()
    for p, q in zip(plain, hooked, strict=True):
        assert_same_bits(q.detach().numpy(), p.detach().numpy())


@pytest.mark.parametrize("rule", TAKING)
@pytest.mark.parametrize("beside", [False, True])
def test_no_step_in_the_backward_pass_by_the_loss(rule, beside):
    pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    params = tensors()
    if beside:
        opt = gt.SGD([{"params": params[:1]}, {"params": params[1:], "rule": rule}])
    else:
        opt = getattr(gt, rule)(params)
    with pytest.raises(ValueError, match=f"step_in_backward: got {rule}, which steps by the loss"):
        gt.step_in_backward(opt)
    sum(p.sum() for p in params).backward()  # no hook is left
    assert all(p.grad is not None for p in params)


@pytest.mark.parametrize("rule", [*TOGETHER, *TAKING])
@pytest.mark.parametrize("door", ["arrays", "tensors"])
def test_a_group_that_differs_is_not_added(rule, door):
    """Nor built, and the optimizer goes on without it."""
    if door == "tensors":
        pytest.importorskip("torch")
        module = pytest.importorskip("gradstep.torch")

        params, more = tensors(), tensors(seed=1)
        for p in params:
            p.grad = p.detach().clone()
    else:
        module, params, more = gs, arrays(2), arrays(2, seed=1)
    key = next(name for name in KNOWN[rule].common if name in OTHER)
    bad = {"params": more, key: OTHER[key]}
    at = "param_groups" if door == "tensors" else "groups"
    message = re.escape(f"{at}[1] {key}: got {OTHER[key]}, but {at}[0] {key} is ")
    with pytest.raises(ValueError, match=message):
        getattr(module, rule)([{"params": params}, bad])
    opt = getattr(module, rule)([{"params": params}])
    add = opt.add_param_group if door == "tensors" else opt.add_group
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            add(dict(bad))
    loss = cases.given(rule)
    if door == "tensors":
        opt.step(**loss)
        assert (len(opt.param_groups), opt.report.t) == (1, 1)
    else:
        assert opt.step([[p.copy() for p in params]], **loss).t == 1
    add({"params": more})


def test_checkpoints_of_tensors_whose_groups_differ_are_refused():
    pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    params = tensors()
    opt = gt.Prodigy([{"params": params[:1]}, {"params": params[1:]}])
    saved = opt.state_dict()
    saved["param_groups"][1]["lr"] = 0.5
    with pytest.raises(ValueError, match=r"state_dict\['param_groups'\]\[1\] lr: got 0.5, but"):
        opt.load_state_dict(saved)
    assert opt.param_groups[1]["lr"] == 1


def test_a_rate_that_was_assigned_is_that_of_a_group_that_comes():
    pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    opt = gt.Prodigy(tensors())
    opt.param_groups[0]["lr"] = 0.5
    with pytest.raises(ValueError, match=r"param_groups\[1\] lr: got 1.0, but"):
        opt.add_param_group({"params": tensors(seed=1)})
    opt.add_param_group({"params": tensors(seed=1), "lr": 0.5})


@pytest.mark.parametrize("rule", TOGETHER)
@pytest.mark.parametrize("option", [{"clock": "round"}, {"norm_group": "world"}])
def test_what_sees_a_part_of_the_parameters_is_refused(rule, option):
    pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    (name,) = option
    with pytest.raises(ValueError, match=f"{name}: got .* with {rule}, which looks at all"):
        getattr(gt, rule)(tensors(), **option)


@pytest.mark.parametrize("how", ["loss", "tensor", "closure"])
def test_tensors_take_the_loss(how):
    pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    ours, theirs = arrays(3), tensors()
    opt, other = gs.PolyakSGD(ours), gt.PolyakSGD(theirs)

    def closure():
        other.zero_grad()
        loss = sum(((p - 1) ** 2).sum() for p in theirs)
        loss.backward()
        return loss

    for _ in range(3):
        if how == "closure":
            loss = other.step(closure).item()
            opt.step([2 * (p - 1) for p in ours], loss=loss)
        else:
            loss = closure()
            opt.step([p.grad.numpy() for p in theirs], loss=loss.item())
            other.step(loss=loss if how == "tensor" else loss.item())
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(q.detach().numpy(), p, rtol=1e-6)
    with pytest.raises(ValueError, match="loss: got nothing"):
        other.step()
    with pytest.raises(TypeError, match="loss: got one besides a closure"):
        other.step(closure, loss=1.0)
    plain = gt.SGD(tensors())
    assert plain.step(lambda: 1.0) == 1.0
    with pytest.raises(ValueError, match=r"loss: got 1.0, which SGD does not use"):
        plain.step(loss=1.0)
