"""Scoring many images takes little memory beyond the detections themselves."""

from __future__ import annotations

import tracemalloc

import numpy as np

from zoo_core.datatypes import Detections, DetectionTarget
from zoo_core.metrics.detection import DetectionMetric

NUM_IMAGES, NUM_DETECTIONS, NUM_CLASSES = 2000, 100, 4


def test_scoring_keeps_to_ninety_bytes_per_detection() -> None:
    # 28 bytes are the detection itself. With copies of all detections at every step the peak is 143 bytes.
    metric = DetectionMetric([str(label) for label in range(NUM_CLASSES)])
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        for index in range(NUM_IMAGES):
            metric.update([f"{index:05d}"], [found(rng)], [truth(rng)])
        scores = metric.compute()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 0 < scores["coco"].values["map"] < 0.1
    assert peak / (NUM_IMAGES * NUM_DETECTIONS) < 90


def found(rng: np.random.Generator) -> Detections:
    return Detections(
        boxes=boxes(rng, NUM_DETECTIONS),
        scores=rng.random(NUM_DETECTIONS).astype(np.float32),
        labels=rng.integers(0, NUM_CLASSES, NUM_DETECTIONS),
    )


def truth(rng: np.random.Generator) -> DetectionTarget:
    return DetectionTarget(boxes=boxes(rng, 3), labels=rng.integers(0, NUM_CLASSES, 3), difficult=np.zeros(3, bool))


def boxes(rng: np.random.Generator, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    corners = rng.random((count, 2, 2)) * 300
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
