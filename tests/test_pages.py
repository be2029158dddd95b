"""The page of judged runs: whole, self-contained, readable, whatever the numbers are."""

import json
import os
import re
from collections import Counter
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from browser import CHROMIUM, browse, drawn_rows
from gradstep import charts, pages
from gradstep.tuning.curves import ADVICE, Judged, Phase, Spike, judge
from gradstep.tuning.logs import Log
from gradstep.tuning.monitor import Kind, Verdict

CSS = "".join(
    (Path(pages.__file__).parent / name).read_text(encoding="utf-8")
    for name in ("charts.css", "pages.css")
)
NAME = "a<b>&\"c' \udcff run"


def make_log(losses, *, name="run", rates=None, norms=None, **more):
    losses = np.asarray(losses, np.float64)
    unknown = np.full(len(losses), np.nan)
    steps = np.arange(1.0, len(losses) + 1)
    rates = unknown if rates is None else np.broadcast_to(float(rates), losses.shape).copy()
    norms = unknown if norms is None else np.asarray(norms, np.float64)
    return Log(name, "made up", {"loss": "train/loss"}, steps, losses, rates, norms, **more)


def falling(count=200, first=2.3, noise=0.05):
    rng = np.random.default_rng(0)
    return (
        first * np.exp(-np.arange(count) / (count / 3)) + noise * rng.standard_normal(count) + 0.2
    )


def with_values(values, at, value):
    values = values.copy()
    values[at] = value
    return values


def evaluated(values):
    values = np.asarray(values, np.float64)
    return {"evaluation_steps": np.linspace(10, 190, len(values)), "evaluations": values}


def by_hand(log, verdict=None, phases=(), spikes=()):
    """A judgement without judging: for verdicts that are wanted, and many points."""
    verdict = verdict or Verdict("fine", int(log.steps[-1]), 1.0, "made up", {"sure": 0.8})
    phases = phases or (Phase("all", 0, len(log.steps), verdict),)
    losses = log.losses
    judged = Judged(log, verdict, phases, losses, losses - 1, losses + 1, losses, None)
    vars(judged)["spikes"] = spikes
    return judged


LOGS = {
    "one run": [make_log(falling(), rates=0.1, norms=falling())],
    "rates unknown": [make_log(falling())],
    "one point": [make_log([2.0], rates=0.1)],
    "two points": [make_log([2.0, 1.0])],
    "constant": [make_log(np.full(50, 3.0))],
    "zero": [make_log(np.zeros(50), rates=0.0, norms=np.zeros(50))],
    "negative": [make_log(-falling()[::-1])],
    "over many decades": [make_log(np.geomspace(1e3, 1e-9, 100))],
    "one infinite": [make_log(with_values(falling(), 100, np.inf))],
    "ends infinite": [make_log(with_values(falling(), slice(100, None), np.inf), rates=1)],
    "all infinite": [make_log(np.full(50, np.inf), norms=np.full(50, np.inf))],
    "near the least float": [make_log(falling() * 5e-324)],
    "far below": [make_log(with_values(falling(), 100, -1e9))],
    "norms with gaps": [make_log(falling(), norms=with_values(falling(), slice(9, 30), np.nan))],
    "evaluations": [make_log(falling(), **evaluated([1, np.inf, 2, np.nan, -1]))],
    "two runs, one lost": [
        make_log(falling(), name="good", rates=0.1),
        make_log(with_values(falling(), slice(30, None), np.inf), name="lost", rates=1),
    ],
    "all lost": [make_log(np.full(9, np.inf), name=name) for name in "xy"],
    "many runs": [make_log(falling() + i / 9, name=f"{i} " * 9, rates=2**-i) for i in range(30)],
    "odd names": [make_log(falling(), name=NAME, notes=(NAME,), unit="epoch"), make_log(falling())],
}


