"""The range test: what it suggests, what it refuses, and that everything is as it was after it."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import best_rates
import gradstep as gs
import range_test as benchmark
import rate_problems
from gradstep import cli, plots
from gradstep.schedules import Plateau, cosine
from gradstep.tuning import RangeTest, finding, range_test
from gradstep.tuning.handles import handle
from gradstep.tuning.range_test import read, smooth
from more_problems import EVERY, named

RATES = np.geomspace(1e-7, 10, 100)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def bowl(optimizer: gs.Optimizer, seed: int = 0, fail_at: int = -1, error: Any = None) -> Any:
    """A training step whose loss is |params − 1|², noisily; it may raise or return at some step."""
    rng = np.random.default_rng(seed)
    made = [0]

    def train_step() -> Any:
        made[0] += 1
        if made[0] == fail_at:
            if isinstance(error, BaseException):
                raise error
            return error
        loss, grads = 0.0, []
        with np.errstate(all="ignore"):
            for group in optimizer.groups:
                grads.append([2 * (p - 1) for p in group.params])
                loss += float(sum(np.square(p.astype(np.float64) - 1).sum() for p in group.params))
            optimizer.step([[g.astype(g.dtype) for g in row] for row in grads])
        return loss * (1 + 0.01 * rng.standard_normal())

    train_step.made = made  # type: ignore[attr-defined]
    return train_step


def everything(optimizer: gs.Optimizer) -> list[bytes | str]:
    """All that a step depends on, as bytes and words."""
    arrays = [p for group in optimizer.groups for p in group.params]
    words = []
    for entry in optimizer.state.values():
        for key, value in entry.items():
            if key == "step":
                words.append(f"step {value}")
            else:
                arrays.append(value)
    if optimizer.copies is not None:
        arrays += [array for part in optimizer.copies for array in part]
    values = [dict(group) for group in optimizer.groups] + [dict(optimizer.stages), optimizer.t]
    return [array.tobytes() for array in arrays] + words + [repr(values)]


class Ramp:
    """A rate of one's own, which a state dict copies."""

    def __call__(self, k: int) -> float:
        return 0.01 * (k + 1)

    def __repr__(self) -> str:
        return "Ramp()"


def optimizers() -> dict[str, gs.Optimizer]:
    def arrays(dtype: Any = np.float32) -> list[Any]:
        return [np.full(5, 0.3, dtype), np.linspace(-1, 1, 300).astype(dtype).reshape(3, 100)]

    def groups(**first: Any) -> list[dict[str, Any]]:
        return [
            {"params": arrays(), **first},
            {"params": [np.zeros(3, np.float32)], "frozen": True},
            {"params": [np.full(4, 0.5)], "lr": 0.02},
        ]

    copies = [[np.zeros(5, np.float16), np.zeros((3, 100), np.float16)]]
    copies += [[np.zeros(3, np.float16)], [np.zeros(4, np.float16)]]
    return {
        "SGD": gs.SGD(groups(), 0.1),
        "momentum": gs.SGD(groups(), 0.1, momentum=0.9),
        "schedule": gs.AdamW(groups(lr=cosine(0.1, total=50)), 1e-3, amsgrad=True),
        "callable": gs.SGD(groups(lr=Ramp()), 0.1),
        "plateau": gs.Adam(groups(lr=Plateau(0.01)), 1e-3),
        "stages": gs.RMSprop(
            groups(), 1e-3, clip_norm=1.0, average=0.9, copy_to=copies, nonfinite="skip", stats=True
        ),
        "q8": gs.Adam([{"params": arrays()}], 1e-3, states="q8"),
        "float16": gs.Adagrad([{"params": arrays(np.float16)}], 1e-3, rounding="stochastic"),
    }


