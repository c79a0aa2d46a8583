"""Label files: the classes of a dataset in the order of a network's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.datasets.reading import name_problem, read_lines
from zoo_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


_MAX_PROBLEMS = 5


def read_label_file(path: Path) -> tuple[str, ...]:
    """Return the class names in a label file; the index is the label.

    One name a line, or all names in one comma-separated line; a leading BACKGROUND, in any case, is dropped. Class
    names become file names in submissions, so what could leave a directory is refused here.

    Raises:
        DataError: The file is missing, not UTF-8, without a class; or a name is empty, repeated, or holds a path
            separator or control character. All problems are reported together, with their lines.
    """
    lines = read_lines(path, max_bytes=1 << 24)
    if len(lines) == 1 and "," in lines[0]:
        numbered = [(1, name.strip()) for name in lines[0].split(",")]
    else:
        numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    if numbered and numbered[0][1].upper() == "BACKGROUND":
        del numbered[0]
    if not numbered:
        raise DataError(f"{path} names no class.", fix="write one class name a line.")
    problems = []
    first_lines: dict[str, int] = {}
    for number, name in numbered:
        problem = _label_problem(name)
        if problem is None and name in first_lines:
            problem = f"stands in line {first_lines[name]} already"
        first_lines.setdefault(name, number)
        if problem is not None:
            problems.append(f"{path}:{number}: class name {name[:80]!r} {problem}.")
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        if more > 0:  # a file that is no label file at all would print every line of itself
            problems[_MAX_PROBLEMS:] = [f"... and {more} more."]
        raise DataError("\n".join(problems), fix="write one class name a line, each once, in the network's order.")
    return tuple(name for _, name in numbered)


def check_class_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``class_names`` unchanged.

    Raises:
        DataError: There is none, or one is repeated or cannot be part of a file name.
    """
    if not class_names:
        raise DataError("No class names were given.", fix="give at least one class name.")
    seen: set[str] = set()
    for index, name in enumerate(class_names):
        problem = "is repeated" if name in seen else _label_problem(name)
        seen.add(name)
        if problem is not None:
            raise DataError(f"Class name {name[:80]!r} (index {index}) {problem}.", fix="rename the class.")
    return class_names


def _label_problem(name: str) -> str | None:
    if "," in name:
        return "contains a comma, which is read as a separator in a file of one line only"
    if name.upper() == "BACKGROUND":
        return "is not a class and may only stand first"
    return name_problem(name, spaces=True)
