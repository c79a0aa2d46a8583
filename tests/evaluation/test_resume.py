from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.interrupted import Begin, Interrupting, files, interrupt, record, resume
from toy_detector import data
from toy_detector.model import untrained
from zoo_core import api, artifacts
from zoo_core.errors import DataError, RunError, RunInterruptedError
from zoo_core.evaluation.request import SilentReporter
from zoo_core.plugins import PluginHost
from zoo_core.quantization import pipeline
from zoo_core.recipes import shipped_configs
from zoo_core.runs import provenance
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.record import read_metrics

TOY = Path(data.__file__).parent


class Listening(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return data.write(tmp_path / "grid", num_test=70)


def test_an_interrupted_run_goes_on_and_says_when(
    begin: Begin, host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    run = begin("w8a8", 68)
    before = record(run)
    fp32 = next(run.glob("predictions/fp32/chunk-*")).stat().st_ino
    listener = Listening()

    result = resume(run, host, listener)

    whole = api.evaluate("toy_squares", host=host, data=grid, checkpoint=weights, out=tmp_path / "whole", report=False)
    assert files(run) == files(whole.run_dir)
    assert next(run.glob("predictions/fp32/chunk-*")).stat().st_ino == fp32
    assert "fp32: its predictions are complete" in listener.said
    assert "w8a8: 64 images are complete already" in listener.said
    found = record(run)
    assert (before["status"], found["status"]) == ("interrupted", "complete")
    (entry,) = found["resumed"]
    assert (entry["after"], entry["stopped"], entry["error"]) == ("interrupted", before["finished"], None)
    assert entry["at"] >= before["finished"]
    assert found["started"] == before["started"]
    assert found["request"] == before["request"]
    assert found["stages"]["fp32"]["num_images_timed"] == 70
    assert found["stages"]["w8a8"]["num_images_timed"] == 70 - 64
    assert result.record.status == "complete"


def test_steps_are_not_taken_again_when_no_stage_needs_them(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    api.evaluate("toy_squares", host=host, data=grid, checkpoint=weights, out=run, report=False)
    before = files(run)
    interrupt(run)

    def forbidden(*_arguments: object) -> None:
        raise AssertionError("a step ran")

    monkeypatch.setattr(pipeline, "run_step", forbidden)
    monkeypatch.setattr(pipeline, "simulate", forbidden)
    monkeypatch.setattr("zoo_core.evaluation.stage_runner.predict", forbidden)

    assert resume(run, host).record.status == "complete"
    assert files(run) == before


def test_steps_before_a_missing_stage_are_taken_again_and_recorded_once(begin: Begin, host: PluginHost) -> None:
    run = begin("optimized_fp32", 3)

    names = [step.step for step in resume(run, host).record.steps]

    assert names == ["fold_batch_norms", "relu6", "cross_layer_equalization", "round_weights", "adaround"]


def test_a_run_with_an_optimized_checkpoint_goes_on(
    begin: Begin, host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    optimized = tmp_path / "optimized.safetensors"
    shutil.copyfile(weights, optimized)
    run = begin("optimized_w8a8", 3, optimized_checkpoint=optimized)

    resume(run, host)

    options: dict[str, Any] = {"checkpoint": weights, "optimized_checkpoint": optimized, "out": tmp_path / "whole"}
    whole = api.evaluate("toy_squares", host=host, report=False, data=grid, **options)
    assert files(run) == files(whole.run_dir)


def test_a_stage_in_onnx_runtime_goes_on_in_onnx_runtime(
    begin: Begin, host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    run = begin("fp32", 68, stages="fp32", runtime="onnxruntime", device="cpu")

    found = resume(run, host).record.stages["fp32"]

    assert found.runtime == "onnxruntime"
    assert found.agreement is not None
    assert found.agreement.num_images == 8
    options: dict[str, Any] = {"data": grid, "checkpoint": weights, "out": tmp_path / "whole", "device": "cpu"}
    whole = api.evaluate("toy_squares", host=host, report=False, stages="fp32", runtime="onnxruntime", **options)
    assert files(run) == files(whole.run_dir)


@pytest.mark.parametrize("damage", ["cut", "bit", "others", "strange"])
def test_a_chunk_is_checked_before_it_is_trusted(
    damage: str, begin: Begin, host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    run = begin("w8a8", 3, stages="fp32,w8a8")
    chunk = run / "predictions" / "fp32" / "chunk-00001.parquet"
    content = bytearray(chunk.read_bytes())
    if damage == "cut":
        chunk.write_bytes(content[:-20])
    elif damage == "bit":
        content[len(content) // 4] ^= 1
        chunk.write_bytes(content)
    elif damage == "others":
        shutil.copyfile(chunk.with_name("chunk-00000.parquet"), chunk)
    else:
        shutil.copyfile(chunk, chunk.with_name("chunk-00002.parquet"))

    resume(run, host)

    whole = api.evaluate(
        "toy_squares",
        host=host,
        data=grid,
        checkpoint=weights,
        out=tmp_path / "whole",
        stages="fp32,w8a8",
        report=False,
    )
    assert files(run) == files(whole.run_dir)


def test_a_complete_run_is_returned_as_it_is(host: PluginHost, grid: Path, weights: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    api.evaluate("toy_squares", host=host, data=grid, checkpoint=weights, out=run, stages="fp32", report=False)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    listener = Listening()

    result = resume(run, host, listener)

    assert result.metrics == read_metrics(run)
    assert listener.said == [f"{run} is complete; there is nothing to resume."]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_plugins_are_told_of_a_run_that_was_killed_before_they_were(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    api.evaluate("toy_squares", host=host, data=grid, checkpoint=weights, out=run, stages="fp32", report=False)
    content = record(run)
    content["plugins_notified"] = False
    (run / "run.json").write_text(json.dumps(content))
    (run / "toy_was_told.json").unlink()

    resume(run, host)

    assert (run / "toy_was_told.json").exists()
    assert record(run)["plugins_notified"] is True


def test_a_quantization_alone_goes_on_too(host: PluginHost, grid: Path, weights: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"host": host, "data": grid, "checkpoint": weights}
    with pytest.raises(RunInterruptedError):
        api.quantize(
            "toy_squares", out=tmp_path / "run", reporter=Interrupting("reading calibration images", 1), **options
        )
    assert not (tmp_path / "run" / "quantized").exists()

    result = resume(tmp_path / "run", host)

    assert result.metrics is None
    assert (tmp_path / "run" / "quantized" / "encodings.json").exists()


# --------------------------------------------------------------------------- what has changed


def edit_recipe(folder: Path, **changes: str) -> None:
    text = (TOY / "recipes" / "w8a8_toy.yaml").read_text()
    for was, now in changes.items():
        text = text.replace(was, now)
    (folder / "own.yaml").write_text(text)


def change_weights(folder: Path) -> None:
    artifacts.save_state_dict(folder / "toy.safetensors", untrained(2).state_dict(), {"other": "metadata"})


def change_image(folder: Path) -> None:
    shutil.copyfile(folder / "grid" / "test_001.png", folder / "grid" / "test_000.png")


def change_annotation(folder: Path) -> None:
    (folder / "grid" / "test_000.json").write_text("[]")


def change_calibration_image(folder: Path) -> None:
    shutil.copyfile(folder / "grid" / "trainval_001.png", folder / "grid" / "trainval_000.png")


def more_calibration_images(folder: Path) -> None:
    ids = json.loads((folder / "grid" / "trainval.json").read_text())
    (folder / "grid" / "trainval.json").write_text(json.dumps(ids[1:]))


def fewer_images(folder: Path) -> None:
    ids = json.loads((folder / "grid" / "test.json").read_text())
    (folder / "grid" / "test.json").write_text(json.dumps(ids[:-1]))


def change_config(folder: Path) -> None:
    path = folder / "aimet_config.json"
    path.write_text(path.read_text() + "\n")


def change_recipe(folder: Path) -> None:
    path = folder / "own.yaml"
    path.write_text(path.read_text().replace("- step: round_weights", "- step: round_weights\n    step_size: 0.5"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_weights, r"\n  weights: [0-9a-f]{12} instead of [0-9a-f]{12}"),
        (change_image, r"\n  content of images and annotations: [0-9a-f]{12} instead of"),
        (change_annotation, r"\n  content of images and annotations: [0-9a-f]{12} instead of"),
        (change_calibration_image, r"\n  content of calibration images and annotations: [0-9a-f]{12} instead of"),
        (more_calibration_images, r"\n  calibration images: 1 \(trainval_000\) gone, none new"),
        (fewer_images, r"\n  evaluated images: [0-9a-f]{12} instead of"),
        (change_config, r"\n  AIMET configuration: [0-9a-f]{12} instead of"),
        (change_recipe, r"\n  recipe content: [0-9a-f]{12} instead of"),
    ],
)
def test_a_run_does_not_go_on_with_something_else_and_names_it(
    change: Callable[[Path], None], words: str, begin: Begin, host: PluginHost, tmp_path: Path
) -> None:
    shutil.copyfile(shipped_configs()["per_tensor_asymmetric"], tmp_path / "aimet_config.json")
    edit_recipe(tmp_path, per_tensor_asymmetric="aimet_config.json")
    run = begin(stages="fp32,w8a8", recipe=str(tmp_path / "own.yaml"))
    before = (run / "run.json").read_bytes()
    change(tmp_path)

    with pytest.raises(RunError, match=f"cannot be resumed: what it was made with has changed.{words}"):
        resume(run, host)

    assert (run / "run.json").read_bytes() == before


def test_a_run_does_not_go_on_with_other_libraries(
    begin: Begin, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(stages="fp32")
    versions = {"torch": "9.9", "numpy": None}
    installed = provenance.installed_version
    monkeypatch.setattr(provenance, "installed_version", lambda name: versions.get(name, installed(name)))

    with pytest.raises(RunError, match=rf"\n  libraries: torch 9\.9 instead of {torch.__version__[:3]}.*numpy none"):
        resume(run, host)


def test_another_processor_is_a_warning_in_record_and_metrics(
    begin: Begin, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(stages="fp32")
    monkeypatch.setattr(provenance, "_processor", lambda: "Z80")

    result = resume(run, host)

    (text,) = result.record.warnings
    assert text.startswith("The run was resumed on another processor: Z80 instead of")
    assert record(run)["resumed"][0]["warnings"] == [text]


def test_a_run_that_another_process_is_at_is_refused(begin: Begin, host: PluginHost) -> None:
    run = begin(stages="fp32")

    with RunDirectory(run).locked(), pytest.raises(RunError, match=f"is in use by process {os.getpid()} on "):
        resume(run, host)


def test_missing_data_is_named(begin: Begin, host: PluginHost, grid: Path) -> None:
    run = begin(stages="fp32")
    (grid / "test.json").unlink()

    with pytest.raises(DataError, match=r"test\.json is missing"):
        resume(run, host)


def test_a_directory_without_a_run_is_no_run(host: PluginHost, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(RunError, match="no run was started there"):
        resume(tmp_path / "empty", host)

    assert list((tmp_path / "empty").iterdir()) == []


def test_a_run_computes_with_the_threads_that_it_began_with(
    begin: Begin, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(stages="fp32")
    content = record(run)
    content["environment"]["torch_threads"] = 3
    (run / "run.json").write_text(json.dumps(content))
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr("zoo_core.evaluation.resume.execute", lambda *_, **__: seen.append(torch.get_num_threads()))

    resume_without_result(run, host)

    assert seen == [3]
    assert torch.get_num_threads() == before


def resume_without_result(run: Path, host: PluginHost) -> None:
    from zoo_core.evaluation.resume import resume_run

    resume_run(run, host=host)


def test_warnings_do_not_pile_up(begin: Begin, host: PluginHost, grid: Path, weights: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"stages": "fp32,w8a8", "limit": 69}
    run = begin("w8a8", 67, **options)
    with pytest.raises(RunInterruptedError):
        resume(run, host, Interrupting("w8a8", 1))

    result = resume(run, host)

    (text,) = result.record.warnings
    assert text.startswith("Limited run: 69 of the 70 images")
    assert len(record(run)["resumed"]) == 2
