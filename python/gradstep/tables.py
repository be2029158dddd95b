"""Rows as a table: text in aligned columns, or HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from html import escape


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = (), right: str = "") -> str:
    """Align `rows` in columns that are two spaces apart.

    Args:
        rows: the cells, all rows of one length; an empty row is an empty line.
        header: the columns' names, ruled off from the rows; none for a plain list.
        right: one character per column: `>` aligns to the right, anything else to the left,
            as do the columns beyond its end.

    Returns:
        The lines joined by newlines, without a trailing newline or trailing spaces.
    """
    body = [tuple(row) for row in rows]
    lines = [tuple(header), *body] if header else body
    widths = [max(map(len, column)) for column in zip(*filter(None, lines), strict=True)]
    if header:
        lines.insert(1, tuple("─" * width for width in widths))
    sides = right.ljust(len(widths))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if side == ">" else cell.ljust(width)
            for cell, width, side in zip(line, widths, sides, strict=False)
        ).rstrip()
        for line in lines
    )


def html(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *,
    numbers: Set[int] = frozenset(),
) -> str:  # fmt: skip
    """A table of cells that are HTML, under a caption and a header of text.

    Args:
        caption, header, rows: what it holds, all rows as long as the header.
        numbers: the columns that stand to the right.
    """
    side = ['class="number"' if i in numbers else 'class="words"' for i in range(len(header))]
    names = [escape(name) for name in header]
    head = "".join(f'<th scope="col" {a}>{name}</th>' for a, name in zip(side, names, strict=True))
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td {a} data-name="{name}">{cell}</td>'
            for a, name, cell in zip(side, names, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    wide = "" if len(header) < 5 else ' class="stacked"'  # on a narrow screen
    return (
        f'<div class="scroll"><table{wide}><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )
