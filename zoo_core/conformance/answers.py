"""The best and the emptiest prediction for a target, by kind of task."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from zoo_core.conformance.outcomes import NotApplicableError, NotCheckedError
from zoo_core.datatypes import Classification, ClassTarget, Detections, DetectionTarget, Prediction, Target
from zoo_core.errors import PluginError

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
    if isinstance(target, ClassTarget):
        return Classification(labels=np.array([target.label], np.int64), scores=np.ones(1, np.float64))
    raise NotCheckedError(f"the kit of zoo_conformance has no perfect prediction for a {type(target).__name__}")


def empty_prediction(prediction: P) -> P:
    """A prediction of that kind that found nothing."""
    try:
        return dataclasses.replace(prediction, **{name: array[:0] for name, array in prediction.arrays().items()})
    except PluginError as error:
        raise NotApplicableError(f"a {type(prediction).__name__} cannot be empty") from error


def empty_target(target: Target) -> Target:
    """What is true of an image without objects."""
    if not isinstance(target, DetectionTarget):
        raise NotApplicableError(f"a {type(target).__name__} cannot be empty")
    arrays = {field.name: getattr(target, field.name) for field in dataclasses.fields(target)}
    return dataclasses.replace(target, **{name: array[:0] for name, array in arrays.items() if array is not None})


def as_detections(predictions: Sequence[Prediction]) -> list[Detections]:
    """The predictions, for a check that only detection knows."""
    if not all(isinstance(prediction, Detections) for prediction in predictions):
        raise NotApplicableError(f"a {type(predictions[0]).__name__} has no boxes")
    return [prediction for prediction in predictions if isinstance(prediction, Detections)]
