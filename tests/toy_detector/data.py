"""Grid images on disk: ``<split>.json`` lists ids, ``<id>.png`` is the image, ``<id>.json`` its objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from toy_detector.model import CELL, GRID
from zoo_core.datasets.images import read_image
from zoo_core.datatypes import Detections, DetectionTarget, Prediction
from zoo_core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLOURS = {0: (255, 0, 0), 1: (0, 255, 0)}


class GridDataset:
    """An ``EvalDataset`` of grid images."""

    name = "grid"
    class_names: tuple[str, ...] = ("red", "green")
    submission_format = "lines"

    def __init__(self, root: Path | None, split: str) -> None:
        if root is None:
            raise DataError("The grid data set has no place of its own.", fix="give its folder with --data.")
        listing = root / f"{split}.json"
        if not listing.is_file():
            raise DataError(f"{listing} is missing.", fix="write the grid data set with toy_detector.data.write.")
        self.split = split
        self.ids = tuple(json.loads(listing.read_text()))
        self.root = root

    def image(self, image_id: str) -> NDArray[np.uint8]:
        return read_image(self.root / f"{image_id}.png")

    def target(self, image_id: str) -> DetectionTarget:
        objects = json.loads((self.root / f"{image_id}.json").read_text())
        return DetectionTarget(
            boxes=np.array([box for box, _ in objects], np.float32).reshape(-1, 4),
            labels=np.array([label for _, label in objects], np.int64),
            difficult=np.zeros(len(objects), np.bool_),
        )

    def content_hash(self, image_id: str) -> str:
        digest = hashlib.sha256()
        for suffix in (".png", ".json"):
            digest.update((self.root / f"{image_id}{suffix}").read_bytes())
        return digest.hexdigest()

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        with (directory / "detections.txt").open("w") as file:
            for image_id, prediction in predictions:
                assert isinstance(prediction, Detections)
                for score, label in zip(prediction.scores, prediction.labels, strict=True):
                    file.write(f"{image_id} {label} {score:.9g}\n")


def write(root: Path, *, num_test: int = 12, num_trainval: int = 8, seed: int = 0) -> Path:
    """Draw the data set; every fifth image holds a green square too pale to be found."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, num in (("test", num_test), ("trainval", num_trainval)):
        ids = [f"{split}_{index:03d}" for index in range(num)]
        for index, image_id in enumerate(ids):
            image, objects = _draw(rng, pale=index % 5 == 4)
            cv2.imwrite(str(root / f"{image_id}.png"), image[..., ::-1])
            (root / f"{image_id}.json").write_text(json.dumps(objects))
        (root / f"{split}.json").write_text(json.dumps(ids))
    return root


def _draw(rng: np.random.Generator, *, pale: bool) -> tuple[NDArray[np.uint8], list[Any]]:
    image = rng.integers(0, 8, (CELL * GRID, CELL * GRID, 3), dtype=np.uint8)
    objects = []
    for label, cell in enumerate(rng.choice(GRID * GRID, 2, replace=False)):
        row, column = divmod(int(cell), GRID)
        x, y = column * CELL, row * CELL
        colour = np.array(COLOURS[label]) // (8 if pale and label == 1 else 1)
        image[y : y + CELL, x : x + CELL] = colour
        objects.append([[x, y, x + CELL, y + CELL], label])
    return image, objects
