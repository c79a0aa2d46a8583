"""Times the scoring of VOC2007 test against a plain loop: ``python -m benchmarks.scoring``.

Needs the reference data that ZOO_EVAL_SHARED points to. Both sides start from the same loaded arrays and compute
the AP of every class under VOC's four protocols; COCO and the parsing of files are timed separately.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo_core.datasets.comp4 import read_comp4
from zoo_core.datasets.voc import VOC_CLASSES, VocDetection
from zoo_core.datatypes import Detections, DetectionTarget
from zoo_core.metrics.detection import (
    DETECTION_PROTOCOLS,
    DetectionMetric,
    average_precision_11pt,
    average_precision_area,
)

_CHUNK = 64  # images per update, about as many as inference delivers
VOC_PROTOCOLS = tuple(protocol for protocol in DETECTION_PROTOCOLS if protocol != "coco")
ApTable: TypeAlias = dict[str, dict[str, float]]  # protocol, class name


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedScene:
    """Every image of VOC2007 test, in memory."""

    image_ids: Sequence[str]
    preds: Sequence[Detections]
    targets: Sequence[DetectionTarget]


def load_scene(shared: Path, name: str) -> LoadedScene:
    """Read annotations and one published set of detections from the shared folder's archives."""
    with tempfile.TemporaryDirectory() as folder:
        for archive in ("voc2007_annotations.tar.xz", "voc2007_detections.tar.xz"):
            with tarfile.open(shared / "data" / archive) as tar:
                tar.extractall(folder, filter="data")
        start = time.perf_counter()
        dataset = VocDetection(Path(folder) / "VOC2007", "test")
        targets = [dataset.target(image_id) for image_id in dataset.ids]
        found = read_comp4(Path(folder) / "voc2007_detections" / name, VOC_CLASSES).by_image()
        print(f"parsing annotations and comp4 files   {time.perf_counter() - start:8.3f} s (once, not part of scoring)")
    none = Detections(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64))
    preds = [found.get(image_id, none) for image_id in dataset.ids]
    return LoadedScene(image_ids=dataset.ids, preds=preds, targets=targets)


def score_flat(scene: LoadedScene, protocols: Sequence[str] = VOC_PROTOCOLS) -> ApTable:
    """Run this project's metric, from the first update to the last AP."""
    metric = DetectionMetric(VOC_CLASSES)
    for start in range(0, len(scene.image_ids), _CHUNK):
        part = slice(start, start + _CHUNK)
        metric.update(scene.image_ids[part], scene.preds[part], scene.targets[part])
    scores = metric.compute(protocols)
    return {
        protocol: {name: ap for name, ap in score.per_class.items() if ap is not None}
        for protocol, score in scores.items()
    }


def score_flat_coco(scene: LoadedScene) -> float:
    """Compute this project's mAP under the ``coco`` protocol."""
    metric = DetectionMetric(VOC_CLASSES)
    metric.update(scene.image_ids, scene.preds, scene.targets)
    return metric.compute(["coco"])["coco"].headline or 0.0


def score_by_loop(scene: LoadedScene) -> ApTable:
    """Score with a plain loop: for each class, match one detection after another to the objects of its image."""
    table: ApTable = {protocol: {} for protocol in VOC_PROTOCOLS}
    objects, detections = _objects_per_class(scene), _ranked_per_class(scene)
    for label, name in enumerate(VOC_CLASSES):
        num_objects = sum(int((~difficult).sum()) for _, difficult in objects[label].values())
        for rule, extent, eps in (("devkit", 1.0, 0.0), ("pytorch-ssd", 0.0, 1e-5)):
            found = _match_by_loop(detections[label], objects[label], extent, eps)
            recall = np.cumsum(found) / num_objects
            precision = np.cumsum(found) / np.arange(1, len(found) + 1)
            table[f"voc07_11pt/{rule}"][name] = average_precision_11pt(recall, precision)
            table[f"voc_area/{rule}"][name] = average_precision_area(recall, precision)
    return table


Boxes: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Objects: TypeAlias = dict[str, tuple[Boxes, Flags]]  # by image id


