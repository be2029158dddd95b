"""The monitor: its verdicts on runs whose rate is known, its numbers, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnosis
import gradstep as gs
from gradstep import cli, plots
from gradstep.tuning import Monitor, Verdict, watching
from gradstep.tuning.finding import Refused
from gradstep.tuning.monitor import Measured

KINDS = {"too high", "too low", "diverging", "spike", "fine", "inconclusive"}


def entry(t: int, **changed: Any) -> dict[str, Any]:
    """A report's dict of a training with Adam that goes well."""
    usual = {
        "t": t, "lr": 1e-3, "update_norm": 0.01 * (1 + 0.3 * (t % 2)), "param_norm": 1.0,
        "grad_norm": 1.0, "cosine": 0.0, "g2_over_v": 0.5,
    }  # fmt: skip
    return usual | changed


def shown(
    monitor: Monitor,
    steps: int,
    loss: Callable[[int], float] = lambda t: 2.0 / t + 0.01 * (t % 3),
    first: int = 1,
    **changed: Any,
) -> Verdict:
    """The verdict after so many such reports."""
    verdict = monitor.verdict
    for t in range(first, first + steps):
        verdict = monitor(entry(t, **changed), loss(t))
    return verdict


def bowl(lr: float, steps: int, momentum: float = 0.9, **options: Any) -> tuple[Monitor, Verdict]:
    """A valley whose walls are a hundred times as steep as its floor."""
    curvature = np.array([1.0, 0.01])
    w = np.ones(2)
    opt = gs.SGD(w, lr=lr, momentum=momentum, stats=True)
    monitor = Monitor(**options)
    verdict = monitor.verdict
    for _ in range(steps):
        loss = 0.5 * float(curvature @ w**2)
        verdict = monitor(opt.step(curvature * w), loss)
    return monitor, verdict


# ---- verdicts ----


def test_a_rate_that_is_far_too_low() -> None:
    _, verdict = bowl(1e-4, 100)
    assert verdict.kind == "too low"
    assert verdict.factor == 10
    assert verdict.numbers["alignment"] > 0.95


def test_a_rate_that_diverges() -> None:
    monitor, verdict = bowl(6.0, 40)
    assert verdict.kind == "diverging"
    assert verdict.factor < 1
    assert verdict.numbers["loss"] > verdict.numbers["loss_start"]
    assert monitor.verdict is verdict


# As `benchmarks/diagnosis.py` prints them.
BEST = {
    "logistic": {"SGD": 2.4, "momentum": 0.13, "Adam": 0.042},
    "digits": {"SGD": 0.75, "momentum": 0.13, "Adam": 0.024},
    "text": {"SGD": 0.75, "momentum": 0.056, "Adam": 0.013},
}


@pytest.mark.parametrize("rule", ["SGD", "momentum", "Adam"])
@pytest.mark.parametrize("multiple", [0.1, 1.0, 10.0])
def test_a_real_training_around_its_best_rate(rule: str, multiple: float) -> None:
    cell = diagnosis.judge("digits", rule, BEST["digits"][rule], multiple, range(100, 103))
    assert set(cell.kinds) <= diagnosis.RIGHT[multiple] | {"inconclusive"}


@pytest.mark.slow
def test_diagnosis_keeps_its_promise() -> None:
    """The table of the benchmark, with half of its seeds."""
    cells = [
        diagnosis.judge(name, rule, rate, multiple, range(5))
        for name, rates in BEST.items()
        for rule, rate in rates.items()
        for multiple in diagnosis.RIGHT
    ]
    wrong, silent = diagnosis.shares(cells)
    assert sum(cell.kinds.total() for cell in cells) == 135
    assert wrong <= diagnosis.WRONG
    assert silent <= diagnosis.INCONCLUSIVE


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_diverges_at_once(value: float) -> None:
    monitor = Monitor()
    verdict = monitor(entry(1), value)
    assert (verdict.kind, verdict.step) == ("diverging", 1)
    assert verdict.to_dict()["loss"] is None


