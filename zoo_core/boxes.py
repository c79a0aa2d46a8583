"""Box formats and intersection over union, on numpy arrays of any leading shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def paired_iou(
    a: NDArray[np.float64], b: NDArray[np.float64], *, extent: float = 0.0, eps: float = 0.0
) -> NDArray[np.float64]:
    """Compute the intersection over union of box i of ``a`` with box i of ``b``.

    Args:
        a: ``(N, 4)`` boxes, ``xyxy`` in any unit.
        b: ``(N, 4)`` boxes, in the same unit.
        extent: Added to every width and height: 1.0 where a box of one pixel has ``x1 == x2`` (VOC devkit), else 0.0.
        eps: Added to the union (pytorch-ssd adds 1e-5).

    Returns:
        ``(N,)`` in ``[0, 1]``; 0.0 where both boxes are empty.
    """
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]) + extent
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]) + extent
    inter = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    union = area(a, extent=extent) + area(b, extent=extent) - inter + eps
    iou: NDArray[np.float64] = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return iou


def area(boxes: NDArray[np.float64], *, extent: float = 0.0) -> NDArray[np.float64]:
    """Compute the area of ``(N, 4)`` ``xyxy`` boxes, ``(N,)``; an inverted box has area 0."""
    width = np.maximum(boxes[:, 2] - boxes[:, 0] + extent, 0.0)
    height = np.maximum(boxes[:, 3] - boxes[:, 1] + extent, 0.0)
    return width * height
