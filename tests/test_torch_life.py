"""What is kept beside a parameter under PyTorch: the clock, averages, copies, whatever drives."""

import copy
import gc
import io
import pickle
import re
import signal
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")
gt = pytest.importorskip("gradstep.torch")

import gradstep as gs  # noqa: E402
from cases import DRIVEN, RULES  # noqa: E402

AVERAGING = [rule for rule in RULES if not gs.rule.RULES[rule].shows]


def parameter(*values, dtype=torch.float32):
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def through_a_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def give(*params):
    for param in params:
        param.grad = torch.ones_like(param)


# ---- the clock ----

RESUMED = ["no", "state dict", "file", "pickle", "deepcopy"]


def resumed(how, opt, build):
    """The optimizer as it goes on, and its parameters."""
    if how in ("pickle", "deepcopy"):
        other = pickle.loads(pickle.dumps(opt)) if how == "pickle" else copy.deepcopy(opt)
        return other, [p for group in other.param_groups for p in group["params"]]
    params = [p for group in opt.param_groups for p in group["params"]]
    if how == "no":
        return opt, params
    saved = opt.state_dict()
    fresh = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = build(fresh)
    other.load_state_dict(through_a_file(saved) if how == "file" else saved)
    return other, fresh


class Linear:
    """A schedule that pickles, as a function of one's own."""

    def __call__(self, k):
        return 1.0 - k / 40


@pytest.mark.parametrize("how", RESUMED)
@pytest.mark.parametrize("rule", DRIVEN)
def test_parameters_that_train_in_turns_share_one_clock(rule, how):
    def build(params):
        return getattr(gt, rule)(params, lr=Linear())

    params = [parameter(0.0, 1.0), parameter(2.0, 3.0)]
    opt = build(params)
    for k in range(20):
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if (k < 10) == (i == 0) else None
        opt.step()
        if k == 14:
            opt, params = resumed(how, opt, build)
    assert opt.report.t == 20
    assert opt.report.lr == Linear()(19)
    assert {s["step"].item() for s in opt.state.values()} == {10}


def test_the_clock_survives_what_is_taken_out():
    a, b = parameter(1.0), parameter(2.0)
    opt = gt.AdamW([{"params": [a]}, {"params": [b]}], lr=Linear())
    for _ in range(3):
        give(a, b)
        opt.step()
    opt.state.clear()
    give(a, b)
    opt.step()
    assert (opt.report.t, opt.report.lr[0]) == (4, Linear()(3))
    opt.param_groups[:] = [{**opt.param_groups[1]}]
    give(b)
    opt.step()
    assert opt.report.t == 5
    del opt.state[b]
    give(b)
    opt.step()
    assert opt.report.t == 6


@pytest.mark.parametrize("rule", [rule for rule in DRIVEN if not gs.rule.RULES[rule].common])
def test_a_clock_that_goes_round(rule):
    """An engine steps a part of the parameters per call, as DeepSpeed's sub-groups are."""
    params = [parameter(float(i), 1.0) for i in range(3)]
    opt = getattr(gt, rule)(params, lr=Linear(), clock="round")
    rates = []
    for call in range(12):
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if call % 3 == i else None
        opt.step()
        rates.append(opt.report.lr)
    assert rates == [Linear()(call // 3) for call in range(12)]
    assert opt.report.t == 4
    with pytest.raises(ValueError, match=r"^clock: got 'turn', wanted 'call' or 'round'"):
        getattr(gt, rule)(params, clock="turn")


@pytest.mark.parametrize("rule", DRIVEN)
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}])
def test_a_backward_pass_is_one_step(rule, options):
    params = [parameter(1.0), parameter(2.0), parameter(3.0)]
    opt = getattr(gt, rule)(params, lr=Linear(), **options)
    gt.step_in_backward(opt)
    for k in range(4):
        sum((p * p).sum() for p in params[: 2 + k % 2]).backward()
        assert (opt.report.t, opt.report.lr) == (k + 1, Linear()(k))


