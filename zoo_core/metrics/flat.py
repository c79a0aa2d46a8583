"""Detections and objects of all images as flat arrays, in the one order that every protocol counts in.

Matching is local to an image and a class, but the images are small: a loop over them costs more than the arithmetic.
All images are therefore laid end to end, and a pair of a detection and an object is a row of two indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from zoo_core.boxes import paired_iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

# No rule accepts a pair below 0.5; the margin is far above what float32 loses.
_LEAST_IOU = 0.45
# Pairs looked at in one go: bounds the temporary memory at some 100 MB however many detections there are.
_PAIRS_PER_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlatDetections:
    """Detections of all images.

    Attributes:
        images: ``(N,)`` int32, index of the image.
        labels: ``(N,)`` int32, 0-based class index.
        scores: ``(N,)`` float32 or float64, finite.
        boxes: ``(N, 4)`` float32 ``xyxy`` absolute pixels, finite.
    """

    images: NDArray[np.int32]
    labels: NDArray[np.int32]
    scores: NDArray[np.floating[Any]]
    boxes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[Any]) -> FlatDetections:
        """The detections at ``index`` (integers or a mask), copied."""
        return FlatDetections(
            images=self.images[index], labels=self.labels[index], scores=self.scores[index], boxes=self.boxes[index]
        )

    def ranked(self) -> FlatDetections:
        """The detections by label, then highest score first; copied.

        Equal scores are ordered by image index, and inside an image by ``x1``, ``y1``, ``x2``, ``y2``, smallest
        first. The order in which detections came in therefore never matters.
        """
        # One sort of whole numbers, then the further keys for ties alone: several times faster than sorting by all.
        keys = (self.labels.astype(np.int64) << 32) - _order(self.scores)
        order = np.argsort(keys)
        same = np.diff(keys[order]) == 0
        if same.any():
            tied = np.zeros(len(order), dtype=bool)
            tied[1:] |= same
            tied[:-1] |= same
            rows = order[tied]
            x1, y1, x2, y2 = self.boxes[rows].T
            order[tied] = rows[np.lexsort((y2, x2, y1, x1, self.images[rows], keys[rows]))]
        return self.take(order)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlatObjects:
    """Objects of all images.

    Attributes:
        images: ``(M,)`` int32, index of the image.
        labels: ``(M,)`` int32, 0-based class index.
        boxes: ``(M, 4)`` float32 ``xyxy`` absolute pixels.
        difficult: ``(M,)`` bool; counts neither as found nor as missed.
        crowds: ``(M,)`` bool; a group that was not told apart; difficult too.
        areas: ``(M,)`` float64, square pixels that the object covers.
    """

    images: NDArray[np.int32]
    labels: NDArray[np.int32]
    boxes: NDArray[np.float32]
    difficult: NDArray[np.bool_]
    crowds: NDArray[np.bool_]
    areas: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[Any]) -> FlatObjects:
        """The objects at ``index`` (integers or a mask), copied."""
        return FlatObjects(
            images=self.images[index],
            labels=self.labels[index],
            boxes=self.boxes[index],
            difficult=self.difficult[index],
            crowds=self.crowds[index],
            areas=self.areas[index],
        )

    def grouped(self) -> FlatObjects:
        """The objects by image, then label; inside a group they keep their order. Copied."""
        return self.take(np.lexsort((self.labels, self.images)))

    def count_per_class(self, num_classes: int) -> NDArray[np.int64]:
        """Number of objects that count, ``(num_classes,)``; difficult ones do not."""
        return np.bincount(self.labels[~self.difficult], minlength=num_classes).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Every detection with every object it may be matched to.

    Attributes:
        detections: ``(P,)`` int64, row of the detection; ascending.
        objects: ``(P,)`` int64, row of the object; ascending for one detection.
    """

    detections: NDArray[np.int64]
    objects: NDArray[np.int64]

    def starts(self) -> NDArray[np.int64]:
        """First pair of each detection that has any, ``(D,)``, for ``np.ufunc.reduceat``."""
        return np.flatnonzero(np.diff(self.detections, prepend=-1))


