"""A page that shows what was judged of logged runs: one file that needs nothing else.

Data in, a file out. What colours say, words, dashes or patterns say too.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Sequence, Set
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np

from .charts import (
    Array,
    Axis,
    Band,
    Label,
    Line,
    Marks,
    Panel,
    beyond,
    number,
    step_axis,
    value_axis,
)
from .tables import html
from .tuning.curves import Judged, Phase, Spike, confidence
from .tuning.logs import Log
from .tuning.monitor import Verdict

SIGNS = {
    "too low": "↑",
    "too high": "↓",
    "diverging": "×",
    "plateau": "→",
    "fine": "✓",
    "spike": "▲",
}
NAMES = {  # of a verdict's numbers
    "sure": "how sure, from 0 to 1",
    "loss_start": "first loss",
    "loss": "last loss",
    "noise": "noise of the loss from point to point",
    "range": "how far the highest loss is above the lowest, by the fall (ln)",
    "slope": "fall per ln(step) of the last three quarters, by the whole fall",
    "first": "part of the fall within the first 2 % of the points",
    "early": "part of the fall within the first 5 % of the points",
    "trend": "fall of the second half, in standard errors (arsinh)",
    "growth": "growth of the noise, from the first third to the last (ln)",
    "echo": "correlation of neighbouring losses around their running mean",
    "positive": "whether all losses are above 0",
    "relative_noise": "noise by the loss itself, in the last third (ln)",
    "relative_growth": "growth of that noise (ln)",
    "grad_norm_growth": "growth of the gradients' norm, times",
}
DASHES = 6  # lines that the page's classes tell apart
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST_ROWS = 40  # of a table
MOST_LETTERS = 18  # of a label
ACCURACY = 0.02  # how near to a fraction a factor is told as one


def check_path(path: Path | str) -> Path:
    """The path of a page, if one can be written there.

    Raises:
        ValueError: its folder is missing, it is no file, or cannot be written.
    """
    path = Path(path)
    got = f"path: got {str(path)!r}"
    try:
        if path.is_dir():
            raise ValueError(f"{got}, a folder, wanted a file")
        if not path.parent.is_dir():
            raise ValueError(f"{got}, wanted a file in a folder that exists")
        before = path.exists()
        if before and not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{got}, which is no file, wanted one")
        with path.open("ab"):  # nothing else tells for sure
            pass
        if not before:
            path.resolve().unlink()  # a link that leads nowhere stays
    except OSError as error:
        raise ValueError(f"{got}, wanted a file that can be written: {error.strerror}") from error
    return path


def write_page(
    judged: Sequence[Judged], path: Path | str, *, title: str = "Is the rate right?"
) -> Path:
    """Write what is known of runs as one HTML file: verdicts, curves, numbers, what was read.

    It shows in any browser without a network, in a dark or light theme, on a narrow screen or a
    wide one.

    Args:
        judged: the runs; several are compared, from the lowest rate to the highest.
        path: the file to write; one that is there is replaced.
        title: the headline.

    Returns:
        `path`.

    Raises:
        ValueError: there is no run, or `path` cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from gradstep.pages import write_page
        >>> from gradstep.tuning.curves import judge
        >>> from gradstep.tuning.logs import Log
        >>> k, rates = np.arange(1.0, 201), np.full(200, 0.1)
        >>> log = Log("run", "made up", {"loss": "loss"}, k, 2 + k / 40, rates, rates * np.nan)
        >>> page = write_page([judge(log)], tempfile.mkdtemp() + "/page.html")
        >>> "diverging" in page.read_text(encoding="utf-8")
        True
    """
    path = check_path(path)
    if not judged:
        raise ValueError("judged: got no run, wanted at least one")
    runs = sorted(judged, key=lambda one: (math.isnan(_rate(one)), _rate(one)))
    parts = [*_head(title), *_top(title, runs)]
    if len(runs) > 1:
        parts += _overview(runs)
    for i, one in enumerate(runs):
        parts += _section(i, one, several=len(runs) > 1)
    parts.append("</main></body></html>\n")
    # A name may hold what UTF-8 cannot.
    path.write_text("\n".join(parts), encoding="utf-8", errors="backslashreplace")
    return path


# ---- the page ----


def _head(title: str) -> Iterator[str]:
    folder = resources.files(__package__)
    style = "".join(
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("charts.css", "pages.css")
    )
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{_text(title)}</title>\n<style>\n{style}</style></head>"


# What marks look like, once for all charts: what is open recovered, what is filled did not.
SYMBOLS = """\
<svg class="defs" width="0" height="0" aria-hidden="true"><defs>
<path id="spike" class="mark hollow" d="M0-14l6 10h-12z"/>
<path id="lost" class="mark full" d="M0-14l6 10h-12z"/>
<path id="evaluation" class="evaluation" d="M0-5l5 5l-5 5l-5-5z"/>
<path id="above" class="beyond" d="M-4 7l4-6l4 6"/>
<path id="below" class="beyond" d="M-4-7l4 6l4-6"/>
<path id="infinite" class="beyond" d="M-4 2l8 8m0-8l-8 8"/>
<path id="end" class="beyond" d="M-5-5l10 10m0-10l-10 10"/>
</defs></svg>"""


def _top(title: str, runs: Sequence[Judged]) -> Iterator[str]:
    yield "<body>"
    first = "overview" if len(runs) > 1 else "run-1"
    yield f'<a class="skip" href="#{first}">Skip to the verdict</a>'
    yield SYMBOLS
    yield f"<header><h1>{_text(title)}</h1></header><main>"


def _overview(runs: Sequence[Judged]) -> Iterator[str]:
    """All runs in one table and on common axes."""
    yield '<section id="overview" tabindex="-1" aria-labelledby="overview-name">'
    yield f'<h2 id="overview-name">{len(runs)} runs, from the lowest rate to the highest</h2>'
    rows = [
        [
            _swatch(i) + _letter(i),
            f'<a href="#run-{i + 1}">{_text(one.log.name)}</a>',
            _known(_rate(one)),
            _known(_last(one.log.losses)),
            _badge(one.verdict),
            _sure(one.verdict),
        ]
        for i, one in enumerate(runs)
    ]
    header = ["line", "run", "rate", "last loss", "verdict", "how sure"]
    yield html("Runs", header, rows, numbers={2, 3})
    if any(len(one.log.steps) for one in runs):
        yield _together(runs)
    yield "</section>"


def _swatch(i: int) -> str:
    line = f'<path class="line {_style(i)}" d="M0 5h34"/>'
    return f'<svg class="swatch" width="34" height="10" aria-hidden="true">{line}</svg>'


def _together(runs: Sequence[Judged]) -> str:
    """The runs' losses on common axes, each without its noise."""
    known = [(i, one, _without_noise(one, _style(i))) for i, one in enumerate(runs)]
    known = [(i, one, line) for i, one, line in known if len(line.steps)]
    calm = [line.values for _, one, line in known if one.verdict.kind != "diverging"]
    axis = value_axis(np.concatenate(calm or [np.empty(0), *(line.values for *_, line in known)]))
    labels, ends = [], []
    for i, one, line in known:
        rate = _rate(one)
        rest = _short(one.log.name) if math.isnan(rate) else f"rate {number(rate)}"
        inside = np.flatnonzero(line.values <= axis.high)
        at = int(inside[-1]) if len(inside) else 0
        labels.append(
            Label(float(line.steps[at]), float(line.values[at]), _letter(i), rest, _style(i))
        )
        if len(line.steps) < len(one.log.steps):
            ends.append((line.steps[-1], line.values[-1], f"{_letter(i)}: not finite from here on"))
    words = "; ".join(
        f"{_letter(i)}, {one.log.name}: {_range(one.log.losses)}" for i, one in enumerate(runs)
    )
    steps = step_axis(np.concatenate([one.log.steps for one in runs]))
    x, y = np.array([end[:2] for end in ends]).reshape(-1, 2).T
    panel = Panel(
        "together", "Losses of all runs", words, min(max(320, 16 * len(runs)), 640), steps, axis,
        lines=[line for *_, line in known], labels=labels,
        marks=[Marks(x, y, "end", [end[2] for end in ends])],
    )  # fmt: skip
    units = " or ".join(f"{unit}s" for unit in sorted({one.log.unit for one in runs}))
    legend = [('<use href="#end" x="17" y="9"/>', "not finite from here on")] if ends else []
    return (
        f'<figure class="labelled"><figcaption>Loss{_logarithmic(axis)} over {units}, without its '
        f"noise</figcaption>\n{panel.svg()}\n{_legend(legend)}</figure>"
    )


