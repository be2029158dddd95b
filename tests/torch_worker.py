"""The checks of test_torch_distributed.py, run by each of several processes at once.

``python torch_worker.py RANK WORLD FOLDER [CHECK...]`` makes all checks of a world, or those named,
in order and leaves in ``FOLDER/WORLD.RANK.json`` what came of each. The first that fails ends the
process, and with it those that wait for it. What 2 processes save, 1 and 3 load from the folder.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import math
import os
import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    from torch.distributed.optim import ZeroRedundancyOptimizer

import gradstep as gs
import gradstep.torch as gt

CHECKS = {}  # by name: the check and the worlds it is for
FOLDER = Path()
MESH: DeviceMesh


def check(*worlds):
    def register(function):
        CHECKS[function.__name__] = (function, worlds)
        return function

    return register


def rank():
    return dist.get_rank()


def world():
    return dist.get_world_size()


# ---- what the checks are made of ----


def new_model(dtype=torch.float32, sharded=False, seed=0):
    """7 rows, which neither 2 nor 3 divide, and 1, of which all but one process have none."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).to(dtype)
    return fully_shard(model, mesh=MESH) if sharded else model


def give_grads(model, step, skipped=(), dtype=None):
    """The same gradients everywhere, to each process its part."""
    generator = torch.Generator().manual_seed(100 + step)
    for i, param in enumerate(model.parameters()):
        grad = torch.randn(param.shape, generator=generator).to(dtype or param.dtype)
        if isinstance(param, DTensor):
            grad = distribute_tensor(grad, param.device_mesh, param.placements, src_data_rank=None)
        param.grad = None if i in skipped else grad


def whole(tensor):
    if tensor.dtype == torch.int16:  # which gloo does not know
        tensor = tensor.int()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def bits(tensor):
    return whole(tensor).contiguous().view(torch.uint8) if tensor.dim() else whole(tensor)


def assert_same_bits(model, expected, optimizer=None, other=None):
    for param, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(bits(param), bits(wanted))
        if optimizer is None:
            continue
        states, wanted_states = optimizer.state[param], other.state[wanted]
        assert states.keys() == wanted_states.keys()
        for name in states:
            assert torch.equal(bits(states[name]), bits(wanted_states[name])), name


def assert_close(model, expected, rtol=1e-5, atol=1e-7):
    for param, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(whole(param), whole(wanted), rtol=rtol, atol=atol)


def everywhere(value):
    """The value, which must be the same in all processes."""
    values = [None] * world()
    dist.all_gather_object(values, value)
    assert values.count(value) == len(values), values
    return value


