"""Draws pictures for the checks of a plugin, and writes them in the usual layouts.

The pictures are not for training, and no trained network is scored on them: they let a check compare a dataset's
labels, boxes and colours with known values. Red and blue differ in every picture, so that a swap shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

from zoo_core.datasets.voc_writing import write_annotation
from zoo_core.datatypes import ClassTarget, DetectionTarget, Scene

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from zoo_core.datatypes import ImageSize, Json, Target

Scenes: TypeAlias = Mapping[str, Sequence[Scene]]

DEFAULT_SPLITS: Mapping[str, int] = MappingProxyType({"test": 6, "trainval": 4})
"""Pictures per split: few, since every check runs the network on a CPU."""
DEFAULT_CLASS_SPLITS: Mapping[str, int] = MappingProxyType({"val": 6, "train": 4})

# Width, height: wide, tall and square, none a multiple of another.
_SIZES = ((320, 240), (230, 310), (280, 280), (400, 250), (257, 383), (300, 200))
_OBJECTS_PER_IMAGE = 4
_CERTAIN = 20.0  # of a logit among zeros


def draw_detection_scenes(
    num_classes: int, splits: Mapping[str, int] = DEFAULT_SPLITS, *, sizes: Sequence[tuple[int, int]] = _SIZES
) -> dict[str, list[Scene]]:
    """Draw pictures with four filled rectangles each, which do not touch.

    The labels of a split are spread over all classes and include the first and the last one: a label map that is
    shifted by one leaves the range there.

    Args:
        num_classes: Labels run from 0 to ``num_classes - 1``.
        splits: Number of pictures of each split.
        sizes: Width and height of the pictures, in turn.
    """
    return {
        split: _draw_split(split, order, number, num_classes, sizes)
        for order, (split, number) in enumerate(splits.items())
    }


def draw_class_scenes(
    folders: Sequence[str],
    splits: Mapping[str, int] = DEFAULT_CLASS_SPLITS,
    *,
    sizes: Sequence[tuple[int, int]] = _SIZES,
) -> dict[str, list[Scene]]:
    """Draw pictures of one class each; labels are spread over all classes and include the first and the last one.

    Args:
        folders: Name of each class's folder; index is the label. An image's id is ``<split>/<folder>/<number>.png``.
        splits: Number of pictures of each split.
        sizes: Width and height of the pictures, in turn.
    """
    scenes: dict[str, list[Scene]] = {}
    for order, (split, number) in enumerate(splits.items()):
        scenes[split] = []
        for index, label in enumerate(np.linspace(0, len(folders) - 1, number).round().astype(int).tolist()):
            image, _ = _draw_picture(_generator(order, index), *sizes[index % len(sizes)])
            name = f"{split}/{folders[label]}/{index:04d}.png"
            scenes[split].append(Scene(image_id=name, image=image, target=ClassTarget(label=label)))
    return scenes


def encode_classes(targets: Sequence[Target], sizes: Sequence[ImageSize], *, num_classes: int) -> tuple[torch.Tensor]:
    """Return logits ``(B, num_classes)`` of a perfect classifier, as most kits need for ``ConformanceKit.encode``."""
    import torch

    logits = torch.zeros(len(sizes), num_classes)
    for row, target in zip(logits, targets, strict=True):
        assert isinstance(target, ClassTarget)  # noqa: S101  # documented; a plugin's author reads the trace
        row[target.label] = _CERTAIN
    return (logits,)


def _draw_split(split: str, order: int, number: int, num_classes: int, sizes: Sequence[tuple[int, int]]) -> list[Scene]:
    labels = np.linspace(0, num_classes - 1, number * _OBJECTS_PER_IMAGE).round().astype(np.int64)
    # Dealt in turn, so that one picture holds different classes.
    dealt = labels.reshape(_OBJECTS_PER_IMAGE, number).T
    scenes = []
    for index in range(number):
        image, boxes = _draw_picture(_generator(order, index), *sizes[index % len(sizes)])
        target = DetectionTarget(boxes=boxes, labels=dealt[index].copy(), difficult=np.zeros(len(boxes), np.bool_))
        scenes.append(Scene(image_id=f"{split}_{index:04d}", image=image, target=target))
    return scenes


def _generator(order: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([order, index]))


def _draw_picture(rng: np.random.Generator, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw a picture ``(H, W, 3)``, one rectangle per quarter; return it and its inclusive boxes ``(4, 4)``."""
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
        root: ``VOC2007`` is created in it.
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


def write_coco(root: Path, scenes: Scenes, categories: Mapping[int, str]) -> dict[str, list[Scene]]:
    """Write detection scenes in COCO layout: ``annotations/instances_<split>.json``, images in ``<split>``.

    Args:
        root: Created when missing.
        scenes: Split to pictures with ``DetectionTarget``; label i is the category with the i-th smallest id.
        categories: Name by id.

    Returns:
        The scenes, with the ids that they have in this layout.
    """
    numbers = sorted(categories)
    renamed: dict[str, list[Scene]] = {}
    first = 1
    (root / "annotations").mkdir(parents=True)
    for split, drawn in scenes.items():
        images: list[Json] = []
        annotations: list[Json] = []
        renamed[split] = []
        for number, scene in enumerate(drawn, start=first):
            target = scene.target
            assert isinstance(target, DetectionTarget)  # noqa: S101  # documented; a plugin's author reads the trace
            image_id = f"{number:012d}"
            write_png(root / split / f"{image_id}.png", scene.image)
            height, width = scene.image.shape[:2]
            images.append({"id": number, "file_name": f"{image_id}.png", "width": width, "height": height})
            for (x1, y1, x2, y2), label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
                box: list[Json] = [x1, y1, x2 - x1, y2 - y1]
                annotations.append({"image_id": number, "category_id": numbers[label], "bbox": box, "iscrowd": 0})
            renamed[split].append(replace(scene, image_id=image_id))
        first += len(drawn)
        content: Json = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": categories[number]} for number in numbers],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return renamed


def write_image_folder(root: Path, scenes: Scenes, folders: Sequence[str]) -> Path:
    """Write class scenes as ``<root>/<split>/<folder>/<number>.png``.

    Returns:
        ``root``; ``labels.txt`` in it names every folder, in the order of the labels.
    """
    for drawn in scenes.values():
        for scene in drawn:
            write_png(root / scene.image_id, scene.image)
    _write_lines(root / "labels.txt", folders)
    return root


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image losslessly; missing parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
