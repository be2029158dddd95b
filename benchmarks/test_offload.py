"""benchmarks/offload.py prints its tables, and sees a wrong step."""

import pytest

pytest.importorskip("torch")

import offload
from gradstep import bench


@pytest.fixture(autouse=True)
def _without_deepspeed(monkeypatch):
    """Which compiles for a minute, and sets up the whole process."""
    monkeypatch.setattr(bench, "present", lambda _: False)


def test_tables(capsys):
    offload.main(["--size", "5000", "--rounds", "1"])
    printed = capsys.readouterr().out
    for name in (*offload.WAYS, *offload.MAKERS, "split, float32", "split, q8"):
        assert name in printed


def test_a_wrong_step_is_seen(monkeypatch):
    monkeypatch.setattr(offload.Ours, "give", lambda self, g: setattr(self.copy, "grad", -g))
    with pytest.raises(AssertionError, match="gradstep, split, float32 states: differs by"):
        offload.check()


def test_sections(capsys):
    with pytest.raises(SystemExit):
        offload.main(["lay"])
    assert "got 'lay', wanted some of calls, layout" in capsys.readouterr().err
