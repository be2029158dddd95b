"""The adapter: when it cuts, how it goes back, and that it gives up in words."""

from __future__ import annotations

import math
import pickle
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradstep as gs
import rate_problems
from gradstep import schedules
from gradstep.tuning import Adapter, Decision, Diverged, Monitor


def entry(t: int, **changed: Any) -> dict[str, Any]:
    """A report's dict of a training that goes well."""
    usual = {
        "t": t, "lr": 1e-3, "update_norm": 0.01 * (1 + 0.3 * (t % 2)), "param_norm": 1.0,
        "grad_norm": 1.0, "cosine": 0.0, "g2_over_v": 0.5,
    }  # fmt: skip
    return usual | changed


class Own:
    """An optimizer with the three methods, and a record of what was asked of it."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.value = 0
        self.restored: list[int] = []

    def set_lr(self, lr: float) -> None:
        self.rates.append(lr)

    def snapshot(self) -> int:
        return self.value

    def restore(self, snapshot: int) -> None:
        self.restored.append(snapshot)
        self.value = snapshot


def run(adapter: Adapter, own: Own, losses: Any, first: int = 1, **changed: Any) -> None:
    """Show it a loss a step, from step `first` on."""
    for t, loss in enumerate(losses, first):
        own.value = t
        adapter(entry(t, **changed), loss)


def noisy(level: Any, steps: int, seed: int = 0) -> Any:
    return level + np.random.default_rng(seed).normal(0, 0.01, steps)


def bowl(lr: float, steps: int, **options: Any) -> tuple[Adapter, np.ndarray, float]:
    """Real steps on |w|²/2, at a rate that may be far too high."""
    w = np.linspace(1, 2, 5)
    opt = gs.SGD(w, lr=lr, momentum=0.9, stats=True)
    adapter = Adapter(opt, lr, **options)
    loss = math.nan
    with np.errstate(all="ignore"):
        for _ in range(steps):
            loss = 0.5 * float(w @ w)
            adapter(opt.step(w.copy()), loss)
    return adapter, w, loss


# ---- cuts ----


def test_nothing_happens_while_it_goes_well() -> None:
    own = Own()
    adapter = Adapter(own, 0.1, patience=400)
    run(adapter, own, noisy(2 / np.arange(1, 501), 500))
    assert adapter.decisions == []
    assert own.rates == [0.1]
    assert own.restored == []
    assert adapter.verdict.kind == "fine"


def test_a_plateau_is_cut() -> None:
    own, calls = Own(), []
    adapter = Adapter(
        own, 0.1, patience=100, cut=0.5, callback=lambda step, told: calls.append((step, told))
    )
    run(adapter, own, noisy(np.maximum(2 - 0.02 * np.arange(400), 1), 400))
    first = adapter.decisions[0]
    assert (first.action, first.before, first.after) == ("cut", 1.0, 0.5)
    assert 150 <= first.step <= 250  # it stopped falling at 50
    assert "no better than" in first.reason
    assert own.rates[:2] == [0.1, 0.05]
    assert own.restored == []
    assert calls[0] == (first.step, first.to_dict())
    steps = [one.step for one in adapter.decisions]
    assert all(b - a >= 100 for a, b in pairwise(steps))


def test_a_slow_fall_is_no_plateau() -> None:
    """Slower than its noise from step to step, but going on."""
    own = Own()
    adapter = Adapter(own, 0.1, patience=300)
    run(adapter, own, noisy(2 - 1e-4 * np.arange(2000), 2000))
    assert adapter.decisions == []


def test_too_high_at_the_start_goes_back_to_it() -> None:
    for rollbacks, action, restored in [(5, "rollback", [0]), (0, "cut", [])]:
        own = Own()
        adapter = Adapter(own, 0.1, keep=20, rollbacks=rollbacks)
        for t, loss in enumerate(noisy(2 / np.arange(1, 101), 100), 1):
            own.value = t
            moved = 0.3 + 0.2 * (t % 2)
            adapter(entry(t, update_norm=moved), loss)
        (decision,) = adapter.decisions
        assert (decision.step, decision.action) == (100, action)
        assert decision.reason.startswith("too high: the first 5 updates")
        assert own.restored == restored
        assert own.rates == [0.1, pytest.approx(0.1 / 3)]


def test_the_floor() -> None:
    own = Own()
    adapter = Adapter(own, 0.1, patience=20, cut=0.1, min_multiplier=0.05)
    run(adapter, own, noisy(1.0, 400))
    assert [one.action for one in adapter.decisions][:3] == ["cut", "cut", "floor"]
    assert adapter.multiplier == 0.05
    assert own.rates == [0.1, pytest.approx(0.01), pytest.approx(0.005)]


def test_a_schedule_is_multiplied() -> None:
    """By the index of the step that is to come, whatever was cut."""
    own, rate = Own(), schedules.linear(1.0, 0.0, 1000)
    adapter = Adapter(own, rate, patience=50, cut=0.5)
    losses = noisy(1.0, 200)
    for t, loss in enumerate(losses, 1):
        adapter(entry(t), loss)
        assert own.rates[-1] == rate(t) * adapter.multiplier
    assert adapter.multiplier < 1
    assert own.rates[0] == rate(0)


def test_spikes_move_nothing() -> None:
    own = Own()
    losses = noisy(2 / np.arange(1, 501), 500)
    losses[[120, 250, 251, 400]] += 5
    adapter = Adapter(own, 0.1)
    run(adapter, own, losses)
    assert adapter.decisions == []


# ---- going back ----


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
def test_a_rate_that_diverges_is_taken_back(disk: bool, tmp_path: Path) -> None:
    path = tmp_path / "states" if disk else None
    adapter, _, loss = bowl(10.0, 600, path=path)
    assert {one.action for one in adapter.decisions} == {"rollback"}
    assert {one.to for one in adapter.decisions} == {0}
    assert adapter.multiplier == pytest.approx(3.0 ** -len(adapter.decisions))
    assert loss < 1e-3
    assert not disk or 1 <= len([*(tmp_path / "states").iterdir()]) <= 2


def test_memory_and_disk_are_the_same(tmp_path: Path) -> None:
    by_memory, w, _ = bowl(10.0, 300)
    by_disk, v, _ = bowl(10.0, 300, path=tmp_path)
    np.testing.assert_array_equal(w, v)
    assert by_memory.decisions == by_disk.decisions


def test_the_state_that_is_back_is_the_old_one_to_the_bit() -> None:
    w = np.linspace(1, 2, 5)
    opt = gs.Adam(w, lr=0.01, stats=True)
    adapter = Adapter(opt, 0.01, keep=20)
    at: dict[int, Any] = {}
    for t in range(1, 146):
        loss = 0.5 * float(w @ w)
        adapter(opt.step(w.copy()), loss)
        at[t] = (w.copy(), {k: np.copy(v) for k, v in opt.state["0"].items()})
    adapter(opt.step(np.full(5, math.nan)), math.nan)
    (decision,) = adapter.decisions
    assert (decision.action, decision.step, decision.to) == ("rollback", 146, 120)
    kept, state = at[120]
    np.testing.assert_array_equal(w, kept)
    for key, value in opt.state["0"].items():
        np.testing.assert_array_equal(value, state[key])
    assert opt.t == 120
    assert opt.groups[0]["lr"] == pytest.approx(0.01 / 3)


def test_a_state_counts_once_it_has_proved_good() -> None:
    """Divergence right after a state was taken goes back to the one before."""
    own = Own()
    adapter = Adapter(own, 0.1, keep=50)
    run(adapter, own, [*noisy(2 / np.arange(1, 152), 151), math.inf])
    assert own.restored == [100]
    own = Own()
    adapter = Adapter(own, 0.1, keep=50)
    run(adapter, own, [*noisy(2 / np.arange(1, 52), 51), math.inf])
    assert own.restored == [0]


def test_rollbacks_come_to_an_end() -> None:
    own = Own()
    adapter = Adapter(own, 0.1, rollbacks=2)
    run(adapter, own, [1.0] * 10)
    for _ in range(2):
        adapter(entry(11), math.nan)
    with pytest.raises(Diverged, match=r"diverged again at step 11 after 2 of them.*step 0 again"):
        adapter(entry(11), math.nan)
    assert own.restored == [0, 0, 0]
    assert [one.action for one in adapter.decisions] == ["rollback"] * 2
    with pytest.raises(Diverged):
        Adapter(own, 0.1, rollbacks=0)(entry(1), math.nan)


def test_data_goes_on() -> None:
    """The loop's own generator is no business of the adapter."""
    rng, w = np.random.default_rng(0), np.ones(3)
    opt = gs.SGD(w, lr=0.1, momentum=0.9, stats=True)
    adapter = Adapter(opt, 0.1)
    before = rng.bit_generator.state
    adapter(opt.step(w.copy()), 1.0)
    rng.normal()
    after = rng.bit_generator.state
    adapter(opt.step(w.copy()), math.nan)
    assert rng.bit_generator.state == after != before


