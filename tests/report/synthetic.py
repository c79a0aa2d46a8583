"""A run directory made without a network: predictions are the ground truth, jittered more in one stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.datatypes import (
    Classification,
    ClassTarget,
    Detections,
    DetectionTarget,
    EvalDataset,
    Metric,
    Prediction,
    Target,
)
from zoo_core.metrics.classification import ClassificationMetric, rank_classes
from zoo_core.metrics.detection import DetectionMetric
from zoo_core.runs.directory import SCHEMA, RunDirectory
from zoo_core.runs.predictions import Chunk, PredictionStore

HEADLINE = "voc07_11pt/pytorch-ssd"
CHUNK = 64


def detections(target: DetectionTarget, num_classes: int, rng: np.random.Generator, noise: float) -> Detections:
    """Each object found with a jittered box, some missed, some taken for another class, some invented."""
    num = len(target.boxes)
    sizes = np.maximum(target.boxes[:, 2:] - target.boxes[:, :2], 4.0)
    jitter = rng.normal(0.0, noise, (num, 4)) * np.concatenate([sizes, sizes], axis=1)
    scores = np.clip(1.0 - rng.exponential(3.0 * noise, num), 0.02, 0.999)
    labels = np.where(rng.random(num) < noise, rng.integers(0, num_classes, num), target.labels)
    invented = rng.random(num) < 0.3
    boxes = np.concatenate([target.boxes + jitter, (target.boxes + 0.6 * np.tile(sizes, 2))[invented]])
    scores = np.concatenate([scores, rng.uniform(0.02, 0.2 + 6 * noise, int(invented.sum()))])
    labels = np.concatenate([labels, labels[invented]])
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes=boxes[order].astype(np.float32),
        scores=scores[order].astype(np.float32),
        labels=labels[order].astype(np.int64),
    )


def classification(target: ClassTarget, num_classes: int, rng: np.random.Generator, noise: float) -> Classification:
    """The true class ahead of others that differ by image, by less the more noise there is."""
    logits = rng.normal(0.0, 2.0, num_classes) + rng.normal(0.0, 30.0 * noise, num_classes)
    logits[target.label] += 4.0
    return rank_classes(logits.astype(np.float32))


def predicted(target: Target, num_classes: int, rng: np.random.Generator, noise: float) -> Prediction:
    if isinstance(target, ClassTarget):
        return classification(target, num_classes, rng, noise)
    assert isinstance(target, DetectionTarget)
    return detections(target, num_classes, rng, noise)


def write_run(
    path: Path,
    dataset: EvalDataset,
    root: Path,
    model: str,
    *,
    seed: int = 0,
    noise: float = 0.06,
    labels: Path | None = None,
    limit: int | None = None,
    warnings: Sequence[str] = ("Limited run: a warning of the test.",),
) -> Path:
    """Write what `zoo-eval run --stages fp32,w8a8,optimized_fp32` leaves, as far as the report looks at it."""
    run = RunDirectory.create(path, model)
    ids = dataset.ids[:limit]
    of_classes = isinstance(dataset.target(ids[0]), ClassTarget)
    headline = "topk/first" if of_classes else HEADLINE
    metrics: dict[str, Any] = {"schema": SCHEMA, "model": model, "headline": headline, "num_images": len(ids)}
    metrics |= {"limited": limit is not None, "fingerprint": "f" * 64, "stages": {}, "warnings": list(warnings)}
    baseline = 0.0
    for stage, amplitude in (("fp32", noise / 3), ("w8a8", noise)):
        metric: Metric = (ClassificationMetric if of_classes else DetectionMetric)(dataset.class_names)
        store = PredictionStore(run.folder("predictions", stage), metric.prediction_type)
        rng = np.random.default_rng(seed)  # the same draw for both stages: only the amplitude differs
        for index, start in enumerate(range(0, len(ids), CHUNK)):
            part = tuple(ids[start : start + CHUNK])
            targets = [dataset.target(image_id) for image_id in part]
            found = tuple(predicted(target, len(dataset.class_names), rng, amplitude) for target in targets)
            store.write(Chunk(index=index, image_ids=part, predictions=found))
            metric.update(part, found, targets)
        scores = metric.compute()
        value = scores[headline].headline or 0.0
        baseline = value if stage == "fp32" else baseline
        metrics["stages"][stage] = {
            "same_as": None,
            "quantized": stage != "fp32",
            "num_images": len(ids),
            "metrics": {name: {**score.values, "per_class": dict(score.per_class)} for name, score in scores.items()},
            "drop_points": 100.0 * (baseline - value),
        }
        metrics["protocols"] = {
            name: {
                "definition": score.definition,
                "num_images": score.num_images,
                "num_objects": dict(score.num_objects),
                "notes": list(score.notes),
            }
            for name, score in scores.items()
        }
    metrics["stages"]["optimized_fp32"] = {**metrics["stages"]["fp32"], "same_as": "fp32"}
    run.write_json("run.json", record(dataset, root, model, ids, labels, warnings, limit) | {"headline": headline})
    run.write_json("metrics.json", metrics)
    return run.path


def record(
    dataset: EvalDataset,
    root: Path,
    model: str,
    ids: Sequence[str],
    labels: Path | None,
    warnings: Sequence[str],
    limit: int | None,
) -> dict[str, Any]:
    layers = [f"features.{index}.conv" for index in range(12)]
    return {
        "schema": SCHEMA,
        "zoo_eval": "0.0.test",
        "status": "complete",
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T00:10:00+00:00",
        "model": model,
        "task": "classification" if isinstance(dataset.target(ids[0]), ClassTarget) else "detection",
        "headline": HEADLINE,
        "request": {
            "model": model,
            "data": str(root),
            "labels": str(labels) if labels else None,
            "limit": limit,
            "settings": ["quantsim.param_bw=8"],
            "calibration_size": 64,
            "seed": 0,
            "workers": 2,
            "allow_calibration_overlap": False,
            "command": ["zoo-eval", "run", model, "--data", "a folder"],
        },
        "settings": {"batch_size": 8, "workers": 2, "device": "cpu", "seed": 0, "stages": ["fp32", "w8a8"]},
        "recipe": {
            "name": "recipe_of_the_test",
            "sha256": "b" * 64,
            "source": "/somewhere/recipe.yaml",
            "quant_scheme": "tf_enhanced",
            "overrides": [],
            "steps": [{"step": "fold_batch_norms"}, {"step": "quantsim", "param_bw": 8, "output_bw": 8}],
        },
        "checkpoint": {"path": "/somewhere/weights.safetensors", "sha256": "c" * 64, "optimized": False},
        "optimized_checkpoint": None,
        "dataset": {
            "name": dataset.name,
            "root": str(root),
            "split": dataset.split,
            "num_images": len(ids),
            "num_images_in_split": len(dataset.ids),
            "limited": limit is not None,
            "fingerprint": "f" * 64,
            "image_ids_sha256": "1" * 64,
            "class_names": list(dataset.class_names),
        },
        "calibration": {
            "split": "trainval",
            "seed": 0,
            "requested": 64,
            "num_images": 64,
            "overlap": [],
            "ids": ["a1", "a2"],
        },
        "environment": {
            "python": "3.11.2",
            "packages": {"torch": "2.15.0", "aimet-torch": "2.42.0"},
            "device": "cpu",
            "environment_variables": {"OMP_NUM_THREADS": "1"},
        },
        "git": {"commit": "d" * 40, "dirty": True},
        "steps": [
            {
                "step": "fold_batch_norms",
                "seconds": 1.5,
                "summary": "folded 12 batch norms",
                "effect": {"num_folded": 12},
            },
            {
                "step": "cross_layer_equalization",
                "seconds": 2.5,
                "summary": "scaled 4 layer sets",
                "effect": {
                    "weight_ranges": {
                        name: {
                            "max_abs_before": 1.0 + index,
                            "max_abs_after": 1.0,
                            "spread_before": 10.0 * (index + 1),
                            "spread_after": None if index == 3 else 2.0,
                        }
                        for index, name in enumerate(layers)
                    }
                },
                "peak_memory_bytes": 1_000_000_000,
            },
        ],
        "simulations": {
            "w8a8": {
                "seconds": 12.0,
                "summary": "w8a8: 12 weights",
                "effect": {},
                "layers": [
                    {
                        "layer": name,
                        "weight_sqnr_db": None if index == 5 else 40.0 - index,
                        "output_sqnr_db": 35.0 - 2 * index,
                    }
                    for index, name in enumerate(layers)
                ],
            }
        },
        "stages": {
            stage: {
                "seconds": 10.0,
                "network_seconds": 8.0,
                "images_per_second": len(ids) / 10.0,
                "weights_bytes": size,
            }
            for stage, size in (("fp32", 12_000_000), ("w8a8", 3_100_000))
        },
        "warnings": [*warnings, "adaround: 100 iterations, a short run"],
    }
