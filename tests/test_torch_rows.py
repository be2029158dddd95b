"""Sparse gradients of PyTorch's: PyTorch's own numbers, and what is refused."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.10")
import gradstep as gs  # noqa: E402
import gradstep.torch as gt  # noqa: E402

# What PyTorch itself says of sparse tensors.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant:UserWarning")

HEIGHT, WIDTH, STEPS = 30, 5, 12


def eps_of_sparse_adam(k, eps=1e-3):
    """SparseAdam's ε stands beside √v before its correction; ours, as Adam's, after it."""
    return eps / math.sqrt(1 - 0.999 ** (k + 1))


ORACLES = {
    "SGD": (torch.optim.SGD, {"lr": 0.1}, {"lr": 0.1}),
    "Adagrad": (torch.optim.Adagrad, *2 * [{"lr": 0.1, "lr_decay": 0.1, "eps": 1e-3}]),
    "Adam": (
        torch.optim.SparseAdam,
        {"lr": 0.1, "eps": 1e-3, "maximize": True},
        {"lr": 0.1, "eps": eps_of_sparse_adam, "maximize": True},
    ),
}


def table(dtype=torch.float64):
    embedding = torch.nn.Embedding(HEIGHT, WIDTH, sparse=True, dtype=dtype)
    with torch.no_grad():
        numbers = np.random.default_rng(0).standard_normal((HEIGHT, WIDTH))
        embedding.weight.copy_(torch.from_numpy(numbers))
    return embedding


def backward(embedding, k):
    rng = np.random.default_rng(k)
    words = torch.from_numpy(rng.integers(0, HEIGHT, 8 if k % 4 else 1))
    weights = torch.from_numpy(rng.standard_normal((words.numel(), WIDTH)))
    (embedding(words) * weights.to(embedding.weight.dtype)).sum().backward()


@pytest.mark.parametrize("given", ["as it comes", "coalesced"])
@pytest.mark.parametrize("rule", ORACLES)
def test_equals_torch_in_float64(rule, given):
    oracle, theirs, ours = ORACLES[rule]
    first, second = table(), table()
    opt, wanted = (
        getattr(gt, rule)(first.parameters(), **ours),
        oracle(second.parameters(), **theirs),
    )
    for k in range(STEPS):
        for embedding, one in ((first, opt), (second, wanted)):
            embedding.weight.grad = None
            backward(embedding, k)
            if given == "coalesced":
                embedding.weight.grad = embedding.weight.grad.coalesce()
            one.step()
    np.testing.assert_allclose(
        first.weight.detach().numpy(), second.weight.detach().numpy(), rtol=1e-10, atol=1e-12
    )
    for name, value in wanted.state[second.weight].items():
        if isinstance(value, torch.Tensor):
            kept = opt.state[first.weight][name]
            np.testing.assert_allclose(kept.numpy(), value.numpy(), rtol=1e-10, atol=1e-12)
        elif value is not None:
            assert opt.state[first.weight][name] == value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", ORACLES)
def test_both_front_doors_have_the_same_bits(rule, dtype):
    """With clipping, beside dense parameters, and with dense gradients in between."""
    embedding, bias = table(dtype), torch.nn.Parameter(torch.ones(3))
    before = embedding.weight.detach().clone()
    options = {"lr": 0.1, "clip_norm": 1.0, "average": 0.5}
    opt = getattr(gt, rule)([embedding.weight, bias], **options)
    params = [as_array(before), np.ones(3, np.float32)]
    twin = getattr(gs, rule)(params, **options)
    for k in range(6):
        opt.zero_grad()
        backward(embedding, k)
        bias.grad = torch.full((3,), float(k))
        grad = embedding.weight.grad
        given = gs.Rows(grad._indices()[0].numpy(), as_array(grad._values().contiguous()))
        if k == 3:
            embedding.weight.grad = grad.to_dense()
            given = as_array(embedding.weight.grad)
        twin.step([given, bias.grad.numpy()])
        opt.step()
    assert torch.equal(embedding.weight.detach(), before)  # the arrays lie in its memory
    assert (bias.detach().numpy() == params[1]).all()
    assert opt.state[embedding.weight]["step"] == 6


def as_array(tensor):
    """An array on the same memory."""
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    return tensor.view(torch.int16).numpy().view(pytest.importorskip("ml_dtypes").bfloat16)


def test_resumes():
    first, second = table(), table()
    opt = gt.Adam(first.parameters(), lr=0.1)
    for k in range(6):
        opt.zero_grad()
        backward(first, k)
        opt.step()
    part = gt.Adam(second.parameters(), lr=0.1)
    for k in range(6):
        if k == 3:
            state, part = part.state_dict(), gt.Adam(second.parameters(), lr=0.1)
            part.load_state_dict(state)
        part.zero_grad()
        backward(second, k)
        part.step()
    assert torch.equal(first.weight, second.weight)


def test_other_ways_to_step():
    """Within a backward pass, and with a GradScaler."""
    embedding = table()
    gt.step_in_backward(gt.SGD(embedding.parameters(), lr=1.0))
    before = embedding.weight.detach().clone()
    embedding(torch.tensor([3, 3])).sum().backward()
    assert torch.equal(embedding.weight[3], before[3] - 2)
    assert embedding.weight.grad is None
    embedding = table(torch.float32)
    opt = gt.SGD(embedding.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = embedding.weight.detach().clone()
    scaler.scale(embedding(torch.tensor([3, 3])).sum()).backward()
    scaler.step(opt)
    assert torch.equal(embedding.weight[3], before[3] - 2)


def test_a_weight_written_by_rows_has_another_version():
    embedding = table()
    opt = gt.Adagrad(embedding.parameters())
    version = embedding.weight._version
    backward(embedding, 0)
    opt.step()
    assert embedding.weight._version > version


def test_norm_over_processes_counts_each_row_once(tmp_path):
    """One process of one: as ZeroRedundancyOptimizer has it, and to the bits of none."""
    distributed = torch.distributed
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        norms, weights = [], []
        for group in ("world", None):
            embedding = table(torch.float32)
            opt = gt.Adagrad(embedding.parameters(), lr=0.1, clip_norm=0.5, norm_group=group)
            backward(embedding, 1)
            opt.step()
            norms.append(opt.report.grad_norm)
            weights.append(embedding.weight.detach())
        grad = embedding.weight.grad.coalesce().values()
        assert norms[0] == norms[1] == pytest.approx(grad.double().norm().item())
        np.testing.assert_allclose(weights[0].numpy(), weights[1].numpy(), rtol=1e-6)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(("param", "grad"), [("float64", "float32"), ("float32", "float64")])
@pytest.mark.parametrize("indices", [[3, 1, 3, 3], [0, 1, 2, 3], [3, 2, 1, 0]])
def test_norm_over_processes_adds_rows_up_as_the_step_does(param, grad, indices, tmp_path):
    distributed = torch.distributed
    if not hasattr(torch.Tensor, "grad_dtype"):
        pytest.skip("gradients have their parameters' dtype")
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        norms = []
        for group in ("world", None):
            w = torch.nn.Parameter(torch.ones(5, 3, dtype=getattr(torch, param)))
            w.grad_dtype = getattr(torch, grad)
            values = torch.linspace(0.1, 7.3, 12, dtype=getattr(torch, grad)).reshape(4, 3)
            w.grad = torch.sparse_coo_tensor([indices], values, (5, 3), check_invariants=False)
            opt = gt.Adagrad([w], clip_norm=0.5, norm_group=group)
            opt.step()
            norms.append(opt.report.grad_norm)
        assert norms[0] == norms[1]
    finally:
        distributed.destroy_process_group()


def sparse(indices, values, shape, **more):
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False, **more)


def test_what_is_refused_by_name():
    param = torch.nn.Parameter(torch.ones(4, 3))
    ones = torch.ones(2, 3)
    for grad, error, message in [
        (sparse([[0, 4]], ones, (4, 3)), ValueError, r"got the row 4 in indices\[1\]"),
        (sparse([[0, -1]], ones, (4, 3)), ValueError, "got the row -1"),
        (sparse([[1, 0]], ones, (4, 3), is_coalesced=True), ValueError, "said to be coalesced"),
        (torch.ones(4, 3).to_sparse(), ValueError, "got a sparse gradient of 2 sparse dimensions"),
        (sparse([[0, 1]], param.detach()[:2], (4, 3)), ValueError, "got memory that overlaps"),
    ]:
        opt = gt.Adam([param])
        param.grad = grad
        with pytest.raises(error, match=rf"params'\]\[0\]\.grad: .*{message}"):
            opt.step()
        assert (param == 1).all()
        assert (opt.state[param]["exp_avg"] == 0).all()
    param.grad = sparse([[0, 1]], ones, (4, 3))
    for opt, message in [
        (gt.AdamW([param]), "got some rows for AdamW, wanted a gradient of all rows"),
        (gt.LAMB([param]), "got some rows for LAMB"),
        (gt.SGD([param], momentum=0.9), "got some rows with momentum=0.9"),
        (gt.Adagrad([param], weight_decay=0.1), "got some rows with weight_decay=0.1"),
        (gt.Adam([param], states="q8"), "got some rows for exp_avg in q8"),
        (gt.Adam([param], stats="sample"), "got some rows with stats='sample'"),
    ]:
        with pytest.raises(ValueError, match=rf"params'\]\[0\]\.grad: {message}"):
            opt.step()
        assert (param == 1).all()
    turned = torch.nn.Parameter(torch.ones(3, 4).t())
    turned.grad = sparse([[0, 1]], ones, (4, 3))
    with pytest.raises(ValueError, match="whose rows are no runs of memory, wanted a contiguous"):
        gt.Adam([turned]).step()
    assert (turned == 1).all()
