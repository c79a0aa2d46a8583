"""Good detections are spoilt in one usual way at a time; the metric must name it, and nothing when all is well."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from metrics.scenes import RealScene, detections, target
from zoo_core.datasets.voc import VOC_CLASSES
from zoo_core.datatypes import Detections, DetectionTarget
from zoo_core.metrics.detection import DetectionMetric

NAMES = ("cat", "dog", "cow", "car", "bus", "boat")

Spoil = Callable[[Detections], Detections]


def good_scene() -> tuple[list[Detections], list[DetectionTarget]]:
    """60 images of 500 x 375 with three objects each, every one found."""
    rng = np.random.default_rng(0)
    preds, targets = [], []
    for _ in range(60):
        corners = rng.uniform((0, 0), (350, 200), (3, 2))
        boxes = np.hstack([corners, corners + rng.uniform((50, 30), (150, 175), (3, 2))])
        labels = rng.integers(0, len(NAMES), 3)
        targets.append(target(*np.column_stack([labels, np.zeros(3), boxes])))
        preds.append(detections(*np.column_stack([labels, rng.uniform(0.5, 1, 3), boxes + rng.normal(0, 2, (3, 4))])))
    return preds, targets


def suspects_after(spoil: Spoil) -> Sequence[str]:
    preds, targets = good_scene()
    metric = DetectionMetric(NAMES)
    metric.update([f"{number:02d}" for number in range(len(preds))], [spoil(pred) for pred in preds], targets)
    return metric.suspects()


def with_boxes(pred: Detections, boxes: NDArray[np.float32]) -> Detections:
    return Detections(boxes=boxes.astype(np.float32), scores=pred.scores, labels=pred.labels)


def with_labels(pred: Detections, labels: NDArray[np.int64]) -> Detections:
    return Detections(boxes=pred.boxes, scores=pred.scores, labels=labels)


def with_scores(pred: Detections, scores: NDArray[np.float32]) -> Detections:
    return Detections(boxes=pred.boxes, scores=scores, labels=pred.labels)


def xywh(pred: Detections) -> Detections:
    return with_boxes(pred, np.hstack([pred.boxes[:, :2], pred.boxes[:, 2:] - pred.boxes[:, :2]]))


def cxcywh(pred: Detections) -> Detections:
    low, high = pred.boxes[:, :2], pred.boxes[:, 2:]
    return with_boxes(pred, np.hstack([(low + high) / 2, high - low]))


FRAME = np.array([500, 375, 500, 375], dtype=np.float32)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda p: with_boxes(p, p.boxes / FRAME),
            r"Boxes look normalized: no coordinate of a detection exceeds 0\.97",
        ),
        (lambda p: with_boxes(p, p.boxes * 300 / FRAME), "pixels of another size"),
        (lambda p: with_boxes(p, p.boxes[:, [1, 0, 3, 2]]), "look like yxyx"),
        (xywh, "look like xywh"),
        (cxcywh, "look like cxcywh"),
        (lambda p: with_boxes(p, p.boxes + 400), "Boxes are misplaced: .* cover 0% of the objects"),
        (lambda p: with_boxes(p, p.boxes[:, [2, 3, 0, 1]]), "180 of 180 boxes have x2 < x1"),
        (lambda p: with_boxes(p, p.boxes * np.float32(1e35)), "look like pixels of another size|Boxes are misplaced"),
        (lambda p: with_boxes(p, p.boxes * np.nan), "180 of 180 detections have a box that is not finite"),
    ],
)
def test_boxes_that_mean_something_else_are_named(spoil: Spoil, words: str) -> None:
    assert re.search(words, " ".join(suspects_after(spoil)))


PERMUTED = np.array([3, 0, 4, 5, 1, 2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: with_labels(p, (p.labels - 1) % 6), r"Labels look shifted: .* with \+1 added to every label"),
        (lambda p: with_labels(p, (p.labels + 1) % 6), r"Labels look shifted: .* with -1 added .* instead of 0\.000"),
        (
            lambda p: with_labels(p, PERMUTED[p.labels]),
            r"Labels look permuted: .* mAP would be (0\.9\d+|1\.000) instead",
        ),
        (
            lambda p: with_labels(p, (p.labels + np.arange(3)) % 6),
            "classes are wrong: .* colour order .BGR instead of RGB.",
        ),
        (lambda p: with_labels(p, np.zeros_like(p.labels)), "All 180 detections are labelled 'cat'"),
        (lambda p: with_scores(p, np.full_like(p.scores, 0.25)), "All 180 scores are 0.25"),
        (lambda p: with_scores(p, p.scores * np.float32(0.01)), "The highest of 180 scores is 0.0099"),
        (lambda p: with_scores(p, p.scores * 20 - 10), r"Scores run from .* to 9\.84, not from 0 to 1"),
        (lambda _: detections(), "no detections for 180 objects"),
    ],
)
def test_labels_and_scores_that_are_off_are_named(spoil: Spoil, words: str) -> None:
    assert re.search(words, " ".join(suspects_after(spoil)))


def test_good_detections_raise_no_suspicion() -> None:
    assert suspects_after(lambda pred: pred) == ()


def test_without_objects_that_count_no_other_suspect_is_named() -> None:
    metric = DetectionMetric(NAMES)
    metric.update(["a"], [detections((0, 0.9, 0, 0, 9, 9))], [target((0, 1, 0, 0, 9, 9))])

    assert metric.suspects() == ("The scored images contain no object that counts, so no detection can be right.",)


@pytest.mark.data
def test_real_detections_with_shifted_labels_are_seen_through(real_scenes: dict[str, RealScene]) -> None:
    ids, preds, targets = real_scenes["yolo2_b"].scene
    metric = DetectionMetric(VOC_CLASSES)
    metric.update(ids, [with_labels(pred, (pred.labels - 1) % 20) for pred in preds], targets)

    # All but the class that fell off the end come back: 0.718 is the score of the set.
    assert re.search(r"\+1 added .* mAP would be 0\.6[78]\d instead of 0\.0", metric.suspects()[0])
