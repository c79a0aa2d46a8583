"""A folder of drawn classes, and the entries of torchvision_classification at a size that tests can afford."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo_core.datatypes import ModelEntry
from zoo_core.registry import load_registry

REGISTRY = Path(__file__).parents[1] / "plugins" / "zoo_torchvision_classification" / "registry.yaml"
MODELS = ("mobilenet_v2", "mobilenet_v3_large", "resnet18", "resnet50", "efficientnet_b0")
CLASSES = ("disk", "frame", "stripes")
SMALL = {"crop_size": 32, "resize_size": 36}


def entry(model: str, **options: Any) -> ModelEntry:
    """The shipped entry of a model, with further options."""
    found = load_registry(REGISTRY)[f"torchvision_{model}"]
    return replace(found, options={**found.options, **options})


def draw(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of one of CLASSES, RGB, in random colours at a random place."""
    image = np.full((48, 60, 3), rng.integers(0, 100, 3), np.uint8)
    colour = [int(value) for value in rng.integers(150, 256, 3)]
    x, y = (int(value) for value in rng.integers(16, 32, 2))
    if label == 0:
        cv2.circle(image, (x, y), 12, colour, -1)
    elif label == 1:
        cv2.rectangle(image, (x - 12, y - 12), (x + 12, y + 12), colour, 3)
    else:
        for row in range(y - 12, y + 12, 6):
            cv2.line(image, (x - 12, row), (x + 12, row), colour, 2)
    return image


def write_classes(root: Path, *, num_val: int = 4, num_train: int = 6) -> Path:
    """Write ``val`` and ``train`` with so many pictures of each class; returns ``root``."""
    rng = np.random.default_rng(0)
    for split, num in (("val", num_val), ("train", num_train)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for index in range(num):
                pixels = cv2.cvtColor(draw(label, rng), cv2.COLOR_RGB2BGR)
                cv2.imwrite(str(root / split / name / f"{name}_{index}.JPEG"), pixels)
    return root
