"""The command line: help, exit codes, what is printed, and packages that are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradstep as gs
from gradstep import bench, cli, demo, machine
from gradstep.extras import need
from gradstep.tables import table


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
    ],
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
