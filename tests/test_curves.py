"""Verdicts from the loss alone: what is said of shapes that are known, part by part."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradstep as gs
from gradstep.tuning import Log, LossMonitor, curves, judge
from rate_problems import PROBLEMS

N = 200
K = np.arange(1.0, N + 1)
NOISE = np.random.default_rng(0).standard_normal(N)
UNKNOWN = np.full(N, np.nan)


def log(losses: np.ndarray, rates: np.ndarray | None = None, **more: object) -> Log:
    count = len(losses)
    fields: dict[str, object] = {
        "steps": K[:count],
        "rates": UNKNOWN[:count] if rates is None else rates,
        "grad_norms": UNKNOWN[:count],
        **more,
    }
    return Log("run", "made up", {"loss": "loss"}, losses=losses, **fields)  # type: ignore[arg-type]


def after(k: int, value: float) -> np.ndarray:
    losses = 1 + 2 * np.exp(-K / 30) + 0.02 * NOISE
    losses[k:] = value
    return losses


SHAPES: dict[str, tuple[np.ndarray, str]] = {
    "rises": (2 + K / 40 + 0.05 * NOISE, "diverging"),
    "not finite at the end": (after(150, math.inf), "diverging"),
    "loses what it gained": (after(150, 2.9) + 0.02 * NOISE, "diverging"),
    "falls in a line": (3 - K / 400 + 0.005 * NOISE, "too low"),
    "bounces high above its begin": (2 + np.abs(NOISE) * 5 + np.where(K == 1, -2, 0), "too high"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str) -> None:
    losses, kind = SHAPES[shape]
    assert judge(log(losses)).verdict.kind == kind


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_the_same_in_other_units(shape: str) -> None:
    """Negative losses, and losses with an offset, are judged as others."""
    losses, kind = SHAPES[shape]
    if kind == "too low":
        pytest.skip("the noise of ln(loss) counts, too, where losses are positive")
    for other in (losses * 1000, losses - 10, losses * 1e-6):
        assert judge(log(other)).verdict.kind == kind


def test_too_few_points() -> None:
    for count in (1, 2, 10, 29):
        judged = judge(log(3 - K[:count] / 400))
        assert judged.verdict.kind == "inconclusive"
        assert f"{count} of 30 points" in judged.verdict.reason
        assert judged.confidence == "none"


@pytest.mark.parametrize("value", [0.0, 2.302, -1.0])
def test_a_loss_that_never_changes(value: float) -> None:
    verdict = judge(log(np.full(N, value))).verdict
    assert (verdict.kind, verdict.factor) == ("inconclusive", 1.0)
    assert "never changed" in verdict.reason


@pytest.mark.parametrize("finite", [1, 2, 5, 29])
def test_few_losses_that_are_finite(finite: int) -> None:
    losses = np.full(100, math.inf)
    losses[-finite:] = 3 - K[:finite] / 100
    assert judge(log(losses)).verdict.kind == "inconclusive"


def test_no_point() -> None:
    with pytest.raises(ValueError, match="log: got no point, wanted at least one"):
        judge(log(np.empty(0)))


def test_spikes() -> None:
    losses = 1 + 2 * np.exp(-K / 30) + 0.02 * NOISE
    losses[100:103] = 9
    losses[150] = math.inf
    first, second = judge(log(losses)).spikes
    assert (first.step, first.loss, first.recovered) == (101, 9, 3)
    assert first.usual == pytest.approx(float(np.median(losses[80:100])))
    assert (second.step, second.loss, second.recovered) == (151, math.inf, 1)


def test_a_spike_that_stays() -> None:
    losses = 1 + 2 * np.exp(-K / 30) + 0.02 * NOISE
    losses[190:] = 9
    [spike] = judge(log(losses)).spikes
    assert spike.recovered is None


def test_phases() -> None:
    rates = np.concatenate([np.linspace(0.01, 0.1, 40), np.full(100, 0.1), np.linspace(0.1, 0, 60)])
    judged = judge(log(1 + 2 * np.exp(-K / 30) + 0.01 * NOISE, rates))
    assert [(p.name, p.begin, p.end) for p in judged.phases] == [
        ("warm-up", 0, 39), ("steady", 39, 146), ("decay", 146, 200),
    ]  # fmt: skip
    assert judged.phases[-1].verdict.kind in ("fine", "plateau")
    assert judge(log(1 + 2 * np.exp(-K / 30), np.full(N, 0.1))).phases[0].name == "steady"
    assert judge(log(1 + 2 * np.exp(-K / 30))).phases[0].name == "all"


def test_a_decay_does_not_find_a_run_again_that_was_lost() -> None:
    rates = np.concatenate([np.full(140, 0.1), np.linspace(0.1, 0, 60)])
    losses = np.where(K < 100, 3 - K / 50, 9 - (K - 100) / 100) + 0.02 * NOISE
    assert judge(log(losses, rates)).verdict.kind == "diverging"
    back = np.where(K < 160, losses, 0.5 + 0.02 * NOISE)
    assert judge(log(back, rates)).verdict.kind != "diverging"


def test_a_warm_up_is_not_too_low() -> None:
    rates = np.linspace(1e-4, 0.1, N)
    assert judge(log(3 - K / 400 + 0.005 * NOISE, rates)).verdict.kind == "inconclusive"


def test_a_plateau_and_its_begin() -> None:
    losses = np.where(K < 60, 3 - K / 30, 1.0) + 0.02 * NOISE
    judged = judge(log(losses, steps=K + 5000))
    assert judged.verdict.kind == "plateau"
    assert judged.plateau == pytest.approx(5060, abs=10)


def test_a_log_that_begins_late() -> None:
    judged = judge(log(3 - K / 400 + 0.005 * NOISE, steps=K + 5000))
    assert judged.verdict.kind == "inconclusive"
    assert "begins late" in judged.verdict.reason


def test_the_envelope_and_the_band() -> None:
    losses = 1 + 2 * np.exp(-K / 30) + 0.02 * NOISE
    judged = judge(log(losses))
    assert (np.diff(judged.envelope) <= 0).all()
    inside = (judged.low <= losses) & (losses <= judged.high)
    assert inside.mean() > 0.8


def train(name: str, multiple: float) -> np.ndarray:
    """Losses of a real training, digits with Adam at 0.0237, its best rate, times something."""
    task = PROBLEMS[name].make(0)
    optimizer = gs.Adam(task.params, lr=0.0237 * multiple)
    losses = []
    for _ in range(N):
        loss, gradients = task.batch()
        losses.append(loss)
        optimizer.step(gradients)
    return np.array(losses)


@pytest.mark.parametrize(
    ("multiple", "kinds"),
    [
        (0.03, {"too low"}),
        (1.0, {"fine", "plateau", "inconclusive"}),
        (30.0, {"too high", "diverging"}),
    ],
)  # fmt: skip
def test_real_trainings(multiple: float, kinds: set[str]) -> None:
    pytest.importorskip("sklearn")
    assert judge(log(train("digits", multiple))).verdict.kind in kinds


def test_step_by_step_it_says_the_same() -> None:
    losses = 3 - K / 400 + 0.005 * NOISE
    monitor = LossMonitor()
    for k, loss in zip(K, losses, strict=True):
        verdict = monitor(int(k), float(loss), lr=0.1)
    assert verdict.kind == judge(log(losses, np.full(N, 0.1))).verdict.kind == "too low"
    assert monitor(201, math.nan).kind == "diverging"


def test_a_lost_run_is_not_judged_anew_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, asked = LossMonitor(), []
    monkeypatch.setattr(curves, "judge", lambda one: asked.append(one) or judge(one))
    for k in range(1, 201):
        monitor(k, 1.0 if k < 100 else math.nan)
    assert monitor.verdict.kind == "diverging"
    assert len(asked) < 25


@pytest.mark.parametrize(
    ("sure", "word"), [(0.95, "high"), (0.8, "medium"), (0.7, "low"), (0.0, "low")]
)
def test_confidence(sure: float, word: str) -> None:
    assert curves.confidence(gs.tuning.Verdict("fine", 1, 1.0, "", {"sure": sure})) == word