NAN, INF = math.nan, math.inf
LOST = {
    "from the second on": [2.3] + [NAN] * 8,
    "from the first on": [NAN] * 9,
    "all, beyond a window": [INF] * 130,
    "within the first five": [2.3, 2.2, NAN, 2.1, NAN, NAN],
    "the fifth": [2.3, 2.2, 2.1, 2.0, NAN],
    "all but the fifth": [NAN] * 4 + [2.3] + [NAN] * 20,
    "at a look": [2.3] * 9 + [INF],
    "the first, then it rises": [NAN] + [1.2 + 0.2 * i for i in range(59)],
    "the first four, then it rises": [INF] * 4 + [1.2 + 0.2 * i for i in range(56)],
    "here and there, then it rises": [NAN if i % 3 else 1.2 + 0.2 * i for i in range(61)],
    "after a window that was judged": [2 / (1 + i) for i in range(105)] + [NAN],
}


@pytest.mark.parametrize("losses", LOST.values(), ids=LOST)
@pytest.mark.parametrize("rule", [gs.SGD, gs.Adagrad, gs.RMSprop, gs.Adam])
def test_losses_that_are_not_finite(losses: list[float], rule: Any) -> None:
    """Each is said at once, and none of them switches off the comparison with the first loss."""
    weights, monitor = np.ones(3), Monitor()
    optimizer = rule(weights, lr=1e-3, stats="sample")
    for loss in losses:
        verdict = monitor(optimizer.step(weights.copy()), loss)
        if not math.isfinite(loss):
            assert (verdict.kind, verdict.reason) == ("diverging", "the loss is not finite")
        json.dumps(verdict.to_dict(), allow_nan=False)
    assert verdict.kind == "diverging"
    assert monitor.verdict is verdict


@pytest.mark.parametrize("size", [1e300, 1e308, 5e-324])
def test_numbers_at_the_ends_of_the_range(size: float) -> None:
    """Their sums and quotients overflow, which is no reason to call them lost, or to raise."""
    norms = dict.fromkeys(("update_norm", "param_norm", "grad_norm", "g2_over_v", "lr"), size)
    monitor = Monitor()
    for t in range(1, 250):
        verdict = monitor(entry(t, **norms), size * (0.5 + 0.4 * (-1) ** t))
        assert "not finite" not in verdict.reason
    for t in range(250, 260):
        monitor(entry(t, cosine=NAN, g2_over_v=INF, lr=10**400), -size)


@pytest.mark.parametrize("name", ["update_norm", "param_norm", "grad_norm"])
def test_an_update_that_is_not_finite_diverges(name: str) -> None:
    assert Monitor()(entry(1, **{name: math.inf}), 1.0).kind == "diverging"


def test_losing_what_was_gained_diverges() -> None:
    """Though the loss is far below the first."""
    monitor = Monitor()
    noise = np.random.default_rng(0).normal(0, 0.01, 1000)
    assert shown(monitor, 150, lambda t: 10 / t + noise[t]).kind != "diverging"
    verdict = shown(monitor, 40, lambda t: 7 + noise[t], first=151)
    assert verdict.kind == "diverging"
    assert "rose" in verdict.reason


def test_a_slow_start_is_not_diverging() -> None:
    """The first loss is as noisy as the others: to be above it means nothing."""
    for seed in range(30):
        noise = np.random.default_rng(seed).normal(0, 0.1, 100)
        seen = {
            shown(Monitor(), steps, lambda t, noise=noise: 1 + noise[t % 100]).kind
            for steps in (20, 50, 90)
        }
        assert seen == {"inconclusive"}, seed


def test_a_spike_passes() -> None:
    monitor = Monitor()
    noise = np.random.default_rng(0).normal(0, 0.01, 1000)

    def loss(t: int) -> float:
        return 1 / t + noise[t] + 5 * (t == 155)

    shown(monitor, 154, loss)
    before = monitor.verdict.kind
    spike = monitor(entry(155), loss(155))
    assert spike.kind == "spike"
    assert spike.numbers["z"] > 6
    assert spike.factor == 1
    after = monitor(entry(156), loss(156))
    assert after.kind == before == monitor.verdict.kind


def test_a_new_level_is_no_row_of_spikes() -> None:
    monitor = Monitor()
    noise = np.random.default_rng(0).normal(0, 0.01, 1000)
    shown(monitor, 120, lambda t: 2 / t + noise[t])
    kinds = [monitor(entry(t), 0.3 + noise[t]).kind for t in range(121, 140)]
    assert kinds.count("spike") <= 2


