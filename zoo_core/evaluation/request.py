"""Progress reporting, image id files, and the defaults of a run that depend on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Protocol

from zoo_core.errors import DataError
from zoo_core.files import path_problem, read_regular_file
from zoo_core.runs.request import AUTO, EvaluationRequest

DEFAULT_BATCH_SIZE = {"cpu": 1, "cuda": 64}
"""Images per forward pass by device kind; fixed so that two runs agree, and recorded.

Larger batches are slower on a CPU: docs/performance.md has the measurement."""

FLOAT_RUNTIMES = (AUTO, "torch", "onnxruntime")
"""Runtimes of float stages: ``auto`` is ONNX Runtime, two to three times as fast, where it agrees with torch."""

_MAX_IDS_BYTES = 1 << 28


class Reporter(Protocol):
    """Receives progress: the command line draws bars, a notebook may stay silent."""

    def start(self, what: str, total: int | None) -> None:
        """Start a task of ``total`` units; None if the number is unknown."""
        ...

    def advance(self, num: int) -> None:
        """Report that ``num`` more units of the current task are done."""
        ...

    def finish(self) -> None:
        """Report that the current task is done."""
        ...

    def say(self, text: str) -> None:
        """Print one line, e.g. the result of a step."""
        ...

    def warn(self, text: str) -> None:
        """Print a warning about the result; it is also recorded."""
        ...


class SilentReporter:
    """Prints nothing; the run's log still has every line."""

    def start(self, what: str, total: int | None) -> None:
        """Ignore a task."""

    def advance(self, num: int) -> None:
        """Ignore progress."""

    def finish(self) -> None:
        """Ignore a task's end."""

    def say(self, text: str) -> None:
        """Ignore a line."""

    def warn(self, text: str) -> None:
        """Ignore a warning."""


def check_paths(request: EvaluationRequest) -> None:
    """Refuse paths that no file can have or that a record cannot hold.

    Raises:
        DataError: A path of the request is too long, has a null byte, or is not UTF-8 text.
    """
    paths = {field.name: getattr(request, field.name) for field in fields(request)}
    if request.recipe is not None:
        paths["recipe"] = Path(request.recipe)
    for name, path in paths.items():
        problem = path_problem(path) if isinstance(path, Path) else None
        if problem is not None:
            flag = name.removesuffix("_file").replace("_", "-")
            raise DataError(f"--{flag}: {problem}.", fix="give another path.")


def read_ids(path: Path) -> Sequence[str]:
    """Read image ids, one per line; empty lines are skipped, order is kept, a repeated id counts once.

    Raises:
        DataError: The file cannot be read or contains no ids.
    """
    try:
        text = read_regular_file(path, max_bytes=_MAX_IDS_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"The id file {path} cannot be read: {reason}.", fix="name a text file with one id per line."
        ) from error
    ids = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not ids:
        raise DataError(f"The id file {path} contains no ids.", fix="write one image id per line.")
    return ids
