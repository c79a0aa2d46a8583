"""SHA-256 of the files of a run directory: taken when they are complete, compared by resume, verify and the readers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from zoo_core.errors import RunError
from zoo_core.files import hash_regular_file

INPUTS = "inputs"
"""Folder of a run with copies of its small input files: recipe, AIMET configuration, labels."""

QUANTIZED = "quantized"
"""Folder of a run with the optimized network; written atomically."""

MODEL = "model.onnx"
"""Exported network in ``QUANTIZED``; missing where it cannot be exported."""

PREDICTIONS = "predictions"
"""Folder of a run with a folder of chunks for each stage."""

METRICS = "metrics.json"
IMAGE_IDS = "image_ids.txt"

_FIX = "restore the file, or run again."


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProblem:
    """File of a run directory that is not as recorded; as text, a clause that starts with its path.

    Attributes:
        name: Path in the run directory, with slashes.
        problem: ``unrecorded`` if the file is not in the record although its folder is.
        reason: Further explanation; may be empty.
    """

    name: str
    problem: Literal["changed", "missing", "unreadable", "unrecorded"]
    reason: str = ""

    def __str__(self) -> str:
        verb = {"changed": "has changed", "missing": "is missing", "unreadable": "cannot be read"}
        name = self.name if self.name.isprintable() else repr(self.name)
        return f"{name} {verb.get(self.problem, 'is not in the record')}{self.reason and f': {self.reason}'}"


def file_hashes(run: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of files, or of all files below folders, by their path in the run directory.

    Hidden files do not count: zoo-eval writes none that it keeps, and file managers leave some.

    Args:
        run: The run directory.
        names: Paths in the run directory, each of a file or a folder; what does not exist is left out.

    Raises:
        RunError: A file cannot be read.
    """
    return {name: _hash(run / name) for name in sorted({file for name in names for file in _files(run, name)})}


def _hash(path: Path) -> str:
    try:
        return hash_regular_file(path)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}", fix=_FIX) from error


def file_problems(run: Path, recorded: Mapping[str, str], *, all_recorded: bool) -> list[FileProblem]:
    """Compare the files of a run directory with their recorded hashes.

    Args:
        run: The run directory.
        recorded: SHA-256 by path in the run directory.
        all_recorded: The run is complete: files that are not recorded are problems too, if they are below a folder of
            which files are recorded, or in a place that every run uses.

    Returns:
        Problems by name; empty where every file is as recorded.
    """
    problems = [problem for name, was in sorted(recorded.items()) if (problem := _problem(run, name, was))]
    if all_recorded:
        tops = {PurePosixPath(name).parts[0] for name in recorded if name and not PurePosixPath(name).is_absolute()}
        tops |= {INPUTS, QUANTIZED, PREDICTIONS, METRICS, IMAGE_IDS}
        there = sorted({name for top in tops - {".."} for name in _files(run, top)})
        problems += [FileProblem(name=name, problem="unrecorded") for name in there if name not in recorded]
    return problems


def is_inside(name: str) -> bool:
    """Return True if a name of a record, which may have been edited, is a path inside of the run directory."""
    path = PurePosixPath(name)
    return bool(path.parts) and ".." not in path.parts and not path.is_absolute() and "\0" not in name


def _problem(run: Path, name: str, recorded: str) -> FileProblem | None:
    if not is_inside(name):
        return FileProblem(name=name, problem="unreadable", reason="it is not a path inside of the run directory")
    try:
        digest = hash_regular_file(run / name)
    except FileNotFoundError:
        return FileProblem(name=name, problem="missing")
    except OSError as error:
        return FileProblem(name=name, problem="unreadable", reason=error.strerror or str(error))
    if digest == recorded:
        return None
    reason = f"its SHA-256 is {digest[:12]}, and {recorded[:12]} was recorded"
    return FileProblem(name=name, problem="changed", reason=reason)


def _files(run: Path, name: str) -> Iterator[str]:
    """Yield the paths of all files below a folder, or of a file; hidden ones are left out."""
    path = run / name
    if path.is_dir():
        for below in path.rglob("*"):
            relative = below.relative_to(run)
            if not below.is_dir() and not any(part.startswith(".") for part in relative.parts):
                yield relative.as_posix()
    elif path.exists() or path.is_symlink():
        yield name


def metrics_problem(run: Path, recorded: Mapping[str, str] | None) -> FileProblem | None:
    """Return what is wrong with ``metrics.json`` of a complete run: another hash, or a file without one; else None.

    Args:
        run: The run directory.
        recorded: ``RunRecord.files``; None or empty for a run that recorded no hashes.
    """
    if not recorded:
        return None
    if METRICS not in recorded:
        return FileProblem(name=METRICS, problem="unrecorded") if (run / METRICS).exists() else None
    return _problem(run, METRICS, recorded[METRICS])
