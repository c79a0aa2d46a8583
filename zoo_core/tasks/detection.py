"""The task ``detection``: boxes with a class and a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.comparison.detections import MATCH_IOU, MOVED_IOU, count_by_class, image_changes
from zoo_core.datatypes import (
    Detections,
    DetectionTarget,
    Drawing,
    ImageChange,
    Measure,
    Prediction,
    PredictionChecks,
    ResampledImages,
    ResampledValues,
    Target,
    Task,
    TaskContext,
)
from zoo_core.metrics.bootstrap import mean_over_classes
from zoo_core.metrics.detection import DETECTION_PROTOCOLS
from zoo_core.metrics.gathering import ImageGatherer
from zoo_core.metrics.outcomes import protocol_outcomes
from zoo_core.tasks.checking import dtype_problems, expect, score_problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IMAGES_PER_BLOCK = 256  # predictions in memory at once where they are read from files

_DTYPES: dict[str, type[np.generic]] = {"boxes": np.float32, "scores": np.float32, "labels": np.int64}


def compare(before: Prediction, after: Prediction, target: Target | None, context: TaskContext) -> ImageChange:  # noqa: ARG001 - Task.compare
    """Match boxes one to one; see ``comparison.image_changes``."""
    old, new = expect(before, Detections), expect(after, Detections)
    changes = image_changes(old, new, score_threshold=context.score_threshold)
    return ImageChange(
        counts=count_by_class(changes, old, new, len(context.class_names)),
        magnitude=changes.magnitude,
        summary=changes.summary,
    )


def draw(
    pixels: NDArray[np.uint8], prediction: Prediction, baseline: Prediction | None, context: TaskContext
) -> Drawing:
    """Draw the boxes; against a baseline, mark the lost, gained and moved ones."""
    from zoo_core.tasks.box_picture import draw_detections

    preds = expect(prediction, Detections)
    picture = draw_detections(pixels, preds, None if baseline is None else expect(baseline, Detections), context)
    num = int((preds.scores >= context.score_threshold).sum())
    return Drawing(pixels=picture, caption=f"{num} detection{'' if num == 1 else 's'}")


def resample(predictions: Mapping[str, Prediction], images: ResampledImages) -> ResampledValues:
    """Return AP and mAP for every weighting; the boxes are matched once."""
    gatherer = ImageGatherer(images.class_names)
    for first in range(0, len(images.image_ids), _IMAGES_PER_BLOCK):
        part = slice(first, first + _IMAGES_PER_BLOCK)
        image_ids = images.image_ids[part]
        gatherer.add(image_ids, [predictions[image_id] for image_id in image_ids], images.targets[part])
    outcomes = protocol_outcomes(gatherer.gathered(), len(images.class_names), images.protocol)
    # gathered() sorts the images by id; the weights have to follow.
    order = np.argsort(np.array(images.image_ids), kind="stable")
    in_order = bool((order == np.arange(len(order))).all())  # then without a copy, which is large
    classes = outcomes.average_precisions(images.weights if in_order else images.weights[order])
    return ResampledValues(classes=classes, overall=mean_over_classes(classes))


def problems(prediction: Prediction) -> Sequence[str]:
    """Return wrong types, and scores out of range or order."""
    preds = expect(prediction, Detections)
    return [*dtype_problems(preds, _DTYPES), *score_problems(preds.scores)]


def perfect(target: Target) -> Detections:
    """Return the annotated boxes as detections; equal scores would have no ranking."""
    truth = expect(target, DetectionTarget)
    return Detections(
        boxes=truth.boxes.astype(np.float32),
        scores=np.linspace(1.0, 0.5, len(truth.labels), dtype=np.float32),
        labels=truth.labels.astype(np.int64),
    )


def _measures() -> dict[str, Measure]:
    names = {"map": "mAP", "map_50": "AP50", "map_75": "AP75"}
    names |= {f"map_{area}": f"mAP {area}" for area in ("small", "medium", "large")}
    names |= {f"mar_{most}": f"AR@{most}" for most in (1, 10, 100)}
    return {
        key: Measure(overall=name, per_class="AP", counted="objects", class_mean=True) for key, name in names.items()
    }


def target_labels(target: Target) -> list[int]:
    """Return the labels of the objects that must be found."""
    truth = expect(target, DetectionTarget)
    labels: list[int] = truth.labels[~truth.difficult].tolist()
    return labels


DETECTION = Task(
    task_id="detection",
    prediction_type=Detections,
    target_type=DetectionTarget,
    measures=_measures(),
    change_kinds=("kept", "moved", "lost", "gained"),
    change_definition=(
        f"Detections from the score threshold on are matched one to one: a pair has one class and an IoU above "
        f"{MATCH_IOU:g}, and has moved when its IoU is below {MOVED_IOU:g}; one without a partner is lost or gained."
    ),
    compare=compare,
    draw=draw,
    uses_scores=True,
    resample=resample,
    resample_protocols=DETECTION_PROTOCOLS,
    target_labels=target_labels,
    checks=PredictionChecks(
        problems=problems,
        labels=lambda prediction: expect(prediction, Detections).labels,
        positions_px=lambda prediction: expect(prediction, Detections).boxes,
        perfect=perfect,
    ),
)
