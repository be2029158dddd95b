"""The worked examples, in small: that they learn, and tell and draw all that they promise."""

from __future__ import annotations

import importlib
import json
import math
import re
from pathlib import Path

import pytest

from gradstep.tuning import finding, watching

torch = pytest.importorskip("torch")
for package in ("sklearn", "matplotlib"):
    pytest.importorskip(package)

EXAMPLES = Path(__file__).parent.parent / "examples"
WAYS = ["fixed", "step", "exponential", "cyclical", "adaptive"]
VERDICTS = {"too high", "too low", "diverging", "fine", "inconclusive"}
# Name, class, schedule of its run, seeds and updates, and what is left of the loss by then: with
# that schedule, and at the range test's rate.
CASES = [
    ("digits_cnn", "Digits", "exponential", 2, 200, 0.65, 0.1),
    ("topics_lstm", "Topics", "fixed", 1, 100, 0.55, 0.55),
]


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    threads = torch.get_num_threads()
    yield importlib.import_module("common")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_whole_example_in_small(common, capsys, tmp_path, case):
    name, kind, plan, seeds, steps, left, least = case
    training = getattr(importlib.import_module(name), kind)
    arguments = ["--seeds", str(seeds), "--steps", str(steps), "--out", str(tmp_path / "new")]
    outcome = common.main(training, plan, 9999, arguments)
    text = capsys.readouterr().out

    low, high = outcome.found.interval
    assert outcome.found.confidence in ("high", "medium")
    assert low <= outcome.found.suggestion <= high
    assert f"try {outcome.found.suggestion:.2g}" in text

    run = outcome.run
    assert len(run.losses) == steps
    assert run.trained < left * run.losses[0]
    assert run.held_out[0] < left * run.losses[0]
    assert run.start.kind in VERDICTS
    assert run.start.step == common.START
    assert str(run.start) in text
    assert all(ratio > 0 for ratio in run.ratios)

    # One that is too low by so much is not called too high, nor the other way round.
    tenth, as_is, tenfold = outcome.near.values()
    assert tenth.start.kind in ("too low", "inconclusive")
    assert tenfold.start.kind != "too low"
    assert as_is.losses[0] == tenth.losses[0] == tenfold.losses[0]
    assert tenth.trained > as_is.trained

    assert list(outcome.runs) == [training.rate, outcome.found.suggestion]
    for rate, named in outcome.runs.items():
        assert list(named) == WAYS
        fixed = named["fixed"]
        for way, several in named.items():
            assert re.search(rf"^ *(\S+ +)?{way}  .*\d\.\d{{3}}", text, re.MULTILINE), way
            assert len(several) == seeds
            for one, other in zip(several, fixed, strict=True):
                assert one.losses[0] == other.losses[0]  # the same weights and minibatch
                assert max(one.rates) <= rate * (1 + 1e-12)
                assert math.isfinite(one.held_out[0])
        if rate == outcome.found.suggestion:
            assert max(one.trained for one in fixed) < least * run.losses[0]
        assert set(fixed[0].rates) == {rate}
        assert len(set(named["step"][0].rates)) == 3
        assert named["exponential"][0].rates[-1] < 0.11 * rate
        assert named["cyclical"][0].rates[0] == pytest.approx(rate / 10)
        for one in named["adaptive"]:
            assert (len(set(one.rates)) > 1) <= bool(one.decisions)
            assert all(decision in text for decision in one.decisions)
    at_rate = outcome.runs[training.rate]["fixed"][0]
    assert at_rate.losses == outcome.near[f"{training.rate:g}"].losses  # by its seed alone
    if seeds > 1:
        assert at_rate.losses[0] != outcome.runs[training.rate]["fixed"][1].losses[0]
        assert " ± " in text

    assert len(outcome.pictures) == 7
    for path in outcome.pictures:
        assert path.stat().st_size > 10_000
        assert str(path) in text

    log = tmp_path / "new" / "run.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == run.losses
    assert watching.watch(log).verdict.kind == run.verdict.kind


@pytest.mark.parametrize("name", [case[0] for case in CASES])
def test_gradstep_find_takes_it(name):
    train_step, optimizer = finding.load(f"{EXAMPLES / name}.py:training")
    first = train_step()
    assert train_step() != first
    assert optimizer.report.t == 2


def test_too_short_a_run_is_refused(common, capsys):
    training = importlib.import_module("digits_cnn").Digits
    with pytest.raises(SystemExit):
        common.main(training, "fixed", 9999, ["--steps", "99"])
    assert "100 steps" in capsys.readouterr().err
