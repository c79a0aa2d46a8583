"""The task ``classification``: one class per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.comparison.classes import NO_CLASS, class_changes
from zoo_core.datatypes import (
    Classification,
    ClassTarget,
    Drawing,
    ImageChange,
    Measure,
    Prediction,
    PredictionChecks,
    ResampledImages,
    ResampledValues,
    Target,
    Task,
    TaskContext,
)
from zoo_core.metrics.classification import CLASSIFICATION_PROTOCOLS, ClassificationMetric
from zoo_core.tasks.checking import dtype_problems, expect, score_problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.comparison.classes import ClassChanges

_DTYPES: dict[str, type[np.generic]] = {"labels": np.int64, "scores": np.float64}

_SHOWN_CLASSES = 3

# Products of images and resamples that are held at once: a few tens of MB.
_PRODUCTS_PER_BLOCK = 1 << 22


def compare(before: Prediction, after: Prediction, target: Target | None, context: TaskContext) -> ImageChange:
    """Compare the most probable classes; counts stand at the true class, and are all 0 where it is not known."""
    targets = {} if target is None else {"": expect(target, ClassTarget)}
    changes = class_changes({"": expect(before, Classification)}, {"": expect(after, Classification)}, targets)
    kinds = (("kept", changes.right), ("moved", changes.moved), ("lost", changes.lost), ("gained", changes.gained))
    counts = {kind: np.zeros(len(context.class_names), np.int64) for kind, _ in kinds}
    truth = int(changes.truth[0])
    if 0 <= truth < len(context.class_names):
        for kind, rows in kinds:
            counts[kind][truth] = rows[0]
    names = [_name(int(label[0]), context) for label in (changes.before, changes.after)]
    return ImageChange(counts=counts, magnitude=_magnitude(changes), summary=" -> ".join(dict.fromkeys(names)))


def _magnitude(changes: ClassChanges) -> float:
    """Order changed images: first those right in one of the stages, then by the sum of both best scores."""
    if not changes.flipped[0]:
        return 0.0
    mattered = bool(changes.lost[0] or changes.gained[0])
    return 1.0 + 4.0 * mattered + float(changes.score_before[0] + changes.score_after[0])


def _name(label: int, context: TaskContext) -> str:
    if label == NO_CLASS:
        return "nothing"
    return context.class_names[label] if 0 <= label < len(context.class_names) else f"class {label}"


def draw(
    pixels: NDArray[np.uint8],
    prediction: Prediction,
    baseline: Prediction | None,  # noqa: ARG001 - Task.draw
    context: TaskContext,
) -> Drawing:
    """Return the image with its most probable classes as caption."""
    answer = expect(prediction, Classification)
    best = zip(answer.labels[:_SHOWN_CLASSES].tolist(), answer.scores[:_SHOWN_CLASSES].tolist(), strict=True)
    caption = ", ".join(f"{_name(label, context)} {100 * score:.1f} %" for label, score in best)
    return Drawing(pixels=pixels, caption=caption or "nothing")


def resample(predictions: Mapping[str, Prediction], images: ResampledImages) -> ResampledValues:
    """Return top-1 of every class and of all images for every weighting."""
    metric = ClassificationMetric(images.class_names)
    metric.update(images.image_ids, [predictions[image_id] for image_id in images.image_ids], images.targets)
    gathered = metric.gathered()
    rows = {image_id: row for row, image_id in enumerate(gathered.image_ids)}
    order = np.array([rows[image_id] for image_id in images.image_ids])
    right, truth = gathered.right(images.protocol, 1)[order], gathered.truth[order]
    return _shares(right, truth, len(images.class_names), images.weights)


def _shares(
    right: NDArray[np.float64], truth: NDArray[np.int64], num_classes: int, weights: NDArray[np.uint8]
) -> ResampledValues:
    """Return the weighted share of right images in each class and in all, for every column of ``weights``."""
    order = np.argsort(truth, kind="stable")
    present, starts = np.unique(truth[order], return_index=True)
    classes = np.full((num_classes, weights.shape[1]), np.nan)
    overall = np.empty(weights.shape[1])
    block = max(1, _PRODUCTS_PER_BLOCK // max(len(truth), 1))
    for low in range(0, weights.shape[1], block):
        part = weights[order, low : low + block].astype(np.float64)
        images = np.add.reduceat(part, starts, axis=0)
        num_right = np.add.reduceat(part * right[order, None], starts, axis=0)
        classes[present, low : low + block] = np.divide(
            num_right, images, out=np.full(images.shape, np.nan), where=images > 0
        )
        overall[low : low + block] = num_right.sum(axis=0) / images.sum(axis=0)
    return ResampledValues(classes=classes, overall=overall)


def problems(prediction: Prediction) -> Sequence[str]:
    """Return wrong types, and scores out of range or order."""
    answer = expect(prediction, Classification)
    return [*dtype_problems(answer, _DTYPES), *score_problems(answer.scores)]


def perfect(target: Target) -> Classification:
    """Return the true class with probability 1."""
    return Classification(labels=np.array([expect(target, ClassTarget).label], np.int64), scores=np.ones(1, np.float64))


CLASSIFICATION = Task(
    task_id="classification",
    prediction_type=Classification,
    target_type=ClassTarget,
    measures={
        "top1": Measure(overall="top-1", per_class="top-1", counted="images"),
        "top5": Measure(overall="top-5", per_class="top-5", counted="images"),
        "top1_balanced": Measure(overall="class-balanced top-1", per_class="top-1", counted="images", class_mean=True),
    },
    change_kinds=("kept", "moved", "lost", "gained"),
    change_definition=(
        "Images are counted at their true class: right in both stages (kept), right before only (lost), right after "
        "only (gained), or wrong in both with another class (moved)."
    ),
    compare=compare,
    draw=draw,
    may_be_empty=False,
    resample=resample,
    resample_protocols=CLASSIFICATION_PROTOCOLS,
    target_labels=lambda target: [expect(target, ClassTarget).label],
    checks=PredictionChecks(
        problems=problems,
        labels=lambda prediction: expect(prediction, Classification).labels,
        perfect=perfect,
    ),
)