@pytest.mark.parametrize(
    ("cosine", "kind"),
    [(-0.3, "too high"), (-0.12, "inconclusive"), (0.0, "fine"), (0.07, "inconclusive"),
     (0.3, "too low")],
)  # fmt: skip
def test_later_windows(cosine: float, kind: str) -> None:
    """The cosine tells; of a training that was right at the start, too."""
    assert shown(Monitor(), 100).kind == "fine"
    monitor = Monitor()
    shown(monitor, 100)
    verdict = shown(monitor, 100, first=101, cosine=cosine)
    assert verdict.kind == kind
    assert verdict.factor == {"too high": 1 / 3, "too low": 3}.get(kind, 1)
    assert shown(Monitor(), 100, first=500, cosine=cosine).kind == kind


def test_later_windows_say_how_far_the_loss_fell() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 1000)
    falling = shown(Monitor(), 100, lambda t: 10 - 0.02 * t + noise[t], first=5, cosine=0.0)
    assert falling.numbers["fall"] > 2
    assert "the loss fell" in falling.reason
    rising = shown(Monitor(), 100, lambda t: 10 + 3e-4 * t + noise[t], first=5, cosine=0.0)
    assert rising.numbers["fall"] < 0
    assert "the loss rose" in rising.reason


def test_too_few_steps_say_nothing() -> None:
    assert Monitor().verdict.kind == "inconclusive"
    verdict = shown(Monitor(), 99, cosine=0.9)
    assert verdict.kind == "inconclusive"
    assert verdict.reason == "90 of 100 steps seen"
    assert shown(Monitor(), 100, cosine=0.9).kind == "too low"


def test_without_a_cosine_it_says_nothing() -> None:
    verdict = shown(Monitor(), 100, cosine=None)
    assert (verdict.kind, verdict.reason) == ("inconclusive", "no cosine in the reports")
    assert shown(Monitor(), 300, cosine=None).kind == "inconclusive"


def test_the_rate_at_the_start_is_judged_where_the_start_was_seen() -> None:
    """A resumed run, or a log of every tenth step, is judged by its windows alone."""
    assert "first_updates" in shown(Monitor(), 100).numbers
    assert "first_updates" not in shown(Monitor(), 100, first=500).numbers
    monitor = Monitor()
    for t in range(1, 1001, 10):
        verdict = monitor(entry(t), 2 / t)
    assert "first_updates" not in verdict.numbers


# ---- what a momentum is known by ----


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("SGD", {}),
        ("SGD", {"momentum": 0.9}),
        ("RMSprop", {}),
        ("Adagrad", {}),
        ("Adam", {}),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "".join(value),
)
def test_a_momentum_is_found_out(rule: str, options: dict[str, float]) -> None:
    """By the verdict: rough losses count where there is none, large first updates where there is.
    The other cannot speak here."""
    has = rule == "Adam" or bool(options)
    rng = np.random.default_rng(0)
    w = np.full(400, 1.0)
    opt, monitor = getattr(gs, rule)(w, lr=0.01, stats=True, **options), Monitor()
    for t in range(1, 101):
        report = opt.step(rng.normal(0.1, 1, 400)).to_dict() | {"cosine": 0.0}
        verdict = monitor(report, 2 - 0.001 * t + (t % 2))
    assert verdict.kind == ("fine" if has else "too high"), verdict
    assert ("rough" in verdict.reason or "up and down" in verdict.reason) is not has


def test_a_momentum_can_be_told() -> None:
    def rough(t: int) -> float:
        return 2 - 0.001 * t + (t % 2)

    assert shown(Monitor(momentum=False), 100, rough).kind == "too high"
    assert shown(Monitor(momentum=True), 100, rough).kind == "fine"


# ---- numbers, dicts and lines ----


def test_numbers() -> None:
    losses = [5.0, *np.random.default_rng(1).uniform(1, 2, 99)]
    verdict = shown(Monitor(), 100, lambda t: losses[t - 1], cosine=0.1, update_norm=0.02)
    numbers = verdict.numbers
    assert numbers["loss_start"] == 5
    assert numbers["loss"] == pytest.approx(float(np.median(losses[-20:])))
    steps = np.abs(np.diff(losses[-50:]))
    noise = 1.4826 * float(np.median(steps)) / math.sqrt(2)
    assert numbers["noise"] == pytest.approx(noise)
    fall = float(np.median(losses[:20]) - np.median(losses[-20:])) / noise
    assert numbers["fall"] == pytest.approx(fall)
    assert numbers["alignment"] == pytest.approx(0.1)
    assert numbers["first_updates"] == pytest.approx(0.1)
    rough = float(np.abs(np.diff(losses)).sum() / (5 - numbers["loss"]))
    assert numbers["roughness"] == pytest.approx(rough)
    assert numbers["update_to_weight"] == 0.02
    assert (numbers["grad_norm"], numbers["g2_over_v"]) == (1.0, 0.5)


