"""`gradstep bench --offload`: what can be asked for, that all make the same steps, the picture."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest

from gradstep import bench, bench_offload, cli, machine, plots
from gradstep.bench_offload import Layer, Task

SMALL = ["--size", "3000", "--layers", "3", "--compute", "3ms", "--link", "1GB/s", "--rounds", "1"]


@pytest.fixture(autouse=True)
def _without_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which compiles for a minute, and sets up the whole process."""
    monkeypatch.setattr(bench, "present", lambda _: False)


# ---- what is asked for ----


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("25GB/s", 25e9), ("25 GB/s", 25e9), (" 1.5e3MB/s ", 1.5e9), ("1MB/s", 1e6),
        ("2TB/s", 2e12), ("1GiB/s", 2.0**30), ("3MiB/s", 3 * 2.0**20),
    ],
)  # fmt: skip
def test_rates(text: str, rate: float) -> None:
    assert bench_offload.parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "25", "GB/s", "25GB", "25Gb/s", "25gb/s", "1..2GB/s", "-1GB/s", "0GB/s",
             "0.9MB/s", "nanGB/s", "infGB/s", "1e999GB/s", "25GB/s 3"],
)  # fmt: skip
def test_no_rates(text: str) -> None:
    with pytest.raises(ValueError, match=r"^link: got .*, wanted a rate such as 25GB/s"):
        bench_offload.parse_rate(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("0.5 s", 0.5), ("60s", 60.0), ("30us", 3e-5), ("30 µs", 3e-5)],
)
def test_times(text: str, seconds: float) -> None:
    assert bench_offload.parse_seconds(text) == pytest.approx(seconds, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", "200", "ms", "0s", "61s", "1 min", "-1ms", "1e999s", "1.2.3s"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match=r"^compute: got .*, wanted a time such as 200ms"):
        bench_offload.parse_seconds(text)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--offload", "--link", "25"], "argument --link: got '25', wanted a rate such as 25GB/s"),
        (["--offload", "--compute", "0ms"], "argument --compute: got '0ms', wanted a time such as"),
        (["--offload", "--layers", "0"], "argument --layers: wanted a whole number of at least 1"),
        (["--offload", "--model", "gpt3"], "argument --model: invalid choice: 'gpt3'"),
    ],
)
def test_bad_usage(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["bench", *argv])
    assert left.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--link", "1GB/s"], "--link: got it without --offload"),
        (["--model", "gpt2", "--training"], "--model: got it without --offload"),
        (["--offload", "--training"], "--training: got it with --offload, wanted one of the two"),
        (["--offload", "--rule", "SGD"], "--rule: got it with --offload, wanted one of the two"),
        (["--offload", "--size", "2x1000"], "--size: got 2x1000 with --offload, wanted one N"),
        (["--offload", "--size", "10", "--layers", "11"],
         "--layers: got 11, wanted no more than the 10 parameters"),
        (["--offload", "--model", "gpt2", "--size", "10"], "--size: got it with --model gpt2"),
        (["--offload", "--model", "gpt2", "--layers", "2"], "--layers: got it with --model gpt2"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *argv]) == 1
    assert words in capsys.readouterr().err


def test_memory_is_looked_at_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(machine, "free_memory", lambda: 1 << 30)
    assert cli.main(["bench", "--offload", "--size", "64Mi"]) == 1
    said = capsys.readouterr().err
    assert "size: got 67,108,864 parameters, whose race takes about 4.1 GiB where 1.0 GiB" in said


def test_the_command_asks_for_gpt2(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Task, int]] = []
    monkeypatch.setattr(bench_offload, "run", lambda task, rounds: asked.append((task, rounds)))
    assert cli.main(["bench", "--offload", "--model", "gpt2", "--compute", "1s"]) == 0
    ((task, rounds),) = asked
    assert (task.count, task.compute, task.rate, rounds) == (bench_offload.GPT2_SIZE, 1.0, 25e9, 5)
    assert task.last == (50257, 768)


# ---- models ----


