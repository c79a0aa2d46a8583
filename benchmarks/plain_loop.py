"""Evaluates like published evaluators: one image after the other, and in each one class after the other.

Written only for comparison. The rule is the plugin's (score > 0.01, the 200 best, hard NMS at IoU 0.45, boxes not
clipped); only the implementation differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from ssd_mobilenetv2_lite.priors import make_priors
from zoo_core.datatypes import Detections


def predict_one_by_one(network: nn.Module, paths: Sequence[Path]) -> list[Detections]:
    """Read, resize, run and decode every image by itself, with all threads that torch has."""
    return [_predict(network, path) for path in paths]


def _predict(network: nn.Module, path: Path) -> Detections:
    bgr = cv2.imread(str(path))
    if bgr is None:
        raise FileNotFoundError(path)
    image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    resized = (cv2.resize(image, (300, 300)).astype(np.float32) - 127.0) / 128.0
    with torch.no_grad():
        scores, locations = network(torch.from_numpy(resized).permute(2, 0, 1).unsqueeze(0))
        probabilities = torch.softmax(scores, dim=2)[0]
        boxes = _boxes(locations)[0]
    found: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    for class_index in range(1, probabilities.shape[1]):
        mask = probabilities[:, class_index] > 0.01
        if not mask.any():
            continue
        candidates = torch.cat([boxes[mask], probabilities[mask, class_index].reshape(-1, 1)], dim=1)
        kept = _hard_nms(candidates, iou_threshold=0.45, num_candidates=200)
        found.append(kept)
        labels.append(torch.full((len(kept),), class_index - 1))
    if not found:
        return Detections(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, int))
    rows = torch.cat(found)
    rows[:, :4] *= torch.tensor([width, height, width, height])
    return Detections(boxes=rows[:, :4].numpy(), scores=rows[:, 4].numpy(), labels=torch.cat(labels).numpy())


def _boxes(locations: torch.Tensor) -> torch.Tensor:
    priors = make_priors().unsqueeze(0)
    centers = locations[..., :2] * 0.1 * priors[..., 2:] + priors[..., :2]
    sizes = torch.exp(locations[..., 2:] * 0.2) * priors[..., 2:]
    return torch.cat([centers - sizes / 2, centers + sizes / 2], dim=2)


def _hard_nms(candidates: torch.Tensor, *, iou_threshold: float, num_candidates: int) -> torch.Tensor:
    boxes, scores = candidates[:, :4], candidates[:, 4]
    order = torch.sort(scores, descending=True).indices[:num_candidates]
    kept = []
    while len(order) > 0:
        best = order[0]
        kept.append(int(best))
        order = order[1:]
        if len(order) > 0:
            order = order[_iou(boxes[order], boxes[best].unsqueeze(0)) <= iou_threshold]
    return candidates[kept]


def _iou(boxes: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    overlap = _area(torch.max(boxes[:, :2], other[:, :2]), torch.min(boxes[:, 2:], other[:, 2:]))
    return overlap / (_area(boxes[:, :2], boxes[:, 2:]) + _area(other[:, :2], other[:, 2:]) - overlap + 1e-5)


def _area(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    extent = torch.clamp(high - low, min=0.0)
    return extent[:, 0] * extent[:, 1]
