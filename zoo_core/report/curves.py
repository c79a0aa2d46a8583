"""Computes the numbers behind the plots: precision-recall curves and score histograms of the compared stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.datatypes import Detections, DetectionTarget
from zoo_core.display import page_percent
from zoo_core.errors import ZooError
from zoo_core.metrics.average_precision import RECALL_POINTS_11, average_precision_11pt, average_precision_area
from zoo_core.metrics.detection import DETECTION_PROTOCOLS, DetectionMetric
from zoo_core.report.loading import predictions_of, targets_of
from zoo_core.report.sections import headline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.metrics.average_precision import PrecisionRecall
    from zoo_core.report.loading import LoadedRun
    from zoo_core.report.sections import ClassScore

SCORE_BINS = np.linspace(0.0, 1.0, 21)
"""Edges of the score histograms: 20 bins of 0.05."""

AP_TOLERANCE = 5e-5
"""Largest difference between an AP in ``metrics.json`` and the one that the stored predictions give."""

_MAX_POINTS = 160


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassCurves:
    """Plotted numbers of one class.

    Attributes:
        recall_precision: By stage: ``(P, 2)`` float64, recall and precision, thinned for drawing; P is 0 where nothing
            counts. Empty without ground truth.
        precision_at: By stage: ``(11,)``, the best precision at recall >= 0, 0.1 ... 1. Empty without ground truth.
        histograms: By stage: ``(20,)`` int64, detections per bin of ``SCORE_BINS``.
    """

    recall_precision: Mapping[str, NDArray[np.float64]]
    precision_at: Mapping[str, NDArray[np.float64]]
    histograms: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curves:
    """Curves of every class.

    Attributes:
        protocol: The protocol of the curves; empty without ground truth.
        classes: By class name.
    """

    protocol: str
    classes: Mapping[str, ClassCurves] = field(default_factory=dict)


def compute_curves(run: LoadedRun, scores: Sequence[ClassScore]) -> Curves:
    """Compute the curves of the stages whose predictions are loaded.

    Recomputes the AP of each class; where it differs from ``metrics.json``, predictions, annotations or scores
    were changed after the run, and a gap says so.

    Args:
        run: With predictions and, where there are any, targets.
        scores: As ``class_scores`` gives them.
    """
    class_names = run.class_names
    protocol = headline(run) if headline(run) in DETECTION_PROTOCOLS else DETECTION_PROTOCOLS[0]
    predictions = predictions_of(run, Detections)
    metrics = _metrics(run, predictions, class_names) if run.dataset is not None else {}
    histograms = {stage: _histograms(by_image, len(class_names)) for stage, by_image in predictions.items()}
    classes: dict[str, ClassCurves] = {}
    computed: dict[tuple[str, str], float] = {}
    for label, name in enumerate(class_names):
        curves = {stage: metric.precision_recall(name, protocol) for stage, metric in metrics.items()}
        for stage, curve in curves.items():
            computed[stage, name] = _average(protocol, curve)
        classes[name] = ClassCurves(
            recall_precision={stage: _thinned(curve) for stage, curve in curves.items()},
            precision_at={stage: _precision_at_points(curve) for stage, curve in curves.items()},
            histograms={stage: rows[label] for stage, rows in histograms.items()},
        )
    if protocol != "coco":
        _compare(run, scores, computed)
    return Curves(protocol=protocol if metrics else "", classes=classes)


def _metrics(
    run: LoadedRun, predictions: Mapping[str, Mapping[str, Detections]], class_names: tuple[str, ...]
) -> dict[str, DetectionMetric]:
    metrics = {}
    targets = targets_of(run, DetectionTarget)
    for stage, by_image in predictions.items():
        metric = DetectionMetric(class_names)
        ids = [image_id for image_id in by_image if image_id in targets]
        try:
            metric.update(ids, [by_image[image_id] for image_id in ids], [targets[image_id] for image_id in ids])
        except ZooError as error:
            run.gaps.append(f"The detections of {stage} cannot be matched to the ground truth: {error.fact}")
            continue
        metrics[stage] = metric
    return metrics


def _average(protocol: str, curve: PrecisionRecall) -> float:
    average = average_precision_area if protocol.startswith("voc_area") else average_precision_11pt
    return average(curve.recall, curve.precision)


def _compare(run: LoadedRun, scores: Sequence[ClassScore], computed: Mapping[tuple[str, str], float]) -> None:
    differing = []
    for score in scores:
        for stage, recorded in score.values.items():
            again = computed.get((stage, score.name))
            if recorded is not None and again is not None and abs(recorded - again) > AP_TOLERANCE:
                differing.append(
                    f"{score.name} {stage}: {page_percent(recorded)} recorded, {page_percent(again)} computed"
                )
    if differing:
        run.gaps.append(
            f"{len(differing)} AP values in metrics.json differ from those of the stored predictions on the present "
            f"data: one of the three was changed after the run. First: {differing[0]} (in %)."
        )


def _thinned(curve: PrecisionRecall) -> NDArray[np.float64]:
    """Keep the curve's corners: each detection that raised the recall, and the last one before it."""
    if not len(curve.recall):
        return np.zeros((0, 2))
    rises = np.flatnonzero(np.diff(curve.recall, prepend=0.0) > 0)
    rows = np.unique(np.concatenate([[0], rises, np.maximum(rises - 1, 0), [len(curve.recall) - 1]]))
    if len(rows) > _MAX_POINTS:
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, _MAX_POINTS).round().astype(np.int64))]
    return np.stack([curve.recall[rows], curve.precision[rows]], axis=1)


def _precision_at_points(curve: PrecisionRecall) -> NDArray[np.float64]:
    best = [curve.precision[curve.recall >= point].max(initial=0.0) for point in RECALL_POINTS_11]
    return np.array(best, dtype=np.float64)


def _histograms(by_image: Mapping[str, Detections], num_classes: int) -> NDArray[np.int64]:
    """Count detections per class and bin, ``(C, 20)``; scores outside ``[0, 1]`` and unknown labels are left out."""
    table = np.zeros((num_classes, len(SCORE_BINS) - 1), dtype=np.int64)
    for detections in by_image.values():
        known = (
            (detections.labels >= 0)
            & (detections.labels < num_classes)
            & (detections.scores >= 0.0)
            & (detections.scores <= 1.0)
        )
        bins = np.minimum((detections.scores[known] * table.shape[1]).astype(np.int64), table.shape[1] - 1)
        np.add.at(table, (detections.labels[known], bins), 1)
    return table
