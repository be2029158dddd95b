"""gradstep.torch on all kinds of tensors: strides, dtypes, memory replaced, shared or freed.

What torch's ordinary (not fused) step does to the same tensors is the measure; bits where both
layouts are ours.
"""

import collections
import copy
import inspect
import io
import pickle
import re
import sys
import sysconfig
import threading
import warnings
import weakref

import numpy as np
import pytest

import gradstep as gs
from cases import RULES as EVERY

torch = pytest.importorskip("torch")
import gradstep.torch as gt  # noqa: E402
from gradstep import _core  # noqa: E402
from gradstep.torch import held as held_module  # noqa: E402
from gradstep.torch import private, trust  # noqa: E402

RULES = [rule for rule in EVERY if hasattr(torch.optim, rule)]  # where torch is the oracle
SHAPE = (4, 6, 5, 3)


def values(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def plain(x):
    return x.clone(memory_format=torch.contiguous_format)


def with_gaps(x):
    """The same numbers in every second column of a larger tensor."""
    room = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 7.0, dtype=x.dtype)
    room[..., ::2] = x
    return room[..., ::2]


LAYOUTS = {
    "contiguous": plain,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: plain(x.transpose(0, 1)).transpose(0, 1),
    "permuted": lambda x: plain(x.permute(3, 1, 0, 2)).permute(2, 1, 3, 0),
    "gaps": with_gaps,
    "permuted gaps": lambda x: with_gaps(x.permute(3, 1, 0, 2)).permute(2, 1, 3, 0),
}
GRADS = {
    **LAYOUTS,
    "expanded": lambda x: x[:1, :, :, :1].expand(x.shape),
    "flipped": lambda x: x.flip(0),  # torch copies
    "offset": lambda x: torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape),
}


def assert_same(got, wanted):
    """Bits, layout aside."""
    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


def stepped(make, layout, grad_layout, stages=(), steps=3):
    """A parameter after some steps, and its optimizer."""
    param = torch.nn.Parameter(LAYOUTS[layout](values(SHAPE, 0)))
    assert param.stride() == LAYOUTS[layout](values(SHAPE, 0)).stride()
    opt = make([param], **dict(stages))
    for k in range(steps):
        param.grad = GRADS[grad_layout](values(SHAPE, k + 1))
        opt.step()
    return param, opt


