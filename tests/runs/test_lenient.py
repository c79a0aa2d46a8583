"""The lenient reader: what is missing or wrong is a gap, and the rest is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from typed_records import HEADLINE, metrics_record, run_record
from zoo_core.display import joined, page_percent, page_points
from zoo_core.runs.lenient import ReadableMetrics, ReadableRecord, read_leniently
from zoo_core.runs.migration import SCHEMA
from zoo_core.runs.record import record_text

Edit = Callable[[dict[str, Any]], object]


def read(folder: Path, edit: Edit = dict) -> tuple[ReadableRecord, list[str]]:
    """A record read after an edit, and its gaps."""
    content = json.loads(record_text(run_record()))
    edit(content)
    (folder / "run.json").write_text(json.dumps(content))
    gaps: list[str] = []
    record = read_leniently(folder / "run.json", gaps, ReadableRecord)
    assert record is not None
    return record, gaps


def test_a_valid_record_is_read_without_a_gap(tmp_path: Path) -> None:
    record, gaps = read(tmp_path)
    valid = run_record()

    assert gaps == []
    assert (record.model, record.dataset, record.steps) == (valid.model, valid.dataset, valid.steps)
    assert (record.stages, record.simulations) == (valid.stages, valid.simulations)


def test_valid_metrics_are_read_without_a_gap(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(record_text(metrics_record()))
    gaps: list[str] = []

    metrics = read_leniently(tmp_path / "metrics.json", gaps, ReadableMetrics)

    assert gaps == []
    assert metrics is not None
    assert metrics.stages["w8a8"].scores[HEADLINE].headline == 0.5


def test_a_missing_field_is_a_gap(tmp_path: Path) -> None:
    record, gaps = read(tmp_path, lambda content: content.pop("git"))

    assert record.git is None
    assert gaps == ["run.json: git is missing."]


def test_a_part_with_a_wrong_field_is_left_out_as_a_whole(tmp_path: Path) -> None:
    record, gaps = read(tmp_path, lambda content: content["calibration"].update(overlap="test_000"))

    assert record.calibration is None
    assert record.dataset is not None
    assert len(gaps) == 1
    assert gaps[0].startswith("run.json: calibration is left out: overlap: ")


def test_of_a_collection_only_wrong_entries_are_left_out(tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["stages"]["w8a8"] = 3
        content["steps"].append(None)
        content["warnings"] = ["one", 2]
        content["seconds"]["prepare"] = "long"

    record, gaps = read(tmp_path, spoil)

    assert list(record.stages) == ["fp32"]
    assert [step.step for step in record.steps] == ["fold_batch_norms"]
    assert record.warnings == ("one",)
    assert record.seconds == {}
    assert [gap.partition(" is left out")[0] for gap in gaps] == [
        "run.json: steps[1]",
        "run.json: stages.w8a8",
        "run.json: seconds.prepare",
        "run.json: warnings[1]",
    ]


def test_an_unknown_field_is_a_gap_and_its_part_is_used(tmp_path: Path) -> None:
    def extend(content: dict[str, Any]) -> None:
        content["colour"] = "red"
        content["dataset"]["depth"] = 3
        content["stages"]["fp32"]["batch_sizes"]["1"]["tint"] = "blue"

    record, gaps = read(tmp_path, extend)

    assert record.dataset == run_record().dataset
    assert record.stages == run_record().stages
    assert gaps == [
        "run.json: dataset.depth is unknown to this version.",
        "run.json: stages.fp32.batch_sizes.1.tint is unknown to this version.",
        "run.json: colour is unknown to this version.",
    ]


def test_a_collection_of_another_kind_is_left_out(tmp_path: Path) -> None:
    record, gaps = read(tmp_path, lambda content: content.update(steps={"step": "adaround"}, stages=[]))

    assert (record.steps, record.stages) == ((), {})
    assert len(gaps) == 2


def test_a_record_of_a_newer_schema_is_shown_as_far_as_it_is_known(tmp_path: Path) -> None:
    record, gaps = read(tmp_path, lambda content: content.update(schema=SCHEMA + 1))

    assert record.model == "toy_squares"
    assert gaps == [f"run.json has schema {SCHEMA + 1}; this version writes {SCHEMA} and shows what it knows."]


@pytest.mark.parametrize(
    ("content", "gap"),
    [
        (None, "run.json is missing."),
        (b"\xff\xfe\x00", "run.json cannot be read: "),
        (b"{", "run.json cannot be read: "),
        (b"[" * 100_000, "run.json cannot be read: "),
        (b"[1]", "run.json is not a JSON object."),
    ],
)
def test_a_file_that_is_no_record_is_none_and_a_gap(tmp_path: Path, content: bytes | None, gap: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    gaps: list[str] = []

    assert read_leniently(tmp_path / "run.json", gaps, ReadableRecord) is None
    assert len(gaps) == 1
    assert gaps[0].startswith(gap)


def test_numbers_in_print() -> None:
    assert page_percent(0.12345) == "12.35"
    assert page_percent(None) == "\N{EN DASH}"
    assert page_points(-0.5) == "\N{MINUS SIGN}0.50"
    assert page_points(0.0) == page_points(-0.0) == page_points(-0.004) == "+0.00"
    assert joined(["a", "b", "c"], 2) == "a, b and 1 more"