def _objects_per_class(scene: LoadedScene) -> list[Objects]:
    objects: list[Objects] = [{} for _ in VOC_CLASSES]
    for image_id, target in zip(scene.image_ids, scene.targets, strict=True):
        for label in set(target.labels.tolist()):
            chosen = target.labels == label
            objects[label][image_id] = (target.boxes[chosen].astype(np.float64), target.difficult[chosen])
    return objects


def _ranked_per_class(scene: LoadedScene) -> list[list[tuple[str, Boxes]]]:
    # Published evaluators get a file for each class, so the peer is not charged for sorting detections into classes.
    image_ids = np.repeat(np.array(scene.image_ids), [len(pred.scores) for pred in scene.preds])
    boxes = np.concatenate([pred.boxes for pred in scene.preds]).astype(np.float64)
    scores = np.concatenate([pred.scores for pred in scene.preds])
    labels = np.concatenate([pred.labels for pred in scene.preds])
    order = np.lexsort((*boxes.T[::-1], image_ids, -scores, labels))
    pieces = np.split(order, np.searchsorted(labels[order], np.arange(1, len(VOC_CLASSES))))
    return [[(str(image_ids[row]), boxes[row]) for row in piece] for piece in pieces]


def _match_by_loop(ranked: Sequence[tuple[str, Boxes]], objects: Objects, extent: float, eps: float) -> Flags:
    found = []
    taken: set[tuple[str, int]] = set()
    for image_id, box in ranked:
        if image_id not in objects:
            found.append(False)
            continue
        boxes, difficult = objects[image_id]
        low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
        inter = np.prod(np.maximum(high - low + extent, 0.0), axis=1)
        sizes = np.prod(boxes[:, 2:] - boxes[:, :2] + extent, axis=1)
        iou = inter / (sizes + np.prod(box[2:] - box[:2] + extent) - inter + eps)
        best = int(np.argmax(iou))
        if iou[best] <= 0.5:
            found.append(False)
        elif not difficult[best]:
            found.append((image_id, best) not in taken)
            taken.add((image_id, best))
    return np.array(found, dtype=np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of each repeat."""

    seconds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{statistics.median(self.seconds):8.3f} s (from {min(self.seconds):.3f} to {max(self.seconds):.3f})"


def timed(work: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def largest_difference(one: ApTable, other: ApTable) -> float:
    """Over protocols and classes."""
    return max(abs(ap - other[protocol][name]) for protocol, table in one.items() for name, ap in table.items())


def measure(scene: LoadedScene, repeats: int) -> dict[str, Timing]:
    """Time both sides in turn, so that a busy moment of the machine affects both."""
    sides: dict[str, Callable[[], object]] = {
        "voc": lambda: score_flat(scene),
        "voc_and_coco": lambda: score_flat(scene, DETECTION_PROTOCOLS),
        "plain_loop": lambda: score_by_loop(scene),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            seconds[name].append(timed(work))
    return {name: Timing(seconds=tuple(values)) for name, values in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print times, their spread over repeats, and the ratio to the plain loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--set", default="yolo2_b", choices=["yolo2_a", "yolo2_b"], dest="name")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    if not os.environ.get("ZOO_EVAL_SHARED"):
        print("ZOO_EVAL_SHARED is unset; set it to the folder of reference data.", file=sys.stderr)
        return 2
    scene = load_scene(Path(os.environ["ZOO_EVAL_SHARED"]), options.name)
    difference = largest_difference(score_flat(scene), score_by_loop(scene))
    timings = measure(scene, options.repeats)
    ratios = [loop / own for loop, own in zip(timings["plain_loop"].seconds, timings["voc"].seconds, strict=True)]
    num_detections = sum(len(pred.scores) for pred in scene.preds)

    print(f"{len(scene.image_ids)} images, {num_detections} detections, {options.repeats} repeats")
    print(f"four VOC protocols                    {timings['voc']}")
    print(f"four VOC protocols and COCO           {timings['voc_and_coco']}")
    print(f"plain loop, four VOC protocols        {timings['plain_loop']}")
    spread = f"(from {min(ratios):.1f} to {max(ratios):.1f})"
    print(f"times faster than the plain loop      {statistics.median(ratios):8.1f}   {spread}")
    print(f"largest difference of a class's AP    {difference:8.1e}")
    if options.json:
        figures = {name: timing.seconds for name, timing in timings.items()}
        options.json.write_text(json.dumps({"seconds": figures, "ratios": ratios, "difference": difference}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
