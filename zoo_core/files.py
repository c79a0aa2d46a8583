"""Atomic writes, and the errors of a disk that takes no more."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})
"""A full disk or quota, a read-only or failing disk, a file over its limit."""


def replace_file(path: Path, data: bytes, *, partial: Path | None = None) -> None:
    """Write a file so that a reader sees the old content or the new one, even after a crash or a loss of power.

    Args:
        path: Replaced if it exists.
        data: The whole content.
        partial: Temporary file in the same folder, removed on failure. None for a unique name, which several
            processes need that write the same file at once.

    Raises:
        OSError: The file cannot be written; the old one is untouched.
    """
    partial = partial or path.with_name(f".{path.name[:100]}-{secrets.token_hex(6)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a loss of power."""
    with suppress(OSError):  # some network file systems do not offer it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
