"""Hard non-maximum suppression of all classes together, by pytorch-ssd's rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

IOU_EPS = np.float32(1e-5)
"""Added to the union. Without it the rule keeps different boxes: the number of a small pair's union is changed most."""


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    iou_threshold: float,
    num_candidates: int,
) -> NDArray[np.int64]:
    """Select boxes per class: keep the best, suppress all that overlap it, then take the next best, and so on.

    A plain loop does this for one class after the other and one kept box after the other. Here the pairs of boxes of
    one class that overlap too much are found first, for all classes together; see ``_survivors``.

    Args:
        boxes: ``(N, 4)``, ``xyxy`` normalized; may extend beyond the image.
        scores: ``(N,)``, finite.
        labels: ``(N,)``; boxes suppress only boxes of their own label.
        iou_threshold: Suppressed when ``I / (U + 1e-5)`` is greater, in float32.
        num_candidates: Number of best boxes per label that are considered; the others are dropped.

    Returns:
        ``(K,)`` indices of the boxes kept, by label, then by descending score; equal scores in the order of the input.

    Source:
        pytorch-ssd, ``vision/utils/box_utils.py``, ``hard_nms``.
    """
    order = np.lexsort((-scores, labels))  # stable, so equal scores keep their order
    sorted_labels = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_labels, sorted_labels, side="left")
    order = order[rank < num_candidates]
    better, worse = _same_label_pairs(labels[order])
    overlap = _iou(boxes[order], better, worse) > np.float32(iou_threshold)
    return order[_survivors(len(order), better[overlap], worse[overlap])]


def _same_label_pairs(sorted_labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return positions i and j, ``(P,)`` each, of all pairs i < j of one label."""
    positions = np.arange(len(sorted_labels))
    num_worse = np.searchsorted(sorted_labels, sorted_labels, side="right") - positions - 1
    better = np.repeat(positions, num_worse)
    first_pair = np.cumsum(num_worse) - num_worse
    worse = np.arange(len(better)) - np.repeat(first_pair - positions - 1, num_worse)
    return better, worse


def _iou(boxes: NDArray[np.float32], i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute the IoU of boxes i and j, ``(P,)``, in float32 and in the published order, or ties would differ."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    area = np.maximum(x2 - x1, np.float32(0)) * np.maximum(y2 - y1, np.float32(0))
    width = np.minimum(x2[i], x2[j]) - np.maximum(x1[i], x1[j])
    height = np.minimum(y2[i], y2[j]) - np.maximum(y1[i], y1[j])
    inter = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
    iou: NDArray[np.float32] = inter / (area[i] + area[j] - inter + IOU_EPS)
    return iou


def _survivors(num_boxes: int, better: NDArray[np.int64], worse: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Decide which boxes survive, given every pair in which the better box would suppress the worse one.

    A box is kept when none of the boxes that would suppress it is kept. In each round boxes that no remaining box can
    suppress are kept; the boxes they suppress are removed together with their pairs. Chains of overlapping boxes are
    short, so a few rounds over arrays replace a loop over boxes.

    Args:
        num_boxes: N.
        better: ``(P,)`` positions, each smaller than its partner in ``worse``.
        worse: ``(P,)`` positions.

    Returns:
        ``(N,)``, True for a box that is kept.
    """
    kept = np.ones(num_boxes, dtype=np.bool_)
    while len(better):
        threatened = np.zeros(num_boxes, dtype=np.bool_)
        threatened[worse] = True
        kept[worse[~threatened[better]]] = False
        open_pairs = kept[better] & kept[worse]
        better, worse = better[open_pairs], worse[open_pairs]
    return kept
