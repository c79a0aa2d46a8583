"""A disk that is full and a directory that may not be written, really so, at several moments of a run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.harness import Answer, Toy, inodes, results
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.listing import read_listed

MOMENTS = [
    "open predictions/fp32/chunk-00001",
    "advance w8a8",
    "mkdir .lines-w8a8.partial",
    "mkdir .inputs.partial",
    "start reading calibration images",
    "mkdir .quantized.partial",
    "open ..metrics.json.pending.partial",
]


def goes_on(toy: Toy, *, after: str) -> None:
    """Once the cause is gone, the run ends with the bytes of one that was not disturbed."""
    run, complete = toy.folder / "run", inodes(toy.folder / "run")
    assert read_listed(run).status == after
    assert toy.resume()["status"] == "complete"
    assert results(run) == toy.undisturbed()[1]
    assert complete.items() <= inodes(run).items()
    assert not [path.name for path in run.rglob(".*")]


def told(answer: Answer, toy: Toy, words: str) -> None:
    assert answer["error"] == "RunError"
    assert words in answer["fact"]
    assert answer["fix"].endswith(RunDirectory(toy.folder / "run").resume_command)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_may_write_no_further_byte_says_so_and_goes_on_later(moment: str, toy: Toy) -> None:
    answer = toy.run(faults=[{"at": moment, "do": "no_more_bytes"}])

    told(answer, toy, "File too large")
    assert not (toy.folder / "run" / "metrics.json").exists()
    goes_on(toy, after="interrupted")  # not even the failure could be recorded


def test_a_run_whose_first_record_cannot_be_written_has_not_begun(toy: Toy) -> None:
    answer = toy.run(faults=[{"at": "open .run.json.partial", "do": "no_more_bytes"}])

    assert answer["error"] == "RunError"
    assert "run.json cannot be written: " in answer["fact"]
    assert "no run was started there" in toy.resume()["fact"]
    assert toy.run()["status"] == "complete"
    assert results(toy.folder / "run") == toy.undisturbed()[1]


@pytest.mark.parametrize("moment", [MOMENTS[0], MOMENTS[2], MOMENTS[6]])
def test_a_directory_made_read_only_says_so_and_goes_on_later(moment: str, toy: Toy) -> None:
    run = toy.folder / "run"
    answer = toy.run(obey_mode_bits=True, faults=[{"at": moment, "do": "read_only", "with": {"folder": str(run)}}])
    refused = toy.resume(obey_mode_bits=True)

    for path in (run, *(path for path in run.rglob("*") if path.is_dir())):
        path.chmod(0o700)
    told(answer, toy, "Permission denied")
    assert refused["error"] == "RunError"
    assert "Permission denied" in refused["fact"]
    goes_on(toy, after="interrupted")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 210 MB in memory."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=210m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if mounted.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607


@pytest.mark.parametrize("moment", [MOMENTS[0], MOMENTS[5]])
def test_a_full_file_system_says_so_and_goes_on_later(moment: str, toy: Toy, small_disk: Path) -> None:
    toy.folder = small_disk
    answer = toy.run(faults=[{"at": moment, "do": "fill", "with": {"folder": str(small_disk)}}])

    told(answer, toy, "No space left on device")
    (small_disk / "ballast").unlink()
    goes_on(toy, after=read_listed(small_disk / "run").status)
