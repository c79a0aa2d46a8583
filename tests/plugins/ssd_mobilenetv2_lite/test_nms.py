from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssd_mobilenetv2_lite.nms import nms

if TYPE_CHECKING:
    from numpy.typing import NDArray


def plain_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    zero = np.float32(0)
    width = max(min(a[2], b[2]) - max(a[0], b[0]), zero)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), zero)
    inter = width * height
    areas = max(a[2] - a[0], zero) * max(a[3] - a[1], zero) + max(b[2] - b[0], zero) * max(b[3] - b[1], zero)
    iou: np.float32 = inter / (areas - inter + np.float32(1e-5))
    return iou


def plain_nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    iou_threshold: float,
    num_candidates: int,
) -> list[int]:
    """One class after the other, one kept box after the other."""
    kept = []
    for label in sorted(set(labels.tolist())):
        waiting = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: (-float(scores[i]), i))
        waiting = waiting[:num_candidates]
        while waiting:
            best, *rest = waiting
            kept.append(best)
            waiting = [i for i in rest if not plain_iou(boxes[best], boxes[i]) > np.float32(iou_threshold)]
    return kept


@st.composite
def candidates(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes on a coarse grid, so that equal boxes, equal IoUs, empty boxes and equal scores are common."""
    num_boxes = draw(st.integers(0, 30))
    corners = draw(hnp.arrays(np.int64, (num_boxes, 2), elements=st.integers(-2, 4)))
    sizes = draw(hnp.arrays(np.int64, (num_boxes, 2), elements=st.integers(0, 6)))
    scores = draw(hnp.arrays(np.int64, num_boxes, elements=st.integers(1, 8)))
    labels = draw(hnp.arrays(np.int64, num_boxes, elements=st.integers(0, 3)))
    boxes = np.concatenate([corners, corners + sizes], axis=1).astype(np.float32) / np.float32(8)
    return boxes, scores.astype(np.float32) / np.float32(8), labels


@settings(deadline=None, max_examples=300)
@given(candidates(), st.sampled_from([0.0, 1 / 3, 0.45, 0.5, 1.0]), st.integers(1, 8))
def test_nms_keeps_what_a_plain_loop_keeps_in_its_order(
    found: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]], iou_threshold: float, num_candidates: int
) -> None:
    kept = nms(*found, iou_threshold=iou_threshold, num_candidates=num_candidates)
    assert kept.tolist() == plain_nms(*found, iou_threshold, num_candidates)


@pytest.mark.parametrize("seed", range(3))
def test_nms_of_crowded_random_boxes_equals_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 0.5, (300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.2, 0.5, (300, 2))], axis=1).astype(np.float32)
    scores, labels = rng.uniform(size=300).astype(np.float32), rng.integers(0, 3, 300)
    kept = nms(boxes, scores, labels, iou_threshold=0.45, num_candidates=60)
    assert kept.tolist() == plain_nms(boxes, scores, labels, 0.45, 60)


@pytest.mark.data
def test_nms_of_the_reference_boxes_gives_the_reference_detections(
    golden: dict[str, NDArray[Any]], image_id: str
) -> None:
    scores = golden[f"{image_id}_scores"][:, 1:]
    prior, label = np.nonzero(scores > np.float32(0.01))
    kept = nms(
        golden[f"{image_id}_boxes_xyxy_normalized"][prior],
        scores[prior, label],
        label,
        iou_threshold=0.45,
        num_candidates=200,
    )
    assert np.array_equal(label[kept], golden[f"{image_id}_det_labels"])
    assert np.array_equal(scores[prior, label][kept], golden[f"{image_id}_det_scores"])


def test_a_box_that_only_a_suppressed_box_overlaps_is_kept() -> None:
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], dtype=np.float32)
    scores = np.array([0.9, 0.8, 0.7], dtype=np.float32)
    kept = nms(boxes, scores, np.zeros(3, dtype=np.int64), iou_threshold=0.4, num_candidates=200)
    assert kept.tolist() == [0, 2]  # IoU of neighbours is 6/14, of the outer two 2/18


def test_an_iou_equal_to_the_threshold_does_not_suppress() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.5]], dtype=np.float32)
    scores, labels = np.array([0.9, 0.8], dtype=np.float32), np.zeros(2, dtype=np.int64)
    equal = float(plain_iou(boxes[0], boxes[1]))
    below = float(np.nextafter(np.float32(equal), np.float32(0)))
    assert nms(boxes, scores, labels, iou_threshold=equal, num_candidates=200).tolist() == [0, 1]
    assert nms(boxes, scores, labels, iou_threshold=below, num_candidates=200).tolist() == [0]


def test_the_small_number_in_the_union_saves_tiny_boxes() -> None:
    box = [0.5, 0.5, 0.502, 0.502]  # area 4e-6: IoU with itself is 4e-6 / (4e-6 + 1e-5) = 0.29
    boxes, scores = np.array([box, box], dtype=np.float32), np.array([0.9, 0.8], dtype=np.float32)
    kept = nms(boxes, scores, np.zeros(2, dtype=np.int64), iou_threshold=0.45, num_candidates=200)
    assert kept.tolist() == [0, 1]


def test_nms_of_nothing_is_empty() -> None:
    kept = nms(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        iou_threshold=0.45,
        num_candidates=9,
    )
    assert kept.shape == (0,)
