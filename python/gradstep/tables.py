"""Rows of text as an aligned table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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
