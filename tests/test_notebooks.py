"""What a notebook shows: whole HTML and SVG, escaped, small, on light and on dark; or text."""

import shutil
import sys
import time
import warnings
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import gradstep as gs
from gradstep import notebooks, schedules
from gradstep.progress import bars
from gradstep.schedules import drawing
from gradstep.tuning import RangeTest, SearchResult, Tried, Verdict, judge, range_test
from test_pages import browse, falling, make_log, with_values
from test_schedules import CASES

NASTY = '<script>alert("&")</script> \udcff\x00'
SVG = "{http://www.w3.org/2000/svg}"


def parsed(html):
    """The elements of a fragment, which is XML as well."""
    return ET.fromstring(f"<div>{html}</div>")


def cells(html):
    """A table's rows."""
    return [["".join(cell.itertext()) for cell in row] for row in parsed(html).iter("tr")]


def lines(html):
    """The points of each line drawn."""
    drawn = [path for path in parsed(html).iter() if path.get("class", "").startswith("line")]
    return [
        np.array([point.split() for point in path.get("d").replace("M", "L").split("L")[1:]], float)
        for path in drawn
    ]


def trained():
    w, rng = np.zeros(3, np.float32), np.random.default_rng(0)
    opt = gs.SGD(w, lr=0.1)

    def train_step():
        x = rng.standard_normal((32, 3)).astype(np.float32)
        error = x @ w - x @ np.float32([1, 2, 3]) + rng.standard_normal(32, np.float32)
        opt.step(x.T @ error / 32)
        return float(error @ error) / 64

    return range_test(train_step, opt, sweeps=2)


# ---- schedules ----


@pytest.mark.parametrize("schedule", CASES, ids=repr)
def test_schedules_show_a_curve(schedule):
    """Every shape: what is drawn lies in the chart, and is small."""
    html, svg = schedule._repr_html_(), schedule._repr_svg_()
    assert len(html) < 30_000
    (points,) = lines(html)
    assert points.min() >= 0
    assert points[:, 0].max() <= 10_000
    assert points[:, 1].max() <= 2_000
    assert repr(schedule)[:50] in "".join(parsed(html).itertext())
    picture = ET.fromstring(svg)
    assert picture.tag == f"{SVG}svg"
    assert len(list(picture.iter(f"{SVG}path"))) == 1


LENGTHS = [
    (schedules.cosine(0.1, total=70), 70),
    (schedules.cosine(0.1, total=70).warmup(10), 70),
    (schedules.constant(0.1).warmup(10), 1010),
    (schedules.step(0.1, 30), 150),
    (schedules.step(0.1, 30).stairs(10).scale(2), 1500),
    (schedules.linear(1.0, 0.0, total=5).repeat(7), 28),
    (schedules.linear(1.0, 0.0, total=5).shift(7), 12),
    (schedules.linear(1.0, 0.0, total=5).shift(-7), 1),
    (schedules.constant(0.1).branch(80, schedules.linear(0.1, 0.0, total=20)), 100),
    (schedules.cosine(0.1, total=70) + schedules.cosine(0.1, total=80), 80),
    (schedules.table([1.0, 2.0, 3.0]), 3),
    (schedules.exponential(0.1, 0.99), 459),
    (schedules.exponential(0.1, 1.0), 4),
    (schedules.noam(512, 4000), 40_000),
    (schedules.cosine_restarts(0.1, 10, 2.0), 70),
    (schedules.cosine_restarts(0.1, 2**40, 2.0**20), 2**52 - 2),
    (schedules.cyclic(0.1, 1.0, 10), 80),
    (schedules.constant(0.1), 1000),
    (schedules.linear(1.0, 0.0, total=0), 1),
]


@pytest.mark.parametrize(("schedule", "length"), LENGTHS, ids=repr)
def test_how_far_a_schedule_is_shown(schedule, length):
    assert drawing.length(schedule) == length


def test_every_form_is_given_a_length():
    """A new one without a total gets a line there, or is drawn as far as a constant is."""
    shown = {schedule._name for schedule in CASES if "total" not in schedule._arguments}
    composed = {"add", "multiply", "join", "scale", "clamp", "shift", "repeat", "stairs", "warmup"}
    assert shown - composed - {"constant"} == set(drawing.LENGTHS)


