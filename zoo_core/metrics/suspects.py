"""Diagnoses a detection score near zero: names the usual mistakes that fit the data, in sentences with figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from zoo_core.metrics.flat import FlatDetections, FlatObjects, iou_of_pairs, overlapping_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Boxes: TypeAlias = NDArray[np.float32]

# The best detections of an image show where the network looks; the many below them overlap everything by chance.
_BEST_PER_IMAGE = 20
# Class-agnostic recall at IoU 0.5 from which boxes count as well placed, and how much another box format must add.
_GOOD_RECALL = 0.4
_CLEAR_GAIN = 0.15
# Share of right classes among well-placed detections: below the first labels are suspect, above the second a shift
# explains them.
_FEW_RIGHT = 0.4
_MOST_RIGHT = 0.6
# Shares of fewer matches than this say little.
_LEAST_MATCHES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """One interpretation of a box's four numbers."""

    description: str
    boxes: Boxes


def detection_suspects(
    detections: FlatDetections,
    objects: FlatObjects,
    class_names: Sequence[str],
    map_of_labels: Callable[[NDArray[np.int32]], float | None],
) -> tuple[str, ...]:
    """Explain a score near zero as far as the data allows.

    Args:
        detections: In any order; boxes that were not finite have been emptied.
        objects: As ``FlatObjects.grouped`` gives them.
        class_names: Index is the label.
        map_of_labels: The mAP that the detections would have with other labels ``(N,)``; a label outside the classes
            drops the detection.

    Returns:
        Sentences, the clearest suspect first; empty where nothing is suspicious.
    """
    counting = objects.take(~objects.difficult)
    if not len(counting):
        return ("The scored images contain no object that counts, so no detection can be right.",)
    if not len(detections):
        return (
            f"There are no detections for {len(counting)} objects: check the score threshold, and that the network's "
            "scores are probabilities, not logits.",
        )
    best = detections.take(_best_rows(detections))
    # A box this far off is wrong anyway; scaled further it would overflow float32.
    best = replace(best, boxes=np.clip(best.boxes, -1e6, 1e6))
    recall = _recall(best, counting)
    findings = [*_score_suspects(detections.scores)]
    if recall < _GOOD_RECALL:
        findings = [*_box_suspects(best, counting, recall), *findings]
    findings += _label_suspects(detections, best, counting, class_names, recall, map_of_labels)
    return tuple(findings)


def _best_rows(detections: FlatDetections) -> NDArray[np.int64]:
    order = np.lexsort((-detections.scores, detections.images))
    images = detections.images[order]
    starts = np.flatnonzero(np.diff(images, prepend=-1))
    places = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return order[places < _BEST_PER_IMAGE]


def _recall(detections: FlatDetections, objects: FlatObjects) -> float:
    """Compute the share of objects that some detection of their image overlaps with IoU > 0.5, in any class."""
    pairs = overlapping_pairs(detections, objects, same_class=False)
    close = iou_of_pairs(detections.boxes[pairs.detections], objects.boxes[pairs.objects]) > 0.5
    return len(np.unique(pairs.objects[close])) / len(objects)


def _score_suspects(scores: NDArray[np.float32]) -> Iterator[str]:
    low, high = float(scores.min()), float(scores.max())
    if len(scores) > 1 and low == high:
        yield f"All {len(scores)} scores are {high:.3g}: the ranking that AP measures is arbitrary."
    elif high < 0.05:
        yield (
            f"The highest of {len(scores)} scores is {high:.3g}: the network detects nothing; check the checkpoint, "
            "and that softmax is not applied twice."
        )
    elif high > 1.0 or low < 0.0:
        yield f"Scores run from {low:.3g} to {high:.3g}, not from 0 to 1: they may be logits, not probabilities."


def _box_suspects(detections: FlatDetections, objects: FlatObjects, recall: float) -> Iterator[str]:
    theirs, ours = float(np.abs(detections.boxes).max()), float(objects.boxes.max())
    upright = (detections.boxes[:, 2:] >= detections.boxes[:, :2]).all(axis=1)
    if theirs <= 2.0 < ours and upright.any():
        yield (
            f"Boxes look normalized: no coordinate of a detection exceeds {theirs:.3g}, those of objects reach "
            f"{ours:.0f} pixels. Multiply them by the image's width and height in decode."
        )
        return
    readings = [
        (_recall(replace(detections, boxes=other.boxes), objects), other) for other in _readings(detections, objects)
    ]
    other_recall, reading = max(readings, key=lambda pair: pair[0])
    if other_recall >= recall + _CLEAR_GAIN:
        yield (
            f"Boxes look like {reading.description}: read that way, the best detections cover {other_recall:.0%} of "
            f"the objects with IoU > 0.5 in any class; read as xyxy in pixels, {recall:.0%}."
        )
    elif upright.mean() < 0.5:
        yield (
            f"{(~upright).sum()} of {len(detections)} boxes have x2 < x1 or y2 < y1, or are not finite: check the "
            "box decoding."
        )
    else:
        yield (
            f"Boxes are misplaced: the {_BEST_PER_IMAGE} best detections of each image cover {recall:.0%} of the "
            "objects with IoU > 0.5 in any class, and no other box format explains it. Check the checkpoint, "
            "pre-processing (mean, scale, BGR instead of RGB) and the priors."
        )


