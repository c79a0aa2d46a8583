"""Predictions and targets: what a network says about an image, and what is true of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from zoo_core.errors import PluginError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self


Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class ImageSize(NamedTuple):
    """Size of an image before preprocessing, in pixels."""

    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Prediction for one image: named arrays with a common first axis.

    A subclass declares its arrays as fields; the prediction store writes and reads them by field name, so a new
    task needs no change there.
    """

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the fields by name, not copied."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def without_rows(self) -> Self:
        """Return what is scored for an image whose outputs are not finite; here the prediction itself.

        A subclass whose arrays list detections or classes overrides it and returns empty arrays, so that such an image
        counts as wrong. A prediction that covers the whole image, such as a mask, has no empty form: what ``decode``
        makes of outputs of zeros is scored then.
        """
        return self


def _no_rows(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: array[:0] for name, array in arrays.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections(Prediction):
    """Detections in one image, highest score first.

    Attributes:
        boxes: ``(N, 4)`` float32, ``xyxy`` in absolute pixels of the original image, 0-based; not clipped.
        scores: ``(N,)`` float32 in ``[0, 1]``; float64, any finite number, where another program's file is read.
        labels: ``(N,)`` int64, 0-based class index; background is not a class.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.floating[Any]]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        shapes = (self.boxes.shape, self.scores.shape, self.labels.shape)
        num_detections = len(self.scores)
        if shapes != ((num_detections, 4), (num_detections,), (num_detections,)):
            raise PluginError(
                f"Detections have boxes, scores and labels of shapes {shapes}.",
                fix="return boxes (N, 4), scores (N,), labels (N,) of one N; N is 0 when empty.",
            )

    def without_rows(self) -> Detections:
        """Return empty arrays of the same types."""
        return Detections(**_no_rows(self.arrays()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classification(Prediction):
    """Ranked classes of one image, most probable first.

    Attributes:
        labels: ``(N,)`` int64, 0-based class index, each at most once. Classes may be missing if they are less
            probable than every class in the list.
        scores: ``(N,)`` float64 probabilities in ``[0, 1]``, descending. In float64, so that two logits which differ
            in the last bit of a float32 do not become a tie; a protocol defines how ties are broken.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        shapes = (self.labels.shape, self.scores.shape)
        if shapes != ((len(self.scores),), (len(self.scores),)):
            raise PluginError(
                f"A classification has labels and scores of shapes {shapes}.",
                fix="return labels (N,) and scores (N,) of one N, the most probable class first.",
            )

    def without_rows(self) -> Classification:
        """Return empty arrays of the same types."""
        return Classification(**_no_rows(self.arrays()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """Ground truth of one image; base class of a task's targets."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectionTarget(Target):
    """Annotated objects of one image.

    Attributes:
        boxes: ``(M, 4)`` float32, ``xyxy`` in absolute pixels, 0-based (VOC's 1-based corners minus one).
        labels: ``(M,)`` int64, 0-based class index.
        difficult: ``(M,)`` bool; such an object counts neither as found nor as missed.
        crowds: ``(M,)`` bool; the box encloses a group annotated as one, COCO's ``iscrowd``. Crowds are also
            difficult. None if there are no crowds.
        areas: ``(M,)`` float64, area of the object itself in square pixels, COCO's ``area``, which divides objects
            into small, medium and large. None uses the boxes' areas.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    crowds: NDArray[np.bool_] | None = None
    areas: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassTarget(Target):
    """Annotated class of one image.

    Attributes:
        label: 0-based class index.
    """

    label: int
