"""Draws the data that a plugin's checks run on, in any layout that zoo-eval opens itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from zoo_core.datasets import scenes as drawing
from zoo_core.datasets import shapes, shapes_folder, shapes_voc
from zoo_core.datasets.voc import VOC_CLASSES
from zoo_core.datatypes import ClassTarget, ConformanceKit, DatasetEntry, DetectionTarget, Scene
from zoo_core.errors import DataError

_NUM_EVALUATED, _NUM_CALIBRATED = 6, 4
_NUM_SHAPES = 8
_NUM_SHAPES_PER_SPLIT: Mapping[str, int] = MappingProxyType({"val": 60, "train": 8})
_INVENTED_CLASSES = ("first", "second", "third")

_Draw: TypeAlias = "Callable[[Path, Mapping[str, int], Sequence[str]], ConformanceKit]"


def draw_kit(dataset: DatasetEntry, directory: Path, *, class_names: Sequence[str] | None = None) -> ConformanceKit:
    """Write a few drawn pictures for both splits of a dataset; add ``encode`` and weights with ``dataclasses.replace``.

    Args:
        dataset: Its ``layout`` must be declared.
        directory: Existing and empty.
        class_names: Index is the label. None for the layout's own: VOC's 20 classes, the drawn shapes, or three
            invented ones. Ignored for drawn shapes.
    """
    draw, own_classes = _KITS[dataset.layout or ""]
    splits = {dataset.split: _NUM_EVALUATED, dataset.calibration_split: _NUM_CALIBRATED}
    return draw(directory, splits, class_names or own_classes)


def _draw_voc(directory: Path, splits: Mapping[str, int], class_names: Sequence[str]) -> ConformanceKit:
    scenes = drawing.draw_detection_scenes(len(class_names), splits)
    root = drawing.write_voc(directory, scenes, class_names)
    return ConformanceKit(root=root, scenes=scenes, label_file=root / "labels.txt")


def _draw_coco(directory: Path, splits: Mapping[str, int], class_names: Sequence[str]) -> ConformanceKit:
    drawn = drawing.draw_detection_scenes(len(class_names), splits)
    scenes = drawing.write_coco(directory / "coco", drawn, dict(enumerate(class_names, start=1)))
    return ConformanceKit(root=directory / "coco", scenes=scenes)


def _draw_image_folder(directory: Path, splits: Mapping[str, int], class_names: Sequence[str]) -> ConformanceKit:
    scenes = drawing.draw_class_scenes(class_names, splits)
    root = drawing.write_image_folder(directory, scenes, class_names)
    return ConformanceKit(root=root, scenes=scenes, label_file=root / "labels.txt")


def _draw_shapes_voc(directory: Path, splits: Mapping[str, int], class_names: Sequence[str]) -> ConformanceKit:
    _check_splits(splits, shapes_voc.DEFAULT_SPLITS)
    scenes = {split: _shapes_with_boxes(split) for split in splits}
    root = drawing.write_voc(directory, scenes, class_names)
    return ConformanceKit(root=root, scenes=scenes, label_file=root / "labels.txt")


def _check_splits(splits: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(splits) - set(known))
    if unknown:
        raise DataError(f"The drawn shapes have no split {unknown[0]!r}.", fix=f"name one of {', '.join(known)}.")


def _shapes_with_boxes(split: str) -> list[Scene]:
    drawn = [shapes.draw_image(split, index) for index in range(_NUM_SHAPES)]  # type: ignore[arg-type]
    return [
        Scene(
            image_id=f"{split}_{index:03d}",
            image=picture.image,
            target=DetectionTarget(boxes=picture.boxes, labels=picture.labels, difficult=picture.difficult),
        )
        for index, picture in enumerate(drawn)
    ]


def _draw_shapes_folder(directory: Path, splits: Mapping[str, int], class_names: Sequence[str]) -> ConformanceKit:
    _check_splits(splits, _NUM_SHAPES_PER_SPLIT)
    scenes = {split: _shapes_cut_out(split, class_names) for split in splits}
    return ConformanceKit(root=drawing.write_image_folder(directory, scenes, class_names), scenes=scenes)


def _shapes_cut_out(split: str, class_names: Sequence[str]) -> list[Scene]:
    drawn = itertools.islice(shapes_folder.cut_out(shapes_folder.SPLITS[split]), _NUM_SHAPES_PER_SPLIT[split])
    return [
        Scene(image_id=f"{split}/{class_names[label]}/{index:04d}.png", image=image, target=ClassTarget(label=label))
        for index, (label, image) in enumerate(drawn)
    ]


_KITS: Mapping[str, tuple[_Draw, Sequence[str]]] = MappingProxyType(
    {
        "voc": (_draw_voc, VOC_CLASSES),
        "coco": (_draw_coco, _INVENTED_CLASSES),
        "image_folder": (_draw_image_folder, _INVENTED_CLASSES),
        "shapes_voc": (_draw_shapes_voc, shapes.CLASS_NAMES),
        "shapes_folder": (_draw_shapes_folder, shapes.CLASS_NAMES),
    }
)
"""Layout to the function that draws it and the classes that it has by itself."""
