"""Adafactor under PyTorch: against torch.optim's, in any layout, its checkpoints both ways."""

import numpy as np
import pytest

import gradstep as gs
from cases import MATRICES, OPTIONS, assert_same_bits, case_id

torch = pytest.importorskip("torch", reason="torch is in the group oracles")
distributed = pytest.importorskip("torch.distributed.tensor")
import gradstep.torch as gt  # noqa: E402

RULE = "Adafactor"


def tensors(shapes, dtype, layout="contiguous"):
    generator = torch.Generator().manual_seed(1)
    made = []
    for shape in shapes:
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        if layout == "transposed" and x.dim() > 1:
            x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
        elif layout == "gaps" and x.dim() > 1:
            x = torch.cat([x, x], -1)[..., : x.shape[-1]]
        made.append(torch.nn.Parameter(x))
    return made


def give(params, k):
    generator = torch.Generator().manual_seed(100 + k)
    for p in params:
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = torch.empty_strided(p.shape, p.stride(), dtype=p.dtype).copy_(g)


FULL = [shape for shape in MATRICES if 0 not in shape]


@pytest.mark.parametrize("options", OPTIONS[RULE], ids=[case_id((RULE, o)) for o in OPTIONS[RULE]])
def test_equals_torch_in_float64(options):
    theirs, ours = tensors(FULL, torch.float64), tensors(FULL, torch.float64)
    oracle, opt = torch.optim.Adafactor(theirs, **options), gt.Adafactor(ours, **options)
    for k in range(20):
        for params, optimizer in ((theirs, oracle), (ours, opt)):
            give(params, k)
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)
        for name, value in oracle.state[q].items():
            torch.testing.assert_close(opt.state[p][name], value, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_checkpoints_swap_both_ways(dtype, tmp_path):
    dtype = getattr(torch, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for first, second in ((gt, torch.optim), (torch.optim, gt)):
        one = tensors(FULL, dtype)
        opt = first.Adafactor(one, lr=0.1)
        for k in range(3):
            give(one, k)
            opt.step()
        torch.save(opt.state_dict(), tmp_path / "a.pt")
        two = [torch.nn.Parameter(p.detach().clone()) for p in one]
        other = second.Adafactor(two, lr=0.1)
        other.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
        for k in range(3, 6):
            for params, optimizer in ((one, opt), (two, other)):
                give(params, k)
                optimizer.step()
        for p, q in zip(one, two, strict=True):
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
            assert opt.state[p].keys() == other.state[q].keys()
            for name, value in opt.state[p].items():
                assert other.state[q][name].shape == value.shape


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "gaps"])
def test_tensors_in_any_layout_have_the_bits_of_arrays(layout):
    params = tensors(FULL, torch.float32, layout)
    arrays = [p.detach().numpy().copy(order="C") for p in params]
    opt, plain = gt.Adafactor(params), gs.Adafactor(arrays)
    for k in range(3):
        give(params, k)
        plain.step([np.ascontiguousarray(p.grad.numpy()).reshape(p.shape) for p in params])
        opt.step()
    for i, (p, array) in enumerate(zip(params, arrays, strict=True)):
        assert_same_bits(p.detach().numpy().copy(order="C"), array)
        for name, value in plain.state[str(i)].items():
            if name != "step":
                assert_same_bits(opt.state[p][name].numpy(), value)


def test_repr_names_parameters_without_rows():
    named = {"w": torch.ones(3, 2), "b": torch.ones(3), "s": torch.ones(())}
    opt = gt.Adafactor(
        [
            {"params": [*named.items()]},
            {"params": [("x", torch.ones(2, 2))]},
            {"params": [("y", torch.ones(2))], "rule": "AdamW"},
        ]
    )
    lines = repr(opt).splitlines()
    at = lines.index("Parameter Group 0")
    assert lines[at + 1] == "    without rows, whole: 'b', 's'"
    assert repr(opt).count("without rows") == 1
    assert "without rows, whole: '0'\n" in repr(gt.Adafactor([torch.ones(3), torch.ones(3, 2)]))
    assert repr(gt.SGD([torch.ones(3)])) == repr(torch.optim.SGD([torch.ones(3)]))


def test_rows_that_somebody_replaces():
    """The next step takes what was put in; what lies in another order is put right."""
    (p,), (q,) = tensors([(40, 30)], torch.float32), tensors([(40, 30)], torch.float32)
    opt, other = gt.Adafactor([p]), gt.Adafactor([q])
    for k in range(3):
        give([p], k)
        give([q], k)
        own = opt.state[p]
        if own:
            own["row_var"] = own["row_var"].clone()
            own["col_var"] = torch.cat([own["col_var"]] * 2)[::2]
        opt.step()
        other.step()
    assert torch.equal(p, q)
    opt.state[p]["row_var"] = torch.zeros(40)
    give([p], 3)
    with pytest.raises(
        ValueError, match=r"'row_var', wanted a tensor of torch.float32, shape \(40"
    ):
        opt.step()


def test_sharded_matrices_are_refused(tmp_path):
    DTensor, Replicate = distributed.DTensor, distributed.Replicate
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        vector, matrix = (
            torch.nn.Parameter(DTensor.from_local(torch.ones(shape), mesh, [Replicate()]))
            for shape in [(4,), (3, 4)]
        )
        with pytest.raises(ValueError, match=r"got a DTensor of shape \(3, 4\), wanted a plain"):
            gt.Adafactor([matrix])
        gt.Adafactor([vector])
    finally:
        torch.distributed.destroy_process_group()
