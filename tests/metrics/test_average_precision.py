"""Average precision worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from zoo_core.metrics.detection import average_precision_11pt, average_precision_area


def test_three_detections_on_two_objects_by_hand() -> None:
    # Found, false, found: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 1 / 2, 2 / 3])

    # Recall 0 ... 0.5 are reached with precision 1 (six points), 0.6 ... 1 with 2/3 (five).
    assert average_precision_11pt(recall, precision) == pytest.approx((6 + 5 * 2 / 3) / 11, abs=1e-15)
    assert average_precision_area(recall, precision) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3, abs=1e-15)


def test_precision_that_rises_later_is_taken_at_the_earlier_recall() -> None:
    recall, precision = np.array([0.0, 0.25, 0.5, 0.75]), np.array([0.0, 1 / 2, 2 / 3, 3 / 4])

    # The envelope is 3/4 up to recall 0.75: eight of eleven points.
    assert average_precision_11pt(recall, precision) == pytest.approx(8 * 0.75 / 11, abs=1e-15)
    assert average_precision_area(recall, precision) == pytest.approx(0.75 * 0.75, abs=1e-15)


def test_a_recall_of_three_tenths_does_not_reach_numpys_fourth_point() -> None:
    recall = np.array([1, 2, 3]) / 10

    # 0, 0.1 and 0.2 are reached; 3/10 is less than arange's 0.30000000000000004.
    assert average_precision_11pt(recall, np.ones(3)) == pytest.approx(3 / 11, abs=1e-15)


def test_no_detection_gives_zero() -> None:
    nothing = np.zeros(0)

    assert average_precision_11pt(nothing, nothing) == 0.0
    assert average_precision_area(nothing, nothing) == 0.0


def test_only_false_detections_give_zero() -> None:
    assert average_precision_11pt(np.zeros(3), np.zeros(3)) == 0.0
    assert average_precision_area(np.zeros(3), np.zeros(3)) == 0.0
