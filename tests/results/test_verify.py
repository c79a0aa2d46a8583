"""What a record claims, checked again after each thing it speaks of has changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from results.conftest import MakeRun, edit_json
from toy_detector.data import GridDataset
from zoo_core.cli.main import run_command_line
from zoo_core.datatypes import Detections
from zoo_core.evaluation.prepare import fingerprint
from zoo_core.evaluation.sources import sources_here
from zoo_core.plugins import PluginHost
from zoo_core.recipes import load_recipe, override
from zoo_core.results.stored import open_changed_run
from zoo_core.results.verify import verify
from zoo_core.runs.binding import stage_binding
from zoo_core.runs.hashes import file_hashes
from zoo_core.runs.predictions import PredictionStore
from zoo_core.runs.provenance import installed_version
from zoo_core.runs.record import read_record

RECIPE = """schema: 1
name: of_the_test
description: Only simulated.
steps:
  - step: quantsim
    param_bw: 8
    config_file: config.json
"""


@pytest.fixture
def run(make_run: MakeRun, host: PluginHost, grid: Path, tmp_path: Path) -> Path:
    """A run whose record is true in everything."""
    path = make_run()
    (tmp_path / "weights").write_bytes(b"weights")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "config.json").write_text("{}")
    for folder in ("quantized", "inputs"):
        (path / folder).mkdir()
        (path / folder / "aimet_config.json").write_text("{}")
    (path / "lines" / "fp32").mkdir(parents=True)
    (path / "lines" / "fp32" / "test_000.txt").write_text("0.5 1 2 3 4")
    dataset = GridDataset(grid, "test")
    recipe = override(load_recipe(tmp_path / "recipe.yaml"), ["quantsim.param_bw=4"])

    def complete(record: dict[str, Any]) -> None:
        record["checkpoint"].update(path=str(tmp_path / "weights"), sha256=hashlib.sha256(b"weights").hexdigest())
        record["recipe"].update(
            name=recipe.name,
            source=str(recipe.source),
            sha256=recipe.sha256,
            overrides=["quantsim.param_bw=4"],
            steps=[{"step": spec.step, **dict(spec.params)} for spec in recipe.steps],
            param_bw=8,
            config_sha256=hashlib.sha256(b"{}").hexdigest(),
        )
        record["dataset"]["fingerprint"] = fingerprint(
            {image_id: dataset.content_hash(image_id) for image_id in dataset.ids}
        )
        calibration = GridDataset(grid, "trainval")
        record["calibration"].update(ids=list(calibration.ids[:2]), num_images=2)
        record["calibration"]["fingerprint"] = fingerprint(
            {image_id: calibration.content_hash(image_id) for image_id in calibration.ids[:2]}
        )
        record["dataset"]["image_ids_sha256"] = hashlib.sha256("\n".join(dataset.ids).encode()).hexdigest()
        here = sources_here(host, ["toy_detector"], host.model("toy_squares"))
        record["sources"] = {name: dataclasses.asdict(source) for name, source in here.items()}
        record["environment"].update(
            python=platform.python_version(),
            packages={name: installed_version(name) for name in ("numpy", "pluggy")},
        )

    edit_json(path / "run.json", complete)
    content = json.loads((path / "run.json").read_text())["dataset"]["fingerprint"]
    edit_json(path / "metrics.json", lambda metrics: metrics.update(fingerprint=content))
    bind_chunks(path, dataset)
    record_files(path)
    return path


def bind_chunks(path: Path, dataset: GridDataset) -> None:
    def named(record: dict[str, Any]) -> None:
        for stage in record["stages"].values():
            stage["network_sha256"] = "5" * 64

    edit_json(path / "run.json", named)
    for stage in ("fp32", "w8a8"):
        binding = stage_binding(read_record(path), stage)
        chunks = list(PredictionStore(path / "predictions" / stage, Detections))
        for chunk in chunks:
            PredictionStore(path / "predictions" / stage, Detections, binding=binding).write(chunk)


def record_files(path: Path) -> None:
    """Record the hashes of the files as they are."""
    hashes = file_hashes(path, ["inputs", "quantized", "predictions", "lines", "metrics.json", "image_ids.txt"])
    edit_json(path / "run.json", lambda record: record.update(files=hashes))


def stale(host: PluginHost, run: Path, **options: Any) -> dict[str, str]:
    return {
        check.what: check.message for check in verify(open_changed_run(run), host, **options) if check.state == "stale"
    }


def test_a_record_that_is_true_holds(host: PluginHost, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["verify", str(run), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)

    assert content["stale"] is False
    assert {check["what"]: check["state"] for check in content["checks"]} == dict.fromkeys(
        [
            "record",
            "image list",
            "files",
            "checkpoint",
            "recipe",
            "configuration",
            "libraries",
            "sources",
            "calibration images",
            "data",
            "predictions",
            "scores",
        ],
        "holds",
    )


def edit_weights(root: Path, run: Path) -> None:
    (root / "weights").write_bytes(b"other weights")


def remove_weights(root: Path, run: Path) -> None:
    (root / "weights").unlink()


def edit_recipe(root: Path, run: Path) -> None:
    (root / "recipe.yaml").write_text(RECIPE + "    output_bw: 4\n")


def break_recipe(root: Path, run: Path) -> None:
    (root / "recipe.yaml").write_text("steps: [")


def edit_config(root: Path, run: Path) -> None:
    (root / "config.json").write_text('{"defaults": {}}')


def other_library(root: Path, run: Path) -> None:
    edit_json(run / "run.json", lambda record: record["environment"]["packages"].update(numpy="0.1", gone="2.0"))


def other_plugin(root: Path, run: Path) -> None:
    edit_json(run / "run.json", lambda record: record["sources"]["toy_detector"].update(sha256="0" * 64))


def removed_plugin(root: Path, run: Path) -> None:
    gone = {"distribution": "gone", "version": "1.0", "sha256": "0" * 64}
    edit_json(run / "run.json", lambda record: record["sources"].update(gone=gone))


def edit_annotation(root: Path, run: Path) -> None:
    (root / "grid" / "test_003.json").write_text("[]")


def remove_image(root: Path, run: Path) -> None:
    listing = root / "grid" / "test.json"
    listing.write_text(json.dumps(json.loads(listing.read_text())[:-1]))


def edit_metrics(root: Path, run: Path) -> None:
    def better(metrics: dict[str, Any]) -> None:
        metrics["stages"]["w8a8"]["metrics"]["coco"]["map"] = 0.99

    edit_json(run / "metrics.json", better)


def remove_predictions(root: Path, run: Path) -> None:
    for path in (run / "predictions" / "fp32").iterdir():
        path.unlink()


def edit_ids(root: Path, run: Path) -> None:
    (run / "image_ids.txt").write_text("\n".join(reversed((run / "image_ids.txt").read_text().split())))


def interrupt(root: Path, run: Path) -> None:
    edit_json(run / "run.json", lambda record: record.update(status="interrupted"))


def edit_kept_config(root: Path, run: Path) -> None:
    (run / "inputs" / "aimet_config.json").write_text("{} ")


def empty_encodings(root: Path, run: Path) -> None:
    (run / "quantized" / "aimet_config.json").write_text("")


def edit_calibration_image(root: Path, run: Path) -> None:
    shutil.copyfile(root / "grid" / "trainval_001.png", root / "grid" / "trainval_000.png")


def remove_calibration_image(root: Path, run: Path) -> None:
    (root / "grid" / "trainval_001.png").unlink()


def remove_submission(root: Path, run: Path) -> None:
    (run / "lines" / "fp32" / "test_000.txt").unlink()


def add_submission(root: Path, run: Path) -> None:
    (run / "lines" / "fp32" / "test_999.txt").write_text("")


def add_stage(root: Path, run: Path) -> None:
    shutil.copytree(run / "predictions" / "w8a8", run / "predictions" / "w4a4")


def add_chunk(root: Path, run: Path) -> None:
    shutil.copyfile(
        run / "predictions" / "fp32" / "chunk-00000.parquet", run / "predictions" / "fp32" / "chunk-00099.parquet"
    )


def exchange_chunks(root: Path, run: Path) -> None:
    """Copy the chunks of fp32, whose value is better, and fit metrics and hashes to them."""
    shutil.copytree(run / "predictions" / "fp32", run / "predictions" / "w8a8", dirs_exist_ok=True)

    def better(metrics: dict[str, Any]) -> None:
        stages = metrics["stages"]
        stages["w8a8"].update(metrics=stages["fp32"]["metrics"], drop_points=0.0)
        stages["w8a8"]["change"].update(points=0.0)  # 12 images are too few for an interval

    edit_json(run / "metrics.json", better)
    record_files(run)


def forge_chunks(root: Path, run: Path) -> None:
    """Write the same predictions without a binding."""
    store = PredictionStore(run / "predictions" / "w8a8", Detections)
    for chunk in list(store):
        store.write(chunk)
    record_files(run)


def edit_metrics_and_hash(root: Path, run: Path) -> None:
    edit_metrics(root, run)
    record_files(run)


def no_stages(root: Path, run: Path) -> None:
    edit_json(run / "metrics.json", lambda metrics: metrics.update(stages={}))
    record_files(run)


def other_drop(root: Path, run: Path) -> None:
    edit_json(run / "metrics.json", lambda metrics: metrics["stages"]["w8a8"].update(drop_points=0.0))
    record_files(run)


def no_stage(root: Path, run: Path) -> None:
    edit_json(run / "run.json", lambda record: record["stages"].pop("w8a8"))


def other_count(root: Path, run: Path) -> None:
    edit_json(run / "run.json", lambda record: record["calibration"].update(num_images=64))


def other_split(root: Path, run: Path) -> None:
    edit_json(run / "run.json", lambda record: record["dataset"].update(split_ids_sha256="0" * 64))


def no_warning(root: Path, run: Path) -> None:
    edit_json(run / "run.json", lambda record: record.update(warnings=["Calibration overlap: 2 images."]))


_FOLLOWS: dict[Callable[[Path, Path], None], tuple[str, ...]] = {
    edit_metrics: ("files",),
    remove_predictions: ("files",),
    edit_ids: ("files",),
    edit_kept_config: ("files",),
    empty_encodings: ("configuration",),
    # The record says now that the predictions were made under other conditions than the chunks do.
    other_library: ("predictions",),
    other_plugin: ("predictions",),
    removed_plugin: ("predictions",),
}
"""What else is stale: the metrics, for example, differ from the predictions and from their hash."""


@pytest.mark.parametrize(
    ("spoil", "what", "words"),
    [
        (edit_weights, "checkpoint", "weights has the hash"),
        (remove_weights, "checkpoint", "weights cannot be read"),
        (edit_recipe, "recipe", "recipe.yaml has the hash"),
        (break_recipe, "recipe", "it cannot be read any more"),
        (edit_config, "configuration", "config.json has another hash than 44136fa355b3, which was recorded"),
        (other_library, "libraries", " instead of 0.1, gone not installed instead of 2.0"),
        (other_plugin, "sources", "the sources of plugin toy_detector have changed since: sources "),
        (removed_plugin, "sources", "plugin gone have changed since: none instead of 1.0 with sources 000000000000"),
        (edit_annotation, "data", "grid has the hash"),
        (remove_image, "data", "lacks 1 of the 12 images"),
        (edit_metrics, "scores", "stages.w8a8.metrics.coco.map is 0.99; 0."),
        (remove_predictions, "scores", "lacks 12 of the run's 12 images"),
        (edit_ids, "image list", "image_ids.txt has the hash"),
        (interrupt, "record", "its status is 'interrupted'"),
        (edit_kept_config, "configuration", "inputs/aimet_config.json has another hash than 44136fa355b3"),
        (edit_calibration_image, "calibration images", "2 images of trainval in "),
        (remove_calibration_image, "calibration images", "trainval_001"),
        (empty_encodings, "files", "quantized/aimet_config.json has changed: its SHA-256 is e3b0c44298fc, and 44136f"),
        (remove_submission, "files", "lines/fp32/test_000.txt is missing"),
        (add_submission, "files", "lines/fp32/test_999.txt is not in the record"),
        (add_stage, "files", "predictions/w4a4/chunk-00000.parquet is not in the record"),
        (add_chunk, "files", "predictions/fp32/chunk-00099.parquet is not in the record"),
        (exchange_chunks, "predictions", "another stage or another run computed predictions/w8a8/chunk-00000.parquet"),
        (forge_chunks, "predictions", "another stage or another run computed predictions/w8a8/chunk-00000.parquet"),
        (edit_metrics_and_hash, "scores", "stages.w8a8.metrics.coco.map is 0.99; 0."),
        (no_stages, "scores", "stages.keys is missing; fp32, w8a8, optimized_fp32 follows"),
        (other_drop, "scores", "stages.w8a8.drop_points is 0.0; "),
        (no_stage, "record", "it lists predictions of w8a8, but no such stage"),
        (other_count, "record", "calibration.num_images is 64, but 2 are listed"),
        (other_split, "data", "lists 12 images, and not those that were recorded"),
        (no_warning, "scores", "warnings[0] is missing; Calibration overlap: 2 images. follows"),
    ],
)
def test_what_changed_is_named_and_nothing_else(
    host: PluginHost, run: Path, tmp_path: Path, spoil: Callable[[Path, Path], None], what: str, words: str
) -> None:
    spoil(tmp_path, run)

    found = stale(host, run)

    assert found.keys() == {what, *_FOLLOWS.get(spoil, ())}
    assert words in found[what]
    assert run_command_line(["verify", str(run)]) == 1


def test_data_that_is_elsewhere_is_unchecked_or_named(host: PluginHost, run: Path, grid: Path) -> None:
    moved = grid.rename(grid.with_name("moved"))

    states = {check.what: check.state for check in verify(open_changed_run(run), host)}
    assert (states["data"], states["scores"]) == ("unchecked", "unchecked")
    assert stale(host, run) == {}
    assert {check.state for check in verify(open_changed_run(run), host, data=moved)} == {"holds"}


def test_a_record_that_cannot_be_read_exits_with_2(
    host: PluginHost, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["verify", str(tmp_path)]) == 2
    (run / "run.json").write_text("{")
    assert run_command_line(["verify", str(run)]) == 2
    assert "cannot be read" in capsys.readouterr().err
