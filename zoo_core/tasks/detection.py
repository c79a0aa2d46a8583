"""The task ``detection``: boxes with a class and a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.comparison import MATCH_IOU, MOVED_IOU, image_changes
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
from zoo_core.errors import PluginError
from zoo_core.metrics.bootstrap import mean_over_classes
from zoo_core.metrics.detection import DETECTION_PROTOCOLS
from zoo_core.metrics.gathering import ImageGatherer
from zoo_core.metrics.outcomes import protocol_outcomes
from zoo_core.tasks.problems import dtype_problems, score_problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES = {"boxes": np.float32, "scores": np.float32, "labels": np.int64}


def detections(prediction: Prediction) -> Detections:
    """Return the prediction as ``Detections``.

    Raises:
        PluginError: It has another type.
    """
    if isinstance(prediction, Detections):
        return prediction
    raise PluginError(
        f"The task detection takes Detections, got {type(prediction).__name__}.",
        fix="return Detections from decode, or name another task in the registry entry.",
    )


def detection_target(target: Target) -> DetectionTarget:
    """Return the target as ``DetectionTarget``.

    Raises:
        PluginError: It has another type.
    """
    if isinstance(target, DetectionTarget):
        return target
    raise PluginError(
        f"The task detection takes DetectionTarget, got {type(target).__name__}.",
        fix="return DetectionTarget from the dataset, or name another task in the registry entry.",
    )


def compare(before: Prediction, after: Prediction, target: Target | None, context: TaskContext) -> ImageChange:  # noqa: ARG001 - ComparePredictions
    """Match boxes one to one; see ``comparison.image_changes``."""
    old, new = detections(before), detections(after)
    changes = image_changes(old, new, score_threshold=context.score_threshold)
    labels = {
        "kept": old.labels[changes.kept[:, 0]],
        "moved": old.labels[changes.moved[:, 0]],
        "lost": old.labels[changes.lost],
        "gained": new.labels[changes.gained],
    }
    num_classes = len(context.class_names)
    return ImageChange(
        counts={
            kind: np.bincount(found[(found >= 0) & (found < num_classes)], minlength=num_classes)
            for kind, found in labels.items()
        },
        magnitude=changes.magnitude,
        summary=changes.summary,
    )


def draw(
    pixels: NDArray[np.uint8], prediction: Prediction, baseline: Prediction | None, context: TaskContext
) -> Drawing:
    """Draw the boxes; against a baseline, mark the lost, gained and moved ones."""
    from zoo_core.tasks.box_picture import draw_detections

    preds = detections(prediction)
    picture = draw_detections(pixels, preds, None if baseline is None else detections(baseline), context)
    num = int((preds.scores >= context.score_threshold).sum())
    return Drawing(pixels=picture, caption=f"{num} detection{'' if num == 1 else 's'}")


def draw_target(pixels: NDArray[np.uint8], target: Target, context: TaskContext) -> Drawing:
    """Draw the annotated boxes."""
    from zoo_core.tasks.box_picture import draw_objects

    truth = detection_target(target)
    num = len(truth.labels)
    return Drawing(
        pixels=draw_objects(pixels, truth, context.class_names), caption=f"{num} object{'' if num == 1 else 's'}"
    )


def resample(predictions: Mapping[str, Prediction], images: ResampledImages) -> ResampledValues:
    """Return AP and mAP for every weighting; the boxes are matched once."""
    gatherer = ImageGatherer(images.class_names)
    gatherer.add(images.image_ids, [predictions[image_id] for image_id in images.image_ids], images.targets)
    outcomes = protocol_outcomes(gatherer.gathered(), len(images.class_names), images.protocol)
    # gathered() sorts the images by id; the weights have to follow.
    order = np.argsort(np.array(images.image_ids), kind="stable")
    classes = outcomes.average_precisions(images.weights[order])
    return ResampledValues(classes=classes, overall=mean_over_classes(classes))


def problems(prediction: Prediction) -> Sequence[str]:
    """Return wrong types, and scores out of range or order."""
    preds = detections(prediction)
    return [*dtype_problems(preds, _DTYPES), *score_problems(preds.scores)]


def perfect(target: Target) -> Detections:
    """Return the annotated boxes as detections; equal scores would have no ranking."""
    truth = detection_target(target)
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
    draw_target=draw_target,
    uses_scores=True,
    resample=resample,
    resample_protocols=DETECTION_PROTOCOLS,
    checks=PredictionChecks(
        problems=problems,
        labels=lambda prediction: detections(prediction).labels,
        positions_px=lambda prediction: detections(prediction).boxes,
        perfect=perfect,
    ),
)
