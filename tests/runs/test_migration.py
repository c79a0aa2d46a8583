"""Runs that an earlier version stored: ``schema1`` is a genuine one, resumed once, with the program of schema 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from zoo_core.errors import RunError
from zoo_core.runs.migration import SCHEMA
from zoo_core.runs.record import MetricsRecord, read_metrics, read_record, record_text

STORED = Path(__file__).parent / "schema1"


def test_the_record_of_a_stored_run_of_schema_1_opens() -> None:
    record = read_record(STORED)

    assert json.loads((STORED / "run.json").read_text())["schema"] == 1
    assert record.schema == SCHEMA
    assert record.plugins_notified
    assert record.error is None
    assert [entry.after for entry in record.resumed] == ["interrupted"]
    assert [step.step for step in record.steps if step.short] == ["adaround"]
    assert len(record.settings.stages) == 14
    assert record.stages["fp32"].batch_size == 5
    assert record.stages["w8a8"].quantized
    measured = record.stages["fp32"].batch_sizes["1"]
    assert measured.error is None
    assert measured.num_images == 12
    assert measured.change_points is not None
    assert set(measured.changes or {}) == {"kept", "moved", "lost", "gained"}
    assert record.files is None
    assert record.dataset.split_ids_sha256 is None
    assert record.stages["fp32"].network_sha256 is None


def test_the_metrics_of_a_stored_run_of_schema_1_open() -> None:
    raw = json.loads((STORED / "metrics.json").read_text())
    metrics = read_metrics(STORED)

    assert isinstance(metrics, MetricsRecord)
    assert list(metrics.stages) == list(raw["stages"])
    for name, stage in metrics.stages.items():
        score = stage.scores[metrics.headline]
        stored = raw["stages"][name]["metrics"][metrics.headline]
        assert (score.key, score.headline) == ("map", stored["map"])
        assert score.per_class == stored["per_class"]
    assert metrics.stages["optimized_fp32"].same_as == raw["stages"]["optimized_fp32"]["same_as"]


def test_a_stored_run_of_schema_1_written_again_is_of_the_current_schema(tmp_path: Path) -> None:
    record, metrics = read_record(STORED), read_metrics(STORED)
    assert metrics is not None
    (tmp_path / "run.json").write_text(record_text(record))
    (tmp_path / "metrics.json").write_text(record_text(metrics))

    assert json.loads((tmp_path / "run.json").read_text())["schema"] == SCHEMA
    assert read_record(tmp_path) == record
    assert read_metrics(tmp_path) == metrics


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, 99, "1", True, None])
def test_a_schema_that_is_not_known_is_refused(tmp_path: Path, schema: object) -> None:
    content = json.loads((STORED / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**content, "schema": schema}))

    with pytest.raises(RunError, match=rf"run\.json has schema {schema!r}; this version reads 1 to {SCHEMA}"):
        read_record(tmp_path)


def test_a_stored_run_of_schema_1_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    shutil.copytree(STORED, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    content["stages"]["fp32"]["colour"] = "red"
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))

    with pytest.raises(RunError, match=r"stages\.fp32\.colour"):
        read_record(tmp_path / "run")


def test_a_record_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    text = (STORED / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace('"status":', '"status": "failed", "status":', 1))

    with pytest.raises(RunError, match=r"run\.json cannot be read: the key 'status' is given twice"):
        read_record(tmp_path)