def test_a_torch_optimizer() -> None:
    torch = pytest.importorskip("torch")
    w = torch.ones(3, requires_grad=True)
    opt = torch.optim.SGD([w], lr=30.0, momentum=0.9)
    adapter = Adapter(opt, 30.0)
    loss = math.nan
    for t in range(1, 301):
        opt.zero_grad()
        value = 0.5 * (w @ w)
        value.backward()
        before = w.detach().clone()
        opt.step()
        moved = float((w.detach() - before).norm())
        report = entry(
            min(t, 50), update_norm=moved, param_norm=float(w.detach().norm()),
            grad_norm=float(w.grad.norm()), g2_over_v=None,
        )  # fmt: skip
        loss = float(value.detach())
        adapter(report, loss)
    assert {one.action for one in adapter.decisions} == {"rollback"}
    assert opt.param_groups[0]["lr"] == pytest.approx(30 * adapter.multiplier)
    assert loss < 0.1


def test_a_real_training_is_saved() -> None:
    """At thirty times the best rate the network on digits dies; adapted, it learns."""
    problem = rate_problems.PROBLEMS["digits"]

    def train(adapt: bool) -> float:
        task = problem.make(100)
        opt = gs.SGD(task.params, lr=4.0, momentum=0.9, stats=True)
        adapter = Adapter(opt, 4.0, patience=150) if adapt else None
        with np.errstate(all="ignore"):
            for _ in range(600):
                loss, grads = task.batch()
                report = opt.step(grads)
                if adapter is not None:
                    adapter(report, loss)
        return task.loss()

    assert train(adapt=True) < 0.5
    assert not train(adapt=False) < 1.5


