"""gradstep.torch in training loops: a GPT against torch's AdamW, GradScaler, closures, hooks, the
profiler, torch.compile, and steps within the backward pass.
"""

import importlib
import weakref

import pytest

from cases import DRIVEN, EXACT
from cases import RULES as EVERY

torch = pytest.importorskip("torch")
import gradstep.torch as gt  # noqa: E402

RULES = [rule for rule in EVERY if hasattr(torch.optim, rule)]  # where torch is the oracle
nn, functional = torch.nn, torch.nn.functional


def assert_same(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


def clones(params):
    return [nn.Parameter(param.detach().clone()) for param in params]


# ---- a whole training ----

CONTEXT, WIDTH, HEADS, BATCH = 48, 64, 4, 8


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.rise, self.fall = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.attend(self.before(x)).chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        return x + self.fall(functional.gelu(self.rise(self.between(x))))


class Gpt(nn.Module):
    """The form of GPT-2, with tied embeddings, over bytes."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(128, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.after = nn.LayerNorm(WIDTH)
        for embedding in (self.tokens, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return functional.linear(self.after(self.blocks(x)), self.tokens.weight)


def losses_of(make, steps):
    """The loss at each step of a training on the standard library's own help texts."""
    topics = importlib.import_module("pydoc_data.topics").topics
    text = "\n".join(topics[key] for key in sorted(topics)).encode("ascii", "replace")
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    torch.manual_seed(0)
    model = Gpt()
    opt = make(model)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(data) - CONTEXT - 1, (BATCH, 1), generator=generator)
        windows = data[starts + torch.arange(CONTEXT + 1)]
        logits = model(windows[:, :-1]).flatten(0, 1)
        loss = functional.cross_entropy(logits, windows[:, 1:].flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def groups_of(model):
    """Weight decay for matrices alone, as it is done."""
    params = list(model.parameters())
    return [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]


def test_a_gpt_learns_as_with_torchs_adamw():
    """200 steps; the loss curve within 1e-4 relative all the way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in both
    try:
        wanted = losses_of(lambda m: torch.optim.AdamW(groups_of(m), betas=(0.9, 0.95)), 200)
        got = losses_of(lambda m: gt.AdamW(groups_of(m), betas=(0.9, 0.95)), 200)
    finally:
        torch.set_num_threads(before)
    assert got == pytest.approx(wanted, rel=1e-4)
    assert sum(wanted[-10:]) / 10 < 0.6 * wanted[0]


@pytest.mark.parametrize("options", [{}, {"states": "q8", "clip_norm": 1.0, "average": 0.99}])
def test_a_gpt_learns_the_same_on_a_device_and_stepped_here(options):
    """The loss curve, to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wanted = losses_of(lambda model: gt.AdamW(groups_of(model), **options), 40)
        link = gt.SimulatedLink(1e9, delay=lambda: 2e-4)
        link.spans = spans = []
        got = losses_of(
            lambda model: gt.offload(
                groups_of(model), gt.AdamW, model=model, link=link, bucket_bytes=50_000, **options
            ),
            40,
        )
    finally:
        torch.set_num_threads(before)
    assert got == wanted
    assert {way for way, _, _ in spans} == {"down", "up"}


# ---- loss scaling ----


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_grad_scaler(rule, unscale):
    """Steps as torch's class makes them, skips what overflows; the clip is of the true norm."""
    theirs = [nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4)), nn.Parameter(torch.ones(3))]
    ours = clones(theirs)
    runs = [
        (getattr(torch.optim, rule)(theirs, lr=0.1), theirs),
        (getattr(gt, rule)(ours, lr=0.1), ours),
    ]
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3) for _ in runs]
    for k in range(8):
        for (opt, params), scaler in zip(runs, scalers, strict=True):
            opt.zero_grad()
            loss = functional.linear(torch.full((2, 4), k - 2.5), *params).square().mean()
            if k in (2, 5):
                loss = loss * torch.inf
            scaler.scale(loss).backward()
            if unscale:
                scaler.unscale_(opt)
                nn.utils.clip_grad_norm_(params, 1.0)
            scaler.step(opt)
            scaler.update()
        assert scalers[0].get_scale() == scalers[1].get_scale()
        if k in (2, 5):
            assert runs[1][0].report.skipped
        for mine, its in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)
    opt = runs[1][0]
    assert opt.state[ours[0]]["step"] == 6
    assert not hasattr(opt, "found_inf")
    assert not hasattr(opt, "grad_scale")