@pytest.mark.parametrize("grad_layout", GRADS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_change_nothing(layout, grad_layout):
    """Every pair of strides gives the bits of contiguous memory, in the states, too."""
    stages = {"average": 0.9, "clip_norm": 5.0, "stats": True}
    param, opt = stepped(gt.AdamW, layout, grad_layout, stages)
    plainly = {"expanded": "expanded", "flipped": "flipped"}.get(grad_layout, "contiguous")
    wanted, other = stepped(gt.AdamW, "contiguous", plainly, stages)
    assert param.stride() == LAYOUTS[layout](values(SHAPE, 0)).stride()
    assert_same(param, wanted)
    for name, value in other.state[wanted].items():
        assert_same(opt.state[param][name], value)
    # Sums over elements may come in another order.
    assert opt.report.update_norm == pytest.approx(other.report.update_norm, rel=1e-6)
    if "gaps" in layout:
        room = param.detach().permute(3, 1, 0, 2) if "permuted" in layout else param.detach()
        beside = room.as_strided((room.numel() * 2,), (1,))[1::2]
        assert (beside == 7).all()


@pytest.mark.parametrize("rule", RULES)
def test_transposed_gradient_where_torchs_fused_step_is_wrong(rule):
    """It takes memory as if both had the same strides; ours and torch's plain step do not."""
    start, grad = values((64, 64), 0), values((64, 64), 1)

    def result(make, grad):
        param = torch.nn.Parameter(start.clone())
        opt = make([param], lr=0.1)
        param.grad = grad
        opt.step()
        return param.detach()

    theirs, ours = getattr(torch.optim, rule), getattr(gt, rule)
    transposed = plain(grad.t()).t()
    assert torch.equal(transposed, grad)
    assert transposed.stride() != grad.stride()
    right = result(lambda p, **o: theirs(p, foreach=False, **o), transposed)
    torch.testing.assert_close(result(ours, transposed), right, rtol=1e-5, atol=1e-6)
    assert_same(result(ours, transposed), result(ours, grad))
    if "fused" in inspect.signature(theirs).parameters:
        fused = result(lambda p, **o: theirs(p, fused=True, **o), transposed)
        assert (fused - right).abs().max() > 0.05, "torch has mended it: say so in the docs"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stored", ["q8", "q4", "bfloat16"])
def test_states_in_blocks_follow_the_order_of_elements(stored, layout):
    """So the layout changes neither their bits nor what a checkpoint says."""
    options = {"states": stored, "average": 0.5}
    param, opt = stepped(gt.Adam, layout, "channels_last", options)
    wanted, other = stepped(gt.Adam, "contiguous", "contiguous", options)
    if stored != "bfloat16":  # whose random bits follow memory
        assert_same(param, wanted)
        for name, value in other.state[wanted].items():
            assert_same(opt.state[param][name], value)
    # The state goes on elsewhere.
    third = torch.nn.Parameter(plain(param.detach()))
    last = gt.Adam([third], **options)
    last.load_state_dict(opt.state_dict())
    param.grad, third.grad = (values(SHAPE, 9) for _ in range(2))
    opt.step()
    last.step()
    if stored != "bfloat16":
        assert_same(param, third)
    torch.testing.assert_close(param.detach(), third.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("states", [None, "q8"])
def test_memory_format_changed_in_training(states):
    """model.to(memory_format=…), in place, between steps: the states follow."""
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 3)
    other = torch.nn.Conv2d(3, 4, 3)
    other.load_state_dict(model.state_dict())
    opts = [gt.AdamW(m.parameters(), lr=0.1, states=states, average=0.9) for m in (model, other)]
    for k in range(6):
        if k == 2:
            model.to(memory_format=torch.channels_last)
            assert not model.weight.is_contiguous()
        if k == 4:
            model.weight.data = model.weight.data.contiguous()
        for m, opt in zip((model, other), opts, strict=True):
            for i, param in enumerate(m.parameters()):
                param.grad = values(param.shape, 10 * k + i)
            opt.step()
        assert_same(model.weight, other.weight)
        for name, value in opts[1].state[other.weight].items():
            assert_same(opts[0].state[model.weight][name], value)


@pytest.mark.parametrize("stored", [{}, {"states": "q8"}, {"copy_to": []}], ids=str)
@pytest.mark.parametrize("grad_strides", ["as before", "as the parameter's"])
@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_square_parameter_transposed_in_place(rule, stored, grad_strides):
    """The same memory, size and dtype: only strides tell that elements lie elsewhere."""
    if rule == "SGD" and "states" in stored:
        stored = {**stored, "momentum": 0.9}
    param, twin = (torch.nn.Parameter(values((32, 32), 0)) for _ in range(2))
    runs = []
    for one in (param, twin):
        copies = {"copy_to": [torch.zeros(32, 32)]} if "copy_to" in stored else {}
        runs.append((one, copies, getattr(gt, rule)([one], lr=0.1, **{**stored, **copies})))
    for k in range(4):
        if k == 2:  # two parameters that are not the same, but go on alike
            for one, _, opt in runs:
                one.data = one.data.t()
                for name, state in opt.state[one].items():
                    if state.shape == one.shape:
                        opt.state[one][name] = state.t()
            twin.data = twin.data.contiguous()
        for one, copies, opt in runs:
            one.grad = values((32, 32), k)
            if grad_strides != "as before":
                one.grad = torch.empty_like(one).copy_(one.grad)
            opt.step()
            if copies:
                assert_same(copies["copy_to"][0], one.detach())
        assert_same(param, twin)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_copies_of_any_strides(layout, dtype):
    (start, target) = values(SHAPE, 0), LAYOUTS[layout](torch.zeros(SHAPE, dtype=dtype))
    for lay_out in LAYOUTS.values():
        param = torch.nn.Parameter(lay_out(start))
        idle = torch.nn.Parameter(start.clone())
        kept = torch.zeros(SHAPE)
        opt = gt.SGD([param, idle], lr=0.5, copy_to=[target, kept])
        assert_same(target, param.detach().to(dtype))
        kept.fill_(3)
        version = target._version
        param.grad = values(SHAPE, 1)
        opt.step()
        assert_same(target, param.detach().to(dtype))
        assert (kept == 3).all()  # its parameter was not stepped
        assert target._version > version


def test_copies_that_do_not_fit():
    (param,) = [torch.nn.Parameter(torch.zeros(4, 3))]
    for target, message in [
        (torch.zeros(3, 4), r"wanted a tensor of shape \(4, 3\)"),
        (torch.zeros(4, 3, dtype=torch.int8), "got torch.int8"),
        (torch.zeros(4, 1).expand(4, 3), "several elements at one place"),
        (param.data.view(4, 3), r"shares with param_groups\[0\]\['params'\]\[0\]"),
    ]:
        with pytest.raises((TypeError, ValueError), match=rf"^copy_to\[0\]: .*{message}"):
            gt.SGD([param], copy_to=[target])
    others = [torch.zeros(4, 3)] * 2
    with pytest.raises(ValueError, match=r"^copy_to: got 2 tensors, wanted 1"):
        gt.SGD([param], copy_to=others)
    with pytest.raises(ValueError, match=r"^copy_to: got 0 tensors, wanted 1"):
        gt.SGD([param], copy_to=[])
    target = torch.zeros(4, 3)
    opt = gt.SGD([param], copy_to=[target])
    param.grad = torch.ones(4, 3)
    opt.step()
    target.resize_(5, 3)
    with pytest.raises((RuntimeError, ValueError)):
        opt.step()


# ---- shapes and dtypes ----


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (1, 1, 1), (1, 5, 1)], ids=str)
def test_shapes(rule, shape):
    ours, theirs = (torch.nn.Parameter(values(shape, 0, torch.float64)) for _ in range(2))
    opt, wanted = getattr(gt, rule)([ours], lr=0.1), getattr(torch.optim, rule)([theirs], lr=0.1)
    for k in range(3):
        ours.grad, theirs.grad = (values(shape, k, torch.float64) for _ in range(2))
        opt.step()
        if rule != "Adafactor" or ours.numel():  # torch's divides by their number
            wanted.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)
    assert opt.state[ours]["step"] == 3


def test_strides_of_one_element_say_nothing():
    param = torch.nn.Parameter(torch.ones(3, 1))
    opt = gt.Adam([param], lr=0.5)
    param.grad = torch.ones(3).as_strided((3, 1), (1, 77))
    opt.step()
    torch.testing.assert_close(param.detach(), torch.full((3, 1), 0.5))
    assert param.grad.stride() == (1, 77)


