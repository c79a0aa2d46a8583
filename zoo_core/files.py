"""Atomic writes, bounded reads of regular files, and the errors of a disk that takes no more."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})
"""A full disk or quota, a read-only or failing disk, a file over its limit."""


_MAX_SHOWN = 200
"""Characters of a bad path to show."""


def read_regular_file(path: Path, *, max_bytes: int) -> bytes:
    """Return the bytes of a regular file; links are followed.

    Nothing else is read: a named pipe would block, and a device such as ``/dev/zero`` never ends.

    Args:
        path: The file.
        max_bytes: A larger file is refused; if its size is not known in advance, after ``max_bytes`` are read.

    Raises:
        OSError: The file is missing, unreadable, larger than ``max_bytes``, or not a regular file; ``strerror`` is the
            reason.
        ValueError: The path has a null byte.
    """
    _refuse_special(path.stat().st_mode)
    # The path may be exchanged between the two calls; without O_NONBLOCK, opening a pipe would block.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        _refuse_special(status.st_mode)
        data: bytes | None = file.read(status.st_size + 1) if status.st_size <= max_bytes else b""
        if data is None:  # a file of /proc that would block, such as /proc/kmsg
            raise OSError(errno.EAGAIN, "it has no content to read now")
        if status.st_size < len(data) <= max_bytes:  # the file grows, or is one of /proc, whose size is 0
            data += file.read(max_bytes + 1 - len(data))
        size = max(status.st_size, len(data))
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {size} bytes or more; the limit is {max_bytes}")
    return data


def hash_regular_file(path: Path) -> str:
    """Return the SHA-256 of a regular file, 64 lower-case hexadecimal digits; links are followed.

    Raises:
        OSError: The file is missing, unreadable, or not a regular file; ``strerror`` is the reason.
    """
    with open_regular_file(path) as file:
        return update_hash(hashlib.sha256(), file)


def open_regular_file(path: Path) -> IO[bytes]:
    """Open a regular file for reading; links are followed, and devices and pipes never block.

    Raises:
        OSError: The file is missing, unreadable, or not a regular file; ``strerror`` is the reason.
    """
    _refuse_special(path.stat().st_mode)
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    try:
        _refuse_special(os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def update_hash(digest: Any, file: IO[bytes]) -> str:
    """Feed the rest of a file to a hash of ``hashlib`` and return its hexadecimal digits."""
    while part := file.read(1 << 20):
        digest.update(part)
    return str(digest.hexdigest())


def _refuse_special(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory, not a regular file")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def path_problem(path: Path) -> str | None:
    """Return why no file can have this path, or why a record cannot hold it; None for a path that need not exist.

    A record and a report are UTF-8 text, so the whole path must be, also that of the working directory.
    """
    if not _is_utf8(path.absolute()):
        return f"the path {_shown(path.absolute())} is not UTF-8 text"
    try:
        path.lstat()
    except ValueError as error:  # a null byte
        return f"the path {_shown(path)} cannot be used: {error}"
    except OSError as error:
        if error.errno in {errno.ENAMETOOLONG, errno.ELOOP}:
            return f"the path {_shown(path)} cannot be used: {error.strerror}"
    return None


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: Path) -> str:
    text = str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


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
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename survive a loss of power."""
    with suppress(OSError):  # some network file systems do not offer it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
