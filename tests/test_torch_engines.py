"""Inside engines that own the loop: groups that change from call to call, and who constructs us."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
import weakref
from importlib.util import find_spec

import pytest

torch = pytest.importorskip("torch")

import gradstep as gs  # noqa: E402
import gradstep.torch as gt  # noqa: E402
import processes  # noqa: E402

SIZES = [(3, 5), (7,), (1,), (64, 9), (300,), (2, 2, 2)]
ROUNDS = 6


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for size in SIZES]


def give(seed, *sides):
    """The same gradients to each side's tensors."""
    for params in sides:
        for param, grad in zip(params, tensors(seed), strict=True):
            param.grad = grad


def give_ones(params):
    for param in params:
        param.grad = torch.ones_like(param)


# ---- groups that change from call to call ----


def by_group(opt, groups, params):
    """One group before each call, as DeepSpeed's stages 1 and 2 do."""
    for group in groups:
        opt.param_groups = [group]
        opt.step()
    opt.param_groups = groups


def by_tensor(opt, groups, params):
    """One tensor of a group before each call, and none in the others, as its stage 3 does."""
    for group in groups:
        group["params"] = []
    for i, param in enumerate(params):
        group = groups[i % len(groups)]
        group["params"] = [param]
        opt.step()
        group["params"] = []


WAYS = [by_group, by_tensor]
MADE = {
    "AdamW": {"lr": 1e-2},
    "AdamW, q8": {"lr": 1e-2, "states": "q8", "rounding": "nearest"},  # else by the place
    "SGD": {"lr": 1e-2, "momentum": 0.9},
    "Adagrad": {"lr": 1e-2},
    "Lion": {"lr": 1e-3},
    "LAMB": {"lr": 1e-2},
    "RMSprop": {"lr": 1e-2, "centered": True},
}


def made(name, params):
    given = MADE[name]
    return getattr(gt, name.partition(",")[0])(
        [{"params": params[::2]}, {"params": params[1::2], "lr": given["lr"] / 2}], **given
    )


def compilings(opt, monkeypatch):
    """A list that gets an entry for each step that is compiled."""
    made, bind = [], opt._bind

    def counted(only):
        made.append(only)
        return bind(only)

    monkeypatch.setattr(opt, "_bind", counted)
    return made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MADE)
def test_parts_are_stepped_as_the_whole(monkeypatch, name, way):
    """The same bits, whatever changes between: a rate, the states; and few steps are compiled."""
    ours, whole = tensors(), tensors()
    opt, wanted = made(name, ours), made(name, whole)
    groups = opt.param_groups
    compiled = compilings(opt, monkeypatch)
    for k in range(ROUNDS):
        give(1 + k, ours, whole)
        if k == 3:  # an lr_scheduler
            for group in (*groups, *wanted.param_groups):
                group["lr"] *= 0.5
        if k == 4:  # a checkpoint that is put in by hand
            for optimizer, params in ((opt, ours), (wanted, whole)):
                for param in params:
                    state = optimizer.state[param]
                    state.update({n: v.clone() for n, v in state.items() if torch.is_tensor(v)})
        way(opt, groups, ours)
        wanted.step()
        if k == 2:
            before = len(compiled)
    for mine, its in zip(ours, whole, strict=True):
        assert torch.equal(mine.view(torch.int32), its.view(torch.int32))
        assert opt.state[mine]["step"] == ROUNDS
    parts = len(groups) if way is by_group else len(SIZES)
    assert len(compiled) - before <= parts  # after the states were replaced


@pytest.mark.parametrize("way", WAYS)
def test_parts_are_compiled_once(monkeypatch, way):
    params = tensors()
    opt = made("AdamW", params)
    groups = opt.param_groups
    compiled = compilings(opt, monkeypatch)
    for k in range(ROUNDS):
        give(k, params)
        way(opt, groups, params)
        if k == 1:  # each new state had those before looked at again
            before = len(compiled)
    assert len(compiled) == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [name for name in gs.rule.RULES if gs.rule.RULES[name].common])
def test_rules_that_look_at_all_together_refuse_parts(name, way):
    params = tensors()
    opt = getattr(gt, name)([{"params": params[::2]}, {"params": params[1::2]}])
    groups = opt.param_groups
    give(1, params)
    if gs.rule.RULES[name].takes_loss:
        opt.step = functools.partial(opt.step, loss=1.0)
    before = [param.clone() for param in params]
    with pytest.raises(ValueError, match=f"step: got some of the parameters of {name}, and others"):
        way(opt, groups, params)
    stepped = range(0, len(params), 2) if way is by_group else [0]
    for i, (param, value) in enumerate(zip(params, before, strict=True)):
        assert torch.equal(param, value) or i in stepped


