"""What the checks of ``zoo-eval validate`` need of this plugin: drawn pictures in ImageNet's layout."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.datasets.scenes import draw_class_scenes, encode_classes, write_image_folder
from zoo_core.datasets.shapes import CLASS_NAMES as SHAPES_CLASSES
from zoo_core.datasets.shapes_folder import SPLITS as SHAPES_SPLITS
from zoo_core.datasets.shapes_folder import cut_out
from zoo_core.datatypes import ClassTarget, ConformanceKit, Scene
from zoo_torchvision_classification.imagenet import imagenet_classes

if TYPE_CHECKING:
    from zoo_core.datatypes import ModelEntry


_SHAPES_WEIGHTS = Path(__file__).parent / "checkpoints" / "shapes.safetensors"
_NUM_SHAPES = {"val": 60, "train": 8}


def make_kit(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Scenes in folders called like ImageNet's, the network untrained; the demo's come with weights that know them."""
    if entry.dataset.name == "shapes":
        shapes = {split: _shapes(split, number) for split, number in _NUM_SHAPES.items()}
        return ConformanceKit(
            root=write_image_folder(directory, shapes, SHAPES_CLASSES),
            scenes=shapes,
            encode=functools.partial(encode_classes, num_classes=len(SHAPES_CLASSES)),
            checkpoint=_SHAPES_WEIGHTS,
            least_headline=0.6,
        )
    wnids, _ = imagenet_classes()
    scenes = draw_class_scenes(wnids, {entry.dataset.split: 6, entry.dataset.calibration_split: 4})
    root = write_image_folder(directory, scenes, wnids)
    return ConformanceKit(root=root, scenes=scenes, encode=functools.partial(encode_classes, num_classes=len(wnids)))


def _shapes(split: str, number: int) -> list[Scene]:
    return [
        Scene(image_id=f"{split}/{SHAPES_CLASSES[label]}/{index:04d}.png", image=image, target=ClassTarget(label=label))
        for index, (label, image) in enumerate(itertools.islice(cut_out(SHAPES_SPLITS[split]), number))
    ]
