"""Logs that grow, and pipes: read on from where they were, and judged as if read whole."""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from gradstep import cli
from gradstep.tuning import Judged, Log, following, judge, piping, read_logs, watching
from gradstep.tuning.finding import Refused
from gradstep.tuning.formats import files
from gradstep.tuning.lines import Lines

COUNT = 6000
LOSSES = [
    round(3 * math.exp(-k / 900) + 0.5 + (k * 7919 % 97) / 1000, 4) for k in range(1, COUNT + 1)
]


def report(t: int, loss: float) -> str:
    norms = {"update_norm": 0.01, "param_norm": 3.0, "grad_norm": 1.0}
    return json.dumps(
        {"t": t, "loss": loss, "lr": 0.1, **norms, "cosine": (t * 31 % 17) / 17 - 0.4}
    )


def lines(line: Callable[[int, float], str], begin: str = "", end: str = "\n") -> str:
    return begin + "".join(line(k, loss) + end for k, loss in enumerate(LOSSES, 1))


GROWING = {
    "text": lines(lambda k, x: f"step {k}: loss {x}, lr 0.1"),
    "tqdm": lines(
        lambda k, x: f"{k % 100}%|███  | {k}/{COUNT} [00:01<00:30,  3.1it/s, loss={x}]", end="\r"
    ),
    "CSV": lines(lambda k, x: f"{k},{x},0.1,{x + 1 if k % 500 == 0 else ''}",
                 "step,loss,lr,val_loss\r\n", "\r\n"),
    "quoted, with semicolons": lines(lambda k, x: f'"{k}";"{x}"'.replace(".", ","), "step;loss\n"),
    "W&B, two runs": lines(lambda k, x: f"{k},{x},{x + 1}", "Step,a - loss,b - loss\n"),
    "MLflow, long": lines(lambda k, x: f"r,loss,{x},{k}", "run_id,key,value,step\n"),
    "JSON lines": lines(lambda k, x: json.dumps({"step": k, "loss": x} | (
        {"eval_loss": x + 1} if k % 3000 == 0 else {}))),
    "text, a better loss late": lines(
        lambda k, x: f"step {k}: total_loss {x}{' -' * 40}{f' loss {x - 1}' if k > 1200 else ''}"
    ),
    "JSON lines, a better loss late": lines(lambda k, x: json.dumps({
        "step": k, "total_loss": x, "note": "-" * 60} | ({"loss": x - 1} if k > 1200 else {}))),
    "JSON lines among others": lines(lambda k, x: json.dumps({"step": k, "loss": x}), '{"a": 1}\n')
    + "Saved.\n",
}  # fmt: skip


def acting(*acts: Callable[[], object]) -> Callable[[float], bool]:
    """What waits: does one act each time, and says that the last was the last."""
    left = list(acts)

    def wait(_: float) -> bool:
        left.pop(0)()
        return not left

    return wait


def append(path: Path, data: bytes | str) -> Callable[[], object]:
    def act() -> None:
        with path.open("ab") as file:
            file.write(data if isinstance(data, bytes) else data.encode())

    return act


