"""Real detections to score."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from metrics.scenes import RealScene, detections
from zoo_core.datasets.comp4 import read_comp4
from zoo_core.datasets.voc import VOC_CLASSES, VocDetection
from zoo_core.datatypes import DetectionTarget


@pytest.fixture(scope="session")
def real_targets(voc2007: Path) -> dict[str, DetectionTarget]:
    dataset = VocDetection(voc2007, "test")
    return {image_id: dataset.target(image_id) for image_id in dataset.ids}


@pytest.fixture(scope="session")
def real_scenes(
    shared: Path, real_targets: dict[str, DetectionTarget], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RealScene]:
    """The sets yolo2_a (no file for person) and yolo2_b."""
    folder = tmp_path_factory.mktemp("detections")
    with tarfile.open(shared / "data" / "voc2007_detections.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    scenes = {}
    for name in ("yolo2_a", "yolo2_b"):
        comp4 = read_comp4(folder / "voc2007_detections" / name, VOC_CLASSES)
        found = comp4.by_image()
        preds = [found.get(image_id, detections()) for image_id in real_targets]
        scenes[name] = RealScene(scene=(list(real_targets), preds, list(real_targets.values())), comp4=comp4)
    return scenes
