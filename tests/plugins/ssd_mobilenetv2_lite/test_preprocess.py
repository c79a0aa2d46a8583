from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssd_mobilenetv2_lite.preprocess import preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.mark.data
def test_a_voc_image_becomes_the_reference_input(
    voc_images: dict[str, NDArray[np.uint8]], golden: dict[str, NDArray[Any]], image_id: str
) -> None:
    gray_levels = preprocess(voc_images[image_id]) * 128 + 127
    # One grey level: OpenCV releases round JPEG and bilinear weights differently; the reference is of 5.0.0.
    np.testing.assert_allclose(gray_levels.transpose(1, 2, 0), golden[f"{image_id}_resized_rgb_uint8"], rtol=0, atol=1)


def test_channels_keep_their_order_and_values_their_scale() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[...] = (255, 127, 0)
    result = preprocess(image)
    assert result.shape == (3, 300, 300)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert [np.unique(channel).tolist() for channel in result] == [[1.0], [0.0], [-127 / 128]]


def test_rows_stay_rows_and_the_image_is_not_modified() -> None:
    image = np.zeros((300, 300, 3), dtype=np.uint8)
    image[0, 5] = 255
    before = image.copy()
    result = preprocess(image)
    assert result[0, 0, 5] == 1.0
    assert result[0, 5, 0] == -127 / 128
    assert np.array_equal(image, before)


def test_preprocess_pickles_for_worker_processes() -> None:
    assert pickle.loads(pickle.dumps(preprocess)) is preprocess  # noqa: S301
