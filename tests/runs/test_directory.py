from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo_core.errors import PluginCrashError, RunError
from zoo_core.runs.directory import PENDING_METRICS, RunDirectory


def test_the_default_place_names_model_time_and_a_short_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    path = RunDirectory.create(None, "toy_squares").path

    assert path.parent == tmp_path / "runs" / "toy_squares"
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", path.name)


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    RunDirectory.check(tmp_path / "a" / "b", "toy_squares")

    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("mine")

    with pytest.raises(RunError, match="exists and is not empty"):
        RunDirectory.create(tmp_path, "toy_squares")


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RunError, match="cannot be written"):
        RunDirectory.check(tmp_path / "file" / "run", "toy_squares")


def test_a_full_disk_is_told_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=1_000_000))

    with pytest.raises(RunError, match="cannot be written: 1 MB are free there"):
        RunDirectory.check(tmp_path / "run", "toy_squares")


def test_a_file_is_written_whole_and_leaves_no_partial_one(tmp_path: Path) -> None:
    RunDirectory(tmp_path).write_text("run.json", "{}")

    assert (tmp_path / "run.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("name", ["..", "a/b", "", "a\\b", "x\0"])
def test_a_folder_name_cannot_leave_the_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="cannot name a folder"):
        RunDirectory(tmp_path).folder("predictions", name)


# --------------------------------------------------------------------------- one process at a time

HOLD = """
import sys
from pathlib import Path
from zoo_core.runs.directory import PENDING_METRICS, RunDirectory
with RunDirectory(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of ``tmp_path`` until its stdin is closed."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_process_is_refused_with_the_first_ones_id_and_host(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    host = re.escape(socket.gethostname())
    with (
        pytest.raises(RunError, match=rf"is in use by process {holder.pid} on {host} since \d{{4}}-"),
        RunDirectory(tmp_path).locked(),
    ):
        pass

    assert RunDirectory(tmp_path).true_status("running") == "running"


def test_a_process_that_is_killed_leaves_no_lock_behind(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()

    assert RunDirectory(tmp_path).true_status("running") == "interrupted"
    with RunDirectory(tmp_path).locked():
        assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()


def test_a_lock_that_was_released_is_free_and_its_holder_forgotten(tmp_path: Path) -> None:
    with RunDirectory(tmp_path).locked():
        assert RunDirectory(tmp_path).is_held
    assert not RunDirectory(tmp_path).is_held
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]

    RunDirectory(tmp_path).remove_lock()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", ["complete", "failed", "interrupted"])
def test_a_run_that_has_ended_keeps_its_status(status: str, tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).true_status(status) == status


def test_a_run_is_complete_only_when_its_metrics_have_their_name(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_text(PENDING_METRICS, "{}")
    with run.locked():
        assert run.true_status("complete") == "running"
    run.remove_lock()
    assert run.true_status("complete") == "interrupted"

    run.publish_metrics()

    assert run.true_status("complete") == "complete"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_of_two_processes_that_begin_in_one_directory_the_slower_is_refused(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "toy_squares")
    run.write_text("run.json", "{}")

    with pytest.raises(RunError, match="Another run was started in"):
        run.refuse_a_record()


def test_what_was_killed_before_its_record_is_no_run(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "toy_squares")
    for name in (".lock", ".lock.json", "image_ids.txt", ".run.json.partial"):
        (run.path / name).write_text("")

    assert RunDirectory.create(tmp_path / "run", "toy_squares").path == run.path


# --------------------------------------------------------------------------- folders that appear whole


def test_a_folder_appears_whole_in_place_of_the_old_one(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for text in ("old", "new"):
        with run.whole_folder("comp4", "fp32") as folder:
            assert list(folder.iterdir()) == []
            (folder / text).write_text(text)

    assert [path.name for path in (tmp_path / "comp4" / "fp32").iterdir()] == ["new"]


def fill(run: RunDirectory, error: BaseException) -> None:
    with run.whole_folder("comp4", "fp32") as folder:
        (folder / "first").write_text("")
        raise error


def test_a_folder_that_could_not_be_filled_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half"):
        fill(RunDirectory(tmp_path), ValueError("half"))

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_whoever_filled_the_folder(tmp_path: Path) -> None:
    crash = PluginCrashError("Plugin 'p' failed", fix="report it")
    crash.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError, match=r"comp4/fp32 cannot be written: .*No space left"):
        fill(RunDirectory(tmp_path), crash)


def test_sweeping_removes_what_a_killed_process_was_writing_and_nothing_else(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    (tmp_path / ".run.json.partial").write_text("{")
    (tmp_path / ".comp4-fp32.partial").mkdir()
    (tmp_path / ".work-x1").mkdir()
    for name in (PENDING_METRICS, "metrics.json"):  # only a complete run, which is not swept, has metrics
        (tmp_path / name).write_text("{}")
    for name in ("run.json", "notes.partial", ".hidden"):
        (tmp_path / name).write_text("")

    run.sweep()

    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "notes.partial", "run.json"]


@pytest.mark.parametrize("part", ["", "..", "a/b", "a\\b", "\0"])
def test_a_folder_has_a_plain_name(part: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot name a folder"), RunDirectory(tmp_path).whole_folder("comp4", part):
        pass
