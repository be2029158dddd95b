"""gradstep.torch in one process: the rules against torch's and against gradstep's own on arrays,
groups, hyperparameters and what drives them, stages, and what is refused.
"""

import copy
import importlib
import inspect
import sys
import time
import types
import unittest
import warnings

import ml_dtypes
import numpy as np
import pytest

import gradstep as gs
from cases import DRIVEN, EXACT, OPTIONS
from cases import EVERY as CATALOGUE
from cases import RULES as EVERY

torch = pytest.importorskip("torch")
import gradstep.torch as gt  # noqa: E402
from gradstep import optimizers  # noqa: E402
from gradstep.torch import classes  # noqa: E402

RULES = [rule for rule in EVERY if hasattr(torch.optim, rule)]  # where torch is the oracle
SCHEDULERS = torch.optim.lr_scheduler


@pytest.fixture(scope="module")
def optimizer_infos():
    """The inputs of torch's own tests of its optimizers."""
    given = {}
    if importlib.util.find_spec("expecttest") is None:  # whose one class they derive from
        given["expecttest"] = types.ModuleType("expecttest")
        given["expecttest"].TestCase = unittest.TestCase
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, module in given.items():
            patch.setitem(sys.modules, name, module)
        module = importlib.import_module("torch.testing._internal.common_optimizers")
    return {info.name: info for info in module.optim_db}


def parameters(dtype=torch.float32, shapes=((7, 5), (), (0, 3), (1,), (65, 3)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in shapes
    ]


def clones(params):
    return [torch.nn.Parameter(param.detach().clone()) for param in params]


def give_grads(k, *copies_of_params):
    """The same new gradients to each list of parameters."""
    for i, same in enumerate(zip(*copies_of_params, strict=True)):
        generator = torch.Generator().manual_seed(1000 * k + i)
        grad = torch.randn(same[0].shape, generator=generator, dtype=torch.float64)
        for param in same:
            param.grad = grad.to(param.dtype)


def assert_same(got, wanted):
    """Bits, layout aside."""
    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


# ---- against torch.optim ----


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("rule", RULES)
def test_inputs_of_torchs_own_tests(rule, optimizer_infos):
    """Every input, in float64, over steps in which some gradients are missing."""
    inputs = optimizer_infos[rule].optim_inputs_func(device="cpu")
    assert len(inputs) >= 5
    for given in inputs:
        assert given.params is None
        theirs = parameters(torch.float64)
        ours = clones(theirs)
        # A copy: a tensor lr is shared between both otherwise.
        wanted = getattr(torch.optim, rule)(theirs, **given.kwargs)
        opt = getattr(gt, rule)(ours, **given.kwargs)
        for k in range(8):
            give_grads(k, theirs, ours)
            if k % 3 == 1:
                theirs[k % 5].grad = ours[k % 5].grad = None
            for param in [*ours, *theirs]:
                if rule == "Adafactor" and not param.numel():  # torch's divides by their number
                    param.grad = None
            wanted.step()
            opt.step()
            for mine, its in zip(ours, theirs, strict=True):
                torch.testing.assert_close(mine, its, rtol=1e-13, atol=1e-14, msg=given.desc)
        for mine, its in zip(ours, theirs, strict=True):
            numbers = ("step", *gs.rule.RULES[rule].memory_names)
            for name, value in wanted.state[its].items():
                if value is not None:
                    got, exact = opt.state[mine][name], name not in numbers
                    torch.testing.assert_close(
                        got, value, rtol=1e-13, atol=1e-14, check_dtype=exact
                    )


@pytest.mark.parametrize("rule", RULES)
def test_errors_of_torchs_own_tests(rule, optimizer_infos):
    """What torch refuses, we refuse; but a beta may be a tensor beside a number.

    And a rate may be a tensor with foreach, which is no other way to step here.
    """
    errors = optimizer_infos[rule].optim_error_inputs_func(device="cpu", dtype=torch.float64)
    assert len(errors) >= 7
    for error in errors:
        given = error.optimizer_error_input
        if "both floats or both Tensors" in given.desc:
            continue
        if "Tensor is not supported for" in error.error_regex and given.kwargs.get("foreach"):
            continue
        if given.kwargs.get("eps") == (-1e-30, 1e-3):  # below 0 by no more than rounding
            continue
        params = parameters(torch.float64) if given.params is None else given.params
        with pytest.raises((TypeError, ValueError, UserWarning)):
            getattr(gt, rule)(params, **given.kwargs)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable", "differentiable"])
def test_how_torch_executes_is_refused_or_nothing(rule, flag):
    known = flag in inspect.signature(getattr(torch.optim, rule)).parameters
    allowed = [None, False, True] if flag in ("foreach", "fused") else [None, False]
    for value in allowed if known else ():
        opt = getattr(gt, rule)(parameters(), **{flag: value})
        assert opt.param_groups[0][flag] is value
    for value in [True, 2, "yes"][len(allowed) - 2 :]:
        with pytest.raises(
            (TypeError, ValueError), match=rf"{flag}'?(: got {value!r}, wanted None|, wanted)"
        ):
            getattr(gt, rule)(parameters(), **{flag: value})
        with pytest.raises(ValueError, match=rf"param_groups\[0\] {flag}: got {value!r}"):
            getattr(gt, rule)([{"params": parameters(), flag: value}])


@pytest.mark.parametrize("rule", RULES)
def test_signature_groups_and_defaults_are_torchs(rule):
    theirs, ours = getattr(torch.optim, rule), getattr(gt, rule)
    wanted = dict(inspect.signature(theirs.__init__).parameters)
    got = dict(inspect.signature(ours.__init__).parameters)
    assert list(got)[: len(wanted)] == list(wanted)
    for name, parameter in wanted.items():
        assert (got[name].kind, got[name].default) == (parameter.kind, parameter.default), name
    params = parameters()
    its, mine = theirs(params), ours(params)
    assert mine.defaults == its.defaults
    saved = mine.state_dict()["param_groups"]
    assert saved == its.state_dict()["param_groups"]
    assert isinstance(mine, torch.optim.Optimizer)
    assert isinstance(mine, gt.Optimizer)
    assert repr(mine).startswith(f"{rule} (\nParameter Group 0")


def test_positional_arguments():
    params = parameters()
    opt = gt.Adam(params, 0.5, (0.8, 0.9), 1e-3, 0.25, True)
    group = opt.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.8, 0.9), 1e-3)
    assert (group["weight_decay"], group["amsgrad"]) == (0.25, True)


