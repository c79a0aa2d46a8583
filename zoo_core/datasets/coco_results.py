"""COCO's results format: one JSON list, an object for each detection.

An object is ``{"image_id": 42, "category_id": 3, "bbox": [x, y, width, height], "score": 0.9}`` with 0-based pixels;
other keys are ignored. The file does not define which image 42 is, nor which class 3 is; both rules are stated below.
Source: https://cocodataset.org/#format-results.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_core.datasets.reading import read_file
from zoo_core.datatypes import Detections, Prediction
from zoo_core.errors import DataError, PluginError, closest_hint

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 1 << 31
_MAX_NUMBER = 3e38  # a little further a float32 is infinite
_FIX = 'write [{"image_id": 42, "category_id": 3, "bbox": [x, y, width, height], "score": 0.9}, ...].'


def read_coco_results(
    path: Path,
    class_names: Sequence[str],
    image_ids: Sequence[str],
    *,
    first_category: int = 1,
    category_ids: Sequence[int] | None = None,
) -> dict[str, Detections]:
    """Return the detections of every image that has some, highest score first, ties in the file's order.

    A box is ``x, y, x + width, y + height``: no pixel is added. Scores are float64, since rounding would make ties.

    Args:
        path: The JSON file.
        class_names: Category ``first_category + i`` is class i, unless ``category_ids`` are given.
        image_ids: The split's ids. Text must equal an id; a number means the id whose digits form that number: 42 is
            ``000042``, and 2007000042 is ``2007_000042``.
        first_category: ``category_id`` of the first class: 1 in VOC's usual conversion.
        category_ids: ``category_id`` of each class, if annotations define them; ``first_category`` is then ignored.

    Raises:
        DataError: The file is not such a list; a category, an image or a number in it cannot be used. Names the first
            bad entry.
    """
    entries = _read_list(path)
    known = _ImageNumbers(path, image_ids)
    if category_ids is None:
        category_ids = range(first_category, first_category + len(class_names))
    label_of = {number: label for label, number in enumerate(category_ids)}
    names: list[str] = []
    numbers = np.empty((len(entries), 5), dtype=np.float64)
    labels = np.empty(len(entries), dtype=np.int64)
    for index, entry in enumerate(entries):
        where = f"{path}: entry {index}"
        if not isinstance(entry, dict):
            raise DataError(f"{where} is not a JSON object.", fix=_FIX)
        names.append(known.find(entry.get("image_id"), where))
        labels[index] = _label(entry.get("category_id"), label_of, where)
        numbers[index] = _numbers(entry, where)
    boxes = numbers[:, 1:].copy()
    boxes[:, 2:] += boxes[:, :2]
    return _by_image(names, numbers[:, 0].copy(), boxes.astype(np.float32), labels)


def write_coco_results(
    path: Path,
    predictions: Iterator[tuple[str, Prediction]],
    image_numbers: Mapping[str, int],
    category_ids: Sequence[int],
) -> None:
    """Write a results file, one detection per line, ordered so that other evaluators break ties as this one does.

    Args:
        path: Created or overwritten.
        predictions: Image ids with their ``Detections``.
        image_numbers: ``image_id`` of each image.
        category_ids: ``category_id`` of each class.

    Raises:
        PluginError: A prediction is not a ``Detections``, or has a number that is not finite.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        separator = "[\n"
        for image_id, pred in predictions:
            if not isinstance(pred, Detections):
                raise PluginError(
                    f"The prediction of image {image_id!r} is a {type(pred).__name__}, not a Detections.",
                    fix="let the plugin's decode return Detections.",
                )
            if not (np.isfinite(pred.scores).all() and np.isfinite(pred.boxes).all()):
                raise PluginError(
                    f"Image {image_id!r} has a score or a box that is not finite.",
                    fix="look for infinity in the network's outputs; a results file cannot hold it.",
                )
            x1, y1, x2, y2 = pred.boxes.astype(np.float64).T
            # Evaluators keep the order of equal scores; see FlatDetections.ranked.
            for row in np.lexsort((y2, x2, y1, x1, -pred.scores)):
                entry = {
                    "image_id": image_numbers[image_id],
                    "category_id": category_ids[pred.labels[row]],
                    "bbox": [float(value) for value in (x1[row], y1[row], x2[row] - x1[row], y2[row] - y1[row])],
                    "score": float(pred.scores[row]),
                }
                file.write(separator + json.dumps(entry))
                separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def _read_list(path: Path) -> list[Any]:
    data = read_file(path, max_bytes=_MAX_BYTES)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {str(error).splitlines()[0][:200]}.", fix=_FIX) from error
    if not isinstance(content, list):
        kind = "an annotation file" if isinstance(content, dict) and "annotations" in content else "other JSON"
        raise DataError(f"{path} is {kind}, not a list of detections.", fix=_FIX)
    return content