def test_a_parameter_that_is_taken_out_leaves_the_others():
    """Which is no part of them: the rest is stepped together as before."""
    params = tensors()
    opt = gt.DoG(params, reps_rel=1e-2)
    for k in range(3):
        give(1 + k, params)
        before = [param.clone() for param in params]
        opt.step()
        moved = [not torch.equal(*pair) for pair in zip(params, before, strict=True)]
        assert moved == [True] * 5 + [k == 0]
        if k == 0:
            opt.param_groups[0]["params"] = params[:5]


@pytest.mark.parametrize("way", WAYS)
def test_a_schedule_goes_round_the_parts(way):
    """With clock="round" the clock counts rounds, not calls."""
    rate = gs.schedules.linear(0.1, 0.01, total=ROUNDS)
    ours, whole = tensors(), tensors()
    opt = gt.AdamW([{"params": ours[::2]}, {"params": ours[1::2]}], lr=rate, clock="round")
    wanted = gt.AdamW(whole, lr=rate)
    groups = opt.param_groups
    for k in range(ROUNDS):
        give(1 + k, ours, whole)
        way(opt, groups, ours)
        wanted.step()
        assert [group["lr"] for group in groups] == [rate(k)] * 2
        assert opt.report.t == k + 1
    for mine, its in zip(ours, whole, strict=True):
        assert torch.equal(mine, its)


def test_parts_that_share_a_tensor():
    """All, then some, then others: each step goes on from what the last one left."""
    ours, whole = tensors(), tensors()
    opt, wanted = made("AdamW", ours), made("AdamW", whole)
    groups = opt.param_groups
    for k in range(2 * ROUNDS):
        give(k, ours, whole)
        opt.param_groups = (groups, groups[1:], groups[:1])[k % 3]
        for left_out in ((), whole[::2], whole[1::2])[k % 3]:
            left_out.grad = None
        opt.step()
        opt.param_groups = groups
        wanted.step()
    for mine, its in zip(ours, whole, strict=True):
        assert torch.equal(mine, its)
        assert opt.state[mine]["step"] == wanted.state[its]["step"]


@pytest.mark.parametrize("how", ["tensors", "groups"])
def test_new_tensors_all_the_time_are_not_kept(how):
    """An engine that reads its shards anew brings other tensors for them at each step."""
    opt = gt.SGD([torch.zeros(3)], lr=0.5, momentum=0.9)
    (group,) = opt.param_groups
    alive = []
    for _ in range(20):
        param = torch.ones(3)
        param.grad = torch.ones(3)
        alive.append(weakref.ref(param))
        if how == "groups":
            opt.param_groups = [{**group, "params": [param]}]
        else:
            group["params"] = [param]
        opt.step()
        assert torch.equal(param, torch.full((3,), 0.5))
        opt.state.pop(param)
    del param
    assert sum(one() is not None for one in alive) <= 2


@pytest.mark.parametrize("sequence", ["hhhsss", "sshhss", "hshshs", "ssshhshh"])
def test_steps_within_a_backward_pass_and_of_parts(sequence):
    """h: each parameter within the backward pass; s: each group; both go on from the other's."""
    ours, whole = [[p.requires_grad_() for p in tensors()] for _ in range(2)]
    opt, wanted = made("AdamW", ours), made("AdamW", whole)
    groups = opt.param_groups
    for k, how in enumerate(sequence):
        for params in (ours, whole):
            loss = sum((p * g).sum() for p, g in zip(params, tensors(1 + k), strict=True))
            handles = gt.step_in_backward(opt) if params is ours and how == "h" else []
            loss.backward()
            for handle in handles:
                handle.remove()
        if how == "s":
            by_group(opt, groups, ours)
        wanted.step()
        opt.zero_grad()
        wanted.zero_grad()
    for mine, its in zip(ours, whole, strict=True):
        assert torch.equal(mine, its)
        assert opt.state[mine]["step"] == len(sequence)


def test_a_group_that_is_taken_out_may_come_back_as_another():
    params = tensors()[:2]
    opt = gt.AdamW([{"params": params[:1]}, {"params": params[1:]}], lr=0.1)
    give_ones(params)
    opt.step()
    group = opt.param_groups.pop()
    opt.step()
    other = torch.zeros(5)
    other.grad = torch.ones(5)
    for wrong, error in ((params[0], "more than one"), (torch.zeros(3).int(), "got torch.int32")):
        group.clear()
        group.update({"params": [wrong]})
        with pytest.raises((TypeError, ValueError), match=error):
            opt.add_param_group(group)
        opt.step()
    group.clear()
    group.update({"params": [other], "rule": "SGD", "lr": 0.5})
    opt.add_param_group(group)
    opt.step()
    assert torch.equal(other, torch.full((5,), -0.5))


