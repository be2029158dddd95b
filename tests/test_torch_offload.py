"""gradstep.torch.offload: a device's parameters, stepped in host memory, against the rule's own
class on the same gradients, bit for bit; and what may go wrong.

The device is simulated: transfers are late, and what has not arrived is NaN.
"""

import copy
import functools
import gc
import itertools
import math
import pickle
import random
import re
import threading
import time
import weakref

import pytest

from cases import EVERY
from test_torch_training import assert_same

torch = pytest.importorskip("torch")
import gradstep as gs  # noqa: E402
import gradstep.torch as gt  # noqa: E402
from gradstep.torch import SimulatedLink, offload  # noqa: E402
from gradstep.torch.offloading.links import AcceleratorLink, Slabs  # noqa: E402

nn, functional = torch.nn, torch.nn.functional
WORDS, WIDTH = 30, 16


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Teams of two threads that compete for two cores would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """Tied, frozen, unused, and used in every other pass; tensors of one to several blocks."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 300), nn.Linear(300, WIDTH)
        self.frozen, self.unused = nn.Linear(WIDTH, WIDTH), nn.Linear(4, 4)
        self.sometimes, self.after = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.frozen.requires_grad_(False)
        self.to(dtype)
        self.calls = 0

    def forward(self, words):
        self.calls += 1
        x = self.words(words)
        x = x + self.narrow(torch.tanh(self.wide(self.frozen(x))))
        if self.calls % 2:
            x = self.sometimes(x)
        return functional.linear(self.after(x), self.words.weight)


def batches(seed=1):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(WORDS, (6,), generator=generator)


def backward(model, words, scale=1.0):
    loss = functional.cross_entropy(model(words).float(), (words + 1) % WORDS) * scale
    loss.backward()
    return loss.item()


def train(opt, model, steps=3, passes=1, seed=1):
    """The losses of some steps."""
    source, losses = batches(seed), []
    for _ in range(steps):
        for _ in range(passes):
            losses.append(backward(model, next(source)))
        takes_loss = any(group.rule.takes_loss for group in inner_of(opt).groups)
        opt.step(**{"loss": losses[-1]} if takes_loss else {})
        opt.zero_grad()
    return losses


def inner_of(opt):
    return getattr(opt, "_inner", opt)


def late(most=1e-3):
    """A link whose transfers are late by random times."""
    chance = random.Random(0)
    return SimulatedLink(1e9, delay=lambda: chance.random() * most)


def offloaded(params, rule=gt.AdamW, **options):
    options = {"link": late(), "bucket_bytes": 3000, **options}
    return offload(params, rule, **options)


def pair(dtype=torch.bfloat16, rule=gt.AdamW, own=None, **options):
    """The rule's own class over a model, and offload over another one such."""
    options = {"lr": 1e-2, **options}
    plain, model = Net(dtype), Net(dtype)
    opt = offloaded(model, rule, **options, **(own or {}))
    return (rule(plain.named_parameters(), **options), plain), (opt, model)


def assert_alike(plain, model, opt):
    opt.wait()
    for (name, wanted), got in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert not got.isnan().any(), name
        assert_same(got.detach(), wanted.detach())


def assert_same_states(opt, reference):
    got, wanted = opt.state_dict(), reference.state_dict()
    frozen = {slot.index for slot in opt._pipeline.slots if slot.bucket is None}
    assert got["state"].keys() | frozen == wanted["state"].keys() | frozen
    for key, state in got["state"].items():  # what is frozen has no average here
        assert_same(state, wanted["state"][key])
    assert got["param_groups"] == wanted["param_groups"]


# ---- bits ----

PAIRINGS = {
    "float32": (torch.float32, {}),
    "float32, q8": (torch.float32, {"states": "q8"}),
    "split, float32": (torch.bfloat16, {"split": True}),
    "split, q8": (torch.bfloat16, {"split": True, "states": "q8"}),
    "stochastic": (torch.bfloat16, {"rounding": {"params": "stochastic"}, "states": "bfloat16"}),
}


def groups_of(rule, model):
    if rule != "Muon":
        return model.named_parameters()
    return gt.muon_groups(model, muon={}, adamw={})


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("rule", [*EVERY, *({"Muon"} - {*EVERY})])
def test_bits_of_the_rule(rule, pairing):
    dtype, options = PAIRINGS[pairing]
    kind = getattr(gt, rule)
    for clips, passes in itertools.product((None, 0.05), (1, 4)):
        kept = {**options, "clip_norm": clips}
        plain, model = Net(dtype), Net(dtype)
        try:
            reference = kind(groups_of(rule, plain), **kept)
        except (TypeError, ValueError) as refused:  # such as states that the rule does not have
            with pytest.raises(type(refused), match=re.escape(str(refused))):
                offloaded(groups_of(rule, model), kind, model=model, **kept)
            return
        opt = offloaded(groups_of(rule, model), kind, model=model, accumulate=passes, **kept)
        losses = train(reference, plain, passes=passes)
        assert train(opt, model, passes=passes) == losses
        assert_alike(plain, model, opt)
        assert_same_states(opt, reference)
        assert opt.report == reference.report


@pytest.fixture(scope="module")
def wanted(one_thread):
    """A training of the rule's own class, which all schedules of arrivals must come to."""
    plain = Net(torch.bfloat16)
    reference = gt.AdamW(plain.named_parameters(), lr=1e-2, split=True, states="q8")
    return plain, train(reference, plain, steps=4, passes=2)


@pytest.mark.parametrize("seed", range(200))
def test_random_schedules_of_arrivals(seed, wanted):
    plain, losses = wanted
    chance = random.Random(seed)
    model = Net(torch.bfloat16)
    most = chance.choice((0, 1e-4, 2e-3))
    opt = offload(
        model, gt.AdamW, lr=1e-2, split=True, states="q8", accumulate=2,
        accumulate_in=chance.choice(("host", "device")),
        in_backward=chance.random() < 0.8,
        bucket_bytes=chance.choice((1, 500, 3000, 20_000)),
        link=SimulatedLink(chance.choice((math.inf, 1e7)), delay=lambda: chance.random() * most),
    )  # fmt: skip
    for module in model.modules():  # the device is late, too
        module.register_forward_hook(lambda *_: time.sleep(chance.random() * most / 4))
    for param in model.parameters():
        if param.requires_grad:
            param.register_hook(lambda _: time.sleep(chance.random() * most / 4))
    assert train(opt, model, steps=4, passes=2) == losses
    assert_alike(plain, model, opt)


