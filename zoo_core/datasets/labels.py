"""Reads label files: the classes of a dataset in the order of a network's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.datasets.reading import name_problem, read_lines
from zoo_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


MAX_LABEL_BYTES = 1 << 24
_MAX_PROBLEMS = 5


def read_label_file(path: Path) -> tuple[str, ...]:
    """Return the class names in a label file; the index is the label.

    One name per line, or all names in one comma-separated line; a leading BACKGROUND, in upper or lower case, is
    dropped. Class names become file names in submissions, so names that could leave a directory are refused.

    Raises:
        DataError: The file is missing, not UTF-8 or names no class; or a name is empty, repeated, or contains a path
            separator or control character. All problems are reported together, with their lines.
    """
    lines = read_lines(path, max_bytes=MAX_LABEL_BYTES)
    if len(lines) == 1 and "," in lines[0]:
        numbered = [(1, name.strip()) for name in lines[0].split(",")]
    else:
        numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    if numbered and numbered[0][1].upper() == "BACKGROUND":
        del numbered[0]
    if not numbered:
        raise DataError(f"{path} names no class.", fix="write one class name per line.")
    problems = []
    first_lines: dict[str, int] = {}
    for number, name in numbered:
        problem = _label_problem(name)
        if problem is None and name in first_lines:
            problem = f"is already on line {first_lines[name]}"
        first_lines.setdefault(name, number)
        if problem is not None:
            problems.append(f"{path}:{number}: class name {name[:80]!r} {problem}.")
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        if more > 0:  # for a file that is not a label file, every line would be printed
            problems[_MAX_PROBLEMS:] = [f"... and {more} more."]
        raise DataError("\n".join(problems), fix="write one class name per line, each once, in the network's order.")
    return tuple(name for _, name in numbered)


def check_class_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``class_names`` unchanged.

    Raises:
        DataError: The tuple is empty, or a name is repeated or cannot be part of a file name.
    """
    if not class_names:
        raise DataError("No class names were given.", fix="give at least one class name.")
    earlier: set[str] = set()
    for index, name in enumerate(class_names):
        problem = "is repeated" if name in earlier else _label_problem(name)
        earlier.add(name)
        if problem is not None:
            raise DataError(f"Class name {name[:80]!r} (index {index}) {problem}.", fix="rename the class.")
    return class_names


def _label_problem(name: str) -> str | None:
    if "," in name:
        return "contains a comma, which is a separator only in a file of one line"
    if name.upper() == "BACKGROUND":
        return "is not a class; it is allowed only as the first name of a label file"
    return name_problem(name, spaces=True)