def test_a_rule_of_the_catalogue_appears_by_itself():
    """Also one that torch has under another name or not at all."""
    assert set(classes.CLASSES) == set(CATALOGUE) <= set(gt.__all__)

    class Novel(optimizers.RMSprop):
        """A rule of tomorrow.

        Args:
            params: see :class:`Optimizer`.
        """

    made = classes._make(Novel)
    assert made.__name__ == "Novel"
    assert issubclass(made, gt.Optimizer)
    assert "A rule of tomorrow" in made.__doc__
    ours, theirs = parameters(), parameters()
    opt = made(ours, lr=0.1, centered=True, clip_norm=1.0, foreach=None)
    wanted = gt.RMSprop(theirs, lr=0.1, centered=True, clip_norm=1.0)
    for k in range(3):
        give_grads(k, ours, theirs)
        opt.step()
        wanted.step()
    for mine, its in zip(ours, theirs, strict=True):
        assert_same(mine, its)
    made(ours, fused=True)
    with pytest.raises(ValueError, match="fused: got 'yes'"):
        made(ours, fused="yes")
    with pytest.raises(TypeError, match=r"Novel: got an unexpected keyword argument 'rate'"):
        made(ours, rate=0.1)


# ---- against gradstep on arrays, to the bit ----


def as_array(tensor):
    """The tensor's own memory as an array."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


STORED = [
    (torch.float32, {}),
    (torch.float64, {}),
    (torch.bfloat16, {}),
    (torch.float16, {"rounding": {"params": "stochastic"}, "seed": 5}),
    (torch.bfloat16, {"split": True}),
    (torch.float32, {"states": "bfloat16"}),
    (torch.bfloat16, {"states": "bfloat16", "rounding": "stochastic", "seed": 3}),
    (torch.float32, {"states": "q8"}),
    (torch.float32, {"states": "q4", "seed": 7}),
    (torch.bfloat16, {"states": "q8", "split": True}),
]


def stated(rule, options, stored):
    """Whether the rule has the states that the storages are asked for."""
    known = gs.rule.RULES[rule]
    has = known.present({**known.defaults, **options})
    return has or not (stored.keys() & {"states"} or stored.get("rounding") == "stochastic")


@pytest.mark.parametrize(("dtype", "stored"), STORED, ids=str)
@pytest.mark.parametrize("rule", EVERY)
def test_same_bits_as_on_arrays(rule, dtype, stored):
    """Parameters, states, averages, copies and reports, all stages in use."""
    if rule in EXACT and stored.get("states") in ("q8", "q4"):
        with pytest.raises(ValueError, match=rf"^states: got {stored['states']!r} for "):
            getattr(gt, rule)(parameters(dtype), **stored)
        return
    options = next(o for o in reversed(OPTIONS[rule]) if stated(rule, o, stored))
    if stored.get("states") in ("q8", "q4") and "centered" in options:
        options = {**options, "centered": False}  # which such codes cannot hold
    stages = {"clip_norm": 3.0, "clip_value": 1.5, "nonfinite": "skip", "average": 0.9}
    if gs.rule.RULES[rule].shows:  # an average of its own
        del stages["average"]
    shapes = ((300, 3), (), (0, 3), (257,))
    params = parameters(dtype, shapes)
    arrays = [as_array(param).copy() for param in params]
    copies = [torch.zeros(param.shape, dtype=torch.float16) for param in params]
    array_copies = [np.zeros(array.shape, np.float16) for array in arrays]
    opt = getattr(gt, rule)(params, copy_to=copies, stats=True, **stages, **options, **stored)
    own = getattr(gs, rule)(arrays, copy_to=array_copies, stats=True, **stages, **options, **stored)
    for k in range(6):
        give_grads(k, params)
        if k == 2:
            params[0].grad[1, 1] = torch.inf
        opt.step()
        report = own.step([as_array(param.grad) for param in params])
        assert opt.report == report
        assert opt.report.skipped == (k == 2)
        assert opt.report.t == own.t
    for i, (param, array) in enumerate(zip(params, arrays, strict=True)):
        assert as_array(param).tobytes() == array.tobytes()
        assert copies[i].numpy().tobytes() == array_copies[i].tobytes()
        kept = own.state[str(i)]
        assert opt.state[param].keys() == kept.keys()
        for name, value in opt.state[param].items():
            assert (
                as_array(value).tobytes() == np.asarray(kept[name], as_array(value).dtype).tobytes()
            )


@pytest.mark.parametrize("rule", RULES)
def test_raises_for_what_is_not_finite(rule):
    params = parameters()
    before = clones(params)
    opt = getattr(gt, rule)(params, nonfinite="raise")
    give_grads(0, params)
    params[4].grad[3, 1] = torch.nan
    with pytest.raises(FloatingPointError, match=r"param_groups\[0\]\['params'\]\[4\]\.grad: got"):
        opt.step()
    for param, old in zip(params, before, strict=True):
        assert_same(param, old)
        assert opt.state[param]["step"] == 0
    opt.stages["nonfinite"] = "allow"
    opt.step()
    assert params[4].isnan().any()


def test_stages_are_changed_by_name():
    (param,) = parameters(shapes=((4,),))
    opt = gt.SGD([param], lr=1.0, clip_norm=lambda k: [2.0, 1.0][k])
    start = param.detach().clone()
    for limit in (2.0, 1.0):
        before = param.detach().clone()
        param.grad = torch.tensor([3.0, 0.0, 4.0, 0.0])
        opt.step()
        assert (before - param.detach()).norm().item() == pytest.approx(limit, rel=1e-6)
        assert opt.report.grad_norm == 5.0
    opt.stages["clip_norm"] = None
    param.data.copy_(start)
    opt.step()
    assert_same(param.detach(), start - param.grad)
    assert opt.report.grad_norm is None


def test_a_stages_schedule_counts_as_the_optimizer_does():
    """Each call is a step, also one without a gradient; a parameter counts its own."""
    asked = []
    (param,) = parameters(shapes=((4,),))
    opt = gt.SGD([param], lr=1.0, clip_norm=lambda k: asked.append(k) or 1.0)
    for k in range(4):
        param.grad = torch.ones(4) if k % 2 else None
        opt.step()
    assert asked == [0, 1, 2, 3]
    assert opt.state[param]["step"] == 2


def test_averaged():
    params = parameters(torch.bfloat16)
    opt = gt.AdamW(params, lr=0.1, average=0.5)
    for k in range(3):
        give_grads(k, params)
        opt.step()
    live = clones(params)
    with opt.averaged():
        for param in params:
            assert_same(param.detach(), opt.state[param]["average"].bfloat16())
        for asked in (opt.step, opt.state_dict, lambda: opt.load_state_dict({})):
            with pytest.raises(RuntimeError, match=r"asked for within averaged\(\)"):
                asked()
        with pytest.raises(RuntimeError, match="averaged: asked for within"), opt.averaged():
            pass
    with pytest.raises(KeyError), opt.averaged():
        raise KeyError
    for param, old in zip(params, live, strict=True):
        assert_same(param, old)
    assert not torch.equal(opt.state[params[0]]["average"].bfloat16(), params[0])
    plain = gt.SGD(params)
    with pytest.raises(RuntimeError, match="averaged: got SGD without"), plain.averaged():
        pass


@pytest.mark.parametrize("call", ["step", "averaged"])
def test_an_interrupt_leaves_the_optimizer_free(interrupted, call):
    """Wherever Ctrl-C falls: it is not at work afterwards, and parameters hold no averages."""
    params = parameters(shapes=((4,),) * 20)
    opt = gt.SGD(params, lr=1.0, average=0.5)
    give_grads(0, params)

    def look():
        with opt.averaged():
            pass

    def calls():
        end = time.monotonic() + 1
        while time.monotonic() < end:
            opt.step() if call == "step" else look()

    for delay in np.linspace(1e-4, 2e-3, 200):
        opt.step()
        live = clones(params)
        try:
            interrupted(delay, calls)
        finally:
            torch.set_grad_enabled(True)  # an interrupted no_grad() does not
        if call == "averaged":
            for param, old in zip(params, live, strict=True):
                assert_same(param, old)


# ---- groups and hyperparameters ----


def test_groups_have_their_own_values():
    """Each as an optimizer of its own would have it."""
    params = parameters(torch.float64)
    alone = clones(params)
    own = [{"lr": 0.1}, {"weight_decay": 0.5}, {"betas": (0.5, 0.6), "maximize": True}, {}, {}]
    groups = [{"params": p, **o} for p, o in zip(params, own, strict=True)]
    opt = gt.AdamW(groups[:3], lr=0.01)
    for group in groups[3:]:
        opt.add_param_group(group)
    singles = [gt.AdamW([p], **{"lr": 0.01, **o}) for p, o in zip(alone, own, strict=True)]
    for k in range(4):
        give_grads(k, params, alone)
        opt.step()
        for single in singles:
            single.step()
    for mine, its in zip(params, alone, strict=True):
        assert_same(mine, its)
    assert opt.report.lr == (0.1, 0.01, 0.01, 0.01, 0.01)


def test_added_groups_are_checked_and_refused_whole():
    params = parameters()
    opt = gt.Adagrad(params[:1])
    for wrong, message in [
        ({"params": params[1:2], "lr": -1.0}, r"param_groups\[1\] lr: got -1.0"),
        ({"params": params[1:2], "fused": 2}, r"param_groups\[1\] fused: got 2"),
        ({"params": params[:1]}, "more than one parameter group"),
        ({"params": [torch.nn.Parameter(params[0].data[2:])]}, r"got memory that it shares with"),
        ({"params": torch.zeros(3, dtype=torch.complex64)}, r"got torch.complex64"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            opt.add_param_group(wrong)
        assert len(opt.param_groups) == 1
    opt.add_param_group({"params": params[1:2], "lr": 0.5})
    give_grads(0, params)
    opt.step()
    assert opt.report.lr == (0.01, 0.5)
    assert len(opt.state) == 2
    copying = gt.SGD(params[:1], copy_to=[torch.zeros(7, 5)])
    with pytest.raises(ValueError, match="got a group for an optimizer with copy_to"):
        copying.add_param_group({"params": params[1:2]})


def test_named_parameters():
    """As torch takes them; errors say the name."""
    model = torch.nn.Linear(3, 2)
    opt = gt.AdamW(model.named_parameters())
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    assert opt.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    del opt.state[model.bias]["exp_avg"]
    with pytest.raises(ValueError, match=r"state of bias: got None as 'exp_avg', wanted"):
        opt.step()
    with pytest.raises(TypeError, match=r"^odd: got torch.complex64"):
        gt.SGD([("odd", torch.zeros(3, dtype=torch.complex64))])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule in DRIVEN])
def test_tensor_lr_changed_in_place(rule):
    rate = torch.tensor(0.5, dtype=torch.float64)
    params, alone = parameters(), parameters()
    opt, other = getattr(gt, rule)(params, lr=rate), getattr(gt, rule)(alone, lr=0.5)
    for k, lr in enumerate([0.5, 0.25, 0.125]):
        rate.fill_(lr)
        other.param_groups[0]["lr"] = lr
        give_grads(k, params, alone)
        opt.step()
        other.step()
        assert opt.report.lr == lr
        assert opt.param_groups[0]["lr"] is rate
    for mine, its in zip(params, alone, strict=True):
        assert_same(mine, its)


def test_a_rate_that_no_step_reads_is_refused_where_it_changes():
    """torch's Rprop takes any rate after its start, and a scheduler's, and does nothing with it."""
    params = parameters()
    opt = gt.Rprop(params, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 2)
    for k in range(2):
        give_grads(k, params)
        opt.step()
        scheduler.step()
    before = clones(params)
    message = r"^param_groups\[0\] lr: got 0.01\d*, but the states started from 0.1, wanted a new"
    with pytest.raises(ValueError, match=message):
        opt.step()
    for param, old in zip(params, before, strict=True):
        assert_same(param, old)
    opt.param_groups[0]["lr"] = 0.1
    opt.step()
    schedule = gs.schedules.linear(0.1, 0.0, 10)
    message = r"^{}lr: got a function of the step, .*: step_size starts from it, and no step reads"
    with pytest.raises(TypeError, match=message.format(r"param_groups\[0\] ")):
        gt.Rprop(parameters(), lr=schedule)
    w = np.ones(3)
    with pytest.raises(TypeError, match=message.format("")):
        gs.Rprop(w, lr=schedule)
    own = gs.Rprop(w)
    own.step(np.ones(3))
    own.groups[0]["lr"] = 0.5
    with pytest.raises(ValueError, match=r"^lr: got 0.5, but the states started from 0.01, wanted"):
        own.step(np.ones(3))


def assigned(opt):
    opt.param_groups[0]["lr"] = 0.05


def by_a_scheduler(opt):
    torch.optim.lr_scheduler.ConstantLR(opt, 0.5, total_iters=9)


@pytest.mark.parametrize("change", [assigned, by_a_scheduler])
@pytest.mark.parametrize("way", ["at once", "copied", "loaded"])
def test_a_rate_before_the_first_step_is_what_states_start_from(change, way):
    """As in torch's Rprop, which makes its states only then."""
    params, twins = parameters(), parameters()
    ours, theirs = gt.Rprop(params, lr=0.1), torch.optim.Rprop(twins, lr=0.1)
    if way == "copied":
        ours = copy.copy(ours)
    if way == "loaded":
        ours.load_state_dict(theirs.state_dict())
    for opt in (ours, theirs):
        change(opt)
    for k in range(3):
        give_grads(k, params, twins)
        ours.step()
        theirs.step()
        for mine, its in zip(params, twins, strict=True):
            assert_same(mine, its)
    ours.param_groups[0]["lr"] = 0.3
    with pytest.raises(ValueError, match=r"lr: got 0.3, but the states started from 0.05, wanted"):
        ours.step()