class Large(nn.Module):
    """With tensors that several buckets share."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(300, 512), nn.Linear(512, 300)
        self.to(dtype)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


@pytest.mark.parametrize("clips", [None, 0.5])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("rule", ["AdamW", "Adagrad", "SGD", "Lion", "Adan", "LAMB", "NAdam"])
def test_bits_of_tensors_that_are_cut(rule, pairing, clips):
    dtype, options = PAIRINGS[pairing]
    kind = getattr(gt, rule)
    if rule == "SGD":
        options = {**options, "momentum": 0.9, "dampening": 0.5, "average": 0.9}
    source = torch.Generator().manual_seed(0)
    plain, model = Large(dtype), Large(dtype)
    try:
        reference = kind(plain.parameters(), clip_norm=clips, **options)
    except ValueError:
        pytest.skip("the rule has no such states")
    opt = offload(
        model, kind, clip_norm=clips, link=late(), bucket_bytes=200_000, accumulate=2, **options
    )
    largest = max(len(slot.bucket.pieces) for slot in opt._pipeline.slots)
    assert largest == (1 if rule in ("LAMB", "NAdam") else 3)
    for step in range(3):
        for passes in range(2):
            x = torch.randn(4, 300, generator=source).to(dtype)
            x[:, :100] *= passes  # rows without a gradient, in all of the first piece
            for its in (plain, model):
                (its(x).float() - 1).square().mean().backward()
        for one in (reference, opt):
            one.step()
            one.zero_grad()
        assert opt.report == reference.report
        if step == 1:
            saved = opt.state_dict()  # and waits
            opt.close()
            opt = offload(
                model, kind, clip_norm=clips, link=late(), bucket_bytes=200_000, accumulate=2,
                **options,
            )  # fmt: skip
            opt.load_state_dict(saved)
    assert_alike(plain, model, opt)
    for got, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        assert_same(opt.state[got], reference.state[wanted])


class Odd(nn.Module):
    """A parameter without elements, and one that lies transposed."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(0))
        self.line = nn.Linear(4, 4)
        self.turned = nn.Parameter(torch.randn(6, 4).t())

    def forward(self, x):
        return self.line(x) @ self.turned + self.nothing.sum()


def small():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def convolution():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).to(memory_format=torch.channels_last)


def checkpointed(model, x):
    return torch.utils.checkpoint.checkpoint(model, x.requires_grad_(), use_reentrant=False)


def functionally(model, x):
    return torch.func.functional_call(model, dict(model.named_parameters()), (x,))


@pytest.mark.parametrize(
    ("make", "shape", "call", "wrap"),
    [
        (convolution, (2, 3, 8, 8), None, None),
        (Odd, (2, 4), None, None),
        (small, (2, 4), checkpointed, None),
        (small, (2, 4), functionally, None),
        (small, (2, 4), None, lambda model: torch.compile(model, backend="aot_eager")),
        (lambda: small().double(), (2, 4), None, None),
        (lambda: nn.Linear(300, 500), (2, 300), None, None),
    ],
    ids=["channels last", "odd", "checkpoint", "functional", "compiled", "float64", "cut"],
)
def test_bits_of_other_models_and_calls(make, shape, call, wrap):
    """With parameters that somebody writes to in the middle, and gives other memory."""
    both = []
    for steps in (gt.AdamW, functools.partial(offloaded, bucket_bytes=200_000, link=late())):
        torch.manual_seed(0)
        model = make()
        params = model if steps is not gt.AdamW else model.parameters()
        both.append((model, steps(params, lr=0.1), model if wrap is None else wrap(model)))
    for step in range(4):
        for model, opt, wrapped in both:
            x = torch.randn(shape, generator=torch.Generator().manual_seed(step))
            x = x.to(next(model.parameters()).dtype)
            out = wrapped(x) if call is None else call(wrapped, x)
            out.square().mean().backward()
            opt.step()
            opt.zero_grad()
            if step == 1:
                getattr(opt, "wait", lambda: None)()
                with torch.no_grad():
                    last = list(model.parameters())[-1]
                    last.mul_(0.5)
                    last.data = last.data.clone()
    (plain, _, _), (model, opt, _) = both
    assert_alike(plain, model, opt)


def test_several_optimizers_of_one_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    plain = copy.deepcopy(model)
    rules = (gt.SGD, gt.AdamW)
    opts = [offloaded(part, rule, lr=0.1) for part, rule in zip(model, rules, strict=True)]
    references = [rule(part.parameters(), lr=0.1) for part, rule in zip(plain, rules, strict=True)]
    for _ in range(3):
        for its, those in ((model, opts), (plain, references)):
            its(torch.ones(2, 4)).square().sum().backward()
            for opt in those:
                opt.step()
                opt.zero_grad()
    for opt in opts:
        assert_alike(plain, model, opt) if opt is opts[1] else opt.wait()


def test_gradients_added_in_float32():
    model, exact = Net(torch.bfloat16), Net(torch.bfloat16)
    opt = offloaded(model, gt.SGD, lr=1.0, accumulate=3, accumulate_in="float32", split=True)
    source, sums = batches(), {}
    for _ in range(3):
        words = next(source)
        exact.zero_grad()
        backward(exact, words)
        for name, param in exact.named_parameters():
            if param.grad is not None:
                sums[name] = sums.get(name, 0) + param.grad.float()
        backward(model, words)
    opt.step()
    opt.wait()
    for name, param in exact.named_parameters():
        low = opt.state[dict(model.named_parameters())[name]]["low"] if name in sums else None
        got = dict(model.named_parameters())[name].detach()
        if low is None:
            assert_same(got, param.detach())
        else:  # the upper half of the float32
            whole = (got.view(torch.int16).int() << 16) + low.int()
            assert_same(whole.view(torch.float32), param.float() - sums[name])


def test_a_step_that_is_asked_for_early_takes_what_has_come():
    for where in ("host", "device"):
        (reference, plain), (opt, model) = pair(own={"accumulate": 4, "accumulate_in": where})
        for passes in (4, 2, 1, 4):
            for one in (reference, opt):
                one.param_groups[0]["lr"] /= 2
            assert train(opt, model, 1, passes) == train(reference, plain, 1, passes)
        assert_alike(plain, model, opt)


@pytest.mark.parametrize("stage", [{"average": 0.9}, {"stats": True}, {"stats": "sample"},
                                   {"clip_value": 1e-3}, {"nonfinite": "skip"}])  # fmt: skip
def test_stages(stage):
    (reference, plain), (opt, model) = pair(split=True, **stage)
    assert train(opt, model, 4) == train(reference, plain, 4)
    assert_alike(plain, model, opt)
    assert_same_states(opt, reference)
    assert opt.report == reference.report
    if "average" in stage:
        with opt.averaged(), reference.averaged():
            assert_alike(plain, model, opt)
        assert_alike(plain, model, opt)


