"""Records failed and interrupted runs and tells the user how to resume."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from zoo_core.errors import DataError, PluginCrashError, RunCrashError, RunError, RunInterruptedError, ZooError
from zoo_core.evaluation.machine_errors import machine_error
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.parts import Status

logger = logging.getLogger("zoo_eval")

LOG = "log.txt"


class Finish(Protocol):
    """Records the end of a run."""

    def __call__(self, status: Status, *, error: str | None = None) -> None:
        """Record ``interrupted`` or ``failed``."""
        ...


@contextmanager
def stopping(
    run_dir: RunDirectory, finish: Finish, place: Callable[[], str], is_complete: Callable[[], bool]
) -> Iterator[None]:
    """Record a failed or interrupted run, and add its directory and the command that resumes it to the error.

    A run that is recorded as complete stays so, whatever fails or interrupts its report and the plugins told of it.

    Args:
        run_dir: The run's directory.
        finish: Records the end of the run.
        place: Returns the current place for the error, e.g. " at stage 'fp32'".
        is_complete: Returns True once the run is recorded as complete.

    Raises:
        RunInterruptedError: Instead of KeyboardInterrupt.
        ZooError: Of the same kind, with place and directory added.
        RunCrashError: Instead of any other exception, and of a plugin's crash.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        with _undisturbed():
            logger.warning("interrupted%s", place())
            if not is_complete():
                _close(finish, "interrupted")
        raise RunInterruptedError(run_dir.path) from stop
    except (Exception, SystemExit) as error:  # a plugin that calls sys.exit has failed too
        failure = _failure(error)
        logger.error("The run failed: %s", failure.fact, exc_info=True)
        if is_complete():
            stopped = f"The run is complete in {run_dir.path}; only what follows it failed"
        else:
            _close(finish, "failed", error=failure.fact)
            stopped = f"The run stopped{place()}; completed results are kept in {run_dir.path}"
        resume = f"then resume with: {run_dir.resume_command}"
        if isinstance(failure, RunCrashError):
            fix = f"read the traceback in {run_dir.path / LOG} and report it. Once it is fixed, {resume}"
        else:
            fix = f"{failure.fix.rstrip('.')}; {resume}" if isinstance(failure, (DataError, RunError)) else failure.fix
        raise type(failure)(f"{failure.fact}\n{stopped}", fix=fix) from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM inside the block, in the main thread."""
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failure(error: BaseException) -> ZooError:
    """Convert the error to a ZooError."""
    if isinstance(error, ZooError) and not isinstance(error, PluginCrashError):
        return error
    machine = machine_error(error)
    if machine is not None:
        return machine
    if isinstance(error, PluginCrashError):
        return RunCrashError(error.fact, fix=error.fix)
    return RunCrashError(f"{type(error).__name__}: {error}", fix="")


def _close(finish: Finish, status: Status, *, error: str | None = None) -> None:
    try:
        finish(status, error=error)
    except ZooError:
        # On a full disk even this cannot be written. A record with status "running" and no process is read as
        # interrupted, so it is still correct.
        logger.exception("The record could not be finished.")


class _QuietHandler(logging.FileHandler):
    """Log file handler that ignores a full disk; the run itself reports the error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Print nothing."""


@contextmanager
def log_into(path: Path) -> Iterator[None]:
    """Append the tool's log to a file.

    Raises:
        RunError: The file cannot be written.
    """
    try:
        handler = _QuietHandler(path, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}", fix="make the directory writable.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("zoo_eval")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with suppress(OSError):  # a full disk, when buffered lines are flushed
            handler.close()
