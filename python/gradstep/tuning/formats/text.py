"""Text with a loss in its lines, as a print loop, `logging` and tqdm write it."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from ..columns import (
    NUMBER,
    SUMMARIES,
    Chosen,
    choose,
    has_decimal_comma,
    meaning,
    number,
    plain,
)  # fmt: skip
from ..finding import Refused
from ..logs import Log, Rows, finish
from .common import SAMPLE, Asked, Held, Reader, refused

NAME = r"[A-Za-z_][\w/.\-]*"
KEY = re.compile(
    rf"(?<![\w/.\-])(?P<name>{NAME}(?: {NAME})?)(?:['\"]?\]?\s*[:=]\s*|\s+)[\[(#]?\s*"
    rf"['\"]?{NUMBER}(?:\s*/\s*\d+)?(?!:\d|\w|\.\w)"
)
LONG = 2000  # characters of a line that is looked at
BEFORE = SUMMARIES | {"param", "params", "weight", "weights"}  # they make it another number
NO_NAMES = {"and", "at", "has", "is", "of", "the", "with", "a", "an", "current", "now"}
BAR = re.compile(r"(\d+)/(\d+) (?:\[|━)")
BAR_NAME = "progress"


def read_text(name: str, asked: Asked) -> Reader:
    """Text with a loss in its lines; all other lines are passed over."""
    return Held(name, 2 * SAMPLE, partial(_Text, name, asked))


class _Text:
    """Text, by the names in its first lines."""

    def __init__(self, name: str, asked: Asked, begin: list[str]) -> None:
        lines = [line for line in begin[: 2 * SAMPLE] if len(line) <= LONG]
        patterns, self._chosen = _patterns(name, lines, asked)
        totals = [m[2] for x in lines if (p := patterns.get("step")) and (m := p.search(x))]
        self._total = int(totals[-1].replace(",", "")) if totals and totals[-1] else None
        self._name = name
        self._columns = {role: array("d") for role in patterns}
        self._find = {role: pattern.search for role, pattern in patterns.items() if role != "loss"}
        self._find_loss = patterns["loss"].search
        self._decimal_comma = any(
            has_decimal_comma(m[1] for line in lines if (m := pattern.search(line)))
            for role, pattern in patterns.items()
            if role not in ("step", "epoch")
        )
        self._quick, self._order = _joined(patterns, lines)
        self.take(begin)

    def take(self, lines: list[str]) -> None:
        lines = [line for line in lines if len(line) <= LONG]
        table = _table(self._quick, lines)
        if table is not None:
            for role, column in self._columns.items():
                column.extend(table[self._order.index(role)])
            return
        for line in lines:
            found = self._find_loss(line)
            others = [(role, m) for role, search in self._find.items() if (m := search(line))]
            if found is None and not any(
                role in ("evaluation", "epoch", "lr") for role, _ in others
            ):
                continue
            values = {role: _text_number(m[1], self._decimal_comma, role) for role, m in others}
            if found is not None:
                values["loss"] = _text_number(found[1], self._decimal_comma, "loss")
            for role, column in self._columns.items():
                column.append(values.get(role, math.nan))

    def logs(self, notes: Sequence[str] = ()) -> tuple[Log, ...]:
        rows = Rows()
        rows.take(self._columns, len(self._columns["loss"]))
        return (finish(self._name, "text", self._chosen, rows, total=self._total, notes=notes),)


def _joined(
    patterns: Mapping[str, re.Pattern[str]], lines: Sequence[str]
) -> tuple[re.Pattern[str] | None, list[str]]:
    """One pattern for a line that has all, in the order of the first such line; None: it varies."""
    whole = [
        places
        for line in lines
        if len(places := {r: m.start(1) for r, p in patterns.items() if (m := p.search(line))})
        == len(patterns)
    ]
    if 2 * len(whole) < len(lines):
        return None, []
    order = sorted(whole[0], key=whole[0].__getitem__)
    text = ".*?".join(_one_group(patterns[role].pattern) for role in order)
    return re.compile(f"^.*?{text}", re.MULTILINE), order


def _one_group(pattern: str) -> str:
    """A pattern without its second group, a total."""
    return pattern.replace(r"(?:\s*/\s*(\d[\d,]*))?", "").replace(r"/(\d+)", r"/\d+")


def _table(pattern: re.Pattern[str] | None, lines: Sequence[str]) -> list[list[float]] | None:
    """The numbers of many lines by column; None where they are to be looked at one by one."""
    if pattern is None:
        return None
    found = pattern.findall("\n".join(lines))
    if len(found) != len(lines) or not found:
        return None
    columns = [found] if isinstance(found[0], str) else zip(*found, strict=True)
    try:
        table = [list(map(float, column)) for column in columns]
    except ValueError:  # a comma in a number
        return None
    return table if all(map(math.isfinite, map(math.fsum, table))) else None


def _text_number(text: str, decimal_comma: bool, role: str) -> float:
    if "," not in text:
        value = float(text)
        return value if math.isfinite(value) else math.inf
    return number(text, decimal_comma and role not in ("step", "epoch"))


def _patterns(
    name: str, lines: Sequence[str], asked: Asked
) -> tuple[dict[str, re.Pattern[str]], Chosen]:
    """What finds the number of each role in a line, by the names in the first of them."""
    seen: Counter[str] = Counter()  # how often a name stands before a number
    for line in lines:
        for found in KEY.finditer(line[:LONG]):
            seen[_name(found["name"])] += 1
        seen[BAR_NAME] += bool(BAR.search(line))
    for title in asked.values():  # whatever stands before a number
        if any(title in line for line in lines):
            seen.setdefault(title, 0)
    try:
        chosen = choose(seen, asked, seen)
    except LookupError as error:
        raise refused(name, error, _first(lines)) from None
    if "loss" not in chosen.names:
        raise Refused(
            f"{name}: got text without a loss (looked for 'loss 3.2', 'loss: 3.2', 'loss=3.2' and "
            f"other names with loss), found {_first(lines)}, wanted --loss NAME of what stands "
            "before the number"
        )
    while True:
        names = dict(chosen.names)
        if "step" not in names and seen[BAR_NAME]:
            names["step"] = (BAR_NAME,)
        patterns = {role: _pattern(titles[0], seen) for role, titles in names.items()}
        if "step" not in chosen.names or "step" in asked:
            return patterns, Chosen(names)
        with_loss = [line for line in lines if patterns["loss"].search(line)]
        if 2 * sum(1 for line in with_loss if patterns["step"].search(line)) >= len(with_loss):
            return patterns, Chosen(names)
        del seen[names["step"][0]]  # it counts where there is no loss
        chosen = choose(seen, asked, seen)


def _name(title: str) -> str:
    """What a key is called: of "train loss" or "best loss" both words, of "at step" the last."""
    first, space, last = title.partition(" ")
    if not space or plain(first) in BEFORE:
        return title
    both = meaning(title)
    if both is None or plain(first) in NO_NAMES:
        return last
    if both.rank >= 8 and not first.islower():  # "INFO loss"
        return last
    return title


def _pattern(title: str, seen: Mapping[str, int]) -> re.Pattern[str]:
    if title == BAR_NAME:
        return BAR
    # A name that others end with is to stand alone; looking back is slow, and else not needed.
    alone = any(other != title and other.endswith(title) for other in seen)
    short = len(title) <= 2 or plain(title) in ("step", "iter", "epoch", "norm")
    before = r"(?<![\w/.\-])" if alone or short else ""
    if alone and " " not in title:  # "val loss" is not "loss"
        pairs = {other for other in seen if other.endswith(f" {title}")}
        before += "".join(f"(?<!{re.escape(other[: -len(title)])})" for other in sorted(pairs))
    return re.compile(
        rf"{before}{re.escape(title)}['\"]?\]?\s*[:=|]?\s*[\[(#]?\s*['\"]?({NUMBER})(?:\s*/\s*(\d[\d,]*))?"
    )


def _first(lines: Sequence[str]) -> str:
    shown = [line.strip()[:80] for line in lines if line.strip()][:3]
    return "the lines " + " | ".join(map(repr, shown)) if shown else "no line"
