"""The change of the headline value of each stage against a baseline stage, with its interval, for ``metrics.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.datatypes import ResampledImages
from zoo_core.metrics.bootstrap import percentile_interval, resample_weights
from zoo_core.runs.parts import ChangeRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import Prediction, Target, Task

MIN_RESAMPLES = 40
"""Fewer cannot leave one resample on each side of a 95 % interval, nor give a p-value below 0.05."""

MAX_RESAMPLES = 100_000
"""More would change no printed digit; the draws of 5,000 images take 0.5 GB."""

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


def headline_changes(
    task: Task,
    class_names: Sequence[str],
    image_ids: Sequence[str],
    targets: Sequence[Target],
    baseline: Mapping[str, Prediction],
    stages: Iterable[tuple[str, Mapping[str, Prediction]]],
    protocol: str,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, ChangeRecord]:
    """Compute the change of every stage against the baseline; the defaults are those of ``zoo-eval compare``.

    Args:
        task: Resamples its values at once under some protocols.
        class_names: Index is the label.
        image_ids: The evaluated images.
        targets: Theirs, in the same order.
        baseline: Predictions of the baseline stage by image id.
        stages: Name and predictions of each other stage; read one after the other, so a generator keeps one in memory.
        protocol: Protocol id; its first value is compared.
        num_resamples: Draws of as many images as there are.
        seed: Seed of the draws.

    Returns:
        By stage. Empty where the task has no paired values, under this protocol or at all, or no image was evaluated; a
        stage is left out where its value or the baseline's is undefined.
    """
    if not image_ids or task.resample is None or protocol not in task.resample_protocols:
        return {}
    images = ResampledImages(
        class_names=tuple(class_names),
        image_ids=tuple(image_ids),
        targets=targets,
        weights=paired_weights(len(image_ids), num_resamples, seed),
        protocol=protocol,
    )
    before = task.resample(baseline, images).overall
    changes = {}
    for name, preds in stages:
        points = 100.0 * (task.resample(preds, images).overall - before)
        if not np.isnan(points[0]):
            changes[name] = _change(points, len(image_ids), seed)
    return changes


def _change(points: NDArray[np.float64], num_images: int, seed: int) -> ChangeRecord:
    """From ``(1 + R,)`` differences: of the images as they are, then of each resample."""
    interval = percentile_interval(points[1:], num_images, CONFIDENCE)
    low, high = interval if interval is not None else (None, None)
    return ChangeRecord(
        points=float(points[0]),
        low=low,
        high=high,
        resolution_points=None if low is None or high is None else (high - low) / 2,
        num_images=num_images,
        num_resamples=len(points) - 1,
        seed=seed,
    )


def paired_weights(num_images: int, num_resamples: int, seed: int) -> NDArray[np.uint8]:
    """``(num_images, 1 + num_resamples)``: each image once, then each resample; shared by all stages, it pairs them."""
    ones = np.ones((num_images, 1), dtype=np.uint8)
    return np.hstack([ones, resample_weights(num_images, num_resamples, seed)])
