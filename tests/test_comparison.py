from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.comparison.detections import count_by_class, image_changes, most_changed, objects_found
from zoo_core.datatypes import Detections, DetectionTarget


def seen(*rows: tuple[float, int, tuple[float, float, float, float]]) -> Detections:
    return Detections(
        boxes=np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        scores=np.array([score for score, _, _ in rows], np.float32),
        labels=np.array([label for _, label, _ in rows], np.int64),
    )


LEFT = (0.0, 0.0, 10.0, 10.0)
SHIFTED = (2.0, 0.0, 12.0, 10.0)  # IoU with LEFT: 80 / 120
NUDGED = (0.5, 0.0, 10.5, 10.0)  # IoU with LEFT: 95 / 105
RIGHT = (50.0, 0.0, 60.0, 10.0)


def test_the_same_detections_are_kept_and_nothing_has_changed() -> None:
    stage = seen((0.9, 1, LEFT), (0.8, 0, RIGHT))

    changes = image_changes(stage, stage)

    assert changes.kept.tolist() == [[0, 0], [1, 1]]
    assert not changes.any
    assert changes.magnitude == 0.0


def test_a_detection_that_overlaps_itself_less_than_nine_tenths_has_moved() -> None:
    before = seen((0.9, 1, LEFT))

    assert image_changes(before, seen((0.9, 1, NUDGED))).kept.tolist() == [[0, 0]]
    moved = image_changes(before, seen((0.9, 1, SHIFTED)))
    assert moved.moved.tolist() == [[0, 0]]
    assert moved.magnitude == pytest.approx(1 / 3)


def test_a_detection_elsewhere_is_lost_here_and_gained_there() -> None:
    changes = image_changes(seen((0.9, 1, LEFT)), seen((0.75, 1, RIGHT)))

    assert changes.lost.tolist() == [0]
    assert changes.gained.tolist() == [0]
    assert changes.magnitude == pytest.approx(0.9 + 0.75)


def test_another_class_at_the_same_place_is_a_loss_and_a_gain() -> None:
    changes = image_changes(seen((0.9, 1, LEFT)), seen((0.9, 2, LEFT)))

    assert (changes.lost.tolist(), changes.gained.tolist()) == ([0], [0])
    assert changes.faded.tolist() == [0.0]


def test_a_detection_below_the_threshold_is_lost_and_says_what_is_left() -> None:
    changes = image_changes(seen((0.51, 1, LEFT)), seen((0.49, 1, NUDGED), (0.3, 1, LEFT), (0.4, 0, LEFT)))

    assert changes.lost.tolist() == [0]
    assert changes.faded.tolist() == [pytest.approx(0.49)]
    assert changes.magnitude == pytest.approx(0.02, abs=1e-6)


def test_a_score_equal_to_the_threshold_is_seen() -> None:
    assert image_changes(seen((0.5, 1, LEFT)), seen()).lost.tolist() == [0]
    assert image_changes(seen((0.4999, 1, LEFT)), seen()).lost.tolist() == []


def test_an_iou_equal_to_the_threshold_is_no_match() -> None:
    half = (0.0, 0.0, 10.0, 5.0)  # IoU with LEFT: exactly a half
    changes = image_changes(seen((0.9, 1, LEFT)), seen((0.9, 1, half)))

    assert changes.lost.tolist() == [0]


def test_the_best_overlap_is_matched_first_and_each_detection_once() -> None:
    changes = image_changes(seen((0.9, 1, SHIFTED), (0.8, 1, LEFT)), seen((0.9, 1, NUDGED), (0.7, 1, LEFT)))

    # LEFT meets LEFT at IoU 1, which leaves SHIFTED with NUDGED.
    assert sorted(changes.kept.tolist() + changes.moved.tolist()) == [[0, 0], [1, 1]]


def test_boxes_that_are_not_finite_match_nothing() -> None:
    broken = seen((0.9, 1, (np.nan, 0.0, np.inf, 10.0)))

    changes = image_changes(broken, broken)

    assert (changes.lost.tolist(), changes.gained.tolist()) == ([0], [0])


def test_empty_stages_have_no_changes() -> None:
    changes = image_changes(seen(), seen())

    assert not changes.any
    assert changes.kept.shape == (0, 2)


@st.composite
def random_stages(draw: st.DrawFn) -> tuple[Detections, Detections]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def stage() -> Detections:
        num = draw(st.integers(0, 8))
        corner = rng.uniform(0, 20, (num, 2))
        return Detections(
            boxes=np.concatenate([corner, corner + rng.uniform(5, 15, (num, 2))], axis=1).astype(np.float32),
            scores=rng.uniform(0, 1, num).astype(np.float32),
            labels=rng.integers(0, 2, num),
        )

    return stage(), stage()


@given(random_stages())
def test_exchanging_the_stages_exchanges_lost_and_gained(stages: tuple[Detections, Detections]) -> None:
    before, after = stages
    there, back = image_changes(before, after), image_changes(after, before)

    assert there.lost.tolist() == back.gained.tolist()
    assert there.gained.tolist() == back.lost.tolist()
    assert sorted(there.moved[:, ::-1].tolist()) == sorted(back.moved.tolist())
    assert there.magnitude == pytest.approx(back.magnitude)


@given(random_stages())
def test_every_seen_detection_has_one_fate(stages: tuple[Detections, Detections]) -> None:
    before, after = stages
    changes = image_changes(before, after)

    fates = [*changes.kept[:, 0].tolist(), *changes.moved[:, 0].tolist(), *changes.lost.tolist()]
    assert sorted(fates) == np.flatnonzero(before.scores >= 0.5).tolist()


def test_changes_are_counted_at_their_class_and_unknown_labels_at_none() -> None:
    before = seen((0.9, 1, LEFT), (0.9, 1, RIGHT), (0.9, 0, RIGHT))
    after = seen((0.9, 1, SHIFTED), (0.9, 0, RIGHT), (0.6, 0, LEFT), (0.6, 7, RIGHT))

    counts = count_by_class(image_changes(before, after), before, after, 2)

    assert {kind: found.tolist() for kind, found in counts.items()} == {
        "kept": [1, 0],
        "moved": [0, 1],
        "lost": [0, 1],
        "gained": [1, 0],
    }


def test_the_most_changed_images_come_first_and_unchanged_ones_never() -> None:
    before = {name: seen((0.9, 0, LEFT)) for name in ("same", "moved", "lost_b", "lost_a")}
    after = {"same": seen((0.9, 0, LEFT)), "moved": seen((0.9, 0, SHIFTED)), "lost_b": seen(), "lost_a": seen()}

    changes = {name: image_changes(before[name], after[name]) for name in before}

    assert most_changed(changes, 10) == ["lost_a", "lost_b", "moved"]
    assert most_changed(changes, 1) == ["lost_a"]


def test_a_detection_is_right_on_an_object_of_its_class_that_is_not_difficult() -> None:
    target = DetectionTarget(
        boxes=np.array([LEFT, RIGHT], np.float32),
        labels=np.array([1, 1], np.int64),
        difficult=np.array([False, True]),
    )
    preds = seen((0.9, 1, NUDGED), (0.9, 0, LEFT), (0.9, 1, RIGHT))

    assert objects_found(preds, np.array([0, 1, 2]), target).tolist() == [True, False, False]
    assert objects_found(preds, np.array([], np.int64), target).shape == (0,)