@pytest.mark.parametrize(
    ("rule", "key", "value"),
    [
        ("Rprop", "lr", 0.5),
        ("Adagrad", "initial_accumulator_value", 0.5),
        ("AdamW", "cautious", True),
    ],
)
def test_what_cannot_change_cannot_where_parameters_come_and_go(rule, key, value):
    """The step is bound anew then, with the same states."""
    params, later = parameters(), parameters()
    opt = getattr(gt, rule)(params)
    give_grads(0, params)
    opt.step()
    opt.param_groups[0][key] = value
    opt.add_param_group({"params": later, key: value})
    give_grads(1, params, later)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"param_groups\[0\] {key}: got {value}, but the "):
            opt.step()
    opt.state.clear()  # begins anew, with any start
    opt.step()


@pytest.mark.parametrize("make", [tuple, list])
def test_betas_changed_in_place(make):
    """Tensors in a pair, or an entry of a list that someone put there."""
    beta = torch.tensor(0.9)
    (param,) = parameters(shapes=((3,),))
    opt = gt.Adam([param], lr=0.1)
    opt.param_groups[0]["betas"] = make([beta, 0.999])
    for value in (0.9, 0.0, 0.5):
        beta.fill_(value)
        before = opt.state[param].get("exp_avg", torch.zeros(3)).clone()
        param.grad = torch.ones(3)
        opt.step()
        torch.testing.assert_close(opt.state[param]["exp_avg"], value * before + 1 - value)
    if make is list:
        opt.param_groups[0]["betas"][0] = 0.0
        opt.step()
        torch.testing.assert_close(opt.state[param]["exp_avg"], torch.ones(3))
    assert gt.Adam([param], betas=[0.5, 0.6]).param_groups[0]["betas"] == (0.5, 0.6)


