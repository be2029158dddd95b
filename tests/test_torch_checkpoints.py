"""gradstep.torch's checkpoints: swapped with torch.optim's both ways, saved, loaded, refused."""

import copy
import inspect
import io
import pickle

import pytest

import gradstep as gs
from cases import DRIVEN

torch = pytest.importorskip("torch")
import gradstep.torch as gt  # noqa: E402

# Each with the states that there may be.
OPTIONS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "maximize": True}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5}),
    ("Adam", {"lr": 0.1, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "amsgrad": True, "maximize": True}),
    ("Adadelta", {"lr": 0.5, "weight_decay": 0.1}),
    ("Adamax", {"lr": 0.1}),
    ("NAdam", {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.1, "betas": (0.5, 0.9)}),
    ("Rprop", {"lr": 0.1, "step_sizes": (0.02, 0.3)}),
    ("ASGD", {"lr": 0.1, "lambd": 0.1, "t0": 2.0}),
]
SHAPES = ((7, 5), (), (0, 3), (65, 3))


def name(case):
    rule, options = case
    return f"{rule}({', '.join(options)})"


cases = pytest.mark.parametrize("case", OPTIONS, ids=name)
# The numbers that a rule keeps of a tensor, in double: torch's are of its default dtype.
MEMORY = {name for rule in gs.rule.RULES.values() for name in rule.memory_names}


def parameters(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in SHAPES
    ]


def clones(params):
    return [torch.nn.Parameter(param.detach().clone()) for param in params]


def train(opt, params, steps, first=0, late=2):
    """Steps over gradients that follow from the index of the step; one parameter comes late."""
    for k in range(first, first + steps):
        for i, param in enumerate(params):
            generator = torch.Generator().manual_seed(1000 * k + i)
            grad = torch.randn(param.shape, generator=generator, dtype=torch.float64)
            param.grad = None if i == 3 and k < late else grad.to(param.dtype)
        opt.step()


