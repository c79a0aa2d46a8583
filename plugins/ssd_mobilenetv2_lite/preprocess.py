"""Converts an image to the network's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from ssd_mobilenetv2_lite.priors import IMAGE_SIZE_PX

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEAN = 127.0
STD = 128.0


def preprocess(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Resize to 300 x 300 without keeping the aspect ratio, then subtract 127 and divide by 128.

    Args:
        image: ``(H, W, 3)``, RGB.

    Returns:
        ``(3, 300, 300)``, values in ``[-0.992, 1]``.

    Source:
        pytorch-ssd, ``vision/ssd/data_preprocessing.py``. The bilinear resize works on uint8, as published: resizing
        in float would differ by up to half a grey level.
    """
    resized = cv2.resize(image, (IMAGE_SIZE_PX, IMAGE_SIZE_PX), interpolation=cv2.INTER_LINEAR)
    channels_first = np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32)
    channels_first -= MEAN
    channels_first /= STD
    return channels_first