@pytest.mark.parametrize(
    "grad_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
def test_gradients_of_another_dtype(rule, dtype, grad_dtype):
    """As the same gradient converted, since each is exact in what the step computes in."""
    param, twin = (torch.nn.Parameter(values((9, 7), 0, dtype)) for _ in range(2))
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    param.grad_dtype, twin.grad_dtype = grad_dtype, compute
    # Both need the same rounding where the gradient is finer than the compute type.
    opt, other = (getattr(gt, rule)([p], lr=0.1, clip_norm=1.0) for p in (param, twin))
    for k in range(3):
        grad = values((9, 7), k + 1).to(torch.float16).to(torch.bfloat16)
        param.grad, twin.grad = plain(grad.t()).t().to(grad_dtype), grad.to(compute)
        opt.step()
        other.step()
    assert_same(param, twin)


def test_gradient_accumulated_in_float32_for_bfloat16():
    """torch's own way there: grad_dtype, and a backward pass."""
    param = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    param.grad_dtype = torch.float32
    opt = gt.SGD([param], lr=1.0)
    for factor in (1.0, 2.0**-10):
        (param * torch.full((4,), factor, dtype=torch.bfloat16)).sum().backward()
    assert param.grad.dtype == torch.float32
    assert param.grad[0] == 1 + 2.0**-10
    opt.step()
    assert_same(param.detach(), torch.full((4,), -(2.0**-10), dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_low_precision_parameters_keep_float32_states(rule, dtype):
    """Each step is that of float32, rounded once; torch's states are as coarse as the parameter."""
    options = {"momentum": 0.9} if rule == "SGD" else {}
    param = torch.nn.Parameter(values((50,), 0, dtype))
    opt = getattr(gt, rule)([param], lr=1e-2, **options)
    for k in range(4):
        precise = torch.nn.Parameter(param.detach().float())
        reference = getattr(gt, rule)([precise], lr=1e-2, **options)
        if k:
            state = {n: v.clone() for n, v in opt.state[param].items()}
            reference.state[precise] = state
        param.grad = values((50,), k + 1, dtype)
        precise.grad = param.grad.float()
        opt.step()
        reference.step()
        assert_same(param.detach(), precise.detach().to(dtype))
        for name, value in opt.state[param].items():
            is_number = name in gs.rule.RULES[rule].memory_names
            assert value.dtype == (torch.float64 if is_number else torch.float32)
            assert_same(value, reference.state[precise][name])


def test_numbers_that_are_negated_when_read():
    """torch.imag of a conjugate: dense where it has one element."""
    for n in (1, 3):
        z = torch.complex(values((n,), 1), values((n,), 2))
        grad = torch.imag(z.conj())
        assert grad.is_neg()
        param = torch.nn.Parameter(torch.zeros(n))
        opt = gt.SGD([param], lr=1.0)
        for _ in range(2):
            param.grad = grad
            opt.step()
        assert_same(param.detach(), -2 * grad.resolve_neg())
        # A parameter, too.
        part = torch.imag(z.conj()).detach()
        assert part.is_neg()
        opt = gt.Adam([part], lr=0.5)
        before = part.resolve_neg().clone()
        part.grad = torch.ones(n)
        opt.step()
        torch.testing.assert_close(part.resolve_neg(), before - 0.5)


def test_gradients_without_memory():
    """Zeros that torch does not write down are zeros."""
    param = torch.nn.Parameter(torch.ones(100))
    opt = gt.SGD([param], lr=0.5, weight_decay=1.0)
    param.grad = torch._efficientzerotensor((100,))
    opt.step()
    assert_same(param.detach(), torch.full((100,), 0.5))


def test_gradients_of_other_classes():
    """A subclass that only looks different is taken; one that has its numbers elsewhere is not."""

    class Tagged(torch.Tensor):
        pass

    param = torch.nn.Parameter(torch.zeros(3))
    opt = gt.SGD([param], lr=1.0)
    for grad in (torch.ones(3).as_subclass(Tagged), torch.nn.Parameter(torch.ones(3))):
        param.grad = grad
        opt.step()
    assert_same(param.detach(), torch.full((3,), -2.0))
    from torch.testing._internal.two_tensor import TwoTensor  # noqa: PLC0415

    param.grad = TwoTensor(torch.ones(3), torch.ones(3))
    with pytest.raises(TypeError, match="TwoTensor, which keeps its numbers in a way of its own"):
        opt.step()
    with pytest.raises(TypeError, match=r"params'\]\[0\]: got .*TwoTensor"):
        gt.SGD([TwoTensor(torch.ones(3), torch.ones(3))])


# ---- memory that is shared, replaced or freed ----


def test_meshing_parameters():
    """Column slices of one matrix, as of a fused projection, share no element."""
    base = values((6, 9), 0)
    before = base.clone()
    parts = [torch.nn.Parameter(base[:, i::3]) for i in range(3)]
    opt = gt.SGD(parts, lr=1.0)
    for i, part in enumerate(parts):
        assert not part.is_contiguous()
        part.grad = torch.full((6, 3), float(i))
    opt.step()
    assert_same(base, before - torch.tensor([0.0, 1, 2]).repeat(6, 3))
    with pytest.raises(ValueError, match=r"\[1\]: got memory that it shares with .*\[0\]"):
        gt.SGD([torch.nn.Parameter(base[:, ::2]), torch.nn.Parameter(base[:, ::4])])


@pytest.mark.parametrize("layout", ["contiguous", "gaps", "channels_last"])
@pytest.mark.parametrize("rule", RULES)
def test_replaced_data(rule, layout):
    """p.data = …, as FSDP and LoRA merging do it: the new memory is stepped, the old one is not."""
    param, twin = (torch.nn.Parameter(values(SHAPE, 0)) for _ in range(2))
    param.data = LAYOUTS[layout](param.data)
    opt, other = getattr(gt, rule)([param], lr=0.1), getattr(gt, rule)([twin], lr=0.1)
    old = []
    for k in range(4):
        param.grad, twin.grad = values(SHAPE, k), values(SHAPE, k)
        opt.step()
        other.step()
        assert_same(param, twin)
        for memory, kept in old:
            assert_same(memory, kept)
        old.append((param.data, param.data.clone()))
        param.data = LAYOUTS[layout](param.data.clone())


@pytest.mark.parametrize("rule", RULES)
def test_replaced_states(rule):
    """Any of them between steps, also the count; the old memory may be gone."""
    options = {"momentum": 0.9} if rule == "SGD" else {}
    param, twin = (torch.nn.Parameter(values((300,), 0)) for _ in range(2))
    opt = getattr(gt, rule)([param], lr=0.1, **options)
    other = getattr(gt, rule)([twin], lr=0.1, **options)
    for k in range(4):
        param.grad, twin.grad = values((300,), k), values((300,), k)
        opt.step()
        other.step()
        for name, value in opt.state[param].items():
            assert_same(value, other.state[twin][name])
            opt.state[param][name] = value.clone()
        if k == 1:
            opt.state[param] = {n: v.clone() for n, v in opt.state[param].items()}
        if k == 2:
            opt.state = {param: {n: v.clone() for n, v in opt.state[param].items()}}
    assert_same(param, twin)
    opt.state[param]["step"].fill_(9)
    opt.step()
    assert opt.state[param]["step"] == 10


LONG = 40  # steps, after which even a proof that is slow was tried


def looks(opt):
    """Whether the last step looked at its states."""
    return opt._bounds.get(None).compiled.plan.looks


def looks_of(opt, steps):
    """Whether each of so many steps looked."""
    found = []
    for _ in range(steps):
        opt.step()
        found.append(looks(opt))
    return found


def trusted(count=1, **options):
    """Parameters with gradients and their optimizer, after two steps."""
    params = [torch.nn.Parameter(values((300,), i)) for i in range(count)]
    for param in params:
        param.grad = values((300,), 9)
    opt = gt.Adam(params, lr=0.1, **options)
    assert looks_of(opt, 2) == [True, False]
    return opt, params


# How states are asked for by somebody who keeps nothing of them.
ASKED = {
    "state": lambda opt, _: opt.state,
    "norm": lambda opt, param: opt.state[param]["exp_avg"].norm().item(),
    "all": lambda opt, _: [v.sum() for one in opt.state.values() for v in one.values()],
    "numpy": lambda opt, param: opt.state[param]["exp_avg"].numpy().sum(),
    "storage": lambda opt, param: opt.state[param]["exp_avg"].untyped_storage().nbytes(),
    "state_dict": lambda opt, _: opt.state_dict(),
    "saved": lambda opt, _: torch.save(opt.state_dict(), io.BytesIO()),
    "copied": lambda opt, _: copy.deepcopy(opt.state_dict()),
    "pickled": lambda opt, _: pickle.dumps(opt),
    "cleared": lambda opt, param: opt.state[param]["exp_avg"].zero_(),
}


@pytest.mark.parametrize("how", ASKED)
def test_one_step_looks_after_each_request(how):
    opt, params = trusted(3)
    for _ in range(3):
        ASKED[how](opt, params[1])
        asked = how != "pickled"  # which takes copies
        assert looks_of(opt, 4) == [asked, False, False, False]


def test_a_logger_at_each_step():
    opt, params = trusted(3)
    for _ in range(LONG):
        opt.state[params[2]]["exp_avg"].norm()
        assert looks_of(opt, 1) == [True]
    assert looks_of(opt, 2) == [False, False]


@pytest.mark.parametrize("how", ["all", "entry", "tensor", "weak", "base", "numbers", "state_dict"])
@pytest.mark.parametrize("which", range(3))
def test_looks_end_when_somebody_lets_go(how, which):
    opt, params = trusted(3)
    kept = KEPT[how][0](opt, params[which])
    assert looks_of(opt, LONG) == [True] * LONG
    del kept
    assert looks_of(opt, 2) == [True, False]


def test_holders_one_after_the_other():
    """The search for somebody who holds a state begins where it ended; others are found, too."""
    opt, params = trusted(5)
    kept = {i: opt.state[param]["exp_avg"] for i, param in enumerate(params)}
    for i in (2, 0, 4, 1):
        del kept[i]
        assert looks_of(opt, 2) == [True, True]
    del kept[3]
    assert looks_of(opt, 2) == [True, False]


def test_a_state_that_is_asked_for_within_a_step():
    """Whoever asks between the proof and the end of the step may keep what he gets."""
    param = torch.nn.Parameter(values((300,), 0))
    param.grad = values((300,), 1)
    kept = []

    def limit(k):
        kept.append(opt.state[param]["exp_avg"] if k else None)
        return 1e6

    opt = gt.Adam([param], clip_norm=limit)
    assert looks_of(opt, 2) == [True, True]
    opt.stages["clip_norm"] = None
    assert looks_of(opt, LONG) == [True] * LONG
    zeroed(kept[-1])
    opt.step()
    assert_same(opt.state[param]["exp_avg"], (1 - 0.9) * param.grad)


@pytest.mark.parametrize("counts", [True, False], ids=["by the core", "by PyTorch"])
@pytest.mark.parametrize("how", ["data", "new", "count", "storage"])
@pytest.mark.parametrize("holder", ["tensor", "entry", "weak", "base"])
def test_what_becomes_of_a_state_that_is_held(holder, how, counts, monkeypatch):
    """Whoever counts the references: it is seen at the next step, however long it was held."""
    if not counts:
        monkeypatch.setattr(private, "SOURCE", _core.TensorSource(torch.Tensor))
        monkeypatch.setattr(held_module, "SOURCE", private.SOURCE)
    param = torch.nn.Parameter(values((300,), 0))
    param.grad = values((300,), 1)
    opt = gt.Adam([param], lr=0.1)
    opt.step()
    kept = KEPT[holder][0](opt, param)
    assert looks_of(opt, LONG) == [True] * LONG
    state = dict.__getitem__(opt._holder.state, param)
    if how == "data":
        zeroed(state["exp_avg"])
    elif how == "new":
        state["exp_avg"] = torch.zeros(300)
    elif how == "count":
        state["step"] = torch.tensor(0.0)
    else:
        state["exp_avg"].untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=r"state of .*exp_avg"):
            opt.step()
        return
    opt.step()
    if how == "count":
        assert state["step"] == 1
    else:
        assert_same(state["exp_avg"], (1 - 0.9) * param.grad)
    del kept


def test_a_slow_proof_is_tried_ever_more_rarely(monkeypatch):
    """Where the core cannot count: at once after a request, and after 1, 2, 4, ... steps."""
    monkeypatch.setattr(private, "SOURCE", _core.TensorSource(torch.Tensor))
    monkeypatch.setattr(held_module, "SOURCE", private.SOURCE)
    opt, params = trusted(2)
    kept = opt.state[params[0]]["exp_avg"].untyped_storage()
    tried = []
    only_ours = trust._only_ours
    made = opt.report.t
    monkeypatch.setattr(
        trust, "_only_ours", lambda kept: tried.append(opt._engine.t - made) or only_ours(kept)
    )
    assert looks_of(opt, 100) == [True] * 100
    assert tried == [0, 2, 5, 10, 19, 36, 69]
    del kept
    found = looks_of(opt, 40)
    assert found[-1] is False
    assert looks_of(opt, 3) == [False] * 3
    assert opt.state
    assert looks_of(opt, 2) == [True, False]


def zeroed(tensor):
    tensor.data = torch.zeros_like(tensor)


# What somebody may keep of the states, and how the first moment becomes 0 by it.
KEPT = {
    "all": (
        lambda opt, _: opt.state,
        lambda kept: [one.update(exp_avg=torch.zeros(300)) for one in kept.values()],
    ),
    "entry": (
        lambda opt, param: opt.state[param],
        lambda kept: kept.update(exp_avg=torch.zeros(300)),
    ),
    "tensor": (lambda opt, param: opt.state[param]["exp_avg"], zeroed),
    "weak": (lambda opt, param: weakref.ref(opt.state[param]["exp_avg"]), lambda k: zeroed(k())),
    "base": (lambda opt, param: opt.state[param]["exp_avg"][:3], lambda kept: zeroed(kept._base)),
    "numbers": (lambda opt, param: opt.state[param]["exp_avg"].numpy(), lambda kept: kept.fill(0)),
    "state_dict": (lambda opt, _: opt.state_dict()["state"][0]["exp_avg"], zeroed),
    "copy": (
        lambda opt, _: copy.copy(opt),
        lambda kept: [zeroed(one["exp_avg"]) for one in kept.state.values()],
    ),
    "nothing": (
        lambda opt, _: lambda: next(iter(opt.state.values())),
        lambda kept: kept().update(exp_avg=torch.zeros(300)),
    ),
}


@pytest.mark.parametrize("how", KEPT)
def test_states_that_somebody_keeps(how):
    """However long ago they were handed out: what becomes of them then is seen."""
    keep, zero = KEPT[how]
    param, twin = (torch.nn.Parameter(values((300,), 0)) for _ in range(2))
    opt, other = gt.Adam([param], lr=0.1), gt.Adam([twin], lr=0.1)
    for k in range(3):
        kept = keep(opt, param) if k else None
        for i in range(LONG):
            param.grad, twin.grad = values((300,), i), values((300,), i)
            opt.step()
            other.step()
        assert looks(opt) == (kept is not None and how != "nothing")
        assert opt.state[param]["step"] == LONG * (k + 1)
        if kept is not None:
            zero(kept)
            other.state[twin]["exp_avg"].zero_()
            del kept
    assert_same(param, twin)


# ---- what the core reads of tensors where they lie ----


def test_shortcuts_are_found():
    """On the machines that these tests run on; elsewhere a step is slower and no other."""
    if sys.platform != "linux" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("looked for on Linux, in a Python with its lock")
    assert private.SOURCE.memory.counts_holders
    assert all(private.BUMP)


def overlapping(opt, param):
    return dict.__getitem__(opt._holder.state, param)["exp_avg"].detach()


def shrunk(_, param):
    grad = torch.ones_like(param)
    grad.untyped_storage().resize_(8)
    return grad


def unaligned(_, param):
    room = torch.zeros(4 * param.numel() + 8, dtype=torch.uint8)
    grad = torch.ones(param.shape)
    flat = torch.frombuffer(memoryview(room.numpy())[1:-7], dtype=torch.float32)
    return flat.view(param.shape).copy_(grad)


# Gradients by what they are like beside those of the steps before, or nothing.
GRADIENTS = {
    "the same kind": lambda _, param: torch.full_like(param, 0.5),
    "none": lambda *_: None,
    "in a larger tensor": lambda _, param: torch.ones(4, *param.shape)[2],
    "transposed": lambda _, param: torch.ones(param.shape[::-1]).t(),
    "expanded": lambda _, param: torch.ones(()).expand(param.shape),
    "with gaps": lambda _, param: with_gaps(torch.ones(param.shape)),
    "negative": lambda _, param: torch.ones(param.shape)._neg_view(),
    "zero": lambda _, param: torch._efficientzerotensor(param.shape),
    "sparse": lambda _, param: torch.ones(param.shape).to_sparse(),
    "shrunk": shrunk,
    "unaligned": unaligned,
    "in a state": overlapping,
    "the parameter": lambda _, param: param.detach(),
    "a parameter": lambda _, param: torch.nn.Parameter(torch.ones(param.shape)),
    "lazily copied": lambda _, param: torch._lazy_clone(torch.full_like(param, 0.25)),
    "leaf": lambda _, param: torch.ones(param.shape, requires_grad=True),
}


def parameter_becomes(change):
    def changed(_, param):
        with torch.no_grad():
            change(param)
        return torch.ones(param.shape)

    return changed


def renewed(param):
    param.data = param.data.clone()


LAZY = []  # what a parameter shares its memory with until one of them is written

PARAMETERS = {
    "transposed": parameter_becomes(lambda param: param.t_()),
    "renewed": parameter_becomes(renewed),
    "shrunk": parameter_becomes(lambda param: param.untyped_storage().resize_(8)),
    "enlarged": parameter_becomes(lambda param: param.untyped_storage().resize_(1 << 16)),
    "shared": parameter_becomes(lambda param: param.share_memory_()),
    "lazily copied": parameter_becomes(lambda param: LAZY.append(torch._lazy_clone(param))),
}


def outcome(make, shape):
    """What four steps come to, the third with this gradient, or with this done to a parameter."""
    param = torch.nn.Parameter(values(shape, 0))
    opt = gt.Adam([param], lr=0.1)
    for k in range(4):
        if k != 2:
            param.grad = values(param.shape, k + 1)
        else:
            grad = make(opt, param)
            param.grad = None
            try:
                param.grad = grad
            except (RuntimeError, TypeError):  # PyTorch takes no such gradient
                return "refused by PyTorch"
        version = param._version
        try:
            opt.step()
        except (RuntimeError, TypeError, ValueError) as error:
            return re.sub("0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")
        assert (param._version > version) == (param.grad is not None)
    state = {name: value.clone() for name, value in opt.state[param].items()}
    return param.detach().clone(), state


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (4, 4)], ids=str)
@pytest.mark.parametrize(
    "make",
    [*GRADIENTS.values(), *PARAMETERS.values()],
    ids=[*GRADIENTS, *(f"parameter {name}" for name in PARAMETERS)],
)
def test_shortcuts_change_nothing(make, shape, monkeypatch):
    """Neither what is refused nor what comes out, beside asking PyTorch about each tensor."""
    mine = outcome(make, shape)
    others = [one.clone() for one in LAZY]
    monkeypatch.setattr(private, "SOURCE", _core.TensorSource(torch.Tensor, *asking()))
    monkeypatch.setattr(held_module, "SOURCE", private.SOURCE)
    monkeypatch.setattr(private, "BUMP", (0, 0))
    LAZY.clear()
    asked = outcome(make, shape)
    if isinstance(mine, str):
        assert mine == asked
    else:
        assert_same(mine[0], asked[0])
        assert mine[1].keys() == asked[1].keys()
        for name, value in mine[1].items():
            assert_same(value, asked[1][name])
    for one, other in zip(others, LAZY, strict=True):
        assert_same(one, other)
    LAZY.clear()


