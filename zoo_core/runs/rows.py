"""Rows of a result, for data frames, and the short table that a notebook shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Cell: TypeAlias = str | float | int | bool | None
Row: TypeAlias = dict[str, Cell]

MOST_ROWS = 30
"""Rows of a table that is shown without being asked for."""


def text_table(title: str, rows: Sequence[Mapping[str, Cell]], columns: Sequence[str] = ()) -> str:
    """Lay out rows below a title: text to the left, numbers to the right, floats with four decimals.

    Args:
        title: First line.
        rows: All with the same keys; beyond ``MOST_ROWS`` only their number is given.
        columns: Keys to show, in order; empty for all.
    """
    if not rows:
        return title
    names = list(columns or rows[0])
    cells = [names, *([_text(row[name]) for name in names] for row in rows[:MOST_ROWS])]
    widths = [max(len(line[index]) for line in cells) for index in range(len(names))]
    left = [all(isinstance(row[name], str) for row in rows) for name in names]
    lines = [
        "  ".join(
            cell.ljust(width) if flush else cell.rjust(width)
            for cell, width, flush in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    ]
    more = [f"and {len(rows) - MOST_ROWS} more rows"] if len(rows) > MOST_ROWS else []
    return "\n".join([title, *lines, *more])


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)