@pytest.mark.parametrize("name", optimizers())
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(
    "error", [None, KeyboardInterrupt(), OSError("disk"), MemoryError(), "no loss", math.nan]
)
def test_all_is_as_it_was(name: str, started: bool, error: Any) -> None:
    """Parameters, frozen ones too, states, counts, copies and hyperparameters, whatever happens."""
    optimizer = optimizers()[name]
    if started:
        for _ in range(3):
            bowl(optimizer)()
    rate, before = optimizer.groups[0]["lr"], everything(optimizer)
    step = bowl(optimizer, fail_at=-1 if error is None else 30, error=error)
    if isinstance(error, BaseException):
        with pytest.raises(type(error)):
            range_test(step, optimizer)
    elif isinstance(error, str):
        with pytest.raises(TypeError, match="train_step: got str from it"):
            range_test(step, optimizer)
    else:
        found = range_test(step, optimizer, sweeps=2)
        assert np.isfinite(found.losses[0]).sum() >= 29
    assert everything(optimizer) == before
    assert optimizer.groups[0]["lr"] is rate
    # and it goes on as if nothing had been
    other = optimizers()[name]
    for _ in range(3 * started):
        bowl(other)()
    assert [bowl(optimizer)(), bowl(optimizer)()] == [bowl(other)(), bowl(other)()]
    assert everything(optimizer) == everything(other)


def test_a_plateau_forgets_what_the_sweep_showed_it() -> None:
    plateau = Plateau(0.01, patience=0)
    w = np.full(3, 5.0)
    optimizer = gs.SGD([{"params": [w]}], plateau)
    inner = bowl(optimizer)

    def train_step() -> float:
        loss = inner()
        plateau.observe(loss)
        return loss

    plateau.observe(1.0)
    before = plateau.state_dict()
    range_test(train_step, optimizer)
    assert plateau.state_dict() == before
    assert optimizer.groups[0]["lr"] is plateau


