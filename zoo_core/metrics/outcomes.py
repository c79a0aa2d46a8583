"""Matching outcomes of all detections, class by class, under one protocol: the input of a bootstrapped mean AP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_core.errors import RegistryError
from zoo_core.metrics.average_precision import RECALL_POINTS_11
from zoo_core.metrics.bootstrap import ClassOutcomes, weighted_average_precision
from zoo_core.metrics.coco import MAX_DETECTIONS, RECALL_POINTS_101, coco_candidates, match_coco
from zoo_core.metrics.detection import DETECTION_PROTOCOLS
from zoo_core.metrics.flat import class_slices
from zoo_core.metrics.voc import IGNORED, VOC_RULES, match_voc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.metrics.gathering import GatheredImages


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProtocolOutcomes:
    """Outcomes under one protocol.

    Attributes:
        classes: Outcomes of each class at the protocol's IoU thresholds: one for VOC, ten for COCO.
        recall_points: Where precision is averaged; None for the area.
    """

    classes: tuple[ClassOutcomes, ...]
    recall_points: NDArray[np.float64] | None

    def average_precisions(self, weights: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Compute the AP of every class in every resample, ``(C, R)``; see ``weighted_average_precision``."""
        return np.stack([weighted_average_precision(part, weights, self.recall_points) for part in self.classes])


def protocol_outcomes(images: GatheredImages, num_classes: int, protocol: str) -> ProtocolOutcomes:
    """Match all detections once under ``protocol``.

    Raises:
        RegistryError: The protocol is unknown.
    """
    if protocol not in DETECTION_PROTOCOLS:
        raise RegistryError(
            f"There is no detection protocol {protocol!r}.", fix=f"name one of: {', '.join(DETECTION_PROTOCOLS)}."
        )
    num_objects = _objects_per_image(images, num_classes)
    slices = class_slices(images.detections.labels, num_classes)
    if protocol == "coco":
        candidates = coco_candidates(images.detections, images.objects)
        matches = match_coco(candidates)
        easy = _objects_per_image(images, num_classes, ignored=matches.object_ignored)
        classes = []
        for label, rows in enumerate(slices):
            outcome, among_best = matches.outcome(rows), candidates.ranks[rows] < MAX_DETECTIONS
            counting = np.where(among_best, outcome, np.int8(IGNORED))
            classes.append(_class_outcomes(images, rows, counting, easy[label]))
        return ProtocolOutcomes(classes=tuple(classes), recall_points=RECALL_POINTS_101)
    average, _, rule = protocol.partition("/")
    outcome = match_voc(images.detections, images.objects, VOC_RULES[rule])  # type: ignore[index]  # checked above
    return ProtocolOutcomes(
        classes=tuple(
            _class_outcomes(images, rows, outcome[None, rows], num_objects[label]) for label, rows in enumerate(slices)
        ),
        recall_points=RECALL_POINTS_11 if average == "voc07_11pt" else None,
    )


def _class_outcomes(
    images: GatheredImages, rows: slice, outcome: NDArray[np.int8], num_objects: NDArray[np.int64]
) -> ClassOutcomes:
    """Build them from the outcomes ``(T, n)`` of the detections in ``rows``."""
    counts = (outcome != IGNORED).any(axis=0)
    return ClassOutcomes(
        images=images.detections.images[rows][counts], outcome=outcome[:, counts], num_objects=num_objects
    )


def _objects_per_image(
    images: GatheredImages, num_classes: int, ignored: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Count the objects of each class in each image, ``(C, I)``; ignored ones do not count."""
    objects = images.objects
    easy = ~(objects.difficult if ignored is None else ignored)
    num_images = len(images.image_ids)
    keys = objects.labels[easy].astype(np.int64) * num_images + objects.images[easy]
    return np.bincount(keys, minlength=num_classes * num_images).reshape(num_classes, num_images).astype(np.int64)
