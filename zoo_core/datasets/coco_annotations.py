"""Reads COCO's annotation file and checks all of it; polygons are dropped.

Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_core.datasets.labels import check_class_names, read_label_file
from zoo_core.datasets.reading import name_problem, read_file
from zoo_core.datatypes import ImageSize
from zoo_core.errors import DataError, closest_hint

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_BYTES = 1 << 31
_MAX_PROBLEMS = 10
_ID_DIGITS = 12
_MAX_ID = 10**18  # far inside int64, far beyond any data set
# 1e6 lies beyond any image and far inside what float32 holds to a fraction of a pixel.
_MAX_COORDINATE = 1e6
# Everything else, above all polygons, is dropped during parsing, before the next object is read.
_KEPT = frozenset(
    {"images", "annotations", "categories", "id", "name", "file_name", "width", "height"}
    | {"image_id", "category_id", "bbox", "area", "iscrowd"}
)
_FIX = "correct the file by https://cocodataset.org/#format-data, or restore it from its archive."


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoImage:
    """One entry of ``images``; ``first`` and ``last`` bound its rows in the annotations, which are sorted by image."""

    number: int
    file_name: str
    size: ImageSize
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoObjects:
    """All objects of the split, sorted by image and in the file's order within an image."""

    boxes: NDArray[np.float64]  # (M, 4), x, y, width, height as written
    labels: NDArray[np.int64]  # (M,)
    areas: NDArray[np.float64]  # (M,)
    crowds: NDArray[np.bool_]  # (M,)


class CocoAnnotations:
    """Content of an annotation file, completely checked on construction.

    Args:
        path: The file.
        label_file: See ``CocoDetection``.

    Attributes:
        class_names: Index is the label.
        category_ids: The file's id of each class.
        images: By image id, in the file's order.
        objects: Of all images.

    Raises:
        DataError: The file or the label file cannot be used; all problems of one kind of entry are listed together.
    """

    def __init__(self, path: Path, label_file: Path | None) -> None:
        self._path = path
        self._problems: list[str] = []
        self._num_problems = 0
        content = _load(path)
        labels = self._categories(content["categories"], label_file)
        self._raise()
        images = self._read_images(content["images"])
        self._raise()
        self.images, self.objects = self._read_annotations(content["annotations"], images, labels)
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
                self._report(where, f"id {number} is already used by {names[number]!r}")
            elif not isinstance(name, str) or name in names.values():
                self._report(where, f"name is {_show(name)}, which is not text or is already used")
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
                    f"{closest_hint(missing[0], numbers)}.",
                    fix="name the classes as the annotation file does.",
                )
            self.category_ids = tuple(numbers[name] for name in self.class_names)
        self._category_names = names
        return {number: label for label, number in enumerate(self.category_ids)}

    def _read_images(self, entries: Sequence[Any]) -> dict[int, tuple[str, ImageSize]]:
        images: dict[int, tuple[str, ImageSize]] = {}
        files: set[str] = set()
        for index, entry in enumerate(entries):
            where = f"images[{index}]"
            number, file_name = _get(entry, "id"), _get(entry, "file_name")
            width, height = _get(entry, "width"), _get(entry, "height")
            if not _is_id(number):
                self._report(where, f"id is {_show(number)}, not a whole number")
            elif number in images:
                self._report(where, f"id {number} is already used by another image")
            elif problem := _file_name_problem(file_name):
                self._report(where, f"file_name {_show(file_name)} {problem}")
            elif file_name in files:
                self._report(where, f"file_name {_show(file_name)} is already used by another image")
            elif not (_is_id(width) and _is_id(height) and 0 < width < 2**20 and 0 < height < 2**20):
                self._report(where, f"the size is {_show(width)} x {_show(height)}, not whole numbers of pixels")
            else:
                images[number] = (file_name, ImageSize(width, height))
                files.add(file_name)
        if not entries:
            self._report("images", "the list is empty")
        return images

    def _read_annotations(
        self, entries: Sequence[Any], images: Mapping[int, tuple[str, ImageSize]], labels: Mapping[int, int]
    ) -> tuple[dict[str, CocoImage], CocoObjects]:
        order = {number: index for index, number in enumerate(images)}
        owners = np.empty(len(entries), np.int64)
        boxes = np.zeros((len(entries), 4))
        areas = np.zeros(len(entries))
        chosen = np.zeros(len(entries), np.int64)
        crowds = np.zeros(len(entries), np.bool_)
        places: dict[int, int] = {}  # of each id, which a file may leave out
        for index, entry in enumerate(entries):
            number = _get(entry, "id")
            first = places.setdefault(number, index) if _is_id(number) else index
            problem = self._problem(entry, order, labels)
            if first != index:
                problem = f"id {number} is that of annotations[{first}] already"
            elif problem is None:
                problem = _outside(entry["bbox"], images[entry["image_id"]][1])
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
            f"{number:0{_ID_DIGITS}d}": CocoImage(number=number, file_name=file_name, size=size, first=low, last=high)
            for (number, (file_name, size)), (low, high) in zip(images.items(), pairwise(edges), strict=True)
        }
        table = CocoObjects(boxes=boxes[sorting], labels=chosen[sorting], areas=areas[sorting], crowds=crowds[sorting])
        return split, table

    def _problem(self, entry: Any, images: Mapping[int, int], labels: Mapping[int, int]) -> str | None:
        image, category = _get(entry, "image_id"), _get(entry, "category_id")
        if not _is_id(image) or image not in images:
            return f"image_id is {_show(image)}, but no image has this id"
        if not _is_id(category) or category not in labels:
            name = self._category_names.get(category) if _is_id(category) else None
            known = f"{name!r}, which is not in the label file" if name else "but no category has this id"
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


def _outside(box: Sequence[float], size: ImageSize) -> str | None:
    x, y, width, height = box
    # A box of no width on the very border is kept: rounding of polygons makes such boxes.
    if x > size.width_px or y > size.height_px or x + width < 0 or y + height < 0:
        return f"bbox is {_show(box)}, wholly outside the image of {size.width_px} x {size.height_px} pixels"
    return None


def read_category_ids(root: Path, split: str, class_names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the annotation file's id of each class; None if ``root`` has no such file.

    Raises:
        DataError: The file cannot be read, or lacks a class.
    """
    path = root / "annotations" / f"instances_{split}.json"
    if name_problem(split) is not None or not path.is_file():
        return None
    numbers = {_get(entry, "name"): _get(entry, "id") for entry in _load(path)["categories"]}
    missing = [name for name in class_names if not _is_id(numbers.get(name))]
    if missing:
        raise DataError(f"{path} has no category {missing[0]!r}.", fix="name the classes as the annotation file does.")
    return tuple(numbers[name] for name in class_names)


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
    # Infinity and not-a-number are not below the limit either, and an integer too large for a float still compares.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < limit


def _show(value: Any) -> str:
    return repr(value)[:80]


def _file_name_problem(name: Any) -> str | None:
    """Return the reason why a file name cannot be used below the image folder, or None; subfolders are allowed."""
    if not isinstance(name, str):
        return "is not text"
    for part in name.split("/"):
        problem = name_problem(part, spaces=True)
        if problem is not None:
            return problem if part else "is empty, or starts or ends with '/'"
    return None
