"""Times COCO's metric against the published evaluators: ``python -m benchmarks.metric_peers``.

pycocotools, faster-coco-eval and torchmetrics get the detections of VOC2007 test; the first two must find the same mAP
as this project's ``coco`` protocol, torchmetrics comes within 0.001 of it. Difficult objects are left out on every
side, because torchmetrics does not support them. Each side starts from arrays in memory and is charged for its own
conversions. Needs the reference data that ZOO_EVAL_SHARED points to, and the extra ``bench``; missing peers are left
out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.scoring import LoadedScene, load_scene, score_flat_coco
from benchmarks.timing import Spread, conditions, in_turn, ratios
from zoo_core.datasets.voc import VOC_CLASSES
from zoo_core.datatypes import DetectionTarget

PEERS = {"pycocotools": "pycocotools", "faster_coco_eval": "faster-coco-eval", "torchmetrics": "torchmetrics"}
"""Import name to the package's name."""


def without_difficult(scene: LoadedScene) -> LoadedScene:
    """Return the scene with only the objects that count."""
    targets = []
    for target in scene.targets:
        kept = ~target.difficult
        targets.append(
            DetectionTarget(boxes=target.boxes[kept], labels=target.labels[kept], difficult=target.difficult[kept])
        )
    return LoadedScene(image_ids=scene.image_ids, preds=scene.preds, targets=targets)


def _coco_dicts(scene: LoadedScene) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Convert ground truth and results to COCO's form; ``xywh`` without the pixel that VOC adds."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for index, (target, pred) in enumerate(zip(scene.targets, scene.preds, strict=True), start=1):
        for box, label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": label + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        for box, label, score in zip(pred.boxes.tolist(), pred.labels.tolist(), pred.scores.tolist(), strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": index, "category_id": label + 1, "bbox": bbox, "score": score})
    truth = {
        "images": [{"id": index} for index in range(1, len(scene.targets) + 1)],
        "categories": [{"id": index, "name": name} for index, name in enumerate(VOC_CLASSES, start=1)],
        "annotations": annotations,
        "info": {},
    }
    return truth, results


def by_pycocotools(scene: LoadedScene) -> float:
    """Score by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _evaluate(COCO(), COCOeval, scene)


def by_faster_coco_eval(scene: LoadedScene) -> float:
    """Score by faster-coco-eval."""
    from faster_coco_eval import COCO, COCOeval_faster

    return _evaluate(COCO(), COCOeval_faster, scene)


def _evaluate(truth: Any, evaluator: Any, scene: LoadedScene) -> float:
    truth.dataset, results = _coco_dicts(scene)
    truth.createIndex()
    evaluation = evaluator(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def by_torchmetrics(scene: LoadedScene) -> float:
    """Score by torchmetrics, with its default backend."""
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(box_format="xyxy", iou_type="bbox")
    preds = [
        {"boxes": torch.from_numpy(p.boxes), "scores": torch.from_numpy(p.scores), "labels": torch.from_numpy(p.labels)}
        for p in scene.preds
    ]
    targets = [{"boxes": torch.from_numpy(t.boxes), "labels": torch.from_numpy(t.labels)} for t in scene.targets]
    metric.update(preds, targets)
    return float(metric.compute()["map"])


def _quiet(work: Callable[[LoadedScene], float], scene: LoadedScene) -> Callable[[], float]:
    def run() -> float:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work(scene)

    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each side's seconds and mAP, and the ratio to ours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", default="yolo2_b", choices=["yolo2_a", "yolo2_b"], dest="name")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    if not os.environ.get("ZOO_EVAL_SHARED"):
        print("ZOO_EVAL_SHARED is unset; set it to the folder of reference data.", file=sys.stderr)
        return 2
    scene = without_difficult(load_scene(Path(os.environ["ZOO_EVAL_SHARED"]), options.name))
    ways = {
        "pycocotools": by_pycocotools,
        "faster_coco_eval": by_faster_coco_eval,
        "torchmetrics": by_torchmetrics,
    }
    sides = {"zoo_eval": _quiet(score_flat_coco, scene)}
    for module, way in ways.items():
        if importlib.util.find_spec(module) is None:
            print(f"{PEERS[module]} is not installed and left out: pip install '.[bench]'")
        else:
            sides[module] = _quiet(way, scene)
    found = {name: work() for name, work in sides.items()}
    seconds = in_turn(sides, options.repeats)
    num_detections = sum(len(pred.scores) for pred in scene.preds)
    print(f"coco protocol, {len(scene.image_ids)} images, {num_detections} detections, {options.repeats} repeats")
    figures: dict[str, Any] = {"conditions": conditions(), "map": found, "seconds": {}, "ratio": {}}
    for name, taken in seconds.items():
        spread, ratio = Spread(values=tuple(taken)), ratios(taken, seconds["zoo_eval"])
        print(f"  {name:18s} {spread} s, mAP {found[name]:.6f}, {ratio} times ours")
        figures["seconds"][name], figures["ratio"][name] = spread.as_json(), ratio.as_json()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
