"""Locks between processes, with and without those of the file system."""

from __future__ import annotations

import errno
import fcntl
import logging
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from zoo_core.errors import RunError
from zoo_core.locks import LockedError, file_lock, is_locked, lock_names
from zoo_core.runs.directory import RunDirectory


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> NoReturn:
        raise OSError(request.param, "the file system has no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_lock_is_held_inside_the_block_only(tmp_path: Path) -> None:
    path = tmp_path / ".lock"

    with file_lock(path):
        assert is_locked(path)
        with pytest.raises(LockedError, match=r"Another process holds .*\.lock\."), file_lock(path, waits=False):
            pass

    assert not is_locked(path)


def test_waiting_for_another_process_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, release = tmp_path / ".lock", threading.Event()
    held = threading.Event()

    def hold() -> None:
        with file_lock(path):
            held.set()
            release.wait()

    class Releases(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            release.set()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    handler = Releases()
    logging.getLogger("zoo_eval.locks").addHandler(handler)
    try:
        with file_lock(path):
            pass
    finally:
        release.set()
        thread.join()
        logging.getLogger("zoo_eval.locks").removeHandler(handler)

    assert f"Waiting for another process, which holds {path}." in caplog.text


@pytest.mark.usefixtures("no_flock")
def test_without_locks_of_the_file_system_an_old_lock_file_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.touch()  # left on a file system that had locks

    with file_lock(path):
        assert is_locked(path)

    assert not is_locked(path)


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("waits", [True, False])
def test_without_locks_of_the_file_system_one_that_a_crash_left_is_named(tmp_path: Path, waits: bool) -> None:
    path = tmp_path / ".lock"
    left = tmp_path / lock_names(".lock")[1]
    left.touch()

    with pytest.raises(LockedError, match=r"\.lock\.soft exists: .*\n.*no process works there, delete the file"):  # noqa: SIM117
        with file_lock(path, waits=waits):
            pass

    left.unlink()
    with file_lock(path, waits=waits):
        pass


@pytest.mark.usefixtures("no_flock")
def test_a_run_directory_works_without_locks_and_names_one_that_a_crash_left(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "toy")
    with run.locked():
        assert run.is_held
    assert not run.is_held
    (run.path / ".lock.soft").touch()

    with (
        pytest.raises(RunError, match=r"by another process: .*\.soft exists.*\n.*delete the file"),
        run.locked(),
    ):
        pass
