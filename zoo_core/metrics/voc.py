"""Matches detections to objects as the VOC evaluators do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from zoo_core.metrics.flat import iou_of_pairs, overlapping_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.metrics.flat import FlatDetections, FlatObjects, Pairs

IOU_THRESHOLD = 0.5

# Outcome of a detection.
FOUND, FALSE, IGNORED = 1, 0, -1

VocRuleName: TypeAlias = Literal["devkit", "pytorch-ssd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VocRule:
    """An evaluator's way to measure overlap; a match needs IoU > 0.5 under both.

    Attributes:
        extent: Added to every width and height.
        eps: Added to the union.
        dtype: Precision of the arithmetic.
        text: The rule, for the definition card.
    """

    extent: float
    eps: float
    dtype: type[np.float32] | type[np.float64]
    text: str


VOC_RULES: Mapping[VocRuleName, VocRule] = MappingProxyType(
    {
        "pytorch-ssd": VocRule(
            extent=0.0,
            eps=1e-5,
            dtype=np.float32,  # torch's default, in which that evaluator compares with the threshold
            text="Widths are x2 - x1, IoU is I / (U + 1e-5) in float32 (the rule of pytorch-ssd's eval_ssd.py).",
        ),
        "devkit": VocRule(
            extent=1.0,
            eps=0.0,
            dtype=np.float64,
            text="Widths are x2 - x1 + 1, IoU is I / U (the rule of py-faster-rcnn's voc_eval.py).",
        ),
    }
)


def match_voc(
    detections: FlatDetections, objects: FlatObjects, rule: VocRule, *, pairs: Pairs | None = None
) -> NDArray[np.int8]:
    """Classify each detection as found, false or ignored.

    Each detection is compared only with the object of its class and image that it overlaps most, difficult ones
    included (the first of equals). With IoU > 0.5 it finds that object unless an earlier detection has; later ones
    are false. If the object is difficult, the detection counts neither way.

    Args:
        detections: As ``FlatDetections.ranked`` gives them.
        objects: As ``FlatObjects.grouped`` gives them.
        rule: The way to measure overlap.
        pairs: ``overlapping_pairs(detections, objects)`` if already computed: it is the same for every rule.

    Returns:
        ``(N,)``: ``FOUND`` (1), ``FALSE`` (0) or ``IGNORED`` (-1).
    """
    outcome = np.full(len(detections), FALSE, dtype=np.int8)
    if pairs is None:
        pairs = overlapping_pairs(detections, objects)
    if not len(pairs.detections):
        return outcome
    iou = iou_of_pairs(
        detections.boxes[pairs.detections].astype(rule.dtype),
        objects.boxes[pairs.objects].astype(rule.dtype),
        extent=rule.extent,
        eps=rule.eps,
    )
    starts = pairs.starts()
    best_iou = np.maximum.reduceat(iou, starts)
    is_best = iou == np.repeat(best_iou, np.diff(starts, append=len(iou)))
    first_best = np.minimum.reduceat(np.where(is_best, np.arange(len(iou)), len(iou)), starts)

    best = first_best[best_iou > IOU_THRESHOLD]
    rows, hit = pairs.detections[best], pairs.objects[best]
    outcome[rows[objects.difficult[hit]]] = IGNORED
    easy = ~objects.difficult[hit]
    # Rows ascend in rank order, so the first row of an object is its best-scored detection.
    _, first = np.unique(hit[easy], return_index=True)
    outcome[rows[easy][first]] = FOUND
    return outcome
