"""Collects chunks of images into flat arrays of all images; rejects by name anything that cannot be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_core.datatypes import Detections, DetectionTarget, Prediction, Target
from zoo_core.errors import DataError, PluginError, ZooError
from zoo_core.metrics.flat import FlatDetections, FlatObjects, box_areas

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Overlaps nothing under any rule, also where a width is x2 - x1 + 1.
_NO_BOX = (0.0, 0.0, -1.0, -1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GatheredImages:
    """All images added so far; an image is identified by its index into ``image_ids``.

    Attributes:
        image_ids: Ascending.
        detections: As ``FlatDetections.ranked`` gives them.
        objects: As ``FlatObjects.grouped`` gives them.
        num_not_finite: Detections whose box held infinity or not-a-number; such a box overlaps nothing.
    """

    image_ids: tuple[str, ...]
    detections: FlatDetections
    objects: FlatObjects
    num_not_finite: int


class ImageGatherer:
    """Collects images in any order; keeps 28 bytes per detection and 34 per object.

    Args:
        class_names: Index is the label.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = tuple(class_names)
        self._index: dict[str, int] = {}
        self._detections: list[FlatDetections] = []
        self._objects: list[FlatObjects] = []
        self._num_not_finite = 0

    def add(self, image_ids: Sequence[str], preds: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Add images: all of them, or none if there is an error.

        Raises:
            PluginError: The three differ in length, an image is added twice, a prediction is not a ``Detections`` or
                holds a label out of range or a score that is not finite.
            DataError: A target is not a ``DetectionTarget`` or holds a label out of range, a box or an area that is
                not finite, or a crowd that is not difficult.
        """
        if not len(image_ids) == len(preds) == len(targets):
            raise PluginError(
                f"The metric got {len(image_ids)} image ids, {len(preds)} predictions and {len(targets)} targets.",
                fix="give one prediction and one target for each image id.",
            )
        self._refuse_known(image_ids)
        checked = [_as_detections(image_id, pred) for image_id, pred in zip(image_ids, preds, strict=True)]
        truth = [_as_target(image_id, target) for image_id, target in zip(image_ids, targets, strict=True)]
        first = len(self._index)
        detections = self._flat_detections(image_ids, checked, first)
        objects = self._flat_objects(image_ids, truth, first)
        broken = ~np.isfinite(detections.boxes).all(axis=1)
        detections.boxes[broken] = _NO_BOX
        self._num_not_finite += int(broken.sum())
        self._detections.append(detections)
        self._objects.append(objects)
        self._index.update({image_id: first + offset for offset, image_id in enumerate(image_ids)})

    def gathered(self) -> GatheredImages:
        """Return all images added so far, in an order that does not depend on the order of adding."""
        image_ids = tuple(sorted(self._index))
        position = np.zeros(len(image_ids), dtype=np.int32)
        position[[self._index[image_id] for image_id in image_ids]] = np.arange(len(image_ids), dtype=np.int32)
        joined, joined_objects = _joined(self._detections, position), _joined_objects(self._objects, position)
        # From here on one copy is enough; the blocks would be a second one while sorting makes a third.
        self._index = {image_id: index for index, image_id in enumerate(image_ids)}
        self._detections, self._objects = [joined], [joined_objects]
        detections, objects = joined.ranked(), joined_objects.grouped()
        self._detections, self._objects = [detections], [objects]
        return GatheredImages(
            image_ids=image_ids, detections=detections, objects=objects, num_not_finite=self._num_not_finite
        )

    def _refuse_known(self, image_ids: Sequence[str]) -> None:
        earlier: set[str] = set()
        for image_id in image_ids:
            if image_id in self._index or image_id in earlier:
                raise PluginError(
                    f"Image {image_id!r} was given to the metric twice.",
                    fix="score each image once; look for an id that the split lists twice.",
                )
            earlier.add(image_id)

    def _flat_detections(self, image_ids: Sequence[str], preds: Sequence[Detections], first: int) -> FlatDetections:
        counts = [len(pred.scores) for pred in preds]
        flat = FlatDetections(
            images=_image_indices(counts, first),
            labels=_concatenated([pred.labels for pred in preds], np.int32, (0,)),
            scores=_joined_scores([pred.scores for pred in preds]),
            boxes=_concatenated([pred.boxes for pred in preds], np.float32, (0, 4)),
        )
        self._refuse_labels(image_ids, flat.labels, flat.images - first, "prediction", PluginError)
        wrong = np.flatnonzero(~np.isfinite(flat.scores))
        if len(wrong):
            image_id = image_ids[int(flat.images[wrong[0]]) - first]
            raise PluginError(
                f"Image {image_id!r} has a detection with the score {flat.scores[wrong[0]]}; {len(wrong)} detections "
                f"of this chunk have such a score.",
                fix="look for not-a-number in the network's outputs at this stage; scores must be finite.",
            )
        return flat

    def _flat_objects(self, image_ids: Sequence[str], truth: Sequence[DetectionTarget], first: int) -> FlatObjects:
        counts = [len(target.labels) for target in truth]
        flat = FlatObjects(
            images=_image_indices(counts, first),
            labels=_concatenated([target.labels for target in truth], np.int32, (0,)),
            boxes=_concatenated([target.boxes for target in truth], np.float32, (0, 4)),
            difficult=_concatenated([target.difficult for target in truth], np.bool_, (0,)),
            crowds=_concatenated([_crowds(target) for target in truth], np.bool_, (0,)),
            areas=_concatenated([_areas(target) for target in truth], np.float64, (0,)),
        )
        self._refuse_labels(image_ids, flat.labels, flat.images - first, "target", DataError)
        wrong = np.flatnonzero(~np.isfinite(flat.boxes).all(axis=1))
        if len(wrong):
            image_id = image_ids[int(flat.images[wrong[0]]) - first]
            raise DataError(
                f"The annotation of image {image_id!r} has the box {flat.boxes[wrong[0]].tolist()}.",
                fix="correct the annotation: corners are finite numbers of pixels.",
            )
        wrong = np.flatnonzero(~np.isfinite(flat.areas) | (flat.crowds & ~flat.difficult))
        if len(wrong):
            image_id = image_ids[int(flat.images[wrong[0]]) - first]
            raise DataError(
                f"The target of image {image_id!r} has an object with the area {flat.areas[wrong[0]]}, crowd "
                f"{flat.crowds[wrong[0]]} and difficult {flat.difficult[wrong[0]]}.",
                fix="let the dataset give finite areas, and mark every crowd as difficult.",
            )
        return flat

    def _refuse_labels(
        self,
        image_ids: Sequence[str],
        labels: NDArray[np.int32],
        offsets: NDArray[np.int32],
        what: str,
        kind: type[ZooError],
    ) -> None:
        wrong = np.flatnonzero((labels < 0) | (labels >= len(self._class_names)))
        if len(wrong):
            raise kind(
                f"The {what} of image {image_ids[int(offsets[wrong[0]])]!r} has label {labels[wrong[0]]}, but there "
                f"are {len(self._class_names)} classes.",
                fix=f"labels run from 0 to {len(self._class_names) - 1}; background is not a class.",
            )


def _as_detections(image_id: str, pred: Prediction) -> Detections:
    if not isinstance(pred, Detections):
        raise PluginError(
            f"The prediction of image {image_id!r} is a {type(pred).__name__}, which DetectionMetric cannot score.",
            fix="let the plugin's decode return Detections, or its zoo_metric another metric.",
        )
    return pred


def _as_target(image_id: str, target: Target) -> DetectionTarget:
    if not isinstance(target, DetectionTarget):
        raise DataError(
            f"The target of image {image_id!r} is a {type(target).__name__}, which DetectionMetric cannot score.",
            fix="let the dataset's target return a DetectionTarget, or the plugin's zoo_metric another metric.",
        )
    return target


def _crowds(target: DetectionTarget) -> NDArray[np.bool_]:
    return np.zeros(len(target.labels), np.bool_) if target.crowds is None else target.crowds


def _areas(target: DetectionTarget) -> NDArray[np.float64]:
    return box_areas(target.boxes) if target.areas is None else target.areas


def _image_indices(counts: Sequence[int], first: int) -> NDArray[np.int32]:
    return np.repeat(np.arange(first, first + len(counts), dtype=np.int32), counts)


def _concatenated(arrays: Sequence[NDArray[Any]], dtype: type[np.generic], empty: tuple[int, ...]) -> NDArray[Any]:
    # The leading empty array sets the shape when there are no images.
    return np.concatenate([np.zeros(empty, dtype=dtype), *arrays], dtype=dtype, casting="unsafe")


def _joined_scores(scores: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """In float32, but in float64 where a file of another program gave such scores: rounded, they would tie."""
    exact = any(values.dtype == np.float64 for values in scores)
    return _concatenated(scores, np.float64 if exact else np.float32, (0,))


def _joined(blocks: Sequence[FlatDetections], position: NDArray[np.int32]) -> FlatDetections:
    return FlatDetections(
        images=position[_concatenated([block.images for block in blocks], np.int32, (0,))],
        labels=_concatenated([block.labels for block in blocks], np.int32, (0,)),
        scores=_joined_scores([block.scores for block in blocks]),
        boxes=_concatenated([block.boxes for block in blocks], np.float32, (0, 4)),
    )


def _joined_objects(blocks: Sequence[FlatObjects], position: NDArray[np.int32]) -> FlatObjects:
    return FlatObjects(
        images=position[_concatenated([block.images for block in blocks], np.int32, (0,))],
        labels=_concatenated([block.labels for block in blocks], np.int32, (0,)),
        boxes=_concatenated([block.boxes for block in blocks], np.float32, (0, 4)),
        difficult=_concatenated([block.difficult for block in blocks], np.bool_, (0,)),
        crowds=_concatenated([block.crowds for block in blocks], np.bool_, (0,)),
        areas=_concatenated([block.areas for block in blocks], np.float64, (0,)),
    )
