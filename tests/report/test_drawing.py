from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from zoo_core.comparison.detections import image_changes
from zoo_core.datatypes import Detections, DetectionTarget, ImageSize
from zoo_core.tasks.drawing import detection_boxes, object_boxes

SIZE = ImageSize(width_px=400, height_px=300)
NAMES = ("disk", "a class with a name that goes on and on")


def stage(boxes: Sequence[Sequence[float]], labels: list[int], scores: list[float]) -> Detections:
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
    )


def test_boxes_are_scaled_and_clipped_to_the_drawing() -> None:
    (box,) = detection_boxes(stage([[-50, 100, 200, 900]], [0], [0.9]), NAMES, SIZE, 0.5, 12)

    assert box.rect == (0, 50, 100, 100)
    assert box.text == "disk 0.90"
    assert box.kind == "kept"


def test_labels_stay_inside_and_cover_no_other_label_while_there_is_room() -> None:
    boxes = [[10 + 3 * index, 20 + 4 * index, 200, 250] for index in range(6)]
    drawn = detection_boxes(stage(boxes, [0] * 6, [0.9] * 6), NAMES, SIZE, 1.0, 12)

    labels = [box.label for box in drawn]
    assert len(labels) == 6
    assert not any(a.overlaps(b) for a, b in itertools.combinations(labels, 2))
    assert all(x >= 0 and x + width <= 400 and y >= 0 and y + height <= 300 for x, y, width, height in labels)


def test_a_long_name_is_cut_in_the_middle_so_that_the_score_stays() -> None:
    (box,) = detection_boxes(stage([[0, 50, 100, 100]], [1], [0.75]), NAMES, SIZE, 1.0, 12)

    assert box.text.endswith("0.75")
    assert "\N{HORIZONTAL ELLIPSIS}" in box.text
    assert len(box.text) <= 24
    assert NAMES[1] in box.title


def test_what_changed_is_marked_by_sign_and_kind_on_either_side() -> None:
    before = stage([[0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 100, 300]], [0, 0, 0], [0.9, 0.8, 0.7])
    after = stage([[0, 0, 100, 100], [220, 0, 320, 100], [0, 200, 100, 300]], [0, 0, 0], [0.9, 0.8, 0.3])
    changes = image_changes(before, after)

    left = detection_boxes(before, NAMES, SIZE, 1.0, 12, changes=changes, side="before")
    right = detection_boxes(after, NAMES, SIZE, 1.0, 12, changes=changes, side="after")

    assert sorted(box.kind for box in left) == ["kept", "lost", "moved"]
    assert sorted(box.kind for box in right) == ["kept", "moved"]  # below the threshold nothing is drawn
    (lost,) = (box for box in left if box.kind == "lost")
    assert lost.text == "\N{MINUS SIGN} disk 0.70"
    assert lost.title == "lost: disk 0.700; afterwards 0.300"


def test_a_gained_detection_says_that_nothing_was_there() -> None:
    after = stage([[0, 0, 100, 100]], [0], [0.9])
    changes = image_changes(stage([], [], []), after)

    (box,) = detection_boxes(after, NAMES, SIZE, 1.0, 12, changes=changes, side="after")

    assert box.title == "gained: disk 0.900; before nothing of this class there"


def test_boxes_that_are_not_finite_are_not_drawn() -> None:
    assert detection_boxes(stage([[np.nan, 0, 1, 1]], [0], [0.9]), NAMES, SIZE, 1.0, 12) == []


def test_a_label_without_a_class_is_drawn_as_a_number() -> None:
    (box,) = detection_boxes(stage([[0, 0, 9, 9]], [7], [0.9]), NAMES, SIZE, 1.0, 12)

    assert box.text == "class 7 0.90"


def test_difficult_objects_are_told_apart() -> None:
    target = DetectionTarget(
        boxes=np.array([[0, 0, 9, 9], [50, 50, 99, 99]], np.float32),
        labels=np.array([0, 0], np.int64),
        difficult=np.array([False, True]),
    )

    drawn = object_boxes(target, NAMES, SIZE, 1.0, 12)

    assert [box.kind for box in drawn] == ["object", "difficult"]
    assert drawn[1].title == "object: disk (difficult)"
