"""Writes drawn shapes as a classification data set: each shape cut out of its picture, in its class's folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zoo_core.datasets.drawn import drawn_once
from zoo_core.datasets.shapes import CLASS_NAMES, DEFAULT_SEED, DRAWING_VERSION, ShapesImage, Split, draw_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import Json

SIDE_PX = 64
DEFAULT_COUNTS: Mapping[str, int] = MappingProxyType({"val": 25, "train": 10})
"""Pictures per class in each split of the embedded demo."""

SPLITS: Mapping[str, Split] = MappingProxyType({"val": "test", "train": "trainval"})
"""The split of drawn pictures from which each split's shapes are cut."""

_CONTEXT = 0.15  # of the longer side, on each side: an outline is visible only against a background
_JPEG_QUALITY = 95


def write_folder(root: Path, *, counts: Mapping[str, int] = DEFAULT_COUNTS, seed: int = DEFAULT_SEED) -> Path:
    """Draw ``root/<split>/<class>/<number>.JPEG``; does nothing if exactly these pictures already exist.

    Args:
        root: Replaced if it holds pictures of other sizes, seed or version; its parent is created when missing.
        counts: Pictures per class, for each of ``SPLITS``; a larger number only adds pictures.
        seed: See ``draw_image``.

    Raises:
        DataError: ``root`` holds something else, or cannot be written.
    """
    marker: dict[str, Json] = {
        "cut_out": 1,
        "drawing_version": DRAWING_VERSION,
        "seed": seed,
        "counts": dict(counts),
        "side_px": SIDE_PX,
        "jpeg_quality": _JPEG_QUALITY,
        "opencv": cv2.__version__,
    }
    return drawn_once(root, marker, lambda folder: _draw(folder, counts, seed))


def cut_out(split: Split, *, seed: int = DEFAULT_SEED) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield label and picture, ``(SIDE_PX, SIDE_PX, 3)`` uint8 RGB, of each shape that is not difficult; never ends."""
    for index in itertools.count():
        picture = draw_image(split, index, seed=seed)
        for box, label, difficult in zip(picture.boxes, picture.labels, picture.difficult, strict=True):
            if not difficult:
                yield int(label), _cut(picture, box)


def _cut(picture: ShapesImage, box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Cut a square around the box; beyond the picture its border is repeated."""
    low, high = box[:2].astype(np.float64), box[2:].astype(np.float64) + 1
    side = round(float((high - low).max()) * (1 + 2 * _CONTEXT))
    x, y = (round(value) for value in ((low + high - side) / 2).tolist())
    height, width = picture.image.shape[:2]
    rows, columns = np.clip(np.arange(y, y + side), 0, height - 1), np.clip(np.arange(x, x + side), 0, width - 1)
    square = np.ascontiguousarray(picture.image[rows[:, None], columns])
    shape = (SIDE_PX, SIDE_PX)
    # Bit-exact for any number of threads.
    return np.asarray(cv2.resize(square, shape, interpolation=cv2.INTER_LINEAR_EXACT), dtype=np.uint8)


def _draw(folder: Path, counts: Mapping[str, int], seed: int) -> None:
    for split, count in counts.items():
        missing = dict.fromkeys(range(len(CLASS_NAMES)), count)
        for name in CLASS_NAMES:
            (folder / split / name).mkdir(parents=True)
        for label, image in cut_out(SPLITS[split], seed=seed):
            if not any(missing.values()):
                break
            if missing[label]:
                number = count - missing[label] + 1
                missing[label] -= 1
                _write(folder / split / CLASS_NAMES[label] / f"{number:04d}.JPEG", image)


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    path.write_bytes(data.tobytes())