def through_a_file(state_dict):
    """As torch.load gives it back where nothing but tensors and numbers may be in it."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


def assert_same_state(got, wanted):
    assert got.keys() == wanted.keys()
    for key, entry in wanted.items():
        assert got[key].keys() == entry.keys()
        for state, value in entry.items():
            assert got[key][state].dtype == value.dtype
            assert_same(got[key][state], value)


# ---- both ways ----


@pytest.mark.usefixtures("float64_by_default")
@cases
@pytest.mark.parametrize("how", ["plain", "foreach", "fused"])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_swap_in_both_ways(case, how, steps):
    """Torch trains, we go on, torch goes on: as torch alone; and what it was made with stays."""
    rule, options = case
    if how == "fused" and "fused" not in inspect.signature(getattr(torch.optim, rule)).parameters:
        pytest.skip(f"torch has no fused {rule}")
    late = 0 if rule == "SGD" and how == "fused" else 2  # which torch's does not take
    flags = {} if how == "plain" else {how: True}
    theirs, ours = getattr(torch.optim, rule), getattr(gt, rule)
    alone = parameters(torch.float64)
    swapped = clones(alone)
    wanted = theirs(alone, **options)
    train(wanted, alone, steps + 4, late=late)

    first = theirs(swapped, **options, **flags)
    train(first, swapped, steps, late=late)
    saved = through_a_file(first.state_dict())
    second = ours(swapped, lr=77.0, **{k: v for k, v in options.items() if k == "initial"})
    second.load_state_dict(saved)
    assert second.param_groups[0]["lr"] == options["lr"]
    if steps:
        train(second, swapped, 2, first=steps, late=late)
    back = through_a_file(second.state_dict())
    assert back["param_groups"] == saved["param_groups"]
    if steps and "step" in saved["state"].get(0, {}):
        assert back["state"][0].keys() == saved["state"][0].keys()
        assert back["state"][0]["step"] == steps + 2
    third = theirs(swapped, lr=77.0)
    third.load_state_dict(back)
    done = steps + 2 if steps else 0
    train(third, swapped, steps + 4 - done, first=done, late=late)
    assert third.param_groups[0].get(how, True)
    # torch's foreach has ASGD's rate in the dtype of the step, which is float32 in ours.
    loose = (rule, how) == ("ASGD", "foreach") and steps
    rtol, atol = (1e-4, 1e-7) if loose else (1e-12, 1e-13)
    for mine, its in zip(swapped, alone, strict=True):
        torch.testing.assert_close(mine, its, rtol=rtol, atol=atol)


@cases
def test_float32_checkpoints_keep_their_bits(case):
    """Each tensor of torch's is there again, in a new place, whatever its strides."""
    rule, options = case
    params = parameters()
    theirs = getattr(torch.optim, rule)(params, **options)
    train(theirs, params, 3)
    saved = theirs.state_dict()
    for entry in saved["state"].values():
        for state, value in entry.items():
            if value is not None and value.ndim == 2:
                entry[state] = value.t().contiguous().t()
    before = copy.deepcopy(saved)
    opt = getattr(gt, rule)(params, **options)
    opt.load_state_dict(saved)
    assert_same_state(saved["state"], before["state"])
    for i, param in enumerate(params):
        for state, value in saved["state"].get(i, {}).items():
            if value is not None:
                kept = value.double() if state in MEMORY else value
                assert_same(opt.state[param][state], kept)
                assert opt.state[param][state] is not value
                if value.numel():
                    assert opt.state[param][state].data_ptr() != value.data_ptr()
    train(opt, params, 1, first=3)
    assert_same_state(saved["state"], before["state"])
    assert saved["param_groups"] == before["param_groups"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@cases
def test_float32_states_of_low_precision_parameters_survive(case, dtype):
    """torch's own load would round them to the parameter's dtype."""
    rule, options = case
    params = parameters(dtype)
    opt = getattr(gt, rule)(params, **options)
    train(opt, params, 4)
    saved = through_a_file(opt.state_dict())
    twins = clones(params)
    other = getattr(gt, rule)(twins, **options)
    other.load_state_dict(saved)
    assert_same_state(other.state_dict()["state"], opt.state_dict()["state"])
    finer = [
        value
        for entry in saved["state"].values()
        for state, value in entry.items()
        if state != "step" and not torch.equal(value.to(dtype).float(), value)
    ]
    assert finer or (rule == "SGD" and "momentum" not in options)
    train(opt, params, 2, first=4)
    train(other, twins, 2, first=4)
    for mine, its in zip(twins, params, strict=True):
        assert_same(mine, its)
    # Torch's coarse ones are exact here.
    coarse = parameters(dtype)
    theirs = getattr(torch.optim, rule)(coarse, **options)
    train(theirs, coarse, 3)
    other.load_state_dict(through_a_file(theirs.state_dict()))
    for mine, its in zip(twins, coarse, strict=True):
        for state, value in theirs.state[its].items():
            if value is not None:
                kept = value.double() if state in MEMORY else value.float()
                assert_same(other.state[mine][state], kept)
    # And torch takes ours.
    theirs.load_state_dict(through_a_file(opt.state_dict()))
    train(theirs, coarse, 1)


STORED = [
    (torch.float32, {"states": "q8"}),
    (torch.float32, {"states": "q4", "seed": 4}),
    (torch.float32, {"states": "bfloat16", "average": 0.9}),
    (torch.float32, {"states": {"exp_avg": "float16", "exp_avg_sq": "q8"}, "clip_norm": 1.0}),
    (torch.bfloat16, {"split": True, "states": "q8", "average": 0.9}),
    (torch.bfloat16, {"rounding": "stochastic", "seed": 9}),
    (torch.float64, {"average": 0.99}),
]


@pytest.mark.parametrize(("dtype", "stored"), STORED, ids=str)
def test_storages_save_and_load(dtype, stored):
    """Going on after a load gives the bits of going on without."""
    params = parameters(dtype)
    opt = gt.Adam(params, lr=0.1, **stored)
    train(opt, params, 4)
    twins = clones(params)
    other = gt.Adam(twins, **stored)
    other.load_state_dict(through_a_file(opt.state_dict()))
    assert other.param_groups[0]["lr"] == 0.1
    assert_same_state(other.state_dict()["state"], opt.state_dict()["state"])
    train(opt, params, 3, first=4)
    train(other, twins, 3, first=4)
    for mine, its in zip(twins, params, strict=True):
        assert_same(mine, its)
    assert_same_state(other.state_dict()["state"], opt.state_dict()["state"])


def test_averages_and_low_halves_are_the_parameters_own():
    params = parameters(torch.bfloat16)
    opt = gt.AdamW(params, split=True, average=0.5)
    train(opt, params, 3)
    saved = opt.state_dict()
    assert list(saved["state"][0]) == ["step", "exp_avg", "exp_avg_sq", "low", "average"]
    assert saved["state"][0]["low"].dtype == torch.int16
    assert saved["state"][0]["average"].dtype == torch.float32


# ---- what is refused, with nothing changed ----


def test_refused_checkpoints_change_nothing():
    params = parameters()
    opt = gt.Adam(params, lr=0.1)
    train(opt, params, 3)
    good = opt.state_dict()
    before = copy.deepcopy(good)

    def wrong(change):
        bad = copy.deepcopy(good)
        change(bad)
        return bad

    def dtype(bad):
        bad["state"][0]["exp_avg"] = bad["state"][0]["exp_avg"].double()

    cases_ = [
        (lambda s: s["state"][0].pop("exp_avg"), "wanted 'step', 'exp_avg', 'exp_avg_sq'"),
        (lambda s: s["state"][3].update(momentum_buffer=torch.zeros(65, 3)), "got .*momentum_buff"),
        (lambda s: s["state"][3].update(exp_avg=torch.zeros(3, 65)), r"shape \(3, 65\)"),
        (lambda s: s["state"][3].update(exp_avg=None), "wanted 'step', 'exp_avg'"),
        (lambda s: s["state"][3].update(exp_avg=[1.0]), "got list, wanted a tensor"),
        (lambda s: s["state"][3].update(step=torch.tensor(-1.0)), r"\['step'\]: got tensor\(-1"),
        (lambda s: s["state"][3].update(step=torch.tensor(0.5)), r"\['step'\]: got tensor\(0.5"),
        (
            lambda s: s["state"][3].update(step=torch.tensor(torch.inf)),
            r"\['step'\]: got tensor\(inf",
        ),
        (
            lambda s: s["state"][3].update(step=torch.tensor(torch.nan)),
            r"\['step'\]: got tensor\(nan",
        ),
        (lambda s: s["state"][3].update(step="3"), r"\['step'\]: got '3'"),
        (lambda s: s["state"].update({9: s["state"][3]}), r"\['state'\]\[9\]: got a state"),
        (lambda s: s["state"].update({3: [1]}), r"\['state'\]\[3\]: got list, wanted a mapping"),
        (dtype, "got torch.float64, wanted torch.float32 or what it can hold exactly"),
        (lambda s: s["param_groups"].append(s["param_groups"][0]), "got 2, wanted 1"),
        (lambda s: s["param_groups"][0]["params"].pop(), r"\[0\]\['params'\]: got 3, wanted 4"),
        (lambda s: s["param_groups"][0].update(lr=-1.0), r"param_groups'\]\[0\] lr: got -1.0"),
        (lambda s: s["param_groups"][0].update(betas=(0.9,)), r"\[0\] betas: got"),
        (lambda s: s["param_groups"][0].update(amsgrad=True), "wanted .*'max_exp_avg_sq'"),
        (
            lambda s: s["param_groups"][0].update(decoupled_weight_decay=True),
            r"\[0\] decoupled_weight_decay: got True, wanted False",
        ),
        (lambda s: s.pop("state"), "state"),
    ]
    for change, message in cases_:
        with pytest.raises((KeyError, TypeError, ValueError), match=message):
            opt.load_state_dict(wrong(change))
        assert opt.state_dict()["param_groups"] == before["param_groups"]
        assert_same_state(opt.state_dict()["state"], before["state"])
    opt.load_state_dict(good)
    with pytest.raises(ValueError, match="decoupled_weight_decay: got False, wanted True"):
        gt.AdamW(params).load_state_dict(good)
    train(opt, params, 1, first=3)


def test_other_options_are_refused():
    """A state that would be lost, or is missing, is an error."""
    params = parameters()
    opt = gt.Adam(params, average=0.9)
    train(opt, params, 3)
    saved = opt.state_dict()
    for other in (gt.Adam(params), gt.Adam(params, states="q8", average=0.9), gt.SGD(params)):
        with pytest.raises((TypeError, ValueError), match=r"state_dict\['"):
            other.load_state_dict(saved)
    with pytest.raises(ValueError, match="wanted 'step', 'exp_avg', 'exp_avg_sq', 'average'"):
        opt.load_state_dict(gt_trained(gt.Adam).state_dict())


def gt_trained(rule, **options):
    params = parameters()
    opt = rule(params, **options)
    train(opt, params, 3)
    return opt


# ---- old, other and partial ones ----


@pytest.mark.usefixtures("float64_by_default")
@cases
def test_old_checkpoints_load(case):
    """Without what torch added to groups since, and with numbers that were no tensors."""
    rule, options = case
    if options.get("maximize"):
        pytest.skip("it was not there")
    params = parameters(torch.float64)
    theirs = getattr(torch.optim, rule)(params, **options)
    train(theirs, params, 3)
    saved = copy.deepcopy(theirs.state_dict())
    for group in saved["param_groups"]:
        for key in ("maximize", "foreach", "fused", "capturable", "differentiable"):
            group.pop(key, None)
        group.pop("decoupled_weight_decay", None)
    for entry in saved["state"].values():
        if "step" in entry:
            entry["step"] = int(entry["step"])
        entry.update({key: entry[key].item() for key in MEMORY & entry.keys()})
    twins = clones(params)
    opt = getattr(gt, rule)(twins, **options)
    opt.load_state_dict(saved)
    assert opt.param_groups[0]["maximize"] is False
    train(theirs, params, 2, first=3)
    train(opt, twins, 2, first=3)
    for mine, its in zip(twins, params, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-13)
    assert opt.state[twins[0]]["step"].dtype == torch.float32


def test_lists_in_a_checkpoint():
    """As JSON or YAML bring betas; changed later, too."""
    opt = gt_trained(gt.Adam)
    saved = opt.state_dict()
    saved["param_groups"][0]["betas"] = [0.5, 0.9]
    opt.load_state_dict(saved)
    params = opt.param_groups[0]["params"]
    for beta in (0.5, 0.0):
        opt.param_groups[0]["betas"][0] = beta
        kept = opt.state[params[0]]["exp_avg"].clone()
        train(opt, params, 1, first=5)
        torch.testing.assert_close(
            opt.state[params[0]]["exp_avg"], beta * kept + (1 - beta) * params[0].grad
        )


def test_named_and_renumbered():
    """Names are kept; ids of parameters in the file are only an order."""
    model = torch.nn.Linear(3, 2)
    opt = gt.AdamW(model.named_parameters())
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    saved = opt.state_dict()
    saved["state"] = {key + 40: entry for key, entry in saved["state"].items()}
    saved["param_groups"][0]["params"] = [40, 41]
    other = gt.AdamW(model.named_parameters())
    other.load_state_dict(saved)
    assert_same_state(other.state_dict()["state"], opt.state_dict()["state"])
    theirs = torch.optim.AdamW(model.named_parameters())
    theirs.load_state_dict(through_a_file(other.state_dict()))
    assert theirs.param_groups[0]["param_names"] == ["weight", "bias"]
    unnamed = torch.optim.AdamW(model.parameters()).state_dict()
    other.load_state_dict(unnamed)
    assert other.param_groups[0]["param_names"] == ["weight", "bias"]


def test_several_groups():
    params = parameters()
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.1)
    train(theirs, params, 3)
    twins = clones(params)
    opt = gt.AdamW([{"params": twins[:1]}, {"params": twins[1:]}])
    opt.load_state_dict(theirs.state_dict())
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.5]
    assert [group["weight_decay"] for group in opt.param_groups] == [0.01, 0.0]
    train(theirs, params, 1, first=3)
    train(opt, twins, 1, first=3)
    for mine, its in zip(twins, params, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)


