"""The best and the emptiest prediction for a target, as the task declares them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from zoo_core.conformance.outcomes import NotApplicableError, NotCheckedError
from zoo_core.datatypes import Prediction, Target

if TYPE_CHECKING:
    from zoo_core.conformance.subject import Subject

P = TypeVar("P", bound=Prediction)
T = TypeVar("T", bound="Prediction | Target")


def perfect_prediction(subject: Subject, target: Target) -> Prediction:
    """Return the prediction of a network that is right, from the kit or the task."""
    perfect = subject.kit.perfect or subject.task.checks.perfect
    if perfect is None:
        raise NotCheckedError(
            f"neither the kit of zoo_conformance nor the task has a perfect prediction for a {type(target).__name__}"
        )
    return perfect(target)


def empty_prediction(subject: Subject, prediction: P) -> P:
    """Return a prediction without rows."""
    refuse_never_empty(subject)
    return _without_rows(prediction)


def empty_target(subject: Subject, target: Target) -> Target:
    """Return the target of an image without objects."""
    refuse_never_empty(subject)
    return _without_rows(target)


def refuse_never_empty(subject: Subject) -> None:
    """Raise NotApplicableError where the task's predictions are never empty."""
    if not subject.task.may_be_empty:
        raise NotApplicableError(f"a {subject.task.prediction_type.__name__} is never empty")


def _without_rows(of: T) -> T:
    arrays = {field.name: getattr(of, field.name) for field in dataclasses.fields(of)}
    emptied = {name: array[:0] for name, array in arrays.items() if isinstance(array, np.ndarray)}
    return dataclasses.replace(of, **emptied)
