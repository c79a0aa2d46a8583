"""The inverse of ``decode``: turns objects into the ideal network output. Training and the checks use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ssd_mobilenetv2_lite.decode import CENTER_VARIANCE, SIZE_VARIANCE
from ssd_mobilenetv2_lite.priors import make_priors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo_core.datatypes import DetectionTarget, ImageSize

MATCH_IOU = 0.5
MIN_SIZE = 1e-3  # of the image; the logarithm of a box one pixel wide, whose corners coincide, must exist

_CERTAIN = 20.0


def encode(
    targets: Sequence[DetectionTarget], sizes: Sequence[ImageSize], *, num_classes_with_background: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the outputs of a network that detects every object and nothing else.

    Args:
        targets: Ground truth of the B images.
        sizes: Of the original images.
        num_classes_with_background: C of the network.

    Returns:
        Raw class scores ``(B, 3000, C)`` and locations ``(B, 3000, 4)``.
    """
    priors = make_priors().numpy()
    scores = np.zeros((len(targets), len(priors), num_classes_with_background), np.float32)
    locations = np.zeros((len(targets), len(priors), 4), np.float32)
    for index, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        scale = np.array([size.width_px, size.height_px, size.width_px, size.height_px], np.float32)
        labels, locations[index] = match_priors(target.boxes / scale, target.labels, priors)
        scores[index, np.arange(len(priors)), labels] = _CERTAIN
    return torch.from_numpy(scores), torch.from_numpy(locations)


def match_priors(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], priors: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Assign an object to each prior: the one it overlaps by more than 0.5, or whose best prior it is.

    Args:
        boxes: ``(M, 4)``, ``xyxy`` normalized.
        labels: ``(M,)``, 0-based class index.
        priors: ``(P, 4)``, ``cxcywh`` normalized.

    Returns:
        Labels ``(P,)`` with 0 for background, and encoded locations ``(P, 4)``.

    Source:
        Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016, section 2.2.
    """
    if len(boxes) == 0:
        return np.zeros(len(priors), np.int64), np.zeros((len(priors), 4), np.float32)
    corners = np.concatenate([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], axis=1)
    overlap = np.minimum(corners[:, None, 2:], boxes[None, :, 2:]) - np.maximum(
        corners[:, None, :2], boxes[None, :, :2]
    )
    inter = np.maximum(overlap, 0).prod(axis=2)  # (P, M)
    union = priors[:, 2:].prod(axis=1)[:, None] + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[None] - inter
    iou = inter / union
    best_object = iou.argmax(axis=1)
    matched = iou.max(axis=1) > MATCH_IOU
    best_prior = iou.argmax(axis=0)
    best_object[best_prior] = np.arange(len(boxes))
    matched[best_prior] = True
    target = boxes[best_object]
    center, size = (target[:, :2] + target[:, 2:]) / 2, np.maximum(target[:, 2:] - target[:, :2], MIN_SIZE)
    locations = np.concatenate(
        [(center - priors[:, :2]) / priors[:, 2:] / CENTER_VARIANCE, np.log(size / priors[:, 2:]) / SIZE_VARIANCE],
        axis=1,
    )
    return np.where(matched, labels[best_object] + 1, 0), locations.astype(np.float32)