def test_grad_scaler_and_clip_norm():
    (param,) = [nn.Parameter(torch.zeros(2))]
    opt = gt.SGD([param], lr=1.0, clip_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((param * torch.tensor([3.0, 4.0])).sum()).backward()
    scaler.step(opt)
    assert opt.report.grad_norm == 5.0
    torch.testing.assert_close(param.detach(), torch.tensor([-0.6, -0.8]))


def test_autocast_around_the_step():
    param = nn.Parameter(torch.ones(4, 4))
    opt = gt.AdamW([param], lr=0.1, average=0.9)
    with torch.autocast("cpu", torch.bfloat16):
        (param @ torch.ones(4, 4)).sum().backward()
        opt.step()
    assert {v.dtype for v in opt.state[param].values()} == {torch.float32}


# ---- closures, hooks, the profiler ----


def test_closure():
    """Under enable_grad, its loss returned, as line searches and Lightning use it."""
    param = nn.Parameter(torch.tensor([3.0]))
    opt = gt.SGD([param], lr=0.25)

    def closure():
        assert torch.is_grad_enabled()
        opt.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [opt.step(closure).item() for _ in range(3)]
        assert not torch.is_grad_enabled()
    assert losses == [9.0, 2.25, 0.5625]
    assert opt.step(closure=closure).item() == 0.140625
    assert opt.step() is None


def test_closure_with_hooks():
    param = nn.Parameter(torch.tensor([3.0]))
    opt = gt.SGD([param], lr=0.25)
    seen = []
    opt.register_step_post_hook(lambda *_: seen.append(param.item()))

    def closure():
        opt.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert opt.step(closure).item() == 9.0
    assert seen == [1.5]


def test_step_hooks():
    """Before and after, of one optimizer and of all; removed ones are gone."""
    param = nn.Parameter(torch.tensor([3.0]))
    opt = gt.SGD([param], lr=1.0)
    param.grad = torch.ones(1)
    seen = []

    def note(name):
        return lambda o, args, kwargs: seen.append((name, o is opt, args, kwargs, param.item()))

    module = importlib.import_module("torch.optim.optimizer")
    handles = [
        opt.register_step_pre_hook(note("pre")),
        opt.register_step_post_hook(note("post")),
        module.register_optimizer_step_pre_hook(note("global pre")),
        module.register_optimizer_step_post_hook(note("global post")),
    ]
    try:
        opt.step()
    finally:
        for handle in handles:
            handle.remove()
    assert sorted((name, value) for name, *_, value in seen) == [
        ("global post", 2.0),
        ("global pre", 3.0),
        ("post", 2.0),
        ("pre", 3.0),
    ]
    assert all(same and args == (opt,) and not kwargs for _, same, args, kwargs, _ in seen)
    opt.step()
    assert len(seen) == 4


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # PyTorch 2.10
def test_profiler_names_the_step():
    param = nn.Parameter(torch.ones(3))
    opt = gt.AdamW([param])
    param.grad = torch.ones(3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        opt.step()
        opt.zero_grad()
    names = {event.key for event in profile.key_averages()}
    assert {"Optimizer.step#AdamW.step", "Optimizer.zero_grad#AdamW.zero_grad"} <= names


def test_zero_grad():
    params = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    opt = gt.SGD(params, lr=1.0)
    params[0].grad = torch.ones(3)
    opt.zero_grad(set_to_none=False)
    assert_same(params[0].grad, torch.zeros(3))
    opt.step()
    assert_same(params[0].detach(), torch.ones(3))
    opt.zero_grad()
    assert params[0].grad is None


def test_an_optimizer_is_freed_with_its_last_reference():
    """No cycle keeps parameters and states until a collection."""
    param = nn.Parameter(torch.ones(3))
    opt = gt.AdamW([param], clip_norm=1.0)
    param.grad = torch.ones(3)
    opt.step()
    state = weakref.ref(opt.state[param]["exp_avg"])
    opt.zero_grad()
    del opt
    assert state() is None


# ---- torch.compile ----


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, of the loss
@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_training_step(backend, hooked):
    """The step in it breaks the graph, not the training."""
    torch.manual_seed(0)
    model, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    opts = [gt.AdamW(m.parameters(), lr=0.1, clip_norm=1.0) for m in (model, twin)]
    seen = []
    if hooked:
        opts[0].register_step_post_hook(lambda *_: seen.append(1))

    def step(model, opt, x):
        loss = functional.mse_loss(model(x), x[:, :3])
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend)
    try:
        for k in range(5):
            x = torch.full((2, 4), k - 2.0)
            assert_same(compiled(model, opts[0], x), step(twin, opts[1], x))
    finally:
        torch._dynamo.reset()
    for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
        assert_same(mine, its)
    assert opts[0].state[model.weight]["step"] == 5
    assert len(seen) == 5 * hooked


def test_compiled_step_alone():
    """opt.step itself handed to torch.compile, as its tutorial does it."""
    param, twin = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    opt, other = gt.AdamW([param]), gt.AdamW([twin])
    torch._dynamo.reset()
    compiled = torch.compile(opt.step, backend="eager")
    try:
        for k in range(3):
            param.grad, twin.grad = torch.full((5,), k + 1.0), torch.full((5,), k + 1.0)
            compiled()
            other.step()
    finally:
        torch._dynamo.reset()
    assert_same(param, twin)


# ---- within the backward pass ----


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def inputs(k):
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(k))


