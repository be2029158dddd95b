"""Schedules as words, lines and pictures, and from text."""

import numpy as np
import pytest

import gradstep as gs
from gradstep import plots, schedules
from gradstep.cli import main


def test_explain():
    s = schedules.join(
        [schedules.linear(0.0, 0.1, 10), schedules.constant(0.1), schedules.constant(0.0)],
        at=[10, 50],
    )
    e = schedules.explain(s, 60)
    assert (e.first, e.last, e.after) == (0.0, 0.0, 0.0)
    assert (e.peak, e.peak_at, e.lowest, e.lowest_at) == (0.1, 10, 0.0, 0)
    assert e.zeros == 11
    assert e.jumps == ((50, 0.1, 0.0),)
    text = str(e)
    assert "peak 0.1 at t = 10" in text
    assert "11 updates spent at zero: they do nothing" in text
    assert "1 jump: 0.1 → 0 at t = 50" in text
    e = schedules.explain(schedules.cosine(0.1, 10), 10)
    assert "t = 10, which no update uses, would be 0" in str(e)
    assert e.jumps == ()
    e = schedules.explain(schedules.cosine(0.1, 10, end="inclusive", past_end="raise"), 10)
    assert e.after is None
    assert "t = 10 is refused" in str(e)


def test_explain_finds_each_jump_once_wherever_it_is(monkeypatch):
    monkeypatch.setattr("gradstep.schedules.looking._AT_ONCE", 8)
    for milestone in range(1, 40):
        e = schedules.explain(schedules.drop(1.0, [milestone]), 41)
        assert e.jumps == ((milestone, 1.0, 0.1),)
        assert e.peak_at == 0
        assert e.lowest_at == milestone
    e = schedules.explain(schedules.step(1.0, 10, 0.5), 200)
    assert [t for t, *_ in e.jumps] == [10, 20, 30, 40]
    e = schedules.explain(schedules.cosine_restarts(1.0, 20), 200)
    assert [t for t, *_ in e.jumps] == list(range(20, 200, 20))


def test_diff():
    a, b = schedules.cosine(0.1, total=100), schedules.cosine(0.1, total=200)
    d = schedules.diff(a, b, at=50)
    assert d.arguments == (("total", 100, 200),)
    assert (d.used, d.old, d.new, d.first) == (a(49), a(50), b(50), 50)
    gap = np.abs(a.range(50, 200) - b.range(50, 200))
    assert d.largest == gap.max()
    assert d.largest_at == 50 + gap.argmax()
    d = schedules.diff(schedules.step(1, 30), schedules.drop(1, [30, 60]), at=10)
    assert d.first == 90
    assert "at t = 10 both give 1" in str(d)
    assert d.arguments[0][0] == "schedule"
    d = schedules.diff(a, a, at=0)
    assert d.first is None
    assert d.used is None
    assert str(d) == "the same values from t = 0 to 100"
    assert schedules.diff(a, a, at=500).total == 10_500
    assert schedules.diff(a, b, at=5, total=7).total == 7


def test_sparkline():
    s = schedules.linear(0.0, 1.0, 9, end="inclusive")
    assert schedules.sparkline(s, 9, 9) == " ▁▂▃▄▅▆▇█"
    assert schedules.sparkline(schedules.linear(-1.0, 1.0, 3, end="inclusive"), 3, 3) == " ▄█"
    assert schedules.sparkline(schedules.constant(0.0), 5, 3) == "   "
    assert schedules.sparkline(schedules.constant(2.0), 1, 3) == "███"


def test_what_is_refused():
    one = schedules.constant(1)
    for call, error in [
        (lambda: schedules.explain(0.1, 3), TypeError),
        (lambda: schedules.explain(one, 0), ValueError),
        (lambda: schedules.diff(one, 0.1, 3), TypeError),
        (lambda: schedules.diff(one, one, 3, 3), ValueError),
        (lambda: schedules.sparkline(one, 0), ValueError),
        (lambda: schedules.sparkline(0.1, 3), TypeError),
        (lambda: plots.schedules([one], "x.png"), ValueError),
    ]:
        with pytest.raises(error, match=r"^(schedule|total|b): got "):
            call()


# ---- from text ----


def test_parse_reads_what_repr_writes():
    from test_schedules import CASES  # noqa: PLC0415

    for s in CASES:
        assert schedules.parse(repr(s)) == s
        assert schedules.parse(s.to_json()) == s


def test_parse():
    c = schedules.constant
    assert schedules.parse(" constant(1/4) + 1 ") == c(0.25) + 1
    assert schedules.parse("-2 * constant(+1)") == c(1) * -2
    assert schedules.parse("constant(1).repeat(every=3)") == c(1).repeat(3)


@pytest.mark.parametrize(
    "text",
    [
        "", "cosine", "cosine(", "0.1", "[1]", "{", '{"schedule": "constant"', '{"value": 1}',
        "cosin(0.1, total=3)", "__import__('os')", "constant(1).__class__", "constant(1).to_dict()",
        "constant(1).__init__(2)", "constant(**{})", "constant(open('x'))", "constant(1) - 1",
        "1 / 0", "schedules.sample(1, 2)", "(lambda: 1)()", "constant(x)", "os.system('x')",
        "constant(1)(3)", "constant(1j)", "[constant(1) for x in 'ab']", "join.schedules([], [])",
        "(" * 5000,
    ],
)  # fmt: skip
def test_parse_refuses(text):
    with pytest.raises((ValueError, TypeError)):
        schedules.parse(text)


# ---- pictures ----


def test_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is in the demo extra")
    out = tmp_path / "new" / "schedules.svg"
    specs = ["cosine(0.1, total=100).warmup(10)", schedules.one_cycle(0.1, 100).to_json()]
    assert main(["plot", *specs, "--total", "100", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "█" in told
    assert "peak 0.1 at t = 10" in told
    assert "peak 0.1 at t = 30" in told
    assert str(out) in told
    assert out.read_text(encoding="utf-8").startswith("<?xml")


def test_plot_of_values_and_schedules(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is in the demo extra")
    lines = {"ours": schedules.cosine(-0.1, 30), "values": np.ones(30)}
    out = plots.schedules(lines, str(tmp_path / "x.png"), total=30, per_epoch=10, unit="peak")
    assert out.stat().st_size > 1000
    assert plots.schedules([lines["ours"]], out, total=10**9) == out


def test_plot_without_matplotlib(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert main(["plot", "constant(0.1)"]) == 0
    assert "█" in capsys.readouterr().out
    assert main(["plot", "constant(0.1)", "--out", "x.png"]) == 1
    assert "matplotlib is needed for plots" in capsys.readouterr().err


def test_plot_refuses(capsys):
    with pytest.raises(SystemExit):
        main(["plot", "cosine(0.1)"])
    assert "total" in capsys.readouterr().err
    assert gs.schedules is schedules