def test_schedules_schedulers_closures_and_hooks():
    seen = []
    (reference, plain), (opt, model) = pair(
        lr=gs.schedules.cosine(1e-2, total=8), weight_decay=lambda k: 0.1 / (k + 1)
    )
    opt.register_step_post_hook(lambda *_: seen.append(opt.param_groups[0]["lr"]))
    for a, b in zip(batches(), batches(), strict=False):
        if len(seen) == 4:
            break

        def closure(model=model, words=a):
            return backward(model, words)

        assert opt.step(closure) == backward(plain, b)
        opt.zero_grad()
        reference.step()
        reference.zero_grad()
        assert opt.report == reference.report
    assert seen == [gs.schedules.cosine(1e-2, total=8)(k) for k in range(4)]
    assert_alike(plain, model, opt)

    (reference, plain), (opt, model) = pair()
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(o, 0.02, 6) for o in (reference, opt)]
    for _ in range(5):
        assert train(opt, model, 1) == train(reference, plain, 1)
        for scheduler in schedulers:
            scheduler.step()
    assert opt.param_groups[0]["lr"] == reference.param_groups[0]["lr"]
    assert_alike(plain, model, opt)


def test_groups_and_one_that_is_added_later():
    def split(model):
        matrices = [p for p in model.parameters() if p.dim() > 1]
        return [{"params": matrices, "lr": 0.02}, {
            "params": [model.wide.bias, model.narrow.bias], "rule": "SGD", "lr": 0.5
        }]  # fmt: skip

    plain, model = Net(torch.bfloat16), Net(torch.bfloat16)
    reference = gt.AdamW(split(plain), weight_decay=0.1, clip_norm=1.0)
    opt = offloaded(split(model), model=model, weight_decay=0.1, clip_norm=1.0)
    assert train(opt, model) == train(reference, plain)
    before = opt.host_bytes
    for one, its in ((reference, plain), (opt, model)):
        one.add_param_group({"params": list(its.after.parameters()), "lr": 0.1})
    assert opt.host_bytes > before
    assert train(opt, model) == train(reference, plain)
    assert_alike(plain, model, opt)
    assert_same_states(opt, reference)


def test_a_layer_that_is_thawed_later():
    (reference, plain), (opt, model) = pair(split=True)
    assert train(opt, model, 2) == train(reference, plain, 2)
    for its in (plain, model):
        its.frozen.requires_grad_(True)
    assert train(opt, model, 3) == train(reference, plain, 3)
    assert_alike(plain, model, opt)
    assert_same_states(opt, reference)


# ---- what waits ----


def test_a_forward_pass_between_the_backward_pass_and_the_step():
    """Sees parameters of before or after the step, and none that is on its way."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    opt = offload(model, gt.SGD, lr=0.1, link=late(most=0.02), bucket_bytes=1)
    for _ in range(3):
        model(torch.ones(1, 8)).sum().backward()
        with torch.no_grad():
            assert not model(torch.ones(1, 8)).isnan().any()
        opt.step()


def test_parameters_alone_are_all_there_after_each_step():
    plain, model = Net(torch.bfloat16), Net(torch.bfloat16)
    reference = gt.AdamW(plain.parameters(), lr=1e-2)
    opt = offloaded(model.parameters(), lr=1e-2, link=late(most=5e-3))
    for _ in range(2):
        assert train(opt, model, 1) == train(reference, plain, 1)
        for got, its in zip(model.parameters(), plain.parameters(), strict=True):
            assert_same(got.detach(), its.detach())


def test_a_forward_pass_waits_for_its_own_layer_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    opt = offload(model, gt.SGD, lr=0.1, link=SimulatedLink(math.inf, delay=lambda: 0.2),
                  bucket_bytes=1)  # fmt: skip
    model(torch.ones(1, 8)).sum().backward()
    opt.step()
    assert model[1].weight.isnan().all()
    out = model[0](torch.ones(1, 8))
    assert not out.isnan().any()
    assert model[1].weight.isnan().all()  # nobody has waited for it
    assert not model[1](out).isnan().any()


def test_state_dicts_and_copies_have_whole_parameters():
    def ready():
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        opt = offload(model, gt.SGD, lr=0.1, momentum=0.9,
                      link=SimulatedLink(math.inf, delay=lambda: 0.05))  # fmt: skip
        model(torch.ones(1, 8)).sum().backward()
        opt.step()
        assert model[1].weight.isnan().any()
        return model, opt

    model, opt = ready()
    assert not any(value.isnan().any() for value in model.state_dict().values())
    model, opt = ready()
    other = copy.deepcopy(model)
    assert not any(value.isnan().any() for value in other.parameters())
    other(torch.ones(1, 8)).sum().backward()  # which no optimizer takes
    assert other[0].weight.grad is not None
    model, opt = ready()
    other = pickle.loads(pickle.dumps(model))
    assert not any(value.isnan().any() for value in other.parameters())
    model, opt = ready()
    state = opt.state_dict()["state"]
    assert len(state) == 4
    assert not any(value.isnan().any() for value in model.parameters())
    with pytest.raises(TypeError, match="state_dict"):
        pickle.dumps(opt)


def test_a_copy_of_the_optimizer_steps_a_copy_of_the_model():
    (reference, plain), (opt, model) = pair(split=True, states="q8")
    train(opt, model), train(reference, plain)
    both = copy.deepcopy((model, opt))
    other, again = both
    assert [id(p) for g in again.param_groups for p in g["params"]] == [
        id(p) for p in other.parameters()
    ]
    losses = train(reference, plain, seed=2)
    assert train(again, other, seed=2) == losses
    assert train(opt, model, seed=2) == losses
    assert_alike(plain, other, again)


class Attention(nn.Module):
    """Whose last projection is read by its parent: its own forward pass is never called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.before(x)
        return self.attention(x, x, x, need_weights=False)[0]


def test_what_is_read_without_its_module_is_waited_for_by_each_step():
    plain, model = Attention(), Attention()
    reference = gt.AdamW(plain.parameters(), lr=0.1)
    opt = offload(model, gt.AdamW, lr=0.1, link=late(most=5e-3), bucket_bytes=1)
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        for one, its in ((reference, plain), (opt, model)):
            its(x).square().sum().backward()
            one.step()
            one.zero_grad()
    assert_alike(plain, model, opt)


