"""The shipped checkpoint of the embedded demo, tools/README.md says how it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import ssd_mobilenetv2_lite
from ssd_mobilenetv2_lite.checkpoint import load_network
from ssd_mobilenetv2_lite.decode import decode
from ssd_mobilenetv2_lite.network import MobileNetV2SSDLite
from ssd_mobilenetv2_lite.preprocess import preprocess
from zoo_core.datasets.shapes import CLASS_NAMES, DRAWING_VERSION, draw_image
from zoo_core.datatypes import DetectionTarget, ImageSize
from zoo_core.metrics.detection import DetectionMetric

CHECKPOINT = Path(ssd_mobilenetv2_lite.__file__).parent / "checkpoints" / "shapes.safetensors"


@pytest.fixture(scope="module")
def network() -> MobileNetV2SSDLite:
    return load_network(CHECKPOINT, optimized=False, num_classes_with_background=len(CLASS_NAMES) + 1).network


def test_the_checkpoint_is_half_precision_of_at_most_8_mb() -> None:
    assert CHECKPOINT.stat().st_size <= 8_000_000
    with safe_open(CHECKPOINT, "pt") as file:
        dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - no mapping
    assert dtypes == {"F16", "I64"}


def test_the_checkpoint_says_what_it_was_trained_on() -> None:
    with safe_open(CHECKPOINT, "pt") as file:
        facts = json.loads(file.metadata()["training"])
    assert facts["classes"] == ",".join(CLASS_NAMES)
    assert facts["drawing_version"] == DRAWING_VERSION


def test_the_checkpoint_finds_the_shapes_in_pictures_it_was_not_trained_on(network: MobileNetV2SSDLite) -> None:
    metric = DetectionMetric(CLASS_NAMES)
    for index in range(40):
        picture = draw_image("test", index)
        height, width = picture.image.shape[:2]
        with torch.inference_mode():
            outputs = network(torch.from_numpy(preprocess(picture.image)[None]))
        target = DetectionTarget(boxes=picture.boxes, labels=picture.labels, difficult=picture.difficult)
        metric.update([str(index)], decode(outputs, [ImageSize(width, height)]), [target])
    score = metric.compute()["voc07_11pt/pytorch-ssd"].headline
    assert score is not None
    assert 0.75 < score < 0.97  # on all test pictures it lies between 0.80 and 0.95