class _ImageNumbers:
    """Maps a file's ``image_id`` to an id of the split."""

    def __init__(self, path: Path, image_ids: Sequence[str]) -> None:
        self._path = path
        self._ids = frozenset(image_ids)
        self._by_number: dict[int, list[str]] = {}
        for image_id in image_ids:
            digits = image_id.replace("_", "")
            if digits.isascii() and digits.isdecimal():
                self._by_number.setdefault(int(digits), []).append(image_id)

    def find(self, value: Any, where: str) -> str:
        if isinstance(value, str) and value in self._ids:
            return value
        matches: Sequence[str] = ()
        if isinstance(value, int) and not isinstance(value, bool):
            matches = self._by_number.get(value, ())
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise DataError(
                f"{where}: image_id {value} may be {matches[0]!r} or {matches[1]!r}.", fix="write the ids as text."
            )
        hint = closest_hint(value, list(self._ids)[:10_000]) if isinstance(value, str) else ""
        raise DataError(
            f"{where}: image_id {str(value)[:80]!r} is not an image of the split{hint}.",
            fix="name the split that the detections belong to with --split, or correct the ids.",
        )


def _label(value: Any, label_of: Mapping[int, int], where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in label_of:
        gaps = ", with gaps" if max(label_of) - min(label_of) >= len(label_of) else ""
        raise DataError(
            f"{where}: category_id is {str(value)[:80]!r}; the {len(label_of)} classes are {min(label_of)} to "
            f"{max(label_of)}{gaps}.",
            fix="name the classes with --labels FILE, or give the id of the first one with --first-category.",
        )
    return label_of[value]


def _numbers(entry: Mapping[str, Any], where: str) -> tuple[float, ...]:
    """Return score, x, y, width and height."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"{where}: bbox is {str(box)[:80]!r}, not four numbers.", fix=_FIX)
    for name, value in zip(("score", "x", "y", "width", "height"), (entry.get("score"), *box), strict=True):
        # An integer too large for a float still compares; not-a-number compares as false.
        wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _MAX_NUMBER
        if wrong or (name in ("width", "height") and value < 0):
            least = "0 or more" if name in ("width", "height") else "a finite number"
            raise DataError(f"{where}: {name} is {str(value)[:80]!r}, not {least}.", fix=_FIX)
    values = (float(entry["score"]), *(float(value) for value in box))
    if not all(
        math.isfinite(value) and abs(value) < _MAX_NUMBER for value in (values[1] + values[3], values[2] + values[4])
    ):
        raise DataError(f"{where}: the end of the box is not a finite float32.", fix=_FIX)
    return values


def _by_image(names: Sequence[str], scores: Any, boxes: Any, labels: Any) -> dict[str, Detections]:
    image_ids = np.array(names, dtype=np.str_)
    order = np.lexsort((-scores, image_ids))  # stable: ties keep the file's order
    ids, starts = np.unique(image_ids[order], return_index=True)
    pieces = np.split(order, starts[1:]) if len(ids) else []
    return {
        str(image_id): Detections(boxes=boxes[piece], scores=scores[piece], labels=labels[piece])
        for image_id, piece in zip(ids, pieces, strict=True)
    }