def asking():
    return private._find_handle(), *private._find_functions()


# What somebody may keep of a state's memory.
MEMORY = {
    "storage": lambda tensor: tensor.untyped_storage(),
    "list": lambda tensor: [tensor.untyped_storage()],
    "weak": lambda tensor: weakref.ref(tensor.untyped_storage()),
    "view": lambda tensor: tensor[:3],
    "detached": lambda tensor: tensor.detach(),
    "shared": lambda tensor: [None, tensor.share_memory_()][0],
}


@pytest.mark.parametrize("how", MEMORY)
@pytest.mark.parametrize("name", ["exp_avg_sq", "low", "average"])
def test_memory_that_somebody_keeps(name, how):
    param = torch.nn.Parameter(values((300,), 0, torch.bfloat16))
    param.grad = values((300,), 1, torch.bfloat16)
    opt = gt.Adam([param], lr=0.1, split=True, average=0.9)
    opt.step()
    kept = MEMORY[how](opt.state[param][name])
    for _ in range(LONG):
        opt.step()
    assert looks(opt)
    if kept is None:
        return
    memory = kept[0] if how == "list" else kept() if how == "weak" else kept
    (memory if how in ("storage", "list", "weak") else memory.untyped_storage()).resize_(0)
    del kept, memory
    with pytest.raises(ValueError, match=rf"state of .*{name}"):
        opt.step()