def overlapping_pairs(detections: FlatDetections, objects: FlatObjects, *, same_class: bool = True) -> Pairs:
    """Pairs in one image, and of one class, that overlap enough for any rule to match them.

    Args:
        detections: In any order.
        objects: As ``FlatObjects.grouped`` gives them.
        same_class: False pairs across classes too.
    """
    # Labels lie below the stride, so keys of different images never meet.
    stride = 1 + max(int(detections.labels.max(initial=0)), int(objects.labels.max(initial=0)))
    keys, object_keys = detections.images.astype(np.int64), objects.images.astype(np.int64)
    if same_class:
        keys, object_keys = keys * stride + detections.labels, object_keys * stride + objects.labels
    groups, group_starts, group_sizes = np.unique(object_keys, return_index=True, return_counts=True)
    group = np.searchsorted(np.append(groups, np.iinfo(np.int64).max), keys)
    lows = np.append(group_starts, 0)[group]
    counts = np.where(np.append(groups, -1)[group] == keys, np.append(group_sizes, 0)[group], 0)
    rows = np.flatnonzero(counts)
    ends = np.cumsum(counts[rows])
    num_blocks = 1 + int(ends[-1]) // _PAIRS_PER_BLOCK if len(rows) else 1
    cuts = np.searchsorted(ends, _PAIRS_PER_BLOCK * np.arange(1, num_blocks))
    blocks = [
        _overlapping(detections, objects, part, lows[part], counts[part]) for part in np.split(rows, cuts) if len(part)
    ]
    none = np.zeros(0, dtype=np.int64)
    return Pairs(
        detections=np.concatenate([none, *(block.detections for block in blocks)]),
        objects=np.concatenate([none, *(block.objects for block in blocks)]),
    )


def _overlapping(
    detections: FlatDetections,
    objects: FlatObjects,
    rows: NDArray[np.int64],
    lows: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> Pairs:
    starts = np.cumsum(counts) - counts
    left = np.repeat(rows, counts)
    right = np.arange(len(left)) + np.repeat(lows - starts, counts)
    a, b = detections.boxes[left], objects.boxes[right]
    # A pixel more on every side raises the shares of both boxes that the intersection fills, and so IoU: this one is an
    # upper bound for the rules that add none.
    kept = iou_of_pairs(a, b, extent=1.0) >= _LEAST_IOU
    # A rule may measure overlap with a crowd as a share of the detection alone.
    crowd = np.flatnonzero(objects.crowds[right])
    kept[crowd] |= covered_share(a[crowd], b[crowd]) >= _LEAST_IOU
    return Pairs(detections=left[kept], objects=right[kept])


def iou_of_pairs(
    a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]], *, extent: float = 0.0, eps: float = 0.0
) -> NDArray[np.float64]:
    """``boxes.paired_iou`` in the precision of the boxes given; a box too large for it has IoU 0."""
    with np.errstate(over="ignore"):
        return paired_iou(cast("NDArray[np.float64]", a), cast("NDArray[np.float64]", b), extent=extent, eps=eps)


def box_areas(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """The areas of ``(N, 4)`` ``xyxy`` boxes, ``(N,)`` in float64.

    Not ``boxes.area``: as in pycocotools the sides are multiplied as they are, so a box turned inside out in one
    direction has a negative area, which is outside every range.
    """
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    areas: NDArray[np.float64] = (x2 - x1) * (y2 - y1)
    return areas


def covered_share(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The share of each box of ``a`` that lies in its partner in ``b``, ``(P,)`` in float64.

    Args:
        a: ``(P, 4)`` ``xyxy``.
        b: Likewise.

    Returns:
        A box without area has share 0.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1)
    inside = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    shares: NDArray[np.float64] = np.divide(inside, areas, out=np.zeros_like(areas), where=areas > 0)
    return shares


def _order(values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Whole numbers in the 32-bit range that compare as the finite ``values`` do."""
    if values.dtype != np.float32:
        ranks: NDArray[np.int64] = np.unique(values, return_inverse=True)[1].astype(np.int64)
        return ranks
    bits = (values + np.float32(0.0)).view(np.int32)  # -0.0 becomes 0.0, its equal
    ordered: NDArray[np.int64] = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    return ordered


def class_slices(labels: NDArray[np.int32], num_classes: int) -> list[slice]:
    """Where each class lies in ascending ``labels``."""
    edges = np.searchsorted(labels, np.arange(num_classes + 1)).tolist()
    return [slice(low, high) for low, high in pairwise(edges)]
