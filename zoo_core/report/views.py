"""The parts of a page that depend on the task, chosen by the kind of prediction that a run holds.

A view is found by the fields that its prediction class declares, which are the columns of the stored files: so a page
can be made of a run whose plugin is not installed. A kind that no view knows leaves these parts out, and the page says
so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from zoo_core.report.classification_view import ClassificationView
from zoo_core.report.detection_view import DetectionView
from zoo_core.report.loading import LoadedRun, load_predictions, open_dataset, stored_fields
from zoo_core.runs.lenient import joined

if TYPE_CHECKING:
    from zoo_core.datatypes import Prediction, Target
    from zoo_core.plugins import PluginHost
    from zoo_core.report.sections import ClassScore


class View(Protocol):
    """What one kind of prediction adds to a page.

    Attributes:
        prediction_type: The kind; its fields are the columns of the stored files.
        target_type: What is true of an image.
        classes_template: Stands below the table of classes.
        changed_template: Says what changed between the compared stages.
    """

    prediction_type: type[Prediction]
    target_type: type[Target]
    classes_template: str
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
    """The view of a run's predictions; None, with a gap noted, where there is none for them."""
    stored = stored_fields(run)
    for view in VIEWS:
        if stored == {field.name for field in fields(view.prediction_type)}:
            return view
    if stored:
        run.gaps.append(
            f"The predictions have the fields {joined(sorted(stored))}, a kind that this version has no view for: what "
            "changed image by image cannot be shown."
        )
    return None


def load_and_open(run: LoadedRun, view: View | None, host: PluginHost) -> None:
    """Read what the view needs into ``run``."""
    load_predictions(run, view.prediction_type if view is not None else None)
    if view is not None:
        open_dataset(run, host, view.target_type)


def show(run: LoadedRun, view: View | None, scores: Sequence[ClassScore]) -> Shown:
    """What the view adds to the page."""
    if view is None:
        return Shown(classes=None, changed=None, values={})
    return Shown(classes=view.classes_template, changed=view.changed_template, values=view.context(run, scores))
