"""A run directory made without a network: the predictions are the jittered ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo_core.comparison.changes import headline_changes
from zoo_core.datatypes import (
    Classification,
    ClassTarget,
    Detections,
    DetectionTarget,
    EvalDataset,
    Metric,
    Prediction,
    ProtocolScore,
    Target,
)
from zoo_core.metrics.classification import ClassificationMetric, rank_classes
from zoo_core.metrics.detection import DetectionMetric
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.migration import SCHEMA
from zoo_core.runs.parts import (
    CalibrationRecord,
    CheckpointRecord,
    DatasetRecord,
    EnvironmentRecord,
    GitRecord,
    LayerRecord,
    ProtocolRecord,
    RecipeRecord,
    ScoreRecord,
    SettingsRecord,
    SimulationRecord,
    StageRecord,
    StageScores,
    StepRecord,
)
from zoo_core.runs.predictions import Chunk, PredictionStore
from zoo_core.runs.record import MetricsRecord, RunRecord, record_text
from zoo_core.runs.request import EvaluationRequest
from zoo_core.tasks.classification import CLASSIFICATION
from zoo_core.tasks.detection import DETECTION

HEADLINE = "voc07_11pt/pytorch-ssd"
CHUNK = 64
LAYERS = tuple(f"features.{index}.conv" for index in range(12))


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
    """Write what `zoo-eval run --stages fp32,w8a8,optimized_fp32` leaves, without its inputs and the network."""
    run = RunDirectory.create(path, model)
    ids = dataset.ids[:limit]
    of_classes = isinstance(dataset.target(ids[0]), ClassTarget)
    headline = "topk/first" if of_classes else HEADLINE
    targets = [dataset.target(image_id) for image_id in ids]
    names = dataset.class_names
    found: dict[str, dict[str, Prediction]] = {}
    scored: dict[str, Mapping[str, ProtocolScore]] = {}
    for stage, amplitude in (("fp32", noise / 3), ("w8a8", noise)):
        metric: Metric = (ClassificationMetric if of_classes else DetectionMetric)(names)
        store = PredictionStore(run.folder("predictions", stage), metric.prediction_type)
        rng = np.random.default_rng(seed)  # the same draw for both stages: only the amplitude differs
        preds = [predicted(target, len(names), rng, amplitude) for target in targets]
        for index, start in enumerate(range(0, len(ids), CHUNK)):
            part = slice(start, start + CHUNK)
            store.write(Chunk(index=index, image_ids=tuple(ids[part]), predictions=tuple(preds[part])))
        metric.update(ids, preds, targets)
        found[stage], scored[stage] = dict(zip(ids, preds, strict=True)), metric.compute()
    task = CLASSIFICATION if of_classes else DETECTION
    changes = headline_changes(task, names, ids, targets, found["fp32"], [("w8a8", found["w8a8"])], headline)
    baseline = scored["fp32"][headline].headline or 0.0
    stages = {
        stage: StageScores(
            quantized=stage != "fp32",
            num_images=len(ids),
            scores={name: ScoreRecord(values=one.values, per_class=one.per_class) for name, one in scores.items()},
            same_as=None,
            drop_points=100.0 * (baseline - (scores[headline].headline or 0.0)),
            change=changes.get(stage),
            simulation=None,
        )
        for stage, scores in scored.items()
    }
    stages["optimized_fp32"] = replace(stages["fp32"], same_as="fp32")
    metrics = MetricsRecord(
        schema=SCHEMA,
        model=model,
        headline=headline,
        num_images=len(ids),
        limited=limit is not None,
        fingerprint="f" * 64,
        stages=stages,
        protocols={
            name: ProtocolRecord(
                definition=one.definition,
                num_images=one.num_images,
                num_objects=one.num_objects,
                notes=tuple(one.notes),
            )
            for name, one in scored["w8a8"].items()
        },
        warnings=tuple(warnings),
    )
    written = record(dataset, root, model, headline, labels=labels, warnings=warnings, limit=limit)
    run.write_text("run.json", record_text(written))
    run.write_text("metrics.json", record_text(metrics))
    return run.path


def record(
    dataset: EvalDataset,
    root: Path,
    model: str,
    headline: str,
    *,
    labels: Path | None = None,
    warnings: Sequence[str] = (),
    limit: int | None = None,
) -> RunRecord:
    num_images = len(dataset.ids[:limit])
    return RunRecord(
        schema=SCHEMA,
        zoo_eval="0.0.test",
        model=model,
        plugin="toy_detector",
        task="classification" if isinstance(dataset.target(dataset.ids[0]), ClassTarget) else "detection",
        registry="/somewhere/registry.yaml",
        headline=headline,
        request=EvaluationRequest(
            model=model,
            data=root,
            labels=labels,
            limit=limit,
            settings=("quantsim.param_bw=8",),
            calibration_size=64,
            command=("zoo-eval", "run", model, "--data", "a folder"),
        ),
        settings=SettingsRecord(
            batch_size=8,
            workers=2,
            device="cpu",
            runtime="torch",
            seed=0,
            recipe="recipe_of_the_test",
            stages=("fp32", "w8a8"),
        ),
        recipe=RecipeRecord(
            name="recipe_of_the_test",
            description="For the tests.",
            source="/somewhere/recipe.yaml",
            sha256="b" * 64,
            overrides=("quantsim.param_bw=8",),
            steps=({"step": "fold_batch_norms"}, {"step": "quantsim", "param_bw": 8, "output_bw": 8}),
            param_bw=8,
            output_bw=8,
            quant_scheme="tf_enhanced",
            config_sha256="e" * 64,
        ),
        checkpoint=CheckpointRecord(path="/somewhere/weights.safetensors", sha256="c" * 64, optimized=False),
        optimized_checkpoint=None,
        dataset=DatasetRecord(
            name=dataset.name,
            root=str(root),
            split=dataset.split,
            num_images=num_images,
            num_images_in_split=len(dataset.ids),
            limited=limit is not None,
            fingerprint="f" * 64,
            image_ids_sha256="1" * 64,
            split_ids_sha256="1" * 64,
            class_names=tuple(dataset.class_names),
        ),
        calibration=CalibrationRecord(
            split="trainval",
            seed=0,
            requested=64,
            num_images=64,
            num_available=64,
            overlap=(),
            alike=(),
            fingerprint="9" * 64,
            ids=("a1", "a2"),
        ),
        environment=EnvironmentRecord(
            python="3.11.2",
            packages={"torch": "2.15.0", "aimet-torch": "2.42.0"},
            platform="Linux",
            processor="a processor",
            num_cores=2,
            device="cpu",
            device_name=None,
            cpu_capability="AVX2",
            torch_threads=1,
            torch_settings={"float32 matmul precision": "highest"},
            environment_variables={"OMP_NUM_THREADS": "1"},
        ),
        sources={},
        git=GitRecord(commit="d" * 40, dirty=True),
        evaluate=True,
        status="complete",
        started="2025-01-01T00:00:00+00:00",
        finished="2025-01-01T00:10:00+00:00",
        error=None,
        resumed=(),
        steps=_steps(),
        simulations={"w8a8": _simulation()},
        stages={
            stage: _stage(num_images, quantized=stage != "fp32", weights_bytes=size)
            for stage, size in (("fp32", 12_000_000), ("w8a8", 3_100_000))
        },
        seconds={"prepare": 1.0},
        warnings=(*warnings, "adaround: 100 iterations, a short run"),
        files={},
        plugins_notified=True,
    )


def _steps() -> tuple[StepRecord, ...]:
    ranges = {
        name: {
            "max_abs_before": 1.0 + index,
            "max_abs_after": 1.0,
            "spread_before": 10.0 * (index + 1),
            "spread_after": None if index == 3 else 2.0,
        }
        for index, name in enumerate(LAYERS)
    }
    return (
        StepRecord(
            step="fold_batch_norms",
            seconds=1.5,
            summary="folded 12 batch norms",
            effect={"num_folded": 12},
            short=False,
            peak_memory_bytes=900_000_000,
            warnings=(),
        ),
        StepRecord(
            step="cross_layer_equalization",
            seconds=2.5,
            summary="scaled 4 layer sets",
            effect={"weight_ranges": ranges},
            short=False,
            peak_memory_bytes=1_000_000_000,
            warnings=(),
        ),
    )


def _simulation() -> SimulationRecord:
    return SimulationRecord(
        coverage=None,
        seconds=12.0,
        summary="w8a8: 12 weights",
        effect={},
        layers=tuple(
            LayerRecord(
                layer=name,
                kind="Conv2d",
                weight_sqnr_db=None if index == 5 else 40.0 - index,
                output_sqnr_db=35.0 - 2 * index,
            )
            for index, name in enumerate(LAYERS)
        ),
        peak_memory_bytes=1_000_000_000,
    )


def _stage(num_images: int, *, quantized: bool, weights_bytes: int) -> StageRecord:
    return StageRecord(
        warnings=(),
        quantized=quantized,
        batch_size=8,
        weights_bytes=weights_bytes,
        network_sha256=None,
        runtime="torch",
        runtime_reason=None,
        deployment=None,
        agreement=None,
        export_seconds=None,
        num_nonfinite_images=0,
        num_images_timed=num_images,
        seconds=10.0,
        network_seconds=8.0,
        images_per_second=num_images / 10.0,
        peak_memory_bytes=1_000_000_000,
        scoring_seconds=1.0,
        batch_sizes={},
    )