def test_schedules_resume():
    """A schedule goes on from the count in the checkpoint, and stays with its optimizer."""
    schedule = gs.schedules.linear(1.0, 0.0, total=10)
    params = parameters()
    opt = gt.SGD(
        [{"params": params[:2]}, {"params": params[2:], "lr": 0.25}], lr=schedule, momentum=0.5
    )
    train(opt, params, 4)
    saved = through_a_file(opt.state_dict())
    assert [group["lr"] for group in saved["param_groups"]] == [schedule(3), 0.25]
    twins = clones(params)
    other = gt.SGD([{"params": twins[:2]}, {"params": twins[2:]}], lr=schedule, momentum=0.5)
    other.param_groups[1]["lr"] = 3.0
    other.load_state_dict(saved)
    train(opt, params, 1, first=4)
    train(other, twins, 1, first=4)
    # What drives is the new optimizer's own: its second group, too, was built with the schedule.
    assert opt.report.lr == (schedule(4), 0.25)
    assert other.report.lr == (schedule(4), schedule(4))
    assert_same(twins[0], params[0])
    theirs = torch.optim.SGD([{"params": twins[:2]}, {"params": twins[2:]}])
    theirs.load_state_dict(through_a_file(opt.state_dict()))
    assert theirs.param_groups[0]["lr"] == schedule(4)