class Sly(nn.Module):
    """Reads its head by itself, but for the first pass."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.body(x)
        return self.head(x) if self.calls == 1 else functional.linear(x, self.head.weight)


def test_what_is_suddenly_read_without_its_module_is_refused_once():
    model = Sly()
    opt = offload(model, gt.SGD, lr=0.1, link=late(), bucket_bytes=1)
    model(torch.ones(1, 8)).sum().backward()
    opt.step()
    with pytest.raises(RuntimeError, match=r"head\.weight: got read .* wanted optimizer\.wait\(\)"):
        model(torch.ones(1, 8)).sum().backward()
    opt.zero_grad()
    for _ in range(2):
        loss = model(torch.ones(1, 8)).square().sum()
        assert not loss.isnan()
        loss.backward()
        opt.step()


# ---- memory ----


@pytest.mark.parametrize(
    ("options", "each"),
    [({"split": True, "states": "q8"}, 8), ({"split": True}, 14), ({"states": "bfloat16"}, 8)],
)
def test_host_bytes(options, each):
    model = nn.Sequential(*[nn.Linear(256, 256, bias=False) for _ in range(4)]).bfloat16()
    count = 4 * 256 * 256
    opt = offload(model, gt.AdamW, link=late(), **options)
    assert opt.host_bytes == pytest.approx(each * count, rel=0.01)
    model(torch.randn(2, 256).bfloat16()).square().sum().backward()
    opt.step()
    states = sum(
        value.numel() * value.element_size()
        for state in opt.state.values() for value in state.values()
    )  # fmt: skip
    buffers = sum(2 * slot.grad.numel() * 2 for slot in opt._pipeline.slots)
    assert opt.host_bytes == states + buffers


def test_too_little_memory_is_told_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(gs.machine, "free_memory", lambda: 10_000)
    model = nn.Linear(256, 256)
    with pytest.raises(
        MemoryError, match=r"got 10,000 bytes of free host memory, wanted 1,0.* for"
    ):
        offload(model, gt.AdamW, link=late())
    assert model.weight.grad is None


def test_a_link_without_memory():
    class Full(SimulatedLink):
        def empty(self, *_):
            raise RuntimeError("no pinned memory")

    with pytest.raises(MemoryError, match=r"got no .* bytes .* wanted them .*: no pinned memory"):
        offload(nn.Linear(8, 8), gt.AdamW, link=Full())


@pytest.mark.parametrize("total", [1000, 3 << 20, 700 << 20, 5 << 30])
def test_slabs_of_powers_of_two_leave_little(total):
    """Memory that PyTorch would round up to powers of 2, piece by piece."""
    made = []

    def allocate(size):
        made.append(size)
        return torch.empty(size, dtype=torch.uint8, device="meta")

    slabs = Slabs(allocate)
    chance, left = random.Random(0), total
    slabs.expect(total)
    while left > 0:
        size = min(left, chance.randint(1, 8 << 20))
        assert slabs.cut(size).numel() >= size
        left -= size
    assert all(size & (size - 1) == 0 for size in made)
    assert sum(made) <= 1.02 * total + (8 << 20)
    assert slabs.cut(77 << 20).numel() == 77 << 20
    assert made[-1] == 128 << 20  # which the next ones share
    assert slabs.cut(40 << 20).numel() == 40 << 20
    assert made[-1] == 128 << 20


def test_an_optimizer_that_is_gone_leaves_nothing():
    model = nn.Linear(8, 8)
    opt = offload(model, gt.AdamW, link=late())
    model(torch.ones(1, 8)).sum().backward()
    opt.step()
    opt.wait()
    gone = weakref.ref(opt._pipeline)
    del opt
    gc.collect()
    assert gone() is None
    model(torch.ones(1, 8)).sum().backward()
    assert model.weight.grad is not None


class Stream:
    """As a stream of PyTorch's generic interface is called; here it notes that."""

    def __init__(self, device, calls):
        self.device, self.calls = device, calls

    def note(self, name):
        self.calls.append(name)

    def __enter__(self):
        self.note("enter")

    def __exit__(self, *_):
        self.note("exit")

    def wait_stream(self, other):
        assert isinstance(other, Stream)
        self.note("wait_stream")

    def wait_event(self, event):
        assert isinstance(event, Event)
        self.note("wait_event")

    def synchronize(self):
        self.note("synchronize")


class Event:
    def __init__(self, device, *, blocking):
        assert blocking
        self.device = device

    def record(self, stream):
        self.stream = stream
        stream.note("record")

    def synchronize(self):
        self.stream.note("event.synchronize")

    def query(self):
        return True


@pytest.mark.parametrize("in_backward", [True, False])
def test_the_calls_of_an_accelerators_link(in_backward, monkeypatch):
    """Training over it, with streams that do nothing: the device is the CPU."""
    calls = []
    monkeypatch.setattr(torch, "Stream", lambda device: Stream(device, calls))
    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: Stream(device, calls))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: calls.append("record_stream"))
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *a, pin_memory=False, **k: calls.append(pin_memory) or empty(*a, **k)
    )
    (reference, plain), (opt, model) = pair(
        split=True, own={
            "link": AcceleratorLink(torch.device("cpu")), "in_backward": in_backward
        }
    )  # fmt: skip
    assert True in calls  # memory is pinned
    assert train(opt, model) == train(reference, plain)
    opt.wait()
    assert calls.count("enter") == calls.count("exit") > 0
    for name in ("wait_stream", "record_stream", "event.synchronize", "wait_event"):
        assert name in calls, name
    assert in_backward or "synchronize" in calls  # before parameters are written
    for got, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        assert_same(got.detach(), wanted.detach())


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize("options", [{}, {"split": True, "states": "q8"}, {"clip_norm": 0.05}])
def test_an_accelerator(options):
    """What the host has is on the device; it learns as the same rule does on the CPU."""
    device = torch.accelerator.current_accelerator()
    plain, model = Net(torch.bfloat16), Net(torch.bfloat16).to(device)
    reference = gt.AdamW(plain.named_parameters(), lr=1e-3, **options)
    opt = offload(model, gt.AdamW, lr=1e-3, bucket_bytes=3000, **options)
    source, other = batches(), batches()
    for _ in range(5):
        got, wanted = backward(model, next(source).to(device)), backward(plain, next(other))
        assert got == pytest.approx(wanted, rel=0.05)
        opt.step(), opt.zero_grad(), reference.step(), reference.zero_grad()
    opt.wait()
    for slot in opt._pipeline.slots:
        if slot.bucket is not None:
            assert_same(slot.param.detach().cpu(), slot.here)


# ---- checkpoints ----


@pytest.mark.parametrize("options", [{}, {"split": True, "states": "q8"}])
def test_checkpoints_swap_with_the_rules_own_class(options):
    (reference, plain), (opt, model) = pair(**options)
    train(opt, model), train(reference, plain)
    (again, other), (resumed, its) = pair(**options)
    for source, target in ((model, other), (plain, its)):
        target.load_state_dict(source.state_dict())
        target.calls = source.calls
    again.load_state_dict(opt.state_dict())
    resumed.load_state_dict(reference.state_dict())
    losses = train(reference, plain, seed=2)
    assert train(opt, model, seed=2) == losses
    assert train(again, other, seed=2) == losses
    assert train(resumed, its, seed=2) == losses
    assert_alike(plain, its, resumed)
    assert_same_states(resumed, reference)


