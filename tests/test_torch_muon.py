"""Muon on tensors: PyTorch's own, our arrays, checkpoints of both, and a module's parameters."""

import copy
import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gradstep as gs  # noqa: E402
import gradstep.torch as gt  # noqa: E402

OPTIONS = [
    {},
    {"nesterov": False, "momentum": 0.5},
    {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.3},
    {"ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3},
]
SHAPES = [(12, 20), (20, 12), (16, 16), (12, 20)]


def pair(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    mine = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]
    return mine, [torch.nn.Parameter(p.detach().clone()) for p in mine]


def give(*lists, step=0):
    generator = torch.Generator().manual_seed(100 + step)
    for params in zip(*lists, strict=True):
        grad = torch.randn(params[0].shape, generator=generator, dtype=torch.float64)
        for param in params:
            param.grad = grad.to(param.dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_is_pytorchs_at_the_tolerance_of_bfloat16(options, dtype):
    mine, theirs = pair()
    opt = gt.Muon(mine, lr=0.1, dtype=dtype, **options)
    oracle = torch.optim.Muon(theirs, lr=0.1, **options)
    for step in range(4):
        give(mine, theirs, step=step)
        opt.step()
        oracle.step()
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0.02, atol=0.02)
        kept = opt.state[p]["momentum_buffer"], oracle.state[q]["momentum_buffer"]
        torch.testing.assert_close(*kept, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"splits": 2}, {"splits": (4, 8), "transposed": True}])
def test_is_that_of_arrays(more):
    torch.manual_seed(0)
    tensors = [torch.nn.Parameter(torch.randn(20, 12, dtype=torch.float64)) for _ in range(3)]
    arrays = [p.detach().numpy().copy() for p in tensors]
    opt, other = gt.Muon(tensors, lr=0.1, **more), gs.Muon(arrays, lr=0.1, **more)
    for step in range(3):
        give(tensors, step=step)
        opt.step()
        other.step([p.grad.numpy() for p in tensors])
    for p, q in zip(tensors, arrays, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q, rtol=1e-9, atol=1e-10)


def test_checkpoints_swap_both_ways():
    mine, theirs = pair()
    opt, oracle = gt.Muon(mine, lr=0.1, dtype="bfloat16"), torch.optim.Muon(theirs, lr=0.1)
    give(mine, theirs)
    opt.step()
    oracle.step()
    mine, theirs = theirs, mine
    again, back = gt.Muon(mine, lr=0.5, dtype="bfloat16"), torch.optim.Muon(theirs, lr=0.5)
    again.load_state_dict(oracle.state_dict())
    back.load_state_dict(opt.state_dict())
    assert again.param_groups[0]["lr"] == back.param_groups[0]["lr"] == 0.1
    give(mine, theirs, step=1)
    again.step()
    back.step()
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0.02, atol=0.02)


def test_autocast_casts_no_product():
    mine, theirs = pair()
    one, other = gt.Muon(mine, lr=0.1), gt.Muon(theirs, lr=0.1)
    give(mine, theirs)
    one.step()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other.step()
    for p, q in zip(mine, theirs, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides(dtype):
    """Columns first, and with gaps: the numbers of a matrix that lies plainly."""
    torch.manual_seed(0)
    start = torch.randn(12, 20).to(dtype)
    plain = torch.nn.Parameter(start.clone())
    turned = torch.nn.Parameter(start.t().contiguous().t())
    gaps = torch.nn.Parameter(torch.zeros(12, 40, dtype=dtype)[:, ::2])
    with torch.no_grad():
        gaps.copy_(start)
    opts = [gt.Muon([p], lr=0.1) for p in (plain, turned, gaps)]
    for step in range(2):
        give([plain], [turned], [gaps], step=step)
        for opt in opts:
            opt.step()
    for p in (turned, gaps):
        torch.testing.assert_close(
            p, plain, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
        )


def test_split_parameters_and_small_states():
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(12, 20).bfloat16())
    q = torch.nn.Parameter(p.detach().float())
    opt = gt.Muon([p], lr=0.1, split=True)
    other = gt.Muon([q], lr=0.1)
    for step in range(3):
        give([p], step=step)
        q.grad = p.grad.float()
        opt.step()
        other.step()
    torch.testing.assert_close(p.float(), q, rtol=1e-2, atol=1e-2)
    gt.Muon([q], lr=0.1, states="q8").step()


