from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from zoo_core.errors import RunError
from zoo_core.runs import RunDirectory


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


def test_json_comes_back_and_leaves_no_partial_file(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_json("run.json", {"schema": 1, "value": 0.1 + 0.2})

    assert run.read_json("run.json")["value"] == 0.1 + 0.2
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_number_that_json_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunDirectory(tmp_path).write_json("metrics.json", {"map": float("nan")})


@pytest.mark.parametrize(
    ("text", "words"), [(None, "holds no run.json"), ("{", "cannot be read"), ('{"schema": 99}', "has schema 99")]
)
def test_a_run_that_cannot_be_read_says_why(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)

    with pytest.raises(RunError, match=words):
        RunDirectory(tmp_path).read_json("run.json")


@pytest.mark.parametrize("name", ["..", "a/b", "", "a\\b", "x\0"])
def test_a_folder_name_cannot_leave_the_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="cannot name a folder"):
        RunDirectory(tmp_path).folder("predictions", name)
