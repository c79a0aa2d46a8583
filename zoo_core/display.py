"""Numbers and texts as people read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

DASH = "\N{EN DASH}"
"""Printed on a page where there is no value."""

MINUS = "\N{MINUS SIGN}"
"""The sign of a negative number on a page; a hyphen is too short beside a plus."""


def printable(text: str) -> str:
    r"""Replace characters that a terminal could obey, or that nobody sees, by escapes like ``\u001b``.

    Line breaks, tabs and spaces stay. The escapes are those of JSON: JSON text keeps its meaning.
    """
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t" or _is_visible(char) else _escape(char) for char in text)


def _is_visible(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


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


def page_percent(value: float | None) -> str:
    """Format as ``percent`` does, with the dash of a page."""
    return DASH if value is None else percent(value)


def page_points(value: float | None) -> str:
    """Format as ``points`` does, with the dash and the minus of a page."""
    return DASH if value is None else points(value).replace("-", MINUS)


def joined(names: Sequence[str], most: int = 8) -> str:
    """Join names with commas; beyond ``most`` only their number is given."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def nonfinite_text(num_images: int, of: int, *, as_zeros: bool = False) -> str:
    """Return the warning about images for which a network returned infinity or not-a-number.

    Args:
        num_images: Number of such images.
        of: Number of all images.
        as_zeros: A prediction covers the whole image, so what zeros decode to is scored.
    """
    scored = "they are scored as if these outputs were 0" if as_zeros else "they count as wrong"
    return f"the network returned infinity or not-a-number for {num_images} of {of} images; {scored}."
