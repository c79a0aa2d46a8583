"""Masks of a fixed size: their dataset, decoding, metric and task."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from toy_detector import data
from toy_detector.model import CELL, GRID, SCORE_THRESHOLD
from zoo_core.datatypes import (
    DetectionTarget,
    Drawing,
    ImageChange,
    ImageSize,
    Measure,
    Prediction,
    PredictionChecks,
    ProtocolScore,
    Scene,
    Target,
    Task,
    TaskContext,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = ("background", "red", "green")
PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask(Prediction):
    """``labels`` and ``scores``, ``(4, 4)``: names that a classification has too."""

    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskTarget(Target):
    """``labels``, ``(4, 4)`` int64."""

    labels: NDArray[np.int64]


def mask_of(objects: Target) -> MaskTarget:
    assert isinstance(objects, DetectionTarget)
    labels = np.zeros((GRID, GRID), np.int64)
    for (x, y, _, _), label in zip(objects.boxes.astype(int).tolist(), objects.labels.tolist(), strict=True):
        labels[y // CELL, x // CELL] = label + 1
    return MaskTarget(labels=labels)


def scenes() -> dict[str, list[Scene]]:
    return {
        split: [dataclasses.replace(scene, target=mask_of(scene.target)) for scene in drawn]
        for split, drawn in data.scenes().items()
    }


class MaskDataset:
    """The toy detector's images with masks."""

    name = "grid"
    class_names: tuple[str, ...] = CLASSES
    submission_format = "masks"

    def __init__(self, root: Path | None, split: str) -> None:
        self._boxes = data.GridDataset(root, split)
        self.split, self.root, self.ids = split, self._boxes.root, self._boxes.ids
        self.image, self.content_hash = self._boxes.image, self._boxes.content_hash

    def target(self, image_id: str) -> Target:
        return mask_of(self._boxes.target(image_id))

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        with (directory / "masks.txt").open("w") as file:
            for image_id, prediction in predictions:
                file.write(f"{image_id} {prediction.arrays()['labels'].tolist()}\n")


def decode(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Prediction]:
    found: list[Prediction] = []
    for scores in outputs[0].numpy():
        best = scores.max(axis=0)
        labels = np.where(best > SCORE_THRESHOLD, scores.argmax(axis=0) + 1, 0).astype(np.int64)
        found.append(Mask(labels=labels, scores=np.clip(best, 0.0, 1.0)))
    return found


def encode(targets: Sequence[Target], sizes: Sequence[ImageSize]) -> tuple[torch.Tensor]:
    masks = np.stack([truth(target) for target in targets])
    return (torch.from_numpy(np.stack([masks == 1, masks == 2], axis=1).astype(np.float32)),)


def truth(target: Target) -> NDArray[np.int64]:
    assert isinstance(target, MaskTarget)
    return target.labels


def labels_of(prediction: Prediction) -> NDArray[np.int64]:
    assert isinstance(prediction, Mask)
    return prediction.labels


class MeanIou:
    """Mean IoU over classes, from one confusion matrix."""

    prediction_type: type[Prediction] = Mask
    protocol_ids: tuple[str, ...] = ("cells",)

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = tuple(class_names)
        self._table = np.zeros((len(class_names), len(class_names)), np.int64)
        self._ids: set[str] = set()

    def update(self, image_ids: Sequence[str], preds: Sequence[Prediction], targets: Sequence[Target]) -> None:
        assert not self._ids & set(image_ids)
        self._ids |= set(image_ids)
        for pred, target in zip(preds, targets, strict=True):
            np.add.at(self._table, (truth(target), labels_of(pred)), 1)

    def compute(self) -> Mapping[str, ProtocolScore]:
        common = np.diag(self._table)
        union = self._table.sum(axis=0) + self._table.sum(axis=1) - common
        ious = [float(both / either) if either else None for both, either in zip(common, union, strict=True)]
        known = [iou for iou in ious if iou is not None]
        right = float(common.sum() / self._table.sum())
        score = ProtocolScore(
            values={
                "miou": float(np.mean(known)) if known else None,
                "pixel_accuracy": right,
            },
            per_class=dict(zip(self._names, ious, strict=True)),
            num_images=len(self._ids),
            num_objects=dict(zip(self._names, self._table.sum(axis=1).tolist(), strict=True)),
            definition="Intersection over union of cells, averaged over classes.",
        )
        return {"cells": score}

    def suspects(self) -> Sequence[str]:
        return ()


def compare(before: Prediction, after: Prediction, target: Target | None, context: TaskContext) -> ImageChange:
    old, new = labels_of(before), labels_of(after)
    same = old == new
    counts = {
        kind: np.bincount(old[cells], minlength=len(context.class_names))
        for kind, cells in (("same", same), ("changed", ~same))
    }
    num = int((~same).sum())
    return ImageChange(counts=counts, magnitude=float(num), summary=f"{num} cells changed")


def draw(
    pixels: NDArray[np.uint8], prediction: Prediction, baseline: Prediction | None, context: TaskContext
) -> Drawing:
    labels = labels_of(prediction)
    return Drawing(pixels=_over(pixels, labels), caption=f"{int((labels > 0).sum())} cells")


def draw_target(pixels: NDArray[np.uint8], target: Target, context: TaskContext) -> Drawing:
    return Drawing(pixels=_over(pixels, truth(target)))


def _over(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    colours = cv2.resize(PALETTE[labels], (width, height), interpolation=cv2.INTER_NEAREST)
    mixed: NDArray[np.uint8] = (pixels // 2 + colours // 2).astype(np.uint8)
    return mixed


def perfect(target: Target) -> Mask:
    return Mask(labels=truth(target), scores=np.ones((GRID, GRID), np.float32))


GRID_SEGMENTATION = Task(
    task_id="grid_segmentation",
    prediction_type=Mask,
    target_type=MaskTarget,
    measures={
        "miou": Measure(overall="mIoU", per_class="IoU", counted="cells", class_mean=True),
        "pixel_accuracy": Measure(overall="cell accuracy", per_class="cell accuracy", counted="cells"),
    },
    change_kinds=("same", "changed"),
    change_definition="Cells are counted by the class that the first stage gives them.",
    compare=compare,
    draw=draw,
    draw_target=draw_target,
    may_be_empty=False,
    checks=PredictionChecks(labels=labels_of, perfect=perfect),
)
