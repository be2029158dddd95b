"""`gradstep bench --training`: that everyone makes the same steps, and what is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import gradstep as gs
from gradstep import bench, bench_training, cli

QUICK = {"rounds": 1, "seconds": 0.0}
SMALL = ["perceptron 64-128-10", "convolutions, 8 tensors", "transformer, 3.2M"]


@pytest.mark.parametrize("name", SMALL)
def test_networks(name: str) -> None:
    pytest.importorskip("torch")
    trainees = bench_training.measure(name, **QUICK)
    assert [t.name for t in trainees] == [
        bench_training.OURS,
        bench_training.Q8,
        bench_training.FUSED,
        bench_training.AGAIN,
        bench_training.DEFAULT,
    ]
    for trainee in trainees:
        assert len(trainee.steps) == len(trainee.iterations) >= 3
        assert all(0 < s < i for s, i in zip(trainee.steps, trainee.iterations, strict=True))


@pytest.mark.parametrize("name", bench_training.NETWORKS)
def test_networks_are_what_they_are_called(name: str) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network, inputs = bench_training.NETWORKS[name](torch.nn, torch)
    shapes = [tuple(p.shape) for p in network.parameters()]
    count = sum(int(np.prod(shape)) for shape in shapes)
    tensors, millions = {
        "perceptron 64-128-10": (4, 0.01),
        "convolutions, 8 tensors": (8, 0.17),
        "1,000 layers of 64 × 64": (2000, 4.2),
        "transformer, 3.2M": (48, 3.2),
        "transformer, 25M": (96, 25),
    }[name]
    assert len(shapes) == tensors
    assert abs(count / 1e6 - millions) <= 0.05 * millions
    assert inputs.shape[0] >= 1


@pytest.mark.parametrize("name", ["10,000", "65,536"])
def test_sizes(name: str) -> None:
    threads = gs.get_num_threads()
    trainees = bench_training.measure(name, **QUICK)
    assert [t.name for t in trainees] == [
        bench_training.ALL_THREADS,
        bench_training.ONE_THREAD,
        bench_training.FORMULA,
    ]
    assert all(p.size == bench_training.SIZES[name] for t in trainees for p in t.params())
    assert gs.get_num_threads() == threads


def test_what_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench_training.of_size("10,000")
    wrong = bench_training.of_size("10,000")
    step = wrong[0].step

    def twice() -> None:
        step()
        step()

    wrong[0].step = twice
    for trainees, fails in ((right, False), (wrong, True)):
        monkeypatch.setattr(bench_training, "of_size", lambda _, found=trainees: found)
        if fails:
            with pytest.raises(AssertionError, match="gradstep: differs from formula in NumPy by"):
                bench_training.measure("10,000", **QUICK)
        else:
            bench_training.measure("10,000", **QUICK)


def test_it_tells_every_race_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = bench_training.Trainee(
        "gradstep", lambda: None, lambda: None, lambda: [np.ones(7)], [1e-5], [2e-3]
    )
    raced = []

    def measure(name: str, **_: Any) -> Sequence[bench_training.Trainee]:
        raced.append(name)
        return [trainee]

    monkeypatch.setattr(bench_training, "measure", measure)
    for torch_is_there in (True, False):
        monkeypatch.setattr(bench, "present", lambda _, found=torch_is_there: found)
        raced.clear()
        said: list[str] = []
        bench_training.run(say=said.append)
        text = "\n".join(said)
        networks: Mapping[str, object] = bench_training.NETWORKS if torch_is_there else {}
        assert raced == [*networks, *bench_training.SIZES]
        assert "1M: 7 parameters, the step right after a product in NumPy" in text
        assert "10.0 µs" in text
        assert "2.00 ms" in text
        assert ("torch is not installed" in text) is not torch_is_there


@pytest.mark.parametrize("other", ["--rule=Adam", "--size=1000"])
def test_the_command(
    other: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, int]] = []
    monkeypatch.setattr(bench_training, "run", lambda **rest: calls.append(rest))
    assert cli.main(["bench", "--training", "--rounds", "3"]) == 0
    assert cli.main(["bench", "--training", other]) == 1
    assert calls == [{"rounds": 3}]
    said = capsys.readouterr().err
    assert f"{other.split('=', maxsplit=1)[0]}: got it with --training" in said