def _readings(detections: FlatDetections, objects: FlatObjects) -> Iterator[_Reading]:
    a, b, c, d = detections.boxes.T
    yield _Reading(description="yxyx (x and y swapped)", boxes=np.stack([b, a, d, c], axis=1))
    yield _Reading(description="xywh (corner and size)", boxes=np.stack([a, b, a + c, b + d], axis=1))
    yield _Reading(
        description="cxcywh (centre and size)", boxes=np.stack([a - c / 2, b - d / 2, a + c / 2, b + d / 2], axis=1)
    )
    # The far corners of all boxes give the overall scale between the two, though not the scale of each image.
    theirs = np.quantile(detections.boxes[:, 2:], 0.95, axis=0)
    ours = np.quantile(objects.boxes[:, 2:], 0.95, axis=0)
    if (theirs > 0).all():
        x, y = (ours / theirs).astype(np.float32).tolist()
        boxes = detections.boxes * np.array([x, y, x, y], dtype=np.float32)
        yield _Reading(description=f"pixels of another size (x * {x:.2f}, y * {y:.2f} fits better)", boxes=boxes)


def _label_suspects(
    detections: FlatDetections,
    best: FlatDetections,
    objects: FlatObjects,
    class_names: Sequence[str],
    recall: float,
    map_of_labels: Callable[[NDArray[np.int32]], float | None],
) -> Iterator[str]:
    confusion = _confusion(best, objects, len(class_names))
    num_matches = int(confusion.sum())
    right = float(np.trace(confusion)) / max(num_matches, 1)
    if num_matches < _LEAST_MATCHES or len(class_names) < 2 or right >= _FEW_RIGHT:
        return
    only = int(detections.labels[0])
    if (detections.labels == only).all():
        yield f"All {len(detections)} detections are labelled {class_names[only]!r}: check the classification head."
        return
    now = map_of_labels(detections.labels) or 0.0
    placed = f"{num_matches} detections overlap an object (IoU > 0.5) and {right:.0%} of them have its class"
    shift = _best_shift(confusion)
    shifted = map_of_labels(detections.labels + np.int32(shift)) or 0.0
    if _share_of_shift(confusion, shift) >= _MOST_RIGHT and shifted > now + 0.05:
        yield (
            f"Labels look shifted: {placed}; with {shift:+d} added to every label, "
            f"{_share_of_shift(confusion, shift):.0%} would, and mAP would be {shifted:.3f} instead of {now:.3f}. Is "
            "background counted as a class, or is it missing from the label file?"
        )
        return
    renamed = _one_to_one(confusion)
    relabelled = map_of_labels(renamed[detections.labels]) or 0.0
    if relabelled > now + 0.2:
        examples = [
            f"{class_names[i]!r} for {class_names[renamed[i]]!r}" for i in confusion.sum(axis=1).argsort()[::-1][:3]
        ]
        yield (
            f"Labels look permuted: {placed}; {', '.join(examples)}. With each label renamed to the class it mostly "
            f"overlaps, mAP would be {relabelled:.3f} instead of {now:.3f}. Is the label file in the training order?"
        )
    elif recall >= _GOOD_RECALL:
        yield (
            f"Boxes are right and classes are wrong: {placed}, and no renaming of labels explains it. Check the "
            "colour order (BGR instead of RGB), mean and scale of pre-processing, and the weights of the head."
        )


def _confusion(detections: FlatDetections, objects: FlatObjects, num_classes: int) -> NDArray[np.int64]:
    """Count the detections of class i whose best overlap is with an object of class j, ``(C, C)``."""
    pairs = overlapping_pairs(detections, objects, same_class=False)
    iou = iou_of_pairs(detections.boxes[pairs.detections], objects.boxes[pairs.objects])
    order = np.lexsort((-iou, pairs.detections))
    _, first = np.unique(pairs.detections[order], return_index=True)
    rows = order[first]
    rows = rows[iou[rows] > 0.5]
    cells = detections.labels[pairs.detections[rows]].astype(np.int64) * num_classes
    cells += objects.labels[pairs.objects[rows]]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _share_of_shift(confusion: NDArray[np.int64], shift: int) -> float:
    return float(np.trace(confusion, offset=shift)) / float(confusion.sum())


def _best_shift(confusion: NDArray[np.int64]) -> int:
    shifts = [shift for shift in range(1 - len(confusion), len(confusion)) if shift]
    return max(shifts, key=lambda shift: (_share_of_shift(confusion, shift), -abs(shift)))


def _one_to_one(confusion: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return a renaming of labels, ``(C,)``: the largest cell first, each name used once."""
    left = confusion.astype(np.int64)
    renamed = np.arange(len(confusion), dtype=np.int32)
    for _ in range(len(confusion)):
        label, name = np.unravel_index(int(left.argmax()), left.shape)
        renamed[label] = name
        left[label, :] = -1
        left[:, name] = -1
    return renamed
