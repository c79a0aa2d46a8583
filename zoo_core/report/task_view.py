"""Shows the changes of any task: counts per class, and the images that changed most as the task draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_core.datatypes import TaskContext
from zoo_core.report.changed import count_table
from zoo_core.report.gallery import BYTES_BUDGET, NUM_IMAGES, SIDE_PX, data_uri, read_pixels

if TYPE_CHECKING:
    from zoo_core.datatypes import Drawing, ImageChange, Prediction, Target, Task
    from zoo_core.report.loading import LoadedRun
    from zoo_core.report.sections import ClassScore, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawing in the page.

    Attributes:
        title: Stage, or ground truth.
        caption: Of the drawing.
        uri: The picture as a data URI.
    """

    title: str
    caption: str
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedImage:
    """An image that changed; without pictures where the data is not available."""

    image_id: str
    summary: str
    pictures: Sequence[Picture]


class TaskView:
    """A ``View`` made from a task's own functions.

    Args:
        task: Compares and draws.
    """

    classes_template: str | None = None
    changed_template = "task_changed.html.j2"

    def __init__(self, task: Task) -> None:
        self.prediction_type: type[Prediction] = task.prediction_type
        self.target_type: type[Target] = task.target_type
        self._task = task

    def context(self, run: LoadedRun, scores: Sequence[ClassScore]) -> Mapping[str, Any]:  # noqa: ARG002  # View's
        """See ``View``."""
        if run.pair is None or not all(stage in run.predictions for stage in run.pair):
            return {"task_changes": None}
        before, after = (run.predictions[stage] for stage in run.pair)
        context = TaskContext(class_names=run.class_names)
        changes = {
            image_id: self._task.compare(before[image_id], after[image_id], run.targets.get(image_id), context)
            for image_id in before
            if image_id in after
        }
        changed = sorted(
            (image_id for image_id, change in changes.items() if change.magnitude > 0),
            key=lambda image_id: (-changes[image_id].magnitude, image_id),
        )
        return {
            "task_changes": self._table(changes, run.class_names),
            "change_definition": self._task.change_definition,
            "num_changed": len(changed),
            "num_compared": len(changes),
            "changed_images": self._gallery(run, changed[:NUM_IMAGES], changes, context),
        }

    def _table(self, changes: Mapping[str, ImageChange], class_names: Sequence[str]) -> Table:
        kinds = self._task.change_kinds
        none = np.zeros(len(class_names), np.int64)
        columns = {kind: sum((change.counts[kind] for change in changes.values()), none) for kind in kinds}
        changed = sum((columns[kind] for kind in kinds[1:]), none)
        return count_table("class", columns, changed, class_names, "Changes by class, most changed class first.")

    def _gallery(
        self, run: LoadedRun, image_ids: Sequence[str], changes: Mapping[str, ImageChange], context: TaskContext
    ) -> list[ChangedImage]:
        images: list[ChangedImage] = []
        weight = 0
        for image_id in image_ids:
            pictures = self._pictures(run, image_id, context)
            weight += sum(len(picture.uri) for picture in pictures)
            if weight > BYTES_BUDGET:
                run.gaps.append(f"The gallery stops at {len(images)} images: more would make the page too large.")
                break
            images.append(ChangedImage(image_id=image_id, summary=changes[image_id].summary, pictures=pictures))
        return images

    def _pictures(self, run: LoadedRun, image_id: str, context: TaskContext) -> list[Picture]:
        pixels, target = read_pixels(run, image_id), run.targets.get(image_id)
        if pixels is None or run.pair is None:
            return []
        pictures = []
        if target is not None and self._task.draw_target is not None:
            pictures.append(_picture("ground truth", self._task.draw_target(pixels, target, context)))
        baseline = None
        for stage in run.pair:
            prediction = run.predictions[stage][image_id]
            pictures.append(_picture(stage, self._task.draw(pixels, prediction, baseline, context)))
            baseline = prediction
        return pictures


def _picture(title: str, drawing: Drawing) -> Picture:
    height, width = drawing.pixels.shape[:2]
    scale = min(1.0, SIDE_PX / max(height, width))
    small = data_uri(drawing.pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    return Picture(title=title, caption=drawing.caption, uri=small)
