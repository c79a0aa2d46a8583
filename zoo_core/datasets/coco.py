"""COCO detection data on disk: a folder of images and ``annotations/instances_<split>.json``.

pycocotools does not serve here: it prints, keeps every polygon, follows whatever file name an annotation states, and
takes unknown ids and boxes of negative size as they are. What the metric needs of its rules is in ``metrics/coco.py``.

Layout and annotation format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_core.datasets.coco_results import write_coco_results
from zoo_core.datasets.images import MAX_PIXELS, read_image
from zoo_core.datasets.labels import check_class_names, read_label_file
from zoo_core.datasets.reading import closest, name_problem, read_file
from zoo_core.datatypes import DetectionTarget, ImageSize, Prediction
from zoo_core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_BYTES = 1 << 31
_MAX_PROBLEMS = 10
_ID_DIGITS = 12
_MAX_ID = 10**18  # far inside int64, far beyond any data set
# 1e6 lies beyond any image and far inside what float32 holds to a fraction of a pixel.
_MAX_COORDINATE = 1e6
# Everything else, polygons above all, is dropped while the file is parsed: of COCO's train2017 they are nine tenths.
_KEPT = frozenset(
    {"images", "annotations", "categories", "id", "name", "file_name", "width", "height"}
    | {"image_id", "category_id", "bbox", "area", "iscrowd"}
)
_FIX = "correct the file by https://cocodataset.org/#format-data, or restore it from its archive."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """One entry of ``images``; ``first`` and ``last`` bound its rows in the annotations, which are sorted by image."""

    number: int
    file_name: str
    size: ImageSize
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Annotations:
    """Every object of the split, sorted by image, inside an image in the file's order."""

    boxes: NDArray[np.float64]  # (M, 4), x, y, width, height as written
    labels: NDArray[np.int64]  # (M,)
    areas: NDArray[np.float64]  # (M,)
    crowds: NDArray[np.bool_]  # (M,)


class CocoDetection:
    """One split of a dataset in COCO layout; implements ``EvalDataset``.

    Opening it reads and checks the whole annotation file, without its polygons; images are read when asked for. An
    image's id is its number in the file, filled with zeros to 12 digits as in COCO's own file names. Every method may
    be called from several threads.

    Args:
        root: The folder that holds ``annotations``; the images lie in ``<split>``, ``images/<split>`` or ``images``.
        split: ``val2017`` for ``annotations/instances_val2017.json``.
        label_file: See ``read_label_file``; gives the order of the classes, which are found by name. None sorts the
            file's categories by their ids, whatever gaps these have.
        name: For people.
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
        parser = _Parser(self.annotation_path, label_file)
        self.class_names, self.category_ids = parser.class_names, parser.category_ids
        self._images, self._annotations = parser.images, parser.annotations
        self.ids = tuple(self._images)
        self._folder = _image_folder(root, split)

    def image_path(self, image_id: str) -> Path:
        """Return the image's file, which need not exist. Raises DataError when the id is not of this split."""
        return self._folder / self._image(image_id).file_name

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Return ``(H, W, 3)`` uint8 RGB, as stored: an EXIF orientation is applied only where the annotated size asks.

        Raises:
            DataError: The file is missing, truncated, damaged or too large, see ``read_image``; or it has another size
                than the annotation file says, so that the boxes are not this picture's.
        """
        path, size = self.image_path(image_id), self._image(image_id).size
        image = read_image(path, max_pixels=self._max_pixels, orient=False)
        if image.shape[:2] != (size.height_px, size.width_px):
            # The size tells whether boxes were drawn on the picture as it is stored or as it is shown.
            image = read_image(path, max_pixels=self._max_pixels)
        height, width = image.shape[:2]
        if (width, height) != size:
            raise DataError(
                f"{path} has {width} x {height} pixels; {self.annotation_path} says {size.width_px} x "
                f"{size.height_px}.",
                fix="restore the image, or correct width and height: boxes are in pixels of this very picture.",
            )
        return image

    def target(self, image_id: str) -> DetectionTarget:
        """Return the annotated objects, in the file's order; crowds are difficult, boxes ``x, y, x + w, y + h``.

        Raises:
            DataError: The id is not of this split.
        """
        rows, found = self._rows(image_id), self._annotations
        boxes = found.boxes[rows].copy()
        boxes[:, 2:] += boxes[:, :2]
        return DetectionTarget(
            boxes=boxes.astype(np.float32),
            labels=found.labels[rows].copy(),
            difficult=found.crowds[rows].copy(),
            crowds=found.crowds[rows].copy(),
            areas=found.areas[rows].copy(),
        )

    def content_hash(self, image_id: str) -> str:
        """Return the SHA-256 over the image's bytes and its annotation, each preceded by its length (8 bytes).

        The annotation is hashed as JSON of what is used: width, height, and of each object class name, box, area and
        crowd. So a polygon or an order of keys does not change it.

        Raises:
            DataError: The file is missing or cannot be read, or the id is not of this split.
        """
        rows, found = self._rows(image_id), self._annotations
        names = [self.class_names[label] for label in found.labels[rows]]
        values = (found.boxes[rows].tolist(), found.areas[rows].tolist(), found.crowds[rows].tolist())
        objects = [list(item) for item in zip(names, *values, strict=True)]
        annotation = json.dumps([list(self._image(image_id).size), objects]).encode()
        digest = hashlib.sha256()
        for data in (read_file(self.image_path(image_id), max_bytes=1 << 29), annotation):
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return digest.hexdigest()

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        """Write ``detections.json``, which pycocotools' ``loadRes`` reads; see ``write_coco_results``."""
        numbers = {image_id: image.number for image_id, image in self._images.items()}
        write_coco_results(directory / "detections.json", predictions, numbers, self.category_ids)

    def _image(self, image_id: str) -> _Image:
        try:
            return self._images[image_id]
        except KeyError:
            raise DataError(
                f"Image id {image_id[:80]!r} is not in {self.annotation_path}{closest(image_id, self.ids[:10_000])}.",
                fix="use the image's id in the file, filled with zeros to 12 digits.",
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
            f"{root} is no data set in COCO layout: it holds no annotations/instances_<split>.json.",
            fix=f"give --data the folder with annotations/instances_{split[:80]}.json and the folder {split[:80]} of "
            "images.",
        )
    raise DataError(
        f"{folder} has no instances_{split[:80]}.json{closest(split, splits)}.", fix=f"use one of {', '.join(splits)}."
    )


