"""Rates by layer: which parameter is in which, what each group gets, and that all rules take it."""

import copy
import pickle
import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

import gradstep as gs
from cases import assert_same_bits
from gradstep import schedules

# Names of parameters, and by hand: each layer from the first to the last, with its rate for lr=0.1.
NAMED = {
    "a transformer": (
        ["wte.weight", "h.0.attn.weight", "h.0.ln_1.bias", "h.1.attn.weight", "ln_f.weight"],
        0.5,
        {"wte": 0.0125, "h.0": 0.025, "h.1": 0.05, "ln_f": 0.1},
    ),
    "numbers out of order": (
        ["h.10.w", "embed", "h.9.w", "h.9.b", "head.w"],
        0.1,
        {"h.9": 1e-4, "h.10": 1e-3, "embed": 1e-2, "head": 0.1},
    ),
    "only the first number counts": (
        ["layer1.0.conv.weight", "layer1.0.shortcut.1.weight", "layer1.1.weight", "fc.weight"],
        0.5,
        {"layer1.0": 0.025, "layer1.1": 0.05, "fc": 0.1},
    ),
    "slashes": (
        ["params/Dense_0/kernel", "params/Dense_0/bias", "params/Dense_1/kernel", "blocks/3"],
        0.5,
        {"params/Dense_0": 0.025, "params/Dense_1": 0.05, "blocks/3": 0.1},
    ),
    "two stacks": (
        ["encoder.0.w", "decoder.0.w", "encoder.1.w", "decoder.1.w"],
        0.5,
        {"encoder.0": 0.0125, "encoder.1": 0.025, "decoder.0": 0.05, "decoder.1": 0.1},
    ),
    "no decay": (["a.w", "b.w"], 1, {"a": 0.1, "b": 0.1}),
    "one layer": (["0.weight", "0.bias"], 0.9, {"0": 0.1}),
}


def rates(groups):
    return {group["name"]: group["lr"] for group in groups}


@pytest.mark.parametrize(("names", "decay", "wanted"), NAMED.values(), ids=NAMED)
def test_the_table_by_hand(names, decay, wanted):
    params = {name: np.ones(3) for name in names}
    groups = gs.layerwise(params, lr=0.1, decay=decay)
    assert list(rates(groups)) == list(wanted)
    assert rates(groups) == pytest.approx(wanted, rel=1e-15)
    of = {name: group["name"] for group in groups for name in group["params"]}
    assert sorted(of) == sorted(names)
    for name, layer in of.items():
        assert name.startswith(layer)
        assert name in repr(groups)
    shown = schedules.cosine(0.1, total=10).warmup(2)
    for group, rate in zip(
        gs.layerwise(params, lr=shown, decay=decay), wanted.values(), strict=True
    ):
        for k in range(10):
            assert group["lr"](k) == pytest.approx(shown(k) * rate / 0.1, rel=1e-14)


def test_a_sequence_has_a_layer_for_each():
    groups = gs.layerwise([np.ones(i + 1) for i in range(12)], lr=1)
    assert [group["name"] for group in groups] == [str(i) for i in range(12)]
    assert [group["lr"] for group in groups] == [0.9**d for d in range(11, -1, -1)]
    assert [list(part) for part in groups.split(range(12))] == [[str(i)] for i in range(12)]


def test_gradients_are_split_by_name_or_in_the_order_of_the_parameters():
    names = ["h.1.w", "h.0.w", "h.1.b"]
    groups = gs.layerwise({name: np.ones(1) for name in names}, lr=1)
    wanted = [{"h.0.w": 2}, {"h.1.w": 1, "h.1.b": 3}]
    assert groups.split([1, 2, 3]) == wanted
    assert groups.split(dict(zip(names, [1, 2, 3], strict=True))) == wanted
    for again in (copy.deepcopy(groups), pickle.loads(pickle.dumps(groups))):
        assert again.split([1, 2, 3]) == wanted
    with pytest.raises(ValueError, match=re.escape("values: got no 'h.0.w', wanted the names ")):
        groups.split({"h.1.w": 1, "h.1.b": 3})


# Those that find one rate for all parameters say so.
ONE_RATE = [name for name, rule in gs.rule.RULES.items() if "lr" in rule.common]
OTHERS = [name for name in gs.rule.RULES if name not in ONE_RATE]


def given(rule, rate):
    """A rate that falls; Rprop's is read only once, so that it takes no schedule."""
    return rate if rule == "Rprop" else schedules.linear(rate, 0.0, total=9)


def at(rate, k):
    return rate(k) if callable(rate) else rate


@pytest.mark.parametrize("rule", ONE_RATE)
def test_a_rule_with_one_rate_for_all_refuses(rule):
    assert ONE_RATE == ["Prodigy", "DAdaptAdamW"]
    groups = gs.layerwise([np.ones((2, 2)), np.ones((2, 2))], lr=1.0)
    with pytest.raises(ValueError, match=f"lr is 0.9, wanted one for all groups of {rule}"):
        getattr(gs, rule)(groups)