def test_alignment_is_of_the_first_and_the_last_steps() -> None:
    monitor = Monitor()
    for t in range(1, 101):
        cosine = None if t == 1 else 0.9 if t <= 20 else 0.5 if t <= 50 else 0.1
        verdict = monitor(entry(t, cosine=cosine), 2 / t)
    assert verdict.numbers["alignment"] == pytest.approx((0.9 + 0.1) / 2)


def test_line_and_dict() -> None:
    verdict = Verdict("too high", 7, 1 / 3, "it bounces", {"fall": 0.5, "roughness": math.inf})
    assert str(verdict) == verdict.line == "too high, try the rate × 0.33 (it bounces)"
    assert str(Verdict("fine", 7, 1.0, "the loss fell", {})) == "fine (the loss fell)"
    told = verdict.to_dict()
    assert told == {
        "verdict": "too high", "factor": 1 / 3, "reason": "it bounces", "fall": 0.5,
        "roughness": None,
    }  # fmt: skip
    json.dumps(told, allow_nan=False)


def test_callback_gets_step_and_dict() -> None:
    calls: list[tuple[int, dict[str, Any]]] = []
    monitor = Monitor(callback=lambda step, told: calls.append((step, told)))
    shown(monitor, 105)
    assert [step for step, _ in calls] == list(range(10, 101, 10))
    assert all(told["verdict"] in KINDS for _, told in calls)
    assert calls[-1][1]["verdict"] == monitor.verdict.kind


def test_a_report_and_its_dict_are_the_same() -> None:
    w = np.ones(4)
    opt = gs.Adam(w, lr=0.1, stats=True)
    by_report, by_dict = Monitor(), Monitor()
    for _ in range(120):
        loss = 0.5 * float(w @ w)
        report = opt.step(w.copy())
        assert by_report(report, loss) == by_dict(report.to_dict(), loss)


def test_several_groups_and_rates() -> None:
    a, b = np.ones(3), np.ones(2)
    opt = gs.SGD([{"params": a}, {"params": b, "lr": 1e-3}], lr=1e-4, momentum=0.9, stats=True)
    monitor = Monitor()
    for _ in range(100):
        verdict = monitor(opt.step([a.copy(), b.copy()]), 0.5 * float(a @ a + b @ b))
    assert verdict.kind == "too low"


def test_restart_keeps_the_first_loss() -> None:
    monitor = Monitor()
    shown(monitor, 150)
    monitor.restart()
    assert monitor.verdict.kind == "inconclusive"
    assert shown(monitor, 100, first=151).numbers["loss_start"] == 2.0 + 0.01


def test_skipped_steps_are_passed_over() -> None:
    monitor = Monitor()
    shown(monitor, 100)
    before = monitor.verdict
    skipped = {"t": 100, "lr": 1e-3, "skipped": True, "grad_norm": math.inf}
    for _ in range(19):
        assert monitor(skipped, math.inf) is before
    assert monitor(skipped, math.inf).kind == "diverging"
    shown(monitor, 10, first=101)
    assert monitor.verdict.kind != "diverging"


