"""Reference outputs of the published network, and this plugin's network with the same weights."""

from __future__ import annotations

import importlib.util
import json
import tarfile
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch

from ssd_mobilenetv2_lite.network import MobileNetV2SSDLite, build_network

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

GOLDEN_IDS = ("000001", "000004", "000138")


@pytest.fixture(scope="session")
def golden(shared: Path) -> dict[str, NDArray[Any]]:
    """What pytorch-ssd's network and predictor gave for three VOC2007 images; see the data's own README."""
    with np.load(shared / "golden" / "reference_outputs.npz") as arrays:
        outputs = dict(arrays)
    for image_id in GOLDEN_IDS:
        outputs[f"{image_id}_det_labels"] -= 1  # the predictor counts background as class 0, Detections does not
    return outputs


@pytest.fixture(scope="session")
def contract(shared: Path) -> list[dict[str, Any]]:
    """Key, shape and dtype of each entry of the published checkpoint, in order."""
    rows: list[dict[str, Any]] = json.loads((shared / "golden" / "state_dict_contract.json").read_text())
    return rows


@pytest.fixture(scope="session")
def seeded_weights(shared: Path, contract: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    spec = importlib.util.spec_from_file_location("seeded_weights", shared / "golden" / "seeded_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {key: torch.from_numpy(value) for key, value in module.seeded_state_dict(contract).items()}


@pytest.fixture(scope="session")
def seeded_network(seeded_weights: dict[str, torch.Tensor]) -> MobileNetV2SSDLite:
    """Shared by the session: do not modify."""
    network = build_network()
    network.load_state_dict(seeded_weights)
    return network


@pytest.fixture(scope="session")
def untrained_network() -> MobileNetV2SSDLite:
    """Shared by the session: do not modify."""
    return build_network()


@pytest.fixture(scope="session")
def voc_images(shared: Path) -> dict[str, NDArray[np.uint8]]:
    """The three images, ``(H, W, 3)`` RGB, decoded here and not by the project."""
    images = {}
    with tarfile.open(shared / "data" / "voc2007_images_26.tar") as archive:
        for image_id in GOLDEN_IDS:
            file = archive.extractfile(f"VOC2007/JPEGImages/{image_id}.jpg")
            assert file is not None
            bgr = cv2.imdecode(np.frombuffer(file.read(), dtype=np.uint8), cv2.IMREAD_COLOR)
            assert bgr is not None
            images[image_id] = np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)
    return images


@pytest.fixture(scope="session", params=GOLDEN_IDS)
def image_id(request: pytest.FixtureRequest) -> str:
    """Each of the three images in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def golden_input(golden: dict[str, NDArray[Any]], image_id: str) -> torch.Tensor:
    """``(1, 3, 300, 300)`` from the reference's resized image, written out here and not with ``preprocess``."""
    resized = torch.from_numpy(golden[f"{image_id}_resized_rgb_uint8"])
    return ((resized.float() - 127) / 128).permute(2, 0, 1)[None]
