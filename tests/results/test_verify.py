"""What a record claims, checked again after each thing it speaks of has changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from results.conftest import MakeRun, edit_json
from toy_detector.data import GridDataset
from zoo_core.cli.main import run_command_line
from zoo_core.evaluation.prepare import fingerprint
from zoo_core.evaluation.sources import sources_here
from zoo_core.plugins import PluginHost
from zoo_core.recipes import load_recipe, override
from zoo_core.results.stored import open_run
from zoo_core.results.verify import verify
from zoo_core.runs.provenance import installed_version

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
    (path / "quantized").mkdir()
    (path / "quantized" / "aimet_config.json").write_text("{}")
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
        )
        record["dataset"]["fingerprint"] = fingerprint(
            {image_id: dataset.content_hash(image_id) for image_id in dataset.ids}
        )
        record["dataset"]["image_ids_sha256"] = hashlib.sha256("\n".join(dataset.ids).encode()).hexdigest()
        here = sources_here(host, ["toy_detector"], host.model("toy_squares"))
        record["sources"] = {name: dataclasses.asdict(source) for name, source in here.items()}
        record["environment"].update(
            python=platform.python_version(),
            packages={name: installed_version(name) for name in ("numpy", "pluggy")},
        )

    edit_json(path / "run.json", complete)
    return path


def stale(host: PluginHost, run: Path, **options: Any) -> dict[str, str]:
    return {check.what: check.message for check in verify(open_run(run), host, **options) if check.state == "stale"}


def test_a_record_that_is_true_holds(host: PluginHost, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["verify", str(run), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)

    assert content["stale"] is False
    assert {check["what"]: check["state"] for check in content["checks"]} == dict.fromkeys(
        ["record", "image list", "checkpoint", "recipe", "configuration", "libraries", "sources", "data", "scores"],
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


@pytest.mark.parametrize(
    ("spoil", "what", "words"),
    [
        (edit_weights, "checkpoint", "weights has the hash"),
        (remove_weights, "checkpoint", "weights cannot be read"),
        (edit_recipe, "recipe", "recipe.yaml has the hash"),
        (break_recipe, "recipe", "it cannot be read any more"),
        (edit_config, "configuration", "config.json is not as the run's copy of it"),
        (other_library, "libraries", " instead of 0.1, gone not installed instead of 2.0"),
        (other_plugin, "sources", "the sources of plugin toy_detector have changed since: sources "),
        (removed_plugin, "sources", "plugin gone have changed since: none instead of 1.0 with sources 000000000000"),
        (edit_annotation, "data", "grid has the hash"),
        (remove_image, "data", "lacks 1 of the 12 images"),
        (edit_metrics, "scores", "w8a8 coco map is"),
        (remove_predictions, "scores", "lacks 12 of the run's 12 images"),
        (edit_ids, "image list", "image_ids.txt has the hash"),
        (interrupt, "record", "its status is 'interrupted'"),
    ],
)
def test_what_changed_is_named_and_nothing_else(
    host: PluginHost, run: Path, tmp_path: Path, spoil: Callable[[Path, Path], None], what: str, words: str
) -> None:
    spoil(tmp_path, run)

    found = stale(host, run)

    assert list(found) == [what]
    assert words in found[what]
    assert run_command_line(["verify", str(run)]) == 1


def test_data_that_is_elsewhere_is_unchecked_or_named(host: PluginHost, run: Path, grid: Path) -> None:
    moved = grid.rename(grid.with_name("moved"))

    states = {check.what: check.state for check in verify(open_run(run), host)}
    assert (states["data"], states["scores"]) == ("unchecked", "unchecked")
    assert stale(host, run) == {}
    assert {check.state for check in verify(open_run(run), host, data=moved)} == {"holds"}


def test_a_record_that_cannot_be_read_exits_with_2(
    host: PluginHost, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["verify", str(tmp_path)]) == 2
    (run / "run.json").write_text("{")
    assert run_command_line(["verify", str(run)]) == 2
    assert "cannot be read" in capsys.readouterr().err
