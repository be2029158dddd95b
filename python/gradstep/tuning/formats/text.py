"""Text with a loss in its lines, as a print loop, `logging` and tqdm write it."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TextIO

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
from .common import SAMPLE, UNFINISHED, Asked, lines_of, refused

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


def read_text(name: str, file: TextIO, asked: Asked) -> tuple[Log, ...]:
    """Text with a loss in its lines; all other lines are passed over."""
    blocks = lines_of(file)
    sample = _sample(blocks)
    first = islice(chain.from_iterable(lines for lines, _ in sample), 2 * SAMPLE)
    lines = [line for line in first if len(line) <= LONG]
    patterns, chosen = _patterns(name, lines, asked)
    rows = Rows()
    totals = [m[2] for x in lines if (p := patterns.get("step")) and (m := p.search(x))]
    total = int(totals[-1].replace(",", "")) if totals and totals[-1] else None
    notes: list[str] = []
    columns = {role: array("d") for role in patterns}
    find = {role: pattern.search for role, pattern in patterns.items() if role != "loss"}
    find_loss = patterns["loss"].search
    decimal = any(
        has_decimal_comma(m[1] for line in lines if (m := pattern.search(line)))
        for role, pattern in patterns.items()
        if role not in ("step", "epoch")
    )
    quick, order = _joined(patterns, lines)
    for whole, ended in chain(sample, blocks):
        if not ended:
            notes.append(UNFINISHED)
            continue
        lines = [line for line in whole if len(line) <= LONG]
        table = _table(quick, lines)
        if table is not None:
            for role, column in columns.items():
                column.extend(table[order.index(role)])
            continue
        for line in lines:
            found = find_loss(line)
            others = [(role, m) for role, search in find.items() if (m := search(line))]
            if found is None and not any(
                role in ("evaluation", "epoch", "lr") for role, _ in others
            ):
                continue
            values = {role: _text_number(m[1], decimal, role) for role, m in others}
            if found is not None:
                values["loss"] = _text_number(found[1], decimal, "loss")
            for role, column in columns.items():
                column.append(values.get(role, math.nan))
    rows.take(columns, len(columns["loss"]))
    return (finish(name, "text", chosen, rows, total=total, notes=notes),)


def _sample(blocks: Iterator[tuple[list[str], bool]]) -> list[tuple[list[str], bool]]:
    """The first blocks, with lines enough to tell which numbers there are."""
    sample, count = [], 0
    for block in blocks:
        sample.append(block)
        count += len(block[0])
        if count >= SAMPLE:
            break
    return sample


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