# ---- what drives ----


@pytest.mark.parametrize("how", RESUMED)
@pytest.mark.parametrize("where", ["lr", "betas", "stage"])
def test_what_a_plateau_has_seen_is_saved(where, how):
    def build(params):
        plateau = gs.schedules.Plateau(0.1, gamma=0.5, patience=0)
        plateaus.append(plateau)
        options = {
            "lr": {"lr": plateau},
            "betas": {"betas": (plateau, 0.9)},
            "stage": {"clip_norm": plateau},
        }[where]
        return gt.AdamW(params, **options)

    plateaus = []
    opt = build([parameter(1.0)])
    params = [p for group in opt.param_groups for p in group["params"]]
    for _ in range(4):
        give(*params)
        opt.step()
        plateaus[0].observe(1.0)
    wanted = plateaus[0](4)
    assert wanted == 0.1 * 0.5**3
    opt, params = resumed(how, opt, build)
    give(*params)
    opt.step()
    if where == "lr":
        assert opt.report.lr == wanted
    elif where == "betas":
        assert opt.param_groups[0]["betas"] == (wanted, 0.9)
    else:
        assert opt.stages["clip_norm"](4) == wanted


SCHEDULERS = torch.optim.lr_scheduler
CONSTANT = {
    "LambdaLR": lambda opt: SCHEDULERS.LambdaLR(opt, lambda _: 1.0),
    "MultiplicativeLR": lambda opt: SCHEDULERS.MultiplicativeLR(opt, lambda _: 1.0),
    "ConstantLR": lambda opt: SCHEDULERS.ConstantLR(opt, factor=1.0),
}
OTHER = {
    "LambdaLR": lambda opt: SCHEDULERS.LambdaLR(opt, lambda k: 1.0 / (k + 1)),
    "warm-up": lambda opt: SCHEDULERS.LambdaLR(opt, lambda k: k / 10),
    "StepLR": lambda opt: SCHEDULERS.StepLR(opt, 1, gamma=0.5),
    "CosineAnnealingLR": lambda opt: SCHEDULERS.CosineAnnealingLR(opt, 10),
    "OneCycleLR": lambda opt: SCHEDULERS.OneCycleLR(opt, 0.1, total_steps=10, cycle_momentum=False),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_our_schedule_under_a_scheduler_that_keeps_the_rate(name):
    schedule = gs.schedules.linear(1e-3, 1e-4, total=8).warmup(3)
    p = parameter(1.0)
    opt = gt.AdamW([p], lr=schedule)
    scheduler = CONSTANT[name](opt)
    for k in range(8):
        give(p)
        opt.step()
        scheduler.step()
        assert opt.report.lr == schedule(k)


@pytest.mark.parametrize("name", OTHER)
def test_two_schedules_at_once_are_refused(name):
    p = parameter(1.0)
    opt = gt.AdamW([p], lr=gs.schedules.linear(1e-3, 1e-4, total=8))
    scheduler = OTHER[name](opt)

    def train():
        for _ in range(3):
            give(p)
            opt.step()
            scheduler.step()

    with pytest.raises(ValueError, match=r"^param_groups\[0\] lr: got .* lr_scheduler"):
        train()


# ---- averages and copies ----


@pytest.mark.parametrize("kind", ["no gradient", "frozen", "none at first"])
@pytest.mark.parametrize("rule", AVERAGING)
def test_every_average_moves_at_every_step(rule, kind):
    a, b = parameter(0.0), parameter(0.0)
    opt = getattr(gt, rule)([a, b], lr=0.0, average=0.5)
    with torch.no_grad():
        a.fill_(4.0)  # as weights that are loaded after the optimizer was built
    for k in range(4):
        if kind == "frozen" and k:
            a.requires_grad_(False)
        a.grad = torch.zeros(1) if kind == "frozen" and k == 0 else None
        if kind == "none at first" and k == 2:
            a.grad = torch.zeros(1)
        b.grad = torch.zeros(1)
        opt.step()
        assert opt.state[a]["average"].item() == [4, 6, 7, 7.5][k]
        with torch.no_grad():
            a.fill_(8.0)


@pytest.mark.parametrize("rule", AVERAGING)
def test_a_skipped_step_begins_and_moves_no_average(rule):
    p = parameter(1.0, 1.0)
    opt = getattr(gt, rule)([p], lr=0.0, average=0.5, nonfinite="skip")
    p.grad = torch.full((2,), torch.inf)
    opt.step()
    assert opt.report.skipped
    with torch.no_grad():
        p.fill_(3.0)
    p.grad = torch.zeros(2)
    opt.step()
    assert opt.state[p]["average"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("split", [False, True])
def test_copies_follow(rule, split):
    """What is loaded and what is shown, also of parameters that no step changes."""
    dtype = torch.bfloat16 if split else torch.float32

    def build():
        params = [torch.nn.Parameter(torch.zeros(3, dtype=dtype)) for _ in range(2)]
        low = [torch.zeros(3, dtype=torch.float16) for _ in range(2)]
        options = {} if gs.rule.RULES[rule].shows else {"average": 0.5}
        opt = getattr(gt, rule)(params, lr=0.1, copy_to=low, split=split, **options)
        return params, low, opt

    params, low, opt = build()
    for p in params:
        p.data.fill_(0.5)
    opt.fill_copies()
    assert all((kept == 0.5).all() for kept in low)
    for _ in range(2):
        give(params[0])
        opt.step()
    before = [kept.clone() for kept in low]
    with opt.averaged():
        for kept, p in zip(low, params, strict=True):
            torch.testing.assert_close(kept.float(), p.detach().float(), rtol=0.01, atol=0.01)
    assert all(torch.equal(kept, old) for kept, old in zip(low, before, strict=True))
    again, low, other = build()
    for p, q in zip(again, params, strict=True):
        p.data.copy_(q)
    other.load_state_dict(opt.state_dict())
    for kept, p in zip(low, again, strict=True):
        assert torch.equal(kept, p.detach().half())


@pytest.mark.parametrize("rule", [rule for rule in RULES if gs.rule.RULES[rule].shows])
@pytest.mark.parametrize("strided", [False, True])
def test_the_point_to_evaluate_is_that_of_arrays(rule, strided):
    values = torch.linspace(-1, 1, 12).reshape(3, 4)
    p = torch.nn.Parameter(torch.stack([values, values])[0::2][0] if strided else values.clone())
    if strided:
        p = torch.nn.Parameter(torch.zeros(3, 8)[:, ::2].copy_(values))
    w = values.numpy().copy()
    given = {"lr": 0.1, **({"t0": 0.0} if rule == "ASGD" else {})}
    opt, own = getattr(gt, rule)([p], **given), getattr(gs, rule)(w, **given)
    for k in range(3):
        g = torch.full((3, 4), 0.5 + k)
        p.grad = g
        opt.step()
        own.step(g.numpy())
    before = p.detach().clone()
    with opt.averaged(), own.averaged():
        assert p.detach().numpy().tolist() == w.tolist()
        assert not torch.equal(p, before)
    assert torch.equal(p, before)


# ---- all or nothing ----


class Hit(BaseException):
    pass


@pytest.mark.parametrize("method", ["load_state_dict", "add_param_group"])
def test_an_interrupt_at_the_end_of_no_grad_keeps_gradients(monkeypatch, method):
    """It is Python code: a signal may come before it has set them back."""
    params = [torch.nn.Parameter(torch.ones(10)) for _ in range(2)]
    opt = gt.Adagrad(params[:1])  # it makes its states as a group comes
    if method == "load_state_dict":
        opt = gt.Adagrad(params, copy_to=[torch.zeros(10), torch.zeros(10)])
    given = {"load_state_dict": opt.state_dict(), "add_param_group": {"params": params[1:]}}

    def interrupted(self, *args):
        raise Hit

    with monkeypatch.context() as patch:
        patch.setattr(torch.no_grad, "__exit__", interrupted)
        with pytest.raises(Hit):
            getattr(opt, method)(given[method])
    enabled = torch.is_grad_enabled()
    torch.set_grad_enabled(True)  # or the tests that follow would fail with this one
    assert enabled


def test_an_interrupted_load_is_whole_or_nothing():
    params = [torch.nn.Parameter(torch.ones(50_000)) for _ in range(40)]
    low = [torch.zeros(50_000, dtype=torch.float16) for _ in params]
    opt = gt.Adam(params, lr=gs.schedules.Plateau(0.1), copy_to=low)
    saved = []
    for _ in range(2):
        give(*params)
        opt.step()
        saved.append(opt.state_dict())

    within = [False]

    def hit(*_):
        if within[0]:  # once per load: the timer does not repeat
            raise Hit

    old = signal.signal(signal.SIGALRM, hit)
    try:
        for i in range(60):
            opt.load_state_dict(saved[1])
            try:
                within[0] = True
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + 5e-4 * i)
                opt.load_state_dict(saved[0])
                within[0] = False
            except Hit:
                within[0] = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert torch.is_grad_enabled()
            counts = {entry["step"].item() for entry in opt.state.values()}
            assert counts == {opt.engine.t}
            wanted = saved[int(opt.engine.t) - 1]["state"]
            for j, p in enumerate(params):
                assert torch.equal(opt.state[p]["exp_avg"], wanted[j]["exp_avg"])
    finally:
        signal.signal(signal.SIGALRM, old)
        torch.set_grad_enabled(True)  # or the tests that follow would fail with this one


@pytest.mark.parametrize("bad", ["lr", "betas[0]", "stage"])
def test_a_bad_state_of_what_drives_loads_nothing(bad):
    """Whichever of several is bad, the others keep what they have seen."""
    plateaus = [gs.schedules.Plateau(0.1, gamma=0.5, patience=0) for _ in range(3)]
    lr, beta, clip = plateaus
    p = parameter(1.0, 2.0)
    opt = gt.AdamW([p], lr=lr, betas=(beta, 0.9), clip_norm=clip)
    saved = []
    for _ in range(3):
        give(p)
        opt.step()
        saved.append(through_a_file(opt.state_dict()))
        for plateau in plateaus:
            plateau.observe(1.0)
    before = through_a_file(opt.state_dict())
    group = saved[0]["param_groups"][0]
    if bad == "stage":
        group["stages"]["clip_norm"] = {"bad": 1}
    else:
        group["drivers"][bad] = {"bad": 1}
    place = "['stages']['clip_norm']" if bad == "stage" else f"['drivers']['{bad}']"
    with pytest.raises(ValueError, match=re.escape(f"state_dict['param_groups'][0]{place}: ")):
        opt.load_state_dict(saved[0])
    after = opt.state_dict()
    for kind in ("drivers", "stages"):
        assert after["param_groups"][0][kind] == before["param_groups"][0][kind]
    torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)