def test_counts_that_others_write():
    """Over an array of NumPy, or in memory that processes share."""
    param = torch.nn.Parameter(values((300,), 0))
    param.grad = values((300,), 1)
    opt = gt.Adam([param], lr=0.1)
    opt.step()
    array = np.array(1, np.float32)
    opt.state[param]["step"] = torch.from_numpy(array)
    for _ in range(LONG):
        opt.step()
    assert array == LONG + 1
    array[...] = 3
    opt.step()
    assert array == 4
    opt.state[param]["step"] = torch.tensor(4.0).share_memory_()
    for _ in range(LONG):
        opt.step()
    assert looks(opt)


@pytest.mark.parametrize("extra", [{"a": 1}, 2.5, "text", [1], torch.eye(3).to_sparse()])
def test_more_in_a_state_than_the_step_needs(extra):
    param = torch.nn.Parameter(values((300,), 0))
    param.grad = values((300,), 1)
    opt = gt.Adam([param])
    opt.step()
    opt.state[param]["extra"] = extra
    for _ in range(LONG):
        opt.step()
    assert not looks(opt)
    assert opt.state[param]["extra"] is extra


@pytest.mark.parametrize("value", [None, 0.5, torch.eye(3).to_sparse()])
@pytest.mark.parametrize("name", ["momentum_buffer", "low", "average"])
def test_other_things_under_names_that_are_not_used(name, value):
    param = torch.nn.Parameter(values((300,), 0))
    param.grad = values((300,), 1)
    opt = gt.SGD([param], lr=0.1)
    opt.step()
    opt.state[param][name] = value
    for _ in range(LONG):
        opt.step()
    assert opt.state[param]["step"] == LONG + 1


