"""Removes files of an interrupted run that are no longer as recorded; the resumed run writes them again."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from zoo_core.errors import RunError
from zoo_core.runs.hashes import INPUTS, METRICS, PREDICTIONS, QUANTIZED, file_problems

if TYPE_CHECKING:
    from zoo_core.runs.directory import RunDirectory
    from zoo_core.runs.record import RunRecord


def discard_changed(run_dir: RunDirectory, record: RunRecord) -> list[str]:
    """Remove what has changed since it was recorded, and folders that were not recorded any more.

    A chunk of predictions is removed alone, ``quantized`` and ``inputs`` as a whole. Submission files and
    ``image_ids.txt`` are written again by every resumed run.

    Args:
        run_dir: Directory of the run, locked.
        record: As the run left it.

    Returns:
        A sentence for each file that is not as recorded.

    Raises:
        RunError: A file cannot be removed.
    """
    recorded = record.files or {}
    problems = [
        problem for problem in file_problems(run_dir.path, recorded, all_recorded=False) if problem.name != METRICS
    ]
    for problem in problems:
        folder, *below = PurePosixPath(problem.name).parts or ("",)
        if folder in {INPUTS, QUANTIZED}:
            _remove(run_dir.path / folder)
        elif folder == PREDICTIONS and len(below) == 2 and ".." not in below:  # the record may have been edited
            _remove(run_dir.path / problem.name)
    for folder in (INPUTS, QUANTIZED):  # the process was killed before it could record them
        if not any(name.startswith(f"{folder}/") for name in recorded):
            _remove(run_dir.path / folder)
    return [f"{problem}. It is written again." for problem in problems]


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path} cannot be removed: {error}", fix="make the run directory writable.") from error


def refuse_other_inputs(run_dir: RunDirectory, record: RunRecord) -> None:
    """Refuse to go on with copies of input files that differ from those of the interrupted run.

    Raises:
        RunError: A file differs, and is named.
    """
    recorded = {name: digest for name, digest in (record.files or {}).items() if name.startswith(f"{INPUTS}/")}
    problems = file_problems(run_dir.path, recorded, all_recorded=False)
    if problems:
        listing = "\n  ".join(map(str, problems))
        raise RunError(
            f"The run in {run_dir.path} cannot be resumed: its input files are not those that it started with.\n"
            f"  {listing}",
            fix="restore these files, or start a new run.",
        )
