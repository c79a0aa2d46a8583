"""COCO's average precision and recall, equal to pycocotools; difficult objects are its ``ignore``.

Matching is greedy: a detection takes the best object that is still free, so its match depends on the detections before
it, but only on those of the same image and class. Round r therefore matches the r-th detection of every such group
together, at every threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.metrics.average_precision import PrecisionRecall, envelope, precision_recall_curve
from zoo_core.metrics.flat import box_areas, class_slices, covered_share, iou_of_pairs, overlapping_pairs
from zoo_core.metrics.voc import FALSE, FOUND, IGNORED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.metrics.flat import FlatDetections, FlatObjects, Pairs

# pycocotools computes both by linspace, and a recall or an IoU on the threshold is decided by the last bit.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS_101 = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100
# Square pixels, both ends included.
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}

COCO_TEXT = (
    "COCO: AP at IoU >= 0.50, 0.55 ... 0.95, precision interpolated at 101 recall points, the 100 best detections per "
    "image and class; widths are x2 - x1. A detection takes the object it overlaps most among those still free; "
    "difficult objects are pycocotools' `ignore`: taken at most once, only where no other object fits, and then the "
    "detection counts neither way. A crowd (`iscrowd`) is such an object too, but is taken any number of times, and "
    "overlap with it is the share of the detection that lies in it. Small, medium and large part at 32^2 and 96^2 "
    "pixels of the object's annotated area, or of its box where none is annotated."
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoEvaluation:
    """AP and recall of each class under COCO's protocol; T is ``len(IOU_THRESHOLDS)``.

    Attributes:
        num_objects: ``(C,)``, objects that count within the area range.
        average_precision: ``(T, C)``; not-a-number for a class without objects that count.
        recall: With at most 1, 10 and 100 detections per image and class: ``{k: (T, C)}``, undefined likewise.
    """

    num_objects: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    recall: dict[int, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoCandidates:
    """Input of matching, the same for every area range.

    Attributes:
        detections: As ``FlatDetections.ranked`` gives them.
        objects: As ``FlatObjects.grouped`` gives them.
        ranks: ``(N,)`` int32, place of the detection among those of its image and class; from 0.
        left: ``(P,)`` ascending rows of detections.
        right: ``(P,)`` rows of objects with which these have an ``iou`` >= 0.5.
        iou: ``(P,)``; with a crowd, the share of the detection that lies in it.
    """

    detections: FlatDetections
    objects: FlatObjects
    ranks: NDArray[np.int32]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    iou: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoMatches:
    """Outcome of each detection at each of the T thresholds.

    Attributes:
        rows: ``(D,)`` ascending rows of the detections that overlap any object.
        outcomes: ``(D, T)`` int8 of those.
        outside: ``(N,)`` bool, the detection's area is out of range: unmatched, it does not count.
        object_ignored: ``(M,)`` bool, difficult or out of range.
    """

    rows: NDArray[np.int64]
    outcomes: NDArray[np.int8]
    outside: NDArray[np.bool_]
    object_ignored: NDArray[np.bool_]

    def outcome(self, part: slice) -> NDArray[np.int8]:
        """Return ``FOUND``, ``FALSE`` or ``IGNORED`` for the detections in ``part``, ``(T, n)``."""
        unmatched = np.where(self.outside[part], np.int8(IGNORED), np.int8(FALSE))
        result = np.tile(unmatched, (self.outcomes.shape[1], 1))
        low, high = np.searchsorted(self.rows, [part.start, part.stop])
        columns, matched = self.rows[low:high] - part.start, self.outcomes[low:high].T
        result[:, columns] = np.where(matched == FALSE, unmatched[columns], matched)
        return result


def coco_candidates(detections: FlatDetections, objects: FlatObjects, *, pairs: Pairs | None = None) -> CocoCandidates:
    """Find the pairs of a detection and an object that may be matched.

    Args:
        detections: As ``FlatDetections.ranked`` gives them.
        objects: As ``FlatObjects.grouped`` gives them.
        pairs: ``overlapping_pairs(detections, objects)`` if already computed.
    """
    if pairs is None:
        pairs = overlapping_pairs(detections, objects)
    ranks = _ranks_in_group(detections)
    a, b = detections.boxes[pairs.detections], objects.boxes[pairs.objects]
    iou = iou_of_pairs(a.astype(np.float64), b.astype(np.float64))
    crowd = np.flatnonzero(objects.crowds[pairs.objects])
    iou[crowd] = covered_share(a[crowd], b[crowd])
    kept = (iou >= IOU_THRESHOLDS[0]) & (ranks[pairs.detections] < MAX_DETECTIONS)
    return CocoCandidates(
        detections=detections,
        objects=objects,
        ranks=ranks,
        left=pairs.detections[kept],
        right=pairs.objects[kept],
        iou=iou[kept],
    )


def evaluate_coco(
    candidates: CocoCandidates, num_classes: int, *, area_range: tuple[float, float] = AREA_RANGES["all"]
) -> CocoEvaluation:
    """Score every class at every threshold.

    Args:
        candidates: From ``coco_candidates``.
        num_classes: C.
        area_range: Square pixels; objects outside do not count, nor do unmatched detections outside.
    """
    matches = match_coco(candidates, area_range=area_range)
    labels = candidates.objects.labels[~matches.object_ignored]
    num_objects = np.bincount(labels, minlength=num_classes).astype(np.int64)
    average_precision = np.full((len(IOU_THRESHOLDS), num_classes), np.nan)
    recall = {most: average_precision.copy() for most in (1, 10, MAX_DETECTIONS)}
    for label, rows in enumerate(class_slices(candidates.detections.labels, num_classes)):
        if not num_objects[label]:
            continue
        outcome, ranks = matches.outcome(rows), candidates.ranks[rows]
        counts = (ranks < MAX_DETECTIONS) & (outcome != IGNORED).any(axis=0)
        outcome, ranks = outcome[:, counts], ranks[counts]
        average_precision[:, label] = _average_precision_101(outcome, int(num_objects[label]))
        for most, values in recall.items():
            values[:, label] = (outcome[:, ranks < most] == FOUND).sum(axis=1) / num_objects[label]
    return CocoEvaluation(num_objects=num_objects, average_precision=average_precision, recall=recall)


def coco_curve(candidates: CocoCandidates, label: int, *, iou_threshold: float = 0.5) -> PrecisionRecall:
    """Return one class's curve at the nearest of ``IOU_THRESHOLDS``; the class must have objects that count."""
    matches = match_coco(candidates)
    rows = class_slices(candidates.detections.labels, label + 1)[label]
    outcome = matches.outcome(rows)[int(np.abs(IOU_THRESHOLDS - iou_threshold).argmin())]
    counts = (outcome != IGNORED) & (candidates.ranks[rows] < MAX_DETECTIONS)
    num_objects = int(((candidates.objects.labels == label) & ~matches.object_ignored).sum())
    return precision_recall_curve(outcome[counts] == FOUND, candidates.detections.scores[rows][counts], num_objects)


