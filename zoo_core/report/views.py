"""The parts of a page that depend on the task.

Detections and classifications have views of their own, chosen by the prediction type that the run's task declares;
every other task has a view made from its ``compare`` and ``draw``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from zoo_core.report.classification_view import ClassificationView
from zoo_core.report.detection_view import DetectionView
from zoo_core.report.loading import LoadedRun, load_predictions, open_dataset
from zoo_core.report.task_view import TaskView

if TYPE_CHECKING:
    from zoo_core.datatypes import Prediction, Target
    from zoo_core.plugins import PluginHost
    from zoo_core.report.sections import ClassScore


class View(Protocol):
    """Parts of a page for one type of prediction.

    Attributes:
        prediction_type: Type of the predictions.
        target_type: Type of the targets.
        classes_template: Shown below the table of classes; None for nothing.
        changed_template: Shows the changes between the compared stages.
    """

    prediction_type: type[Prediction]
    target_type: type[Target]
    classes_template: str | None
    changed_template: str

    def context(self, run: LoadedRun, scores: Sequence[ClassScore]) -> Mapping[str, Any]:
        """The values of both templates; may add to ``run.gaps``.

        Args:
            run: With predictions and, where the data still lie in their place, targets.
            scores: As ``class_scores`` gives them.
        """
        ...


VIEWS: tuple[View, ...] = (DetectionView(), ClassificationView())


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A view's templates with their values; None where no view fits."""

    classes: str | None
    changed: str | None
    values: Mapping[str, Any]


def choose_view(run: LoadedRun) -> View | None:
    """Return the view of the run's task; None where the task is not known."""
    task = run.task
    if task is None:
        return None
    return next((view for view in VIEWS if view.prediction_type is task.prediction_type), TaskView(task))


def load_and_open(run: LoadedRun, view: View | None, host: PluginHost) -> None:
    """Read what the view needs into ``run``."""
    load_predictions(run, view.prediction_type if view is not None else None)
    if view is not None:
        open_dataset(run, host, view.target_type)


def show(run: LoadedRun, view: View | None, scores: Sequence[ClassScore]) -> Shown:
    """Parts of the page that depend on the task."""
    if view is None:
        return Shown(classes=None, changed=None, values={})
    return Shown(classes=view.classes_template, changed=view.changed_template, values=view.context(run, scores))
