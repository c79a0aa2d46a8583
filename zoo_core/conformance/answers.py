"""The best and the emptiest prediction for a target, by kind of task."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from zoo_core.conformance.outcomes import NotCheckedError
from zoo_core.datatypes import Detections, DetectionTarget, Prediction, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.conformance.subject import Subject

P = TypeVar("P", bound=Prediction)


def perfect_prediction(subject: Subject, target: Target) -> Prediction:
    """What a network that is right says of an image."""
    if subject.kit.perfect is not None:
        return subject.kit.perfect(target)
    if isinstance(target, DetectionTarget):
        return Detections(
            boxes=target.boxes.astype(np.float32),
            scores=np.linspace(1.0, 0.5, len(target.labels), dtype=np.float32),  # equal ones would have no ranking
            labels=target.labels.astype(np.int64),
        )
    raise NotCheckedError(f"the kit of zoo_conformance has no perfect prediction for a {type(target).__name__}")


def empty_prediction(prediction: Prediction) -> Prediction:
    """A prediction of that kind that found nothing."""
    if not isinstance(prediction, Detections):
        raise NotCheckedError(f"a {type(prediction).__name__} always answers")
    return dataclasses.replace(
        prediction, boxes=prediction.boxes[:0], scores=prediction.scores[:0], labels=prediction.labels[:0]
    )


def empty_target(target: Target) -> Target:
    """What is true of an image without objects."""
    if not isinstance(target, DetectionTarget):
        raise NotCheckedError(f"a {type(target).__name__} cannot be empty")
    return dataclasses.replace(target, boxes=target.boxes[:0], labels=target.labels[:0], difficult=target.difficult[:0])


def as_detections(predictions: Sequence[Prediction]) -> list[Detections]:
    """The predictions, for a check that only detection knows."""
    if not all(isinstance(prediction, Detections) for prediction in predictions):
        raise NotCheckedError(f"a {type(predictions[0]).__name__} has no boxes")
    return [prediction for prediction in predictions if isinstance(prediction, Detections)]