class Parser(HTMLParser):
    """A page's elements, each with its attributes, and its text; tags must match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style"} & set(self.open):
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def written(tmp_path, judged, **more):
    return pages.write_page(judged, tmp_path / "page.html", **more).read_text(encoding="utf-8")


def check_places(page):
    """Where something lies is a number, and near the chart."""
    for tag, attributes in page.elements:
        for key in {"d", "x", "y", "x1", "x2", "y1", "y2", "style"} & set(attributes):
            value = attributes[key]
            assert not re.search("nan|inf", value), f"{tag} {key}={value}"
            assert all(abs(float(x)) < 1e5 for x in re.findall(r"-?[\d.]+", value)), value


@pytest.mark.parametrize("name", LOGS)
def test_page_is_whole(name, tmp_path):
    """Tags match, names are unique and found, charts have words, tables headers, places numbers."""
    text = written(tmp_path, [judge(log) for log in LOGS[name]])
    page = Parser(text)
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert set(ids.values()) == {1}
    for _, attributes in page.elements:
        for key in {"href", "aria-labelledby"} & set(attributes):
            found = {part.removeprefix("#") for part in attributes[key].split()}
            assert found <= set(ids), attributes
    check_places(page)
    for chart in page.all("svg"):
        assert "aria-hidden" in chart or "aria-labelledby" in chart or "viewbox" in chart
    assert len(page.all("table")) == len(page.all("caption"))
    assert page.all("table")
    assert all(a.get("scope") == "col" for a in page.all("th"))
    assert len(page.all("summary")) == len(page.all("details"))
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "color-scheme", "content": "light dark"} in page.all("meta")
    runs = len(LOGS[name])
    assert len(page.all("section")) == runs + (runs > 1)
    assert all(a["tabindex"] == "-1" for a in page.all("section"))
    assert page.all("a")[0]["class"] == "skip"


@pytest.mark.parametrize("name", LOGS)
def test_page_needs_nothing_else(name, tmp_path):
    text = written(tmp_path, [judge(log) for log in LOGS[name]])
    page = Parser(text)
    assert not re.search(r"https?:|url\(|@import|src=|//[a-z]", text)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(t for t, _ in page.elements)


def test_numbers_that_no_axis_can_hold(tmp_path):
    losses = with_values(falling(), slice(50, 90, 2), 1.7e308)
    losses[60] = -1.7e308
    text = written(tmp_path, [by_hand(make_log(losses, norms=losses, rates=1e308))])
    check_places(Parser(text))
    assert "above the axis" in Parser(text).text


def test_names_are_shown_as_they_are(tmp_path):
    judged = [judge(log) for log in LOGS["odd names"]]
    text = written(tmp_path, judged, title=NAME)
    shown = "a<b>&\"c' \\udcff run"
    page = Parser(text)
    assert "<b>" not in text
    assert text.count("&lt;b&gt;") >= 5
    assert page.text.count(shown) >= 5
    assert f"<title>{text.split('<title>')[1].split('</title>')[0]}</title>" in text
    assert unescape(text.split("<title>")[1].split("</title>")[0]) == shown
    assert "over epochs" in page.text


# kind, factor, sure, rate: the words of what to try and how sure
VERDICTS = [
    ("too low", 3.0, 0.7, 0.1, "0.1 × 3 = 0.3", "low (0.70)"),
    ("too low", 10.0, 0.95, None, "the rate × 10", "high (0.95)"),
    ("too high", 1 / 3, 0.8, 0.1, "0.1 × 1/3 = 0.033", "medium (0.80)"),
    ("diverging", 0.1, 1.0, 2e-5, "2e-5 × 1/10 = 2e-6", "high (1.00)"),
    ("plateau", 1.0, 0.6, 0.1, "a lower rate from here on", "low (0.60)"),
    ("fine", 1.0, 0.75, 0.1, "go on", "medium (0.75)"),
    ("spike", 1.0, 0.75, 0.1, "clipping", "medium (0.75)"),
    ("inconclusive", 1.0, 0.0, 0.1, "more steps", "none"),
]


@pytest.mark.parametrize(("kind", "factor", "sure", "rate", "tried", "how_sure"), VERDICTS)
def test_verdict_in_words(kind, factor, sure, rate, tried, how_sure, tmp_path):
    numbers = {"sure": sure, "grad_norm_growth": 7.25, "some_other": 1.5}
    verdict = Verdict(kind, 200, factor, "the reason is this", numbers)
    page = Parser(written(tmp_path, [by_hand(make_log(falling(), rates=rate), verdict)]))
    for words in (
        kind, tried, how_sure, "the reason is this", ADVICE[kind], "7.25", "some other",
        "train/loss", "made up", "200, step 1 to 200",
    ):  # fmt: skip
        assert words in page.text, words
    assert any(f"is-{kind.replace(' ', '-')}" in a.get("class", "") for a in page.all("div"))


def test_what_to_try_is_of_the_phase_that_was_judged(tmp_path):
    """Not of the rate that a decay has ended with."""
    rates = np.r_[np.full(100, 0.2), np.linspace(0.2, 0, 100)]
    log = make_log(falling())
    log = Log(**{**vars(log), "rates": rates})
    verdict = Verdict("too high", 100, 0.1, "so", {"sure": 0.9})
    text = Parser(written(tmp_path, [by_hand(log, verdict)])).text
    assert "0.2 × 1/10 = 0.02" in text


def test_phases_lie_side_by_side(tmp_path):
    """Over the whole of the steps, each with its name and verdict."""
    kinds = {
        "warm-up": (0, 20, "inconclusive"),
        "steady": (20, 150, "fine"),
        "decay": (150, 200, "plateau"),
    }
    phases = tuple(
        Phase(name, a, b, Verdict(kind, b, 1.0, "so", {"sure": 0.8}))
        for name, (a, b, kind) in kinds.items()
    )
    text = written(tmp_path, [by_hand(make_log(falling()), phases=phases)])
    places = re.findall(r'<li class="(\S+)" title="([^"]+)" style="left:(\S+)%;width:(\S+)%"', text)
    assert [(a, b) for a, b, _, _ in places] == [
        ("is-inconclusive", "warm-up: inconclusive"),
        ("is-fine", "steady: fine"),
        ("is-plateau", "decay: plateau"),
    ]
    at = 0.0
    for _, _, left, width in places:
        assert float(left) == pytest.approx(at, abs=0.02)
        at += float(width)
    assert at == pytest.approx(100, abs=0.05)


def test_spikes_are_marked(tmp_path):
    """Which recovered differs by form, not by colour alone; where the axis ends is said."""
    spikes = (Spike(50.0, 900.0, 1.0, 3), Spike(100.0, np.inf, 1.0, None), Spike(9.0, 5.0, 1.0, 1))
    losses = with_values(with_values(falling(noise=0), 49, 900.0), slice(99, 101), np.inf)
    page = Parser(written(tmp_path, [by_hand(make_log(losses), spikes=spikes)]))
    used = Counter(a["href"] for a in page.all("use") if "%" in a["x"])
    assert used == {"#spike": 2, "#lost": 1, "#above": 1, "#infinite": 2}
    for words in (
        "spikes: 3, 1 did not recover",
        "usual again after 3 points",
        "not usual again",
        "usual again after 1 point",
        "above the axis",
        "step 50: 900",
        "not finite",
    ):
        assert words in page.text, words


def test_runs_are_ordered_by_rate(tmp_path):
    """In the table and the sections; those without a rate come last."""
    logs = [make_log(falling() + i, name=f"run {i}", rates=rate)
            for i, rate in enumerate([0.1, None, 0.001, 10])]  # fmt: skip
    text = written(tmp_path, [judge(log) for log in logs])
    order = re.findall(r'<td class="words" data-name="run"><a href="#run-\d">([^<]+)', text)
    assert order == ["run 2", "run 0", "run 3", "run 1"]
    assert re.findall(r"<h2[^>]*><span class=\"letter\">(.)</span> ([^<]+)", text) == [
        ("A", "run 2"), ("B", "run 0"), ("C", "run 3"), ("D", "run 1")
    ]  # fmt: skip
    page = Parser(text)
    styles = [a["class"] for a in page.all("path") if re.search(r" s\d", a.get("class", ""))]
    assert Counter(styles) == {f"line s{i} d{i}": 2 for i in range(4)}  # a line and its swatch


def test_panels_of_what_is_not_known_are_left_out(tmp_path):
    charts_of = lambda log: Parser(written(tmp_path, [judge(log)])).text  # noqa: E731
    bare, full = charts_of(LOGS["rates unknown"][0]), charts_of(LOGS["one run"][0])
    for words in ("Learning rate over steps", "Norm of the gradients over steps"):
        assert words not in bare
        assert words in full


def test_a_million_points(tmp_path):
    """A small page all the same, with each line's extremes in it."""
    count = 1_000_000
    losses = with_values(falling(count), 123_456, 2.9)
    log = make_log(losses, rates=0.1, norms=losses, **evaluated(falling(5000)))
    text = written(tmp_path, [by_hand(log)])
    assert len(text) < 300_000
    for path in Parser(text).all("path"):
        assert path["d"].count("L") <= charts.MOST_POINTS
    kept = charts.thin(losses)
    assert len(kept) <= charts.MOST_POINTS
    assert {0, 123_456, count - 1, int(losses.argmin())} <= set(kept.tolist())


