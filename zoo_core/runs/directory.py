"""Run directories: locking, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shlex
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from zoo_core.errors import RunError
from zoo_core.files import DISK_ERRORS, path_problem, replace_file, sync_folder
from zoo_core.locks import LockedError, file_lock, is_locked, lock_names
from zoo_core.runs.hashes import IMAGE_IDS, METRICS

MIN_FREE_BYTES = 200_000_000
"""Four stages of 5,000 images with 100 detections each, the quantized network and the report need this, rounded up."""

_LOCK = ".lock"
_HOLDER = ".lock.json"

PENDING_METRICS = ".metrics.json.pending"
"""``metrics.json`` until the record says that the run is complete."""

_WORK_PREFIX = ".work-"
"""Prefix of a run's temporary folders."""

_DISK_ERRORS = DISK_ERRORS | {errno.EACCES, errno.EPERM}

_BEFORE_THE_RECORD = {
    *lock_names(_LOCK),
    _HOLDER,
    IMAGE_IDS,
    *(f".{name}.partial" for name in (_HOLDER, IMAGE_IDS, "run.json")),
}
"""Files that a run killed before its first record can leave; they hold no results."""


class RunDirectory:
    """Directory of one run.

    Layout: ``run.json`` (request, inputs, steps, cost), ``metrics.json`` (only when the run is complete),
    ``predictions/<stage>/chunk-*.parquet``, ``<submission format>/<stage>/``, ``quantized/``, ``image_ids.txt``,
    ``log.txt``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, out: Path | None, model_id: str) -> RunDirectory:
        """Create the directory, at ``out`` or at ``runs/<model>/<UTC time>-<short id>``.

        Raises:
            RunError: It exists and is not empty, or cannot be written.
        """
        path = cls.check(out, model_id)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(path, error, fix=_ELSEWHERE) from error
        return cls(path)

    @staticmethod
    def check(out: Path | None, model_id: str) -> Path:
        """Return the path of a new run, or refuse it, without writing anything.

        Raises:
            RunError: It exists and is not empty, or its nearest existing parent cannot be written or is almost full.
        """
        if out is None:
            stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
            out = Path("runs") / model_id / f"{stamp}-{secrets.token_hex(3)}"
        path = out.absolute()
        problem = path_problem(path)
        if problem is not None:
            raise RunError(f"The run directory cannot be created: {problem}.", fix="name another with --out.")
        if path.exists() and (not path.is_dir() or any(own.name not in _BEFORE_THE_RECORD for own in path.iterdir())):
            raise RunError(
                f"The run directory {path} exists and is not empty.",
                fix="name another with --out, or remove it; a run never writes over another.",
            )
        parent = path
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise _not_writable(path, f"{parent} is not a directory that may be written", fix=_ELSEWHERE)
        free = shutil.disk_usage(parent).free
        if free < MIN_FREE_BYTES:
            fact = f"{free / 1e6:.0f} MB are free there, and a run may take {MIN_FREE_BYTES / 1e6:.0f}"
            raise _not_writable(path, fact, fix=_ELSEWHERE)
        return path

    @property
    def resume_command(self) -> str:
        """Shell command that resumes the run."""
        return f"zoo-eval run --resume {shlex.quote(str(self.path))}"

    # ------------------------------------------------------------------ one process at a time

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running in this directory, on this machine or on one that shares its disk.

        Uses a lock of the operating system, which is released when the process ends, even by a crash.

        Raises:
            RunError: Another process, which is named, has the lock; or the directory cannot be written.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self.path / _LOCK, waits=False))
            except LockedError as error:
                fact = f"The run directory {self.path} is in use by {_holder(self.path)}: {error.fact}"
                raise RunError(fact, fix=error.fix) from error
            except OSError as error:
                raise _not_writable(self.path, error) from error
            stack.callback(self._forget_holder)
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            self.write_text(_HOLDER, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
            yield

    def _forget_holder(self) -> None:
        with suppress(OSError):
            (self.path / _HOLDER).unlink()

    def refuse_a_record(self) -> None:
        """Refuse a directory in which another process has started a run; call with the lock held.

        Raises:
            RunError: A run was started here.
        """
        if (self.path / "run.json").exists():
            raise RunError(
                f"Another run was started in {self.path} meanwhile.", fix="name another directory with --out."
            )

    def remove_lock(self) -> None:
        """Remove the lock file of a complete run, which is not written again."""
        with suppress(OSError):
            (self.path / _LOCK).unlink()

    @property
    def is_held(self) -> bool:
        """Return True if a process runs in this directory, or if that cannot be determined."""
        return is_locked(self.path / _LOCK)

    def true_status(self, recorded: str) -> str:
        """Return the status of the run, given the recorded one.

        A run whose process died is ``interrupted``. A run is not complete before it has its ``metrics.json``.
        """
        if recorded == "complete" and (self.path / PENDING_METRICS).exists():
            recorded = "running"
        return "interrupted" if recorded == "running" and not self.is_held else recorded

    # ------------------------------------------------------------------ files

    def write_text(self, name: str, text: str) -> Path:
        """Write ``name`` atomically as UTF-8 text.

        Raises:
            RunError: The file cannot be written, for example because the disk is full.
        """
        target = self.path / name
        try:
            replace_file(target, text.encode(), partial=target.with_name(f".{target.name}.partial"))
        except OSError as error:
            raise _not_writable(target, error) from error
        return target

    def publish_metrics(self) -> None:
        """Give ``metrics.json`` its name; the record says already that the run is complete.

        Raises:
            RunError: The file cannot be renamed.
        """
        try:
            (self.path / PENDING_METRICS).replace(self.path / METRICS)
        except OSError as error:
            raise _not_writable(self.path / METRICS, error) from error
        sync_folder(self.path)

    def folder(self, *parts: str) -> Path:
        """Return a folder inside the run, created if missing; parts are names, never paths.

        Raises:
            RunError: It cannot be created.
        """
        path = self._inside(parts)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(path, error) from error
        return path

    @contextmanager
    def whole_folder(self, *parts: str) -> Iterator[Path]:
        """Yield an empty folder that replaces ``name`` when the block ends.

        Raises:
            RunError: It cannot be written, by the caller or by a plugin.
        """
        target = self._inside(parts)
        filling = self.path / f".{'-'.join(parts)}.partial"
        try:
            shutil.rmtree(filling, ignore_errors=True)
            filling.mkdir()
            yield filling
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            filling.rename(target)
        except BaseException as error:
            shutil.rmtree(filling, ignore_errors=True)
            cause = disk_error(error)
            if cause is not None:
                raise _not_writable(target, cause) from error
            raise

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Yield a folder for temporary files, removed when the block ends.

        Raises:
            RunError: It cannot be created.
        """
        try:
            path = Path(tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=self.path))
        except OSError as error:
            raise _not_writable(self.path, error) from error
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def _inside(self, parts: Sequence[str]) -> Path:
        for part in parts:
            if part in {"", ".", ".."} or "/" in part or "\\" in part or "\0" in part:
                raise RunError(f"{part!r} cannot name a folder of a run.", fix="use a plain name.")
        return self.path.joinpath(*parts)

    def sweep(self) -> None:
        """Remove what a killed process left of an incomplete run; call with the lock held.

        These are unfinished files, temporary folders, and metrics, which only a complete run has.
        """
        remains = [*self.path.glob(".*.partial"), *self.path.glob(f"{_WORK_PREFIX}*")]
        for path in (*remains, self.path / PENDING_METRICS, self.path / METRICS):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def disk_error(error: BaseException) -> OSError | None:
    """Return the failed write that caused an error: disk or quota full, disk read-only or failing, file too large."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _DISK_ERRORS:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _holder(path: Path) -> str:
    try:
        held = json.loads((path / _HOLDER).read_text(encoding="utf-8"))
        return f"process {int(held['pid'])} on {held['host']} since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _not_writable(path: Path, cause: object, *, fix: str = "make room, or make the directory writable.") -> RunError:
    return RunError(f"{path} cannot be written: {cause}", fix=fix)


_ELSEWHERE = "make room or name another place with --out."