def match_coco(candidates: CocoCandidates, *, area_range: tuple[float, float] = AREA_RANGES["all"]) -> CocoMatches:
    """Match greedily, best score first, at every threshold.

    Args:
        candidates: From ``coco_candidates``.
        area_range: Square pixels; objects outside are ignored like difficult ones.
    """
    ignored = candidates.objects.difficult | _outside(candidates.objects.areas, area_range)
    rows, outcomes = _greedy(candidates, ignored)
    return CocoMatches(
        rows=rows,
        outcomes=outcomes,
        outside=_outside(box_areas(candidates.detections.boxes), area_range),
        object_ignored=ignored,
    )


def _ranks_in_group(detections: FlatDetections) -> NDArray[np.int32]:
    ranks = np.empty(len(detections), dtype=np.int32)
    for part in class_slices(detections.labels, 1 + int(detections.labels.max(initial=0))):
        images = detections.images[part]
        order = np.argsort(images, kind="stable")
        starts = np.flatnonzero(np.diff(images[order], prepend=-1))
        first = np.repeat(starts, np.diff(starts, append=len(images)))
        ranks[part][order] = np.arange(len(images)) - first
    return ranks


def _outside(areas: NDArray[np.float64], area_range: tuple[float, float]) -> NDArray[np.bool_]:
    low, high = area_range
    outside: NDArray[np.bool_] = (areas < low) | (areas > high)
    return outside


def _greedy(candidates: CocoCandidates, ignored: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return the rows of the detections that have candidates, ascending, and their outcomes ``(D, T)``."""
    left, right, iou = candidates.left, candidates.right, candidates.iou
    rows, row_of_pair = np.unique(left, return_inverse=True)
    outcomes = np.full((len(rows), len(IOU_THRESHOLDS)), FALSE, dtype=np.int8)
    # A larger priority wins: an object that counts before one that does not, then IoU, then the later of equals.
    priority = np.empty(len(left), dtype=np.int64)
    by_priority = np.lexsort((np.arange(len(left)), iou, ~ignored[right]))
    priority[by_priority] = np.arange(len(left))
    accepted = iou[:, None] >= np.minimum(IOU_THRESHOLDS, 1 - 1e-10)  # (P, T)
    free = np.ones((len(ignored), len(IOU_THRESHOLDS)), dtype=bool)

    rounds = candidates.ranks[left]
    order = np.argsort(rounds, kind="stable")
    edges = np.flatnonzero(np.diff(rounds[order], prepend=-1, append=MAX_DETECTIONS))
    for low, high in pairwise(edges.tolist()):
        part = order[low:high]  # the pairs of one detection of each group
        starts = np.flatnonzero(np.diff(left[part], prepend=-1))
        offers = np.where(accepted[part] & free[right[part]], priority[part, None], -1)
        best = np.maximum.reduceat(offers, starts, axis=0)  # (detections of this round, T)
        detection, threshold = np.nonzero(best >= 0)
        taken = right[by_priority[best[detection, threshold]]]
        free[taken, threshold] = candidates.objects.crowds[taken]
        outcomes[row_of_pair[part[starts]][detection], threshold] = np.where(ignored[taken], IGNORED, FOUND)
    return rows, outcomes


def _average_precision_101(outcome: NDArray[np.int8], num_objects: int) -> NDArray[np.float64]:
    """Compute AP per threshold from the outcomes ``(T, n)`` of one class's detections."""
    return np.array([_average_at_101_points(row, num_objects) for row in outcome])


def _average_at_101_points(outcome: NDArray[np.int8], num_objects: int) -> np.float64:
    num_hits = np.cumsum(outcome == FOUND, dtype=np.int32)
    num_counting = np.cumsum(outcome != IGNORED, dtype=np.int32)
    precision = envelope(num_hits / (num_counting + np.spacing(1)))
    never = np.zeros(1)  # precision of a recall that is not reached
    average: np.float64 = np.append(precision, never)[
        np.searchsorted(num_hits / num_objects, RECALL_POINTS_101, side="left")
    ].mean()
    return average