def alike(got: Log, wanted: Log) -> None:
    for name in ("steps", "losses", "rates", "grad_norms", "evaluation_steps", "evaluations"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
    assert (got.kind, got.columns, got.notes) == (wanted.kind, wanted.columns, wanted.notes)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("kind", GROWING)
def test_reading_on_is_reading_whole(
    kind: str, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the cuts are, within a line or a character."""
    path, data = tmp_path / "run", GROWING[kind].encode(encoding)
    path.write_bytes(data[:20])
    cuts = [20, 300, 9001, 100_003, 100_150, 120_001, len(data)]
    parts = [append(path, data[a:b]) for a, b in pairwise(cuts)]
    read = []
    monkeypatch.setattr(files, "read_file", lambda *given: read.append(path.stat().st_size) or
                        real(*given))  # fmt: skip
    real = read_file
    for found in following.follow(path, {}, wait=acting(*parts)):
        assert isinstance(found, tuple)
        try:
            wanted = read_logs(path)
        except Refused:
            continue
        read.pop()
        assert [one.log.name for one in found] == [log.name for log in wanted]
        for one, log in zip(found, wanted, strict=True):
            alike(one.log, log)
    assert sum(len(one.log.losses) for one in found) in (COUNT, 2 * COUNT, COUNT - 1200)
    assert max(read) < files.BYTES_OF_HEAD  # what was longer was read on in


read_file = files.read_file


def test_a_last_line_that_only_lacks_its_end_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for text in (GROWING["JSON lines"], lines(report)):
        path.write_text(text[:-1])
        more = text.splitlines()[0].replace(": 1,", f": {COUNT + 1},")
        act = (append(path, "\n" + more[:9]), append(path, more[9:]), append(path, "\n"))
        counts = []
        for found in following.follow(path, {}, wait=acting(*act)):
            log = found if isinstance(found, watching.Watched) else found[0].log
            counts.append(len(log.losses))
        assert counts == [COUNT, COUNT, COUNT + 1, COUNT + 1]


def test_follow_waits_for_what_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    acts = iter(["", "training begins\n", "step 1 loss 3\n"])

    def wait(_: float) -> None:
        with path.open("a") as file:
            file.write(next(acts))

    seen = []
    for judged in following.follow(path, {}, wait=wait):
        seen.append([one.log.losses.tolist() for one in judged])
        if judged:
            break
    assert seen == [[], [[3]]]


def test_follow_sees_what_is_appended_replaced_and_shortened(tmp_path: Path) -> None:
    path = tmp_path / "run.log"

    def write(text: str, mode: str = "a") -> Callable[[], None]:
        def act() -> None:
            with path.open(mode) as file:
                file.write(text)

        return act

    def replace() -> None:
        (tmp_path / "new").write_text("step 1 loss 7\n")
        (tmp_path / "new").replace(path)

    acts = iter(
        [
            write("step 2 loss 2\n"),
            lambda: None,
            write("step 3 loss 1\nstep 4 lo"),
            write("step 1 loss 9\n", "w"),
            replace,
            path.unlink,
            write("step 1 loss 5\n"),
        ]
    )
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        act = next(acts, None)
        if act is None:
            raise KeyboardInterrupt
        act()

    path.write_text("step 1 loss 3\n")
    seen: list[list[float]] = []
    runs = following.follow(path, {}, wait=wait)
    with pytest.raises(KeyboardInterrupt):
        seen.extend(one.log.losses.tolist() for [one] in runs)
    assert seen == [[3], [3, 2], [3, 2, 1], [9], [7], [5]]
    assert min(waited) >= following.LEAST_WAIT


def test_what_must_be_read_anew_takes_a_hundredth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first look, which may be followed by one that only reads on."""
    path = tmp_path / "trainer_state.json"
    clock = iter(range(0, 1000, 7))
    monkeypatch.setattr(following.time, "thread_time", lambda: next(clock))
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) == 3

    path.write_text(json.dumps({"log_history": [{"step": 1, "loss": 3.0}]}, indent=1))
    for _ in following.follow(path, {}, wait=wait):
        pass
    assert waited == [1, 700, 700]


# ---- logs of our reports ----


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1 << 20])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_lines_end_alike_wherever_a_block_ends(tmp_path: Path, block: int, end: str) -> None:
    (tmp_path / "log").write_text(f"é{end}{end}b{end}rest", encoding="utf-8", newline="")
    with contextlib.closing(Lines(tmp_path / "log", block=block)) as text:
        assert [line for some in text for line in some] == ["é", "", "b"]
        assert (text.before, text.rest) == (3, "rest")


def test_a_folder_that_goes_while_it_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.txt").write_text(GROWING["text"])
    whole, looks = Path.rglob, iter([True, False])

    def walk(path: Path, pattern: str) -> Iterator[Path]:
        yield from whole(path, pattern)
        if next(looks, False):
            raise FileNotFoundError("checkpoint-100")

    monkeypatch.setattr(Path, "rglob", walk)
    waits = iter([False, True])
    found = list(following.follow(tmp_path, {}, wait=lambda _: next(waits)))
    assert len(found[-1]) == 1


