"""The training loss of SSD as published.

Source: Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016, section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

NEGATIVES_PER_POSITIVE = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainBatch:
    """Pictures and the network's training targets.

    Attributes:
        images: ``(B, 3, 300, 300)`` float32, preprocessed.
        labels: ``(B, P)`` int64; 0 is background, else class index plus one.
        locations: ``(B, P, 4)`` float32, encoded; meaningless where the label is 0.
    """

    images: torch.Tensor
    labels: torch.Tensor
    locations: torch.Tensor


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