def batch(step):
    """All inputs of a step and this process's part of them."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(12, 5, generator=generator)
    return inputs, inputs.chunk(world())[rank()]


def loss_of(model, inputs):
    return (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()


CASES = {
    "SGD": (gt.SGD, {"momentum": 0.9, "nesterov": True}, torch.float32),
    "plain SGD": (gt.SGD, {"maximize": True}, torch.float32),
    "Adagrad": (gt.Adagrad, {"initial_accumulator_value": 0.5, "lr_decay": 0.1}, torch.float32),
    "RMSprop": (gt.RMSprop, {"centered": True, "momentum": 0.5}, torch.float64),
    "Adam": (gt.Adam, {"amsgrad": True, "weight_decay": 0.1}, torch.float32),
    "AdamW": (gt.AdamW, {"average": 0.9, "clip_value": 0.5}, torch.float32),
    "stochastic": (
        gt.AdamW,
        {"lr": 1e-3, "states": "bfloat16", "rounding": "stochastic", "seed": 5},
        torch.bfloat16,
    ),
    "split": (gt.AdamW, {"lr": 1e-3, "split": True, "average": 0.9}, torch.bfloat16),
    "float16": (gt.AdamW, {"states": {"exp_avg": "float16"}}, torch.float16),
}
# Every rule once, except those whose sums over shards are the same only within rounding.
CASES |= {
    f"{name} alone": (
        getattr(gt, name),
        {"lr": 0.1} if "lr" in rule.constant else {},
        torch.float32,
    )
    for name, rule in gs.rule.RULES.items()
    if not rule.gathers
}


def built(case, model):
    rule, options, _ = CASES[case]
    return rule(model.parameters(), **{"lr": gs.schedules.linear(0.1, 0.01, total=10), **options})


# ---- shards ----


@check(2, 3)
def same_bits_as_unsharded():
    for case, (_, _, dtype) in CASES.items():
        model, sharded = new_model(dtype), new_model(dtype, sharded=True)
        plain, optimizer = built(case, model), built(case, sharded)
        for step in range(4):
            for each in (model, sharded):
                give_grads(each, step, skipped=[1] if step < 2 else [])
            plain.step()
            optimizer.step()
            assert optimizer.report == plain.report, case
        assert_same_bits(sharded, model, optimizer, plain)
        assert {s["step"].item() for s in optimizer.state.values()} == {4, 2}


@check(2, 3)
def some_shards_are_empty():
    sizes = [param.to_local().numel() for param in new_model(sharded=True).parameters()]
    assert (0 in sizes) == (rank() > 0)
    assert 7 % world()


@check(2, 3)
def gradients_of_another_dtype():
    model, sharded = new_model(torch.bfloat16), new_model(torch.bfloat16, sharded=True)
    optimizers = [gt.AdamW(each.parameters(), lr=0.1) for each in (model, sharded)]
    for step in range(2):
        for each, optimizer in zip((model, sharded), optimizers, strict=True):
            for param in each.parameters():
                param.grad_dtype = torch.float32
            give_grads(each, step, dtype=torch.float32)
            optimizer.step()
    assert_same_bits(sharded, model)


@check(2, 3)
def norm_is_that_of_all_shards():
    model, sharded = new_model(), new_model(sharded=True)
    plain = gt.SGD(model.parameters(), lr=0.1, clip_norm=0.5, clip_value=0.01)
    optimizer = gt.SGD(sharded.parameters(), lr=0.1, clip_norm=0.5, clip_value=0.01)
    for step in range(3):
        for each in (model, sharded):
            give_grads(each, step)
        squares = sum(param.grad.double().square().sum().item() for param in model.parameters())
        plain.step()
        optimizer.step()
        assert everywhere(optimizer.report.grad_norm) == pytest.approx(squares**0.5, rel=1e-12)
        assert optimizer.report.grad_norm == pytest.approx(plain.report.grad_norm, rel=1e-12)
    assert_close(sharded, model, rtol=1e-6)


@check(2, 3)
def statistics_are_those_of_all_shards():
    model, sharded = new_model(), new_model(sharded=True)
    groups = [[{"params": each[0].parameters()}, {"params": each[2].parameters(), "lr": 0.01}]
              for each in (model, sharded)]  # fmt: skip
    plain, optimizer = (gt.AdamW(each, lr=0.1, stats=True) for each in groups)
    for step in range(3):
        for each in (model, sharded):
            give_grads(each, step)
        plain.step()
        optimizer.step()
        got, wanted = everywhere(optimizer.report.to_dict()), plain.report.to_dict()
        pairs = zip((got, *got["groups"]), (wanted, *wanted["groups"]), strict=True)
        for ours, theirs in pairs:
            for name in gs.Statistics._fields:
                assert (ours[name] or 0) == pytest.approx(theirs[name] or 0, rel=1e-5), name
    weight = nn.Parameter(torch.ones(3))
    mixed = gt.AdamW([*sharded.parameters(), weight], stats=True)
    weight.grad = torch.ones(3)
    with pytest.raises(ValueError, match="stats: got parameters of which some are spread over"):
        mixed.step()


@check(2, 3)
def training_is_that_of_one_process():
    """Gradients summed by fully_shard, clipped; against one process with all inputs."""
    model, sharded = new_model(), new_model(sharded=True)
    plain = gt.SGD(model.parameters(), lr=0.1, momentum=0.9, clip_norm=0.5)
    optimizer = gt.SGD(sharded.parameters(), lr=0.1, momentum=0.9, clip_norm=0.5)
    for step in range(10):
        inputs, part = batch(step)
        for each, mine, opt in ((model, inputs, plain), (sharded, part, optimizer)):
            opt.zero_grad()
            loss_of(each, mine).backward()
            opt.step()
        assert everywhere(optimizer.report.grad_norm) == pytest.approx(
            plain.report.grad_norm, rel=1e-4
        )
        assert plain.report.grad_norm > 0.5
    assert_close(sharded, model, rtol=1e-4, atol=1e-5)


@check(2, 3)
def parameters_and_gradients_in_host_memory():
    """fully_shard's CPUOffloadPolicy: the same bits as without it, clipped to one norm of all."""
    policy = CPUOffloadPolicy(pin_memory=False)
    for rule, options in (("AdamW", {"clip_norm": 0.5}), ("SGD", {"momentum": 0.9})):
        plain, offloaded = new_model(sharded=True), new_model()
        for layer in (offloaded[0], offloaded[2], offloaded):
            fully_shard(layer, mesh=MESH, offload_policy=policy)
        both = [
            getattr(gt, rule)(model.parameters(), lr=0.1, **options) for model in (plain, offloaded)
        ]
        for step in range(5):
            _, part = batch(step)
            for model, opt in zip((plain, offloaded), both, strict=True):
                loss_of(model, part).backward()
                opt.step()
                opt.zero_grad()
            norms = [opt.report.grad_norm for opt in both]
            assert norms[0] == norms[1]
            assert norms[0] is None or everywhere(norms[0]) > 0
        assert_same_bits(plain, offloaded, *both)


