"""Task-independent parts of a comparison: values under every weighting of the images, and changes per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.datatypes import ResampledValues
from zoo_core.errors import RegistryError, RunError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import Metric, Prediction, ProtocolScore, ResampledImages, Target, Task, TaskContext


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changes:
    """Changes between two stages.

    Attributes:
        counts: By class name and kind of change.
        most_changed: Ids of the images that changed most, most first.
    """

    counts: Mapping[str, Mapping[str, int]]
    most_changed: Sequence[str]


def can_resample(task: Task, protocol: str) -> bool:
    """Return whether the task scores all weightings at once under this protocol."""
    return task.resample is not None and protocol in task.resample_protocols


def check_images(task: Task, make_metric: Callable[[], Metric], images: ResampledImages) -> None:
    """Check that the targets are of the task and that the metric knows the protocol.

    Raises:
        RunError: A target has another type.
        RegistryError: There is no such protocol.
    """
    wrong = [target for target in images.targets if not isinstance(target, task.target_type)]
    if wrong:
        raise RunError(
            f"{len(wrong)} of {len(images.targets)} targets are {type(wrong[0]).__name__}, not "
            f"{task.target_type.__name__}.",
            fix="name the data of the run with --data.",
        )
    known = make_metric().protocol_ids
    if images.protocol not in known:
        close = get_close_matches(images.protocol, known, n=1)
        hint = f"; the closest is {close[0]!r}" if close else ""
        raise RegistryError(
            f"There is no {task.task_id} protocol {images.protocol!r}{hint}.", fix=f"name one of: {', '.join(known)}."
        )


def images_by_class(task: Task, class_names: Sequence[str], targets: Sequence[Target]) -> list[int]:
    """Return the number of images that show each class; all of them where the task does not tell."""
    if task.target_labels is None:
        return [len(targets)] * len(class_names)
    counts = Counter(label for target in targets for label in {*task.target_labels(target)})
    return [counts[label] for label in range(len(class_names))]


def resampled_values(
    task: Task, make_metric: Callable[[], Metric], predictions: Mapping[str, Prediction], images: ResampledImages
) -> ResampledValues:
    """Return the values of a stage under every weighting of the images.

    Args:
        task: Does it at once where it can.
        make_metric: Returns an empty metric; otherwise each weighting is scored with one of its own, in which an image
            that counts n times appears n times.
        predictions: By image id.
        images: The images and their weightings.
    """
    if task.resample is not None and can_resample(task, images.protocol):
        return task.resample(predictions, images)
    scores = [_score(make_metric(), predictions, images, weights) for weights in images.weights.T]
    return ResampledValues(
        classes=np.array([[_number(score.per_class.get(name)) for score in scores] for name in images.class_names]),
        overall=np.array([_number(score.headline) for score in scores]),
    )


def _score(
    metric: Metric, predictions: Mapping[str, Prediction], images: ResampledImages, weights: NDArray[np.uint8]
) -> ProtocolScore:
    rows = np.repeat(np.arange(len(weights)), weights).tolist()
    # A metric refuses an image that comes twice, so each copy has a name of its own.
    ids = [f"{images.image_ids[row]}#{copy}" for copy, row in enumerate(rows)]
    preds = [predictions[images.image_ids[row]] for row in rows]
    metric.update(ids, preds, [images.targets[row] for row in rows])
    return metric.compute()[images.protocol]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def count_changes(
    task: Task,
    before: Mapping[str, Prediction],
    after: Mapping[str, Prediction],
    images: ResampledImages,
    context: TaskContext,
    num: int,
) -> Changes:
    """Compare the predictions of two stages image by image.

    Args:
        task: Compares two predictions.
        before: By image id.
        after: By image id.
        images: The images, with their targets.
        context: Class names and score threshold.
        num: So many images are named that changed most.
    """
    totals = {kind: np.zeros(len(images.class_names), np.int64) for kind in task.change_kinds}
    sizes = []
    for image_id, target in zip(images.image_ids, images.targets, strict=True):
        change = task.compare(before[image_id], after[image_id], target, context)
        sizes.append((-change.magnitude, image_id))
        for kind, total in totals.items():
            total += change.counts[kind]
    return Changes(
        counts={
            name: {kind: int(total[label]) for kind, total in totals.items()}
            for label, name in enumerate(images.class_names)
        },
        most_changed=[image_id for size, image_id in sorted(sizes)[:num] if size < 0],
    )
