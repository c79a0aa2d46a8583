"""The order in which detections count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.scenes import drawn_scene
from zoo_core.metrics.flat import FlatDetections, FlatObjects, overlapping_pairs
from zoo_core.metrics.gathering import ImageGatherer

scores = st.one_of(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([-0.0, 0.0, 0.5, -0.5]))
rows = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), scores, st.integers(0, 2), st.integers(0, 2)), max_size=20
)


@settings(deadline=None, derandomize=True)
@given(rows=rows)
def test_detections_are_ranked_by_label_falling_score_image_and_box(
    rows: list[tuple[int, int, float, int, int]],
) -> None:
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    ranked = FlatDetections(
        images=table[:, 0].astype(np.int32),
        labels=table[:, 1].astype(np.int32),
        scores=table[:, 2].astype(np.float32),
        boxes=np.column_stack([table[:, 3:], table[:, 3:] + 1]).astype(np.float32),
    ).ranked()

    expected = sorted(rows, key=lambda row: (row[1], -row[2], row[0], row[3], row[4]))
    assert ranked.images.tolist() == [row[0] for row in expected]
    assert ranked.labels.tolist() == [row[1] for row in expected]
    assert ranked.scores.tolist() == [row[2] for row in expected]  # 0.0 equals -0.0
    assert ranked.boxes[:, :2].tolist() == [[row[3], row[4]] for row in expected]


def test_pairs_stay_inside_an_image_and_if_asked_a_class() -> None:
    boxes = np.tile(np.array([[0, 0, 9, 9]], dtype=np.float32), (4, 1))
    images, labels = np.array([0, 0, 1, 1], dtype=np.int32), np.array([0, 1, 0, 1], dtype=np.int32)
    found = FlatDetections(images=images, labels=labels, scores=np.ones(4, dtype=np.float32), boxes=boxes)
    objects = FlatObjects(
        images=images[:3],
        labels=labels[:3],
        boxes=boxes[:3],
        difficult=np.zeros(3, dtype=bool),
        crowds=np.zeros(3, dtype=bool),
        areas=np.full(3, 81.0),
    ).grouped()

    same, any_class = overlapping_pairs(found, objects), overlapping_pairs(found, objects, same_class=False)
    assert [*zip(same.detections.tolist(), same.objects.tolist(), strict=True)] == [(0, 0), (1, 1), (2, 2)]
    assert [*zip(any_class.detections.tolist(), any_class.objects.tolist(), strict=True)] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (3, 2),
    ]  # fmt: skip


def test_pairs_are_the_same_when_looked_for_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    gatherer = ImageGatherer([str(label) for label in range(3)])
    gatherer.add(*drawn_scene(1, num_images=20, num_classes=3, crowded=True))
    images = gatherer.gathered()
    whole = overlapping_pairs(images.detections, images.objects)
    monkeypatch.setattr("zoo_core.metrics.flat._PAIRS_PER_BLOCK", 7)
    parts = overlapping_pairs(images.detections, images.objects)

    assert len(whole.detections) > 100
    assert parts.detections.tolist() == whole.detections.tolist()
    assert parts.objects.tolist() == whole.objects.tolist()
