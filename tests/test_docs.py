"""What the docs show runs and prints what they say."""

import doctest
import importlib
import pkgutil
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import gradstep as gs
from cases import SHORT
from processes import run, together

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(
        gs.__path__,
        "gradstep.",
        onerror=lambda _: None,  # what a package lacks, its tests say
    )
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name.startswith("gradstep.torch"):
        pytest.importorskip("torch")
    if name.startswith("gradstep.jax"):
        pytest.importorskip("gradstep.jax", exc_type=ImportError)
    if name == "gradstep.tuning.loop":
        pytest.importorskip("torch")
    if name in (
        "gradstep.tuning.keras",
        "gradstep.tuning.lightning",
        "gradstep.tuning.transformers",
    ):
        pytest.skip("tests/test_tuning_sources.py runs it")
    if name == "gradstep.tuning.sklearn":
        pytest.importorskip("sklearn")
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def blocks(text):
    """The Python code that a page shows, in order."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_readme_code():
    """The first lines train towards where the gradient is zero."""
    (code,) = blocks(README.read_text(encoding="utf-8"))
    names = {}
    exec(code, names)
    assert names["opt"].t == 1000
    for p in names["params"].values():
        np.testing.assert_allclose(p, p.flat[0])
        assert 0.3 < p.flat[0] <= 1


def test_readme_figures():
    """They are those of the table that a command prints, in the page on speed."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ][2:]
    table = (DOCS / "how-fast.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 5
    for row in rows:
        (line,) = (line for line in table if line.startswith(f"| {row[0]} |"))
        assert set(row) <= {cell.strip() for cell in line.split("|")}
    told = re.findall(r"([\d.]+) times", README.read_text(encoding="utf-8"))
    assert [float(row[3]) for row in rows[:3]] == pytest.approx([*map(float, told)], abs=0.05)


def test_first_steps():
    """Its blocks run one after the other."""
    groups, pytorch, _, rate = blocks((DOCS / "first-steps.md").read_text(encoding="utf-8"))
    names = {}
    exec(groups, names)
    assert names["opt"].t == 1
    assert names["opt"].groups["bias"]["lr"] == 0.005
    exec(rate, names)
    assert 0.01 < names["found"].suggestion < 0.2
    assert names["verdict"].kind == "fine"
    assert names["loss"] < 2
    pytest.importorskip("torch")
    exec(pytorch, names)
    assert issubclass(names["AdamW"], importlib.import_module("torch").optim.Optimizer)


def test_one_pass():
    (code,) = blocks((DOCS / "one-pass.md").read_text(encoding="utf-8"))
    names = {}
    exec(code, names)
    assert names["report"].grad_norm == pytest.approx(5.12)
    assert not names["report"].skipped
    assert not names["g"].any()
    assert (names["low"] == names["w"].astype(np.float16)).all()


def test_larger_than_memory(tmp_path):
    """What is shown runs in less memory than any two of its arrays take."""
    pytest.importorskip("resource")
    if sys.platform != "linux":
        pytest.skip("other systems count mapped files as memory")
    text = (DOCS / "larger-than-memory.md").read_text(encoding="utf-8")
    first, second = blocks(text)
    assert "shape = (1024, 1024)" in first
    limit = """
import resource, numpy, gradstep
import pathlib
used = int(pathlib.Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (48 << 20),) * 2)
"""
    check = """
assert (report.t, opt.t) == (4, 4)
assert not np.array_equal(weight[0], weight[-1])
assert np.isfinite(weight).all()
try:
    np.ones(shape, np.float32)
except MemoryError:
    print("as told")
"""
    script = limit + first.replace("(1024, 1024)", "(2048, 8192)") + second + check
    printed = run(script, cwd=tmp_path, timeout=300, OMP_NUM_THREADS="2")
    assert printed == "as told\n"


def test_storages_page():
    """Its code runs, and its table of loops is the core's."""
    text = (DOCS / "storages.md").read_text(encoding="utf-8")
    (code,) = blocks(text)
    names = {}
    exec(code, names)
    np.testing.assert_allclose(names["v"], 1e-7, rtol=0.1)
    table = text.partition("| parameters | gradients | states |")[2].partition("\n\n")[0]
    told, short = set(), set()
    for line in table.splitlines()[2:]:
        param, gradient, states = (cell.strip() for cell in line.strip("|").split("|"))
        param, _, modes = param.partition(", ")
        states, _, star = states.partition(" ")
        rows = {(param, gradient, states, mode == "stochastic") for mode in modes.split(" or ")}
        told |= rows
        short |= rows if star else set()
    assert told == set(gs._core.fused())
    assert short == SHORT


@pytest.mark.parametrize("name", ["make_reference", "make_rules", "make_schedules"])
def test_pages_that_are_made(name, monkeypatch):
    """They are the same each time, and their pictures are small."""
    monkeypatch.syspath_prepend(DOCS)
    files = importlib.import_module(name).files()
    assert files == importlib.import_module(name).files()
    for path, text in files.items():
        assert path.suffix == ".md" or (path.suffix == ".svg" and len(text) < 50_000)


def test_rules_page_shows_each_rule(monkeypatch):
    """In its table with the bytes of its states, and with its picture."""
    monkeypatch.syspath_prepend(DOCS)
    files = importlib.import_module("make_rules").files()
    text = files[DOCS / "rules.md"]
    for rule in gs.rule.RULES:
        assert f"| [`{rule}`](#{rule.lower()}) |" in text
        assert text.count(f"](rules/{rule.lower()}.svg)") == 2
        assert f">{rule}<" in files[DOCS / "rules" / f"{rule.lower()}.svg"]
    row = next(line for line in text.splitlines() if line.startswith("| [`Adam`]"))
    assert row.endswith("| 8, +4 with amsgrad | 2.03, +1.02 with amsgrad |")


def test_offload_page():
    """Its code runs, and its formula and table are those of the benchmark that prints them."""
    pytest.importorskip("torch")
    text = (DOCS / "offload.md").read_text(encoding="utf-8")
    check = """
assert optimizer.report.t == 10
assert optimizer.host_bytes < 9.5 * sum(p.numel() for p in model.parameters())
print("as told")
"""
    script = "".join(blocks(text)) + check
    assert run(script, options=(), timeout=300).endswith("as told\n")
    offload = importlib.import_module("offload")  # of the benchmarks
    for states, per_core in (("float32", "0.56"), ("q8", "1.12")):
        moved = offload.BYTES[states]
        assert f"S = P · max({moved} bytes / memory bandwidth, {per_core} ns / cores)" in text
    for count, compute in ((1e9, 0.25), (7e9, 1.72), (70e9, 17.2)):
        assert 6 * count * offload.TOKENS / offload.FLOPS == pytest.approx(compute, abs=5e-3)
        assert f"| {compute:.2f} s |" in text


def test_pytorch_page():
    """Its code runs in order, as the only process of those that torchrun would start."""
    pytest.importorskip("torch")
    text = (DOCS / "pytorch.md").read_text(encoding="utf-8")
    shown = blocks(text)
    assert len(shown) == text.count("```") // 2
    check = """
assert 0 < optimizer.report.grad_norm
assert set(state["state"]) == {"weight", "bias"}
assert zero.optim.__class__ is AdamW
dist.destroy_process_group()
print("as told")
"""
    script = "".join(shown).replace("optimizer = ZeroR", "zero = ZeroR") + check
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    printed = run(script, options=(), timeout=300, OMP_NUM_THREADS="2", **alone)
    assert printed.endswith("as told\n")


def test_choosing_a_rate(capsys, monkeypatch, tmp_path):
    """Its code runs and says what the page says, except for digits that machines round."""
    page = DOCS / "choosing-a-rate.md"
    text = page.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names, printed = {}, []
    for code in blocks(text):
        exec(code, names)
        printed.append(capsys.readouterr().out)
    told = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert [words(one) for one in told] == [words(one) for one in printed if one]
    assert names["found"].suggestion == pytest.approx(0.032, rel=0.1)
    assert names["result"].best == pytest.approx(0.0178, rel=0.01)
    assert names["loss"] < 0.3
    drawn = {path.name for path in tmp_path.iterdir()}
    drawn.add("page.png")  # docs/make_page.py draws it, with a browser
    for link in re.findall(r"!\[.+?\]\((.+?)\)", text):
        assert Path(link).name in drawn
        assert (DOCS / link).stat().st_size < 100_000


@pytest.mark.parametrize("storage", ["rates.log", "sqlite:///rates.db"])
def test_search_page(storage, tmp_path):
    """Its script, started twice, works off one list, and both print what the page says."""
    pytest.importorskip("optuna")
    text = (DOCS / "search.md").read_text(encoding="utf-8")
    (script,) = blocks(text)
    (told,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    counting = "    print(seed, lr, file=open('runs', 'a'), flush=True)\n"
    script = re.sub(r"(def objective.*\n.*\n)", rf"\1{counting}", script)
    assert together(script, [storage, storage], cwd=tmp_path, timeout=120) == []
    printed = [(tmp_path / f"{rank}.log").read_text(encoding="utf-8") for rank in range(2)]
    assert printed[0] == printed[1]
    assert words(printed[0]) == words(told)
    runs = (tmp_path / "runs").read_text().splitlines()
    assert len(runs) == len(set(runs)) == 3 * 11


def words(text):
    return re.sub(r"[-+]?\d[\d.]*(e-?\d+)?|─+", "#", text).split()