def test_another_tensor_at_the_same_address():
    """It has as many holders as the one that the step knows, if that has one less."""
    param = torch.nn.Parameter(values((300,), 0))
    param.grad = values((300,), 1)
    opt = gt.SGD([param], lr=0.1, momentum=0.9)
    opt.step()
    old = opt.state[param]["momentum_buffer"]
    kept = opt.state[param]["momentum_buffer"] = old.detach()
    old.data = torch.empty(0)
    del old
    for _ in range(LONG):
        opt.step()
    assert looks(opt)
    kept.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"state of .*momentum_buffer"):
        opt.step()


def test_a_weak_reference_to_an_entry():
    param = torch.nn.Parameter(values((300,), 0))
    param.grad = values((300,), 1)
    opt = gt.Adam([param], lr=0.1)
    opt.step()
    opt.state[param] = collections.OrderedDict(opt.state[param])
    kept = weakref.ref(opt.state[param])
    for _ in range(LONG):
        opt.step()
    kept()["step"] = torch.tensor(4.0)
    opt.step()
    assert opt.state[param]["step"] == 5


def test_a_gradient_where_a_state_was():
    """That the state has moved is seen before the overlap with where it was is refused."""
    params = [torch.nn.Parameter(torch.ones(300)) for _ in range(2)]
    opt = gt.SGD(params, lr=0.1, momentum=0.9)
    for param in params:
        param.grad = torch.ones(300)
    opt.step()
    buffer = opt.state[params[1]]["momentum_buffer"]
    params[0].grad = buffer.detach()
    buffer.data = buffer.clone()
    opt.step()
    assert opt.state[params[0]]["step"] == 2
    params[0].grad = opt.state[params[1]]["momentum_buffer"].detach()
    with pytest.raises(ValueError, match=r"\.grad: got memory that overlaps"):
        opt.step()


def test_freed_memory_under_a_parameter_with_gaps():
    param = torch.nn.Parameter(values((64, 64), 0)[::2, ::2])
    param.grad = torch.ones(32, 32)
    opt = gt.Adam([param])
    opt.step()
    param.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"params'\]\[0\]: got 0 bytes of memory"):
        opt.step()


@pytest.mark.parametrize("driven", ["lr", "clip_norm"])
@pytest.mark.parametrize("how", ["data", "new", "count"])
def test_functions_that_change_states(how, driven):
    """They run within the step, before anything is changed."""

    asked = []

    def restart(k):
        asked.append(k)
        if asked.count(LONG + 5) == 1 and k == LONG + 5:  # and not again for the same step
            state = opt.state[param]
            if how == "data":
                zeroed(state["exp_avg"])
            elif how == "new":
                state["exp_avg"] = torch.zeros(300)
            else:
                state["step"] = torch.tensor(0.0)
        return 0.1 if driven == "lr" else 1e6

    param = torch.nn.Parameter(values((300,), 0))
    param.grad = values((300,), 1)
    opt = gt.Adam([param], **{driven: restart})
    for _ in range(LONG + 6):
        opt.step()
    if how == "count":
        assert opt.state[param]["step"] == 1
    else:
        assert_same(opt.state[param]["exp_avg"], (1 - 0.9) * param.grad)