def test_checkpoints_swap_with_torch():
    plain, model = Net(torch.float32), Net(torch.float32)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    opt = offloaded(model.parameters(), model=model, lr=1e-2)
    source, other = batches(), batches()
    for _ in range(2):
        backward(plain, next(source)), theirs.step(), theirs.zero_grad()
        backward(model, next(other)), opt.step(), opt.zero_grad()
    assert opt.state_dict()["state"].keys() == theirs.state_dict()["state"].keys()
    opt.load_state_dict(theirs.state_dict())
    torch.optim.AdamW(plain.parameters()).load_state_dict(opt.state_dict())
    for key, state in theirs.state_dict()["state"].items():
        assert_same(opt.state_dict()["state"][key], state)


def test_distributed_checkpoints_take_it_for_an_optimizer():
    from torch.distributed.checkpoint.state_dict import (  # noqa: PLC0415 - for this alone
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    (reference, plain), (opt, model) = pair(split=True)
    for its in (plain, model):
        its.unused.requires_grad_(False)  # whose state DCP would make
    train(opt, model), train(reference, plain)
    saved = get_optimizer_state_dict(model, opt)
    wanted = get_optimizer_state_dict(plain, reference)
    assert saved["state"].keys() == wanted["state"].keys()
    fresh = Net(torch.bfloat16)
    fresh.unused.requires_grad_(False)
    fresh.load_state_dict(model.state_dict())
    fresh.calls = model.calls
    other = offloaded(fresh, lr=1e-2, split=True)
    set_optimizer_state_dict(fresh, other, saved)
    assert train(other, fresh, seed=2) == train(reference, plain, seed=2)


# ---- partly on the device ----


@pytest.mark.parametrize("clips", [None, 0.05])
@pytest.mark.parametrize("asked", [0.5, "words.*", 1.0])
def test_partly_on_the_device(asked, clips):
    (reference, plain), (opt, model) = pair(
        torch.float32, own={"on_device": asked}, clip_norm=clips
    )
    stay = {slot.name for slot in opt._pipeline.slots if slot.stays}
    if asked == 0.5:
        assert stay == {"wide.weight", "narrow.bias"} or "wide.weight" in stay
    elif asked == 1.0:
        assert "words.weight" in stay
    else:
        assert stay == {"words.weight"}
    losses = train(opt, model, 4)
    assert losses == pytest.approx(train(reference, plain, 4), rel=1e-5)
    if clips:
        assert opt.report.grad_norm == pytest.approx(reference.report.grad_norm, rel=1e-5)
    opt.wait()
    for got, its in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got, its, rtol=1e-4, atol=1e-5)
    assert opt.state_dict()["state"].keys() == reference.state_dict()["state"].keys()
    (_, _), (other, its) = pair(torch.float32, own={"on_device": asked}, clip_norm=clips)
    its.load_state_dict(model.state_dict())
    its.calls = model.calls
    other.load_state_dict(opt.state_dict())
    assert train(other, its, seed=2) == train(opt, model, seed=2)


def test_on_the_device_alone_and_with_one_norm():
    """Where the gradients are the same, the norm is, and what is stepped here is to the bit."""
    plain, model = Net(torch.float32), Net(torch.float32)
    reference = gt.SGD(plain.named_parameters(), lr=0.1, clip_norm=0.05)
    opt = offloaded(model, gt.SGD, lr=0.1, clip_norm=0.05, on_device=["words.weight"])
    assert train(opt, model, 1) == train(reference, plain, 1)
    assert opt.report.grad_norm == pytest.approx(reference.report.grad_norm, rel=1e-6)


# ---- GradScaler ----


@pytest.mark.parametrize("unscales", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_grad_scaler(dtype, unscales):
    if unscales and dtype == torch.float16:
        pytest.skip("GradScaler refuses to unscale float16")
    (reference, plain), (opt, model) = pair(
        dtype, own={"in_backward": dtype == torch.float16}, clip_norm=0.1 if unscales else None
    )
    skipped = 0
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**k, growth_interval=2) for k in (17, 17)]
    for k in range(6):
        for one, its, scaler in ((reference, plain, scalers[0]), (opt, model, scalers[1])):
            words = next(batches(k))
            loss = functional.cross_entropy(its(words).float(), words)
            scaler.scale(loss * (math.inf if k == 3 else 1)).backward()
            if unscales:
                scaler.unscale_(one)
            scaler.step(one)
            scaler.update()
            one.zero_grad()
        skipped += opt.report.skipped is True
        assert opt.report.skipped == reference.report.skipped
        assert scalers[0].get_scale() == scalers[1].get_scale()
        assert_alike(plain, model, opt)
    assert skipped >= 1
    assert opt.report.t == reference.report.t < 6


def test_a_grad_scaler_after_layers_were_stepped_is_refused():
    model = Net(torch.float32)
    opt = offloaded(model, lr=1e-2)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(next(batches())).float().square().mean()).backward()
    with pytest.raises(RuntimeError, match=r"GradScaler.*in_backward=False"):
        scaler.step(opt)
    opt.zero_grad()
    train(opt, model)


# ---- what somebody does in between ----


def chain(count=3):
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(count)])


def one_step(model, opt):
    model(torch.ones(1, 8)).square().sum().backward()
    opt.step()


def test_a_model_that_outlives_its_optimizer_is_whole():
    model = chain()

    def trained():
        opt = offload(model, gt.AdamW, lr=0.1, link=late(most=0.05), bucket_bytes=1)
        one_step(model, opt)
        return weakref.ref(opt), weakref.ref(opt._pipeline)

    gc.disable()  # it does not wait for a collection
    try:
        assert [gone() for gone in trained()] == [None, None]
    finally:
        gc.enable()
    for module in model:
        assert not module.weight.isnan().any()
        assert not module._forward_pre_hooks
        assert not module._state_dict_pre_hooks
        assert not module._load_state_dict_pre_hooks
        assert not module.weight._post_accumulate_grad_hooks
    model(torch.ones(1, 8)).sum().backward()
    assert model[0].weight.grad is not None


def test_another_optimizer_takes_the_place_of_one():
    model = chain()
    for _ in range(2):
        opt = offloaded(model, lr=0.1)  # a cell that runs again
        one_step(model, opt)
    other = offloaded(model, lr=0.1)
    with pytest.raises(RuntimeError, match=r"another offload\(\) has|gradient that was taken"):
        one_step(model, other)
    opt.zero_grad()


def test_a_model_is_loaded_right_after_a_step():
    model, source = chain(), chain(3)
    opt = offload(model, gt.AdamW, lr=0.1, link=late(most=0.05), bucket_bytes=1)
    one_step(model, opt)
    model.load_state_dict(source.state_dict())
    opt.wait()
    for got, wanted in zip(model.parameters(), source.parameters(), strict=True):
        assert_same(got.detach(), wanted.detach())