def test_a_long_schedule_is_cheap():
    schedule = schedules.join(
        [schedules.cosine(0.1, total=2**50), schedules.constant(0.0)], at=[2**50]
    )
    begin = time.process_time()
    assert len(schedule._repr_html_()) < 30_000
    assert time.process_time() - begin < 1  # a thousand values take some milliseconds


def test_an_end_that_raises_is_not_reached():
    schedule = schedules.cosine(0.1, total=10, past_end="raise")
    for end in ("exclusive", "inclusive"):
        schedule = schedules.cosine(0.1, total=10, end=end, past_end="raise")
        assert len(lines(schedule._repr_html_())) == 1


class Broken(schedules.Schedule):
    """One whose values cannot be had."""

    def __call__(self, *_):
        raise RuntimeError("no")


def test_what_cannot_be_drawn_is_shown_as_text():
    huge = schedules.constant(1e200).scale(1e200)
    assert huge._repr_html_() is None
    assert huge._repr_svg_() is None
    plain = schedules.constant(0.1)
    broken = Broken(plain._name, plain._arguments, "constant", [0.1])
    assert broken._repr_html_() is None
    empty = RangeTest(*np.empty((3, 0)), None, None, "inconclusive", "nothing")
    assert empty._repr_html_() is None


# ---- results ----


def test_a_range_test_shows_its_curve():
    found = trained()
    html = found._repr_html_()
    assert len(lines(html)) == 2 + 1  # sweeps, and smoothed
    words = " ".join("".join(parsed(html).itertext()).split())
    assert f"try {found.suggestion:.2g}" in words
    assert str(found) in words
    # The suggestion and the interval stand where the rates do, from 1e-7 to 10.
    place = 100 * (np.log10([*found.interval, found.suggestion]) + 7) / 8
    (upright,) = [x for x in parsed(html).iter("line") if x.get("class") == "upright"]
    assert upright.get("x1") == f"{place[2]:.2f}%"
    (band,) = [x.get("d") for x in parsed(html).iter("path") if x.get("class") == "band"]
    edges = {point.split()[0] for point in band[1:-1].split("L")}
    assert edges == {f"{100 * x:.0f}" for x in place[:2]}
    assert ET.fromstring(found._repr_svg_()).tag == f"{SVG}svg"


def test_a_range_test_without_a_suggestion():
    rates, nothing = np.geomspace(1e-7, 10, 20), np.full(20, np.nan)
    found = RangeTest(rates, np.full((1, 20), np.inf), nothing, None, None, "inconclusive", NASTY)
    html = found._repr_html_()
    assert "<script" not in html
    assert "alert" in html
    assert "band" not in {x.get("class") for x in parsed(html).iter("path")}


def test_a_search_shows_its_table():
    tried = [
        Tried(0.1, "finished", (1.0, 3.0), 9),
        Tried(1.0, "finished", (0.5, 0.75), 9),
        Tried(10.0, "diverged", (float("inf"),), 3),
    ]
    found = SearchResult(tuple(tried), (0, 1), (0.1, 10.0), "grid")
    assert cells(found._repr_html_()) == [
        ["rate", "mean loss of 2", "lowest", "highest", ""],
        ["0.1", "2", "1", "3", ""],
        ["1", "0.625", "0.5", "0.75", "best"],
        ["10", "-", "-", "-", "diverged at step 3"],
    ]


def test_a_verdict_shows_what_it_rests_on():
    verdict = Verdict("too low", 100, 3.0, NASTY, {"fall": 2.5, "noise": float("nan")})
    assert cells(verdict._repr_html_()) == [
        ["name", "value"],
        ["verdict", "too low"],
        ["step", "100"],
        ["because", '<script>alert("&")</script> \\udcff\\x00'],
        ["try", "the rate × 3"],
        ["fall", "2.5"],
        ["noise", "unknown"],
    ]


@pytest.mark.parametrize(
    "losses",
    [falling(), with_values(falling(), slice(50, None), np.inf), [2.0], np.full(9, np.inf)],
)
def test_a_judged_log_shows_both(losses):
    judged = judge(make_log(losses, name=NASTY, rates=0.1, notes=(NASTY,)))
    html = judged._repr_html_()
    assert "<script" not in html
    rows = dict(cells(html)[1:])
    assert rows["verdict"] == judged.verdict.kind
    assert rows["try"] == judged.to_try
    assert len(lines(html)) == 2


