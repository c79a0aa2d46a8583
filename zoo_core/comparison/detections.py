"""Changes between two stages of a detector: detections lost, gained and moved, matched box by box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.boxes import paired_iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import Detections, DetectionTarget

SCORE_THRESHOLD = 0.5
"""A detection is seen when its score reaches this: what most applications show, far above the metric's 0.01."""

MATCH_IOU = 0.5
"""Two detections of one class are the same one when their IoU is above this."""

MOVED_IOU = 0.9
"""The same detection has moved when its IoU with itself is below this: an edge off by about 5 % of the box. Plain w8a8
of MobileNetV2-SSD-lite on drawn shapes left 815 of 816 detections above it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageChanges:
    """Differences of one image's detections between two stages; rows index the detections in the order given.

    Attributes:
        kept: ``(K, 2)`` int64, row before and row after: the same class, IoU at least ``MOVED_IOU``.
        moved: ``(M, 2)`` int64, likewise, with an IoU between the two thresholds.
        lost: ``(L,)`` int64, rows before without a partner after.
        gained: ``(G,)`` int64, rows after without a partner before.
        faded: ``(L,)`` float32, for each lost detection the best score after of its class at its place, below the score
            threshold; 0.0 where nothing is left.
        risen: ``(G,)`` float32, for each gained detection the same of the stage before.
        magnitude: How much changed, 0.0 for nothing: what lost and gained detections changed in score, plus one minus
            the IoU of each moved one.
    """

    kept: NDArray[np.int64]
    moved: NDArray[np.int64]
    lost: NDArray[np.int64]
    gained: NDArray[np.int64]
    faded: NDArray[np.float32]
    risen: NDArray[np.float32]
    magnitude: float

    @property
    def any(self) -> bool:
        """True if a detection was lost, gained or moved."""
        return bool(len(self.lost) or len(self.gained) or len(self.moved))

    @property
    def summary(self) -> str:
        """The numbers of lost, gained and moved detections."""
        return f"{len(self.lost)} lost, {len(self.gained)} gained, {len(self.moved)} moved"


def image_changes(
    before: Detections,
    after: Detections,
    *,
    score_threshold: float = SCORE_THRESHOLD,
    match_iou: float = MATCH_IOU,
    moved_iou: float = MOVED_IOU,
) -> ImageChanges:
    """Match the detections of one image in two stages, one to one, the best overlap first.

    Exchanging the stages exchanges lost and gained and changes nothing else, equal overlaps apart.

    Args:
        before: Of the baseline stage.
        after: Of the other stage.
        score_threshold: Detections with ``score >= score_threshold`` are seen; the others only explain what is left.
        match_iou: A pair needs an IoU ``>`` this and one class.
        moved_iou: A pair with an IoU ``<`` this has moved.
    """
    seen_before = np.flatnonzero(before.scores >= score_threshold)
    seen_after = np.flatnonzero(after.scores >= score_threshold)
    pairs, overlaps = _match(before, after, seen_before, seen_after, match_iou)
    moved = overlaps < moved_iou
    lost = np.setdiff1d(seen_before, pairs[:, 0])
    gained = np.setdiff1d(seen_after, pairs[:, 1])
    faded = _best_score_at(before, lost, after, score_threshold, match_iou)
    risen = _best_score_at(after, gained, before, score_threshold, match_iou)
    magnitude = (
        float(np.sum(before.scores[lost] - faded, dtype=np.float64))
        + float(np.sum(after.scores[gained] - risen, dtype=np.float64))
        + float(np.sum(1.0 - overlaps[moved]))
    )
    return ImageChanges(
        kept=pairs[~moved],
        moved=pairs[moved],
        lost=lost,
        gained=gained,
        faded=faded,
        risen=risen,
        magnitude=magnitude,
    )


def _match(
    before: Detections,
    after: Detections,
    seen_before: NDArray[np.int64],
    seen_after: NDArray[np.int64],
    match_iou: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of rows ``(P, 2)``, ascending, and their IoU ``(P,)``."""
    overlap = _iou_table(before.boxes[seen_before], after.boxes[seen_after])
    overlap[before.labels[seen_before][:, None] != after.labels[seen_after][None, :]] = 0.0
    rows, columns = np.nonzero(overlap > match_iou)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    pairs: list[tuple[int, int]] = []
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            pairs.append((row, column))
    found = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    overlaps = overlap[found[:, 0], found[:, 1]]
    return np.stack([seen_before[found[:, 0]], seen_after[found[:, 1]]], axis=1), overlaps


def _best_score_at(
    of: Detections, rows: NDArray[np.int64], among: Detections, score_threshold: float, match_iou: float
) -> NDArray[np.float32]:
    below = np.flatnonzero(among.scores < score_threshold)
    overlap = _iou_table(of.boxes[rows], among.boxes[below])
    fits = (overlap > match_iou) & (of.labels[rows][:, None] == among.labels[below][None, :])
    best: NDArray[np.float32] = np.where(fits, among.scores[below][None, :], 0.0).max(axis=1, initial=0.0)
    return best.astype(np.float32)


def _iou_table(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU of each box of ``a`` with each of ``b``, ``(A, B)``; 0.0 where a box is not finite."""
    left = np.repeat(a.astype(np.float64), len(b), axis=0)
    right = np.tile(b.astype(np.float64), (len(a), 1))
    with np.errstate(invalid="ignore", over="ignore"):
        table = paired_iou(left, right).reshape(len(a), len(b))
    return np.where(np.isfinite(table), table, 0.0)


def count_by_class(
    changes: ImageChanges, before: Detections, after: Detections, num_classes: int
) -> dict[str, NDArray[np.int64]]:
    """Return how many detections were kept, moved, lost and gained, ``(C,)`` each; other labels count in no class.

    Args:
        changes: From ``before`` to ``after``.
        before: Of one image.
        after: Of the same image.
        num_classes: C.
    """
    labels = {
        "kept": before.labels[changes.kept[:, 0]],
        "moved": before.labels[changes.moved[:, 0]],
        "lost": before.labels[changes.lost],
        "gained": after.labels[changes.gained],
    }
    return {
        kind: np.bincount(found[(found >= 0) & (found < num_classes)], minlength=num_classes)
        for kind, found in labels.items()
    }


def most_changed(changes: Mapping[str, ImageChanges], num: int) -> Sequence[str]:
    """Ids of the ``num`` images that changed most, most first; equal ones by id, unchanged ones never."""
    changed = [(-found.magnitude, image_id) for image_id, found in changes.items() if found.any]
    return [image_id for _, image_id in sorted(changed)[:num]]


def objects_found(
    preds: Detections, rows: NDArray[np.int64], target: DetectionTarget, *, match_iou: float = MATCH_IOU
) -> NDArray[np.bool_]:
    """Tell for each detection whether it matches an object of its class that is not difficult, IoU ``>`` ``match_iou``.

    Args:
        preds: Of one image.
        rows: ``(R,)``, the detections asked for.
        target: Of the same image.
        match_iou: A detection needs an IoU ``>`` this.

    Returns:
        ``(R,)``; no object is taken away by another detection, since each is judged alone.
    """
    overlap = _iou_table(preds.boxes[rows], target.boxes)
    same = preds.labels[rows][:, None] == target.labels[None, :]
    found: NDArray[np.bool_] = ((overlap > match_iou) & same & ~target.difficult[None, :]).any(axis=1)
    return found