class Model(torch.nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.wte = torch.nn.Embedding(11, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.qkv = torch.nn.Linear(8, 24)
        self.proj = torch.nn.Linear(24, 8)
        self.lm_head = torch.nn.Linear(8, 11, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, x):
        return self.lm_head(self.norm(self.proj(torch.tanh(self.qkv(self.wte(x))))))


@pytest.mark.parametrize("tied", [False, True])
def test_a_modules_parameters_are_sorted(tied, caplog):
    torch.manual_seed(0)
    model = Model(tied)
    with caplog.at_level(logging.INFO, "gradstep"):
        groups = gt.muon_groups(model, muon={"lr": 0.02}, adamw={"lr": 0.01})
    assert repr(groups) in caplog.text
    by_rule = {group["rule"]: [name for name, _ in group["params"]] for group in groups}
    assert by_rule["Muon"] == ["qkv.weight", "proj.weight"]
    every = [name for name, _ in model.named_parameters()]
    assert sorted(by_rule["Muon"] + by_rule["AdamW"]) == sorted(every)
    for name in every:
        assert name in repr(groups)
    opt = gt.Muon(groups, clip_norm=1.0)
    x = torch.arange(11)
    losses = []
    for _ in range(60):
        opt.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), (x + 3) % 11)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    again = gt.Muon(gt.muon_groups(copy.deepcopy(model)))
    again.load_state_dict(opt.state_dict())
    assert again.param_groups[1]["lr"] == 0.01


def test_heads_are_named_or_the_last():
    layers = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
    )

    def muon(**options):
        groups = gt.muon_groups(layers, **options)
        return [name for name, _ in groups[0]["params"]]

    assert muon() == ["0.weight", "1.weight"]
    assert muon(heads=()) == ["0.weight", "1.weight", "2.weight"]
    assert muon(heads=["1"]) == ["0.weight", "2.weight"]
    assert muon(muon_for=["2.weight"]) == ["0.weight", "1.weight", "2.weight"]
    assert muon(adamw_for=["0.*"]) == ["1.weight"]
    assert muon(heads=(h for h in ["1"])) == ["0.weight", "2.weight"]
    assert muon(muon_for=(n for n in ["2.weight"])) == ["0.weight", "1.weight", "2.weight"]
    assert muon(adamw_for=(n for n in ["0.*"])) == ["1.weight"]
    assert "left out" not in repr(gt.muon_groups(layers))
    layers[0].weight.requires_grad_(False)
    assert muon() == ["1.weight"]
    groups = gt.muon_groups(layers)
    assert repr(groups).endswith(
        "\nleft out: 1 parameter, 12 elements\n  0.weight (4, 3): wants no gradient"
    )
    assert [list(part) for part in groups.split(range(5))] == [
        ["1.weight"], ["0.bias", "1.bias", "2.weight", "2.bias"]
    ]  # fmt: skip
    for options, message in [
        ({"adamw_for": ["nobody"]}, "adamw_for: got 'nobody', which no parameter that wants a"),
        ({"muon_for": ["0.weight"]}, "muon_for: got '0.weight', which no parameter that wants a"),
        ({"heads": "head"}, "heads: got 'head', wanted a list"),
        ({"adamw_for": "0.weight"}, "adamw_for: got '0.weight', wanted a list"),
        ({"muon_for": ["0.bias"]}, r"muon_for: got '0.bias' of shape \(4,\), wanted a matrix"),
        ({"muon_for": ["1"], "adamw_for": ["1.weight"]}, "muon_for: got a pattern for '1.weight'"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            muon(**options)
    with pytest.raises(ValueError, match="params: got no matrix for Muon"):
        gt.muon_groups(torch.nn.Conv2d(3, 4, 2))
    with pytest.raises(TypeError, match="module: got list, wanted a torch"):
        gt.muon_groups([layers])


def test_a_step_in_the_backward_pass():
    torch.manual_seed(0)
    model = Model(tied=False)
    other = copy.deepcopy(model)
    opt, usual = (gt.Muon(gt.muon_groups(m), lr=0.1) for m in (model, other))
    gt.step_in_backward(opt)
    x = torch.arange(11)
    for _ in range(2):
        model(x).square().mean().backward()
        usual.zero_grad()
        other(x).square().mean().backward()
        usual.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_refused():
    for wrong in (torch.zeros(3), torch.zeros(2, 2, 2, 2)):
        with pytest.raises(ValueError, match=r"params'\]\[0\]: got shape .*, wanted a matrix"):
            gt.Muon([torch.nn.Parameter(wrong)])
    w = torch.nn.Parameter(torch.zeros(6, 4))
    with pytest.raises(ValueError, match="got 6 rows with splits=4"):
        gt.Muon([w], splits=4)
    opt = gt.Muon([w])
    opt.param_groups[0]["splits"] = 5
    w.grad = torch.ones_like(w)
    with pytest.raises(ValueError, match="got 6 rows with splits=5"):
        opt.step()
    assert not w.any()
    opt.param_groups[0]["splits"] = 2
    for stepped in (False, True):
        saved = opt.state_dict()
        saved["param_groups"][0]["splits"] = 5
        with pytest.raises(ValueError, match="got 6 rows with splits=5"):
            opt.load_state_dict(saved)
        assert opt.param_groups[0]["splits"] == 2
        if not stepped:
            opt.step()
            assert w.all()