def test_a_report_shows_what_was_measured():
    w = np.ones(3)
    assert cells(gs.SGD([w], lr=0.5).step([w.copy()])._repr_html_()) == [
        ["name", "value"],
        ["t", "1"],
        ["lr", "0.5"],
    ]
    groups = [{"params": [np.full(4, 1.0)]}, {"params": [np.full(9, 1.0)], "lr": 0.25}]
    report = gs.SGD(groups, lr=0.5, stats=True).step([[np.ones(4)], [np.ones(9)]])
    rows = {row[0]: row[1:] for row in cells(report._repr_html_())}
    assert rows["name"] == ["all groups", "group 0", "group 1"]
    assert rows["lr"] == ["", "0.5", "0.25"]
    assert rows["grad_norm"][1:] == ["2", "3"]


# ---- in a notebook, and in a browser ----

CELLS = """
import numpy as np, gradstep as gs

gs.schedules.cosine(0.1, total=100)

gs.SGD([np.ones(3)], lr=0.1).step([np.ones(3)])

def bowl(rate, seed):
    yield 0, (np.log10(rate) + 2) ** 2
    yield 1, (np.log10(rate) + 2) ** 2
gs.tuning.search(bowl, (1e-4, 1.0), trials=5)
"""


def test_in_a_notebook():
    """Displays reach it, and a progress bar: no warning with it, though there are no widgets."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    sources = [source.strip() for source in CELLS.strip().split("\n\n")]
    pytest.importorskip("optuna")
    code = [nbformat.v4.new_code_cell(source) for source in sources]
    book = nbformat.v4.new_notebook(cells=code)
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    shown = [cell.outputs for cell in book.cells]
    assert shown[0] == []
    for outputs, kinds in zip(
        shown[1:],
        (["text/plain", "text/html", "image/svg+xml"], *[["text/plain", "text/html"]] * 2),
        strict=True,
    ):
        assert list(outputs[-1]["data"]) == kinds
        parsed(outputs[-1]["data"]["text/html"])
    printed = "".join(out["text"] for out in shown[3][:-1] if out["output_type"] == "stream")
    assert "Warning" not in printed
    assert "/5 [" in printed  # the bar


def test_bars_where_warnings_are_errors(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tqdm")]:
        monkeypatch.delitem(sys.modules, name)
    pytest.importorskip("tqdm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with bars("a test", "demo")(total=2, unit="step") as bar:
            bar.update()
            assert bar.disable  # nobody sees it


def test_styles_stay_within_their_output():
    """All rules stand within one for our class: the notebook's own tables and charts are left."""
    html = schedules.constant(0.1)._repr_html_()
    style = html.split("<style>")[1].split("</style>")[0]
    assert style.startswith(".gradstep {")
    depth = [style[: i + 1].count("{") - style[: i + 1].count("}") for i in range(len(style))]
    assert min(depth[12:-1]) == 1
    assert depth[-1] == 0
    for line in notebooks.TABLE.strip().splitlines():
        assert line.startswith(".gradstep ")


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("chromium-browser")),
    reason="chromium is not installed",
)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_a_browser(dark, tmp_path):
    """Letters and lines stand out from the notebook's ground, whichever it is."""
    imread = pytest.importorskip("matplotlib.image").imread
    ground, ink = ("#111111", "#dddddd") if dark else ("#ffffff", "#111111")
    page = tmp_path / "page.html"
    html = schedules.cosine(0.1, total=100)._repr_html_()
    head = f'<!DOCTYPE html><meta charset="utf-8"><body style="background:{ground};color:{ink}">'
    page.write_text(head + html, encoding="utf-8")
    browse(page, tmp_path, 700, False, f"--screenshot={tmp_path / 'page.png'}")
    picture = imread(tmp_path / "page.png")[..., :3]
    assert abs(np.median(picture) - int(ground[1:3], 16) / 255) < 0.01
    green = (picture[..., 1] - np.maximum(picture[..., 0], picture[..., 2])) > 0.15  # the curve
    assert 500 < green.sum() < 6_000
    assert green.any(axis=0).sum() > 500  # from left to right
    away = np.abs(picture - picture[-1, -1]).max(axis=2)
    bottom = np.flatnonzero(green.any(axis=1)).max()
    assert (away[:bottom, :60] > 0.4).any()  # the axis has its numbers
    assert (away[bottom + 30 : bottom + 70] > 0.5).any()  # the caption
