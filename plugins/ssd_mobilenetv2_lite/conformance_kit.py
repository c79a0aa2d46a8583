"""What the checks of ``zoo-eval validate`` need of this plugin: drawn pictures in VOC layout, and ``encode``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_mobilenetv2_lite.encode import encode
from zoo_core.datasets.scenes import draw_detection_scenes, write_voc
from zoo_core.datasets.shapes import CLASS_NAMES as SHAPES_CLASSES
from zoo_core.datasets.shapes import draw_image
from zoo_core.datasets.voc import VOC_CLASSES
from zoo_core.datatypes import ConformanceKit, DetectionTarget, Scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.datatypes import ModelEntry

_SHAPES_WEIGHTS = Path(__file__).parent / "checkpoints" / "shapes.safetensors"
_NUM_SHAPES_PICTURES = 8


def make_kit(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Scenes for the entry's classes; the demo's come with its weights, which know them."""
    options: dict[str, Any] = {}
    scenes: dict[str, Sequence[Scene]]
    if entry.dataset.name == "shapes":
        class_names: Sequence[str] = SHAPES_CLASSES
        scenes = {"test": _shapes("test"), "trainval": _shapes("trainval")}
        options = {"checkpoint": _SHAPES_WEIGHTS, "least_headline": 0.7}
    else:
        class_names = VOC_CLASSES
        scenes = {**draw_detection_scenes(len(class_names))}
    root = write_voc(directory, scenes, class_names)
    return ConformanceKit(
        root=root,
        scenes=scenes,
        label_file=root / "labels.txt",
        encode=functools.partial(encode, num_classes_with_background=1 + len(class_names)),
        **options,
    )


def _shapes(split: str) -> list[Scene]:
    drawn = [draw_image(split, index) for index in range(_NUM_SHAPES_PICTURES)]  # type: ignore[arg-type]
    return [
        Scene(
            image_id=f"{split}_{index:03d}",
            image=picture.image,
            target=DetectionTarget(boxes=picture.boxes, labels=picture.labels, difficult=picture.difficult),
        )
        for index, picture in enumerate(drawn)
    ]
