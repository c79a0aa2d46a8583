"""Numbers as people read them."""

from __future__ import annotations


def percent(value: float | None, *, digits: int = 2) -> str:
    """Format a value in ``[0, 1]`` in percent; a dash where it is undefined."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None, *, digits: int = 2) -> str:
    """Format a difference in percentage points with its sign; a dash where it is undefined."""
    # Rounded before the sign is chosen: what prints as zero has no minus.
    return "-" if value is None else f"{round(value, digits) + 0.0:+.{digits}f}"


def counted(number: int, noun: str) -> str:
    """Return ``1 plugin`` or ``2 plugins``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
