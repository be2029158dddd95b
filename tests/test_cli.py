"""The command line: help, exit codes, what is printed, and packages that are missing."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import gradstep as gs
from gradstep import bench, cli, demo, machine, plots, schedules
from gradstep.extras import need
from gradstep.tables import table
from processes import run


def usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int | str | None, str, str]:
    """Exit status, stdout and stderr of a call that argparse ends."""
    with pytest.raises(SystemExit) as left:
        cli.main(argv)
    return left.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--help"], ["demo", "info", "bench", "--version"]),
        (["demo", "--help"], ["--out", "--seed", "--epochs", "default", "gradstep-demo"]),
        (["info", "--help"], ["caches"]),
        (["bench", "--help"], ["--rule", "--size", "AdamW", "torch", "optax", "GB/s"]),
    ],
)
def test_help(argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = usage(argv, capsys)
    assert (code, err) == (0, "")
    for word in words:
        assert word in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(["--version"], capsys) == (0, f"gradstep {gs.__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["demo", "--epochs", "0"], "wanted a whole number of at least 1, got '0'"),
        (["demo", "--epochs", "two"], "got 'two'"),
        (["demo", "--seed", "-1"], "wanted a whole number of at least 0, got '-1'"),
        (["demo", "--nope"], "--nope"),
        (["info", "more"], "more"),
        (["bench", "--rule", "Nadam"], "Nadam"),
        (["bench", "--size", "16M"], "wanted N or COUNTxN"),
        (["bench", "--rounds", "0"], "--rounds"),
        (["bench", "--rounds", "10001"], "wanted at most 10,000, got '10001'"),
        (["bench", "--size", "99999999999x1"], "at most 1,000,000 arrays of 1,099,511,627,776"),
        (["bench", "--size", "9" * 400], "(400 characters)"),
        (["bench", "--size", "9" * 5000], "(5000 characters)"),
        (["demo", "--epochs", "10001"], "wanted at most 10,000, got '10001'"),
        (["demo", "--seed", "9" * 400], "(400 characters)"),
        (["demo", "--out", ""], "wanted the path of a folder, got nothing"),
        (["find", "x.py:f", "--points", "10001"], "wanted at most 10,000"),
        (["find", "x.py:f", "--sweeps", "9" * 400], "wanted at most 1,000, got"),
        (["find", "x.py:f", "--low", "9" * 5000], "wanted a finite number above 0, got '99"),
        (["plot", "constant(1)", "--total", "100000001"], "wanted at most 100,000,000"),
        (["plot", "constant(1)", "--total", "1" + "0" * 400], "(401 characters)"),
        (["plot", "constant(1)", "--total", "1" + "0" * 5000], "(5001 characters)"),
        (["plot", "constant(" + "9" * 400 + "/3)"], "cannot be read: int"),
        (["plot", "constant(" + "9" * 5000 + ")"], "which cannot be read"),
        (["plot", "linear(0, 1, total=" + "9" * 400 + ")"], "total: got 999"),
        (["plot", "+".join(["constant(1)"] * 9999)], "which is nested too deeply"),
        (["plot", "(" * 9999 + ")" * 9999], "which cannot be read"),
        (["plot", '{"schedule":"shift","by":1,"of":' * 9999], "which is nested too deeply"),
        (["plot", '{"schedule": "scale", "factor": 2}'], "of: got nothing, wanted the schedule"),
        (["plot", '{"schedule": "warmup", "of": 3, "updates": 2}'], "of: got 3 (int), wanted the"),
        (["plot", '{"schedule": "add", "schedules": []}'], "schedules: got 0, wanted the two"),
        (["plot", "table('x' * 99999999999)"], "which no schedule is made of"),
        (["plot", "table([1] * 99999999999)"], "which no schedule is made of"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else None,
)
def test_bad_usage(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = usage(argv, capsys)
    assert (code, out) == (2, "")
    assert message in err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    assert rows["target"].strip() == gs.config()["target"]
    assert rows["threads"].strip() == str(gs.get_num_threads())
    for key in ("targets", "team", "version", "compiler", "CPU", "system", "python", "numpy"):
        assert rows[key].strip()
    assert any("cache" in key for key in rows)
    # aligned: all values start in one column
    assert len({len(line) - len(line.split("  ", 1)[1].lstrip()) for line in out.splitlines()}) == 1


def test_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "present", lambda _: False)  # rivals are test_bench's
    argv = ["bench", "--rule", "SGD", "--rule", "Adam", "--size", "2x100", "--rounds", "1"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "SGD, float32, 2 arrays of 100 parameters, 12 bytes moved for each" in out
    assert "Adam, float32" in out
    assert "ns/parameter" in out


def test_demo_passes_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, dict[str, int]]] = []
    monkeypatch.setattr(demo, "run", lambda out, **rest: calls.append((out, rest)))
    assert cli.main(["demo", "--out", "here", "--epochs", "1", "--seed", "3"]) == 0
    assert cli.main(["demo"]) == 0
    assert calls == [
        (Path("here"), {"seed": 3, "epochs": 1}),
        (Path("gradstep-demo"), {"seed": 0, "epochs": demo.EPOCHS}),
    ]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("matplotlib", 'matplotlib is needed for plots: pip install "gradstep[demo]"'),
        ("tqdm", 'tqdm is needed for the demo\'s progress bar: pip install "gradstep[demo]"'),
        ("sklearn", 'scikit-learn is needed for the demo\'s data: pip install "gradstep[demo]"'),
    ],
)
def test_a_missing_package_names_its_extra(
    module: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for loaded in [*sys.modules]:
        if loaded.startswith(f"{module}."):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"gradstep: {message}\n"


def test_a_folder_that_cannot_be_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["demo", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("gradstep: ")


def test_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "describe", interrupted)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "gradstep: interrupted\n"


def test_need_returns_the_module() -> None:
    assert need("sys", "testing", "test") is sys
    with pytest.raises(
        ImportError, match=r'^no_such is needed for x: pip install "gradstep\[y\]"$'
    ):
        need("no_such.part", "x", "y")


def test_importing_gradstep_imports_nothing_optional() -> None:
    code = (
        "import sys, gradstep\n"
        "print([m for m in ('matplotlib', 'sklearn', 'tqdm', 'torch', 'jax', 'argparse') "
        "if m in sys.modules])"
    )
    assert run(code, options=()).strip() == "[]"


def test_caches_are_read(tmp_path: Path) -> None:
    shown = [
        ("1", "Data", "48K", "0"), ("1", "Instruction", "32K", "0"),
        ("2", "Unified", "1024K", "0,8"), ("3", "Unified", "32M", "0-3,8-11"),
    ]  # fmt: skip
    for i, values in enumerate(shown):
        index = tmp_path / "cpu0" / "cache" / f"index{i}"
        index.mkdir(parents=True)
        for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
            (index / name).write_text(value + "\n")
    assert machine.caches(tmp_path) == {
        "L1": "48 KiB", "L2": "1024 KiB, shared by 2", "L3": "32 MiB, shared by 8",
    }  # fmt: skip
    assert machine.caches(tmp_path / "nowhere") == {}


def test_unknown_caches_and_processor_are_called_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "caches", dict)
    monkeypatch.setattr(machine.platform, "processor", str)
    monkeypatch.setattr(machine.platform, "machine", str)
    assert machine.describe()["caches"] == "unknown"
    assert machine.cpu_name(tmp_path / "nowhere") == "unknown"
    assert "caches unknown" in machine.one_line()


def test_tables_align() -> None:
    rows = [("a", "1"), ("bbb", "22")]
    assert table(rows) == "a    1\nbbb  22"
    assert table(rows, ("x", "number"), right="<>") == (
        "x    number\n───  ──────\na         1\nbbb      22"
    )


@pytest.mark.parametrize("command", ["plot", "find", "watch"])
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("picture", "got 'picture', wanted one that ends with .png, .svg"),
        ("picture.xyz", "got 'picture.xyz', wanted one that ends with .png"),
        ("", "got '.', wanted one that ends with .png"),
        (".", "got '.', wanted one that ends with .png"),
        ("picture.png.", "got 'picture.png.', wanted one that ends with .png"),
        ("folder", "got 'folder', wanted one that ends with .png"),
        ("folder.png", "got the folder 'folder.png', wanted a file"),
    ],
)
def test_a_picture_is_written_under_the_name_that_is_printed(
    command: str,
    out: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Or refused before anything else is done."""
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "folder.png"):
        Path(name).mkdir()
    what = {"plot": "constant(1)", "find": "none.py:f", "watch": "none.jsonl"}[command]
    code, printed, err = usage([command, what, "--out", out], capsys)
    assert (code, printed) == (2, "")
    assert f"argument --out: {message}" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "folder.png"]


