"""Locks between processes, also where the file system has none of its own."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from zoo_core.errors import ZooError

logger = logging.getLogger("zoo_eval.locks")

PATIENCE_S = 1.0
"""Time to wait for a lock before saying so; a listing of runs holds one for a moment."""

_POLL_S = 0.05
_SOFT_SUFFIX = ".soft"
_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}


class LockedError(ZooError):
    """Another process holds a lock, or may hold it."""


@contextmanager
def file_lock(path: Path, *, waits: bool = True) -> Iterator[None]:
    """Hold a lock of the operating system on a file, which is created.

    Where the file system has no such locks, a second file takes its place: it exists while the lock is held, and stays
    after a crash.

    Args:
        path: The file; its folder exists.
        waits: Wait for another process as long as it takes, and log a warning; otherwise wait for ``PATIENCE_S``.

    Raises:
        LockedError: Another process holds the lock and ``waits`` is False; or the second file may be left by a crash.
        OSError: The file cannot be written.
    """
    lock = _lock(path)
    try:
        _acquire(lock, PATIENCE_S)
    except Timeout as error:
        if isinstance(lock, SoftFileLock):
            raise LockedError(
                f"{lock.lock_file} exists: another process works there, or was killed; this file system has no locks "
                "that would tell.",
                fix="wait until it ends; if no process works there, delete the file.",
            ) from error
        if not waits:
            raise LockedError(
                f"Another process holds {path}.",
                fix="wait until it ends, or stop it; the lock of a process that died is released.",
            ) from error
        logger.warning("Waiting for another process, which holds %s.", path)
        _acquire(lock, -1)
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return True if a process holds the lock of a file, or if that cannot be determined."""
    soft = _soft_path(path)
    if not path.exists() and not soft.exists():
        return False
    try:
        lock = _lock(path)
        _acquire(lock, 0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def lock_names(name: str) -> tuple[str, str]:
    """Return the names of the files that a lock may leave."""
    return name, _soft_path(Path(name)).name


def _soft_path(path: Path) -> Path:
    return path.with_name(path.name + _SOFT_SUFFIX)


def _lock(path: Path) -> BaseFileLock:
    return FileLock(path) if _supports_locks(path) else SoftFileLock(_soft_path(path))


def _acquire(lock: BaseFileLock, timeout: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of filelock, about locks that a crash leaves: LockedError says so
        lock.acquire(timeout=timeout, poll_interval=_POLL_S)


def _supports_locks(path: Path) -> bool:
    """Return False if the file system has no locks; filelock before 4 would wait for one forever."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _UNSUPPORTED
    finally:
        os.close(descriptor)  # releases it
    return True
