"""Writes drawn shapes in VOC layout, completely or not at all, and only if they do not exist yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import cv2

from zoo_core.datasets.drawn import drawn_once
from zoo_core.datasets.shapes import CLASS_NAMES, DEFAULT_SEED, DRAWING_VERSION, ShapesImage, Split, draw_image
from zoo_core.datasets.voc_writing import FOLDER, write_annotation
from zoo_core.errors import DataError

if TYPE_CHECKING:
    from zoo_core.datatypes import Json

DEFAULT_SPLITS: Mapping[Split, int] = MappingProxyType({"test": 250, "trainval": 64})
"""Pictures per split in the embedded demo."""

JPEG_QUALITY = 92

# An image id determines its split, so that no id is in two of them.
_FIRST_IDS: Mapping[Split, int] = MappingProxyType({"test": 1, "trainval": 300_001, "train": 600_001})
_MAX_IMAGES = 299_999


def write_voc(
    root: Path,
    *,
    splits: Mapping[Split, int] = DEFAULT_SPLITS,
    seed: int = DEFAULT_SEED,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the splits into ``root/VOC2007``; does nothing if exactly these pictures already exist.

    The folder is drawn under a temporary name and renamed, so a reader never sees half of it; two processes take turns.
    Those of other sizes, seed or version are replaced, and so are those of another OpenCV, whose JPEG encoder
    may give other bytes. A folder that this function did not write is never touched.

    Args:
        root: Created when missing.
        splits: Number of pictures in each split; picture i of a split does not depend on it.
        seed: See ``draw_image``.
        progress: Called with (done, total) after each picture.

    Returns:
        ``root/VOC2007``, with ``labels.txt`` (BACKGROUND first) in it.

    Raises:
        DataError: ``root/VOC2007`` holds something else, a number of pictures is out of range, or it cannot be written.
    """
    _check(splits, seed)
    marker: dict[str, Json] = {
        "drawing_version": DRAWING_VERSION,
        "seed": seed,
        "splits": {split: splits[split] for split in sorted(splits)},
        "jpeg_quality": JPEG_QUALITY,
        "opencv": cv2.__version__,
    }
    return drawn_once(root / FOLDER, marker, lambda folder: _draw_all(folder, splits, seed, progress))


def image_id(split: Split, index: int) -> str:
    """Return the six-digit id of picture ``index`` of ``split``; no other split uses it."""
    return f"{_FIRST_IDS[split] + index:06d}"


def _check(splits: Mapping[Split, int], seed: int) -> None:
    unknown = sorted(set(splits) - set(_FIRST_IDS))
    wrong = {split: number for split, number in splits.items() if not 1 <= number <= _MAX_IMAGES}
    if unknown or wrong or not splits or seed < 0:
        raise DataError(
            f"Shapes cannot be drawn for splits {dict(splits)} and seed {seed}.",
            fix=f"ask for 1 to {_MAX_IMAGES} pictures of {', '.join(_FIRST_IDS)}, with a seed from 0.",
        )


def _draw_all(
    folder: Path, splits: Mapping[Split, int], seed: int, progress: Callable[[int, int], None] | None
) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    total, done = sum(splits.values()), 0
    for split, number in splits.items():
        names = [image_id(split, index) for index in range(number)]
        for index, name in enumerate(names):
            _write_picture(folder, name, draw_image(split, index, seed=seed))
            done += 1
            if progress is not None:
                progress(done, total)
        _write_lines(folder / "ImageSets" / "Main" / f"{split}.txt", names)
    _write_lines(folder / "labels.txt", ("BACKGROUND", *CLASS_NAMES))


def _write_picture(folder: Path, name: str, picture: ShapesImage) -> None:
    bgr = cv2.cvtColor(picture.image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    (folder / "JPEGImages" / f"{name}.jpg").write_bytes(data.tobytes())
    write_annotation(
        folder / "Annotations" / f"{name}.xml",
        image_file=f"{name}.jpg",
        image_shape=picture.image.shape,
        class_names=CLASS_NAMES,
        boxes=picture.boxes,
        labels=picture.labels,
        difficult=picture.difficult,
        truncated=picture.truncated,
    )


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    _write_text(path, "".join(f"{line}\n" for line in lines))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