def _without_noise(one: Judged, style: str) -> Line:
    """A run's loss up to the last that is finite."""
    finite = np.flatnonzero(np.isfinite(one.log.losses))
    count = int(finite[-1]) + 1 if len(finite) else 0
    return Line(one.log.steps[:count], one.middle[:count], style)


def _short(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else f"…{name[1 - MOST_LETTERS :]}"


def _section(i: int, one: Judged, *, several: bool) -> Iterator[str]:
    """One run: the verdict, its curves, what it rests on."""
    log, key = one.log, f"run-{i + 1}"
    yield f'<section id="{key}" tabindex="-1" aria-labelledby="{key}-name">'
    letter = f'<span class="letter">{_letter(i)}</span> ' if several else ""
    yield f'<h2 id="{key}-name">{letter}{_text(log.name)}</h2>'
    yield from _verdict(one)
    if len(log.steps):
        yield from _figures(key, one)
        yield from _details(one)
    yield "</section>"


# ---- the verdict ----


def _verdict(one: Judged) -> Iterator[str]:
    verdict = one.verdict
    yield f'<div class="verdict {_kind(verdict)}">{_badge(verdict)}<dl>'
    rows = [
        ("How sure", _sure(verdict)),
        ("Because", _text(verdict.reason)),
        ("Try", _try(one)),
    ]
    if one.spikes:
        count, lost = len(one.spikes), sum(spike.recovered is None for spike in one.spikes)
        became = f"{lost} did not recover" if lost else "all recovered"
        rows.append(("Besides", f"spikes: {count}, {became}"))
    yield from (f"<dt>{name}</dt><dd>{words}</dd>" for name, words in rows)
    yield "</dl></div>"


def _try(one: Judged) -> str:
    """What to try, with the rate that comes of it."""
    verdict, words = one.verdict, _text(one.advice)
    if verdict.factor == 1:
        return words
    factor = number(verdict.factor)
    if verdict.factor < 1 and abs(1 / verdict.factor - round(1 / verdict.factor)) < ACCURACY:
        factor = f"1/{1 / verdict.factor:.0f}"
    rate = _rate_at(one.log, verdict.step)
    if math.isnan(rate):
        return f"{words}: the rate × {factor}"
    new = f"<strong>{number(float(f'{rate * verdict.factor:.2g}'))}</strong>"
    return f"{words}: {number(rate)} × {factor} = {new}"


def _rate_at(log: Log, step: float) -> float:
    """The rate of which a verdict speaks; NaN: not known."""
    at = int(np.searchsorted(log.steps, step, side="right")) - 1
    return float(log.rates[max(at, 0)]) if len(log.rates) else math.nan


def _sure(verdict: Verdict) -> str:
    """How sure a verdict is, as a word, with so many of three dots."""
    word = confidence(verdict)
    filled = ["none", "low", "medium", "high"].index(word)
    dots = f'<span class="dots" aria-hidden="true">{"●" * filled}{"○" * (3 - filled)}</span>'
    sure = verdict.numbers.get("sure", 0.0)
    return f"{dots} {word}" + (f" ({sure:.2f})" if word != "none" else "")


def _badge(verdict: Verdict) -> str:
    sign = SIGNS.get(verdict.kind, "?")
    return (
        f'<span class="badge {_kind(verdict)}"><span aria-hidden="true">{sign}</span> '
        f"{_text(verdict.kind)}</span>"
    )


# ---- the curves ----


def _figures(key: str, one: Judged) -> Iterator[str]:
    """Phases, loss, rate and norm over one axis of steps."""
    log = one.log
    steps = step_axis(log.steps)
    yield '<div class="figures">'
    yield from _strip(one, steps)
    yield _losses(f"{key}-loss", one, steps)
    for name, title, values, log_from in (
        ("rate", "Learning rate", log.rates, 10.0),
        ("norm", "Norm of the gradients", log.grad_norms, 100.0),
    ):
        if np.isfinite(values).any():
            axis = value_axis(values, log_from=log_from)
            panel = Panel(
                f"{key}-{name}", title, _range(values), 110, steps, axis,
                lines=[Line(log.steps, values, name)], marks=beyond(log.steps, values, axis),
            )  # fmt: skip
            yield _figure(title, axis, panel, log.unit)
    yield "</div>"


def _losses(key: str, one: Judged, steps: Axis) -> str:
    """The loss with all that was found in it."""
    log = one.log
    axis = value_axis(np.concatenate([log.losses, log.evaluations]))
    marks = [*beyond(log.steps, log.losses, axis), _evaluations(log, steps), *_spikes(one.spikes)]
    kind: str = one.verdict.kind
    still = one.plateau if kind == "plateau" else None
    low = np.where(np.isfinite(log.losses), one.low, np.nan)
    panel = Panel(
        key, "Loss", _range(log.losses), 280, steps, axis,
        bands=[Band(log.steps, low, one.high, "band")],
        lines=[
            Line(log.steps, log.losses, "loss"),
            Line(log.steps, one.envelope, "envelope"),
            Line(log.evaluation_steps, log.evaluations, "evaluated"),
        ],
        marks=marks,
        uprights=[] if still is None else [(still, "no fall from here on")],
    )  # fmt: skip
    there = {marks.symbol for marks in marks if len(marks.steps)}
    legend = [
        ('<path class="line loss" d="M2 9h30"/>', "each point"),
        ('<path class="line envelope" d="M2 9h30"/>', "lowest so far, without noise"),
        ('<path class="band" d="M2 3h30v12h-30z"/>', "noise"),
        *(
            (f'<use href="#{symbol}" x="17" y="{y}"/>', words)
            for symbol, y, words in LEGEND
            if symbol in there
        ),
    ]
    return _figure("Loss", axis, panel, log.unit, _legend(legend))


LEGEND = (
    ("evaluation", 9, "loss of other data"),
    ("spike", 18, "spike that recovered"),
    ("lost", 18, "spike that did not"),
    ("above", 5, "above the axis"),
    ("below", 13, "below the axis"),
    ("infinite", 3, "not finite"),
)


def _evaluations(log: Log, steps: Axis) -> Marks:
    """Losses of other data: some, evenly, where there are many."""
    inside = (log.evaluation_steps >= steps.low) & (log.evaluation_steps <= steps.high)
    at = np.flatnonzero(inside & ~np.isnan(log.evaluations))
    at = at[np.unique(np.linspace(0, len(at) - 1, MOST_ROWS).astype(np.intp))] if len(at) else at
    words = [f"other data: {number(value)}" for value in log.evaluations[at].tolist()]
    return Marks(log.evaluation_steps[at], log.evaluations[at], "evaluation", words)


def _spikes(spikes: Sequence[Spike]) -> Iterator[Marks]:
    """The highest of them."""
    highest = sorted(spikes, key=lambda spike: -spike.loss)[:100]
    for symbol, chosen in (
        ("spike", [spike for spike in highest if spike.recovered is not None]),
        ("lost", [spike for spike in highest if spike.recovered is None]),
    ):
        words = [
            f"step {number(spike.step)}: {number(spike.loss)}, usual {number(spike.usual)}; "
            f"{_recovered(spike)}"
            for spike in chosen
        ]
        steps = np.array([spike.step for spike in chosen])
        yield Marks(steps, np.array([spike.loss for spike in chosen]), symbol, words)


def _recovered(spike: Spike) -> str:
    if spike.recovered is None:
        return "not usual again"
    return f"usual again after {spike.recovered} point{'s' * (spike.recovered != 1)}"


def _figure(title: str, axis: Axis, panel: Panel, unit: str, legend: str = "") -> str:
    caption = f"{title}{_logarithmic(axis)} over {unit}s"
    return f"<figure><figcaption>{caption}</figcaption>\n{panel.svg()}\n{legend}</figure>"


def _logarithmic(axis: Axis) -> str:
    return " (logarithmic)" if axis.log else ""


def _legend(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    items = "".join(
        f'<li><svg width="34" height="18" aria-hidden="true">{picture}</svg>{words}</li>'
        for picture, words in rows
    )
    return f'<ul class="legend">{items}</ul>'


def _strip(one: Judged, steps: Axis) -> Iterator[str]:
    """The phases over the same steps, each in its verdict's colour and pattern."""
    log = one.log
    bars, at = [], 0.0
    for phase in one.phases:
        ends = np.array([log.steps[phase.begin], log.steps[min(phase.end, len(log.steps) - 1)]])
        begin, end = (100 * steps.at(ends)).tolist()
        begin, at, width = max(begin, at), end, end - max(begin, at)
        if len(log.steps) == 1:
            begin, width = 0.0, 100.0
        name, kind = _name(phase), _text(phase.verdict.kind)
        bars.append(
            f'<li class="{_kind(phase.verdict)}" title="{name}: {kind}" '
            f'style="left:{begin:.2f}%;width:{width:.2f}%">'
            f'<span class="words"><span class="name">{name}: </span>{kind}</span></li>'
        )
    yield "<figure><figcaption>Phases, and what each says</figcaption>"
    yield f'<ol class="strip">{"".join(bars)}</ol></figure>'


# ---- tables ----


def _details(one: Judged) -> Iterator[str]:
    log = one.log
    rows = [
        [
            f'<span class="key {_kind(phase.verdict)}" aria-hidden="true"></span> {_name(phase)}',
            f"{_plain(log.steps[phase.begin])} to {_plain(log.steps[phase.end - 1])}",
            _badge(phase.verdict),
            _sure(phase.verdict),
            _text(phase.verdict.reason),
        ]
        for phase in one.phases
    ]
    yield html("Phases", ["phase", f"{log.unit}s", "verdict", "how sure", "because"], rows)
    pairs = one.verdict.numbers.items()
    rows = [
        [_text(NAMES.get(name, name.replace("_", " "))), number(value)] for name, value in pairs
    ]
    yield _folded("Numbers that the verdict rests on", ["number", "value"], rows, numbers={1})
    if one.spikes:
        rows = [
            [_plain(spike.step), number(spike.loss), number(spike.usual), _recovered(spike)]
            for spike in one.spikes[:MOST_ROWS]
        ]
        title = f"Spikes: {_of(len(rows), len(one.spikes))}"
        yield _folded(title, [log.unit, "loss", "usual", "then"], rows, numbers={0, 1, 2})
    yield _points(log)
    yield _read(log)


def _points(log: Log) -> str:
    """Some of the points, evenly."""
    at = np.unique(np.linspace(0, len(log.steps) - 1, MOST_ROWS).astype(np.intp)).tolist()
    columns = {log.unit: log.steps, "loss": log.losses}
    columns |= {"rate": log.rates} if log.has_rates else {}
    columns |= {"norm": log.grad_norms} if np.isfinite(log.grad_norms).any() else {}
    rows = [
        [
            _plain(values[i]) if name == log.unit else number(values[i])
            for name, values in columns.items()
        ]
        for i in at
    ]
    title = f"Points: {_of(len(at), len(log.steps))}"
    return _folded(title, list(columns), rows, numbers=set(range(len(columns))))


def _of(shown: int, count: int) -> str:
    return f"{count}" if shown == count else f"{shown} of {count:,}"


def _read(log: Log) -> str:
    """What was read: how and from where."""
    points = f"{len(log.steps):,}, {log.unit} {_plain(log.steps[0])} to {_plain(log.steps[-1])}"
    if log.total is not None:
        points += f" of {log.total:,}"
    rows = [("log", log.name), ("written by", log.kind), ("points", points)]
    if len(log.evaluations):
        rows.append(("losses of other data", f"{len(log.evaluations):,}"))
    rows += [(f"column of {role.replace('_', ' ')}", name) for role, name in log.columns.items()]
    rows += [("note", note) for note in log.notes]
    cells = [[_text(name), _text(words)] for name, words in rows]
    return _folded("What was read", ["what", "how"], cells)


def _folded(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *,
    numbers: Set[int] = frozenset(),
) -> str:  # fmt: skip
    """A table that is shown where asked for."""
    table = html(title, header, rows, numbers=numbers)
    return f"<details><summary>{_text(title)}</summary>{table}</details>"


# ---- words ----


def _text(words: str) -> str:
    """As HTML shows it literally, in an attribute too."""
    return escape(str(words))


def _plain(step: float) -> str:
    """A step or epoch with all its digits."""
    return f"{step:,.0f}" if step == int(step) else f"{step:,.6g}"


def _known(value: float) -> str:
    return "not known" if math.isnan(value) else number(value)


def _name(phase: Phase) -> str:
    return "whole run" if phase.name == "all" else _text(phase.name)


def _kind(verdict: Verdict) -> str:
    """The page's class of a verdict."""
    return f"is-{verdict.kind.replace(' ', '-')}"


def _letter(i: int) -> str:
    return LETTERS[i] if i < len(LETTERS) else str(i + 1)


def _style(i: int) -> str:
    return f"s{i % DASHES} d{(i + i // DASHES) % DASHES}"


def _rate(one: Judged) -> float:
    """The highest rate of a run; NaN where none is known."""
    known = one.log.rates[np.isfinite(one.log.rates)]
    return float(known.max()) if len(known) else math.nan


def _first(values: Array) -> float:
    return float(values[0]) if len(values) else math.nan


def _last(values: Array) -> float:
    return float(values[-1]) if len(values) else math.nan


def _range(values: Array) -> str:
    """Values in words, for who does not see the line."""
    known = values[np.isfinite(values)]
    words = f"from {number(_first(values))} to {number(_last(values))}"
    if len(known):
        words += f"; lowest {number(float(known.min()))}, highest {number(float(known.max()))}"
    if len(known) < len(values):
        words += f"; not finite at {len(values) - len(known)} points"
    return words
