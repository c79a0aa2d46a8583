"""Files of an interrupted run that changed meanwhile: written again, computed again, or refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.interrupted import Begin, Interrupting, files, interrupt, record, resume
from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.model import untrained
from zoo_core import api, artifacts
from zoo_core.datatypes import Detections
from zoo_core.errors import RunError, RunInterruptedError
from zoo_core.evaluation.request import SilentReporter
from zoo_core.plugins import PluginHost
from zoo_core.quantization import digest
from zoo_core.runs.binding import stage_binding
from zoo_core.runs.predictions import PredictionStore
from zoo_core.runs.record import read_record


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return data.write(tmp_path / "grid", num_test=70)


class Warned(SilentReporter):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of all stages, beside its data and weights; copy it with ``interrupted``."""
    root = tmp_path_factory.mktemp("whole")
    artifacts.save_state_dict(root / "toy.safetensors", untrained(2).state_dict(), {})
    options: dict[str, Any] = {"data": data.write(root / "grid", num_test=70), "checkpoint": root / "toy.safetensors"}
    api.evaluate("toy_squares", host=toy_host(), out=root / "run", report=False, **options)
    return root / "run"


def toy_host() -> PluginHost:
    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    return host


@pytest.fixture
def interrupted(whole: Path, tmp_path: Path) -> Path:
    """A copy of the complete run in which only the end is missing."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    interrupt(run)
    return run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_files_that_changed_after_they_were_recorded_are_named_and_written_again(
    damage: Callable[[Path], None], interrupted: Path, whole: Path, host: PluginHost
) -> None:
    names = list(record(interrupted)["files"])
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"image_ids.txt", "inputs", "lines", "predictions", "quantized"}
    for name in names:
        damage(interrupted / name)
    reporter = Warned()

    resume(interrupted, host, reporter)

    rebuilt = [text.partition(" ")[0] for text in reporter.warnings if text.endswith("It is written again.")]
    assert rebuilt == names
    assert files(interrupted) == files(whole)
    assert record(interrupted)["files"] == record(whole)["files"]


def test_predictions_that_changed_in_a_valid_way_are_computed_again(
    interrupted: Path, whole: Path, host: PluginHost
) -> None:
    """Only the recorded hash can tell: the file has all images, checksums and the stage's binding."""
    folder = interrupted / "predictions" / "w8a8"
    store = PredictionStore(folder, Detections, binding=stage_binding(read_record(interrupted), "w8a8"))
    first = next(iter(store))
    emptied = tuple(own.without_rows() for own in first.predictions)
    store.write(dataclasses.replace(first, predictions=emptied))
    assert store.strangers() == []

    resume(interrupted, host)

    assert files(interrupted) == files(whole)


def test_a_recorded_path_that_leaves_the_run_removes_nothing(interrupted: Path, whole: Path, host: PluginHost) -> None:
    beside = interrupted.parent / "beside.txt"
    beside.write_text("not of the run")
    content = record(interrupted)
    for name in ("", "predictions/../..", "predictions/../run.json", str(beside)):
        content["files"][name] = "0" * 64
    (interrupted / "run.json").write_text(json.dumps(content))

    resume(interrupted, host)

    assert beside.read_text() == "not of the run"
    assert files(interrupted) == files(whole)


def test_chunks_of_another_stage_are_computed_again(interrupted: Path, whole: Path, host: PluginHost) -> None:
    predictions = interrupted / "predictions"
    shutil.copytree(predictions / "fp32", predictions / "w8a8", dirs_exist_ok=True)
    content = record(interrupted)
    for name in [name for name in content["files"] if name.startswith("predictions/w8a8/")]:
        del content["files"][name]  # as of a stage that was in progress
    (interrupted / "run.json").write_text(json.dumps(content))

    resume(interrupted, host)

    assert files(interrupted) == files(whole)


