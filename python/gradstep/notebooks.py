"""What a notebook shows of a value: HTML and SVG that need nothing else, on light and on dark.

A value's ``_repr_html_`` gives what these make. It is imported only then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import replace
from html import escape
from importlib import resources
from typing import Any, TypeVar
from zlib import crc32

from . import tables
from .charts import Panel, number

T = TypeVar("T")

WIDTH = 640  # of a picture on its own, in pixels
LEFT, RIGHT, ABOVE = 64, 24, 14  # around the axes in it
MOST_LETTERS = 400  # of a caption
# Notebooks have tables look as theirs do, with all cells to the right.
TABLE = """
.gradstep caption { text-align: left; font-weight: 600; }
.gradstep th.words, .gradstep td.words { text-align: left; }
"""


def whatever_comes(draw: Callable[[T], str | None]) -> Callable[[T], str | None]:
    """A display method that gives None instead of an error: then the value's text is shown."""

    @functools.wraps(draw)
    def method(value: T) -> str | None:
        try:
            return draw(value)
        except Exception:  # to look at a value must not end a cell
            return None

    return method


def table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], *,
    numbers: Set[int] = frozenset(),
) -> str:  # fmt: skip
    """A table of texts, which are shown as they are; see :func:`tables.html`."""
    cells = [[_text(cell) for cell in row] for row in rows]
    made = tables.html(_plain(caption), header, cells, numbers=numbers)
    return f'<div class="gradstep"><style>{TABLE}</style>{made}</div>'


def named(caption: str, values: dict[str, Any]) -> str:
    """A table of names and values; None, what is not known, is left out."""
    rows = [(name, words(value)) for name, value in values.items() if value is not None]
    return table(caption, ["name", "value"], rows)


@whatever_comes
def report(step: Any) -> str:
    """A step's report: what was measured, of all groups and, where that is known, of each."""
    known = {name: value for name, value in step.to_dict().items() if name != "groups"}
    groups = [group._asdict() for group in step.groups or ()]
    if len(groups) < 2:
        return named("Report", known)
    rates = step.lr if isinstance(step.lr, tuple) else (step.lr,) * len(groups)
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    if isinstance(step.lr, tuple):
        known["lr"] = None
    rows = [[name, *(words(part.get(name)) for part in (known, *groups))] for name in known]
    header = ["name", "all groups", *(f"group {i}" for i in range(len(groups)))]
    return table("Report", header, rows, numbers=set(range(1, len(header))))


def words(value: object) -> str:
    """A value as a cell shows it; None is empty."""
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return ", ".join(map(words, value))
    return number(value) if isinstance(value, float) else str(value)


def chart(panel: Panel, caption: str) -> str:
    """A panel over its caption, as wide as the cell."""
    return (
        f'<div class="gradstep"><style>.gradstep {{\n{_style()}}}</style>'
        f"<figure>{_alone(panel).svg()}<figcaption>{_short(caption)}</figcaption></figure></div>"
    )


def picture(panel: Panel) -> str:
    """A panel as an SVG file, on white."""
    height = panel.height + ABOVE + 30
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="gradstep" {size} color="#1b1f24">'
        f"<style>.gradstep {{\n{_style()}}}</style>"
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<svg x="{LEFT}" y="{ABOVE}" width="{WIDTH - LEFT - RIGHT}" height="{height}">'
        f"{_alone(panel).svg()}</svg></svg>"
    )


@functools.cache
def _style() -> str:
    """The classes of charts; a browser applies them within what they stand in."""
    folder = resources.files(__package__)
    return "".join(
        folder.joinpath(name).read_text(encoding="utf-8")
        for name in ("charts.css", "notebooks.css")
    )


def _alone(panel: Panel) -> Panel:
    """With names that no chart of another cell has."""
    panel = replace(panel, words=_plain(panel.words))
    return replace(panel, key=f"gradstep-{crc32(repr(panel).encode()):08x}")


def _short(text: str) -> str:
    return _text(text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…")


def _text(text: str) -> str:
    return escape(_plain(text))


def _plain(text: str) -> str:
    """A text without what UTF-8 or XML cannot hold, which no browser could be sent."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in shown)