def test_hooks_keep_what_else_changes() -> None:
    """Once before each further sweep and once at the end, whatever happens, also in the hooks."""
    optimizer = gs.SGD([{"params": [np.full(3, 0.2)]}], 0.1)
    before = everything(optimizer)
    kept: list[int] = []
    inner = bowl(optimizer)
    seen = [7]

    def train_step() -> float:
        seen[0] += 1
        return inner()

    def restore(value: int) -> None:
        kept.append(value)
        seen[0] = value

    range_test(train_step, optimizer, sweeps=3, save=lambda: seen[0], restore=restore)
    assert (seen, kept) == ([7], [7, 7, 7])
    with pytest.raises(ZeroDivisionError):
        range_test(train_step, optimizer, save=lambda: 1 // 0, restore=restore)
    assert everything(optimizer) == before
    with pytest.raises(ZeroDivisionError):
        range_test(train_step, optimizer, save=lambda: 0, restore=lambda _: 1 // 0)
    assert everything(optimizer) == before
    with pytest.raises(ZeroDivisionError):
        range_test(train_step, optimizer, progress=lambda steps: 1 // (5 - steps))
    assert everything(optimizer) == before


def test_an_interrupted_restoring_is_made_whole() -> None:
    optimizer = gs.Adam([{"params": [np.full(3, 0.2)]}], 0.1)
    before = everything(optimizer)
    calls: list[int] = []

    def restore(_: None) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        range_test(bowl(optimizer), optimizer, save=lambda: None, restore=restore)
    assert len(calls) == 2
    assert everything(optimizer) == before


# ---- torch ----


def torch_cases() -> list[Any]:
    torch = pytest.importorskip("torch")
    rate = torch.tensor(0.1)
    return [
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
        lambda p: torch.optim.Adam(p, rate, foreach=False, capturable=False),
        lambda p: torch.optim.AdamW([{"params": p[:1]}, {"params": p[1:], "lr": 0.5}], 0.1),
        lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.5),
        wide_momentum,
    ]


def wide_momentum(params: Any) -> Any:
    """A rule of one's own, with a float32 momentum for bfloat16 parameters, too."""
    import torch  # noqa: PLC0415

    class Wide(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__(params, {"lr": 0.1, "eps": 0.0})

        @torch.no_grad()
        def step(self) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        m = self.state[p].setdefault("m", torch.zeros(p.shape))
                        m.mul_(0.9).add_(p.grad.float() + 1e-3)
                        p.sub_((group["lr"] * m).to(p.dtype))

    return Wide()


@pytest.mark.parametrize("case", range(7))
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_torch_is_as_it_was(case: int, started: bool, error: Any) -> None:
    """Also states that the sweep brought, which are gone, float32 states of bfloat16 parameters,
    and gradients of a step that was left."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(4)),
        torch.nn.Parameter(torch.randn(3, 2, dtype=torch.bfloat16)),
        torch.nn.Parameter(torch.randn(2), requires_grad=False),
    ]
    optimizer = torch_cases()[case](params)
    made = [0]

    def train_step() -> float:
        made[0] += 1
        optimizer.zero_grad(set_to_none=case % 2 == 0)
        loss = sum((p.float() - 1).square().sum() for p in params)
        loss.backward()
        if error is not None and made[0] == 30:
            raise error
        optimizer.step()
        return loss.item()

    if started:
        train_step()

    def bits(value: Any) -> Any:
        if torch.is_tensor(value):
            return str(value.dtype), value.detach().reshape(-1).view(torch.uint8).tolist()
        if isinstance(value, dict):
            return {str(k): bits(v) for k, v in value.items() if k != "params"}
        return [bits(v) for v in value] if isinstance(value, list) else repr(value)

    def all_bits() -> Any:
        state = optimizer.state_dict()
        return bits([p.data for p in params]), bits([p.grad for p in params]), bits(state)

    rate, before = optimizer.param_groups[0]["lr"], all_bits()
    made[0] = 0
    if error is None:
        found = range_test(train_step, optimizer, sweeps=2)
        assert found.suggestion is not None
    else:
        with pytest.raises(KeyboardInterrupt):
            range_test(train_step, optimizer)
    assert all_bits() == before
    assert optimizer.param_groups[0]["lr"] is rate
    assert started or not optimizer.state


def test_a_rate_that_is_a_tensor_stays_the_tensor() -> None:
    torch = pytest.importorskip("torch")
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], rate, foreach=False)
    handle(optimizer).set_lr(0.5)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.5


def test_kinds_of_torch() -> None:
    pytest.importorskip("torch")
    import torch  # noqa: PLC0415

    p = [torch.nn.Parameter(torch.ones(1))]
    kinds = [handle(make(p)).kind for make in torch_cases()]
    assert kinds == ["plain", "momentum", *["adaptive"] * 5]


# ---- any optimizer ----


class Own:
    """An optimizer of one's own: a bowl in plain Python."""

    def __init__(self) -> None:
        self.lr, self.w = 0.3, 5.0

    def set_lr(self, lr: float) -> None:
        self.lr = lr

    def snapshot(self) -> tuple[float, float]:
        return self.lr, self.w

    def restore(self, kept: tuple[float, float]) -> None:
        self.lr, self.w = kept

    def step(self) -> float:
        loss = self.w**2
        self.w -= self.lr * 2 * self.w
        return loss


def test_any_object_will_do() -> None:
    own = Own()
    seen: list[int] = []
    found = range_test(own.step, own, progress=seen.append)
    assert (own.lr, own.w) == (0.3, 5.0)
    assert found.suggestion is not None
    assert 0.03 < found.suggestion < 1
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) == np.isfinite(found.losses).sum()
    assert handle(own).kind is None


@pytest.mark.parametrize("optimizer", [None, 0.1, [np.ones(3)], object()])
def test_anything_else_is_no_optimizer(optimizer: Any) -> None:
    with pytest.raises(TypeError, match=r"^optimizer: got .*, wanted an optimizer of gradstep or"):
        range_test(lambda: 1.0, optimizer)


def test_kinds_of_ours() -> None:
    kinds = {name: handle(optimizer).kind for name, optimizer in optimizers().items()}
    assert kinds["SGD"] == kinds.pop("callable") == "plain"
    assert kinds["momentum"] == "momentum"
    assert {kinds[k] for k in kinds if k not in ("SGD", "momentum")} == {"adaptive"}


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"low": 1, "high": 1}, ValueError, "low: got 1, wanted less than high, which is 1"),
        ({"low": 1, "high": 0.1}, ValueError, "low: got 1, wanted less than high"),
        ({"low": 0}, ValueError, "low: got 0, wanted a finite number > 0"),
        ({"low": -1e-3}, ValueError, "low: got"),
        ({"low": "1"}, TypeError, "low: got str"),
        ({"high": math.inf}, ValueError, "high: got inf"),
        ({"high": math.nan}, ValueError, "high: got nan"),
        ({"high": True}, TypeError, "high: got bool"),
        ({"points": 9}, ValueError, "points: got 9, wanted at least 10"),
        ({"points": 50.0}, TypeError, "points: got float, wanted an integer"),
        ({"sweeps": 0}, ValueError, "sweeps: got 0, wanted at least 1"),
        ({"sweeps": True}, TypeError, "sweeps: got bool"),
        ({"train_step": None}, TypeError, "train_step: got NoneType, wanted a function"),
        ({"save": 3, "restore": print}, TypeError, "save: got int"),
        ({"progress": 3}, TypeError, "progress: got int"),
        ({"save": dict}, TypeError, "restore: got nothing, wanted a function to go with save"),
        ({"restore": print}, TypeError, "save: got nothing, wanted a function to go with restore"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Refused before a step is made."""
    optimizer = gs.SGD([{"params": [np.ones(3)]}], 0.1)
    before = everything(optimizer)
    step = bowl(optimizer)
    with pytest.raises(error) as raised:
        range_test(**{"train_step": step, "optimizer": optimizer, **arguments})
    assert str(raised.value).startswith(message)
    assert step.made == [0]
    assert everything(optimizer) == before


class Tensor:
    """Has a method item, as tensors have."""

    def item(self) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, TypeError, "got NoneType from it, wanted the loss as a float: does it end with"),
        (Tensor(), TypeError, "got Tensor from it, wanted a float, such as `loss.item()`"),
        (np.ones(1), TypeError, "got ndarray from it, wanted a float, such as `loss.item()`"),
        ("1.0", TypeError, "got str from it, wanted the loss as a float"),
        (True, TypeError, "got bool from it"),
        (math.nan, ValueError, "got the loss nan at the very first step"),
        (math.inf, ValueError, "got the loss inf at the very first step"),
        (FloatingPointError("x"), FloatingPointError, "x"),
        (RuntimeError("mine"), RuntimeError, "mine"),
    ],
)
def test_bad_training(returned: Any, error: type[Exception], message: str) -> None:
    optimizer = gs.Adam([{"params": [np.ones(3)]}], 0.1)
    before = everything(optimizer)
    with pytest.raises(error, match=message.replace("(", r"\(").replace(")", r"\)")):
        range_test(bowl(optimizer, fail_at=1, error=returned), optimizer)
    assert everything(optimizer) == before


def test_minibatches_that_come_to_an_end() -> None:
    """StopIteration would end whatever loop is around the test, without a word."""
    opt = gs.SGD(np.zeros(3, np.float32), lr=0.1)
    for sweeps in (1, 3):
        losses = iter([1.0] * 7)
        with pytest.raises(
            ValueError, match=r"train_step: got StopIteration from it at step 8, wh"
        ):
            range_test(lambda: next(losses), opt, points=20, sweeps=sweeps)  # noqa: B023
        assert (opt.t, opt.groups[0]["lr"]) == (0, 0.1)


def test_a_data_loader_that_ends_within_a_sweep() -> None:
    data = pytest.importorskip("torch.utils.data")
    opt = gs.SGD(np.zeros(3, np.float32), lr=0.1)
    batches = iter(data.DataLoader(range(40), batch_size=4))
    with pytest.raises(ValueError, match="at step 11, where its minibatches came to an end"):
        range_test(lambda: float(next(batches)[0]), opt, low=1e-9, high=1e-8, points=20)


def test_a_torch_tensor_is_named() -> None:
    torch = pytest.importorskip("torch")
    optimizer = gs.SGD([{"params": [np.ones(3)]}], 0.1)
    step = bowl(optimizer, fail_at=1, error=torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"got Tensor from it, wanted a float, such as `loss.item"):
        range_test(step, optimizer)


@pytest.mark.parametrize("returned", [math.nan, math.inf, -math.inf, FloatingPointError("x")])
def test_a_loss_that_stops_being_a_number_ends_the_sweep(returned: Any) -> None:
    optimizer = gs.SGD([{"params": [np.full(3, 9.0)]}], 0.1)
    step = bowl(optimizer, fail_at=80, error=returned)
    found = range_test(step, optimizer)
    assert step.made == [80]
    assert np.isfinite(found.losses).sum() == 79


def test_other_numbers_are_losses() -> None:
    for kind in (np.float32, np.float64, int):
        own = Own()
        assert range_test(lambda own=own, kind=kind: kind(own.step()), own).losses[0, 0] == 25


# ---- what the losses say ----


def falling(rng: np.random.Generator, noise: float = 0.02, best: float = 1e-2) -> Any:
    """Losses of a sweep that fall from 1 to 0.2, lowest at `best`, and explode ten times later."""
    x = np.log10(RATES / best)
    losses = 0.6 + 0.4 * np.tanh(-2 * (x + 0.8)) + np.exp(np.minimum(6 * (x - 1), 9.0))
    return (losses + noise * rng.standard_normal(100))[None]


def test_smoothing_has_no_lag() -> None:
    step = np.r_[np.zeros(50), np.ones(50)]
    smoothed = smooth(step, 4.0)
    assert np.allclose(smoothed + smoothed[::-1], 1)
    assert np.allclose(smooth(np.arange(100.0), 4.0)[20:80], np.arange(20, 80))
    narrow = smooth(np.eye(1, 101, 50)[0], 4.0)
    assert math.isclose((narrow * (np.arange(101) - 50) ** 2).sum() ** 0.5, 4.0, rel_tol=0.01)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1, -100), (1000, 5), (1e-6, -1e-7)])
def test_losses_may_be_negative_and_of_any_size(
    scale: float, shift: float, rng: np.random.Generator
) -> None:
    losses = falling(rng)
    found, same = read(RATES, losses), read(RATES, losses * scale + shift)
    assert found.suggestion == same.suggestion
    assert found.interval == same.interval
    assert found.confidence == same.confidence == "high"


def test_a_rule_that_divides_gets_a_lower_rate(rng: np.random.Generator) -> None:
    losses = falling(rng)
    kinds = ["plain", "momentum", None, "adaptive"]
    suggestions = [read(RATES, losses, kind).suggestion for kind in kinds]
    assert suggestions == sorted(suggestions, reverse=True)  # type: ignore[type-var]
    assert 3e-3 < suggestions[0] < 6e-2  # type: ignore[operator]
    for kind in kinds:
        found = read(RATES, losses, kind)
        assert found.interval is not None
        assert found.interval[0] < found.suggestion < found.interval[1]  # type: ignore[operator]


def test_one_wild_batch_changes_little(rng: np.random.Generator) -> None:
    losses = falling(rng)
    calm = read(RATES, losses)
    for at in (5, 40, 60):
        wild = losses.copy()
        wild[0, at] = 50.0
        found = read(RATES, wild)
        assert found.suggestion is not None
        assert 0.6 < found.suggestion / calm.suggestion < 1.6  # type: ignore[operator]


def test_several_sweeps_are_less_noisy(rng: np.random.Generator) -> None:
    """The median of nine is nearer to the curve without noise than single sweeps are."""
    exact = read(RATES, falling(rng, noise=0.0)).suggestion
    assert exact is not None

    def off(count: int) -> float:
        losses = np.concatenate([falling(rng, noise=0.15) for _ in range(count)])
        suggestion = read(RATES, losses).suggestion
        assert suggestion is not None
        return abs(math.log(suggestion / exact))

    assert np.mean([off(9) for _ in range(30)]) < 0.7 * np.mean([off(1) for _ in range(30)])


SWEEPS: dict[str, tuple[Any, str, str]] = {
    "noise": (lambda rng: 2 + 0.1 * rng.standard_normal(100), "inconclusive", "never fell"),
    "constant": (lambda _: np.full(100, 2.0), "inconclusive", "never fell"),
    "rising": (lambda _: np.r_[np.ones(60), np.exp(np.arange(40.0))], "inconclusive", "never fell"),
    "lost": (lambda _: np.r_[np.ones(8), np.full(92, np.nan)], "inconclusive", "after 8 points"),
    "not risen": (lambda _: 1 - 0.5 * (RATES > 0.1), "medium", "never rose"),
    "fallen": (lambda rng: falling(rng, best=1e-6)[0], "low", "begin at a rate below 1e-07"),
    "noisy": (lambda rng: falling(rng, noise=0.4)[0], "medium", "little more than its noise"),
    "wide": (lambda _: 1 - 0.5 * (RATES > 1e-4) + RATES * (RATES > 1), "medium", "alike over 3"),
    "broad": (
        lambda _: 1 - 0.5 * np.exp(-(((np.log10(RATES) + 3) / 1.5) ** 2)) + 9 * (RATES > 5),
        "medium",
        "over 2.5 decades at half of the fall",
    ),
    "clear": (lambda rng: falling(rng)[0], "high", "and rose again"),
}


@pytest.mark.parametrize(("losses", "confidence", "reason"), SWEEPS.values(), ids=SWEEPS)
def test_confidence(losses: Any, confidence: str, reason: str, rng: np.random.Generator) -> None:
    found = read(RATES, losses(rng)[None])
    assert (found.confidence, reason in found.reason) == (confidence, True), found.reason
    assert (found.suggestion is None) == (found.interval is None) == (confidence == "inconclusive")
    assert found.reason in str(found)


def test_of_what_is_alike_the_lower_half_is_suggested() -> None:
    """Over two decades from 1e-3 to 0.1 nothing differs, and much higher rates are borne, too."""
    losses = 1 - 0.5 * (RATES > 1e-3) + 0.2 * (RATES > 0.1) + 9 * (RATES > 5)
    for kind in ("plain", "momentum", "adaptive", None):
        found = read(RATES, losses[None], kind)
        assert found.suggestion is not None
        assert 3e-4 < found.suggestion < 1.3e-2
        assert "the loss is alike over" in found.reason


def test_a_narrow_valley_is_in_doubt() -> None:
    losses = 1 - 0.5 * (RATES > 1e-2) + 9 * (RATES > 4e-2)
    found = read(RATES, losses[None])
    assert found.confidence == "medium"
    assert "did it fall far" in found.reason


def test_more_doubts_widen_the_interval() -> None:
    """A valley that is narrow, seen by too few points."""
    wide = []
    for points in (100, 40):
        rates = np.geomspace(1e-7, 10, points)
        losses = 1 - 0.5 * (rates > 1e-2) + 9 * (rates > 4e-2)
        low, high = read(rates, losses[None]).interval  # type: ignore[misc]
        wide.append(high / low)
    assert wide[1] > 3 * wide[0]


def test_noise_alone_is_rarely_a_rate(rng: np.random.Generator) -> None:
    verdicts = [read(RATES, rng.standard_normal((1, 100))).confidence for _ in range(300)]
    assert verdicts.count("inconclusive") >= 0.9 * len(verdicts)
    assert "high" not in verdicts


def test_few_points_a_decade_are_said_to_be_few() -> None:
    own = Own()
    found = range_test(own.step, own, points=20)
    assert found.confidence in ("medium", "low")
    assert "points per decade" in found.reason


def test_a_sweep_that_diverges_is_cut_short() -> None:
    own = Own()
    found = range_test(own.step, own, 1e-3, 1e6, 100)
    assert 20 < np.isfinite(found.losses).sum() < 60
    assert np.isnan(found.smoothed[-1])


def test_to_dict_is_json(rng: np.random.Generator) -> None:
    losses = falling(rng)
    losses[0, 90:] = np.nan
    found = read(RATES, losses)
    back = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert back["interval"] == list(found.interval)  # type: ignore[arg-type]
    assert back["losses"][0][90:] == [None] * 10
    assert back["losses"][0][:90] == losses[0, :90].tolist()
    assert set(back) == set(RangeTest.__dataclass_fields__)


# ---- the picture ----


def test_plot(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    save = plots._save
    monkeypatch.setattr(
        plots, "_save", lambda figure, path: (figures.append(figure), save(figure, path))[1]
    )
    found = read(RATES, np.concatenate([falling(rng), falling(rng)]), "adaptive")
    assert found.plot(tmp_path / "a" / "range.png") == tmp_path / "a" / "range.png"
    assert (tmp_path / "a" / "range.png").stat().st_size > 5000
    (axis,) = figures[0].axes
    assert axis.get_xscale() == "log"
    assert "learning rate (per update)" in axis.get_xlabel()
    assert "loss" in axis.get_ylabel()
    words = [text.get_text() for text in axis.get_legend().get_texts()]
    assert len(words) == len(set(words)) == 4
    assert f"suggestion: {found.suggestion:.2g}" in words
    assert read(RATES, np.ones((1, 100))).plot(str(tmp_path / "b.svg")) == tmp_path / "b.svg"
    assert len(figures[1].axes[0].get_legend().get_texts()) == 2


# ---- the command line ----

SCRIPT = """
import numpy as np
import gradstep as gs
from beside import TARGET

ran = __name__

def make():
    w = np.zeros(3, np.float32)
    optimizer = gs.SGD(w, 0.1)
    rng = np.random.default_rng(0)
    def train_step():
        x = rng.standard_normal((32, 3)).astype(np.float32)
        error = x @ w - x @ TARGET + rng.standard_normal(32, np.float32)
        optimizer.step(x.T @ error / 32)
        return float(error @ error) / 64
    return train_step, optimizer

def alone():
    return make()[0]

def other():
    return make()[0], 0.1

def nothing():
    return (lambda: None), make()[1]

def ends():
    return iter([1.0, 2.0, 3.0]).__next__, make()[1]

def fails():
    def train_step():
        raise TypeError("mine")
    return train_step, make()[1]

number = 3
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "train_it.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("import numpy as np\nTARGET = np.float32([1, 2, 3])\n")
    return str(tmp_path / "train_it.py")


def test_find(script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = [*sys.path]
    picture = tmp_path / "range.png"
    assert cli.main(["find", f"{script}:make", "--out", str(picture)]) == 0
    out = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in out.splitlines()[:4])
    low, high = (float(word) for word in rows["interval"].split(" to "))
    assert low < float(rows["suggestion"]) < high
    assert low < 0.3 < high
    assert rows["confidence"].strip() in ("high", "medium", "low")
    assert "the loss" in rows["because"]
    assert out.splitlines()[-1] == str(picture)
    assert picture.stat().st_size > 5000
    assert sys.path == path


def test_find_passes_its_arguments_on(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["find", f"{script}:make", "--low", "1e-9", "--high", "1e-8", "--points", "20"]
    assert cli.main([*argv, "--sweeps", "2"]) == 0
    out = capsys.readouterr().out
    assert "inconclusive" in out
    assert "interval" not in out
    found = finding.find(f"{script}:make", 1e-3, 1.0, 15, 2)
    assert found.losses.shape == (2, 15)
    assert (found.rates[0], found.rates[-1]) == (1e-3, 1.0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.py:make", "nowhere.py: got no such file"),
        ("make", "got 'make', wanted SCRIPT.py:FUNCTION"),
        ("{}", "wanted SCRIPT.py:FUNCTION"),
        ("{}:", "wanted SCRIPT.py:FUNCTION"),
        (
            "{}:absent",
            "got no function 'absent', which has make, alone, other, nothing, e",
        ),
        ("{}:number", "got no function 'number'"),
        ("{}:alone", "got function from it, wanted (train_step, optimizer)"),
        ("{}:other", "optimizer: got float, wanted an optimizer of gradstep or torch"),
        ("{}:nothing", "train_step: got NoneType from it, wanted the loss as a float"),
        ("{}:ends", "train_step: got StopIteration from it at step 4, where its minibatches came"),
    ],
)
def test_find_refuses(
    target: str, message: str, script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["find", target.format(script)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gradstep: ")
    assert message in err
    assert err.count("\n") == 1


def test_find_refuses_a_range_in_the_wrong_order(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["find", f"{script}:make", "--low", "1", "--high", "0.1"]) == 1
    assert "low: got 1, wanted less than high" in capsys.readouterr().err


def test_find_leaves_the_errors_of_the_script_alone(script: str) -> None:
    with pytest.raises(TypeError, match="mine"):
        cli.main(["find", f"{script}:fails"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--low", "0"], "wanted a finite number above 0, got '0'"),
        (["--high", "much"], "wanted a finite number above 0, got 'much'"),
        (["--points", "9"], "wanted a whole number of at least 10, got '9'"),
        (["--sweeps", "0"], "at least 1"),
    ],
)
def test_find_usage(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["find", "a.py:b", *argv])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_find_help_has_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["find", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for word in (
        "(train_step, optimizer)",
        "returns the loss",
        "set_lr(rate)",
        "--sweeps",
        "--out",
    ):
        assert word in out


def test_find_needs_no_progress_bar(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert finding.find(f"{script}:make", 1e-7, 10.0, 50, 1).suggestion is not None


# ---- how near it comes ----


@pytest.mark.parametrize("name", EVERY)
def test_gradients_of_the_problems(name: str) -> None:
    """Along random directions, against differences in float64."""
    task = EVERY[name].make(3)
    model, x, y = task._model, task._x[:20], task._y[:20]
    rng = np.random.default_rng(0)
    params = [p.astype(np.float64) + 0.01 * rng.standard_normal(p.shape) for p in task.params]
    if x.dtype == np.float32:
        x = x.astype(np.float64)
    _, gradients = model(params, x, y)
    for i in range(len(params)):
        direction = rng.standard_normal(params[i].shape)
        up, down = (
            [*params[:i], params[i] + s * direction, *params[i + 1 :]] for s in (1e-6, -1e-6)
        )
        difference = (model(up, x, y)[0] - model(down, x, y)[0]) / 2e-6
        assert math.isclose(
            (gradients[i] * direction).sum(), difference, rel_tol=1e-3, abs_tol=1e-6
        )


@pytest.mark.parametrize("name", EVERY)
def test_problems_are_seeded(name: str) -> None:
    a, b, c = (EVERY[name].make(seed) for seed in (5, 5, 6))
    assert a.loss() == b.loss() != c.loss()
    assert [a.batch()[0] for _ in range(3)] == [b.batch()[0] for _ in range(3)]
    assert {p.dtype for p in a.params} == {np.dtype(np.float32)}
    assert {g.dtype for g in a.batch()[1]} == {np.dtype(np.float32)}


def test_kinds_of_problems_stand_in_both_halves() -> None:
    report, choose = ({p.name for p in named(purpose)} for purpose in ("report", "choose"))
    assert report >= {"logistic", "digits", "text"}
    assert len(report) >= 12
    assert len(choose) >= 12


def test_a_bandits_gradients_are_right_on_average() -> None:
    task = EVERY["small bandit"].make(0)
    rows = np.arange(100)
    task._stream = itertools.repeat(rows)
    expected, exact = task._model(task.params, task._x[rows], task._y[rows])
    drawn = [task.batch() for _ in range(2000)]
    assert math.isclose(np.mean([loss for loss, _ in drawn]), expected, rel_tol=0.02)
    for i, gradient in enumerate(exact):
        mean = np.mean([gradients[i] for _, gradients in drawn], axis=0)
        assert np.linalg.norm(mean - gradient) < 0.1 * np.linalg.norm(gradient)


def test_gradients_in_float16_are_rounded_and_overflow() -> None:
    task = EVERY["float16 gradients"].make(0)
    rows = next(EVERY["float16 gradients"].make(0)._stream)
    exact = task._model(task.params, task._x[rows], task._y[rows])[1]
    for rounded, gradient in zip(task.batch()[1], exact, strict=True):
        assert np.array_equal(
            rounded, (gradient * np.float32(1024)).astype(np.float16).astype(np.float32) / 1024
        )
    assert any(not np.array_equal(r, g) for r, g in zip(task.batch()[1], exact, strict=True))


def test_losses_of_a_run() -> None:
    """As many as there are updates; NaN once they are not finite."""
    found = rate_problems.losses(EVERY["digits"], "SGD", 0.5, 3, 20)
    assert found.shape == (20, 2)
    assert found.dtype == np.float64
    loss, gradients = EVERY["digits"].make(3).batch()
    assert found[0, 0] == loss
    assert math.isclose(
        found[0, 1] ** 2, sum(float((g * g).sum()) for g in gradients), rel_tol=1e-5
    )
    assert found[-1, 0] < found[0, 0]
    lost = rate_problems.losses(EVERY["diabetes"], "SGD", 1e6, 3, 50)
    assert np.isnan(lost[-1]).all()


LOSSES = [1.0, 0.9, 0.3, 0.215, 0.2, 0.23, 1.0]  # at 1e-3 to 1e3


@pytest.mark.parametrize(
    ("shift", "zero", "slack", "alike"),
    [
        (0.0, True, 0.02, (1.0, 10.0)),  # a tenth of the best loss
        (0.8, True, 0.08, (1.0, 100.0)),  # no more than a tenth of the fall
        (-0.2, True, 0.008, (10.0, 10.0)),  # no less than a hundredth of it
        (-5.0, False, 0.08, (1.0, 100.0)),
    ],
)
def test_what_is_as_good_as_the_best(
    shift: float, zero: bool, slack: float, alike: tuple[float, float]
) -> None:
    rates = np.geomspace(1e-3, 1e3, 7).tolist()
    curve = best_rates.Curve(rates, [loss + shift for loss in LOSSES], 1.0 + shift, zero)
    assert math.isclose(curve.best, 10.0)
    assert math.isclose(curve.slack(), slack)
    assert np.allclose(curve.alike(), alike)
    assert math.isclose(curve.excess(10**0.5), 0.0075)
    assert curve.excess(1e4) == math.inf
    assert curve.is_told_apart() == (shift == -0.2)


@pytest.mark.slow
def test_what_is_promised(capsys: pytest.CaptureFixture[str]) -> None:
    """The three problems that are promised, with fewer seeds than the benchmark."""
    rows = [
        benchmark.measure(rate_problems.PROBLEMS[name], rule, range(8))
        for name, rule in benchmark.PROMISED
    ]
    assert benchmark.summarize(rows), capsys.readouterr().out