@pytest.mark.parametrize("cuts", [None, 100_000])
def test_averages_and_what_was_written_before(cuts):
    make = chain if cuts is None else lambda: nn.Linear(300, 500)
    plain, model = make(), make()
    plain.load_state_dict(model.state_dict())
    reference = gt.AdamW(plain.parameters(), lr=0.1, average=0.9)
    opt = offload(model, gt.AdamW, lr=0.1, average=0.9, link=late(), bucket_bytes=cuts)
    x = torch.ones(1, 8 if cuts is None else 300)
    for its, one in ((plain, reference), (model, opt)):
        its(x).square().sum().backward()
        one.step()
        getattr(one, "wait", lambda: None)()
        with torch.no_grad():
            next(its.parameters()).mul_(0.5)
        with pytest.raises(Broken), one.averaged():
            raise Broken
    assert_alike(plain, model, opt)


class Broken(Exception):
    pass


@pytest.mark.parametrize("rounding", [{}, {"states": "bfloat16"}])
def test_a_large_tensor_that_is_no_run_of_memory(rounding):
    """From the start, a slice with gaps; and once it was laid out in another way.

    Random bits follow the elements as they lie, for which the twin stays as it was.
    """
    for kind in ("gaps",) if rounding else ("gaps", "later"):
        both = []
        for makes in (gt.AdamW, functools.partial(offload, link=late(), bucket_bytes=100_000)):
            torch.manual_seed(0)
            model = nn.Conv2d(64, 300, 3)
            if kind == "gaps":
                large = torch.zeros(300, 64, 3, 4)
                large[..., :3] = model.weight.detach()
                model.weight = nn.Parameter(large[..., :3])
            given = (model.parameters(),) if makes is gt.AdamW else (model, gt.AdamW)
            opt = makes(*given, lr=0.1, **rounding)
            if kind == "later":
                model.to(memory_format=torch.channels_last)
            both.append((model, opt))
        for step in range(3):
            x = torch.randn(1, 64, 4, 4, generator=torch.Generator().manual_seed(step))
            for model, opt in both:
                model(x).square().mean().backward()
                opt.step()
                opt.zero_grad()
        (plain, _), (model, opt) = both
        assert_alike(plain, model, opt)


@pytest.mark.parametrize("unused", [False, True])
def test_a_parameter_that_is_written_between_the_backward_pass_and_the_step(unused):
    (reference, plain), (opt, model) = pair(clip_norm=0.05)
    words = next(batches())
    for its in (plain, model):
        backward(its, words)
        with torch.no_grad():
            (its.unused if unused else its.wide).weight.mul_(0.5)
    reference.step()
    opt.step()
    assert_alike(plain, model, opt)
    reference.zero_grad(), opt.zero_grad()
    assert train(opt, model) == train(reference, plain)
    assert_alike(plain, model, opt)


def test_gradients_that_somebody_drops_between():
    (reference, plain), (opt, model) = pair(clip_norm=0.05)
    words = next(batches())
    for its, one in ((plain, reference), (model, opt)):
        backward(its, words)
        its.wide.weight.grad = None
        its.narrow.zero_grad()
        one.step()
    assert_alike(plain, model, opt)
    assert opt.report == reference.report
    (_, _), (opt, model) = pair()
    backward(model, words)
    model.zero_grad()
    with pytest.raises(RuntimeError, match=r"grad: asked to drop gradients by which layers were"):
        opt.step()
    train(opt, model)


def test_a_forward_pass_of_another_thread_within_the_backward_pass():
    (reference, plain), (opt, model) = pair()
    inside, done = threading.Event(), threading.Event()

    def evaluate():
        inside.wait()
        with torch.no_grad():
            model.narrow(torch.zeros(1, 300, dtype=torch.bfloat16))
        done.set()

    def hook(_):
        inside.set()
        assert done.wait(10)

    thread = threading.Thread(target=evaluate)
    thread.start()
    handle = model.wide.weight.register_hook(hook)
    words = next(batches())
    assert backward(model, words) == backward(plain, words)
    thread.join()
    handle.remove()
    opt.step()
    reference.step()
    assert_alike(plain, model, opt)


def test_a_switch_that_is_turned_on_before_the_first_step():
    plain, model = nn.Linear(300, 500), nn.Linear(300, 500)
    model.load_state_dict(plain.state_dict())
    reference = gt.AdamW(plain.parameters(), lr=0.1)
    opt = offload(model, gt.AdamW, lr=0.1, link=late(), bucket_bytes=100_000)
    for its, one in ((plain, reference), (model, opt)):
        one.param_groups[0]["cautious"] = True
        for _ in range(2):
            its(torch.ones(2, 300)).square().mean().backward()
            one.step()
            one.zero_grad()
    assert_alike(plain, model, opt)


def test_a_group_that_is_refused_leaves_nothing():
    (reference, plain), (opt, model) = pair(average=0.9)
    extra = nn.Parameter(torch.ones(5, dtype=torch.bfloat16))
    group = {"params": [("extra", extra)], "lr": -1.0}
    with pytest.raises(ValueError, match=r"lr: got -1\.0"):
        opt.add_param_group(group)
    backward(model, next(batches()))
    with pytest.raises(RuntimeError, match=r"add_param_group: got a group while gradients wait"):
        opt.add_param_group({"params": [("extra", extra)]})
    opt.step(), opt.zero_grad()
    backward(plain, next(batches())), reference.step(), reference.zero_grad()
    with opt.averaged():
        assert_same(extra.detach(), torch.ones(5, dtype=torch.bfloat16))
    assert train(opt, model) == train(reference, plain)
    (_, _), (opt, model) = pair(torch.float32, own={"on_device": 0.5})
    with pytest.raises(ValueError, match=r"add_param_group: got a group with on_device"):
        opt.add_param_group({"params": [("extra", extra)]})


def test_rates_between_accumulated_passes_and_stages_after_them():
    (reference, plain), (opt, model) = pair(own={"accumulate": 2})
    assert opt.report is None
    for its, one in ((plain, reference), (model, opt)):
        backward(its, torch.arange(6))
        one.param_groups[0]["lr"] = 0.5
        backward(its, torch.arange(6))
        one.step(), one.zero_grad()
    assert_alike(plain, model, opt)
    backward(model, torch.arange(6)), backward(model, torch.arange(6))
    opt.stages["clip_norm"] = 0.1
    with pytest.raises(RuntimeError, match=r"stages\['clip_norm'\]: got 0\.1 after the backward"):
        opt.step()
    backward(model, torch.arange(6)), backward(model, torch.arange(6))
    with pytest.raises(ValueError, match=r"loss: got 1\.0, which AdamW does not use"):
        opt.step(loss=1.0)
    opt.step()