def test_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="judged: got no run, wanted at least one"):
        pages.write_page([], tmp_path / "page.html")


BAD_PATHS = {
    "folder": lambda tmp: tmp,
    "folder missing": lambda tmp: tmp / "none" / "page.html",
    "folder is a file": lambda tmp: tmp / "file" / "page.html",
    "empty": lambda _: "",
    "name too long": lambda tmp: tmp / ("x" * 300),
    "no file": lambda _: "/dev/null",
    "cannot be written": lambda tmp: tmp / "locked.html",
}


@pytest.mark.parametrize("name", BAD_PATHS)
def test_bad_paths_are_refused(name, tmp_path):
    """With the path in the error; what is there stays as it is."""
    (tmp_path / "file").write_text("kept")
    locked = tmp_path / "locked.html"
    locked.write_text("kept")
    locked.chmod(0o444)
    if name == "cannot be written" and os.access(locked, os.W_OK):
        pytest.skip("root may write everywhere")
    if name == "no file" and not Path("/dev/null").exists():
        pytest.skip("no such device here")
    path = BAD_PATHS[name](tmp_path)
    for call in (pages.check_path, lambda path: pages.write_page([judge(make_log([1.0]))], path)):
        with pytest.raises(ValueError, match="path: got ") as error:
            call(path)
        assert str(Path(path)) in str(error.value)
        assert "wanted" in str(error.value)
    assert (tmp_path / "file").read_text() == locked.read_text() == "kept"


