"""Grid images on disk: ``<split>.json`` lists ids, ``<id>.png`` is the image, ``<id>.json`` its objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from toy_detector.model import CELL, GRID
from zoo_core.datasets.images import read_image
from zoo_core.datatypes import Detections, DetectionTarget, Prediction, Scene
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


def scenes(*, num_test: int = 12, num_trainval: int = 8, seed: int = 0) -> dict[str, list[Scene]]:
    """Draw the data set; every fifth image holds a green square too pale to be found."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Scene]] = {}
    for split, num in (("test", num_test), ("trainval", num_trainval)):
        drawn[split] = []
        for index in range(num):
            image, target = _draw(rng, np.random.default_rng((seed, num, index)), pale=index % 5 == 4)
            drawn[split].append(Scene(image_id=f"{split}_{index:03d}", image=image, target=target))
    return drawn


def write(root: Path, *, num_test: int = 12, num_trainval: int = 8, seed: int = 0) -> Path:
    """Write what ``scenes`` draws."""
    root.mkdir(parents=True, exist_ok=True)
    for split, drawn in scenes(num_test=num_test, num_trainval=num_trainval, seed=seed).items():
        for scene in drawn:
            assert isinstance(scene.target, DetectionTarget)
            objects = list(zip(scene.target.boxes.tolist(), scene.target.labels.tolist(), strict=True))
            cv2.imwrite(str(root / f"{scene.image_id}.png"), scene.image[..., ::-1])
            (root / f"{scene.image_id}.json").write_text(json.dumps(objects))
        (root / f"{split}.json").write_text(json.dumps([scene.image_id for scene in drawn]))
    return root


def _draw(
    rng: np.random.Generator, background: np.random.Generator, *, pale: bool
) -> tuple[NDArray[np.uint8], DetectionTarget]:
    image = rng.integers(0, 8, (CELL * GRID, CELL * GRID, 3), dtype=np.uint8)
    # Blue, which the network ignores, tells pictures with the same squares apart.
    image[..., 2] |= np.kron(background.integers(0, 2, (GRID, GRID), np.uint8) * 128, np.ones((CELL, CELL), np.uint8))
    boxes = []
    for label, cell in enumerate(rng.choice(GRID * GRID, 2, replace=False)):
        row, column = divmod(int(cell), GRID)
        x, y = column * CELL, row * CELL
        colour = np.array(COLOURS[label]) // (8 if pale and label == 1 else 1)
        image[y : y + CELL, x : x + CELL] = colour
        boxes.append([x, y, x + CELL, y + CELL])
    target = DetectionTarget(
        boxes=np.array(boxes, np.float32), labels=np.array([0, 1], np.int64), difficult=np.zeros(2, np.bool_)
    )
    return image, target
