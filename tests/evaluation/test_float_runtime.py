"""Float stages in ONNX Runtime: the same detections as torch's, or a refusal that says what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from toy_detector.data import GridDataset
from toy_detector.model import load, untrained
from zoo_core import api
from zoo_core.datatypes import Detections, ModelBundle
from zoo_core.errors import DataError, RunError
from zoo_core.evaluation import float_runtime, prepare
from zoo_core.evaluation.float_runtime import CHECKED_IMAGES, TOLERANCE, OnnxNetwork, export, export_checked
from zoo_core.inference import InferenceSettings
from zoo_core.plugins import PluginHost
from zoo_core.runs.predictions import PredictionStore

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
