"""Reads a dataset's files; every failure becomes a DataError that names the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from zoo_core.errors import DataError
from zoo_core.files import read_regular_file

if TYPE_CHECKING:
    from pathlib import Path

MAX_NAME_LENGTH = 128
"""Longest image id, split or class name: file names hold two of them, and file systems limit names to 255 bytes."""


_OBSERVER: ContextVar[Callable[[bytes], None] | None] = ContextVar("observer", default=None)


@contextmanager
def observed_reads(observer: Callable[[bytes], None]) -> Iterator[None]:
    """Pass the content of each file that ``read_file`` reads in this thread to ``observer``.

    Whoever needs a hash of the bytes that a dataset decodes gets them without reading the file a second time.
    """
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: Links are followed: data sets are often assembled from links.
        max_bytes: A larger file is refused before it is read.

    Raises:
        DataError: The file is missing, unreadable, larger than ``max_bytes``, or not a regular file.
    """
    try:
        data = read_regular_file(path, max_bytes=max_bytes)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.", fix="check that the data set is complete.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"{path} cannot be read: {reason}.",
            fix="check that this is the right file, and the right to read it.",
        ) from error
    observer = _OBSERVER.get()
    if observer is not None:
        observer(data)
    return data


def read_lines(path: Path, *, max_bytes: int = 1 << 28) -> list[str]:
    """Return the lines of a UTF-8 text file, without line ends, byte order mark and trailing blank lines.

    Raises:
        DataError: As ``read_file``; or the text is not UTF-8.
    """
    try:
        text = read_file(path, max_bytes=max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.", fix="save it as UTF-8.") from error
    # Not splitlines(): it also splits at control characters, which would hide them from the per-line checks.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def name_problem(name: str, *, spaces: bool = False) -> str | None:
    """Return the reason why a name from a user's file cannot become part of a file name; None when it can.

    Args:
        name: An image id, a split or a class name.
        spaces: Allow spaces inside; an image id must not have any, since detection files are split at them.
    """
    if not name:
        return "is empty"
    if len(name.encode(errors="replace")) > MAX_NAME_LENGTH:
        return f"is longer than {MAX_NAME_LENGTH} bytes"
    if "/" in name or "\\" in name:
        return "contains a path separator"
    if ".." in name or name.startswith("."):
        return "starts with a dot or contains '..'"
    if not name.isprintable():
        return "contains a control character"
    if name != name.strip() or any(char.isspace() and not (spaces and char == " ") for char in name):
        return "contains white space"
    return None
