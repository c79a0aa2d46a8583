"""Images with detections and objects, written row by row or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo_core.datasets.comp4 import Comp4Detections
from zoo_core.datasets.voc import VOC_CLASSES
from zoo_core.datatypes import Detections, DetectionTarget
from zoo_core.metrics.detection import DetectionMetric

Scene = tuple[list[str], list[Detections], list[DetectionTarget]]


@dataclass(frozen=True, kw_only=True)
class RealScene:
    """All images of VOC2007 test and one published set of detections on them."""

    scene: Scene
    comp4: Comp4Detections

    def metric(self) -> DetectionMetric:
        metric = DetectionMetric(VOC_CLASSES, submitted=[VOC_CLASSES[label] for label in self.comp4.submitted])
        metric.update(*self.scene)
        return metric


def detections(*rows: Sequence[float]) -> Detections:
    """Rows of label, score, x1, y1, x2, y2."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections(
        boxes=table[:, 2:].astype(np.float32),
        scores=table[:, 1].astype(np.float32),
        labels=table[:, 0].astype(np.int64),
    )


def target(*rows: Sequence[float]) -> DetectionTarget:
    """Rows of label, difficult, x1, y1, x2, y2."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return DetectionTarget(
        boxes=table[:, 2:].astype(np.float32), labels=table[:, 0].astype(np.int64), difficult=table[:, 1] > 0
    )


def drawn_scene(seed: int, *, num_images: int, num_classes: int, crowded: bool = False) -> Scene:
    """Objects, and detections that lie on them, beside them, twice on them, or carry another label.

    Scores have two decimals, so ties are many.
    """
    rng = np.random.default_rng(seed)
    ids, preds, targets = [], [], []
    for number in range(num_images):
        num_objects = int(rng.integers(0, 12 if crowded else 5))
        corners = rng.uniform(0, 60 if crowded else 300, (num_objects, 2))
        boxes = np.hstack([corners, corners + rng.uniform(5, 150, (num_objects, 2))])
        labels = rng.integers(0, num_classes, num_objects)
        source = rng.integers(0, num_objects, 3 * num_objects) if num_objects else np.zeros(0, dtype=np.int64)
        moved = boxes[source] + rng.normal(0, 6, (len(source), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        wrong = rng.random(len(source)) < 0.2
        named = np.where(wrong, rng.integers(0, num_classes, len(source)), labels[source])
        scores = np.round(rng.random(len(source)), 2)
        ids.append(f"{number:06d}")
        preds.append(
            Detections(boxes=moved.astype(np.float32), scores=scores.astype(np.float32), labels=named.astype(np.int64))
        )
        targets.append(
            DetectionTarget(
                boxes=boxes.astype(np.float32), labels=labels.astype(np.int64), difficult=rng.random(num_objects) < 0.2
            )
        )
    return ids, preds, targets