@check(2, 3)
def sharded_parameters_on_a_device():
    """fully_shard and offload(): the same bits and norm as with the rule's own class."""
    for dtype, options in (
        (torch.float32, {"clip_norm": 0.5}),
        (torch.float32, {"nonfinite": "skip", "stats": True}),
        (torch.bfloat16, {"split": True}),
        (torch.bfloat16, {"rounding": {"params": "stochastic"}}),
    ):
        plain, model = new_model(dtype, sharded=True), new_model(dtype, sharded=True)
        reference = gt.AdamW(plain.parameters(), lr=0.1, **options)
        link = gt.SimulatedLink(1e9, delay=lambda: 1e-3)
        opt = gt.offload(model, gt.AdamW, lr=0.1, link=link, **options)
        for step in range(4):
            _, part = batch(step)
            for its, one in ((plain, reference), (model, opt)):
                loss_of(its, part.to(dtype)).backward()
                one.step()
                one.zero_grad()
            assert opt.report == reference.report
            if step == 2:  # a checkpoint of one goes on in the other
                saved = get_optimizer_state_dict(plain, reference)
                set_optimizer_state_dict(model, opt, saved)
        opt.wait()
        assert_same_bits(plain, model, reference, opt)


@check(2)
def copies_on_a_device_whose_gradients_are_summed():
    """DistributedDataParallel and offload(): gradients are taken once they are whole."""
    plain, model = new_model(), new_model()
    both = [DistributedDataParallel(its) for its in (plain, model)]
    reference = gt.AdamW(plain.parameters(), lr=0.1, clip_norm=0.5)
    link = gt.SimulatedLink(1e9, delay=lambda: 1e-3)
    opt = gt.offload(model, gt.AdamW, lr=0.1, clip_norm=0.5, link=link)
    for step in range(4):
        _, part = batch(step)
        for its, one in zip(both, (reference, opt), strict=True):
            loss_of(its, part).backward()
            one.step()
            one.zero_grad()
        assert everywhere(opt.report.grad_norm) == reference.report.grad_norm
    opt.wait()
    for got, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(got, wanted)


@check(2, 3)
def what_is_not_finite_is_skipped_by_all():
    for last in (False, True):
        sharded = new_model(sharded=True)
        before = [whole(param).clone() for param in sharded.parameters()]
        optimizer = gt.AdamW(sharded.parameters(), nonfinite="skip")
        give_grads(sharded, 0)
        weight = next(iter(sharded.parameters()))
        if rank() == (world() - 1 if last else 0):
            weight.grad.to_local()[-1, -1] = float("nan") if last else float("inf")
        optimizer.step()
        assert everywhere(optimizer.report.skipped)
        assert optimizer.report.t == 0
        for param, value in zip(sharded.parameters(), before, strict=True):
            assert torch.equal(whole(param), value)
        optimizer.stages["nonfinite"] = "raise"
        with pytest.raises(FloatingPointError, match="gradients of all processes"):
            optimizer.step()
        give_grads(sharded, 0)
        optimizer.step()
        assert everywhere((optimizer.report.skipped, optimizer.report.t)) == (False, 1)


