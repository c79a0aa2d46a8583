"""What has been run, newest first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from results.conftest import MakeRun, edit_json
from zoo_core.cli.main import run_command_line
from zoo_core.errors import RunError
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.listing import list_runs, read_listed

HEADLINE = "voc07_11pt/pytorch-ssd"


@pytest.fixture
def folder(make_run: MakeRun, tmp_path: Path) -> Path:
    """Three runs: of 2025, of 2026 and another model, and one that is damaged."""
    folder = tmp_path / "runs"
    for place in ("toy_squares/old", "other/new", "toy_squares/damaged"):
        shutil.copytree(make_run(place.replace("/", "-")), folder / place)
    edit_json(
        folder / "other" / "new" / "run.json",
        lambda record: record.update(started="2026-02-03T04:05:06+00:00", model="other", status="failed"),
    )
    (folder / "other" / "new" / "metrics.json").unlink()
    (folder / "toy_squares" / "damaged" / "run.json").write_text("{")
    return folder


def test_runs_are_listed_newest_first_with_their_headline_values(folder: Path) -> None:
    new, old, damaged = list_runs(folder)

    assert (new.model, new.status, new.values) == ("other", "failed", {})
    metrics = json.loads((old.path / "metrics.json").read_text())
    assert old.values == {name: stage["metrics"][HEADLINE]["map"] for name, stage in metrics["stages"].items()}
    assert (old.dataset, old.num_images, old.limited) == ("grid test", 12, False)
    assert (damaged.path.name, damaged.status) == ("damaged", "unreadable")


def test_runs_of_one_model_can_be_chosen(folder: Path) -> None:
    assert [run.path.name for run in list_runs(folder, "toy_squares")] == ["old"]
    assert list_runs(folder, "nothing") == []


def test_a_run_directory_lists_itself_and_links_are_not_followed(folder: Path) -> None:
    old = folder / "toy_squares" / "old"
    (folder / "loop").symlink_to(folder)
    (folder / "again").symlink_to(old)

    assert [run.path for run in list_runs(old)] == [old]
    assert len(list_runs(folder)) == 3


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere is not a directory"):
        list_runs(tmp_path / "nowhere")


def test_the_command_prints_lines_or_one_json_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["runs", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "2026-02-03T04:05:06+00:00  other  failed" in printed
    assert printed.index("other/new") < printed.index("toy_squares/old")

    assert run_command_line(["runs", str(folder), "--model", "toy_squares", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["path"] == str(folder / "toy_squares" / "old")
    assert set(run["values"]) == {"fp32", "w8a8", "optimized_fp32"}

    assert run_command_line(["runs", str(folder), "--model", "nothing"]) == 0
    assert capsys.readouterr().out == f"no runs in {folder} of nothing\n"


def test_a_run_whose_process_died_is_listed_as_interrupted(make_run: MakeRun) -> None:
    path = make_run()
    edit_json(path / "run.json", lambda content: content.update(status="running"))

    assert read_listed(path).status == "interrupted"
    with RunDirectory(path).locked():
        assert read_listed(path).status == "running"


def test_a_list_is_a_table_with_a_row_for_each_stage(folder: Path) -> None:
    runs = list_runs(folder)
    rows = runs.rows()

    assert [(row["model"], row["status"], row["stage"]) for row in rows] == [
        ("other", "failed", ""),
        ("toy_squares", "complete", "fp32"),
        ("toy_squares", "complete", "w8a8"),
        ("toy_squares", "complete", "optimized_fp32"),
        ("?", "unreadable", ""),
    ]
    assert rows[1]["value"] == runs[1].values["fp32"]
    assert repr(runs).startswith("3 runs\n")
    assert repr(list_runs(folder, "nothing")) == "0 runs"


def test_a_run_whose_record_is_damaged_in_parts_is_listed_as_far_as_it_can_be_read(make_run: MakeRun) -> None:
    path = make_run()

    def spoil(record: dict[str, Any]) -> None:
        record["dataset"]["num_images"] = "12"
        record["recipe"] = None

    edit_json(path / "run.json", spoil)
    run = read_listed(path)

    assert (run.model, run.status, run.dataset, run.num_images, run.recipe) == (
        "toy_squares",
        "complete",
        "?",
        None,
        "",
    )
    assert set(run.values) == {"fp32", "w8a8", "optimized_fp32"}
