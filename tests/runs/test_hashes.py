"""Hashes of a run's files, and what is noticed when a directory is compared with them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from zoo_core.errors import RunError
from zoo_core.runs.hashes import file_hashes, file_problems, metrics_problem


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("image_ids.txt", "inputs/recipe.yaml", "lines/fp32/a.txt", "predictions/fp32/chunk-00000.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def hashes(run: Path) -> dict[str, str]:
    return file_hashes(run, ["inputs", "lines", "predictions", "image_ids.txt", "quantized"])


def problems(run: Path, recorded: dict[str, str], *, all_recorded: bool = True) -> list[str]:
    return [str(problem) for problem in file_problems(run, recorded, all_recorded=all_recorded)]


def test_files_below_folders_are_hashed_by_their_path_in_the_run(run: Path) -> None:
    assert list(hashes(run)) == [
        "image_ids.txt",
        "inputs/recipe.yaml",
        "lines/fp32/a.txt",
        "predictions/fp32/chunk-00000.parquet",
    ]
    assert hashes(run)["lines/fp32/a.txt"] == hashlib.sha256(b"lines/fp32/a.txt").hexdigest()
    assert problems(run, hashes(run)) == []


def test_changed_missing_and_additional_files_are_named(run: Path) -> None:
    recorded = hashes(run)
    (run / "inputs" / "recipe.yaml").write_text("other")
    (run / "lines" / "fp32" / "a.txt").unlink()
    (run / "quantized").mkdir()
    (run / "quantized" / "encodings.json").write_text("{}")

    digest = hashlib.sha256(b"other").hexdigest()[:12]
    changed = f"inputs/recipe.yaml has changed: its SHA-256 is {digest}, and {recorded['inputs/recipe.yaml'][:12]} was"
    assert problems(run, recorded) == [
        f"{changed} recorded",
        "lines/fp32/a.txt is missing",
        "quantized/encodings.json is not in the record",
    ]
    assert problems(run, recorded, all_recorded=False) == problems(run, recorded)[:2]


def test_files_of_the_user_beside_the_results_do_not_count(run: Path) -> None:
    recorded = hashes(run)
    (run / "report.html").write_text("a report")
    (run / "notes").mkdir()
    (run / "notes" / "mine.txt").write_text("a note")
    (run / "inputs" / ".DS_Store").write_text("of a file manager")

    assert problems(run, recorded) == []


def test_a_record_without_hashes_lacks_every_file(run: Path) -> None:
    assert problems(run, {}) == [
        "image_ids.txt is not in the record",
        "inputs/recipe.yaml is not in the record",
        "predictions/fp32/chunk-00000.parquet is not in the record",
    ]


@pytest.mark.parametrize("name", ["/etc/passwd", "../elsewhere", "inputs/../../elsewhere", "", "a\0b"])
def test_a_recorded_path_outside_of_the_run_is_not_read(run: Path, name: str) -> None:
    (problem,) = problems(run, {**hashes(run), name: "0" * 64})

    printed = name if name.isprintable() else repr(name)
    assert problem == f"{printed} cannot be read: it is not a path inside of the run directory"


def test_a_pipe_in_place_of_a_file_does_not_block(run: Path) -> None:
    recorded = hashes(run)
    (run / "inputs" / "recipe.yaml").unlink()
    os.mkfifo(run / "inputs" / "recipe.yaml")

    assert problems(run, recorded) == ["inputs/recipe.yaml cannot be read: it is not a regular file"]
    with pytest.raises(RunError, match=r"recipe\.yaml cannot be read: it is not a regular file"):
        hashes(run)


def test_control_characters_in_a_name_are_not_printed(run: Path) -> None:
    (run / "inputs" / "\x1b[2J").write_text("")

    assert problems(run, {**hashes(run), "inputs/\x1b[31m": "0" * 64}) == ["'inputs/\\x1b[31m' is missing"]


def test_metrics_are_compared_where_their_hash_is_recorded(run: Path) -> None:
    recorded = {"metrics.json": hashlib.sha256(b"{}").hexdigest()}
    assert str(metrics_problem(run, recorded)) == "metrics.json is missing"
    (run / "metrics.json").write_text("{}")
    assert metrics_problem(run, recorded) is None
    (run / "metrics.json").write_text("[]")
    assert str(metrics_problem(run, recorded)).startswith("metrics.json has changed: ")
    assert metrics_problem(run, None) is None


def test_metrics_whose_hash_is_missing_among_others_are_a_problem(run: Path) -> None:
    recorded = {"image_ids.txt": "0" * 64}
    assert metrics_problem(run, recorded) is None
    (run / "metrics.json").write_text("{}")
    assert str(metrics_problem(run, recorded)) == "metrics.json is not in the record"
