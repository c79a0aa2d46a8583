"""Red and green squares on a 4 x 4 grid: one convolution per colour, one to mix them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from zoo_core import artifacts
from zoo_core.datatypes import Checkpoint, Detections, DetectionTarget, ImageSize, ModelBundle, Target
from zoo_core.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELL = 16
GRID = 4
SCORE_THRESHOLD = 0.25


class ToyNetwork(torch.nn.Module):
    """``(B, 3, 64, 64)`` in ``[0, 1]`` to scores ``(B, classes, 4, 4)``, about 1 where a square of the class lies."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.pool = torch.nn.Conv2d(3, 4, CELL, stride=CELL, bias=False)
        self.norm = torch.nn.BatchNorm2d(4)
        self.clip = torch.nn.ReLU6()
        self.head = torch.nn.Conv2d(4, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.clip(self.norm(self.pool(x))))
        return scores


def untrained(num_classes: int) -> ToyNetwork:
    """Weights written down rather than trained: channel c answers to one colour and against the others."""
    network = ToyNetwork(num_classes).eval()
    assert network.head.bias is not None
    with torch.no_grad():
        weight = torch.full((4, 3, CELL, CELL), -0.5 / CELL**2)
        for channel in range(4):
            weight[channel, channel % 3] = (1.0 + 3.0 * (channel == 0)) / CELL**2  # uneven, so that CLE has work
        network.pool.weight.copy_(weight)
        network.head.bias.zero_()
        network.head.weight.zero_()
        for label in range(num_classes):
            network.head.weight[label, label] = 0.25 if label == 0 else 1.0
    return network


def load(checkpoint: Checkpoint | None, class_names: Sequence[str], device: str) -> ModelBundle:
    network = untrained(len(class_names))
    if checkpoint is not None:
        try:
            network.load_state_dict(artifacts.load_state_dict(checkpoint.path))
        except RuntimeError as error:
            raise CheckpointError(f"{checkpoint.path} does not fit: {error}", fix="train the toy again.") from error
    return ModelBundle(
        network=network.to(device),
        example_input=torch.zeros(1, 3, CELL * GRID, CELL * GRID),
        preprocess=preprocess,
        decode=decode,
    )


def preprocess(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    side = CELL * GRID
    resized = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    scaled: NDArray[np.float32] = (resized.transpose(2, 0, 1) / np.float32(255)).astype(np.float32)
    return scaled


def decode(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Detections]:
    return [_decode_one(scores, size) for scores, size in zip(outputs[0].numpy(), sizes, strict=True)]


def _decode_one(scores: NDArray[np.float32], size: ImageSize) -> Detections:
    labels, rows, columns = np.nonzero(scores > SCORE_THRESHOLD)
    found = np.minimum(scores[labels, rows, columns], 1.0)
    order = np.argsort(-found, kind="stable")
    cell = np.array([size.width_px, size.height_px, size.width_px, size.height_px], np.float32) / GRID
    corners = np.stack([columns, rows, columns + 1, rows + 1], axis=1).astype(np.float32) * cell
    boxes = corners[order].astype(np.float32)
    return Detections(boxes=boxes, scores=found[order], labels=labels[order].astype(np.int64))


def encode(targets: Sequence[Target], sizes: Sequence[ImageSize]) -> tuple[torch.Tensor]:
    scores = torch.zeros(len(targets), 2, GRID, GRID)
    for image, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        assert isinstance(target, DetectionTarget)
        for (x, y, _, _), label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
            scores[image, label, round(y / size.height_px * GRID), round(x / size.width_px * GRID)] = 1.0
    return (scores,)