def test_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is seen is looked at once per ten steps, whatever the losses; the rest is sums."""
    looks, look = [], Monitor._look

    def counted(self: Monitor, t: int) -> Any:
        looks.append(t)
        return look(self, t)

    monkeypatch.setattr(Monitor, "_look", counted)
    monitor, report = Monitor(), entry(1)
    for i in range(1000):
        monitor(report, 1.0 + 1e-3 * (i % 7))
    assert len(looks) == 100


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((entry(1), None), TypeError, "loss: got None, wanted a number"),
        ((entry(1), "low"), TypeError, "loss: got 'low'"),
        ((7, 1.0), TypeError, "report: got int, wanted a Report or its dict"),
        ((entry(1, grad_norm="x"), 1.0), TypeError, "grad_norm: got 'x', wanted a number"),
        ((entry(1, cosine=[]), 1.0), TypeError, r"cosine: got \[\], wanted a number"),
        (({"t": 1, "lr": 0.1}, 1.0), ValueError, "stats='sample'"),
    ],
)
def test_bad_steps(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Monitor()(*arguments)


def test_a_report_without_statistics() -> None:
    w = np.ones(2)
    with pytest.raises(ValueError, match="report: got one without statistics"):
        Monitor()(gs.SGD(w, lr=0.1).step(w.copy()), 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"momentum": 0.9}, "momentum: got 0.9"), ({"callback": 3}, "callback: got 3")],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Monitor(**options)


# ---- gradstep watch ----


def write(path: Path, lr: float, steps: int = 120) -> Path:
    """A log of a real run, with what a report gives."""
    w = np.ones(3)
    opt = gs.SGD(w, lr=lr, momentum=0.9, stats=True)
    with path.open("w") as file, np.errstate(all="ignore"):
        for _ in range(steps):
            loss = 0.5 * float(w @ w)
            report = json.loads(opt.step(w.copy()).to_json())
            report["loss"] = loss if math.isfinite(loss) else None
            file.write(json.dumps(report) + "\n")
    return path


def test_watch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path / "log.jsonl", 1e-4)
    assert cli.main(["watch", str(log)]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["verdict"].strip() == "too low"
    assert rows["try"].strip() == "a higher rate: × 10, so 0.001"
    assert rows["steps"].strip() == "120, to step 120"
    assert float(rows["alignment"]) > 0.9


def test_watch_says_what_the_monitor_says(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", 1e-2, 260)
    monitor = Monitor()
    for line in log.read_text().splitlines():
        report = json.loads(line)
        monitor(report, report["loss"])
    watched = watching.watch(log)
    assert watched.verdict == monitor.verdict
    assert (len(watched.losses), watched.steps[-1], watched.rates[0]) == (260, 260, 0.01)


def test_watch_a_run_that_diverged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is seen to before its losses are null."""
    log = write(tmp_path / "log.jsonl", 1e3, 300)
    assert "null" in log.read_text()
    picture = tmp_path / "run.png"
    assert cli.main(["watch", str(log), "--out", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "diverging" in out
    assert "a lower rate, from a state before it: × 0.1, so 100" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


GOOD = json.dumps(entry(1) | {"loss": 1.0})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "got no JSON"),
        ("[1, 2]", "got a list, wanted an object"),
        ("7", "got a number, wanted an object"),
        (json.dumps(entry(2)), "got no 'loss', wanted it"),
        (json.dumps({"t": 2, "loss": 1.0}), "got no 'update_norm'"),
        (json.dumps(entry(2) | {"loss": "low"}), "loss: got a text, wanted a number"),
        (json.dumps(entry(2) | {"loss": True}), "loss: got true or false"),
        (json.dumps(entry(2) | {"loss": 1.0, "t": 1.5}), "t: got 1.5, wanted a whole number"),
        (json.dumps(entry(2) | {"loss": 1.0, "t": None}), "t: got null"),
        (json.dumps(entry(2) | {"loss": 1.0, "lr": ["x"]}), "lr: got a text"),
        (json.dumps(entry(2) | {"loss": 1.0, "cosine": []}), "cosine: got a list"),
        (json.dumps(entry(2) | {"loss": 1.0, "skipped": "no"}), "skipped: got a text"),
        (json.dumps(entry(2) | {"loss": 10**399}), "loss: got a number of 400 digits"),
        (json.dumps(entry(2) | {"loss": 1.0, "lr": 10**399}), "lr: got a number of 400 digits"),
        (json.dumps(entry(2) | {"loss": 1.0, "lr": [1, -(10**399)]}), "lr: got a number of 401"),
        (json.dumps(entry(10**399) | {"loss": 1.0}), "t: got a number of 400 digits"),
        (json.dumps(entry(2**52) | {"loss": 1.0}), "t: got 4503599627370496, wanted a whole"),
        (json.dumps(entry(-1) | {"loss": 1.0}), "t: got -1, wanted a whole number from 0"),
        (json.dumps(entry(2)).replace("0.001", "9" * 5000), "got a number of thousands of digits"),
        ("[" * 100_000, "got JSON that is nested too deeply"),
        ('{"loss":' + "[" * 100_000, "got JSON that is nested too deeply"),
        ("{} , null, {}", "got no JSON"),
        ("\0" * 100, "got no JSON"),
        ('"' + "x" * (1 << 20) + '"', "got 1,048,576 characters and more, wanted one JSON object"),
        (GOOD + "," + GOOD, "got no JSON"),
    ],
    ids=str,
)
def test_watch_names_the_line(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(f"{GOOD}\n\n{line}\n{GOOD}\n")
    assert cli.main(["watch", str(log)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"gradstep: {log}, line 3: ")
    assert message in captured.err


def test_watch_refuses_a_line_without_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(f"{GOOD}\n" + "{" * (1 << 20))
    assert cli.main(["watch", str(log)]) == 1
    assert "line 2: got 1,048,576 characters and more" in capsys.readouterr().err


def test_watch_refuses_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["watch", "/dev/zero"]) == 1
    assert "/dev/zero: got a device, wanted a file, a folder, or a pipe" in capsys.readouterr().err


def test_watch_takes_a_mark_at_the_start_and_other_ends_of_lines(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n\r\n{GOOD}\r\n".encode())
    assert len(watching.watch(log).steps) == 2


KNOWN = ("loss", "update_norm", "param_norm", "grad_norm", "cosine", "g2_over_v", "lr")


@pytest.mark.parametrize("steps", [9, 10, 25, 130], ids="{} steps".format)
@pytest.mark.parametrize("when", ["first", "last", "odd", "all"])
@pytest.mark.parametrize("keys", [*([key] for key in KNOWN), KNOWN], ids="+".join)
def test_null_is_not_known_and_no_divergence(
    keys: list[str], when: str, steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for t in range(1, steps + 1):
        line = entry(t) | {"loss": 2.0 / t + 0.01 * (t % 3)}
        if {"first": t == 1, "last": t == steps, "odd": t % 2, "all": True}[when]:
            line |= dict.fromkeys(keys)
        lines.append(json.dumps(line) + "\n")
    log = tmp_path / "log.jsonl"
    log.write_text("".join(lines))
    watched = watching.watch(log)
    assert watched.verdict.kind in {"inconclusive", "fine"}
    assert [one.kind for _, one in watched.history if one.kind == "diverging"] == []
    assert cli.main(["watch", str(log)]) == 0
    assert "diverging" not in capsys.readouterr().out


def test_what_python_writes_for_what_is_not_finite_is_judged(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for key in ("loss", "update_norm", "param_norm", "grad_norm"):
        for value in (math.nan, math.inf, 1e999):
            log.write_text(f"{GOOD}\n" + json.dumps(entry(2) | {"loss": 1.0, key: value}) + "\n")
            assert watching.watch(log).verdict.kind == "diverging"


def test_a_divergence_stays_while_nothing_is_known(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    unknown = [entry(t) | dict.fromkeys(KNOWN) for t in range(61, 200)]
    rising = [entry(t) | {"loss": 1.0 + 0.2 * t} for t in range(1, 61)]
    log.write_text("".join(json.dumps(line) + "\n" for line in rising + unknown))
    assert watching.watch(log).verdict.kind == "diverging"


def strange(
    rng: np.random.Generator, steps: int, clean: float, notes: float = 0.1
) -> list[dict[str, Any]]:
    """Lines of a long log: spikes, nulls, skipped steps, rollbacks, several rates, other keys."""
    lines, t = [], 0
    for i in range(steps):
        t += 1
        noise = rng.normal(0, 0.05) + (3 if rng.random() < 0.003 else 0)
        line = entry(t, cosine=rng.normal(0, 0.1)) | {"loss": 2 / (1 + i) ** 0.2 + noise}
        kind = 9 if rng.random() < clean else rng.integers(9)
        if kind == 0:
            line["loss"] = None
        elif kind == 1:
            line |= {"skipped": True, "update_norm": None}
        elif kind == 2:
            line["lr"] = [0.1, 0.2]
        elif kind == 3:
            t -= min(t, int(rng.integers(40)))
        elif kind == 4:
            line["cosine"] = None
        elif kind == 5:
            del line["g2_over_v"]
        elif kind == 6:
            line["loss"] = math.nan
        elif kind == 7:
            line["param_norm"] = 0
        lines.append(line | ({"note": "[{,null,"} if rng.random() < notes else {}))
    return lines


@pytest.mark.parametrize(
    ("clean", "notes", "drift", "separators"),
    [
        (0.0, 0.1, 0.0, (", ", ": ")),
        (0.9, 0.1, 1e-4, (", ", ": ")),
        (0.9, 0.0, 1e-4, (" , ", " : ")),
        (0.999, 0.0, 0.0, (",", ":")),
        (0.999, 0.0, 1e-4, (", ", ": ")),
        (1.0, 0.1, 0.0, (", ", ": ")),
        (1.0, 0.0, 0.0, (",", ":")),
        (1.0, 0.0, 1e-4, (", ", ": ")),
        (1.0, 0.0, 1e-3, (", ", ": ")),
    ],
)
def test_many_lines_at_once_are_judged_as_one_by_one(
    clean: float,
    notes: float,
    drift: float,
    separators: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long log is read in blocks, whatever stands in them and wherever they are cut."""
    log = tmp_path / "log.jsonl"
    lines = strange(np.random.default_rng(5), 4000, clean, notes)
    for i, line in enumerate(lines):
        line["loss"] = line["loss"] and line["loss"] + drift * i  # it diverges, sooner or later
    log.write_text("".join(json.dumps(line, separators=separators) + "\n" for line in lines))
    monkeypatch.setattr(watching, "_columns", lambda _: None)
    wanted = watching.watch(log)
    monkeypatch.undo()
    for size in (1 << 12, 1 << 16, 1 << 20):
        monkeypatch.setattr(watching, "BLOCK", size)
        got = watching.watch(log)
        for name in ("verdict", "history", "spikes", "steps", "unfinished"):
            assert repr(getattr(got, name)) == repr(getattr(wanted, name))
        for name in ("losses", "rates", "ratios"):
            np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))


def test_a_log_that_several_processes_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is judged as one that this process reads; a bad line is named as there."""
    log = tmp_path / "log.jsonl"
    lines = strange(np.random.default_rng(6), 3000, 0.99)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    wanted = watching.watch(log)
    monkeypatch.setattr(watching, "BLOCK", 1 << 15)
    assert repr(watching.watch(log, workers=2)) == repr(wanted)
    with log.open("a") as file:
        file.write(f"[1]\n{GOOD}\n")
    with pytest.raises(Refused, match="line 3001: got a list, wanted an object"):
        watching.watch(log, workers=2)


@pytest.mark.parametrize("seed", range(30))
def test_whole_turns_leave_a_monitor_as_single_steps_do(seed: int) -> None:
    """With spikes that are just spikes, slow rises, falls, and levels that shift."""
    rng = np.random.default_rng(seed)
    count = 3000
    losses = 1 + 0.05 * rng.standard_t(3 + seed % 4, count)
    losses += np.repeat(rng.normal(0, (0, 0.03, 0.1)[seed % 3], count // 20), 20)
    losses += np.linspace(0, rng.choice([-0.5, 0.0, 0.2]), count)
    cosines = list(rng.normal(0, 0.2, count))
    steps = [
        Measured(t, loss, 1e-3, 0.01, 1.0, 1.0, cosine, None)
        for t, (loss, cosine) in enumerate(zip(losses.tolist(), cosines, strict=True), 1)
    ]
    one, many = Monitor(), Monitor()
    at = taken = 0
    while at < count:
        turns = many.take_calm_turns(
            losses[at:].tolist(), cosines[at:], lambda i, at=at: steps[at + i]
        )
        taken += len(turns)
        if not turns:
            many.take(steps[at])
        for verdict in turns or [many.verdict]:
            for step in steps[at : at + (50 if turns else 1)]:
                said = one.take(step).kind
                assert not turns or said not in ("spike", "diverging"), step.t
            at += 50 if turns else 1
            assert repr(verdict) == repr(one.verdict), at
        assert (many._best, many._ceiling, many._n) == (one._best, one._ceiling, one._n), at
    assert taken >= 2 or seed % 3 == 2  # much happens there


@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        ('"lr": ', '"lr" '),
        ('"lr": ', '"lr":: '),
        ('"lr": ', '"lr": : '),
        ('"lr": ', 'lr": '),
        ('"lr": ', '"lr": 1, '),
        ('"lr": ', '": lr"'),
        ('"lr": 0.001, ', '"lr": , '),
        ('"lr": 0.001, "update_norm": ', '"lr" 0.001, "update_norm":: '),
        ('"lr": 0.001, "update_norm": ', '"lr" 0.001, : "update_norm": '),
        ('"lr": 0.001, "update_norm": ', '"lr": 0.001 "update_norm": '),
        ('"lr": 0.001, "update_norm": ', '"lr": 0.001, 2, "update_norm": '),
        ('"lr": 0.001, "update_norm": ', '"lr": 0.001}, {"update_norm": '),
        ("0.001", "0.001.1"),
        ("0.001", "1_000"),
        ("0.001", "[0.001"),
        ("}", ""),
        ("}", "}}"),
        ("{", "{{"),
        ("{", ""),
    ],
)
def test_no_broken_line_is_read(whole: str, broken: str, tmp_path: Path) -> None:
    """Though the keys of many lines are compared at once, and the values read at once."""
    log = tmp_path / "log.jsonl"
    lines = [json.dumps(entry(t) | {"loss": 1 / t}) for t in range(1, 30)]
    assert whole in lines[20]
    lines[20] = lines[20].replace(whole, broken, 1)
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(Refused, match=r"line 21: got"):
        watching.watch(log)


def test_how_many_processes_read_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.jsonl"
    assert watching.workers_for(log) == 1
    log.write_text(GOOD)
    assert watching.workers_for(log) == 1
    monkeypatch.setattr(watching, "SHARED", 10)
    for processors, workers in ((1, 1), (3, 3), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=processors: set(range(n)))
        assert watching.workers_for(log) == workers


def test_a_long_log_takes_little_memory(tmp_path: Path) -> None:
    log, lines = tmp_path / "log.jsonl", 20_000
    with log.open("w") as file:
        file.writelines(
            json.dumps(entry(t) | {"loss": 2 / t**0.2}) + "\n" for t in range(1, lines + 1)
        )
    tracemalloc.start()
    watched = watching.watch(log)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(watched.steps) == lines
    assert peak < 4e6 + 80 * lines


def test_watch_leaves_out_a_line_that_is_being_written(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(f"{GOOD}\n{GOOD[:20]}")
    watched = watching.watch(log)
    assert (len(watched.losses), watched.unfinished) == (1, True)
    assert ("note", "the last line has no end yet and was left out") in watching.describe(watched)
    log.write_text(f"{GOOD}\n{GOOD}")  # whole, though without an end
    assert len(watching.watch(log).losses) == 2


def test_watch_an_empty_or_missing_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.jsonl").write_text("\n")
    with pytest.raises(Refused, match="got no complete line"):
        watching.watch(tmp_path / "log.jsonl")
    assert cli.main(["watch", str(tmp_path / "none.jsonl")]) == 1
    assert "none.jsonl" in capsys.readouterr().err


def test_watch_takes_skipped_steps_and_groups(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    skipped = {"t": 1, "lr": [0.1, 0.2], "skipped": True, "grad_norm": None, "loss": None}
    both = entry(2) | {"lr": [0.1, 0.2], "loss": 0.5, "groups": [{}, {}], "note": "x"}
    log.write_text("\n".join([GOOD, json.dumps(skipped), json.dumps(both)]) + "\n")
    watched = watching.watch(log)
    assert list(watched.rates) == [1e-3, 0.1, 0.1]
    assert watched.verdict.kind == "inconclusive"


def test_watch_a_run_that_went_back(tmp_path: Path) -> None:
    """After a rollback the start is judged again."""
    log, again = write(tmp_path / "log.jsonl", 1e3, 30), write(tmp_path / "again.jsonl", 1e-4)
    log.write_text(log.read_text() + again.read_text())
    watched = watching.watch(log)
    assert [verdict.kind for _, verdict in watched.history] == ["diverging", "too low"]
    assert [line for line, _ in watched.history] == [30, 130]
    assert len(watched.steps) == 150


def test_watch_help_has_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["watch", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for word in ("one JSON object per line", *watching.NEEDED, *watching.OPTIONAL, "null", "--out"):
        assert word in out


# ---- pictures ----


def test_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    losses = 2 / np.arange(1, 201) + rng.uniform(0, 0.1, 200)
    blown = np.where(np.arange(200) < 30, 2.0, np.nan)
    lines = {"0.1": (losses, "fine"), "10": (blown, "diverging"), "1e9": ([math.nan], "diverging")}
    for ending, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        path = plots.runs(lines, tmp_path / f"runs{ending}")
        assert path.read_bytes().startswith(start)
    svg = (tmp_path / "runs.svg").read_text()
    assert plots.runs({"0.1": (losses, "fine")}, tmp_path / "one.svg", smooth=1).is_file()
    assert len(svg) > 1000
    plots.run(losses, [0.1] * 200, [math.nan] * 200, tmp_path / "run.png", marks=[(100, "fine")])
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    plots.runs({"negative": (-losses, "fine")}, tmp_path / "negative.png")


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ({}, {}, "lines: got none"),
        ({"a": ([], "fine")}, {}, r"lines\['a'\]: got no loss"),
        ({"a": ([1.0], "fine")}, {"smooth": 0}, "smooth: got 0"),
    ],
)
def test_pictures_of_nothing(
    lines: Any, options: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        plots.runs(lines, tmp_path / "runs.png", **options)