def test_a_group_that_is_taken_out_at_once_may_come_back_as_another():
    params = tensors()[:2]
    opt = gt.AdamW([{"params": params[:1]}, {"params": params[1:]}], lr=0.1)
    group = opt.param_groups.pop()
    group.clear()
    group.update({"params": [params[1]], "rule": "SGD", "lr": 0.5})
    opt.add_param_group(group)
    before = params[1].clone()
    give_ones(params)
    opt.step()
    assert torch.equal(params[1], before - 0.5)


def test_a_part_whose_rule_is_changed():
    """It is stepped by the new rule, from the states of the old one where they are the same."""
    sides = tensors()[:2], tensors()[:2]
    for params, first in zip(sides, ("AdamW", "Adam"), strict=True):  # the same without a decay
        each = [{"params": [p], "weight_decay": 0.0, "rule": first} for p in params]
        opt = gt.AdamW(each, lr=0.1)
        groups = opt.param_groups
        for k in range(5):
            give_ones(params)
            if k == 3:
                for group in groups:
                    group.update({"rule": "Adam", "weight_decay": 0.5})
            by_group(opt, groups, params)
    for mine, its in zip(*sides, strict=True):
        assert torch.equal(mine, its)


def test_new_parameters_of_a_rule_that_looks_at_all_together():
    """With the states of the old ones cleared, they are all there is."""
    opt = gt.DoG(tensors(), reps_rel=1e-2)
    for k in range(2):
        params = opt.param_groups[0]["params"] = tensors(k)
        opt.state.clear()
        give_ones(params)
        opt.step()
        assert not torch.equal(params[0], tensors(k)[0])


def test_looking_at_all_between_parts():
    """As an engine does that saves a checkpoint between two groups."""
    rate = gs.schedules.linear(0.1, 0.01, total=ROUNDS)
    params = tensors()
    opt = gt.AdamW([{"params": params[::2]}, {"params": params[1::2]}], lr=rate)
    groups = opt.param_groups
    for k in range(3):
        give_ones(params)
        opt.param_groups = [groups[0]]
        opt.step()
        assert opt.report.t == k + 1
        opt.param_groups = groups
        assert opt.state_dict()["state"][0]["step"] == k + 1


def test_a_group_of_a_rule_that_looks_at_all_together_is_a_whole():
    """The others are of another rule, or there are none."""
    params = tensors()
    made = {"params": params[1:], "rule": "DoG", "reps_rel": 1e-2}
    opt = gt.SGD(
        [{"params": params[:1]}, made, {"params": [], "rule": "DoG", "reps_rel": 1e-2}], lr=0.1
    )
    groups = opt.param_groups
    for k in range(3):
        give(1 + k, params)
        by_group(opt, groups, params)
    assert [opt.state[param]["step"] for param in params] == [3] * len(params)


def test_a_checkpoint_between_parts():
    params, others = tensors(), tensors()
    opt, theirs = made("AdamW", params), made("AdamW", others)
    groups = opt.param_groups
    for k in range(4):
        give(k, params, others)
        if k == 2:
            opt.load_state_dict(copy.deepcopy(opt.state_dict()))
            groups = opt.param_groups
        by_group(opt, groups, params)
        theirs.step()
    for mine, its in zip(params, others, strict=True):
        assert torch.equal(mine, its)


# ---- DeepSpeed ----

