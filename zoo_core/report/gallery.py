"""The images that changed most: ground truth and both stages side by side, small enough to travel in the page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from zoo_core.comparison.detections import most_changed
from zoo_core.datatypes import Detections, DetectionTarget, ImageSize
from zoo_core.errors import ZooError
from zoo_core.report.loading import predictions_of, targets_of
from zoo_core.tasks.drawing import DrawnBox, detection_boxes, object_boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.comparison.detections import ImageChanges
    from zoo_core.report.loading import LoadedRun

NUM_IMAGES = 24
"""Images in the gallery: enough to see a pattern, few enough to look at."""

SIDE_PX = 340
"""Longest side of a picture in the gallery."""

FONT_PX = 12.0

_JPEG_QUALITY = 80
BYTES_BUDGET = 2_500_000
"""Limit of a gallery's pictures: half of the page's limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture of an image.

    Attributes:
        title: Ground truth, or the stage.
        boxes: In pixels of the picture.
    """

    title: str
    boxes: Sequence[DrawnBox]


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryImage:
    """An image that changed.

    Attributes:
        image_id: Its id.
        picture: The image as a data URI; empty where the data is gone.
        width: Of the picture, in pixels.
        height: Of the picture.
        panels: Side by side.
        tokens: ``<kind>:<label>`` for each change, e.g. ``lost:3``; what the filters look at.
        words: The changes in words.
    """

    image_id: str
    picture: str
    width: int
    height: int
    panels: Sequence[Panel]
    tokens: Sequence[str]
    words: str


def build_gallery(run: LoadedRun, changes: Mapping[str, ImageChanges]) -> list[GalleryImage]:
    """Draw the images that changed most, most first; an image that cannot be read is drawn without its picture.

    Fewer than ``NUM_IMAGES`` where fewer changed, or where the pictures would take more than half of what a page may
    weigh.
    """
    if run.pair is None:  # changes exist between two stages only
        raise ValueError("a gallery needs two stages")
    seen, targets = predictions_of(run, Detections), targets_of(run, DetectionTarget)
    images: list[GalleryImage] = []
    weight = 0
    for image_id in most_changed(changes, NUM_IMAGES):
        before, after = (seen[stage][image_id] for stage in run.pair)
        image = _gallery_image(run, image_id, before, after, targets.get(image_id), changes[image_id])
        weight += len(image.picture)
        if weight > BYTES_BUDGET:
            run.gaps.append(f"The gallery stops at {len(images)} images: more would make the page too large.")
            break
        images.append(image)
    return images


def _gallery_image(
    run: LoadedRun,
    image_id: str,
    before: Detections,
    after: Detections,
    target: DetectionTarget | None,
    changes: ImageChanges,
) -> GalleryImage:
    first, second = run.pair or ("", "")
    pixels = read_pixels(run, image_id)
    size = ImageSize(pixels.shape[1], pixels.shape[0]) if pixels is not None else _size_around(before, after)
    scale = min(1.0, SIDE_PX / max(size))
    names = run.class_names
    panels = [
        Panel(
            title=first,
            boxes=detection_boxes(before, names, size, scale, FONT_PX, changes=changes, side="before"),
        ),
        Panel(title=second, boxes=detection_boxes(after, names, size, scale, FONT_PX, changes=changes, side="after")),
    ]
    if target is not None:
        panels.insert(0, Panel(title="ground truth", boxes=object_boxes(target, names, size, scale, FONT_PX)))
    width, height = max(1, round(size.width_px * scale)), max(1, round(size.height_px * scale))
    tokens = _tokens(changes, before, after)
    return GalleryImage(
        image_id=image_id,
        picture="" if pixels is None else data_uri(pixels, width, height),
        width=width,
        height=height,
        panels=panels,
        tokens=tokens,
        words=changes.summary,
    )


def token_classes(tokens: Iterable[Sequence[str]], class_names: Sequence[str]) -> list[tuple[int, str]]:
    """Label and name of the classes that a gallery's filter offers, by name.

    Args:
        tokens: Of each image, ``<kind>:<label>``.
        class_names: Index is the label; what has no name is not offered.
    """
    labels = {int(token.rpartition(":")[2]) for image in tokens for token in image}
    return sorted(
        ((label, class_names[label]) for label in labels if 0 <= label < len(class_names)), key=lambda pair: pair[1]
    )


def _tokens(changes: ImageChanges, before: Detections, after: Detections) -> list[str]:
    found = {f"lost:{label}" for label in before.labels[changes.lost].tolist()}
    found |= {f"gained:{label}" for label in after.labels[changes.gained].tolist()}
    found |= {f"moved:{label}" for label in before.labels[changes.moved[:, 0]].tolist()}
    return sorted(found)


def read_pixels(run: LoadedRun, image_id: str) -> NDArray[np.uint8] | None:
    """The image of an id; None, with a gap noted where it should be there, without it."""
    if run.dataset is None:
        return None
    try:
        return run.dataset.image(image_id)
    except ZooError as error:
        run.gaps.append(f"The gallery lacks a picture: {error.fact}")
        return None


def _size_around(before: Detections, after: Detections) -> ImageSize:
    """The smallest image that holds every box, for one whose size is not known any more."""
    boxes = np.concatenate([before.boxes, after.boxes])
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    corner = np.clip(boxes[:, 2:].max(axis=0, initial=1.0), 1.0, 1e5)
    return ImageSize(int(np.ceil(corner[0])), int(np.ceil(corner[1])))


def data_uri(pixels: NDArray[np.uint8], width: int, height: int) -> str:
    """The image, ``(H, W, 3)`` uint8 RGB, at another size as an inline JPEG."""
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise ValueError(f"cv2.imencode refused an image of {width} x {height} pixels")
    encoded = cast("NDArray[np.uint8]", data).tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode('ascii')}"
