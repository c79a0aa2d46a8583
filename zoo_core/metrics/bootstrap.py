"""How far a mean AP moves when the images are drawn again: pure functions on what matching said of each detection.

Matching is local to an image, so it is done once. Drawing an image n times counts its detections and its objects n
times: the AP of a resample is that of the same ranked detections with whole-number weights, and what happens between
two detections that found an object is a sum. All resamples of a class are worked out side by side.

Source: Efron, Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 13 (the percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Weights gathered in one go: a few MB, which caches hold, however many detections there are.
_WEIGHTS_PER_BLOCK = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassOutcomes:
    """What matching said of one class's detections.

    Attributes:
        images: ``(N,)`` int, index of the image of each detection that counts, highest score first.
        found: ``(N,)`` bool, whether it found an object.
        num_objects: ``(I,)`` int, objects of the class that count, per image.
    """

    images: NDArray[np.int32]
    found: NDArray[np.bool_]
    num_objects: NDArray[np.int64]


def resample_weights(num_images: int, num_resamples: int, seed: int) -> NDArray[np.int32]:
    """How often each image was drawn, ``(num_images, num_resamples)``; every column sums to ``num_images``.

    Args:
        num_images: Above 0.
        num_resamples: Draws with replacement of as many images as there are.
        seed: The same seed gives the same draws.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((num_images, num_resamples), dtype=np.int32)
    for column in range(num_resamples):
        weights[:, column] = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
    return weights


def weighted_average_precision(
    outcomes: ClassOutcomes, weights: NDArray[np.int32], recall_points: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """AP of one class in every resample.

    It equals the AP of the detections with each image's rows repeated as often as the image was drawn. Only where two
    detections of one class and image have equal scores may the two differ: the copies of an image are then ranked one
    after the other, whereas here the copies of a detection are.

    Args:
        outcomes: Of the class.
        weights: ``(I, R)``, how often each image was drawn.
        recall_points: ``(P,)``, where the best precision is averaged; None for the area at every change of recall.

    Returns:
        ``(R,)`` in ``[0, 1]``; not-a-number where no object that counts was drawn.
    """
    num_objects = outcomes.num_objects @ weights.astype(np.int64)
    result = np.full(weights.shape[1], np.nan)
    result[num_objects > 0] = 0.0
    rows = np.flatnonzero(outcomes.found)
    if not len(rows):
        return result
    images = outcomes.images[: rows[-1] + 1]  # what is ranked below the last find never raises a precision
    starts = np.concatenate([[0], rows[:-1] + 1])
    block = max(1, _WEIGHTS_PER_BLOCK // len(images))
    for low in range(0, weights.shape[1], block):
        part = np.ascontiguousarray(weights[:, low : low + block])
        counted = np.cumsum(np.add.reduceat(part[images], starts, axis=0), axis=0, dtype=np.int64)
        found = part[images[rows]].astype(np.int64)
        result[low : low + block] = _average(found, counted, num_objects[low : low + block], recall_points)
    return result


def _average(
    found: NDArray[np.int64],
    counted: NDArray[np.int64],
    num_objects: NDArray[np.int64],
    recall_points: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """AP of B resamples from K finds: ``found`` and ``counted`` are ``(K, B)``, ``num_objects`` ``(B,)``."""
    num_found = np.cumsum(found, axis=0)
    precision = np.divide(num_found, counted, out=np.zeros(counted.shape), where=counted > 0)
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        if recall_points is None:
            area: NDArray[np.float64] = np.sum(best * found, axis=0) / num_objects
            return area
        rows = _first_rows(num_found, num_objects, recall_points)
        padded = np.concatenate([best, np.zeros((1, best.shape[1]))])
        mean: NDArray[np.float64] = np.take_along_axis(padded, rows, axis=0).sum(axis=0) / len(recall_points)
    mean[num_objects == 0] = np.nan
    return mean


def _first_rows(
    num_found: NDArray[np.int64], num_objects: NDArray[np.int64], recall_points: NDArray[np.float64]
) -> NDArray[np.int64]:
    """First row of each column whose recall is at least the point, ``(P, B)``; K where there is none."""
    # Recall is compared in whole objects, the least number whose share reaches the point: one search for all columns.
    least = np.maximum(np.floor(recall_points[:, None] * num_objects) - 1, 0).astype(np.int64)
    for _ in range(3):  # the product may be off by its last bit, either way; what decides is the quotient
        least += least / np.maximum(num_objects, 1) < recall_points[:, None]
    num_rows, num_columns = num_found.shape
    stride = int(max(num_found.max(initial=0), least.max(initial=0))) + 2
    offsets = np.arange(num_columns, dtype=np.int64) * stride
    flat = (num_found + offsets).T.reshape(-1)
    places = np.searchsorted(flat, (least + offsets).T.reshape(-1), side="left").reshape(num_columns, -1)
    rows: NDArray[np.int64] = (places - np.arange(num_columns)[:, None] * num_rows).T
    return rows


def mean_over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of ``(C, R)`` over the classes that are defined in each resample, ``(R,)``."""
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return means


def percentile_interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float] | None:
    """The middle ``confidence`` of the defined values; None where no value is."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(known, [tail, 100.0 - tail])
    return float(low), float(high)


def two_sided_p_value(values: NDArray[np.float64]) -> float | None:
    """How unlikely it is that the true difference is 0 or has the other sign, at least ``2 / (R + 1)``.

    Args:
        values: ``(R,)``, the difference in every resample; those that are not defined are left out.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    smaller = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2.0 * (1 + smaller) / (1 + len(known)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values with Holm's correction for their number; None stays None and does not count.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    known = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        adjusted[index] = largest
    return adjusted