@pytest.mark.parametrize("how", RESUMED)
def test_what_a_sample_keeps_is_saved(how):
    def build(params):
        return gt.SGD(params, lr=0.1, stats="sample")

    def stepped(opt, params, k):
        params[0].grad = torch.sin(torch.arange(3.0) + k)
        opt.step()
        return opt.report.to_dict()

    alone = build([parameter(1.0, 2.0, 3.0)])
    reports = [stepped(alone, [alone.param_groups[0]["params"][0]], k) for k in range(4)]
    opt = build([parameter(1.0, 2.0, 3.0)])
    params = opt.param_groups[0]["params"]
    for k in range(2):
        stepped(opt, params, k)
    opt, params = resumed(how, opt, build)
    for k in range(2, 4):
        assert stepped(opt, params, k) == reports[k]


# ---- what is legal with PyTorch ----


# What PyTorch takes as it comes, also where it has no meaning: a negative number raised to 3/4.
UNCHECKED = {("Rprop", "step_sizes"), ("ASGD", "lambd"), ("ASGD", "alpha"), ("ASGD", "t0")}


@pytest.mark.parametrize("rule", [rule for rule in RULES if hasattr(torch.optim, rule)])
def test_ranges_are_those_of_pytorchs_class(rule):
    """Each number, one at a time: refused by both, or by none."""
    numbers = [-1.0, -1e-3, 0.0, 0.5, 1.0, 1.5]
    for key, default in gs.rule.RULES[rule].defaults.items():
        if key not in gs.rule.RULES[rule].ranges or (rule, key) in UNCHECKED:
            continue
        values = [(x, 0.5) for x in numbers] if isinstance(default, tuple) else numbers
        for value in values:
            said = []
            for module in (torch.optim, gt):
                options = {"momentum": 0.5} if key == "dampening" else {}
                try:
                    getattr(module, rule)([parameter(1.0)], **options, **{key: value})
                    said.append("taken")
                except ValueError:
                    said.append("refused")
            assert said[0] == said[1], (key, value)


