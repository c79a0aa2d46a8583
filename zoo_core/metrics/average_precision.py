"""Average precision from a precision-recall curve, by the rules of the VOC and COCO benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The fourth is 0.30000000000000004: a recall of exactly 3/10 does not reach it, nor does it in published evaluators.
RECALL_POINTS_11 = np.arange(0.0, 1.1, 0.1)


class PrecisionRecall(NamedTuple):
    """Precision-recall curve of one class, highest score first; N is the number of detections that count.

    Attributes:
        recall: ``(N,)`` float64, ascending, in ``[0, 1]``.
        precision: ``(N,)`` float64, in ``[0, 1]``.
        scores: ``(N,)`` float32; row i is reached when detections with ``score >= scores[i]`` are kept (ties apart).
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    scores: NDArray[np.float32]


def precision_recall_curve(hits: NDArray[np.bool_], scores: NDArray[np.float32], num_objects: int) -> PrecisionRecall:
    """Compute precision and recall after each detection.

    Args:
        hits: ``(N,)``, highest score first: True where the detection found an object; leave out those that do not
            count.
        scores: ``(N,)``.
        num_objects: Objects that count, above 0.
    """
    num_hits = np.cumsum(hits, dtype=np.float64)
    ranks = np.arange(1.0, len(hits) + 1.0)
    return PrecisionRecall(recall=num_hits / num_objects, precision=num_hits / ranks, scores=scores)


def average_precision_11pt(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Average the best precision at recall 0, 0.1, ... 1, as VOC2007 defines it.

    Args:
        recall: ``(N,)``, ascending, in ``[0, 1]``; N is the number of detections that count.
        precision: ``(N,)``, in ``[0, 1]``.

    Returns:
        AP in ``[0, 1]``; 0.0 when N is 0. Classes without ground truth are not passed in: their AP is None.

    Source:
        Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, section 4.2.
    """
    return float(_best_precision_at(recall, precision, RECALL_POINTS_11).sum() / len(RECALL_POINTS_11))


def average_precision_area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Integrate the monotone envelope of the curve exactly, at every change of recall, as VOC2010 defines it.

    Args:
        recall: ``(N,)``, ascending, in ``[0, 1]``.
        precision: ``(N,)``, in ``[0, 1]``.

    Returns:
        AP in ``[0, 1]``; 0.0 when N is 0.

    Source:
        Everingham et al., The PASCAL VOC Challenge 2012 Development Kit, section 3.4.1.
    """
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope(precision)))


def envelope(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the best precision at this or any later row, ``(N,)``."""
    best: NDArray[np.float64] = np.maximum.accumulate(precision[::-1])[::-1]
    return best


def _best_precision_at(
    recall: NDArray[np.float64], precision: NDArray[np.float64], points: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    # Row i is the first whose recall is >= the point; the zero appended is the precision at a recall never reached.
    return np.append(envelope(precision), 0.0)[np.searchsorted(recall, points, side="left")]
