"""What the checks of ``zoo-eval validate`` need of this plugin: drawn pictures in ImageNet's layout."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from torchvision_classification.imagenet import imagenet_classes
from zoo_core.datasets.scenes import draw_class_scenes, encode_classes, write_image_folder
from zoo_core.datasets.shapes import CLASS_NAMES
from zoo_core.datatypes import ConformanceKit

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_core.datatypes import ModelEntry


def make_kit(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Scenes in folders called like the data's, for the entry's splits; the network stays untrained."""
    folders = CLASS_NAMES if entry.dataset.name == "shapes" else imagenet_classes()[0]
    scenes = draw_class_scenes(folders, {entry.dataset.split: 6, entry.dataset.calibration_split: 4})
    root = write_image_folder(directory, scenes, folders)
    encode = functools.partial(encode_classes, num_classes=len(folders))
    return ConformanceKit(root=root, scenes=scenes, encode=encode)
