"""Typed records for tests that need one without a run; change fields with ``dataclasses.replace``."""

from __future__ import annotations

from collections.abc import Mapping

from zoo_core.runs.migration import SCHEMA
from zoo_core.runs.parts import (
    CheckpointRecord,
    DatasetRecord,
    EnvironmentRecord,
    RecipeRecord,
    ScoreRecord,
    SettingsRecord,
    StageRecord,
    StageScores,
)
from zoo_core.runs.record import MetricsRecord, RunRecord
from zoo_core.runs.request import EvaluationRequest


def example_record(**stages: StageRecord) -> RunRecord:
    """A complete run of model ``m`` on seven images of data set ``d``."""
    return RunRecord(
        schema=SCHEMA,
        zoo_eval="0.1.0",
        model="m",
        plugin="p",
        task="detection",
        registry="registry.yaml",
        headline="coco",
        request=EvaluationRequest(model="m"),
        settings=SettingsRecord(
            batch_size=1, workers=0, device="cpu", backend="torch", seed=0, recipe="r", stages=tuple(stages)
        ),
        recipe=RecipeRecord(
            name="r",
            description="",
            source="r.yaml",
            sha256="a" * 64,
            overrides=(),
            steps=({"step": "quantsim"},),
            param_bw=8,
            output_bw=8,
            quant_scheme="tf",
            config_sha256="b" * 64,
        ),
        checkpoint=CheckpointRecord(path="m.pth", sha256="c" * 64, optimized=False),
        optimized_checkpoint=None,
        dataset=DatasetRecord(
            name="d",
            root="data",
            split="test",
            num_images=7,
            num_images_in_split=7,
            limited=False,
            fingerprint="d" * 64,
            image_ids_sha256="e" * 64,
            class_names=("cat", "dog", "cow"),
        ),
        calibration=None,
        environment=EnvironmentRecord(
            python="3.11.7",
            packages={"torch": "2.15.0"},
            platform="Linux",
            processor="a processor",
            num_cores=2,
            device="cpu",
            device_name=None,
            torch_threads=1,
            environment_variables={},
        ),
        git=None,
        evaluate=True,
        status="complete",
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
        error=None,
        resumed=(),
        steps=(),
        simulations={},
        stages=stages,
        seconds={"prepare": 1.0},
        warnings=(),
        plugins_notified=True,
    )


def example_stage(
    *, quantized: bool = False, weights_bytes: int, images_per_second: float | None = None
) -> StageRecord:
    """What a stage cost."""
    return StageRecord(
        warnings=(),
        quantized=quantized,
        batch_size=1,
        weights_bytes=weights_bytes,
        backend="torch",
        agreement=None,
        export_seconds=None,
        num_images_timed=7,
        seconds=1.0,
        network_seconds=0.5,
        images_per_second=images_per_second,
        peak_memory_bytes=1,
        scoring_seconds=0.1,
        batch_sizes={},
    )


def example_scores(
    value: float,
    per_class: Mapping[str, float | None],
    *,
    drop_points: float | None = None,
    quantized: bool = False,
    same_as: str | None = None,
) -> StageScores:
    """Scores of a stage under the protocol ``coco``."""
    return StageScores(
        quantized=quantized,
        num_images=7,
        scores={"coco": ScoreRecord(values={"map": value}, per_class=per_class)},
        same_as=same_as,
        drop_points=drop_points,
    )


def example_metrics(**stages: StageScores) -> MetricsRecord:
    """Metrics of the run of ``example_record``."""
    return MetricsRecord(
        schema=SCHEMA,
        model="m",
        headline="coco",
        num_images=7,
        limited=False,
        fingerprint="d" * 64,
        stages=stages,
        protocols={},
        warnings=(),
    )