@pytest.mark.parametrize("stored", [{}, {"states": "q8"}, {"average": 0.9}, {"clip_norm": 1.0}])
@pytest.mark.parametrize("change", ["transposed", "in place", "other shape"])
def test_parameter_laid_out_anew_after_many_steps(change, stored):
    """States follow its strides, and do not fit another shape."""
    param, twin = (torch.nn.Parameter(values((32, 32), 0)) for _ in range(2))
    opt, other = gt.Adam([param], **stored), gt.Adam([twin], **stored)
    for k in range(2 * LONG):
        if k == LONG:
            assert not looks(opt)
            if change == "transposed":
                param.data = param.data.t()
            elif change == "in place":
                with torch.no_grad():
                    param.t_()
            else:
                param.data = param.data.view(16, 64)
                param.grad = values((16, 64), k)
                if "states" in stored:  # those in q8 have no shape of their own
                    return
                with pytest.raises(ValueError, match=r"wanted .*shape \(16, 64\)"):
                    opt.step()
                return
            twin.data = twin.data.t().contiguous()
            for name, state in other.state[twin].items():
                if state.shape == twin.shape:  # what stays is where it was, by row and column
                    other.state[twin][name] = state
        grad = values((32, 32), k)
        param.grad, twin.grad = torch.empty_like(param).copy_(grad), grad
        opt.step()
        other.step()
    assert_same(param, twin)


@pytest.mark.parametrize("how", ["clear", "delete", "entry", "new", "default"])
def test_cleared_state_starts_anew(how):
    """The step after is the first again, for as often as it is cleared."""
    from collections import defaultdict  # noqa: PLC0415

    param = torch.nn.Parameter(torch.zeros(5))
    opt = gt.Adam([param], lr=0.5)
    for k in range(3):
        param.grad = values((5,), k)
        before = param.detach().clone()
        opt.step()
        torch.testing.assert_close(param.detach(), before - 0.5 * param.grad.sign())
        assert opt.state[param]["step"] == 1
        if how == "clear":
            opt.state.clear()
        elif how == "delete":
            del opt.state[param]
        elif how == "entry":
            opt.state[param].clear()
        else:
            opt.state = {} if how == "new" else defaultdict(dict)


def test_state_replaced_as_a_whole_after_a_load():
    """However often each of both was changed: the new one counts."""
    param = torch.nn.Parameter(torch.zeros(5))
    opt = gt.Adam([param], lr=0.5)
    for k in range(3):
        param.grad = values((5,), k)
        opt.step()
    opt.load_state_dict(opt.state_dict())
    opt.step()
    assert opt.state[param]["step"] == 4
    kept = {name: value.clone() for name, value in opt.state[param].items()}
    old = {name: value.clone() for name, value in kept.items()}
    opt.state = {param: kept}
    opt.step()
    assert opt.state[param] is kept
    assert kept["step"] == 5
    opt.state = {param: old}
    opt.step()
    assert old["step"] == 5
    assert_same(kept["exp_avg"], old["exp_avg"])


def test_states_that_do_not_fit_are_refused():
    param = torch.nn.Parameter(torch.zeros(5))
    opt = gt.Adam([param], average=0.9)
    param.grad = torch.ones(5)
    opt.step()
    kept = dict(opt.state[param])
    before = param.detach().clone()
    for name, wrong, message in [
        ("exp_avg", torch.zeros(4), r"shape \(4,\)"),
        ("exp_avg", torch.zeros(5, dtype=torch.float64), "torch.float64"),
        ("exp_avg_sq", np.zeros(5, np.float32), "array"),
        ("average", None, "None"),
        ("step", 5, "got 5 as 'step'"),
        ("step", torch.tensor(1.5), "got the step"),
        ("step", torch.tensor(1.0, device="meta"), "on meta"),
        ("exp_avg", torch.zeros(5, device="meta"), "on meta"),
        ("exp_avg", torch.zeros(5).to_sparse(), "."),
        ("step", torch.tensor(-1.0), "got the step"),
        ("step", torch.tensor(torch.nan), "got the step"),
        ("exp_avg", kept["exp_avg_sq"], "shares with"),
        ("exp_avg", param.data, "shares with"),
    ]:
        opt.state[param][name] = wrong
        with pytest.raises(
            ValueError, match=rf"state of param_groups\[0\]\['params'\]\[0\].*{message}"
        ):
            opt.step()
        opt.state[param].update(kept)
        assert_same(param.detach(), before)
    opt.step()
    assert opt.state[param]["step"] == 2


@pytest.mark.parametrize("numel", [1, 3])
def test_groups_lists_changed_by_hand(numel):
    """Added, replaced and removed parameters, whether or not their numbers are the same."""
    first, second, third = (torch.nn.Parameter(torch.zeros(numel)) for _ in range(3))
    opt = gt.SGD([first], lr=1.0, momentum=0.5)

    def step():
        for param in (first, second, third):
            param.grad = torch.ones(numel)
        before = [param[0].item() for param in (first, second, third)]
        opt.step()
        return [b - p[0].item() for b, p in zip(before, (first, second, third), strict=True)]

    assert step() == [1, 0, 0]
    params = opt.param_groups[0]["params"]
    second.data.copy_(first.data)
    params[0] = second
    assert step() == [0, 1, 0]
    params.append(third)
    assert step() == [0, 1.5, 1]
    del params[0]
    assert step() == [0, 0, 1.5]
    opt.param_groups[0]["params"] = [first]
    assert step() == [1.5, 0, 0]


def test_no_gradient_keeps_everything():
    """A parameter that is left out keeps its state and count; one that comes late starts at 0."""
    params = [torch.nn.Parameter(torch.zeros(3)) for _ in range(3)]
    opt = gt.AdamW(params, lr=0.1)
    opt.step()
    assert not opt.state
    for k in range(4):
        for i, param in enumerate(params):
            param.grad = values((3,), k) if (k % (i + 1)) == 0 else None
        kept = [
            (p.detach().clone(), {n: v.clone() for n, v in opt.state[p].items()}) for p in params
        ]
        versions = [p._version for p in params]
        opt.step()
        for param, (old, state), version in zip(params, kept, versions, strict=True):
            if param.grad is None:
                assert_same(param.detach(), old)
                assert param._version == version
                for name, value in state.items():
                    assert_same(opt.state[param][name], value)
            else:
                assert param._version > version
    assert [opt.state[p]["step"].item() for p in params] == [4, 2, 2]