def test_hyperparameters_are_read_at_each_step_and_refused_by_name():
    params = parameters()
    opt = gt.AdamW(params, lr=0.1)
    give_grads(0, params)
    opt.step()
    before = clones(params)
    group = opt.param_groups[0]
    for key, wrong in [
        ("lr", -1.0),
        ("lr", torch.tensor([0.1, 0.2])),
        ("betas", (0.9,)),
        ("betas", (0.9, 1.5)),
        ("eps", "small"),
        ("maximize", 1),
        ("amsgrad", True),
        ("decoupled_weight_decay", False),
    ]:
        good = group[key]
        group[key] = wrong
        with pytest.raises((TypeError, ValueError), match=rf"^param_groups\[0\] {key}"):
            opt.step()
        group[key] = good
    for param, old in zip(params, before, strict=True):
        assert_same(param, old)
    group["weight_decay"] = 0.0
    group["maximize"] = True
    opt.step()
    assert (params[0] > before[0])[params[0].grad > 0].float().mean() > 0.5


def test_unknown_keywords_and_values_are_refused():
    params = parameters()
    for given, message in [
        ({"rate": 0.1}, "AdamW: got an unexpected keyword argument 'rate', wanted"),
        ({"clip": 1.0}, "'clip'"),
        ({"clip_norm": -1.0}, r"^clip_norm: got -1.0"),
        ({"nonfinite": "ignore"}, "^nonfinite: got 'ignore'"),
        ({"average": 1.5}, "^average: got 1.5"),
        ({"stats": "yes"}, "^stats: got 'yes'"),
        ({"states": "q2"}, "^states: got 'q2'"),
        ({"states": {"exp": "q8"}}, "^states: got the unknown 'exp'"),
        ({"rounding": "up"}, "^rounding: got 'up'"),
        ({"rounding": "stochastic"}, "^rounding: got 'stochastic', but nothing here is rounded"),
        ({"split": True}, r"params'\]\[0\]: got dtype float32 with split=True"),
        ({"copy_to": [torch.zeros(3)]}, "^copy_to: got 1 tensors, wanted 5"),
        ({"copy_to": [torch.zeros(3)] * 5}, r"^copy_to\[0\]: got a tensor of torch.float32, shape"),
        ({"copy_to": [p.data for p in params]}, r"^copy_to\[\d\]: got memory that it shares with"),
        ({"decoupled_weight_decay": False}, "'decoupled_weight_decay'"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            gt.AdamW(params, **given)
    with pytest.raises(ValueError, match="decoupled_weight_decay: got True, wanted False"):
        gt.Adam(params, decoupled_weight_decay=True)
    with pytest.raises(ValueError, match="momentum"):
        gt.SGD(params, dampening=0.5)  # torch takes it and does nothing with it
    with pytest.raises(ValueError, match="nesterov"):
        gt.SGD(params, nesterov=True)
    with pytest.raises(TypeError, match="Optimizer: got the base class"):
        gt.Optimizer(params, {})
    with pytest.raises(ValueError, match="empty parameter list"):
        gt.SGD([])


def test_tensors_that_are_refused():
    sparse = torch.zeros(3, 3).to_sparse()
    for wrong, message in [
        (torch.zeros(3, device="meta"), r"got a tensor on meta, wanted one on the CPU"),
        (sparse, r"got torch.sparse_coo, wanted a dense"),
        (
            torch.zeros(3, dtype=torch.complex64),
            r"got torch.complex64, wanted one of torch.float64",
        ),
        (torch.zeros(3, dtype=torch.int32), r"got torch.int32"),
        (torch.zeros(1).expand(3), r"got strides .*, several elements at one place"),
        (
            torch.zeros(8).as_strided((3, 4), (2, 1)),
            r"got strides .*, several elements at one place",
        ),
    ]:
        for rule in RULES:
            with pytest.raises((TypeError, ValueError), match=rf"params'\]\[0\]: {message}"):
                getattr(gt, rule)([wrong])
    with pytest.raises(ValueError, match="can't optimize a non-leaf"):
        gt.SGD([torch.zeros(3, requires_grad=True) * 2])
    base = torch.zeros(10)
    with pytest.raises(
        ValueError, match=r"\[1\]: got memory that it shares with param_groups\[0\]"
    ):
        gt.SGD([torch.nn.Parameter(base[:6]), torch.nn.Parameter(base[5:])])
    twice = torch.nn.Parameter(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="got memory that it shares with"):
            gt.SGD([twice, twice])


@pytest.mark.parametrize("stages", [{}, {"clip_norm": 1.0}], ids=str)
def test_gradients_that_are_refused_change_nothing(stages):
    params = parameters(shapes=((4, 3), (5, 2)))
    opt = gt.Adam(params, lr=0.1, **stages)
    give_grads(0, params)
    opt.step()
    before = clones(params)
    state = [{k: v.clone() for k, v in opt.state[p].items()} for p in params]
    embedding = torch.nn.functional.embedding(torch.tensor([1]), params[1], sparse=True)
    params[1].grad = None
    embedding.sum().backward()
    assert params[1].grad.layout == torch.sparse_coo
    wrong = [(params[1].grad.to_dense().to_sparse(), ValueError, "2 sparse dimensions")]
    wrong.append((params[1].data, ValueError, "got memory that overlaps what the step writes"))
    wrong.append((opt.state[params[0]]["exp_avg"][:1], ValueError, "shape|overlaps"))
    for grad, error, message in wrong:
        if grad.shape != params[1].shape:
            continue
        params[1].grad = grad
        with pytest.raises(error, match=rf"params'\]\[1\]\.grad: .*{message}"):
            opt.step()
        for param, old, kept in zip(params, before, state, strict=True):
            assert_same(param, old)
            for name, value in kept.items():
                assert_same(opt.state[param][name], value)


# ---- schedules ----


def test_our_schedules_drive():
    """A group shows the value that was used; one that is assigned stands in until it is shown."""
    (param,) = parameters(shapes=((3,),))
    schedule = gs.schedules.linear(1.0, 0.0, total=10)
    opt = gt.SGD([param], lr=schedule)
    assert opt.param_groups[0]["lr"] == 1.0
    used = []

    def step():
        param.grad = torch.ones(3)
        before = param.detach().clone()
        opt.step()
        torch.testing.assert_close((before - param.detach())[0].item(), opt.report.lr)
        assert opt.param_groups[0]["lr"] == opt.report.lr
        used.append(opt.report.lr)

    for _ in range(3):
        step()
    opt.param_groups[0]["lr"] = 0.5
    step()
    step()
    opt.param_groups[0]["lr"] = schedule  # which has gone on
    step()
    step()
    assert used == [schedule(0), schedule(1), schedule(2), 0.5, 0.5, schedule(5), schedule(6)]
    assert opt.state_dict()["param_groups"][0]["lr"] == schedule(6)
    # Nothing but numbers is saved, also before the step that uses it.
    opt.param_groups[0]["lr"] = schedule
    assert isinstance(opt.state_dict()["param_groups"][0]["lr"], float)
    opt.found_inf, opt.grad_scale = torch.tensor(1.0), None
    opt.param_groups[0]["lr"] = schedule
    opt.step()
    assert isinstance(opt.report.lr, float)
    assert opt.report.skipped
    del opt.found_inf, opt.grad_scale
    # Another parameter makes everything anew, except for what drives.
    opt.add_param_group({"params": parameters(shapes=((2,),)), "lr": lambda k: k + 1.0})
    opt.step()
    assert opt.report.lr == (schedule(7), 8.0)


def test_schedules_stay_with_their_groups():
    """Also where the list of groups is changed by hand."""
    first, second, third = parameters(shapes=((3,), (3,), (3,)))
    groups = [{"params": [first], "lr": lambda k: k + 1.0}, {"params": [second]}]
    opt = gt.SGD(groups, lr=lambda k: 10.0 * (k + 1))
    for _ in range(2):
        first.grad, second.grad = torch.ones(3), torch.ones(3)
        opt.step()
    assert opt.report.lr == (2.0, 20.0)
    del opt.param_groups[0]
    opt.step()
    assert opt.report.lr == 30.0
    opt.param_groups.append({**opt.param_groups[0], "params": [third], "lr": 0.5})
    opt.param_groups.reverse()
    before = third.detach().clone()
    third.grad = torch.ones(3)
    opt.step()
    assert opt.report.lr == (0.5, 40.0)
    assert_same(third.detach(), before - 0.5)
    opt.param_groups.append(
        {
            "params": [first],
            **{k: v for k, v in opt.param_groups[0].items() if k != "params"},
            "lr": -1.0,
        }
    )
    with pytest.raises(ValueError, match=r"param_groups\[2\] lr: got -1.0"):
        opt.step()


def test_a_driven_pair():
    (param,) = parameters(shapes=((3,),))
    opt = gt.Adam([param], lr=0.1, betas=(lambda k: [0.9, 0.5][k], 0.999))
    assert opt.param_groups[0]["betas"] == (0.9, 0.999)
    kept = torch.zeros(3)
    for beta in (0.9, 0.5):
        param.grad = torch.ones(3)
        opt.step()
        kept = beta * kept + 1 - beta
        torch.testing.assert_close(opt.state[param]["exp_avg"], kept)
        assert opt.param_groups[0]["betas"] == (beta, 0.999)


def test_a_schedule_that_gives_nonsense_is_refused():
    (param,) = parameters(shapes=((3,),))
    opt = gt.SGD([param], lr=lambda k: 1.0 - k)
    param.grad = torch.ones(3)
    opt.step()
    opt.step()
    before = param.detach().clone()
    with pytest.raises(ValueError, match=r"param_groups\[0\] lr: got -1.0, wanted .* at step 2"):
        opt.step()
    assert_same(param.detach(), before)
    with pytest.raises(TypeError, match="cannot be called with the step alone"):
        gt.SGD([param], lr=lambda: 1.0)


def schedulers():
    """One of each class that torch has."""
    base = SCHEDULERS
    made = {
        "LambdaLR": lambda o: base.LambdaLR(o, lambda e: 1 / (e + 1)),
        "MultiplicativeLR": lambda o: base.MultiplicativeLR(o, lambda _: 0.9),
        "StepLR": lambda o: base.StepLR(o, 2, 0.5),
        "MultiStepLR": lambda o: base.MultiStepLR(o, [2, 4]),
        "ConstantLR": lambda o: base.ConstantLR(o, total_iters=3),
        "LinearLR": lambda o: base.LinearLR(o, total_iters=4),
        "ExponentialLR": lambda o: base.ExponentialLR(o, 0.8),
        "PolynomialLR": lambda o: base.PolynomialLR(o, 5),
        "CosineAnnealingLR": lambda o: base.CosineAnnealingLR(o, 5),
        "CosineAnnealingWarmRestarts": lambda o: base.CosineAnnealingWarmRestarts(o, 3),
        "ReduceLROnPlateau": lambda o: base.ReduceLROnPlateau(o, patience=1),
        "CyclicLR": lambda o: base.CyclicLR(o, 0.01, 0.1, step_size_up=3),
        "OneCycleLR": lambda o: base.OneCycleLR(o, 0.1, total_steps=12),
        "SequentialLR": lambda o: base.SequentialLR(
            o, [base.ConstantLR(o), base.ExponentialLR(o, 0.5)], [3]
        ),
        "ChainedScheduler": lambda o: base.ChainedScheduler(
            [base.ConstantLR(o), base.ExponentialLR(o, 0.5)]
        ),
        "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.5, 4),
    }
    there = {
        name
        for name, value in vars(base).items()
        if isinstance(value, type)
        and issubclass(value, base.LRScheduler)
        and name not in ("LRScheduler", "_LRScheduler")
    }
    assert there <= made.keys(), "torch has a new class"
    return made


@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("name", schedulers())
@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
def test_torchs_schedulers_drive(rule, name, tensor):
    """All of them, momentum included, exactly as they drive torch's class."""
    theirs = parameters(torch.float64)
    ours = clones(theirs)
    momentum = {"momentum": 0.9} if rule == "SGD" else {}
    opts = []
    for module, params in ((torch.optim, theirs), (gt, ours)):
        lr = torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1
        groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1}]
        opt = getattr(module, rule)(groups, lr=lr, **momentum)
        opts.append((opt, schedulers()[name](opt)))
    for k in range(10):
        give_grads(k, theirs, ours)
        for opt, scheduler in opts:
            opt.step()
            scheduler.step(*[1.0] * (name == "ReduceLROnPlateau"))
        groups = zip(opts[0][0].param_groups, opts[1][0].param_groups, strict=True)
        for its, mine in groups:
            assert mine["lr"] == its["lr"]
            assert mine.get("betas") == its.get("betas")
            assert mine.get("momentum") == its.get("momentum")
        for mine, its in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-13, atol=1e-14)