# ---- on disk ----


def test_a_file_that_was_changed_is_not_read(tmp_path: Path) -> None:
    own = Own()
    adapter = Adapter(own, 0.1, path=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(pickle.dumps(7))
    with pytest.raises(ValueError, match="path: got a changed state-"):
        adapter(entry(1), math.nan)
    assert own.restored == []


def test_what_cannot_be_pickled_is_refused_at_once(tmp_path: Path) -> None:
    opt = gs.SGD(np.ones(2), lr=0.1, momentum=lambda _: 0.9, stats=True)
    with pytest.raises(TypeError, match="path: got a state that cannot be written"):
        Adapter(opt, 0.1, path=tmp_path)


def test_two_adapters_share_a_folder(tmp_path: Path) -> None:
    one, two = Own(), Own()
    one.value, two.value = 1, 2
    first, second = Adapter(one, 0.1, path=tmp_path), Adapter(two, 0.1, path=tmp_path)
    first(entry(1), math.nan)
    second(entry(1), math.nan)
    assert (one.restored, two.restored) == ([1], [2])


# ---- bad input ----


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": 0.0}, ValueError, "lr: got 0.0"),
        ({"lr": "fast"}, TypeError, "lr: got 'fast'"),
        ({"cut": 1.0}, ValueError, "cut: got 1.0, wanted a number between 0 and 1"),
        ({"patience": 5}, ValueError, "patience: got 5, wanted at least 20"),
        ({"patience": 100.0}, TypeError, "patience: got 100.0, wanted a whole number"),
        ({"keep": 1}, ValueError, "keep: got 1"),
        ({"rollbacks": -1}, ValueError, "rollbacks: got -1"),
        ({"rollbacks": True}, TypeError, "rollbacks: got True"),
        ({"min_multiplier": 0}, ValueError, "min_multiplier: got 0"),
        ({"monitor": print}, TypeError, "monitor: got builtin_function_or_method"),
        ({"callback": 1}, TypeError, "callback: got 1"),
        ({"optimizer": 3}, TypeError, "optimizer: got int"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"optimizer": Own(), "lr": 0.1} | options
    with pytest.raises(error, match=message):
        Adapter(arguments.pop("optimizer"), **arguments)


def test_decisions_are_plain() -> None:
    decision = Decision(7, "rollback", "the loss is not finite", 1.0, 0.5, 3)
    assert decision.to_dict() == {
        "step": 7, "action": "rollback", "reason": "the loss is not finite", "before": 1.0,
        "after": 0.5, "to": 3,
    }  # fmt: skip


def test_a_monitor_of_yours() -> None:
    seen: list[int] = []
    own = Own()
    adapter = Adapter(own, 0.1, monitor=Monitor(callback=lambda step, _: seen.append(step)))
    run(adapter, own, noisy(1.0, 30))
    assert seen == [10, 20, 30]


def test_importing_it_imports_no_torch() -> None:
    assert "torch" not in vars(sys.modules["gradstep.tuning.adapting"])