@check(2, 3)
def loss_scale_is_lowered_by_all():
    sharded = new_model(sharded=True)
    optimizer = gt.AdamW(sharded.parameters(), lr=0.1, clip_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    norms = []
    for step in range(3):
        optimizer.zero_grad()
        inputs, part = batch(0)
        scaler.scale(loss_of(sharded, part)).backward()
        if step == 1 and rank() == world() - 1:
            next(iter(sharded.parameters())).grad.to_local()[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        norms.append(optimizer.report.grad_norm)
        assert everywhere(optimizer.report.skipped or False) == (step == 1)
        assert everywhere(scaler.get_scale()) == (1024 if step < 1 else 512)
    model = new_model()
    loss_of(model, inputs).backward()
    assert norms[0] == pytest.approx(nn.utils.get_total_norm(
        [param.grad for param in model.parameters()]).item(), rel=1e-4)  # fmt: skip


@check(2, 3)
def memory_may_move_and_averages_are_shown():
    model, sharded = new_model(), new_model(sharded=True)
    plain = gt.AdamW(model.parameters(), lr=0.1, average=0.5)
    optimizer = gt.AdamW(sharded.parameters(), lr=0.1, average=0.5)
    for step in range(3):
        for each in (model, sharded):
            give_grads(each, step)
        if step == 1:  # as a model does that is loaded anew
            for param in sharded.parameters():
                param._local_tensor = param._local_tensor.clone()
        if step == 2:  # as a checkpoint does
            for state in optimizer.state.values():
                state["exp_avg"] = state["exp_avg"].clone()
                state["step"] = torch.tensor(7.0)
            for state in plain.state.values():
                state["step"].fill_(7)
        plain.step()
        optimizer.step()
        assert_same_bits(sharded, model, optimizer, plain)
    now = [whole(param).clone() for param in sharded.parameters()]
    with optimizer.averaged(), plain.averaged():
        assert_same_bits(sharded, model)
        assert not torch.equal(whole(next(iter(sharded.parameters()))), now[0])
    assert_same_bits(sharded, model)


@check(2, 3)
def the_clock_does_not_follow_the_counts_of_parameters():
    sharded = new_model(sharded=True)
    optimizer = gt.SGD(sharded.parameters(), lr=gs.schedules.linear(1.0, 0.0, total=10))
    give_grads(sharded, 0)
    optimizer.step()
    for state in optimizer.state.values():
        state["step"] = torch.tensor(5.0)
    optimizer.step()
    assert optimizer.report.t == 2
    assert optimizer.report.lr == 0.9


@check(2, 3)
def rules_that_look_at_whole_tensors_add_up_over_shards():
    """FSDP2's parts within rounding of the whole; the same number in every process."""
    for rule, options in (
        (gt.LAMB, {"weight_decay": 0.1}),
        (gt.LARS, {"trust_coefficient": 1.0}),
        (gt.StableAdamW, {"weight_decay": 0.1}),
        (gt.AdamW, {"cautious": True}),
        (gt.Prodigy, {"d0": 0.1}),
        (gt.DoG, {"reps_rel": 0.1}),
    ):
        for more in ({}, {"clip_norm": 0.5, "stats": True}, {"average": 0.9, "clip_value": 0.5}):
            model, sharded = new_model(), new_model(sharded=True)
            made = {"lr": 0.1, **options, **more}
            plain, optimizer = rule(model.parameters(), **made), rule(sharded.parameters(), **made)
            for step in range(4):
                for each in (model, sharded):
                    give_grads(each, step, skipped=[1] if step < 2 else [])
                plain.step()
                optimizer.step()
                if more.get("stats"):
                    assert abs(optimizer.report.cosine or 0) <= 1
                    norms = (optimizer.report.update_norm, plain.report.update_norm)
                    assert abs(norms[0] / norms[1] - 1) < 1e-6
            for mine, its in zip(sharded.parameters(), model.parameters(), strict=True):
                torch.testing.assert_close(whole(mine), its.detach(), rtol=1e-6, atol=1e-7)


@check(2, 3)
def rules_that_look_at_whole_tensors_under_zero():
    """Each process has whole tensors: the same bits, and nothing is added up."""
    for rule in (gt.LAMB, gt.LARS):
        model, alone = new_model(), new_model()
        zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=rule, lr=0.1)
        plain = rule(alone.parameters(), lr=0.1)
        for step in range(3):
            for each in (model, alone):
                give_grads(each, step)
            zero.step()
            plain.step()
        for mine, its in zip(model.parameters(), alone.parameters(), strict=True):
            assert torch.equal(bits(mine), bits(its))


@check(2, 3)
def muon_makes_whole_matrices_orthogonal():
    """Of FSDP2 and of tensor parallelism, within rounding of one process's; of ZeRO its bits."""
    for beside, splits, more in (
        ("AdamW", None, {}),
        ("LAMB", None, {"clip_norm": 0.5}),  # whose sums go over processes after the products
        ("Prodigy", 7, {"average": 0.9}),
    ):
        model, sharded = new_model(), new_model(sharded=True)
        groups = [
            [
                {"params": [m[0].weight], "splits": splits},
                {"params": [m[2].weight]},
                {"params": [m[0].bias, m[2].bias], "rule": beside},
            ]
            for m in (model, sharded)
        ]
        plain, optimizer = (gt.Muon(each, lr=0.1, **more) for each in groups)
        for step in range(3):
            for each in (model, sharded):
                give_grads(each, step)
            plain.step()
            optimizer.step()
        assert_close(sharded, model, rtol=1e-5, atol=1e-6)
    model = nn.Sequential(nn.Linear(6, 12, bias=False), nn.Linear(12, 6, bias=False))
    layers = {"0": ColwiseParallel(), "1": RowwiseParallel()}
    torch.manual_seed(0)
    with torch.no_grad():
        for param in model.parameters():
            param.normal_()
    tensors = parallelize_module(copy.deepcopy(model), MESH, layers)
    plain, optimizer = (gt.Muon(m.parameters(), lr=0.1) for m in (model, tensors))
    for step in range(3):
        give_grads(model, step)
        give_grads(tensors, step)
        plain.step()
        optimizer.step()
    assert_close(tensors, model, rtol=1e-5, atol=1e-6)
    divided, alone = copy.deepcopy(model), copy.deepcopy(model)
    zero = ZeroRedundancyOptimizer(divided.parameters(), optimizer_class=gt.Muon, lr=0.1)
    single = gt.Muon(alone.parameters(), lr=0.1)
    for step in range(2):
        give_grads(divided, step)
        give_grads(alone, step)
        zero.step()
        single.step()
    assert_same_bits(divided, alone)


@check(2, 3)
def step_in_backward_steps_shards():
    for clip_norm in (None, 0.5):
        model, sharded = new_model(sharded=True), new_model(sharded=True)
        usual = gt.AdamW(model.parameters(), lr=0.1, clip_norm=clip_norm)
        optimizer = gt.AdamW(sharded.parameters(), lr=0.1, clip_norm=clip_norm)
        gt.step_in_backward(optimizer)
        for step in range(3):
            _, part = batch(step)
            usual.zero_grad()
            loss_of(model, part).backward()
            usual.step()
            loss_of(sharded, part).backward()
            assert all(param.grad is None for param in sharded.parameters())
            if clip_norm:
                assert optimizer.report == usual.report
        assert_same_bits(sharded, model, optimizer, usual)


@check(2, 3)
def tensor_parallelism():
    """Whose layers shard along either dimension, and leave gradients as sums to be taken."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
    split = parallelize_module(
        copy.deepcopy(model),
        MESH,
        {
            "0": SequenceParallel(),
            "1": ColwiseParallel(input_layouts=Shard(1)),
            "3": RowwiseParallel(),
        },
    )
    plain = gt.SGD(model.parameters(), lr=0.1, momentum=0.9, clip_norm=0.5)
    optimizer = gt.SGD(split.parameters(), lr=0.1, momentum=0.9, clip_norm=0.5)
    inputs = torch.randn(2, 6, 12)
    for _ in range(3):
        for each, mine, opt in (
            (model, inputs, plain),
            (split, inputs.chunk(world(), 1)[rank()], optimizer),
        ):
            opt.zero_grad()
            each(mine).square().sum().backward()
        assert any(param.grad.placements[0].is_partial() for param in split.parameters())
        plain.step()
        optimizer.step()
        assert everywhere(optimizer.report.grad_norm) == pytest.approx(
            plain.report.grad_norm, rel=1e-4
        )
    assert_close(split, model, rtol=1e-4, atol=1e-5)


@check(2, 3)
def refusals():
    def tensor(placement, shape=(6, 4), dtype=torch.float32, **options):
        whole = torch.ones(shape, dtype=dtype)
        if isinstance(placement, Partial):
            made = DTensor.from_local(whole, MESH, [placement], run_check=False)
        else:
            made = distribute_tensor(whole, MESH, [placement], src_data_rank=None)
        return nn.Parameter(made)

    for storage in ("q8", "q4"):
        with pytest.raises(ValueError, match=rf"got a DTensor with exp_avg in {storage}, whose"):
            gt.AdamW([tensor(Shard(0))], states={"exp_avg": storage})
    with pytest.raises(ValueError, match=r"got the placement Partial\(sum\), a sum that is not"):
        gt.AdamW([tensor(Partial())])
    columns = tensor(Shard(1), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="its part is no run of elements, wanted it sharded along"):
        gt.AdamW([columns], rounding="stochastic")
    gt.AdamW([columns])
    with pytest.raises(TypeError, match=r"copy_to\[0\]: got a copy of a DTensor"):
        gt.AdamW([tensor(Shard(0))], copy_to=[torch.ones(6, 4)])
    with pytest.raises(TypeError, match="norm_group: got 3, wanted"):
        gt.AdamW([tensor(Shard(0))], norm_group=3)

    param, plain = tensor(Shard(0)), nn.Parameter(torch.ones(6, 4))
    optimizer = gt.AdamW([param, plain])
    param.grad = tensor(Shard(0)).detach()
    plain.grad = torch.ones(6, 4)
    optimizer.step()
    saved = optimizer.state_dict()
    for key, name in ((0, "a plain tensor"), (1, "a DTensor")):
        wrong = copy.copy(saved)
        other = saved["state"][1 - key]["exp_avg"]
        wrong["state"] = {**saved["state"], key: {**saved["state"][key], "exp_avg": other}}
        with pytest.raises(TypeError, match=rf"\['state'\]\[{key}\]\['exp_avg'\]: got {name}"):
            optimizer.load_state_dict(wrong)
    optimizer.load_state_dict(saved)
    optimizer.state[param]["exp_avg"] = tensor(Replicate()).detach()
    with pytest.raises(ValueError, match="as 'exp_avg', wanted a DTensor on"):
        optimizer.step()


# ---- the same parameters everywhere ----


@check(2, 3)
def ddp():
    for rule, options in ((gt.AdamW, {}), (gt.SGD, {"momentum": 0.9})):
        models = [new_model(seed=rank()) for _ in range(2)]  # DDP brings rank 0's to all
        wrapped = [DistributedDataParallel(m, gradient_as_bucket_view=True) for m in models]
        ours = rule(models[0].parameters(), lr=0.1, clip_norm=0.5, **options)
        theirs = getattr(torch.optim, rule.__name__)(models[1].parameters(), lr=0.1, **options)
        for step in range(5):
            for each, optimizer in zip(wrapped, (ours, theirs), strict=True):
                optimizer.zero_grad(set_to_none=step % 2 == 0)
                loss_of(each, batch(step)[1]).backward()
            norm = nn.utils.clip_grad_norm_(models[1].parameters(), 0.5)
            ours.step()
            theirs.step()
            assert everywhere(ours.report.grad_norm) == pytest.approx(norm.item(), rel=1e-3)
        assert_close(*models, rtol=1e-3, atol=1e-4)
        everywhere([param.tolist() for param in models[0].parameters()])


@check(2, 3)
def step_in_backward_waits_for_ddp():
    for clip_norm in (None, 0.5):
        models = [new_model(), new_model()]
        wrapped = [DistributedDataParallel(each) for each in models]
        usual, optimizer = (
            gt.AdamW(each.parameters(), lr=0.1, clip_norm=clip_norm) for each in models
        )
        gt.step_in_backward(optimizer)
        for step in range(3):
            usual.zero_grad()
            for each in wrapped:
                loss_of(each, batch(step)[1]).backward()
            usual.step()
            assert all(param.grad is None for param in models[1].parameters())
            assert optimizer.report == usual.report
        assert_same_bits(*models, usual, optimizer)
        everywhere([param.tolist() for param in models[1].parameters()])


@check(2, 3)
def zero_redundancy_optimizer():
    schedule = gs.schedules.linear(0.1, 0.01, total=10)
    for clip_norm in (None, 0.5):
        model, divided = new_model(), new_model()
        plain = gt.AdamW(model.parameters(), lr=schedule, clip_norm=clip_norm)
        zero = ZeroRedundancyOptimizer(
            divided.parameters(),
            gt.AdamW,
            lr=schedule,
            clip_norm=clip_norm,
            norm_group="world",
            parameters_as_bucket_view=clip_norm is None,
        )
        for step in range(3):
            for each in (model, divided):
                give_grads(each, step)
            plain.step()
            zero.step()
            assert zero.optim.report.lr == plain.report.lr == zero.param_groups[0]["lr"]
            if clip_norm:
                norm = everywhere(zero.optim.report.grad_norm)
                assert norm == pytest.approx(plain.report.grad_norm, rel=1e-12)
        assert_close(divided, model, rtol=1e-6) if clip_norm else assert_same_bits(divided, model)
        # What one process puts together is what anyone loads.
        zero.consolidate_state_dict(0)
        stored = io.BytesIO()
        if rank() == 0:
            torch.save(zero.state_dict(), stored)
        texts = [stored.getvalue()]
        dist.broadcast_object_list(texts)
        loaded = torch.load(io.BytesIO(texts[0]), weights_only=True)
        for rule in (gt.AdamW, torch.optim.AdamW):
            single = rule(copy.deepcopy(divided).parameters())
            single.load_state_dict(copy.deepcopy(loaded))
            assert {state["step"].item() for state in single.state.values()} == {3}
            for a, b in zip(single.state.values(), plain.state.values(), strict=True):
                torch.testing.assert_close(a["exp_avg_sq"], b["exp_avg_sq"])
        again = ZeroRedundancyOptimizer(divided.parameters(), gt.AdamW, clip_norm=clip_norm,
                                        lr=0.5, norm_group="world")  # fmt: skip
        again.load_state_dict(loaded)
        again.param_groups[0]["lr"] = schedule
        for each in (model, divided):
            give_grads(each, 3)
        plain.step()
        again.step()
        assert_close(divided, model, rtol=1e-6) if clip_norm else assert_same_bits(divided, model)


@check(2, 3)
def shards_in_plain_tensors():
    """As the older FullyShardedDataParallel has them."""
    for use_orig_params in (False, True):
        model, each = new_model(), new_model()
        sharded = FullyShardedDataParallel(
            each, device_id=torch.device("cpu"), use_orig_params=use_orig_params
        )
        plain = gt.SGD(model.parameters(), lr=0.1, clip_norm=0.5)
        optimizer = gt.SGD(sharded.parameters(), lr=0.1, clip_norm=0.5, norm_group="world")
        for step in range(3):
            inputs, part = batch(step)
            for each, mine, opt in ((model, inputs, plain), (sharded, part, optimizer)):
                opt.zero_grad()
                loss_of(each, mine).backward()
                opt.step()
            norm = everywhere(optimizer.report.grad_norm)
            assert norm == pytest.approx(plain.report.grad_norm, rel=1e-4)
            assert norm > 0.5


@check(2, 3)
def zero_where_some_processes_have_no_parameter():
    weight = nn.Parameter(torch.ones(3))
    zero = ZeroRedundancyOptimizer(
        [weight],
        functools.partial(gt.AdamW, norm_group=dist.group.WORLD),
        lr=0.1,
        clip_norm=1.0,
        nonfinite="skip",
        states="bfloat16",
    )
    for value in (3.0, float("nan"), 4.0):
        weight.grad = torch.full((3,), value)
        zero.step()
        norm = everywhere(repr(zero.optim.report.grad_norm))
        assert float(norm) == pytest.approx(value * 3**0.5, nan_ok=True)
        assert everywhere(zero.optim.report.skipped) == math.isnan(value)
    everywhere(weight.tolist())
    assert 0.75 < weight[0].item() < 0.85


# ---- torch.distributed.checkpoint ----

SAVED = {
    "AdamW": (gt.AdamW, torch.optim.AdamW, {"lr": 0.1, "amsgrad": True}, torch.float32),
    "Adagrad": (gt.Adagrad, torch.optim.Adagrad, {"lr": 0.1}, torch.float32),
    "RMSprop": (gt.RMSprop, torch.optim.RMSprop, {"lr": 0.1, "momentum": 0.9}, torch.float32),
    "SGD": (gt.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, torch.float32),
    "plain SGD": (gt.SGD, torch.optim.SGD, {"lr": 0.1}, torch.float32),
    "bfloat16": (
        gt.AdamW,
        None,
        {"lr": 1e-2, "split": True, "average": 0.9, "states": {"exp_avg": "bfloat16"}},
        torch.bfloat16,
    ),
}


def stepped(model, optimizer, steps):
    for step in steps:
        give_grads(model, step)
        optimizer.step()


def states_of(model, optimizer):
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }


@check(2)
def save():
    for name, (ours, theirs, options, dtype) in SAVED.items():
        for rule in filter(None, (ours, theirs)):
            model = new_model(dtype, sharded=True)
            optimizer = rule(model.parameters(), **options)
            stepped(model, optimizer, range(2))
            where = FOLDER / f"{name} {rule.__module__}"
            dcp.save(states_of(model, optimizer), checkpoint_id=where)


@check(1, 2, 3)
def load():
    """What 2 processes saved goes on in 1, 2 and 3, and from each class into the other."""
    for name, (ours, theirs, options, dtype) in SAVED.items():
        reference = new_model(dtype)
        stepped(reference, ours(reference.parameters(), **options), range(3))
        for saved in filter(None, (ours, theirs)):
            for rule in filter(None, (ours, theirs)):
                for sharded in (False, True):
                    model = new_model(dtype, sharded, seed=1)
                    optimizer = rule(model.parameters(), **options)
                    states = states_of(model, optimizer)
                    # torch's SGD does not count its steps, and so saves no count.
                    lacks = saved is torch.optim.SGD and rule is gt.SGD
                    planner = dcp.DefaultLoadPlanner(allow_partial_load=lacks)
                    where = FOLDER / f"{name} {saved.__module__}"
                    dcp.load(states, checkpoint_id=where, planner=planner)
                    set_model_state_dict(model, states["model"])
                    set_optimizer_state_dict(model, optimizer, states["optimizer"])
                    stepped(model, optimizer, [2])
                    if saved is rule is ours:
                        assert_same_bits(model, reference)
                    else:
                        assert_close(model, reference)
                    if ours is not gt.SGD:
                        assert {s["step"].item() for s in optimizer.state.values()} == {3}


@check(1, 2, 3)
def looking_at_a_new_optimizer_changes_nothing():
    """To know its states, DCP calls step() with gradients of 0 and a rate of 0."""
    for case, (_, options, dtype) in CASES.items():
        model = new_model(dtype, sharded=True)
        before = [bits(param).clone() for param in model.parameters()]
        optimizer = built(case, model)
        # Some rules, torch's Adagrad too, have states from the beginning: no step is needed.
        count = 1 if optimizer.state else 2
        got = get_optimizer_state_dict(model, optimizer)
        for param, value in zip(model.parameters(), before, strict=True):
            assert torch.equal(bits(param), value), case
            assert param.grad is None
        assert set(got["state"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
        give_grads(model, 0)
        optimizer.step()
        assert {state["step"].item() for state in optimizer.state.values()} == {count}
        schedule = gs.schedules.linear(0.1, 0.01, total=10)
        assert optimizer.report.lr == options.get("lr", schedule(count - 1)), case


@check(2, 3)
def whole_state_dicts():
    """Gathered at one process, and given out by it."""
    model, reference = new_model(sharded=True), new_model()
    optimizer = gt.AdamW(model.parameters(), lr=0.1)
    stepped(model, optimizer, range(2))
    stepped(reference, plain := gt.AdamW(reference.parameters(), lr=0.1), range(3))
    full = StateDictOptions(full_state_dict=True, cpu_offload=True)
    saved = get_optimizer_state_dict(model, optimizer, options=full)
    assert bool(saved) == (rank() == 0)
    for flat in (False, True):
        again = gt.AdamW(model.parameters(), lr=0.5)
        again.zero_grad()  # while there are gradients, DCP makes no states to load into
        if flat:
            flatten = StateDictOptions(flatten_optimizer_state_dict=True)
            saved = get_optimizer_state_dict(model, optimizer, options=flatten)
            set_optimizer_state_dict(model, again, saved, options=flatten)
        else:
            give_out = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            set_optimizer_state_dict(model, again, saved, options=give_out)
        copied = [param.detach().clone() for param in model.parameters()]
        stepped(model, again, [2])
        assert_same_bits(model, reference, again, plain)
        with torch.no_grad():
            for param, value in zip(model.parameters(), copied, strict=True):
                param.copy_(value)


# ---- meshes of two dimensions ----


@check(4)
def meshes():
    """Shards of shards, as of fully_shard over tensor parallelism, and copies of shards."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh(), nn.Linear(16, 8)).bfloat16()
    layers = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    both = parallelize_module(copy.deepcopy(model), mesh["tensor"], layers)
    both = fully_shard(both, mesh=mesh["data"])
    copies = fully_shard(copy.deepcopy(model), mesh=mesh)  # replicated over the first dimension
    # 10 rows: pieces of 3 and 2 of the halves, which need not be a run.
    odd = parallelize_module(nn.Linear(8, 10).bfloat16(), mesh["tensor"], ColwiseParallel())
    odd = fully_shard(odd, mesh=mesh["data"])
    for params in (both[2].parameters(), odd.parameters()):  # columns, and these
        with pytest.raises(ValueError, match="no run of elements"):
            gt.AdamW(params, rounding="stochastic")
    for sharded, expected, rounding in (
        (both, model, None),
        (both[0], model[0], "stochastic"),
        (copies, model, None),
        (copies, model, "stochastic"),
    ):
        before = [param.detach().clone() for param in sharded.parameters()]
        for clip_norm in (None, 0.5):
            each = copy.deepcopy(expected)
            plain, optimizer = (
                gt.AdamW(m.parameters(), lr=0.1, rounding=rounding, clip_norm=clip_norm)
                for m in (each, sharded)
            )
            for step in range(3):
                give_grads(each, step)
                give_grads(sharded, step)
                plain.step()
                optimizer.step()
                if clip_norm:
                    norm = everywhere(optimizer.report.grad_norm)
                    assert norm == pytest.approx(plain.report.grad_norm, rel=1e-12)
            if clip_norm is None:
                assert_same_bits(sharded, each, optimizer, plain)
            else:
                assert_close(sharded, each, rtol=0.02, atol=0.01)
            with torch.no_grad():
                for param, value in zip(sharded.parameters(), before, strict=True):
                    param.copy_(value)


def main(rank, world, folder, names):
    global FOLDER, MESH  # noqa: PLW0603 - one world a process
    FOLDER = Path(folder)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(FOLDER / f"rendezvous-{world}").as_uri(),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=120),
    )
    MESH = init_device_mesh("cpu", (world,))
    results = {}

    def note(name, what):
        results[name] = what
        (FOLDER / f"{world}.{rank}.json").write_text(json.dumps(results))

    for name, (function, worlds) in CHECKS.items():
        if world not in worlds or name not in names:
            continue
        try:
            function()
            dist.barrier()  # that a failure elsewhere be one of this check
        except BaseException:
            note(name, traceback.format_exc())
            os._exit(1)  # not waiting for others: they shall end, too
        note(name, None)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:] or CHECKS)