def test_check_path_leaves_nothing_behind(tmp_path):
    path = tmp_path / "page.html"
    assert pages.check_path(str(path)) == path
    assert not path.exists()
    link = tmp_path / "link.html"
    link.symlink_to(path)
    assert pages.check_path(link) == link
    assert link.is_symlink()
    assert not path.exists()
    path.write_text("old")
    assert pages.check_path(path) == path
    assert path.read_text() == "old"


@pytest.mark.parametrize("ends", [[1.0] * 9, [0.0] * 9, [0.5, 0.51, 0.52, 0.9, 0.0]])
def test_labels_stay_apart(ends, tmp_path):
    """Wherever their lines end, and within the chart."""
    logs = [make_log(np.linspace(2, end, 90), name=str(i)) for i, end in enumerate(ends)]
    text = written(tmp_path, [judge(log) for log in logs])
    places = sorted(float(y) for y in re.findall(r'<text class="label[^>]* y="(\S+)"', text))
    assert len(places) == len(ends)
    assert np.diff(places).min() >= charts.LETTERS - 0.11
    assert 0 <= places[0] <= places[-1] <= 320


# ---- axes ----


TICKS = [
    (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    (0.0, 2.35, False, [0, 0.5, 1, 1.5, 2]),
    (-3e-30, 3e-30, False, [-3e-30, -2e-30, -1e-30, 0, 1e-30, 2e-30, 3e-30]),
    (-3.0, 3.0, False, [-3, -2, -1, 0, 1, 2, 3]),
    (1.0, 1_000_000.0, False, [200_000, 400_000, 600_000, 800_000, 1_000_000]),
    (0.001, 10.0, True, [0.001, 0.01, 0.1, 1, 10]),
    (0.9, 30.0, True, [1, 2, 5, 10, 20]),
    (1e-9, 1e3, True, [1e-9, 1e-6, 1e-3, 1, 1000]),
    (1.0, 1.5, True, [1, 1.1, 1.2, 1.3, 1.4, 1.5]),
]


@pytest.mark.parametrize(("low", "high", "log", "ticks"), TICKS)
def test_ticks_are_round(low, high, log, ticks):
    assert charts.Axis(low, high, log).ticks() == ticks


AXES = {  # values, where the axis begins and ends about, and whether it is logarithmic
    "falling": (falling(), 0.2, 2.5, False),
    "one spike": (with_values(falling(), 100, 1e4), 0.2, 3.1, False),
    "a spike of twice the height": (with_values(falling(), 100, 5.0), 0.2, 5.2, False),
    "two decades": (np.geomspace(10, 0.01, 100), 0.0075, 13, True),
    "over zero": (np.linspace(1000, 0, 100), 0, 1050, False),
    "one far below": (with_values(falling(), 100, -1e6), -0.5, 2.5, False),
    "first is high": (with_values(falling(1000), slice(0, 5), 11.0), 0.2, 11.5, False),
    "infinite": (np.full(9, np.inf), 0, 1, False),
    "one value": (np.full(9, 5.0), 0, 10, False),
}


@pytest.mark.parametrize("name", AXES)
def test_axis_shows_what_is_usual(name):
    values, low, high, log = AXES[name]
    axis = charts.value_axis(values)
    assert axis.log == log
    height = high - low
    assert axis.low == pytest.approx(low, abs=0.15 * height if not log else 0.3 * low)
    assert axis.high == pytest.approx(high, abs=0.15 * height if not log else 0.3 * high)


NUMBERS = [
    (0.1, "0.1"), (1e-5, "1e-5"), (0.033333, "0.03333"), (1234567.0, "1.235e6"), (-2.0, "-2"),
    (12345.6, "12,346"), (np.inf, "infinite"), (np.nan, "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "words"), NUMBERS)
def test_numbers_read_well(value, words):
    assert charts.number(value) == words


# ---- colours ----


def themes():
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    light = dict(re.findall(r"--(\w+): (#\w{6})", light))
    return {"light": light, "dark": light | dict(re.findall(r"--(\w+): (#\w{6})", dark))}


def luminance(colour):
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrasts(theme):
    """Words by 4.5, lines by 3, as the web's guidelines ask for."""
    colours = themes()[theme]
    labels = [f"s{i}" for i in range(pages.DASHES)]
    tints = ["good", "up", "down", "bad", "still", "open"]
    for ground in ("page", "card"):
        for name in ("text", "quiet", "link", *labels):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for name in tints:
        assert contrast(colours["text"], colours[name]) >= 4.5, name
    for name in ("loss", "envelope", "rate", "norm", "warn"):
        assert contrast(colours[name], colours["card"]) >= 3, name
    assert contrast(colours["envelope"], colours["band"]) >= 3


def test_verdicts_differ_without_colour():
    """Each kind has a sign and a pattern of its own, each line a dash."""
    kinds = {*get_args(Kind), *ADVICE}
    patterns = dict(re.findall(r"\.is-([\w-]+) \{[^}]*--pattern:\s*([^;]+);", CSS))
    assert {kind.replace(" ", "-") for kind in kinds} == set(patterns)
    assert len(set(patterns.values())) == len(patterns)
    assert len({pages.SIGNS.get(kind, "?") for kind in kinds}) == len(kinds)
    dashes = re.findall(r"\.d\d \{ stroke-dasharray: ([^;]+);", CSS)
    assert len(set(dashes)) == len(dashes) == pages.DASHES - 1
    assert len({pages._style(i) for i in range(pages.DASHES**2)}) == pages.DASHES**2


# ---- a browser ----


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [380, 1280])
def test_in_a_browser(width, dark, tmp_path):
    """It is drawn, in its theme, its text can be seen, and nothing stands out at the side."""
    judged = [judge(log) for log in [*LOGS["one run"], *LOGS["two runs, one lost"]]]
    page = pages.write_page(judged, tmp_path / "page.html", title="Three runs")
    assert drawn_rows(page.as_uri(), tmp_path, width, dark) > 0.3

    # The same page, in a frame as wide, says what it measures of itself by a script of the test.
    inside = page.read_text(encoding="utf-8") + MEASURE
    asked = tmp_path / "asked.html"
    asked.write_text(
        f'<body style="margin:0"><output></output><iframe width="{width}" height="900" '
        f'style="border:0" srcdoc="{escape(inside)}"></iframe>',
        encoding="utf-8",
    )
    dom = browse(asked.as_uri(), tmp_path, max(width, 600), dark, "--dump-dom")
    measured = json.loads(unescape(dom.split("<output>")[1].split("</output>")[0]))
    words = measured.pop("words")
    assert measured == {"inner": width, "scroll": width, "outside": [], "lines": 22}
    for shown in ("Three runs", "diverging", "Because", "Loss", "not finite", "What was read"):
        assert shown in words


MEASURE = """<script>
document.querySelectorAll("details").forEach(one => { one.open = true; });
const seen = "h1,h2,td,dd,summary,figcaption,.tick,.label,.legend li,.badge";
const places = [...document.querySelectorAll(seen)].map(e => [e, e.getBoundingClientRect()]);
parent.document.querySelector("output").textContent = JSON.stringify({
  inner: innerWidth,
  scroll: document.documentElement.scrollWidth,
  outside: places.filter(([e, r]) => r.width && (r.left < 0 || r.right > innerWidth))
    .map(([e, r]) => e.textContent),
  lines: [...document.querySelectorAll("path.line")]
    .filter(e => e.getBoundingClientRect().width).length,
  words: document.body.innerText,
});
</script>
"""
