"""Reading a run's JSON as it is: what is missing or of the wrong kind is noted, and the rest is used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zoo_core import display
from zoo_core.runs.directory import SCHEMA

if TYPE_CHECKING:
    from pathlib import Path

DASH = "\N{EN DASH}"
"""Stands where there is no value."""

MINUS = "\N{MINUS SIGN}"
"""The sign of a negative number in print; a hyphen is too short beside a plus."""

_KINDS = {
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class Facts:
    """A JSON object whose values may be missing or wrong.

    Args:
        content: The object.
        place: Where it stands, e.g. ``run.json: dataset``.
        gaps: Receives a sentence for each value that was needed and is not usable.
    """

    def __init__(self, content: dict[str, Any], place: str, gaps: list[str]) -> None:
        self._content = content
        self._place = place
        self._gaps = gaps

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def gap(self, text: str) -> None:
        """Note something that the page must say is missing."""
        if text not in self._gaps:
            self._gaps.append(text)

    def _get(self, key: str, kinds: tuple[type, ...], *, needed: bool) -> Any:
        value = self._content.get(key)
        right = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)
        if right and isinstance(value, float) and not math.isfinite(value):
            self.gap(f"{self._place}.{key} is a number that is not finite.")
            return None
        if right:
            return value
        if value is not None:
            self.gap(f"{self._place}.{key} is {_KINDS[type(value)]}, not {_KINDS[kinds[0]]}.")
        elif needed:
            self.gap(f"{self._place}.{key} is missing.")
        return None

    def text(self, key: str, *, needed: bool = False) -> str | None:
        """A text, or None."""
        found: str | None = self._get(key, (str,), needed=needed)
        return found

    def number(self, key: str, *, needed: bool = False) -> float | None:
        """A finite number, or None."""
        found: float | None = self._get(key, (int, float), needed=needed)
        return found

    def flag(self, key: str) -> bool:
        """True only where the value is true."""
        return self._get(key, (bool,), needed=False) is True

    def object(self, key: str, *, needed: bool = False) -> Facts:
        """An object; an empty one where there is none."""
        found = self._get(key, (dict,), needed=needed)
        return Facts(found or {}, f"{self._place}.{key}", self._gaps)

    def objects(self, key: str, *, needed: bool = False) -> dict[str, Facts]:
        """An object of objects, by name; what is no object is noted and left out."""
        parent = self.object(key, needed=needed)
        found = {}
        for name in parent:
            if isinstance(parent._content[name], dict):
                found[name] = parent.object(name)
            else:
                self.gap(f"{self._place}.{key}.{name} is {_KINDS[type(parent._content[name])]}, not an object.")
        return found

    def items(self, key: str, *, needed: bool = False) -> list[Facts]:
        """A list of objects; what is no object is noted and left out."""
        values = self._get(key, (list,), needed=needed) or []
        found = []
        for index, value in enumerate(values):
            if isinstance(value, dict):
                found.append(Facts(value, f"{self._place}.{key}[{index}]", self._gaps))
            else:
                self.gap(f"{self._place}.{key}[{index}] is {_KINDS[type(value)]}, not an object.")
        return found

    def texts(self, key: str, *, needed: bool = False) -> list[str]:
        """A list of texts; other values are noted and left out."""
        values = self._get(key, (list,), needed=needed) or []
        found = [value for value in values if isinstance(value, str)]
        if len(found) != len(values):
            self.gap(f"{self._place}.{key} holds {len(values) - len(found)} values that are no text.")
        return found

    def pairs(self) -> list[tuple[str, str]]:
        """Every value that is no container, as text, in the file's order."""
        return [
            (key, "yes" if value is True else "no" if value is False else str(value))
            for key, value in self._content.items()
            if isinstance(value, str | int | float)
        ]


def read_facts(path: Path, gaps: list[str]) -> Facts | None:
    """Read a JSON file of a run; None, with a gap noted, where it is missing or is no JSON object.

    A file of another schema is read as far as its keys are known, with a gap that says so.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        gaps.append(f"{path.name} is missing.")
        return None
    except (OSError, ValueError, RecursionError) as error:
        gaps.append(f"{path.name} cannot be read: {str(error).splitlines()[0]}")
        return None
    if not isinstance(content, dict):
        gaps.append(f"{path.name} holds {_KINDS[type(content)]}, not an object.")
        return None
    facts = Facts(content, path.name, gaps)
    if content.get("schema") != SCHEMA:
        gaps.append(
            f"{path.name} has schema {content.get('schema')!r}; this version writes {SCHEMA} and shows what it knows."
        )
    return facts


def percent(value: float | None) -> str:
    """A value in ``[0, 1]`` in percent with two decimals, or a dash."""
    return DASH if value is None else display.percent(value)


def points(value: float | None) -> str:
    """A difference in points with its sign, or a dash."""
    return DASH if value is None else display.points(value).replace("-", MINUS)


def joined(names: Sequence[str], most: int = 8) -> str:
    """Names in a row; beyond ``most`` only their number is given."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