@pytest.mark.parametrize("rule", RULES)
def test_states_are_shared_with_other_processes(rule):
    p = torch.zeros(3).share_memory_().requires_grad_()
    opt = getattr(gt, rule)([p], lr=0.1)
    give(p)
    opt.step()
    opt.share_memory()
    assert all(value.is_shared() for value in opt.state[p].values())
    give(p)
    opt.step()
    assert opt.state[p]["step"] == 2


@pytest.mark.parametrize("rule", DRIVEN)
def test_numpys_numbers_are_saved_as_pythons(rule):
    p = parameter(1.0)
    opt = getattr(gt, rule)([p], lr=np.float64(0.1), weight_decay=np.float32(0.5))
    give(p)
    opt.step()
    opt.param_groups[0]["lr"] = np.float64(0.2)
    saved = through_a_file(opt.state_dict())
    assert type(saved["param_groups"][0]["lr"]) is float
    assert saved["param_groups"][0]["lr"] == 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seen", [False, True])
def test_a_gradient_whose_memory_was_shrunk(dtype, seen):
    p = torch.ones(1000, dtype=dtype, requires_grad=True)
    opt = gt.SGD([p], lr=0.1)
    p.grad = torch.ones(1000, dtype=dtype)
    if seen:
        opt.step()
    before = p.detach().clone()
    p.grad.untyped_storage().resize_(8)
    with pytest.raises(ValueError, match=r"\.grad: got 8 bytes of memory, wanted the \d+ that"):
        opt.step()
    assert torch.equal(p, before)