def _image_folder(root: Path, split: str) -> Path:
    """The folder of the images; it may be absent, since scoring stored detections needs no image."""
    folders = (root / split, root / "images" / split, root / "images")
    return next((folder for folder in folders if folder.is_dir()), folders[0])


class _Parser:
    """Reads an annotation file and checks it as a whole."""

    def __init__(self, path: Path, label_file: Path | None) -> None:
        self._path = path
        self._problems: list[str] = []
        self._num_problems = 0
        content = _load(path)
        labels = self._categories(content["categories"], label_file)
        self._raise()
        images = self._read_images(content["images"])
        self._raise()
        self.images, self.annotations = self._read_annotations(content["annotations"], images, labels)
        self._raise()

    def _report(self, where: str, problem: str) -> None:
        self._num_problems += 1
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(f"{self._path}: {where}: {problem}.")

    def _raise(self) -> None:
        more = self._num_problems - len(self._problems)
        if self._problems:
            raise DataError("\n".join([*self._problems, *([f"... and {more} more."] if more else [])]), fix=_FIX)

    def _categories(self, entries: Sequence[Any], label_file: Path | None) -> dict[int, int]:
        """Set the classes; return the label of each category that has one."""
        names: dict[int, str] = {}
        for index, entry in enumerate(entries):
            where = f"categories[{index}]"
            number, name = _get(entry, "id"), _get(entry, "name")
            if not _is_id(number):
                self._report(where, f"id is {_show(number)}, not a whole number")
            elif number in names:
                self._report(where, f"id {number} is taken by {names[number]!r} already")
            elif not isinstance(name, str) or name in names.values():
                self._report(where, f"name is {_show(name)}, which is no text or stands there already")
            else:
                names[number] = name
        self._raise()
        if label_file is None:
            self.category_ids = tuple(sorted(names))
            self.class_names = check_class_names(tuple(names[number] for number in self.category_ids))
        else:
            numbers = {name: number for number, name in names.items()}
            self.class_names = read_label_file(label_file)
            missing = [name for name in self.class_names if name not in numbers]
            if missing:
                raise DataError(
                    f"{label_file} names the class {missing[0]!r}, but {self._path} has no such category"
                    f"{closest(missing[0], numbers)}.",
                    fix="name the classes as the annotation file does.",
                )
            self.category_ids = tuple(numbers[name] for name in self.class_names)
        self._category_names = names
        return {number: label for label, number in enumerate(self.category_ids)}

    def _read_images(self, entries: Sequence[Any]) -> dict[int, tuple[str, ImageSize]]:
        found: dict[int, tuple[str, ImageSize]] = {}
        files: set[str] = set()
        for index, entry in enumerate(entries):
            where = f"images[{index}]"
            number, file_name = _get(entry, "id"), _get(entry, "file_name")
            width, height = _get(entry, "width"), _get(entry, "height")
            if not _is_id(number):
                self._report(where, f"id is {_show(number)}, not a whole number")
            elif number in found:
                self._report(where, f"id {number} stands in another image already")
            elif problem := _file_name_problem(file_name):
                self._report(where, f"file_name {_show(file_name)} {problem}")
            elif file_name in files:
                self._report(where, f"file_name {_show(file_name)} stands in another image already")
            elif not (_is_id(width) and _is_id(height) and 0 < width < 2**20 and 0 < height < 2**20):
                self._report(where, f"the size is {_show(width)} x {_show(height)}, not whole numbers of pixels")
            else:
                found[number] = (file_name, ImageSize(width, height))
                files.add(file_name)
        if not entries:
            self._report("images", "the list is empty")
        return found

    def _read_annotations(
        self, entries: Sequence[Any], images: Mapping[int, tuple[str, ImageSize]], labels: Mapping[int, int]
    ) -> tuple[dict[str, _Image], _Annotations]:
        order = {number: index for index, number in enumerate(images)}
        owners = np.empty(len(entries), np.int64)
        boxes = np.zeros((len(entries), 4))
        areas = np.zeros(len(entries))
        chosen = np.zeros(len(entries), np.int64)
        crowds = np.zeros(len(entries), np.bool_)
        for index, entry in enumerate(entries):
            problem = self._problem(entry, order, labels)
            if problem is not None:
                self._report(f"annotations[{index}]", problem)
                continue
            box, crowd = entry["bbox"], entry.get("iscrowd", 0)
            owners[index], chosen[index], crowds[index] = order[entry["image_id"]], labels[entry["category_id"]], crowd
            boxes[index], areas[index] = box, entry.get("area", box[2] * box[3])
        self._raise()
        sorting = np.argsort(owners, kind="stable")
        edges = np.searchsorted(owners[sorting], np.arange(len(images) + 1)).tolist()
        split = {
            f"{number:0{_ID_DIGITS}d}": _Image(number=number, file_name=file_name, size=size, first=low, last=high)
            for (number, (file_name, size)), (low, high) in zip(images.items(), pairwise(edges), strict=True)
        }
        found = _Annotations(boxes=boxes[sorting], labels=chosen[sorting], areas=areas[sorting], crowds=crowds[sorting])
        return split, found

    def _problem(self, entry: Any, images: Mapping[int, int], labels: Mapping[int, int]) -> str | None:
        image, category = _get(entry, "image_id"), _get(entry, "category_id")
        if not _is_id(image) or image not in images:
            return f"image_id is {_show(image)}, which no image has"
        if not _is_id(category) or category not in labels:
            name = self._category_names.get(category) if _is_id(category) else None
            known = f"{name!r}, which the label file does not name" if name else "which no category has"
            return f"category_id is {_show(category)}, {known}"
        if _get(entry, "iscrowd") not in (None, 0, 1):
            return f"iscrowd is {_show(entry['iscrowd'])}, neither 0 nor 1"
        box = _get(entry, "bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            return f"bbox is {_show(box)}, not [x, y, width, height] in pixels"
        if box[2] < 0 or box[3] < 0:
            return f"bbox is {_show(box)}: width or height is negative"
        if "area" in entry and not (_is_number(entry["area"], 1e12) and entry["area"] >= 0):
            return f"area is {_show(entry['area'])}, not a number of square pixels"
        return None


def _load(path: Path) -> dict[str, list[Any]]:
    data = read_file(path, max_bytes=_MAX_BYTES)
    try:
        content = json.loads(data, object_hook=_lean)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {str(error).splitlines()[0][:200]}.", fix=_FIX) from error
    lists = ("images", "annotations", "categories")
    missing = [key for key in lists if not isinstance(_get(content, key), list)]
    if missing:
        raise DataError(f"{path} has no list {' and no list '.join(map(repr, missing))}.", fix=_FIX)
    return {key: content[key] for key in lists}


def _lean(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key in _KEPT}


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_ID


def _is_number(value: Any, limit: float = _MAX_COORDINATE) -> bool:
    # Infinity and not-a-number are not below the limit either, and a whole number beyond a float compares as it is.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < limit


def _show(value: Any) -> str:
    return repr(value)[:80]


def _file_name_problem(name: Any) -> str | None:
    """Say why a file name cannot be used below the folder of images; folders inside it are allowed."""
    if not isinstance(name, str):
        return "is no text"
    for part in name.split("/"):
        problem = name_problem(part, spaces=True)
        if problem is not None:
            return problem if part else "is empty, or begins or ends with '/'"
    return None
