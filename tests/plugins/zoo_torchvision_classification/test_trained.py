"""The demo's trained network: eight bits cost it nothing, four bits do, and AdaRound brings most of that back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo_core import artifacts
from zoo_core.cli.main import run_command_line
from zoo_core.datasets.shapes import CLASS_NAMES
from zoo_core.datasets.shapes_folder import write_folder
from zoo_core.datatypes import DatasetRequest
from zoo_core.plugins import PluginHost
from zoo_core.report.html import REPORT
from zoo_torchvision_classification import hooks

MODEL = "torchvision_mobilenet_v2_shapes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("drawn") / "shapes")


def run(folder: Path, out: Path, *options: str) -> dict[str, Any]:
    arguments = ["run", MODEL, "--data", str(folder), "--calibration-size", "64", "--out", str(out), "--quiet"]
    assert run_command_line([*arguments, *options]) == 0
    stages: dict[str, Any] = json.loads((out / "metrics.json").read_text())["stages"]
    return {name: 100 * stage["metrics"]["topk/first"]["top1"] for name, stage in stages.items()}


def test_the_trained_network_names_shapes_that_it_has_not_seen(folder: Path) -> None:
    entry = PluginHost().model(MODEL)
    assert entry.checkpoint is not None
    checkpoint = artifacts.local_checkpoint(artifacts.fetch(entry.checkpoint, offline=True))
    dataset = PluginHost().dataset(entry, DatasetRequest(root=folder, split="val"))
    assert dataset.class_names == CLASS_NAMES
    bundle = hooks.zoo_load_model(entry, checkpoint, dataset.class_names, "cpu")
    ids = dataset.ids[:200]
    x = torch.stack([torch.from_numpy(bundle.preprocess(dataset.image(image_id))) for image_id in ids])
    truth = torch.tensor([CLASS_NAMES.index(image_id.split("/")[1]) for image_id in ids])
    with torch.inference_mode():
        right = float((bundle.network(x).argmax(1) == truth).float().mean())
    assert 0.7 < right < 0.9  # 0.786 on all 500: room above and below


@pytest.mark.slow
def test_top_1_survives_eight_bits(folder: Path, tmp_path: Path) -> None:
    top1 = run(folder, tmp_path / "run", "--stages", "fp32,w8a8")
    assert top1["fp32"] == pytest.approx(78.6, abs=0.5)
    assert abs(top1["w8a8"] - top1["fp32"]) < 1.5
    assert "images have another most probable class" in (tmp_path / "run" / REPORT).read_text()


@pytest.mark.slow
def test_four_bits_cost_points_that_adaround_brings_back(folder: Path, tmp_path: Path) -> None:
    top1 = run(folder, tmp_path / "run", "--recipe", "w4a8_per_channel", "--stages", "fp32,w4a8,optimized_w4a8")
    assert top1["w4a8"] < top1["fp32"] - 2
    assert top1["optimized_w4a8"] > top1["w4a8"] + 1
    assert top1["optimized_w4a8"] > top1["fp32"] - 3
