"""The verdict on a run, and the paired changes behind it."""

from __future__ import annotations

import numpy as np
import pytest

from zoo_core.comparison.changes import headline_changes
from zoo_core.comparison.verdict import change_cell, verdict
from zoo_core.datatypes import Classification, ClassTarget, Prediction
from zoo_core.runs.lenient import ReadableMetrics
from zoo_core.runs.parts import ChangeRecord, ScoreRecord, StageScores
from zoo_core.tasks.classification import CLASSIFICATION

MINUS = "\N{MINUS SIGN}"


def change(points: float, low: float | None, high: float | None) -> ChangeRecord:
    half = None if low is None or high is None else (high - low) / 2
    return ChangeRecord(
        points=points, low=low, high=high, resolution_points=half, num_images=250, num_resamples=2000, seed=0
    )


def stage(
    points: float | None = 0.0,
    interval: tuple[float | None, float | None] | None = None,
    *,
    quantized: bool = True,
    same_as: str | None = None,
) -> StageScores:
    return StageScores(
        quantized=quantized,
        num_images=250,
        scores={"coco": ScoreRecord(values={"map": 0.5}, per_class={})},
        same_as=same_as,
        drop_points=None if points is None else -points,
        change=change(points, *interval) if interval is not None and points is not None else None,
        simulation=None,
    )


def said(**stages: StageScores) -> list[str]:
    metrics = ReadableMetrics(num_images=250, limited=False, stages={"fp32": stage(quantized=False), **stages})
    return [text.replace(MINUS, "-") for text in verdict(metrics)]


def test_an_interval_around_zero_is_no_measurable_loss_and_names_the_resolution() -> None:
    assert said(w8a8=stage(0.06, (-0.42, 0.23))) == [
        "w8a8 loses nothing measurable: +0.06 points, 95 % interval -0.42 to +0.23, on 250 images; a difference below "
        "about 0.3 points could not be seen here."
    ]


def test_an_interval_below_zero_is_a_loss_and_one_above_a_gain() -> None:
    assert said(w4a8=stage(-2.03, (-2.61, -1.4)), w8a8=stage(0.5, (0.1, 0.9))) == [
        "w4a8 loses 2.03 points (95 % interval -2.61 to -1.40) on 250 images.",
        "w8a8 gains 0.50 points (95 % interval +0.10 to +0.90) on 250 images.",
    ]


def test_an_interval_that_touches_zero_is_no_measurable_loss() -> None:
    assert "loses nothing measurable" in said(w8a8=stage(-0.2, (-0.4, 0.0)))[0]


def test_the_optimized_stage_recovers_what_disjoint_intervals_show() -> None:
    plain = stage(-2.03, (-2.61, -1.4))
    assert said(optimized_w4a8=stage(-0.46, (-0.81, -0.1)), w4a8=plain)[1] == (
        "optimized_w4a8 recovers 1.57 of these 2.03 points: -0.46 points, 95 % interval -0.81 to -0.10."
    )
    assert said(w4a8=plain, optimized_w4a8=stage(-0.3, (-0.81, 0.1)))[1].endswith("; what is left is not measurable.")
    assert "recovers all of these 2.03 points: +0.20" in said(w4a8=plain, optimized_w4a8=stage(0.2, (-0.1, 0.5)))[1]


def test_overlapping_intervals_show_no_recovery() -> None:
    sentence = said(w4a8=stage(-2.03, (-2.61, -1.4)), optimized_w4a8=stage(-1.2, (-1.8, -0.6)))[1]
    assert sentence == (
        "optimized_w4a8 loses 1.20 points (95 % interval -1.80 to -0.60) on 250 images. Its interval overlaps that of "
        "w4a8."
    )