def test_thawed_under_accumulation_and_float32_in_one_pass():
    for options in ({"accumulate": 3}, {"accumulate_in": "float32"}):
        (reference, plain), (opt, model) = pair(own={**options, "bucket_bytes": 64})
        passes = options.get("accumulate", 1)
        assert train(opt, model, 1, passes) == train(reference, plain, 1, passes)
        for its in (plain, model):
            its.frozen.requires_grad_(True)
        assert train(opt, model, 3, passes) == train(reference, plain, 3, passes)
        assert_alike(plain, model, opt)


def test_a_cut_tensor_that_is_written_in_each_step_is_compiled_once():
    model = nn.Linear(300, 500)
    opt = offload(model, gt.SGD, lr=0.1, link=late(), bucket_bytes=100_000)
    counts = []
    for _ in range(4):
        model(torch.ones(2, 300)).square().mean().backward()
        opt.step()
        opt.wait()
        with torch.no_grad():
            model.weight.mul_(0.9)
        counts.append(len(opt._inner._bounds._now))
    assert counts == counts[:1] * 4


def test_a_copy_with_a_rule_per_group():
    model = chain()
    groups = [
        {"params": list(model[0].parameters()), "lr": gs.schedules.cosine(0.1, total=9)},
        {"params": list(model[1:].parameters()), "rule": "SGD", "lr": 0.2},
    ]
    opt = offloaded(groups, model=model)
    one_step(model, opt)
    other, again = copy.deepcopy((model, opt))
    for _ in range(2):
        for its, one in ((model, opt), (other, again)):
            one.zero_grad()
            one_step(its, one)
    opt.wait()
    assert_alike(model, other, again)
    assert [g["lr"] for g in again.param_groups] == [g["lr"] for g in opt.param_groups]


@pytest.mark.parametrize("clips", [None, 0.05])
def test_a_scaler_that_unscales_two_dtypes_some_on_the_device(clips):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8).double()

        def forward(self, x):
            return self.b(self.a(x).double())

    for own in ({}, {"on_device": ["a.*"]}):
        plain, model = Two(), Two()
        reference = gt.AdamW(plain.named_parameters(), lr=0.1, clip_norm=clips)
        opt = offloaded(model, lr=0.1, clip_norm=clips, in_backward=False, **own)
        for its, one in ((plain, reference), (model, opt)):
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
            scaler.scale(its(torch.ones(2, 8)).square().mean()).backward()
            scaler.unscale_(one)
            scaler.step(one)
            scaler.update()
        opt.wait()
        if clips:
            wanted_norm = pytest.approx(reference.report.grad_norm, rel=1e-6)
            assert opt.report.grad_norm == wanted_norm
        for got, wanted in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)


# ---- bad input ----


def test_gradients_in_another_dtype_are_refused():
    model = nn.Linear(4, 4).bfloat16()
    model.weight.grad_dtype = torch.float32
    with pytest.raises(TypeError, match=r"weight: got gradients of torch\.float32 for torch\.bfl"):
        offloaded(model)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"accumulate": 0}, ValueError, "accumulate: got 0, wanted an integer, 1 or more"),
        ({"accumulate": True}, ValueError, "accumulate: got True"),
        ({"accumulate_in": "bfloat16"}, ValueError, "accumulate_in: got 'bfloat16', wanted one of"),
        ({"bucket_bytes": 0.5}, ValueError, "bucket_bytes: got 0.5, wanted an integer"),
        ({"on_device": None}, TypeError, "on_device: got None, wanted a fraction from 0 to 1"),
        ({"model": 5}, TypeError, "model: got 5, wanted a torch.nn.Module"),
        ({"link": 5}, TypeError, "link: got 5, wanted None or a link"),
        ({"in_backward": "no"}, TypeError, "in_backward: got 'no', wanted True or False"),
        ({"on_device": 0.5, "cautious": True}, ValueError, "cautious: got True with on_device"),
        ({"on_device": 1.5}, ValueError, "on_device: got 1.5, wanted a fraction from 0 to 1"),
        ({"on_device": "heads.*"}, ValueError, "on_device: got 'heads.*', which no parameter"),
        ({"on_device": 0.5, "average": 0.9}, ValueError, "average: got 0.9 with on_device"),
        ({"copy_to": []}, TypeError, "copy_to: got copies, wanted none"),
        ({"lr": -1.0}, ValueError, "lr: got -1.0"),
        ({"momentum": 0.9}, TypeError, "momentum"),
        ({"link": None}, ValueError, "params: got a model on the CPU, wanted one on an accel"),
    ],
)  # fmt: skip
def test_arguments_are_refused(options, error, text):
    model = Net(torch.float32)
    before = [param.detach().clone() for param in model.parameters()]
    params = model if "model" not in options else model.parameters()
    with pytest.raises(error) as caught:
        offloaded(params, **options)
    assert not any(param._post_accumulate_grad_hooks for param in model.parameters())
    assert text in str(caught.value)
    for param, its in zip(model.parameters(), before, strict=True):
        assert_same(param.detach(), its)


@pytest.mark.parametrize("rule", [torch.optim.Adam, gs.AdamW, gt.Optimizer, "a name"])
def test_rules_of_others_are_refused(rule):
    with pytest.raises(TypeError, match=r"rule: got .*, wanted a class of gradstep\.torch"):
        offload(nn.Linear(2, 2), rule, link=late())


def test_rules_that_pytorch_lacks_do_not_stay_on_the_device():
    with pytest.raises(ValueError, match="on_device: got Lion, or a rule per group, wanted one"):
        offload(nn.Linear(2, 2), gt.Lion, on_device=0.5, link=late())


BUCKETS = {"step in the backward pass": {}, "step after it": {"in_backward": False}}


@pytest.mark.parametrize("how", BUCKETS)
def test_two_backward_passes_without_accumulate(how):
    (reference, plain), (opt, model) = pair(own=BUCKETS[how])
    words = next(batches())
    backward(plain, words)
    backward(model, words)
    with pytest.raises(RuntimeError, match=r"gradient that was taken|got a backward pass before"):
        backward(model, words)
    model.calls = plain.calls
    for one in (reference, opt):
        one.step()
        one.zero_grad()
    assert_alike(plain, model, opt)
    assert train(opt, model) == train(reference, plain)


@pytest.mark.parametrize("how", BUCKETS)
@pytest.mark.parametrize("passes", [1, 2])
def test_zero_grad_between(how, passes):
    (reference, plain), (opt, model) = pair(own={**BUCKETS[how], "accumulate": 2})
    words = next(batches())
    for _ in range(passes):
        backward(plain, words)
        backward(model, words)
    if passes == 2 and how == "step in the backward pass":
        with pytest.raises(
            RuntimeError, match=r"zero_grad: asked to drop gradients by which layers were st"
        ):
            opt.zero_grad()
        opt.step()
        reference.step()
    else:
        opt.zero_grad()
    reference.zero_grad()
    opt.zero_grad()
    assert_alike(plain, model, opt)
    assert train(opt, model, passes=2) == train(reference, plain, passes=2)
    assert_alike(plain, model, opt)


