"""Drawn pictures for the checks of a plugin, and the usual layouts to write them in.

The pictures teach nothing and are scored by no trained network: they are there so that a dataset, its labels, its boxes
and its colours can be held against what is known. Red and blue differ in every one of them, so that a swap is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

from zoo_core.datasets.voc_writing import write_annotation
from zoo_core.datatypes import DetectionTarget, Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scenes: TypeAlias = Mapping[str, Sequence[Scene]]

DEFAULT_SPLITS: Mapping[str, int] = MappingProxyType({"test": 6, "trainval": 4})
"""Pictures a split: few, since every check runs the network on a CPU."""

# Width, height: wide, tall and square, none a multiple of another.
_SIZES = ((320, 240), (230, 310), (280, 280), (400, 250), (257, 383), (300, 200))
_OBJECTS_PER_IMAGE = 4


def draw_detection_scenes(
    num_classes: int, splits: Mapping[str, int] = DEFAULT_SPLITS, *, sizes: Sequence[tuple[int, int]] = _SIZES
) -> dict[str, list[Scene]]:
    """Draw pictures with four filled rectangles each, which do not touch.

    The labels of a split are spread over all classes, the first and the last among them: those are where a label map
    that is shifted by one falls over the edge.

    Args:
        num_classes: Labels run from 0 to one below it.
        splits: Number of pictures of each split.
        sizes: Width and height of the pictures, in turn.
    """
    return {
        split: _draw_split(split, order, number, num_classes, sizes)
        for order, (split, number) in enumerate(splits.items())
    }


def _draw_split(split: str, order: int, number: int, num_classes: int, sizes: Sequence[tuple[int, int]]) -> list[Scene]:
    labels = np.linspace(0, num_classes - 1, number * _OBJECTS_PER_IMAGE).round().astype(np.int64)
    # Dealt out in turn, so that one picture holds different classes.
    dealt = labels.reshape(_OBJECTS_PER_IMAGE, number).T
    scenes = []
    for index in range(number):
        rng = np.random.Generator(np.random.PCG64([order, index]))
        image, boxes = _draw_picture(rng, *sizes[index % len(sizes)])
        target = DetectionTarget(boxes=boxes, labels=dealt[index].copy(), difficult=np.zeros(len(boxes), np.bool_))
        scenes.append(Scene(image_id=f"{split}_{index:04d}", image=image, target=target))
    return scenes


def _draw_picture(rng: np.random.Generator, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A picture ``(H, W, 3)`` and its boxes ``(4, 4)``, last pixel included: one rectangle in each quarter."""
    image = np.full((height, width, 3), (150, 110, 60), np.uint8)
    image += rng.integers(0, 12, image.shape, dtype=np.uint8)
    boxes = np.empty((_OBJECTS_PER_IMAGE, 4), np.float32)
    for index in range(_OBJECTS_PER_IMAGE):
        row, column = divmod(index, 2)
        cell_width, cell_height = width // 2, height // 2
        box_width, box_height = (int(rng.uniform(0.5, 0.85) * side) for side in (cell_width, cell_height))
        x = column * cell_width + int(rng.integers(1, cell_width - box_width))
        y = row * cell_height + int(rng.integers(1, cell_height - box_height))
        red = int(rng.integers(0, 2)) * 200
        image[y : y + box_height, x : x + box_width] = (30 + red, int(rng.integers(0, 256)), 230 - red)
        boxes[index] = (x, y, x + box_width - 1, y + box_height - 1)
    return image, boxes


# --------------------------------------------------------------------------- layouts


def write_voc(root: Path, scenes: Scenes, class_names: Sequence[str]) -> Path:
    """Write detection scenes in VOC layout.

    Args:
        root: ``VOC2007`` is made in it.
        scenes: Split to pictures with ``DetectionTarget``.
        class_names: Index is the label.

    Returns:
        ``root / "VOC2007"``; ``labels.txt`` in it names the classes, background first.
    """
    folder = root / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split, drawn in scenes.items():
        _write_lines(folder / "ImageSets" / "Main" / f"{split}.txt", [scene.image_id for scene in drawn])
        for scene in drawn:
            target = scene.target
            assert isinstance(target, DetectionTarget)  # noqa: S101  # documented; a plugin's author reads the trace
            write_png(folder / "JPEGImages" / f"{scene.image_id}.png", scene.image)
            write_annotation(
                folder / "Annotations" / f"{scene.image_id}.xml",
                image_file=f"{scene.image_id}.png",
                image_shape=(scene.image.shape[0], scene.image.shape[1], 3),
                class_names=class_names,
                boxes=target.boxes,
                labels=target.labels,
                difficult=target.difficult,
            )
    _write_lines(folder / "labels.txt", ("BACKGROUND", *class_names))
    return folder


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image without loss; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
