"""Drawn shapes in COCO layout: gaps in the category ids, crowds, areas below the box's, an image without objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo_core.datasets.shapes import ShapesImage, Split, draw_image

CATEGORIES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 70: "toilet", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip
"""COCO's own ids and names of twenty classes, one for each drawn shape."""

SPLITS: Mapping[str, tuple[Split, int]] = {"val2017": ("test", 139), "train2017": ("trainval", 9)}
"""Which drawn split stands for which, and its first image id."""


def write_coco(root: Path, *, num_val: int = 4, num_train: int = 3) -> Path:
    """Draw ``annotations/instances_<split>.json`` and the images in ``<split>`` below ``root``.

    The second image of a split has no object; the first object of every other image is a crowd.
    """
    (root / "annotations").mkdir(parents=True)
    for (split, (drawn, first)), number in zip(SPLITS.items(), (num_val, num_train), strict=True):
        (root / split).mkdir()
        images, annotations = [], []
        for index in range(number):
            picture = draw_image(drawn, index)
            image_id = first + 1000 * index
            height, width = picture.image.shape[:2]
            name = f"{image_id:012d}.jpg"
            cv2.imwrite(str(root / split / name), picture.image[..., ::-1])
            images.append({"id": image_id, "file_name": name, "width": width, "height": height, "license": 3})
            if index != 1:
                annotations += _annotations(picture, image_id, crowded=index % 2 == 0)
        for number_, entry in enumerate(annotations, start=1):
            entry["id"] = number_
        categories = [{"id": number_, "name": name, "supercategory": "x"} for number_, name in CATEGORIES.items()]
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def _annotations(picture: ShapesImage, image_id: int, *, crowded: bool) -> list[dict[str, Any]]:
    entries = []
    for index, (box, label) in enumerate(zip(picture.boxes, picture.labels, strict=True)):
        x1, y1, x2, y2 = (float(value) for value in box)
        width, height = x2 - x1 + 1, y2 - y1 + 1
        entries.append(
            {
                "image_id": image_id,
                "category_id": list(CATEGORIES)[label],
                "bbox": [x1, y1, width, height],
                "area": round(0.7 * width * height, 2),
                "iscrowd": int(crowded and index == 0),
                "segmentation": [[x1, y1, x2, y1, x2, y2]],
            }
        )
    return entries


def edit(root: Path, split: str, **lists: Any) -> Path:
    """Replace lists of a split's annotation file; a function gets the list that is there and returns another."""
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    for key, value in lists.items():
        content[key] = value(content[key]) if callable(value) else value
    path.write_text(json.dumps(content))
    return path


def near(boxes: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Boxes moved by some whole pixels, so that float32 holds them exactly."""
    moved: NDArray[np.float32] = (boxes + rng.integers(-6, 7, boxes.shape)).astype(np.float32)
    return moved
