"""The whole chain on trained weights: the shapes test images, from file to mAP."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ssd_mobilenetv2_lite import hooks
from ssd_mobilenetv2_lite.decode import IOU_THRESHOLD, SCORE_THRESHOLD
from zoo_core.datatypes import Checkpoint, DatasetEntry, DatasetRequest, Detections, ImageSize, ModelEntry
from zoo_core.plugins import PluginHost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo_core.datatypes import EvalDataset, ModelBundle

ENTRY = ModelEntry(
    model_id="ssd",
    plugin="ssd_mobilenetv2_lite",
    task="detection",
    description="",
    dataset=DatasetEntry(layout="voc", name="VOC2007", split="test", calibration_split="trainval"),
    recipe="",
    headline="voc07_11pt/pytorch-ssd",
)


@pytest.fixture(scope="module")
def dataset(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> EvalDataset:
    root = tmp_path_factory.mktemp("shapes")
    with tarfile.open(shared / "data" / "shapes_voc.tar") as archive:
        archive.extractall(root, filter="data")
    label_file = next(root.rglob("labels.txt"))
    return PluginHost().dataset(ENTRY, DatasetRequest(root=root, split="test", label_file=label_file))


@pytest.fixture(scope="module")
def bundle(shared: Path, dataset: EvalDataset) -> ModelBundle:
    checkpoint = Checkpoint(path=shared / "data" / "shapes_mb2_ssd_lite.pth", sha256="")
    return hooks.zoo_load_model(ENTRY, checkpoint, dataset.class_names, "cpu")


def detect(bundle: ModelBundle, dataset: EvalDataset, ids: Sequence[str], batch_size: int) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(ids), batch_size):
        images = [dataset.image(image_id) for image_id in ids[start : start + batch_size]]
        sizes = [ImageSize(width_px=image.shape[1], height_px=image.shape[0]) for image in images]
        with torch.inference_mode():
            outputs = bundle.network(torch.from_numpy(np.stack([bundle.preprocess(image) for image in images])))
        found += bundle.decode(outputs, sizes)
    return found


@pytest.mark.data
@pytest.mark.slow
def test_the_map_of_400_images_is_that_of_the_published_evaluator(
    shared: Path, bundle: ModelBundle, dataset: EvalDataset
) -> None:
    expected = json.loads((shared / "data" / "shapes_expected.json").read_text())
    metric = PluginHost().metric(ENTRY, dataset.class_names)
    for start in range(0, len(dataset.ids), 50):
        ids = dataset.ids[start : start + 50]
        targets = [dataset.target(image_id) for image_id in ids]
        metric.update(ids, detect(bundle, dataset, ids, batch_size=4), targets)
    score = metric.compute()[expected["protocol"]]
    assert score.num_images == expected["num_images"]
    assert score.headline == pytest.approx(expected["map"], abs=0.002)
    assert dict(score.per_class) == pytest.approx(expected["per_class"], abs=0.005)


@pytest.mark.data
@pytest.mark.slow
def test_batches_of_1_7_and_32_give_the_same_detections(bundle: ModelBundle, dataset: EvalDataset) -> None:
    ids = dataset.ids[:32]
    singles = detect(bundle, dataset, ids, 1)
    for batch_size in (7, 32):
        for one, other in zip(singles, detect(bundle, dataset, ids, batch_size), strict=True):
            for mine, others in ((one, other), (other, one)):
                for i in unmatched(mine, others):
                    # A score within 1e-5 of the threshold, or an IoU so close to 0.45, may fall on either side.
                    close = abs(mine.scores[i] - SCORE_THRESHOLD) < 1e-5
                    assert close or near_iou_threshold(mine, i, mine, others), (batch_size, i, mine.scores[i])


def unmatched(detections: Detections, others: Detections) -> list[int]:
    """Indices of detections without a partner of the same label, score within 1e-5 and box within 0.01 px."""
    missing = []
    for i, (box, score, label) in enumerate(zip(detections.boxes, detections.scores, detections.labels, strict=True)):
        alike = (others.labels == label) & (abs(others.scores - score) < 1e-5)
        if not (alike & (abs(others.boxes - box) < 0.01).all(axis=1)).any():
            missing.append(i)
    return missing


def near_iou_threshold(detections: Detections, index: int, *among: Detections) -> bool:
    box = detections.boxes[index]
    for others in among:
        same = others.boxes[others.labels == detections.labels[index]]
        inter = (np.minimum(same[:, 2:], box[2:]) - np.maximum(same[:, :2], box[:2])).clip(min=0).prod(axis=1)
        union = (same[:, 2:] - same[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - inter
        if (abs(inter / union - IOU_THRESHOLD) < 1e-3).any():
            return True
    return False
