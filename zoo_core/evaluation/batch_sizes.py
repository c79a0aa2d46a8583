"""Measures how batch size alone changes a stage's predictions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.comparison import image_changes
from zoo_core.comparison.identity import byte_changes
from zoo_core.datatypes import Detections

if TYPE_CHECKING:
    from zoo_core.datatypes import Metric, Prediction
    from zoo_core.evaluation.prepare import Job
    from zoo_core.runs.predictions import PredictionStore

_SEEN = ("kept", "moved", "lost", "gained")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizeEffect:
    """Effect of another batch size on a stage's predictions.

    Attributes:
        headline: Value of the headline protocol; None where undefined.
        num_images: Compared.
        num_images_changed: Of these, images whose predictions differ in any byte.
        num_predictions: Rows of predictions, detections of a detector, at the run's batch size.
        num_predictions_changed: Of these, rows that are not there byte for byte at the other.
        changes: Of a detector, detections of a score of at least 0.5 by what became of them: ``kept``, ``moved``,
            ``lost``, ``gained``; None for other tasks.
        seconds: Time that it took, scoring included.
    """

    headline: float | None
    num_images: int
    num_images_changed: int
    num_predictions: int
    num_predictions_changed: int
    changes: dict[str, int] | None
    seconds: float


def compare_batch_sizes(
    own: PredictionStore, other: PredictionStore, metric: Metric, job: Job, *, started: float
) -> BatchSizeEffect:
    """Compare the predictions of one network at two batch sizes.

    Args:
        own: At the run's batch size, complete.
        other: At the other, complete; chunks may hold other numbers of images.
        metric: Empty; scores ``other``.
        job: Gives targets and headline.
        started: ``time.perf_counter()`` before ``other`` was made.
    """

    def pairs() -> Iterator[tuple[str, Prediction, Prediction]]:
        for (image_id, before), (_, after) in zip(_each(own), _each(other), strict=True):
            metric.update([image_id], [after], [job.data.targets[image_id]])
            if isinstance(before, Detections) and isinstance(after, Detections):
                boxes = image_changes(before, after)
                for name in _SEEN:
                    counts[name] += len(getattr(boxes, name))
            yield image_id, before, after

    counts = dict.fromkeys(_SEEN, 0)
    differing = byte_changes(pairs())
    return BatchSizeEffect(
        headline=metric.compute()[job.entry.headline].headline,
        num_images=differing.num_images,
        num_images_changed=len(differing.changed),
        num_predictions=differing.num_rows,
        num_predictions_changed=differing.num_rows_changed,
        changes=counts if metric.prediction_type is Detections else None,
        seconds=time.perf_counter() - started,
    )


def _each(store: PredictionStore) -> Iterator[tuple[str, Prediction]]:
    for chunk in store:
        yield from zip(chunk.image_ids, chunk.predictions, strict=True)