def test_chunks_of_a_run_with_other_weights_are_computed_again(
    begin: Begin, host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    artifacts.save_state_dict(other, {name: value * 0.5 for name, value in untrained(2).state_dict().items()}, {})
    options: dict[str, Any] = {"data": grid, "host": host, "stages": "fp32", "report": False}
    api.evaluate("toy_squares", checkpoint=other, out=tmp_path / "other", **options)
    run = begin("fp32", 68, stages="fp32")
    chunk = Path("predictions", "fp32", "chunk-00000.parquet")
    shutil.copyfile(tmp_path / "other" / chunk, run / chunk)

    resume(run, host)

    expected = api.evaluate("toy_squares", checkpoint=weights, out=tmp_path / "whole", **options)
    assert files(run) == files(expected.run_dir)


def test_a_stage_starts_again_where_its_network_is_another(
    begin: Begin, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin("w8a8", 68, stages="fp32,w8a8")
    before = record(run)["stages"]
    real = digest.network_sha256
    monkeypatch.setattr("zoo_core.evaluation.run.network_sha256", lambda *given: real(*given)[::-1])
    reporter = Warned()

    result = resume(run, host, reporter)

    text = "w8a8: the resumed run computed another network than the interrupted one"
    assert [warning for warning in reporter.warnings if warning.startswith(text)]
    assert [warning for warning in result.record.warnings if warning.startswith(text)]
    stages = result.record.stages
    assert stages["w8a8"].network_sha256 == before["w8a8"]["network_sha256"][::-1]
    assert stages["w8a8"].num_images_timed == 70
    assert stages["fp32"].network_sha256 == before["fp32"]["network_sha256"]  # complete: it needed no network


def test_predictions_belong_to_the_saved_network(
    interrupted: Path, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimized stages are complete, but the network to save comes out different."""
    shutil.rmtree(interrupted / "quantized")
    real = digest.network_sha256
    monkeypatch.setattr("zoo_core.evaluation.run.network_sha256", lambda *given: real(*given)[::-1])

    stages = resume(interrupted, host).record.stages

    assert [name for name, stage in stages.items() if stage.num_images_timed == 70 and stage.warnings] == [
        "optimized_fp32",
        "optimized_w8a8",
    ]


def test_input_files_that_cannot_be_copied_again_as_they_were_are_refused(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    labels, run = tmp_path / "labels.txt", tmp_path / "run"
    labels.write_text("red\ngreen\n")
    with pytest.raises(RunInterruptedError):
        api.evaluate(
            "toy_squares",
            host=host,
            reporter=Interrupting("fp32", 3),
            data=grid,
            checkpoint=weights,
            labels=labels,
            stages="fp32",
            out=run,
        )
    labels.write_text("red\ngreen")  # the same classes in other bytes
    (run / "inputs" / "labels.txt").unlink()

    with pytest.raises(RunError, match=r"not those that it started with\.\n  inputs/labels\.txt has changed: its SHA"):
        resume(run, host)


def test_a_split_that_was_cut_to_the_limit_is_refused(begin: Begin, host: PluginHost, grid: Path) -> None:
    run = begin("fp32", 5, stages="fp32", limit=9)
    ids = json.loads((grid / "test.json").read_text())
    (grid / "test.json").write_text(json.dumps(ids[:9]))

    with pytest.raises(RunError, match=r"\n  number of images in the split: 9 instead of 70\n"):
        resume(run, host)


def test_other_images_beyond_the_limit_are_refused(begin: Begin, host: PluginHost, grid: Path) -> None:
    run = begin("fp32", 5, stages="fp32", limit=9)
    ids = json.loads((grid / "test.json").read_text())
    (grid / "test.json").write_text(json.dumps([*ids[:9], *reversed(ids[9:])]))

    with pytest.raises(RunError, match=r"\n  images in the split: [0-9a-f]{12} instead of"):
        resume(run, host)


def test_a_complete_run_with_altered_metrics_is_refused(whole: Path, host: PluginHost, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    flip(run / "metrics.json")

    with pytest.raises(RunError, match=r"metrics\.json has changed: its SHA-256 is [0-9a-f]{12}"):
        resume(run, host)

    (run / "metrics.json").unlink()  # as the error says
    assert resume(run, host).record.status == "complete"
    assert files(run) == files(whole)
