"""Writes a folder of drawn pictures, completely or not at all, and only if it does not hold these pictures already."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import DataError
from zoo_core.locks import file_lock

if TYPE_CHECKING:
    from zoo_core.datatypes import Json

MARKER = "shapes.json"
"""The file in the folder that describes the pictures."""


def drawn_once(folder: Path, marker: Mapping[str, Json], draw: Callable[[Path], None]) -> Path:
    """Draw a folder unless it already holds the pictures that ``marker`` describes; return it.

    It is drawn under a temporary name and then renamed, so a reader never sees half of it; two processes take turns.

    Args:
        folder: Its parent is created when missing.
        marker: Everything that the pictures depend on; a folder with another marker is replaced.
        draw: Called with a path that does not exist, to create and fill.

    Raises:
        DataError: The folder holds something that this function did not draw, or cannot be written.
    """
    root = folder.parent
    # The folder appears complete, so no lock is needed to look, and a folder that is read-only serves.
    if _holds(folder, marker):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with file_lock(root / ".shapes.lock"):
            if _read_marker(folder) != marker:
                partial = root / f".{folder.name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                draw(partial)
                text = json.dumps(dict(marker), indent=1) + "\n"
                (partial / MARKER).write_text(text, encoding="utf-8", newline="\n")
                _swap_in(partial, folder)
    except OSError as error:
        raise DataError(
            f"The drawn pictures cannot be written to {root}: {error}",
            fix="free space and check the right to write there, or name another folder.",
        ) from error
    return folder


def _holds(folder: Path, marker: Mapping[str, Json]) -> bool:
    try:
        return _read_marker(folder) == marker
    except (DataError, OSError):  # also while another process is replacing it
        return False


def _read_marker(folder: Path) -> object:
    """Return the content of the folder's marker; None if there is no folder.

    Raises:
        DataError: The folder is not one that ``drawn_once`` wrote.
    """
    if not folder.exists():
        return None
    try:
        marker: object = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise DataError(
            f"{folder} was not drawn by zoo-eval: it has no readable {MARKER}.",
            fix="name another folder for the drawn pictures, or move this one away.",
        ) from error
    return marker


def _swap_in(partial: Path, folder: Path) -> None:
    """Rename ``partial`` to ``folder``; an existing folder is moved aside first, since rename cannot replace it."""
    outdated = folder.with_name(f".{folder.name}.outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    if folder.exists():
        folder.rename(outdated)
    partial.rename(folder)
    shutil.rmtree(outdated, ignore_errors=True)
