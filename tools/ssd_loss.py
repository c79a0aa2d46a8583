"""What SSD is trained towards: priors matched to objects, and the loss of the published method.

Source of both: Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016, section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from ssd_mobilenetv2_lite.decode import CENTER_VARIANCE, SIZE_VARIANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

MATCH_IOU = 0.5
NEGATIVES_PER_POSITIVE = 3
MIN_SIZE = 1e-3  # of the image; the logarithm of a box one pixel wide, whose corners coincide, must exist


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainBatch:
    """Pictures and what the network should say of them.

    Attributes:
        images: ``(B, 3, 300, 300)`` float32, preprocessed.
        labels: ``(B, P)`` int64; 0 is background, else class index plus one.
        locations: ``(B, P, 4)`` float32, encoded; meaningless where the label is 0.
    """

    images: torch.Tensor
    labels: torch.Tensor
    locations: torch.Tensor


def match_priors(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], priors: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Say what each prior should find: the object that it overlaps by more than 0.5, or whose best prior it is.

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


def detection_loss(
    scores: torch.Tensor, locations: torch.Tensor, batch: TrainBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the classification and the localization loss, each summed and divided by the number of positives.

    Args:
        scores: ``(B, P, C)`` float32 before softmax; class 0 is background.
        locations: ``(B, P, 4)`` float32.
        batch: On the same device.

    Source:
        Liu et al., SSD, section 2.2: cross-entropy over the positives and the three times as many hardest negatives of
        an image, Smooth-L1 over the positives.
    """
    positive = batch.labels > 0
    num_positives = positive.sum().clamp(min=1)
    cross_entropy = functional.cross_entropy(scores.transpose(1, 2), batch.labels, reduction="none")
    with torch.no_grad():
        hardness = cross_entropy.masked_fill(positive, -torch.inf)
        rank = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        negative = rank < NEGATIVES_PER_POSITIVE * positive.sum(dim=1, keepdim=True)
    classification = cross_entropy[positive | negative].sum() / num_positives
    localization = (
        functional.smooth_l1_loss(locations[positive], batch.locations[positive], reduction="sum") / num_positives
    )
    return classification, localization
