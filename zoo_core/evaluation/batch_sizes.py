"""Measures how batch size alone changes a stage's predictions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.comparison.identity import byte_changes
from zoo_core.datatypes import TaskContext

if TYPE_CHECKING:
    from zoo_core.datatypes import Metric, Prediction
    from zoo_core.evaluation.prepare import Job
    from zoo_core.runs.predictions import PredictionStore


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizeEffect:
    """Effect of another batch size on a stage's predictions.

    Attributes:
        headline: Value of the headline protocol; None where undefined.
        num_images: Number of compared images.
        num_images_changed: Of these, images whose predictions differ in any byte.
        num_predictions: Predictions at the run's batch size: rows such as detections, or one per image.
        num_predictions_changed: Of these, those without a byte-identical one at the other batch size.
        changes: Counts by the task's kinds of change at scores of 0.5 or more, e.g. ``kept``, ``moved``, ``lost`` and
            ``gained`` detections.
        seconds: Wall time, scoring included.
    """

    headline: float | None
    num_images: int
    num_images_changed: int
    num_predictions: int
    num_predictions_changed: int
    changes: dict[str, int]
    seconds: float


def compare_batch_sizes(
    own: PredictionStore, other: PredictionStore, metric: Metric, job: Job, *, started: float
) -> BatchSizeEffect:
    """Compare the predictions of one network at two batch sizes.

    Args:
        own: Complete predictions at the run's batch size.
        other: Complete predictions at the other batch size; the number of images per chunk may differ.
        metric: Empty; scores ``other``.
        job: Gives task, targets and headline.
        started: ``time.perf_counter()`` before ``other`` was made.
    """

    def pairs() -> Iterator[tuple[str, Prediction, Prediction]]:
        for (image_id, before), (_, after) in zip(_each(own), _each(other), strict=True):
            target = job.data.targets[image_id]
            metric.update([image_id], [after], [target])
            change = task.compare(before, after, target, context)
            for kind in counts:
                counts[kind] += int(change.counts[kind].sum())
            yield image_id, before, after

    task, context = job.task, TaskContext(class_names=job.data.dataset.class_names)
    counts = dict.fromkeys(task.change_kinds, 0)
    differing = byte_changes(pairs(), by_row=task.may_be_empty)
    return BatchSizeEffect(
        headline=metric.compute()[job.entry.headline].headline,
        num_images=differing.num_images,
        num_images_changed=len(differing.changed),
        num_predictions=differing.num_rows,
        num_predictions_changed=differing.num_rows_changed,
        changes=counts,
        seconds=time.perf_counter() - started,
    )


def _each(store: PredictionStore) -> Iterator[tuple[str, Prediction]]:
    for chunk in store:
        yield from zip(chunk.image_ids, chunk.predictions, strict=True)
