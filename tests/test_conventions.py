"""What several files say, they say alike: versions, floors, Pythons, the actions of workflows."""

import re
from pathlib import Path

import pytest

import gradstep as gs

tomllib = pytest.importorskip("tomllib", reason="tomllib is in Python 3.11")

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]

checkout = pytest.mark.skipif(
    not WORKFLOWS.is_dir(), reason="the source distribution has no workflows"
)


def workflow(name):
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text(encoding="utf-8"))["jobs"]


def floor(requirements, package):
    (found,) = (r for r in requirements if re.match(rf"{package}\b", r))
    return re.search(r">=([\d.]+)", found)[1]


def first(pattern, name):
    return re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)[1]


def test_the_version_is_pyprojects():
    """A module that an older checkout compiled says another one: compile it again."""
    assert gs.__version__ == PROJECT["version"]
    assert first(r"^version: (.*)$", "CITATION.cff") == PROJECT["version"]
    assert first(r"^## \[(\d.*?)\]", "CHANGELOG.md") == PROJECT["version"]


def test_each_requirement_has_a_floor_that_is_tested():
    """.ci/run's stage pythons reads them from there, and installs the extras test and logs."""
    extras = PROJECT["optional-dependencies"]
    for requirement in sum(extras.values(), PROJECT["dependencies"]):
        assert re.fullmatch(r"[A-Za-z_-]+>=[0-9.]+|gradstep\[[a-z0-9,]+\]", requirement)
    (ours,) = re.findall(r"gradstep\[(.*)\]", " ".join(extras["test"]))
    assert {*ours.split(","), "jax", "logs", "test"} == set(extras)


@checkout
def test_pythons_are_the_same_everywhere():
    named = [
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)
    ]
    assert [
        p for p in workflow("tests")["pytest"]["strategy"]["matrix"]["python"] if "t" not in p
    ] == named
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == named[0]
    assert first(r"for version in (\S+)", ".ci/run") == named[0]


@checkout
def test_torch_is_tested_from_its_floor_on():
    oldest, ours = workflow("tests")["torch"]["strategy"]["matrix"]["torch"]
    for group in "oracles", "frameworks":
        assert f"{floor(GROUPS[group], 'torch')}.0" == oldest
    assert ours == first(r"torch==([\d.]+)", ".ci/run")


@checkout
def test_actions_are_pinned_by_one_hash_each():
    pinned = {}
    for path in WORKFLOWS.iterdir():
        for line in re.findall(r"uses:\s*(.*)", path.read_text(encoding="utf-8")):
            found = re.fullmatch(r"([\w/.-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", line)
            assert found, f"{path.name}: {line}"
            assert pinned.setdefault(found[1], found[2]) == found[2], path.name
    assert pinned