@pytest.mark.parametrize("rule", OTHERS)
def test_every_other_rule_takes_the_groups(rule):
    """Each layer goes as under an optimizer of its own, where no number is shared by all."""
    make = getattr(gs, rule)
    rng = np.random.default_rng(0)
    start = {f"layers.{i}.{name}": rng.normal(size=(4, 5)) for i in range(3) for name in "ab"}
    params = {name: array.copy() for name, array in start.items()}
    groups = gs.layerwise(params, lr=given(rule, 0.1), decay=0.5)
    opt = make(groups)
    alone = {name: start[name].copy() for name in ("layers.0.a", "layers.0.b")}
    other = make(alone, lr=given(rule, 0.025))
    shares = bool(gs.rule.RULES[rule].common) or gs.rule.RULES[rule].takes_loss
    for _ in range(3):
        gradients = {name: rng.normal(size=(4, 5)) for name in start}
        more = {"loss": 1.0} if gs.rule.RULES[rule].takes_loss else {}
        report = opt.step(groups.split(gradients), **more)
        other.step({name: gradients[name] for name in alone}, **more)
    assert report.lr == tuple(at(group["lr"], 2) for group in groups)
    for name, array in params.items():
        assert (array != start[name]).any()
        if name in alone and not shares:
            assert_same_bits(array, alone[name], name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": np.ones(3)}, "params: got ndarray, wanted a mapping from name to array, or a"),
        ({"params": {}}, "params: got none, wanted at least one"),
        ({"params": []}, "params: got none, wanted at least one"),
        ({"params": {1: np.ones(3)}}, "params: got the key 1, wanted names as text"),
        ({"decay": 0}, "decay: got 0, wanted a number above 0, at most 1"),
        ({"decay": 1.1}, "decay: got 1.1, wanted a number above 0, at most 1"),
        ({"decay": float("nan")}, "decay: got nan, wanted a number above 0, at most 1"),
        ({"decay": True}, "decay: got True, wanted a number above 0, at most 1"),
        ({"decay": "0.9"}, "decay: got '0.9', wanted a number above 0, at most 1"),
        ({"lr": -1}, "lr: got -1, wanted a finite number ≥ 0 or a schedule"),
        ({"lr": float("inf")}, "lr: got inf, wanted a finite number ≥ 0 or a schedule"),
        ({"lr": None}, "lr: got None, wanted a number ≥ 0 or a schedule"),
        ({"lr": float}, "lr: got <class 'float'>, wanted a number ≥ 0 or a schedule"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
        gs.layerwise(**{"params": [np.ones(3)], "lr": 0.1, **change})


# ---- PyTorch ----


def network(torch):
    torch.manual_seed(0)
    parts = [torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16), torch.nn.Tanh()]
    return torch.nn.Sequential(*parts, torch.nn.Linear(16, 10))


def test_a_modules_parameters():
    torch = pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    model = network(torch)
    wanted = {"0": 0.05, "2": 0.1, "4": 0.2}
    for given in (model, model.named_parameters(), [*model.named_parameters()]):
        groups = gt.layerwise(given, lr=0.2, decay=0.5)
        assert rates(groups) == wanted
        assert [name for group in groups for name, _ in group["params"]] == [
            name for name, _ in model.named_parameters()
        ]
    torch.optim.AdamW(groups)
    model[4].requires_grad_(False)
    groups = gt.layerwise(model, lr=0.2, decay=0.5)
    assert rates(groups) == {"0": 0.05, "2": 0.1}  # the last one counts, although it rests
    assert "left out: 2 parameters" in repr(groups)
    for bad, got in [
        (model.parameters(), "Parameter among them"),
        (torch.ones(3), "Tensor"),
        (dict(model.named_parameters()), "dict"),
        (3, "int"),
        ([("w", 3)], "tuple among them"),
    ]:
        with pytest.raises(TypeError, match=f"params: got {got}, wanted a torch.nn.Module or its"):
            gt.layerwise(bad, lr=0.1)
    with pytest.raises(ValueError, match="params: got none, wanted at least one"):
        gt.layerwise(model.requires_grad_(False), lr=0.1)


@pytest.mark.parametrize("rule", OTHERS)
def test_every_other_rule_takes_a_modules_groups(rule):
    torch = pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    layers = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(3)))
    groups = gt.layerwise(layers, lr=given(rule, 0.1), decay=0.5)
    wanted = [group["lr"] for group in groups]
    opt = getattr(gt, rule)(groups)
    before = [p.detach().clone() for p in layers.parameters()]
    for _ in range(2):

        def closure():
            opt.zero_grad()
            loss = layers(torch.ones(2, 4)).square().sum()
            loss.backward()
            return loss

        opt.step(closure)
    assert [group["lr"] for group in opt.param_groups] == [at(rate, 1) for rate in wanted]
    assert all((p != b).any() for p, b in zip(layers.parameters(), before, strict=True))


def test_digits_are_learned_as_by_pytorchs_own():
    """The same groups, the same rates: what `torch.optim.AdamW` does with them."""
    torch = pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")

    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    ends = []
    for make in (gt.AdamW, torch.optim.AdamW):
        model = network(torch)
        opt = make(gt.layerwise(model, lr=0.01, decay=0.5))
        for step in range(60):
            chosen = slice(step % 14 * 128, step % 14 * 128 + 128)
            loss = torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            opt.zero_grad()
            loss.backward()
            opt.step()
        ends.append(loss.item())
    assert ends[0] == pytest.approx(ends[1], rel=1e-2)
    assert ends[0] < 0.6
