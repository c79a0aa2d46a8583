from __future__ import annotations

import cv2
import numpy as np

from zoo_core.datatypes import Detections, TaskContext
from zoo_core.report.side_by_side import draw_stages, side_by_side
from zoo_core.tasks.detection import DETECTION

CONTEXT = TaskContext(class_names=("disk $x$ 種",))

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def stage(*boxes: list[float]) -> Detections:
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.full(len(boxes), 0.9, np.float32),
        labels=np.zeros(len(boxes), np.int64),
    )


def drawn(image: Pixels, **stages: Detections) -> Pixels:
    png = side_by_side(image, draw_stages(image, stages, DETECTION, CONTEXT))
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def test_each_stage_has_a_picture_of_the_same_size_beside_the_others() -> None:
    image = np.full((60, 120, 3), 90, np.uint8)

    one = drawn(image, fp32=stage())
    three = drawn(image, fp32=stage(), w8a8=stage(), w4a8=stage())

    assert one.shape == (394, 720, 3)
    assert three.shape == (394, 3 * 720 + 20, 3)


def test_a_box_is_drawn_where_it_lies_and_a_lost_one_in_the_stage_that_lost_it() -> None:
    image = np.full((100, 100, 3), 90, np.uint8)

    picture = drawn(image, fp32=stage([20, 60, 50, 90]), w8a8=stage())

    left, right = picture[34:, :720], picture[34:, 730:]
    edge = slice(int(7.2 * 70), int(7.2 * 80)), slice(int(7.2 * 20) - 2, int(7.2 * 20) + 3)
    assert np.any(left[edge] != 90, axis=-1).any()
    vermillion = np.array([0, 94, 213])  # BGR of #D55E00
    assert (np.abs(right[edge].astype(int) - vermillion).sum(axis=-1) < 40).any()
    untouched = slice(600, 680), slice(600, 700)
    assert (left[untouched] == 90).all()


def test_a_very_long_image_is_drawn_whole() -> None:
    picture = drawn(np.zeros((4000, 3, 3), np.uint8), fp32=stage())

    assert picture.shape[0] == 754
