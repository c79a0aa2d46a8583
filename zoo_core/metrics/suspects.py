"""What detections that score near zero have in common with the usual mistakes, in sentences with figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from zoo_core.metrics.flat import FlatDetections, FlatObjects, iou_of_pairs, overlapping_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Boxes: TypeAlias = NDArray[np.float32]

# The best detections of an image tell where the network looks; the many below them overlap everything by chance.
_BEST_PER_IMAGE = 20
# Recall at IoU 0.5 whatever the class, from which boxes count as well placed, and what another reading must add.
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
    """A way in which the four numbers of a box may be meant."""

    words: str
    boxes: Boxes


def detection_suspects(
    detections: FlatDetections,
    objects: FlatObjects,
    class_names: Sequence[str],
    map_of_labels: Callable[[NDArray[np.int32]], float | None],
) -> tuple[str, ...]:
    """Say what the data shows about a score near zero.

    Args:
        detections: In any order; a box that was not finite has been emptied.
        objects: As ``FlatObjects.grouped`` gives them.
        class_names: Index is the label.
        map_of_labels: The mAP that the detections would have with other labels ``(N,)``; a label outside the classes
            drops the detection.

    Returns:
        Sentences, the clearest suspect first; empty where nothing is suspicious.
    """
    counting = objects.take(~objects.difficult)
    if not len(counting):
        return ("The scored images hold no object that counts: nothing can be found in them.",)
    if not len(detections):
        return (
            f"There is not one detection against {len(counting)} objects: look at the score threshold, and at whether "
            "the network's scores are logits where probabilities are expected.",
        )
    best = detections.take(_best_rows(detections))
    # A box this far off is only wrong; scaled further it would leave float32.
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
    """Share of objects that any detection of their image overlaps with IoU > 0.5, whatever the classes."""
    pairs = overlapping_pairs(detections, objects, same_class=False)
    close = iou_of_pairs(detections.boxes[pairs.detections], objects.boxes[pairs.objects]) > 0.5
    return len(np.unique(pairs.objects[close])) / len(objects)


def _score_suspects(scores: NDArray[np.float32]) -> Iterator[str]:
    low, high = float(scores.min()), float(scores.max())
    if len(scores) > 1 and low == high:
        yield f"All {len(scores)} scores are {high:.3g}: the ranking that AP measures is arbitrary."
    elif high < 0.05:
        yield (
            f"The highest of {len(scores)} scores is {high:.3g}: the network sees nothing; look at the checkpoint and "
            "at whether softmax was applied twice."
        )
    elif high > 1.0 or low < 0.0:
        yield f"Scores run from {low:.3g} to {high:.3g}, not from 0 to 1: logits may stand for probabilities."


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
            f"Boxes look like {reading.words}: read so, the best detections cover {other_recall:.0%} of the objects "
            f"with IoU > 0.5 whatever the class, and {recall:.0%} as xyxy in pixels."
        )
    elif upright.mean() < 0.5:
        yield (
            f"{(~upright).sum()} of {len(detections)} boxes have x2 < x1 or y2 < y1, or are not finite: look at the "
            "box decoding."
        )
    else:
        yield (
            f"Boxes are misplaced: the {_BEST_PER_IMAGE} best detections of each image cover {recall:.0%} of the "
            "objects with IoU > 0.5 whatever the class, and no other box format explains it. Look at the "
            "checkpoint, at pre-processing (mean, scale, BGR for RGB) and at the priors."
        )


def _readings(detections: FlatDetections, objects: FlatObjects) -> Iterator[_Reading]:
    a, b, c, d = detections.boxes.T
    yield _Reading(words="yxyx (x and y swapped)", boxes=np.stack([b, a, d, c], axis=1))
    yield _Reading(words="xywh (corner and size)", boxes=np.stack([a, b, a + c, b + d], axis=1))
    yield _Reading(
        words="cxcywh (centre and size)", boxes=np.stack([a - c / 2, b - d / 2, a + c / 2, b + d / 2], axis=1)
    )
    # The far ends of all boxes tell the scale between two frames, though not each image's own.
    theirs = np.quantile(detections.boxes[:, 2:], 0.95, axis=0)
    ours = np.quantile(objects.boxes[:, 2:], 0.95, axis=0)
    if (theirs > 0).all():
        x, y = (ours / theirs).astype(np.float32).tolist()
        boxes = detections.boxes * np.array([x, y, x, y], dtype=np.float32)
        yield _Reading(words=f"pixels of another size (x times {x:.2f}, y times {y:.2f} fits better)", boxes=boxes)


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
        yield f"All {len(detections)} detections are labelled {class_names[only]!r}: look at the classification head."
        return
    now = map_of_labels(detections.labels) or 0.0
    placed = f"{num_matches} detections lie on an object (IoU > 0.5) and {right:.0%} of them name its class"
    shift = _best_shift(confusion)
    shifted = map_of_labels(detections.labels + np.int32(shift)) or 0.0
    if _share_of_shift(confusion, shift) >= _MOST_RIGHT and shifted > now + 0.05:
        yield (
            f"Labels look shifted: {placed}; with {shift:+d} added to every label, "
            f"{_share_of_shift(confusion, shift):.0%} would, and mAP would be {shifted:.3f} instead of {now:.3f}. Is "
            "background counted as a class, or missing from the label file?"
        )
        return
    renamed = _one_to_one(confusion)
    relabelled = map_of_labels(renamed[detections.labels]) or 0.0
    if relabelled > now + 0.2:
        examples = [
            f"{class_names[i]!r} for {class_names[renamed[i]]!r}" for i in confusion.sum(axis=1).argsort()[::-1][:3]
        ]
        yield (
            f"Labels look permuted: {placed}; {', '.join(examples)}. With each label renamed to what it mostly lies "
            f"on, mAP would be {relabelled:.3f} instead of {now:.3f}. Is the label file in the order of the training?"
        )
    elif recall >= _GOOD_RECALL:
        yield (
            f"Boxes are right and classes are wrong: {placed}, and no renaming of labels explains it. Look at the "
            "colour order (BGR for RGB), mean and scale of pre-processing, and the classification head's weights."
        )


def _confusion(detections: FlatDetections, objects: FlatObjects, num_classes: int) -> NDArray[np.int64]:
    """Detections of class i that lie best on an object of class j, ``(C, C)``."""
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
    """A renaming of labels, ``(C,)``: the largest cell first, each name used once."""
    left = confusion.astype(np.int64)
    renamed = np.arange(len(confusion), dtype=np.int32)
    for _ in range(len(confusion)):
        label, name = np.unravel_index(int(left.argmax()), left.shape)
        renamed[label] = name
        left[label, :] = -1
        left[:, name] = -1
    return renamed