@pytest.mark.parametrize("ending", [*plots.FORMATS, ".PNG"])
def test_pictures_in_every_format(
    ending: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "new" / f"picture{ending}"
    assert cli.main(["plot", "cosine(1, 100)", "--total", "100", "--out", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("linear(0, 1, 10, past_end='raise')", "t: got 17, wanted 0 to 10"),
        ("constant(1e200) * constant(1e200)", "got values up to inf, wanted finite ones"),
    ],
)
def test_a_schedule_that_cannot_be_shown(
    spec: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plot", spec]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gradstep: ")
    assert message in captured.err


TABLED = ["cosine(0.1, total=40000).warmup(300)", "geometric(1, 1e-9, 40000) * 0.3"]


@pytest.mark.parametrize("total", [1, 40_000])
@pytest.mark.parametrize("to", ["a file", "a file that is there", "stdout"])
def test_a_table_of_values(
    to: str, total: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "values.csv"
    if to == "a file that is there":
        path.write_text("what was there before\n" * 10)
    shown, drawn = "-" if to == "stdout" else str(path), tmp_path / "picture.svg"
    argv = ["plot", *TABLED, "--total", str(total), "--csv", shown, "--out", str(drawn)]
    assert cli.main(argv) == 0
    printed = capsys.readouterr().out
    if to != "stdout":
        assert "updates of schedules.cosine" in printed
        assert printed.splitlines()[-2:] == [shown, str(drawn)]
    assert drawn.exists()
    header, *rows = csv.reader(io.StringIO(printed if to == "stdout" else path.read_text()))
    made = [schedules.parse(text) for text in TABLED]
    assert header == ["k", *map(repr, made)]
    assert [int(row[0]) for row in rows] == [*range(total)]
    for column, one in enumerate(made, 1):
        assert [float(row[column]) for row in rows] == one.range(total).tolist()


@pytest.mark.parametrize("before", [None, "kept\n"])
def test_a_table_that_is_refused_leaves_no_trace(
    before: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "values.csv"
    if before:
        path.write_text(before)
    specs = ["constant(1)", "linear(0, 1, 10, past_end='raise')"]
    assert cli.main(["plot", *specs, "--csv", str(path)]) == 1
    assert "t: got 17, wanted 0 to 10" in capsys.readouterr().err
    assert (path.read_text() if path.exists() else None) == before


@pytest.mark.parametrize("path", [".", "", "none/values.csv"])
def test_a_table_that_cannot_be_written(
    path: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(schedules, "sparkline", lambda *_: pytest.fail("it was computed"))
    assert cli.main(["plot", "constant(1)", "--csv", path]) == 1
    printed, err = capsys.readouterr()
    assert printed == ""
    assert err.startswith(
        f"gradstep: --csv: got {path or '.'!r}, wanted a file that can be written"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there is no /dev/null")
def test_a_table_for_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plot", "constant(1)", "--csv", "/dev/null"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "/dev/null"


@pytest.mark.parametrize("free", [10**6, 10**9])
def test_a_race_that_needs_more_memory_than_there_is(
    free: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "present", lambda _: False)
    monkeypatch.setattr(machine, "free_memory", lambda: free)
    monkeypatch.setattr(bench, "problem", lambda _: pytest.fail("it was tried"))
    assert cli.main(["bench", "--size", "64Mi"]) == 1
    err = capsys.readouterr().err
    assert "gradstep: size: got 67,108,864 parameters, whose race takes about" in err
    assert "are left, wanted fewer" in err


def test_memory_is_that_of_the_machine_or_of_the_container(tmp_path: Path) -> None:
    meminfo, none = tmp_path / "meminfo", tmp_path / "none"
    assert machine.free_memory(none, none) is None
    meminfo.write_text("MemTotal:  200 kB\nMemAvailable:   100 kB\n")
    assert machine.free_memory(meminfo, none) == 100 << 10
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert machine.free_memory(meminfo, tmp_path) == 100 << 10
    (tmp_path / "memory.max").write_text("9000\n")
    assert machine.free_memory(meminfo, tmp_path) == 4000
    assert machine.free_memory(none, tmp_path) == 4000


def test_memory_that_ran_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> dict[str, str]:
        raise MemoryError

    monkeypatch.setattr(machine, "describe", full)
    assert cli.main(["info"]) == 1
    assert capsys.readouterr().err == "gradstep: the memory of this machine is not enough\n"


ODD = "×÷→─‖±µ²√≥…·▁▂▃▄▅▆▇█"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "koi8-r", "utf-8"])
@pytest.mark.parametrize(
    "argv",
    [
        ["plot", "cosine(1, 100).warmup(7)", "--total", "100"],
        ["info"],
        ["bench", "--rule", "SGD", "--size", "100", "--rounds", "1"],
        ["--help"],
    ],
    ids=lambda argv: argv[0],
)
def test_streams_that_do_not_know_every_sign(
    argv: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "present", lambda _: False)
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    if argv == ["--help"]:
        with pytest.raises(SystemExit):
            cli.main(argv)
    else:
        assert cli.main(argv) == 0
    stream.write(f"\n{ODD}\n日本\udcff")
    stream.flush()
    printed = raw.getvalue()
    if encoding == "ascii":
        assert b"x/->-||+-u^2sqrt >=...*12345678\n\\u65e5\\u672c\xff" in printed
    if encoding == "utf-8":
        assert f"\n{ODD}\n日本".encode() + b"\xff" in printed


STREAMS = {
    "closed stdout": (">&-", 0),
    "closed stderr": ("2>&-", 0),
    "both closed": (">&- 2>&-", 0),
    "nobody reads": ("| true", 0),
    "one line is read": ("| head -n 1", 0),
}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["info", "--help", "plot 'constant(1)'"])
@pytest.mark.parametrize(("redirection", "code"), STREAMS.values(), ids=STREAMS)
def test_streams_that_are_closed(
    command: str, redirection: str, code: int, unbuffered: str
) -> None:
    line = f"{shlex.quote(sys.executable)} -m gradstep {command} {redirection}"
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_disk_that_is_full(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gradstep", "info"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 1
    assert re.fullmatch(r"gradstep: .*No space left on device\n", done.stderr)


def test_a_broken_pipe_of_a_script_is_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not that nobody reads what is printed."""

    def broken() -> dict[str, str]:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(machine, "describe", broken)
    assert cli.main(["info"]) == 1
    assert capfd.readouterr().err == "gradstep: [Errno 32] Broken pipe\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "gradstep", "info"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