def test_equal_layers() -> None:
    layers = bench_offload.equal_layers()
    assert {layer.count for layer in layers} == {bench_offload.GPT2_SIZE // bench_offload.LAYERS}
    odd = bench_offload.equal_layers(10, 4)
    assert sum(layer.count for layer in odd) == 10
    assert {layer.count for layer in odd} == {2, 3}
    assert sum(layer.share for layer in odd) == pytest.approx(1)


def test_gpt2() -> None:
    layers = bench_offload.gpt2_layers()
    assert sum(layer.count for layer in layers) == bench_offload.GPT2_SIZE
    assert sum(len(layer.shapes) for layer in layers) == 148
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert layers[0].shapes[0] == bench_offload.GPT2_EMBEDDING


# ---- the race ----


@pytest.fixture
def task() -> Task:
    pytest.importorskip("torch")
    layers = (Layer(((40, 50), (50,)), 0.25), Layer((), 0.5), Layer(((700,),), 0.25))
    return Task("three layers", layers, compute=4e-3, rate=1e9)


@pytest.mark.parametrize("states", bench_offload.STATES)
@pytest.mark.parametrize("clips", [False, True])
def test_everyone_makes_the_same_steps(task: Task, states: str, clips: bool) -> None:
    """Where numbers are moved: ours' device has what the synchronous one's host has."""
    torch = pytest.importorskip("torch")
    gradients = bench_offload.random_gradients(task.layers)
    racers: list[Any] = [
        made(task, gradients, states, clips=clips, moves=True)
        for made in (bench_offload.Ours, bench_offload.Synchronous)
    ]
    before = [param.clone() for param in racers[0].params()]
    bench_offload.race(racers, 1)
    ours, others = (racer.params() for racer in racers)
    for start, one, other in zip(before, ours, others, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, start)


def test_an_iteration(task: Task) -> None:
    """It takes as long as device and link do, and all that went on is noted."""
    gradients = bench_offload.random_gradients(task.layers)
    for made in (bench_offload.Ours, bench_offload.Synchronous):
        one = made(task, gradients).iterate()
        assert one.begin < one.middle < one.end
        assert one.middle - one.begin >= task.compute
        assert one.total("forward") == pytest.approx(task.compute / 3)
        assert one.total("backward") == pytest.approx(task.compute * 2 / 3)
        assert one.total("down") == one.total("up") == pytest.approx(2 * task.count / task.rate)
        assert 0 < one.total("step") < one.seconds
        for what, begin, end in one.spans:
            assert one.begin <= begin <= end <= one.end, what
        if made is bench_offload.Synchronous:
            assert one.rest >= one.total("down") + one.total("step") + one.total("up")


def test_gradients_are_handed_over_without_a_copy(task: Task) -> None:
    torch = pytest.importorskip("torch")
    gradients = bench_offload.random_gradients(task.layers)
    model = bench_offload.make_model(task, bench_offload.Device(), gradients)
    model(torch.ones(1, requires_grad=True)).backward()
    made = [gradient for own in gradients for gradient in own]
    for param, gradient in zip(model.parameters(), made, strict=True):
        assert param.grad.data_ptr() == gradient.data_ptr()
        assert gradient.float().std() == pytest.approx(1e-3, rel=0.2)


def test_a_device_that_is_told_late_is_not_late() -> None:
    device = bench_offload.Device()
    begin = device.start()
    time.sleep(2e-3)
    device.compute("forward", 1e-3)
    device.compute("backward", 3e-3)
    assert device.spans == [
        ("forward", begin, pytest.approx(begin + 1e-3)),
        ("backward", pytest.approx(begin + 1e-3), pytest.approx(begin + 4e-3)),
    ]
    assert time.perf_counter() >= begin + 4e-3


def test_the_host_has_numbers_that_are_no_zeros() -> None:
    """Pages that nobody wrote to would all be one, which a cache holds."""
    torch = pytest.importorskip("torch")
    memory = bench_offload.make_link(math.inf, moves=False).empty((1 << 20) + 5, torch.float32)
    assert memory.dtype == torch.float32
    assert len(memory) == (1 << 20) + 5
    assert (memory != 0).float().mean() > 0.99


def test_the_table_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    path = tmp_path / "timeline.svg"
    assert cli.main(["bench", "--offload", *SMALL, "--plot", str(path)]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert "3 equal layers: 3,000 parameters; compute 3 ms, link 1 GB/s each way" in printed
    found = [line.split()[:3] for line in lines if " ms " in line and "%" in line]
    assert found == [
        [name, states, clips]
        for states in bench_offload.STATES
        for name in (bench.OURS, bench_offload.SYNCHRONOUS)
        for clips in ("no", "yes")
    ]
    assert "DeepSpeed's layout: deepspeed is not installed" in printed
    assert "a copy takes neither a core" in printed
    assert lines[-1] == str(path)
    assert path.read_text(encoding="utf-8").startswith("<?xml")


def test_the_last_tensor_by_itself(task: Task) -> None:
    said: list[str] = []
    last = Task(task.name, task.layers, task.compute, task.rate, (40, 50))
    timelines = bench_offload.run(last, rounds=1, say=said.append)
    rows = [line for line in "\n".join(said).splitlines() if line.startswith(bench_offload.LAST)]
    assert [row.removeprefix(bench_offload.LAST).split()[0] for row in rows] == ["float32", "q8"]
    assert list(timelines) == [bench.OURS, bench_offload.SYNCHRONOUS]
    for spans in timelines.values():
        assert {what for what, _, _ in spans} == {"forward", "backward", "down", "step", "up"}
        assert all(0 <= begin <= end < 1e4 for _, begin, end in spans)


@pytest.mark.parametrize("panels", [{}, {"ours": []}])
def test_no_picture_of_nothing(panels: dict[str, list[Any]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^panels: got none, or an empty one"):
        plots.timeline(panels, tmp_path / "x.png", title="t")


def test_a_picture_without_a_backward_pass(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "x.png"
    assert plots.timeline({"ours": [("step", 0.0, 1.0)]}, path, title="t") == path
    assert path.read_bytes()[:4] == b"\x89PNG"
