"""Runs of the toy detector, written without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from report.synthetic import write_run
from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.data import GridDataset
from typed_records import run_record
from zoo_core.datatypes import EvalDataset
from zoo_core.evaluation.starting import hash_of_ids
from zoo_core.plugins import PluginHost
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.record import record_text

MakeRun = Callable[..., Path]
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    """The toy plugin alone, for the command line too."""
    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    monkeypatch.setattr("zoo_core.plugins.PluginHost", lambda: host)
    return host


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return data.write(tmp_path / "grid")


@pytest.fixture
def make_run(tmp_path: Path, grid: Path) -> MakeRun:
    """Writes a run with the stages fp32, w8a8 and optimized_fp32 (= fp32)."""

    def make(name: str = "run", *, split: str = "test", limit: int | None = None, **options: Any) -> Path:
        dataset = GridDataset(grid, split)
        path = write_run(tmp_path / name, dataset, grid, "toy_squares", limit=limit, warnings=(), **options)
        write_record(path, dataset, limit=limit)
        return path

    return make


def write_record(path: Path, dataset: EvalDataset, *, limit: int | None = None, **changes: Any) -> None:
    """Write the list of images and a complete ``run.json`` beside what ``write_run`` left."""
    ids = dataset.ids[:limit]
    record = run_record(**changes)
    described = replace(
        record.dataset,
        name=dataset.name,
        root=str(dataset.root),
        split=dataset.split,
        num_images=len(ids),
        num_images_in_split=len(dataset.ids),
        split_ids_sha256=hash_of_ids(dataset.ids),
        limited=limit is not None,
        class_names=dataset.class_names,
    )
    run = RunDirectory(path)
    run.write_text("image_ids.txt", "".join(f"{image_id}\n" for image_id in ids))
    run.write_text("run.json", record_text(replace(record, dataset=described)))


def edit_json(path: Path, edit: Edit) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
