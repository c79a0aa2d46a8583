"""The whole job on drawn classes with untrained weights, through the command line as a user gives it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision

from drawn_classes import CLASSES
from zoo_core.cli.main import run_command_line
from zoo_core.datatypes import Classification
from zoo_core.runs.predictions import PredictionStore


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(torchvision.models.mobilenet_v2(num_classes=len(CLASSES)).state_dict(), path)
    return path


@pytest.mark.slow
def test_the_main_job_runs_from_data_and_a_checkpoint_to_a_scored_record(
    drawn_classes: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "torchvision_mobilenet_v2", "--data", str(drawn_classes), "--checkpoint", str(checkpoint)]
    options = ["--stages", "fp32,w8a8", "--limit", "6", "--calibration-size", "2", "--out", str(tmp_path / "run")]
    assert run_command_line([*arguments, *options, "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "torchvision_mobilenet_v2 on" in printed
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["headline"] == "topk/first"
    assert metrics["num_images"] == 6
    assert set(metrics["stages"]["fp32"]["metrics"]["topk/first"]) == {"top1", "top5", "top1_balanced", "per_class"}
    # With the classes in turn a limited run sees all of them.
    assert metrics["protocols"]["topk/first"]["num_objects"] == dict.fromkeys(CLASSES, 2)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["calibration"]["split"] == "train"
    assert record["stages"]["w8a8"]["weights_bytes"] < 0.3 * record["stages"]["fp32"]["weights_bytes"]
    (chunk,) = PredictionStore(tmp_path / "run" / "predictions" / "w8a8", Classification)
    assert chunk.image_ids[0].startswith("val/disk/")
    assert (tmp_path / "run" / "top5" / "fp32" / "val.txt").read_text().count("\n") == 6