def test_freed_memory_is_refused():
    """As FSDP frees it, or a gradient's: never read, never written."""
    param = torch.nn.Parameter(torch.ones(1000))
    opt = gt.Adam([param])
    param.grad = torch.ones(1000)
    opt.step()
    param.grad = torch.ones(1000)
    param.grad.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"\.grad: got 0 bytes of memory, wanted the 4000"):
        opt.step()
    param.grad = torch.ones(1000)
    before = param.detach().clone()
    for size in (0, 400):
        param.data.untyped_storage().resize_(size)
        with pytest.raises(
            ValueError, match=rf"params'\]\[0\]: got {size} bytes of memory, wanted the 4000"
        ):
            opt.step()
    param.data.untyped_storage().resize_(4000)
    param.data.copy_(before)
    opt.step()
    assert opt.state[param]["step"] == 2
    opt.state[param]["exp_avg"].untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"state of .*exp_avg"):
        opt.step()


def test_resized_parameter_is_refused():
    param = torch.nn.Parameter(torch.ones(10))
    opt = gt.Adam([param])
    param.grad = torch.ones(10)
    opt.step()
    param.data = torch.ones(20)
    param.grad = torch.ones(20)
    with pytest.raises(
        ValueError, match=r"got a tensor of torch.float32, shape \(10,\).* as 'exp_avg'"
    ):
        opt.step()
    assert_same(param.detach(), torch.ones(20))
    opt.state.clear()
    opt.step()
    assert (param < 1).all()


def test_unaligned_memory():
    raw = bytearray(4 * 9 + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = torch.frombuffer(raw, dtype=torch.uint8)[1:37]
    unaligned = torch.frombuffer(raw, dtype=torch.float32, count=9, offset=1)
    assert unaligned.data_ptr() % 4
    unaligned.fill_(1)
    opt = gt.SGD([unaligned], lr=0.5)
    unaligned.grad = torch.ones(9)
    opt.step()
    assert (unaligned == 0.5).all()
    assert odd.numel() == 36
    param = torch.nn.Parameter(torch.zeros(9))
    param.grad = unaligned
    opt = gt.SGD([param], lr=1.0)
    opt.step()
    assert (param == -0.5).all()


# ---- where it runs ----


def test_other_default_device_and_dtype():
    """What programs set for their models' sake does not reach the optimizer's own tensors."""
    results = []
    try:
        for device, dtype in (("cpu", torch.float32), ("meta", torch.float64)):
            param = torch.nn.Parameter(values((6, 5), 0))
            grads = [values((6, 5), k).t().contiguous().t() for k in range(3)]
            torch.set_default_device(device)
            torch.set_default_dtype(dtype)
            opt = gt.Adam([param], lr=0.1, states="q8", average=0.9, clip_norm=1.0)
            for grad in grads:
                param.grad = grad
                opt.step()
            other = gt.Adam([param], states="q8", average=0.9)
            other.load_state_dict(opt.state_dict())
            assert {v.device.type for v in other.state[param].values()} == {"cpu"}
            results.append(param.detach())
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert_same(*results)


def test_inference_mode():
    """Steps within it and after it; with gaps, too."""
    for layout in ("contiguous", "gaps"):
        param, twin = (torch.nn.Parameter(LAYOUTS[layout](values(SHAPE, 0))) for _ in range(2))
        opt, other = gt.Adam([param]), gt.Adam([twin])
        for k in range(4):
            param.grad, twin.grad = values(SHAPE, k), values(SHAPE, k)
            with torch.inference_mode(k % 2 == 0):
                opt.step()
            other.step()
        assert_same(param, twin)


def test_autograd_notices_the_step():
    """A backward pass over what the step has overwritten is refused by torch."""
    param = torch.nn.Parameter(torch.ones(3))
    opt = gt.SGD([param], lr=0.1)
    loss = (param * param).sum()
    loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    copy = torch.zeros(3, requires_grad=True)
    opt = gt.SGD([param], lr=0.1, copy_to=[copy])
    loss = (copy * copy).sum()
    param.grad = torch.ones(3)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    version = param._version
    opt.stages["nonfinite"] = "skip"
    param.grad = torch.full((3,), torch.inf)
    opt.step()
    assert opt.report.skipped
    assert param._version == version


def test_threads_follow_torchs():
    """At each step; and their number changes no bit."""
    before = torch.get_num_threads()
    results = []
    try:
        for counts in ((1, 1, 1), (2, 2, 2), (1, 2, 1)):
            params = [torch.nn.Parameter(values((400_000,), i)) for i in range(3)]
            opt = gt.AdamW(params, lr=0.1, clip_norm=1.0, states="q8", stats=True)
            for k, count in enumerate(counts):
                torch.set_num_threads(count)
                for i, param in enumerate(params):
                    param.grad = values((400_000,), 10 * k + i)
                opt.step()
                bound = opt._bounds.get(None)
                assert bound.compiled.plan.threads == count
            results.append((params, opt.report))
    finally:
        torch.set_num_threads(before)
    for params, report in results[1:]:
        assert report == results[0][1]
        for param, wanted in zip(params, results[0][0], strict=True):
            assert_same(param, wanted)


def test_two_threads_at_once_are_told_apart():
    """The second step of the same optimizer is refused while the first goes on."""
    param = torch.nn.Parameter(torch.zeros(3))
    inside, go_on = threading.Event(), threading.Event()

    def slow(k):
        if k == 1:
            inside.set()
            go_on.wait(30)
        return 0.1

    opt = gt.SGD([param], lr=slow)
    param.grad = torch.ones(3)
    opt.step()
    thread = threading.Thread(target=opt.step)
    thread.start()
    assert inside.wait(30)
    with pytest.raises(RuntimeError, match="at work in another thread"):
        opt.step()
    go_on.set()
    thread.join()
    opt.step()
    assert opt.state[param]["step"] == 3
