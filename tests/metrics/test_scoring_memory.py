"""Scoring many images, and the intervals of their changes, takes little memory beyond the detections themselves."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from zoo_core.datatypes import Detections, DetectionTarget
from zoo_core.evaluation.scoring import stage_changes
from zoo_core.metrics.detection import DetectionMetric
from zoo_core.runs.predictions import Chunk, PredictionsById, PredictionStore
from zoo_core.tasks.detection import DETECTION

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

    assert 0 < (scores["coco"].headline or 0) < 0.1
    assert peak / (NUM_IMAGES * NUM_DETECTIONS) < 90


def test_intervals_of_changes_keep_the_draws_once_and_no_predictions(tmp_path: Path) -> None:
    # A draw takes one byte, the blocks of resampling some. With draws of four bytes, copied, and all predictions in
    # memory the peak was 18 bytes per draw.
    num_images, num_resamples, rng = 2000, 2000, np.random.default_rng(0)
    stages = {name: PredictionStore(tmp_path / name, Detections) for name in ("fp32", "w8a8")}
    ids = tuple(f"{index:05d}" for index in range(num_images))
    for store in stages.values():
        for index, part in enumerate(ids[first : first + 100] for first in range(0, num_images, 100)):
            store.write(Chunk(index=index, image_ids=part, predictions=tuple(found(rng) for _ in part)))
    targets = {image_id: truth(rng) for image_id in ids}
    names = [str(label) for label in range(NUM_CLASSES)]

    tracemalloc.start()
    try:
        changes = stage_changes(
            DETECTION, names, targets, list(stages), lambda name: PredictionsById(stages[name]), "voc_area/devkit"
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert changes.baseline["w8a8"].num_resamples == num_resamples
    assert peak / (num_images * num_resamples) < 12


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
