"""Resampled AP equals the AP of a resample written out; intervals cover, corrections are Holm's."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from metrics.scenes import Scene, drawn_scene
from zoo_core.datatypes import Detections
from zoo_core.metrics.average_precision import RECALL_POINTS_11
from zoo_core.metrics.bootstrap import (
    MIN_IMAGES,
    ClassOutcomes,
    holm,
    mean_over_classes,
    percentile_interval,
    resample_weights,
    two_sided_p_value,
    weighted_average_precision,
)
from zoo_core.metrics.detection import DETECTION_PROTOCOLS, DetectionMetric
from zoo_core.metrics.gathering import ImageGatherer
from zoo_core.metrics.outcomes import protocol_outcomes

CLASSES = ("a", "b", "c")

NUM_INTERVALS = int(os.environ.get("ZOO_EVAL_INTERVALS", "200"))
"""Intervals drawn for each rule when their coverage is measured."""


def outcomes(images: list[int], found: list[bool], num_objects: list[int]) -> ClassOutcomes:
    return ClassOutcomes(
        images=np.array(images, np.int32),
        outcome=np.array(found, np.int8).reshape(1, -1),  # FOUND is 1, FALSE is 0
        num_objects=np.array(num_objects, np.int64),
    )


def weights(*columns: list[int]) -> NDArray[np.int32]:
    table: NDArray[np.int32] = np.array(columns, dtype=np.int32).T
    return table


def without_ties(scene: Scene, seed: int) -> Scene:
    """The same scene with a score of its own for each detection: the order of copies is then the only one."""
    ids, preds, targets = scene
    ranks = np.random.default_rng(seed).permutation(sum(len(pred.scores) for pred in preds))
    parts = np.split(ranks, np.cumsum([len(pred.scores) for pred in preds])[:-1])
    again = [
        Detections(boxes=pred.boxes, labels=pred.labels, scores=(part / len(ranks)).astype(np.float32))
        for pred, part in zip(preds, parts, strict=True)
    ]
    return ids, again, targets


def written_out(scene: Scene, drawn: NDArray[np.uint8]) -> DetectionMetric:
    """Score a resample literally: an image drawn twice is there twice, under two ids."""
    metric = DetectionMetric(CLASSES)
    for image_id, pred, target, count in zip(*scene, drawn.tolist(), strict=True):
        for copy in range(count):
            metric.update([f"{image_id}-{copy}"], [pred], [target])
    return metric


def test_two_images_worked_out_by_hand() -> None:
    # Ranked: a find in image 0, a false one in image 1, a find in image 1; two objects in each image.
    found = outcomes([0, 1, 1], [True, False, True], [2, 2])

    area = weighted_average_precision(found, weights([1, 1], [2, 0], [0, 2], [1, 3]), None)

    # 1/4 x 1 + 1/4 x 2/3; 2 of 4 at precision 1; 2 of 4 at 2/4; 1/8 x 1 + 3/8 x 4/7
    assert area == pytest.approx([1 / 4 + 1 / 6, 1 / 2, 1 / 4, 1 / 8 + 3 / 14])


@pytest.mark.parametrize("protocol", DETECTION_PROTOCOLS)
def test_the_ap_of_a_resample_is_that_of_the_resample_written_out(protocol: str) -> None:
    scene = without_ties(drawn_scene(3, num_images=30, num_classes=len(CLASSES)), seed=4)
    gatherer = ImageGatherer(CLASSES)
    gatherer.add(*scene)
    drawn = np.hstack([np.ones((30, 1), np.int32), resample_weights(30, 12, seed=5)])

    found = protocol_outcomes(gatherer.gathered(), len(CLASSES), protocol).average_precisions(drawn)

    for column in range(drawn.shape[1]):
        expected = written_out(scene, drawn[:, column]).compute([protocol])[protocol]
        per_class = [np.nan if value is None else value for value in expected.per_class.values()]
        assert found[:, column] == pytest.approx(per_class, nan_ok=True, abs=1e-12)
        assert mean_over_classes(found)[column] == pytest.approx(expected.headline, abs=1e-12)


def test_many_detections_in_many_blocks_give_the_same_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gatherer = ImageGatherer(CLASSES)
    gatherer.add(*drawn_scene(6, num_images=40, num_classes=len(CLASSES)))
    found, drawn = protocol_outcomes(gatherer.gathered(), len(CLASSES), "voc07_11pt/devkit"), resample_weights(40, 9, 1)
    at_once = found.average_precisions(drawn)

    monkeypatch.setattr("zoo_core.metrics.bootstrap._WEIGHTS_PER_BLOCK", 1)

    assert np.array_equal(found.average_precisions(drawn), at_once)


def test_a_recall_on_one_of_the_eleven_points_is_decided_as_the_plain_average_does() -> None:
    # 3 of 10 found: 0.3 is below the fourth point, 0.30000000000000004. Drawn twice it is the same share.
    found = outcomes([0, 0, 0], [True] * 3, [10])

    assert weighted_average_precision(found, weights([1], [2]), RECALL_POINTS_11).tolist() == [3 / 11, 3 / 11]


def test_a_class_whose_objects_were_not_drawn_is_undefined_and_left_out_of_the_mean() -> None:
    found = outcomes([0, 1], [True, False], [1, 0])

    for points in (None, RECALL_POINTS_11):
        values = weighted_average_precision(found, weights([1, 1], [0, 2]), points)
        assert values[0] == 1.0
        assert np.isnan(values[1])
    assert mean_over_classes(np.array([[1.0, np.nan, np.nan], [0.5, 0.5, np.nan]])) == pytest.approx(
        [0.75, 0.5, np.nan], nan_ok=True
    )


def test_a_class_without_finds_is_0_and_one_without_objects_undefined() -> None:
    nothing = outcomes([], [], [1, 1])
    false = outcomes([0], [False], [1, 1])
    none = outcomes([0], [False], [0, 0])

    assert weighted_average_precision(nothing, weights([1, 1]), None).tolist() == [0.0]
    assert weighted_average_precision(false, weights([1, 1]), None).tolist() == [0.0]
    assert np.isnan(weighted_average_precision(none, weights([1, 1]), None)).all()


def test_each_resample_draws_as_many_images_as_there_are_and_a_seed_repeats_it() -> None:
    drawn = resample_weights(50, 200, seed=7)

    assert (drawn.sum(axis=0) == 50).all()
    assert drawn.mean(axis=1) == pytest.approx(np.ones(50), abs=0.35)
    assert np.array_equal(drawn, resample_weights(50, 200, seed=7))
    assert not np.array_equal(drawn, resample_weights(50, 200, seed=8))


def population(rng: np.random.Generator, num_images: int) -> tuple[list[ClassOutcomes], list[ClassOutcomes]]:
    """Two models on the same images, three classes: the second finds a little less and has more false detections."""
    models: tuple[list[ClassOutcomes], list[ClassOutcomes]] = ([], [])
    for _ in CLASSES:
        num_objects = rng.integers(0, 4, num_images)
        owner = np.repeat(np.arange(num_images), num_objects)
        difficulty = rng.random(len(owner))
        for model, (share, num_false) in zip(models, ((0.85, 1), (0.78, 2)), strict=True):
            hit = difficulty + rng.normal(0, 0.05, len(owner)) < share
            false = rng.integers(0, num_images, num_false * num_images // 2)
            images = np.concatenate([owner[hit], false]).astype(np.int32)
            scores = np.concatenate([rng.beta(5, 2, int(hit.sum())), rng.beta(2, 4, len(false))])
            order = np.argsort(-scores)
            found = np.concatenate([np.ones(int(hit.sum()), bool), np.zeros(len(false), bool)])
            outcome = found[order].astype(np.int8)[None]  # FOUND is 1, FALSE is 0
            model.append(ClassOutcomes(images=images[order], outcome=outcome, num_objects=num_objects))
    return models


def part_of(found: ClassOutcomes, chosen: NDArray[np.int64]) -> ClassOutcomes:
    place = np.full(len(found.num_objects), -1)
    place[chosen] = np.arange(len(chosen))
    kept = place[found.images] >= 0
    return ClassOutcomes(
        images=place[found.images][kept].astype(np.int32),
        outcome=found.outcome[:, kept],
        num_objects=found.num_objects[chosen],
    )


def differences(
    models: tuple[list[ClassOutcomes], list[ClassOutcomes]],
    drawn: NDArray[np.uint8],
    recall_points: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    before, after = (
        mean_over_classes(np.stack([weighted_average_precision(found, drawn, recall_points) for found in model]))
        for model in models
    )
    return after - before


@pytest.mark.slow
@pytest.mark.parametrize("recall_points", [RECALL_POINTS_11, None], ids=["11 points, the default protocol's", "area"])
def test_the_interval_covers_the_true_difference_about_as_often_as_it_says(
    recall_points: NDArray[np.float64] | None,
) -> None:
    rng = np.random.default_rng(11)
    everything = population(rng, 6_000)
    truth = differences(everything, np.ones((6_000, 1), np.int32), recall_points)[0]
    covered = 0
    for trial in range(NUM_INTERVALS):
        chosen = rng.choice(6_000, 150, replace=False)
        sample = tuple([part_of(found, chosen) for found in model] for model in everything)
        values = differences((sample[0], sample[1]), resample_weights(150, 300, seed=trial), recall_points)
        interval = percentile_interval(values, 150)
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]

    sys.stdout.write(f"{covered} of {NUM_INTERVALS} intervals covered the true difference\n")
    assert 0.90 <= covered / NUM_INTERVALS <= 0.99  # 0.95 give or take three standard errors of 200 trials


def test_a_p_value_counts_the_resamples_on_the_other_side() -> None:
    assert two_sided_p_value(np.array([0.1] * 97 + [-0.1] * 2), 20) == pytest.approx(2 * 3 / 100)
    assert two_sided_p_value(np.array([-0.1] * 99), 20) == pytest.approx(2 / 100)
    assert two_sided_p_value(np.zeros(99), 20) == 1.0
    assert two_sided_p_value(np.array([np.nan, np.nan]), 20) is None
    assert percentile_interval(np.array([np.nan]), 20) is None


def test_holms_correction_of_a_published_example() -> None:
    # As R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm").
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("num_images", [1, 2, 3, 5, MIN_IMAGES - 1])
def test_few_images_give_no_interval_and_no_p_value(num_images: int) -> None:
    values = np.full(2000, -0.3)

    assert percentile_interval(values, num_images) is None
    assert two_sided_p_value(values, num_images) is None
    assert percentile_interval(values, MIN_IMAGES) == (-0.3, -0.3)
