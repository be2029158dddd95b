"""benchmarks/offload.py prints its tables, and sees a wrong step."""

import math

import pytest

pytest.importorskip("torch")

import torch

import offload
from gradstep import bench, bench_offload
from gradstep.torch import SimulatedLink


@pytest.fixture(autouse=True)
def _without_deepspeed(monkeypatch):
    """Which compiles for a minute, and sets up the whole process."""
    monkeypatch.setattr(bench, "present", lambda _: False)


def test_tables(capsys, monkeypatch):
    monkeypatch.setattr(offload, "MODULES", 10)
    monkeypatch.setattr(offload, "grown", offload.grow)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)  # by itself below
    offload.main(["--size", "5000", "--rounds", "1"])
    printed = capsys.readouterr().out
    for name in (*offload.WAYS, *offload.MAKERS, "split, float32", "split, q8"):
        assert name in printed
    for name in ("48 equal layers: 5,000 parameters", "| synchronous | q8 | yes |", "15 % of"):
        assert name in printed
    for name in ("Python's share", "with offload()", "| float32 | 14.0", "| q8 | 8."):
        assert name in printed
    for name in ("longer by", "| 7B | q8 | 112 GB | 14 GB | 56 GB | 1.72 s | 0.56 s |"):
        assert name in printed


def test_the_formula():
    assert offload.iteration(3.0, 1.0, 1.5, clips=False) == 3.0  # all behind the backward pass
    assert offload.iteration(3.0, 1.0, 2.5, clips=False) == 3.5
    assert offload.iteration(3.0, 2.25, 1.5, clips=False) == 3.25
    assert offload.iteration(3.0, 1.0, 1.5, clips=True) == 4.5


def test_a_wrong_step_is_seen(monkeypatch):
    monkeypatch.setattr(offload.Ours, "give", lambda self, g: setattr(self.copy, "grad", -g))
    with pytest.raises(AssertionError, match="gradstep, split, float32 states: differs by"):
        offload.check()


def test_gpt2_is_there_where_the_size_is_its():
    equal, gpt2 = offload.tasks(offload.GPT2_SIZE)
    assert equal.count == gpt2.count == offload.GPT2_SIZE
    assert gpt2.last == gpt2.layers[0].shapes[0]
    assert [task.last for task in offload.tasks(5000)] == [None]


def test_what_is_asked_of_ours():
    """Each line has what remains, and its bound from the synchronous iteration."""

    def result(name, states, clips, rest, step):
        spans = [("step", 0.0, step)]
        one = bench_offload.Iteration(0.0, 1.0, 1.0 + rest, spans)
        return bench_offload.Result(name, states, clips, [one])

    results = [
        result(name, states, clips, rest, 0.5)
        for name, rest in (
            (bench.OURS, 0.1),
            (bench_offload.SYNCHRONOUS, 1.0),
            (bench_offload.LAST, 0.2),
        )
        for states in bench_offload.STATES
        for clips in (False, True)
    ]
    for last, bound in ((None, 0.15), ((5,), 0.22)):
        task = bench_offload.Task("x", (), rate=1e9, last=last)
        lines = list(offload.judged(task, results))
        assert [line[0] for line in lines] == ["float32", "float32, clipping", "q8", "q8, clipping"]
        assert [line[1] for line in lines] == pytest.approx([0.1] * 4)
        clipped = 1.1 * 0.5 + 2 * offload.BUCKET / 1e9
        assert [line[3] for line in lines] == pytest.approx([bound, clipped] * 2)


def test_the_part_for_an_accelerator(capsys, monkeypatch):
    """On the CPU, which stands for one by a simulated link."""
    for name, value in {"WIDTH": 32, "LENGTH": 4, "BATCH": 2, "CHECKED": 2}.items():
        monkeypatch.setattr(offload, name, value)
    cpu = torch.device("cpu")
    offload.show_accelerator(cpu, 2 * offload.WIDTH, 2, SimulatedLink())
    printed = capsys.readouterr().out
    for name in ("float32 states", "q8 states", "synchronous", offload.COMPUTE_ALONE):
        assert f"{name} |" in printed
    assert offload.transformer(40_000, cpu)(torch.zeros(1, 2, 32).bfloat16()).shape == (1, 2, 32)


def test_a_wrong_training_is_seen(monkeypatch):
    monkeypatch.setattr(offload, "WIDTH", 32)
    inputs = torch.randn(2, 4, 32).bfloat16()
    start = offload.transformer(1, torch.device("cpu"))
    monkeypatch.setattr(offload, "steppers", lambda _: {"none": offload.nothing})
    with pytest.raises(AssertionError, match=r"offload: differs by 1\.000 of what a training"):
        offload.check_accelerator(start, inputs, None)


def test_memory_of_a_process():
    """Of a model so large that what else a process needs does not count much."""
    growth, said = offload.grown("q8", 8_000_000)
    assert said == pytest.approx(8.03 * 8e6, rel=0.01)
    assert 0.95 * said < growth < 1.5 * said


def test_sections(capsys):
    with pytest.raises(SystemExit):
        offload.main(["lay"])
    said = " ".join(capsys.readouterr().err.split())
    assert "got 'lay', wanted some of calls, layout, overlap, share, memory" in said
    assert math.isfinite(offload.resident())