TRAIN = """
import contextlib, io, json, logging, os, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
import torch
with contextlib.redirect_stdout(io.StringIO()):
    import deepspeed
import gradstep.torch as gt

stage, rank, world = json.loads(sys.argv[1])
torch.set_num_threads(1)

def trained(make, folder, load=None):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(),
        torch.nn.Linear(64, 4),
    )
    params = list(model.parameters())
    optimizer = make([
        {"params": [p for p in params if p.ndim > 1]},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ])
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=8)
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_optimization": {
            "stage": stage, "offload_optimizer": {"device": "cpu"}, "sub_group_size": 2000,
        },
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.1,
        "bf16": {"enabled": True},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, lr_scheduler=scheduler, config=config
        )
        if load:
            engine.load_checkpoint(load)
    generator = torch.Generator().manual_seed(rank + 10 * bool(load))
    losses = []
    for _ in range(5):
        inputs = torch.randn(8, 16, generator=generator).bfloat16()
        loss = (engine(inputs) - 1).float().square().mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    with contextlib.redirect_stdout(io.StringIO()):
        engine.save_checkpoint(folder)
    return losses

ours = lambda groups: gt.AdamW(groups, lr=1e-2)
theirs = lambda groups: torch.optim.AdamW(groups, lr=1e-2)
small = lambda groups: gt.AdamW(groups, lr=1e-2, states="q8")
first = trained(ours, "ours")
assert first == trained(theirs, "theirs"), "losses are those of torch.optim"
wanted = trained(theirs, "after", load="theirs")
for make, name in ((ours, "ours"), (ours, "theirs"), (theirs, "ours")):
    assert trained(make, "after", load=name) == wanted, (name, "resumed")
again = trained(small, "small")
assert again[-1] < 0.75 * again[0], again
trained(small, "after", load="small")
print(first[-1])
"""


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed(tmp_path, stage, world):
    """ZeRO-Offload with our class in place of its own, and checkpoints both ways."""
    if find_spec("deepspeed") is None:  # not imported here: it sets up the whole process
        pytest.skip("could not import 'deepspeed'")
    errors = processes.together(
        TRAIN,
        [f"[{stage}, {rank}, {world}]" for rank in range(world)],
        cwd=tmp_path,
        DS_ACCELERATOR="cpu",
        OMP_NUM_THREADS="1",
        GLOO_SOCKET_IFNAME="lo",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(processes.free_port()),
        WORLD_SIZE=str(world),
    )
    assert not errors, "\n".join(errors)


# ---- who makes one of our objects for each parameter, or many groups ----


class Stream:
    """A device's queue of copies, all done at once."""

    def wait_stream(self, other):
        pass

    def synchronize(self):
        pass

    def record_event(self):
        return self


def test_torchao_offload(monkeypatch):
    """`CPUOffloadOptimizer` over our class; the device is the CPU, its streams do nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        offload = pytest.importorskip("torchao.optim.cpu_offload", exc_type=ImportError)
    empty_like = torch.empty_like
    monkeypatch.setattr(offload, "get_available_devices", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(
        torch, "empty_like", lambda x, **given: empty_like(x, device=given.get("device"))
    )
    models = [torch.nn.Linear(80, 80) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    options = {"lr": 1e-2, "weight_decay": 0.1}
    opt = offload.CPUOffloadOptimizer(models[0].parameters(), gt.AdamW, minimal_size=0, **options)
    wanted = gt.AdamW(models[1].parameters(), **options)
    for k in range(4):
        inputs = torch.randn(8, 80, generator=torch.Generator().manual_seed(k))
        for model, each in zip(models, (opt, wanted), strict=True):
            model(inputs).square().mean().backward()
            each.step()
            each.zero_grad()
    for mine, its in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(mine, its)
    assert len(opt.state_dict()["offloaded"]) == 2


@pytest.mark.parametrize("name", MADE)
def test_an_object_for_each_parameter(name):
    """As Megatron's `HybridDeviceOptimizer` makes them: a group of one, and `fused=True`."""
    ours, whole = tensors(), tensors()
    opts = [
        getattr(gt, name.partition(",")[0])([{"params": [p], "fused": True}], **MADE[name])
        for p in ours
    ]
    wanted = getattr(gt, name.partition(",")[0])(whole, **MADE[name])
    for k in range(3):
        give(k, ours, whole)
        for opt in opts:
            opt.step()
        wanted.step()
    for mine, its in zip(ours, whole, strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("implementation", ["fused", "foreach", "for-loop"])
def test_groups_as_torchtitan_makes_them(implementation):
    """`OptimizersContainer`: names and how to execute in each group; states by a step of rate 0."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    how = {"fused": implementation == "fused", "foreach": implementation == "foreach"}
    groups = [
        {"params": [p], "param_names": [name], **how, "lr": 1e-2, "betas": (0.9, 0.95)}
        for name, p in model.named_parameters()
    ]
    opt = gt.AdamW(groups)
    before = [p.detach().clone() for p in model.parameters()]
    for group in opt.param_groups:
        group["lr"], group["kept"] = 0.0, group["lr"]
        for param in group["params"]:
            param.grad = torch.zeros_like(param)
    opt.step()
    opt.zero_grad()
    for group in opt.param_groups:
        group["lr"] = group.pop("kept")
    for value, param in zip(before, model.parameters(), strict=True):
        assert torch.equal(value, param)
        assert {"step", "exp_avg", "exp_avg_sq"} == opt.state[param].keys()
    saved = opt.state_dict()
    assert [g["param_names"] for g in saved["param_groups"]] == [
        [n] for n, _ in model.named_parameters()
    ]
    called = []
    opt.register_step_pre_hook(lambda *_: called.append(1))
    model(torch.ones(3, 4)).square().mean().backward()
    opt.step()
    assert called
    assert not torch.equal(before[0], model[0].weight)