def test_a_rate_that_a_scheduler_rounds_below_0():
    p = parameter(1.0)
    opt = gt.SGD([p], lr=0.1)
    scheduler = SCHEDULERS.LinearLR(opt, end_factor=0.0, total_iters=4)
    for _ in range(6):
        give(p)
        opt.step()
        scheduler.step()
    assert opt.report.lr == 0
    opt.param_groups[0]["lr"] = -1e-6
    with pytest.raises(ValueError, match=r"lr: got -1e-06, wanted a finite number ≥ 0"):
        opt.step()


# ---- a rule per group ----


@pytest.mark.parametrize("other", RULES)
def test_a_rule_per_group(other):
    """One clip norm, one report, one checkpoint; each group as its rule alone."""
    a, b = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    x, y = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    opt = gt.AdamW([{"params": [a]}, {"params": [b], "rule": other, "lr": 0.5}], lr=0.1)
    alone = [gt.AdamW([x], lr=0.1), getattr(gt, other)([y], lr=0.5)]
    if other != "AdamW":
        assert "amsgrad" not in opt.param_groups[1] or other == "Adam"
    for k in range(3):
        for p in (a, b, x, y):
            p.grad = torch.linspace(0.5, 1.0, 5) * (k + 1)
        opt.step()
        for one in alone:
            one.step()
        if k == 1:
            saved = through_a_file(opt.state_dict())
            opt = gt.AdamW([{"params": [a]}, {"params": [b], "rule": other, "lr": 0.3}], lr=0.2)
            opt.load_state_dict(saved)
    assert torch.equal(a, x)
    assert torch.equal(b, y)
    assert opt.report.lr == (0.1, 0.5)


