"""COCO detection data on disk: a folder of images and ``annotations/instances_<split>.json``.

pycocotools is not used here: it prints, keeps every polygon, follows any file name in an annotation, and accepts
unknown ids and boxes of negative size. The rules that the metric needs are in ``metrics/coco.py``.

Layout and annotation format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.datasets.coco_annotations import CocoAnnotations, CocoImage
from zoo_core.datasets.coco_results import write_coco_results
from zoo_core.datasets.images import MAX_PIXELS, read_image
from zoo_core.datasets.reading import name_problem, read_file
from zoo_core.datatypes import DetectionTarget, Prediction
from zoo_core.errors import DataError, closest_hint

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CocoDetection:
    """One split of a dataset in COCO layout; implements ``EvalDataset``.

    Opening it reads and checks the whole annotation file, except for its polygons; images are read on demand. An
    image's id is its number in the file, padded with zeros to 12 digits as in COCO's own file names. Every method may
    be called from several threads.

    Args:
        root: The folder that holds ``annotations``; the images lie in ``<split>``, ``images/<split>`` or ``images``.
        split: ``val2017`` for ``annotations/instances_val2017.json``.
        label_file: See ``read_label_file``; sets the order of the classes, which are matched by name. None sorts the
            file's categories by their ids, which may have gaps.
        name: Display name.
        max_pixels: Larger images are refused before they are decoded.

    Attributes:
        category_ids: The file's id of each class.

    Raises:
        DataError: The folder, the split, the annotation file or the label file cannot be used; all problems of the
            annotation file are listed together.
    """

    submission_format = "coco"

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        label_file: Path | None = None,
        name: str = "COCO",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.name = name
        self.split = split
        self.root = root
        self.annotation_path = _annotation_path(root, split)
        self._max_pixels = max_pixels
        annotations = CocoAnnotations(self.annotation_path, label_file)
        self.class_names, self.category_ids = annotations.class_names, annotations.category_ids
        self._images, self._objects = annotations.images, annotations.objects
        self.ids = tuple(self._images)
        self._folder = _image_folder(root, split)

    def image_path(self, image_id: str) -> Path:
        """Return the image's path; the file may be missing. Raises DataError when the id is not in this split."""
        return self._folder / self._image(image_id).file_name

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Return ``(H, W, 3)`` uint8 RGB; an EXIF orientation is applied only if the annotated size requires it.

        Raises:
            DataError: The file is missing, truncated, damaged or too large, see ``read_image``; or its size differs
                from the annotated one, so that the boxes do not fit it.
        """
        path, size = self.image_path(image_id), self._image(image_id).size
        image = read_image(path, max_pixels=self._max_pixels, orient=False)
        if image.shape[:2] != (size.height_px, size.width_px):
            # The size shows whether boxes were drawn on the image as stored or as displayed.
            image = read_image(path, max_pixels=self._max_pixels)
        height, width = image.shape[:2]
        if (width, height) != size:
            raise DataError(
                f"{path} has {width} x {height} pixels; {self.annotation_path} says {size.width_px} x "
                f"{size.height_px}.",
                fix="restore the image, or correct width and height: boxes are in pixels of this image.",
            )
        return image

    def target(self, image_id: str) -> DetectionTarget:
        """Return the annotated objects, in the file's order; crowds are difficult, boxes ``x, y, x + w, y + h``.

        Raises:
            DataError: The id is not in this split.
        """
        rows, objects = self._rows(image_id), self._objects
        boxes = objects.boxes[rows].copy()
        boxes[:, 2:] += boxes[:, :2]
        return DetectionTarget(
            boxes=boxes.astype(np.float32),
            labels=objects.labels[rows].copy(),
            difficult=objects.crowds[rows].copy(),
            crowds=objects.crowds[rows].copy(),
            areas=objects.areas[rows].copy(),
        )

    def content_hash(self, image_id: str) -> str:
        """Return the SHA-256 over the image's bytes and its annotation, each preceded by its length (8 bytes).

        The annotation is hashed as JSON of the values used: width, height, and class name, box, area and crowd of each
        object. Polygons and the order of keys do not change the hash.

        Raises:
            DataError: The file is missing or cannot be read, or the id is not in this split.
        """
        rows, objects = self._rows(image_id), self._objects
        names = [self.class_names[label] for label in objects.labels[rows]]
        values = (objects.boxes[rows].tolist(), objects.areas[rows].tolist(), objects.crowds[rows].tolist())
        entries = [list(item) for item in zip(names, *values, strict=True)]
        annotation = json.dumps([list(self._image(image_id).size), entries]).encode()
        digest = hashlib.sha256()
        for data in (read_file(self.image_path(image_id), max_bytes=1 << 29), annotation):
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return digest.hexdigest()

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        """Write ``detections.json``, which pycocotools' ``loadRes`` reads; see ``write_coco_results``."""
        numbers = {image_id: image.number for image_id, image in self._images.items()}
        write_coco_results(directory / "detections.json", predictions, numbers, self.category_ids)

    def _image(self, image_id: str) -> CocoImage:
        try:
            return self._images[image_id]
        except KeyError:
            raise DataError(
                f"Image id {image_id[:80]!r} is not in {self.annotation_path}"
                f"{closest_hint(image_id, self.ids[:10_000])}.",
                fix="use the image's id in the file, padded with zeros to 12 digits.",
            ) from None

    def _rows(self, image_id: str) -> slice:
        image = self._image(image_id)
        return slice(image.first, image.last)


def _annotation_path(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise DataError(f"{root} is not a directory.", fix="give --data the folder that holds COCO's annotations.")
    folder = root / "annotations"
    path = folder / f"instances_{split}.json"
    if name_problem(split) is None and path.is_file():
        return path
    splits = sorted(file.stem.removeprefix("instances_") for file in folder.glob("instances_*.json"))
    if not splits:
        raise DataError(
            f"{root} is not a data set in COCO layout: it has no annotations/instances_<split>.json.",
            fix=f"give --data the folder with annotations/instances_{split[:80]}.json and the folder {split[:80]} of "
            "images.",
        )
    raise DataError(
        f"{folder} has no instances_{split[:80]}.json{closest_hint(split, splits)}.",
        fix=f"use one of {', '.join(splits)}.",
    )


def _image_folder(root: Path, split: str) -> Path:
    """Return the image folder; it may be missing, since scoring stored detections needs no images."""
    folders = (root / split, root / "images" / split, root / "images")
    return next((folder for folder in folders if folder.is_dir()), folders[0])