def test_own_reports_are_judged_by_the_monitor(tmp_path: Path) -> None:
    """As without --follow, whatever happens to the file meanwhile."""
    path, text = tmp_path / "log.jsonl", lines(report)

    def rotate() -> None:
        path.rename(tmp_path / "log.jsonl.1")
        path.write_text(lines(lambda t, x: report(9_000_000 + t, x + 1)))

    acts = [
        append(path, text[100:30_000]),
        append(path, text[30_000:900_000]),
        lambda: path.write_text(text[:40_000]),  # shorter
        append(path, text[40_000:50_000]),
        lambda: path.write_text(lines(lambda t, x: report(2 * t, x + 1))),  # longer, and another
        rotate,
        append(path, report(10**7, 1.0) + "\n"),
        path.unlink,
        lambda: path.write_text(text),
    ]
    path.write_text(text[:100])
    counts = []
    for found in following.follow(path, {}, wait=acting(*acts)):
        if found == ():
            continue
        assert isinstance(found, watching.Watched)
        wanted = watching.watch(path)
        for name in ("verdict", "history", "spikes", "steps", "losses", "unfinished"):
            assert getattr(found, name) == getattr(wanted, name), name
        counts.append(len(found.steps))
    assert len(counts) == len(acts) - 1  # nothing while it was away, and at first
    assert counts[-1] == COUNT
    assert not isinstance(found, tuple)
    assert found.verdict.numbers.keys() & {"cosine", "alignment"}  # no loss says that


def test_own_reports_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, text = tmp_path / "log.jsonl", lines(report)
    path.write_text(text[:1000])
    asked: list[int] = []
    real = watching._columns
    monkeypatch.setattr(
        watching, "_columns", lambda block: asked.append(len(block.lines)) or real(block)
    )
    cuts = [*range(1000, len(text), 50_000), len(text)]
    acts = [append(path, text[a:b]) for a, b in pairwise(cuts)]
    *_, found = following.follow(path, {}, wait=acting(*acts))
    assert isinstance(found, watching.Watched)
    assert len(found.steps) == sum(asked) == COUNT


def test_an_own_report_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f"{report(1, 2.0)}\n")
    runs = following.follow(path, {}, name="it", wait=acting(append(path, '{"t": 2}\n'), time.time))
    with pytest.raises(Refused, match=r"it, line 2: got no 'loss'"):
        list(runs)