def test_a_rule_per_group_refuses_what_its_rule_lacks():
    p = parameter(1.0)
    with pytest.raises(TypeError, match=r"^param_groups\[0\] momentum: got a hyperparameter that"):
        gt.AdamW([{"params": [p], "rule": "LAMB", "momentum": 0.5}])
    with pytest.raises(ValueError, match=r"^rule: got 'Nothing', wanted one of SGD, "):
        gt.AdamW([{"params": [p], "rule": "Nothing"}])


# ---- hyperparameters between steps: a step that finds the same objects does not look further ----


def skipped(opt):
    opt.found_inf = torch.tensor(1.0)
    opt.step()
    del opt.found_inf


def loaded(opt):
    saved = opt.state_dict()
    saved["param_groups"][0]["lr"] = 0.7
    opt.load_state_dict(saved)


RATES = [0.5, 0.25]  # the same two objects, over and over
CHANGES = {
    "another": [(lambda group, _: group.update(lr=0.3), 0.3)],
    "an equal one": [(lambda group, _: group.update(lr=float("0.5")), 0.5)],
    "back and forth": [(lambda group, _, i=i: group.update(lr=RATES[i % 2]), RATES[i % 2])
                       for i in range(5)],
    "a tensor, in place": [
        (lambda group, _: group.update(lr=torch.tensor(0.25)), 0.25),
        (lambda group, _: group["lr"].fill_(0.75), 0.75),
        (lambda group, _: group["lr"].fill_(0.125), 0.125),
    ],
    "while a step was skipped": [
        (lambda group, opt: (group.update(lr=RATES[1]), skipped(opt)), RATES[1]),
        (lambda group, opt: (group.update(lr=RATES[0]), skipped(opt),
                             group.update(lr=RATES[1])), RATES[1]),
        (lambda group, _: group.update(lr=RATES[0]), RATES[0]),
    ],
    "loaded": [(lambda _, opt: loaded(opt), 0.7)],
    "a schedule": [
        (lambda group, _: group.update(lr=lambda k: 1 / (k + 4)), 1 / 6),
        (lambda *_: None, 1 / 7),
        (lambda group, _: group.update(lr=RATES[0]), RATES[0]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_rate_is_seen(change, grouped):
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    for param in params:
        param.grad = torch.ones(3)
    given = [{"params": [param]} for param in params] if grouped else params
    opt = gt.SGD(given, lr=RATES[0])
    for _ in range(2):
        opt.step()
    for make, rate in CHANGES[change]:
        before = [param.clone() for param in params]
        make(opt.param_groups[0], opt)
        opt.step()
        opt_rate = opt.report.lr[0] if grouped else opt.report.lr
        assert opt_rate == pytest.approx(rate)
        torch.testing.assert_close(before[0] - params[0], torch.full((3,), rate))


def test_nothing_of_an_optimizer_outlives_it():
    """Also where a hyperparameter knows the optimizer: the collector sees all that is held."""

    class Rate:
        def __init__(self):
            self.opt = None

        def __call__(self, _):
            return 0.1

    rate = Rate()
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    opt = rate.opt = gt.SGD([param], lr=rate)
    opt.step()
    opt.step()
    gone = weakref.ref(opt)
    del opt, rate
    gc.collect()
    assert gone() is None
