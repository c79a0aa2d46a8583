"""Decodes the network's raw outputs to detections, on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ssd_mobilenetv2_lite.nms import nms
from ssd_mobilenetv2_lite.priors import make_priors
from zoo_core.datatypes import Detections, ImageSize
from zoo_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CENTER_VARIANCE = 0.1
SIZE_VARIANCE = 0.2
SCORE_THRESHOLD = 0.01
"""A detection's score must be greater."""
IOU_THRESHOLD = 0.45
"""A box is suppressed by a better one of its class when their IoU is greater."""
CANDIDATES_PER_CLASS = 200


def decode(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Detections]:
    """Turn the outputs for a batch into detections, as pytorch-ssd's predictor does.

    Per class: score > 0.01, the 200 best, NMS at IoU 0.45 in normalized coordinates; no cap over all classes, and
    boxes are not clipped to the image.

    Args:
        outputs: Raw class scores ``(B, 3000, C)`` with background first, and locations ``(B, 3000, 4)``; on the CPU.
        sizes: The B original images' sizes.

    Returns:
        One ``Detections`` per image, by descending score; equal scores by class, then in NMS order.

    Raises:
        PluginError: The network returned values that are not finite.
    """
    raw_scores, locations = outputs
    # One image at a time: its 250 KB of probabilities stay in the cache, which those of a batch do not.
    return [
        _decode_image(torch.softmax(s.float(), dim=1).numpy(), decode_boxes(b.float()).numpy(), size)
        for s, b, size in zip(raw_scores, locations, sizes, strict=True)
    ]


def decode_boxes(locations: torch.Tensor) -> torch.Tensor:
    """Turn locations ``(..., 3000, 4)`` into boxes of that shape, ``xyxy`` normalized.

    Source:
        Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016, equation 2, solved for the box; divided by variances
        as in the authors' code.
    """
    priors = make_priors()
    centers = locations[..., :2] * CENTER_VARIANCE * priors[:, 2:] + priors[:, :2]
    half_sizes = torch.exp(locations[..., 2:] * SIZE_VARIANCE) * priors[:, 2:] / 2
    return torch.cat([centers - half_sizes, centers + half_sizes], dim=-1)


def _decode_image(probabilities: NDArray[np.float32], boxes: NDArray[np.float32], size: ImageSize) -> Detections:
    good = probabilities > np.float32(SCORE_THRESHOLD)
    good[:, 0] = False
    prior, class_index = np.divmod(np.flatnonzero(good), probabilities.shape[1])
    scores = probabilities[prior, class_index]
    candidates = boxes[prior]
    # A probability that is NaN is never above the threshold: softmax makes a whole prior NaN, background included.
    if np.isnan(probabilities[:, 0]).any() or np.isnan(candidates).any():
        raise PluginError(
            "The network's outputs are not finite numbers (NaN or infinity).",
            fix="check the checkpoint, and the calibrated ranges if the network is quantized.",
        )
    if not np.isfinite(candidates).all():
        # exp() overflowed on a finite location. The core counts such an image as wrong; NMS has no IoU for infinity.
        return Detections(boxes=candidates, scores=scores, labels=class_index - 1)
    chosen = nms(candidates, scores, class_index, iou_threshold=IOU_THRESHOLD, num_candidates=CANDIDATES_PER_CLASS)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    scale = np.array([size.width_px, size.height_px, size.width_px, size.height_px], dtype=np.float32)
    return Detections(boxes=candidates[chosen] * scale, scores=scores[chosen], labels=class_index[chosen] - 1)