def test_one_optimizer_a_parameter_with_hooks():
    """torch's own recipe."""
    model, twin = small_model(), small_model()
    opts = {p: gt.AdamW([p], lr=0.1) for p in model.parameters()}
    other = gt.AdamW(twin.parameters(), lr=0.1)

    def hook(param):
        opts[param].step()
        opts[param].zero_grad()

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(hook)
    for k in range(4):
        model(inputs(k)).square().sum().backward()
        assert all(param.grad is None for param in model.parameters())
        twin(inputs(k)).square().sum().backward()
        other.step()
        other.zero_grad()
        for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
            assert_same(mine, its)


STAGES = [
    {},
    {"average": 0.9, "states": "q8"},
    {"clip_norm": 0.1},
    {"clip_norm": 0.1, "nonfinite": "skip"},
    {"nonfinite": "raise", "clip_value": 0.01},
]


@pytest.mark.parametrize("stages", STAGES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_step_in_backward(rule, stages):
    """The bits of a step after the pass, the global norm included."""
    if rule == "SGD" and "states" in stages:
        stages = {**stages, "momentum": 0.9}
    if rule in EXACT and "states" in stages:
        stages = {"states": "bfloat16"}
    lr = (lambda k: 0.1 / (k + 1)) if rule in DRIVEN else 0.1
    model, twin = small_model(), small_model()
    model[2].bias.requires_grad_(False)
    twin[2].bias.requires_grad_(False)
    opt = getattr(gt, rule)(model.parameters(), lr=lr, **stages)
    other = getattr(gt, rule)(twin.parameters(), lr=lr, **stages)
    handles = gt.step_in_backward(opt)
    assert len(handles) == 5
    for k in range(5):
        model(inputs(k)).square().sum().backward()
        assert all(param.grad is None for param in model.parameters())
        twin(inputs(k)).square().sum().backward()
        other.step()
        other.zero_grad()
        for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
            assert_same(mine, its)
        if "clip_norm" in stages:
            assert opt.report == other.report
            assert opt.report.grad_norm > 0.1
    for handle in handles:
        handle.remove()
    before = clones(model.parameters())
    model(inputs(9)).square().sum().backward()
    assert model[0].weight.grad is not None
    for param, old in zip(model.parameters(), before, strict=True):
        assert_same(param, old)


def test_step_in_backward_frees_gradients_on_the_way():
    """When the first layer's gradient comes, the last layer's is gone."""
    model = small_model()
    opt = gt.SGD(model.parameters(), lr=0.1)
    there = []
    gt.step_in_backward(opt)
    model[0].weight.register_hook(lambda _: there.append(model[4].weight.grad))
    before = model[4].weight.detach().clone()
    model(inputs(0)).square().sum().backward()
    assert there == [None]
    assert not torch.equal(model[4].weight, before)


@pytest.mark.parametrize("stages", [{}, {"clip_norm": 1.0}], ids=str)
def test_step_in_backward_after_a_pass_that_failed(stages):
    """The next one steps again."""
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    opt = gt.SGD([first, second], lr=0.5, **stages)
    gt.step_in_backward(opt)
    handle = first.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (second.sum() + first.sum()).backward()
    handle.remove()
    before = first.detach().clone()
    opt.zero_grad()
    (second.sum() + first.sum()).backward()
    assert (first < before).all()
    assert first.grad is None


def test_step_in_backward_follows_its_tensors():
    """Whatever is put before them in the groups; one that was taken out is an error."""
    first, second, third = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    opt = gt.SGD([first, second], lr=1.0)
    gt.step_in_backward(opt)
    opt.param_groups[0]["params"].insert(0, third)
    for _ in range(2):
        (first.sum() + 2 * second.sum()).backward()
    assert [p[0].item() for p in (first, second, third)] == [-2, -4, 0]
    opt.param_groups[0]["params"].remove(third)
    del opt.param_groups[0]["params"][1]
    first.sum().backward()
    assert first[0] == -3
    with pytest.raises(RuntimeError, match="taken out of its group"):
        second.sum().backward()
    assert second[0] == -4


@pytest.mark.parametrize("stages", [{"clip_norm": 1.0}, {"nonfinite": "skip"}], ids=str)
def test_what_wants_all_gradients_is_refused_within_a_backward_pass(stages):
    params = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    opt = gt.SGD(params, lr=0.1, **stages)
    params[0].register_post_accumulate_grad_hook(lambda _: opt.step())
    with pytest.raises(RuntimeError, match=r"within a backward pass.*step_in_backward"):
        (params[0] + params[1]).sum().backward()
    assert_same(params[0].detach(), torch.ones(3))


def test_reentrant_checkpoints_are_refused_where_the_norm_would_be_of_a_part():
    checkpoint = importlib.import_module("torch.utils.checkpoint").checkpoint
    for reentrant in (False, True):
        params = [nn.Parameter(torch.full((2,), 3.0)) for _ in range(2)]
        opt = gt.SGD(params, lr=1.0, clip_norm=1.0)
        gt.step_in_backward(opt)
        x = torch.ones(2, requires_grad=True)
        inner = checkpoint(lambda x, p=params[0]: x * p, x, use_reentrant=reentrant)
        loss = (inner * params[1]).sum()
        if reentrant:
            with pytest.raises(RuntimeError, match="use_reentrant=False"):
                loss.backward()
            assert_same(params[0].detach(), torch.full((2,), 3.0))
        else:
            loss.backward()
            assert opt.report.grad_norm == 6.0


def test_gradient_accumulation():
    """Over several passes, then a step; and a graph kept for second derivatives."""
    param = nn.Parameter(torch.tensor([1.0, 2.0]))
    opt = gt.SGD([param], lr=0.1)
    for _ in range(3):
        (param**2).sum().backward()
    opt.step()
    torch.testing.assert_close(param.detach(), torch.tensor([0.4, 0.8]))
    opt.zero_grad()
    with pytest.warns(UserWarning, match="create_graph=True"):
        (param**3).sum().backward(create_graph=True)
    assert param.grad.requires_grad
    opt.step()
    torch.testing.assert_close(param.detach(), torch.tensor([0.352, 0.608]))
    opt.zero_grad()
