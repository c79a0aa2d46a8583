"""Float stages in ONNX Runtime: the same detections as torch's, or torch, or a refusal that says what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.interrupted import Begin, resume
from toy_detector.data import GridDataset
from toy_detector.model import load, untrained
from zoo_core import api
from zoo_core.datatypes import Detections, ModelBundle
from zoo_core.errors import DataError, RunError
from zoo_core.evaluation import float_runtime, prepare
from zoo_core.evaluation.float_runtime import CHECKED_IMAGES, TOLERANCE, OnnxNetwork, export, export_checked
from zoo_core.evaluation.request import SilentReporter
from zoo_core.evaluation.result import EvaluationResult
from zoo_core.inference import InferenceSettings
from zoo_core.plugins import PluginHost
from zoo_core.runs.predictions import PredictionStore
from zoo_core.runs.record import read_record

pytest.importorskip("onnxruntime")


@pytest.fixture
def options(host: PluginHost, grid: Path, weights: Path) -> dict[str, Any]:
    return {"host": host, "data": grid, "checkpoint": weights, "report": False}


@pytest.fixture
def dataset(grid: Path) -> GridDataset:
    return GridDataset(grid, "test")


@pytest.fixture
def bundle(dataset: GridDataset) -> ModelBundle:
    return load(None, dataset.class_names, "cpu")


class Listening(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def first_chunk(result: EvaluationResult) -> bytes:
    return (result.run_dir / "predictions" / "fp32" / "chunk-00000.parquet").read_bytes()


SETTINGS = InferenceSettings(batch_size=3, workers=0, device="cpu")


def test_float_stages_run_in_onnx_runtime_and_find_what_torch_finds(options: dict[str, Any], tmp_path: Path) -> None:
    runs = {
        name: api.evaluate("toy_squares", out=tmp_path / name, stages="fp32,w8a8", runtime=name, **options)
        for name in ("torch", "onnxruntime")
    }

    assert runs["onnxruntime"].record.settings.runtime == "onnxruntime"
    stages = runs["onnxruntime"].record.stages
    assert {name: stage.runtime for name, stage in stages.items()} == {"fp32": "onnxruntime", "w8a8": "torch"}
    agreement = stages["fp32"].agreement
    assert agreement is not None
    assert agreement.num_images == agreement.num_same_predictions == CHECKED_IMAGES
    assert agreement.max_difference < 1e-5
    assert stages["w8a8"].agreement is None
    assert runs["torch"].record.stages["fp32"].agreement is None
    one, other = (
        [
            pred
            for chunk in PredictionStore(run.run_dir / "predictions" / "fp32", Detections)
            for pred in chunk.predictions
        ]
        for run in runs.values()
    )
    assert sum(len(prediction.arrays()["scores"]) for prediction in one) > 12
    assert all(float_runtime.same_predictions(a, b) for a, b in zip(one, other, strict=True))


def test_an_exported_network_takes_batches_of_any_size(bundle: ModelBundle) -> None:
    exported = OnnxNetwork(export(bundle.network, bundle.example_input))

    for batch_size in (1, 5):
        x = torch.rand(batch_size, 3, 64, 64).to(memory_format=torch.channels_last)
        (found,) = exported(x)
        assert torch.allclose(found, bundle.network(x), atol=1e-5)


def test_the_first_batch_is_checked_where_it_is_larger(bundle: ModelBundle, dataset: GridDataset) -> None:
    settings = dataclasses.replace(SETTINGS, batch_size=10)

    made = export_checked(bundle.network, bundle, dataset, dataset.ids, settings)

    assert made.agreement.num_images == 10


def test_a_network_that_computes_something_else_is_refused(
    bundle: ModelBundle, dataset: GridDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = untrained(2)
    with torch.no_grad():
        other.head.weight.mul_(1 + 4 * TOLERANCE)
    monkeypatch.setattr(float_runtime, "export", lambda _network, x: export(other, x))

    with pytest.raises(RunError, match=r"differ from torch's by 0\.00\d+ of the largest on the first 8 images"):
        export_checked(bundle.network, bundle, dataset, dataset.ids, SETTINGS)


class NotExportable(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.special.i0e(x)
        return y


def test_a_network_that_cannot_be_exported_is_named(bundle: ModelBundle) -> None:
    with pytest.raises(RunError, match="cannot export NotExportable to ONNX") as caught:
        export(NotExportable(), bundle.example_input)
    assert caught.value.fix == "use --runtime torch."


@pytest.mark.parametrize(
    ("runtime", "device", "words"),
    [("tensorrt", "cpu", "--runtime is 'tensorrt'"), ("onnxruntime", "cuda:0", "runs only on the CPU")],
)
def test_a_runtime_that_cannot_be_used_is_refused(
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: str,
    device: str,
    words: str,
) -> None:
    monkeypatch.setattr(prepare, "resolve_device", lambda _asked: device)

    with pytest.raises(DataError, match=words):
        api.evaluate("toy_squares", out=tmp_path / "run", runtime=runtime, **options)


# ------------------------------------------------------------------ auto


def broken_export(_network: torch.nn.Module, _x: torch.Tensor) -> bytes:
    raise RunError("torch cannot export ToyNetwork to ONNX: aten::i0e.", fix="use --runtime torch.")


def scaled_export(_network: torch.nn.Module, x: torch.Tensor) -> bytes:
    other = untrained(2)
    with torch.no_grad():
        other.head.weight.mul_(1 + 4 * TOLERANCE)
    return export(other, x)


FALLS_BACK = [
    pytest.param(broken_export, "torch cannot export ToyNetwork to ONNX: aten::i0e.", id="no export"),
    pytest.param(scaled_export, "ONNX Runtime's outputs differ from torch's by 0.00", id="other outputs"),
]


def test_auto_is_onnx_runtime_where_it_agrees(options: dict[str, Any], tmp_path: Path) -> None:
    runs = [
        api.evaluate("toy_squares", out=tmp_path / name, stages="fp32", runtime=name, **options)
        for name in ("auto", "onnxruntime")
    ]

    found = runs[0].record.stages["fp32"]
    assert (runs[0].record.settings.runtime, found.runtime, found.runtime_reason) == ("auto", "onnxruntime", None)
    assert first_chunk(runs[0]) == first_chunk(runs[1])


@pytest.mark.parametrize(("fake", "reason"), FALLS_BACK)
def test_auto_is_torch_where_onnx_runtime_cannot_be_used_and_says_why(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Any, reason: str
) -> None:
    expected = api.evaluate("toy_squares", out=tmp_path / "torch", stages="fp32", runtime="torch", **options)
    monkeypatch.setattr(float_runtime, "export", fake)
    listener = Listening()

    result = api.evaluate("toy_squares", out=tmp_path / "auto", stages="fp32", reporter=listener, **options)

    found = result.record.stages["fp32"]
    assert (found.runtime, found.agreement) == ("torch", None)
    assert found.runtime_reason is not None
    assert found.runtime_reason.startswith(reason)
    assert any(text.startswith(f"fp32: computed in torch, because {reason}") for text in listener.said)
    one, other = (
        (run.run_dir / "predictions" / "fp32" / "chunk-00000.parquet").read_bytes() for run in (expected, result)
    )
    assert one == other


@pytest.mark.parametrize(("fake", "reason"), FALLS_BACK)
def test_onnx_runtime_that_was_asked_for_is_not_replaced(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Any, reason: str
) -> None:
    monkeypatch.setattr(float_runtime, "export", fake)

    with pytest.raises(RunError, match=reason) as caught:
        api.evaluate("toy_squares", out=tmp_path / "run", stages="fp32", runtime="onnxruntime", **options)
    assert "use --runtime torch" in caught.value.fix


def test_the_reason_for_torch_outlasts_a_resumption_and_other_batch_sizes(
    begin: Begin, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(float_runtime, "export", broken_export)
        run = begin("fp32", 5, stages="fp32", batch_sizes=[2])
    # Not fp32 in ONNX Runtime, although it could be exported now: a stage is computed in one runtime.

    found = resume(run, host).record.stages["fp32"]

    assert found.runtime == "torch"
    assert found.runtime_reason == "torch cannot export ToyNetwork to ONNX: aten::i0e."
    assert list(found.batch_sizes) == ["2"]


def test_a_resumed_stage_stays_in_onnx_runtime_or_stops(
    begin: Begin, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin("fp32", 5, stages="fp32")
    monkeypatch.setattr(float_runtime, "export", broken_export)

    with pytest.raises(RunError, match="torch cannot export ToyNetwork"):
        resume(run, host)


def test_simulations_and_their_baseline_say_which_runtime_computed_them(
    options: dict[str, Any], tmp_path: Path
) -> None:
    result = api.evaluate("toy_squares", out=tmp_path / "run", **options)

    assert {name: stage.runtime for name, stage in result.record.stages.items()} == {
        "fp32": "onnxruntime",
        "w8a8": "torch",
        "optimized_fp32": "onnxruntime",
        "optimized_w8a8": "torch",
    }


@pytest.mark.parametrize(("runtime", "used"), [("auto", "onnxruntime"), ("torch", "torch")])
def test_a_run_is_repeated_in_the_runtime_that_computed_it(
    options: dict[str, Any], tmp_path: Path, runtime: str, used: str
) -> None:
    run = api.evaluate("toy_squares", out=tmp_path / "run", stages="fp32", runtime=runtime, **options).run_dir

    again = api.reproduce(run, out=tmp_path / "again", host=options["host"])

    assert again.identical
    record = read_record(tmp_path / "again")
    assert (record.settings.runtime, record.stages["fp32"].runtime) == (used, used)


def test_the_former_name_of_the_option_still_works_in_python(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="backend is deprecated; use runtime"):
        result = api.evaluate("toy_squares", out=tmp_path / "run", stages="fp32", backend="torch", **options)
    assert result.record.settings.runtime == "torch"