def test_counts_beyond_what_a_float_counts():
    """2²⁴ stays 2²⁴, as in torch, and nothing depends on it any more."""
    params = parameters()
    opt = gt.Adam(params)
    train(opt, params, 3)
    saved = opt.state_dict()
    saved["state"][0]["step"] = torch.tensor(2.0**40)
    opt.load_state_dict(saved)
    assert opt.state[params[0]]["step"] == 2**24
    train(opt, params, 2)
    assert opt.state[params[0]]["step"] == 2**24
    assert opt.state[params[1]]["step"] == 5


# ---- hooks, copies ----


def test_state_dict_hooks():
    seen = []
    opt = gt_trained(gt.Adam)
    opt.register_state_dict_pre_hook(lambda o: seen.append(o is opt))
    opt.register_state_dict_post_hook(lambda _, s: {**s, "extra": 1})
    saved = opt.state_dict()
    assert seen == [True]
    assert saved.pop("extra") == 1
    opt.register_load_state_dict_pre_hook(lambda _, s: {**s, "state": {}})
    opt.register_load_state_dict_post_hook(lambda o: seen.append(len(o.state)))
    opt.load_state_dict(saved)
    assert seen == [True, 0]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@cases
def test_deepcopy_and_pickle(case, how):
    """With its parameters, which go on alike, apart from the first."""
    rule, options = case
    if rule in DRIVEN:
        options = {**options, "lr": gs.schedules.linear(0.1, 0.0, total=10)}
    params = parameters()
    copies = [torch.zeros_like(param, requires_grad=False) for param in params]
    stages = {"clip_norm": 1.0, "average": 0.9, "stats": True, "copy_to": copies}
    if gs.rule.RULES[rule].shows:  # an average of its own
        del stages["average"]
    opt = getattr(gt, rule)(params, **options, **stages)
    train(opt, params, 3)
    other = how(opt)
    twins = other.param_groups[0]["params"]
    assert all(a is not b for a, b in zip(twins, params, strict=True))
    if rule in DRIVEN:
        assert other.defaults["lr"](3) == options["lr"](3)
    before = clones(params)
    train(other, twins, 2, first=3)
    for param, old in zip(params, before, strict=True):
        assert_same(param, old)
    train(opt, params, 2, first=3)
    for mine, its in zip(twins, params, strict=True):
        assert_same(mine, its)
    assert other.report == opt.report
    assert_same_state(other.state_dict()["state"], opt.state_dict()["state"])
    model, opt = how((params, opt))
    assert opt.param_groups[0]["params"][0] is model[0]
    train(opt, model, 1, first=5)


def test_setstate_as_old_code_calls_it():
    """torch's own load_state_dict ended in it."""
    opt = gt_trained(gt.AdamW)
    params = opt.param_groups[0]["params"]
    state = {p: {k: v.clone() for k, v in opt.state[p].items()} for p in params[:1]}
    opt.__setstate__({"state": state, "param_groups": [dict(opt.param_groups[0])]})
    assert opt.state[params[0]]["exp_avg"] is state[params[0]]["exp_avg"]
    train(opt, params, 1, first=3)
    assert opt.state[params[0]]["step"] == 4
    assert opt.state[params[1]]["step"] == 1
