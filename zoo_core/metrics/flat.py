"""Detections and objects of all images as flat arrays, in the one order that every protocol uses.

Matching is local to an image and a class, but images are small: a loop over them costs more than the arithmetic.
All images are therefore concatenated, and a pair of a detection and an object is a row of two indices.
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
# Looked up and compared at once: bounds the temporary memory at about 10 MB however many detections there are.
_DETECTIONS_PER_BLOCK = 1 << 16
_PAIRS_PER_BLOCK = 1 << 16


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
        """Return a copy of the detections at ``index`` (integers or a mask)."""
        return FlatDetections(
            images=self.images[index], labels=self.labels[index], scores=self.scores[index], boxes=self.boxes[index]
        )

    def ranked(self) -> FlatDetections:
        """Return a copy sorted by label, then highest score first.

        Equal scores are ordered by image index, and inside an image by ``x1``, ``y1``, ``x2``, ``y2``, smallest
        first. The order in which detections were added therefore never matters.
        """
        # One sort of whole numbers, then the further keys for ties alone: several times faster than sorting by all.
        # In place, and without what is no longer needed: these copies are the peak of scoring.
        keys = self.labels.astype(np.int64)
        keys <<= 32
        keys -= _order(self.scores)
        order = np.argsort(keys)
        ascending = keys[order]
        same = ascending[1:] == ascending[:-1]
        del ascending
        if same.any():
            tied = np.zeros(len(order), dtype=bool)
            tied[1:] |= same
            tied[:-1] |= same
            rows = order[tied]
            x1, y1, x2, y2 = self.boxes[rows].T
            order[tied] = rows[np.lexsort((y2, x2, y1, x1, self.images[rows], keys[rows]))]
        del keys
        return self.take(order)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlatObjects:
    """Objects of all images.

    Attributes:
        images: ``(M,)`` int32, index of the image.
        labels: ``(M,)`` int32, 0-based class index.
        boxes: ``(M, 4)`` float32 ``xyxy`` absolute pixels.
        difficult: ``(M,)`` bool; counts neither as found nor as missed.
        crowds: ``(M,)`` bool; a group annotated as one object; difficult too.
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
        """Return a copy of the objects at ``index`` (integers or a mask)."""
        return FlatObjects(
            images=self.images[index],
            labels=self.labels[index],
            boxes=self.boxes[index],
            difficult=self.difficult[index],
            crowds=self.crowds[index],
            areas=self.areas[index],
        )

    def grouped(self) -> FlatObjects:
        """Return a copy sorted by image, then label; inside a group objects keep their order."""
        return self.take(np.lexsort((self.labels, self.images)))

    def count_per_class(self, num_classes: int) -> NDArray[np.int64]:
        """Count the objects of each class, ``(num_classes,)``; difficult ones do not count."""
        return np.bincount(self.labels[~self.difficult], minlength=num_classes).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Pairs of a detection and an object that it may be matched to.

    Attributes:
        detections: ``(P,)`` int64, row of the detection; ascending.
        objects: ``(P,)`` int64, row of the object; ascending for one detection.
    """

    detections: NDArray[np.int64]
    objects: NDArray[np.int64]

    def starts(self) -> NDArray[np.int64]:
        """Return the first pair of each detection that has any, ``(D,)``, for ``np.ufunc.reduceat``."""
        return np.flatnonzero(np.diff(self.detections, prepend=-1))


def overlapping_pairs(detections: FlatDetections, objects: FlatObjects, *, same_class: bool = True) -> Pairs:
    """Find the pairs in one image, and of one class, that overlap enough for some rule to match them.

    Args:
        detections: In any order.
        objects: As ``FlatObjects.grouped`` gives them.
        same_class: If False, pair across classes too.
    """
    # Labels lie below the stride, so keys of different images never meet.
    stride = 1 + max(int(detections.labels.max(initial=0)), int(objects.labels.max(initial=0)))
    object_keys = objects.images.astype(np.int64)
    if same_class:
        object_keys = object_keys * stride + objects.labels
    groups, starts, sizes = np.unique(object_keys, return_index=True, return_counts=True)
    groups = np.append(groups, np.iinfo(np.int64).max)  # a key above all others is found here, a group of none
    starts, sizes = np.append(starts, 0), np.append(sizes, 0)
    blocks: list[Pairs] = []
    for first in range(0, len(detections), _DETECTIONS_PER_BLOCK):
        part = slice(first, first + _DETECTIONS_PER_BLOCK)
        keys = detections.images[part].astype(np.int64)
        if same_class:
            keys = keys * stride + detections.labels[part]
        group = np.searchsorted(groups, keys)
        counts = np.where(groups[group] == keys, sizes[group], 0)
        found = np.flatnonzero(counts)
        blocks += _overlapping_blocks(detections, objects, found + first, starts[group[found]], counts[found])
    none = np.zeros(0, dtype=np.int64)
    return Pairs(
        detections=np.concatenate([none, *(block.detections for block in blocks)]),
        objects=np.concatenate([none, *(block.objects for block in blocks)]),
    )


def _overlapping_blocks(
    detections: FlatDetections,
    objects: FlatObjects,
    rows: NDArray[np.int64],
    lows: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> list[Pairs]:
    """Compare each detection with its ``counts`` objects from ``lows`` on, some at a time."""
    ends = np.cumsum(counts)
    num_blocks = 1 + int(ends[-1]) // _PAIRS_PER_BLOCK if len(rows) else 1
    cuts = [0, *np.searchsorted(ends, _PAIRS_PER_BLOCK * np.arange(1, num_blocks)).tolist(), len(rows)]
    return [
        _overlapping(detections, objects, rows[low:high], lows[low:high], counts[low:high])
        for low, high in pairwise(cuts)
        if low < high
    ]


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
    # One pixel more on every side raises the share of both boxes that the intersection fills, and so IoU: with extent 1
    # it is an upper bound for the rules that add none.
    kept = iou_of_pairs(a, b, extent=1.0) >= _LEAST_IOU
    # A rule may measure overlap with a crowd as a share of the detection only.
    crowd = np.flatnonzero(objects.crowds[right])
    kept[crowd] |= covered_share(a[crowd], b[crowd]) >= _LEAST_IOU
    return Pairs(detections=left[kept], objects=right[kept])


def iou_of_pairs(
    a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]], *, extent: float = 0.0, eps: float = 0.0
) -> NDArray[np.float64]:
    """Compute ``boxes.paired_iou`` in the precision of the given boxes; a box too large for it has IoU 0."""
    with np.errstate(over="ignore"):
        return paired_iou(cast("NDArray[np.float64]", a), cast("NDArray[np.float64]", b), extent=extent, eps=eps)


def box_areas(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the areas of ``(N, 4)`` ``xyxy`` boxes, ``(N,)`` in float64.

    Unlike ``boxes.area``, and like pycocotools, the sides are multiplied without clipping, so a box inverted in one
    direction has a negative area, which is outside every range.
    """
    x1, y1, x2, y2 = boxes.T
    areas: NDArray[np.float64] = np.subtract(x2, x1, dtype=np.float64)
    areas *= np.subtract(y2, y1, dtype=np.float64)
    return areas


def covered_share(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute the share of each box of ``a`` that lies in its partner in ``b``, ``(P,)`` in float64.

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
    """Return the slice of each class in ascending ``labels``."""
    edges = np.searchsorted(labels, np.arange(num_classes + 1)).tolist()
    return [slice(low, high) for low, high in pairwise(edges)]
