"""Drawn data in COCO layout, and a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coco_writing import write_coco
from strong_detectors import strong_detector
from zoo_core.datatypes import ModelEntry
from zoo_core.plugins import PluginHost


@pytest.fixture(scope="session")
def entry() -> ModelEntry:
    return PluginHost().model("torchvision_ssdlite320_mobilenet_v3_large")


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco") / "data", num_val=4, num_train=3)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As torchvision's checkpoints are: ``torch.save`` of a state dict."""
    path = tmp_path_factory.mktemp("weights") / "ssdlite.pth"
    torch.save(strong_detector("ssdlite320_mobilenet_v3_large").state_dict(), path)
    return path