def test_too_few_images_and_a_run_without_intervals_say_so() -> None:
    assert said(w8a8=stage(-1.0, (None, None))) == [
        "w8a8: -1.00 points against fp32 on 250 images, too few for an interval."
    ]
    assert said(w8a8=stage(-1.0)) == ["w8a8: -1.00 points against fp32 on 250 images; the run recorded no interval."]
    assert "one of the two values is undefined" in said(w8a8=stage(None))[0]


def test_a_limited_run_is_named_and_a_run_without_a_baseline_has_no_verdict() -> None:
    stages = {"fp32": stage(quantized=False), "w8a8": stage(-1.0, (-2.0, -0.5))}
    assert verdict(ReadableMetrics(num_images=250, limited=True, stages=stages))[0].endswith(
        "on 250 images (limited run)."
    )
    del stages["fp32"]
    assert verdict(ReadableMetrics(num_images=250, stages=stages)) == [
        "The run has no fp32 stage, so it does not show what quantization changes."
    ]
    assert verdict(ReadableMetrics()) == []


def test_of_a_run_of_every_step_the_plain_and_the_optimized_stage_are_described() -> None:
    sentences = said(
        fold_w8a8=stage(-1.0, (-2.0, -0.5)),
        w8a8=stage(-1.0, (-2.0, -0.5), same_as="fold_w8a8"),
        optimized_w8a8=stage(0.0, (0.0, 0.0)),
    )
    assert sentences == [
        "optimized_w8a8 loses nothing: the value of fp32 on 250 images, and in each of 2000 resamples."
    ]


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        (stage(-2.03, (-2.61, -1.4)), "-2.03 (-2.61 to -1.40)"),
        (stage(-1.0, (None, None)), "-1.00 (too few images)"),
        (stage(-1.0), "-1.00"),
        (stage(None), "\N{EN DASH}"),
    ],
)
def test_the_cell_shows_the_change_with_its_interval(scores: StageScores, text: str) -> None:
    assert change_cell(scores).replace(MINUS, "-") == text


# --------------------------------------------------------------------------- the changes


NAMES = ("cat", "dog")
IDS = tuple(f"{index:03}" for index in range(100))
TARGETS = [ClassTarget(label=index % 2) for index in range(100)]


def answers(num_wrong: int) -> dict[str, Prediction]:
    labels = [(target.label + (index < num_wrong)) % 2 for index, target in enumerate(TARGETS)]
    return {
        image_id: Classification(labels=np.array([label, 1 - label]), scores=np.array([0.9, 0.1]))
        for image_id, label in zip(IDS, labels, strict=True)
    }


def changes(
    num_wrong: int, *, protocol: str = "topk/first", ids: tuple[str, ...] = IDS, seed: int = 0
) -> dict[str, ChangeRecord]:
    stages = [("w8a8", answers(num_wrong))]
    return headline_changes(CLASSIFICATION, NAMES, ids, TARGETS[: len(ids)], answers(0), stages, protocol, seed=seed)


def test_the_change_is_after_minus_before_with_the_interval_of_resampled_images() -> None:
    found = changes(10)["w8a8"]

    assert found.points == pytest.approx(-10.0)
    # Each image is wrong with probability 0.1: the standard error of the share is 3 points.
    assert found.low == pytest.approx(-10.0 - 1.96 * 3.0, abs=1.1)
    assert found.high == pytest.approx(-10.0 + 1.96 * 3.0, abs=1.1)
    assert found.low is not None
    assert found.high is not None
    assert found.resolution_points == pytest.approx((found.high - found.low) / 2)
    assert (found.num_images, found.num_resamples, found.seed) == (100, 2000, 0)


def test_equal_predictions_have_an_interval_of_width_zero() -> None:
    found = changes(0)["w8a8"]

    assert (found.points, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    assert changes(10, seed=3) == changes(10, seed=3) != changes(10, seed=4)


def test_without_images_or_under_a_protocol_of_another_kind_there_is_no_change() -> None:
    assert changes(10, ids=()) == {}
    assert changes(10, protocol="miou") == {}