def test_a_name_that_is_asked_for_is_judged_by_the_loss(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(lines(report))
    [found] = following.follow(path, {"loss": "loss"}, wait=acting(time.time))
    assert isinstance(found, tuple)
    assert isinstance(found[0], Judged)


# ---- pipes ----

PIPED = {
    "text": GROWING["text"],
    "CSV": GROWING["CSV"],
    "JSON lines": GROWING["JSON lines"],
    "reports": lines(report),
    "a Trainer's state": json.dumps(
        {"log_history": [{"step": k, "loss": x} for k, x in enumerate(LOSSES, 1)]}, indent=1
    ),
}


KINDS = ("text", "JSON lines", "reports")


@contextlib.contextmanager
def piping_into(*arguments: str) -> Iterator[tuple[IO[str], IO[str]]]:
    """Run the command: what is its input, and what is its output."""
    command = [sys.executable, "-m", "gradstep", "watch", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdin, process.stdout
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        *(("-", kind) for kind in PIPED),
        *((how, kind) for how in ("/dev/stdin", "a FIFO", "- --follow") for kind in KINDS),
    ],
)
def test_a_pipe_is_read_as_a_file_is(
    how: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    path.write_text(PIPED[kind], newline="")
    argument = how.split()
    if how == "a FIFO":
        argument = [str(tmp_path / "fifo")]
        os.mkfifo(argument[0])
    with piping_into(*argument) as (pipe, out):
        with Path(argument[0]).open("w") if how == "a FIFO" else pipe as end:
            end.write(PIPED[kind])
        text = out.read()
    assert cli.main(["watch", str(path)]) == 0
    report = text if "--follow" not in how else text[text.index("\nverdict") + 1 :]
    assert report == capsys.readouterr().out


def test_a_pipe_is_followed_as_its_lines_come() -> None:
    with piping_into("-", "--follow") as (pipe, out):
        shown = iter(out.readline, "")
        pipe.write("begins\nstep 1 loss 3.0\n")
        pipe.flush()
        assert any("step 1  loss 3" in line for line in shown)
        pipe.write("step 2 loss 2.0\n")
        pipe.flush()
        assert any("step 2  loss 2" in line for line in shown)
        pipe.close()
        assert any(line.startswith("verdict") for line in shown)


class Fed:
    """A FIFO that something is written into."""

    def __init__(self, path: Path, parts: list[bytes]) -> None:
        os.mkfifo(path)
        self.written = 0
        self.thread = threading.Thread(target=self._write, args=(path, parts), daemon=True)
        self.thread.start()

    def _write(self, path: Path, parts: list[bytes]) -> None:
        with path.open("wb", buffering=0) as file:
            for part in parts:
                self.written += file.write(part)


def test_a_pipe_in_python(tmp_path: Path) -> None:
    Fed(tmp_path / "fifo", [GROWING["text"].encode()])
    [log] = read_logs(tmp_path / "fifo")
    assert (log.name, log.losses.tolist()) == (str(tmp_path / "fifo"), LOSSES)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "fifo: got an empty file"),
        (b"hello\n" * 99, "fifo: got text without a loss"),
        (bytes(range(256)) * 9, "fifo: got a binary file"),
        (struct.pack("<Q", 24) + bytes(13) + b"\x1a\rbrain.Event:2" + bytes(4),
         "fifo: got TensorBoard's events, but not in a file"),
        (f"{report(1, 1.0)}\n{{}}\n".encode(), "fifo, line 2: got no 'loss'"),
        (b"step 1 loss 2\n" * 100_000, "fifo: got more than 1,000,000 bytes, wanted so long"),
    ],
    ids=["empty", "no loss", "binary", "events", "a bad report", "too long"],
)  # fmt: skip
def test_pipes_that_are_refused(
    data: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whoever writes is not stopped: all is read."""
    monkeypatch.setattr(piping, "MOST", 10**6)
    fed = Fed(tmp_path / "fifo", [data])
    assert cli.main(["watch", str(tmp_path / "fifo")]) == 1
    assert words in capsys.readouterr().err
    fed.thread.join(30)
    assert fed.written == len(data)


# No file may grow beyond a limit, as on a full disk.
LIMITED = """
import resource, sys
from gradstep import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(cli.main(["watch", "-", "--follow"]))
"""


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (f"{report(1, 1.0)}\n{{}}\n".encode(), "-, line 2: got no 'loss'"),
        (b"step 1: loss 2\n" * 10_000, "File too large"),
    ],
    ids=["refused", "the disk is full"],
)
def test_a_pipe_that_fails_while_it_is_followed_is_read_to_its_end(
    begin: bytes, words: str
) -> None:
    """Whoever writes into it is stopped neither by that nor by the end of the command."""
    with subprocess.Popen(
        [sys.executable, "-c", LIMITED], stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(begin)
        told = process.stderr.readline().decode()
        with pytest.raises(subprocess.TimeoutExpired):  # it stays
            process.wait(1)
        for _ in range(40):
            process.stdin.write(b"more" * 10_000)
        process.stdin.close()
        assert words in told
        assert words in process.stderr.read().decode()
    assert process.returncode == 1


def test_a_long_pipe_that_is_followed_is_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(piping, "MOST", 10**5)
    data = GROWING["text"].encode()
    fed = Fed(tmp_path / "fifo", [data[:99_999], data[99_999:]])
    assert cli.main(["watch", str(tmp_path / "fifo"), "--follow"]) == 0
    fed.thread.join(30)
    assert fed.written == len(data)
    assert "fifo: the first 100,000 bytes were read, and no more" in capsys.readouterr().out


def test_a_terminal_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    _, terminal = os.openpty()
    saved = os.dup(0)
    try:
        os.dup2(terminal, 0)
        assert cli.main(["watch", "-"]) == 1
    finally:
        os.dup2(saved, 0)
    assert "-: got a device" in capsys.readouterr().err


def test_the_page_of_reports_from_a_pipe(tmp_path: Path) -> None:
    Fed(tmp_path / "fifo", [lines(report).encode()])
    page = tmp_path / "page.html"
    assert cli.main(["watch", str(tmp_path / "fifo"), "--html", str(page)]) == 0
    assert "fifo" in page.read_text(encoding="utf-8")


# ---- what is shown ----


def falling(count: int) -> Log:
    k, unknown = np.arange(1.0, count + 1), np.full(count, np.nan)
    return Log("run", "made up", {"loss": "loss"}, k, 3 - k / 400, unknown, unknown, total=400)


def test_time_left_and_the_line() -> None:
    now = iter([0.0, 10.0])
    pace = following.Pace(clock=lambda: next(now))
    at = [judge(falling(count)) for count in (100, 200)]
    assert pace.left(at[0].log) is None
    assert pace.left(at[1].log) == pytest.approx(20)
    line = following.status(at[1], 20.0)
    for word in ("▁", "step 200/400", "loss 2.5", "0:00:20 left"):
        assert word in line
    assert following.bars([1.0, math.inf, 2.0]) == "▁ █"