@pytest.mark.parametrize("how", BUCKETS)
@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("recovers", ["zero_grad", "forward", "step"])
def test_an_exception_within_the_backward_pass(how, error, recovers):
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)])
    opt = offload(model, gt.AdamW, lr=0.1, link=late(), bucket_bytes=1, **BUCKETS[how])

    def fail(_):
        raise error

    handle = model[1].weight.register_hook(fail)
    with pytest.raises(error):
        model(torch.ones(1, 8)).sum().backward()
    handle.remove()
    if recovers == "zero_grad":
        opt.zero_grad()
    elif recovers == "step":
        with pytest.raises(RuntimeError, match="step: got a backward pass that has failed"):
            opt.step()
    for param in model.parameters() if recovers != "forward" else ():
        assert param.grad is None
    opt.wait()
    state = opt.state
    for slot in opt._pipeline.slots:  # host and device agree
        assert_same(slot.param.detach(), slot.here)
    stepped = [bool(state.get(param)) for param in model.parameters()]
    assert stepped[:3] == [False] * 3
    assert stepped[-1] == (how == "step in the backward pass")
    before = model[0].weight.detach().clone()
    for _ in range(2):
        loss = model(torch.ones(1, 8)).square().sum()
        assert not loss.isnan()
        loss.backward()
        opt.step()
        opt.zero_grad()
    assert not torch.equal(before, model[0].weight)


def test_a_step_without_a_backward_pass():
    (reference, plain), (opt, model) = pair(average=0.9)
    for _ in range(2):
        opt.step()
        reference.step()
        assert opt.report == reference.report
    assert train(opt, model) == train(reference, plain)
    assert_alike(plain, model, opt)


@pytest.mark.parametrize("where", ["words.weight", "after.bias"])
def test_a_nan_in_one_bucket(where):
    for nonfinite in ("skip", "raise"):
        (reference, plain), (opt, model) = pair(split=True, nonfinite=nonfinite)
        train(opt, model), train(reference, plain)
        words = next(batches())
        for its in (plain, model):
            dict(its.named_parameters())[where].register_hook(lambda g: g * math.nan)
        backward(plain, words)
        backward(model, words)
        if nonfinite == "raise":
            with pytest.raises(FloatingPointError) as wanted:
                reference.step()
            with pytest.raises(FloatingPointError) as got:
                opt.step()
            assert str(got.value) == str(wanted.value)
        else:
            opt.step()
            reference.step()
            assert opt.report.skipped
            assert opt.report.t == reference.report.t
        assert_alike(plain, model, opt)
        assert_same_states(opt, reference)


def test_a_parameter_that_was_written_to():
    (reference, plain), (opt, model) = pair(split=True)
    train(opt, model), train(reference, plain)
    opt.wait()
    with torch.no_grad():
        for its in (plain, model):
            its.wide.weight.mul_(0.5)  # in place
            its.narrow.weight.data = its.narrow.weight.data + 1  # other memory
    model.load_state_dict(plain.state_dict())
    assert train(opt, model) == train(reference, plain)
    assert_alike(plain, model, opt)


def test_a_model_that_was_converted():
    model = nn.Linear(8, 8)
    opt = offload(model, gt.AdamW, lr=0.1, link=late())
    model.double()
    with pytest.raises(ValueError, match=r"(weight|bias): got .*, wanted torch\.float32 of shape"):
        model(torch.ones(1, 8, dtype=torch.float64)).sum().backward()
    opt.zero_grad()
    model.float()
    model(torch.ones(1, 8)).sum().backward()
    opt.step()


def test_hyperparameters_that_are_changed_after_the_backward_pass():
    (reference, plain), (opt, model) = pair()
    words = next(batches())
    backward(plain, words)
    backward(model, words)
    opt.param_groups[0]["lr"] = 0.5
    with pytest.raises(RuntimeError, match=r"param_groups\[0\] lr: got 0\.5 after the backward"):
        opt.step()
    reference.step()
    assert_alike(plain, model, opt)
    opt.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.5
    opt.zero_grad(), reference.zero_grad()
    assert train(opt, model) == train(reference, plain)
    (reference, plain), (opt, model) = pair(own={"in_backward": False})
    backward(plain, words)
    backward(model, words)
    for one in (opt, reference):
        one.param_groups[0]["lr"] = 0.5
        one.step()
    assert_alike(plain, model, opt)


def test_gradients_that_were_taken_are_not_clipped_in_silence():
    model = Net(torch.float32)
    opt = offloaded(model, lr=1e-2)
    backward(model, next(batches()))
    with pytest.raises(RuntimeError, match=r"taken to the host.* wanted clip_norm="):
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert "Taken" in repr(model.wide.weight.grad)
    opt.step()
    assert model.wide.weight.grad is None


def test_sparse_gradients_are_refused():
    model = nn.Embedding(5, 4, sparse=True)
    opt = offload(model, gt.SGD, lr=0.1, link=late())
    with pytest.raises(TypeError, match=r"weight\.grad: got torch\.sparse_coo, wanted a dense"):
        model(torch.tensor([1])).sum().backward()
    opt.zero_grad()


def test_reentrant_checkpoints_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    opt = offload(model, gt.SGD, lr=0.1, link=late())
    x = torch.ones(1, 4, requires_grad=True)
    out = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        out.sum().backward()
    opt.zero_grad()
    out = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
    out.sum().backward()
    opt.step()


def test_a_gradient_assigned_by_hand():
    """As distributed checkpoints do to make states; and one beside that of a backward pass."""
    (reference, plain), (opt, model) = pair()
    for one, its in ((reference, plain), (opt, model)):
        for param in its.parameters():
            if param.requires_grad:
                param.grad = torch.ones_like(param)
        one.step()
        one.zero_grad()
    assert_alike(plain, model, opt)
    backward(model, next(batches()))
    model.wide.weight.grad = torch.ones_like(model.wide.weight)
    with pytest.raises(RuntimeError, match=r"wide\.weight\.grad: got another gradient than"):
        opt.step()


def test_another_thread_trains():
    """The thread of the backward pass need not be the one that made the optimizer."""
    (reference, plain), (opt, model) = pair()
    losses = []
    thread = threading.Thread(target=lambda: losses.extend(train(opt, model)))
    thread.start()
    thread.join()
    assert losses == train(reference, plain)


def test_denormals_are_as_the_training_thread_has_them():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    try:
        (reference, plain), (opt, model) = pair(torch.float32, lr=1e-38, rule=gt.SGD)
        for its in (plain, model):
            its.wide.weight.data.mul_(1e-38)
        opt._pipeline.slots[1]._version = -1  # that the twin reads it again
        assert train(opt, model) == train(reference, plain)
        assert_alike(plain, model, opt)
    finally:
        torch.set_flush_denormal(False)
