"""Valid run records for tests, with the fields that a test is about replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zoo_core.runs.deployment import (
    CostRecord,
    DeploymentRecord,
    ExecutedNodeRecord,
    LatencyRecord,
    LayerParityRecord,
    OutputParityRecord,
    ParityRecord,
)
from zoo_core.runs.migration import SCHEMA
from zoo_core.runs.part import SourceRecord
from zoo_core.runs.parts import (
    BatchSizeRecord,
    CalibrationRecord,
    CheckpointRecord,
    CoverageRecord,
    DatasetRecord,
    EnvironmentRecord,
    GitRecord,
    LayerRecord,
    OperationRecord,
    ParameterRecord,
    ProtocolRecord,
    RecipeRecord,
    ResumeRecord,
    ScoreRecord,
    SettingsRecord,
    SimulationRecord,
    StageRecord,
    StageScores,
    StepRecord,
)
from zoo_core.runs.record import MetricsRecord, RunRecord
from zoo_core.runs.request import EvaluationRequest

HEADLINE = "voc07_11pt/pytorch-ssd"

STAGE = StageRecord(
    warnings=(),
    quantized=False,
    batch_size=8,
    weights_bytes=12_000_000,
    network_sha256=None,
    runtime="torch",
    runtime_reason=None,
    deployment=None,
    agreement=None,
    export_seconds=None,
    num_images_timed=12,
    num_nonfinite_images=0,
    seconds=10.0,
    network_seconds=8.0,
    images_per_second=1.2,
    peak_memory_bytes=1_000_000_000,
    scoring_seconds=0.5,
    batch_sizes={
        "1": BatchSizeRecord(
            error=None,
            headline=0.5,
            change_points=-0.01,
            num_images=12,
            num_images_changed=1,
            num_predictions=30,
            num_predictions_changed=2,
            changes={"kept": 30, "moved": 0, "lost": 0, "gained": 0},
            seconds=12.0,
        )
    },
)

DEPLOYMENT = DeploymentRecord(
    runtime="onnxruntime",
    version="1.32.0",
    source=None,
    emulated=False,
    model_sha256="7" * 64,
    model_bytes=3_600_000,
    remedy=None,
    allow_fallback=False,
    integer_coverage=0.9,
    nodes=(
        ExecutedNodeRecord(
            name="/stem/Conv",
            operation="Conv",
            precision="float",
            device="CPU",
            elsewhere=False,
            macs=1_000_000,
            reason="its input is not quantized",
        ),
    ),
    parity=ParityRecord(
        images=("a1",),
        layers=(
            LayerParityRecord(name="stem", differing=0.0, differing_inside=0.0, max_lsb=0),
            LayerParityRecord(name="head", differing=0.01, differing_inside=0.02, max_lsb=1),
        ),
        max_differing=0.25,
        max_lsb=3,
        first_over_threshold=None,
        outputs=(OutputParityRecord(name="output", sqnr_db=40.0, cosine=0.9999),),
    ),
    cost=CostRecord(
        latency=(
            LatencyRecord(
                num_threads=1,
                num_passes=50,
                p50_ms=10.0,
                p90_ms=11.0,
                min_ms=9.5,
                max_ms=15.0,
                float_p50_ms=9.0,
                float_p90_ms=9.5,
            ),
        ),
        peak_rss_bytes=100_000_000,
        float_peak_rss_bytes=120_000_000,
    ),
)

STEP = StepRecord(
    step="fold_batch_norms",
    seconds=1.5,
    summary="folded 12 batch norms",
    effect={"num_folded": 12},
    short=False,
    peak_memory_bytes=1_000_000_000,
    warnings=(),
)


def run_record(**changes: Any) -> RunRecord:
    """The record of a complete run of the toy detector, stages fp32, w8a8 and optimized_fp32 (= fp32)."""
    record = RunRecord(
        schema=SCHEMA,
        zoo_eval="0.0.test",
        model="toy_squares",
        plugin="toy_detector",
        task="detection",
        registry="/somewhere/registry.yaml",
        headline=HEADLINE,
        request=EvaluationRequest(model="toy_squares"),
        settings=SettingsRecord(
            batch_size=8,
            workers=2,
            device="cpu",
            runtime="torch",
            seed=0,
            recipe="w8a8_toy",
            stages=("fp32", "w8a8", "optimized_fp32"),
        ),
        recipe=RecipeRecord(
            name="w8a8_toy",
            description="The recipe of a test.",
            source="/somewhere/recipe.yaml",
            sha256="b" * 64,
            overrides=(),
            steps=({"step": "fold_batch_norms"}, {"step": "quantsim", "param_bw": 8, "config_file": "config.json"}),
            param_bw=8,
            output_bw=8,
            quant_scheme="tf_enhanced",
            config_sha256="a" * 64,
        ),
        checkpoint=CheckpointRecord(path="/somewhere/weights.safetensors", sha256="c" * 64, optimized=False),
        optimized_checkpoint=None,
        dataset=DatasetRecord(
            name="grid",
            root="/somewhere/grid",
            split="test",
            num_images=12,
            num_images_in_split=12,
            limited=False,
            fingerprint="f" * 64,
            image_ids_sha256="1" * 64,
            split_ids_sha256="1" * 64,
            class_names=("red", "green"),
        ),
        calibration=CalibrationRecord(
            split="trainval",
            seed=0,
            requested=64,
            num_images=2,
            num_available=2,
            overlap=(),
            alike=(),
            fingerprint="2" * 64,
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
            torch_threads=1,
            cpu_capability="AVX2",
            torch_settings={"float32 matmul precision": "highest"},
            environment_variables={"OMP_NUM_THREADS": "1"},
        ),
        sources={"zoo-eval": SourceRecord(distribution="zoo-eval", version="0.0.test", sha256="e" * 64)},
        git=GitRecord(commit="d" * 40, dirty=False),
        evaluate=True,
        status="complete",
        started="2025-01-01T00:00:00+00:00",
        finished="2025-01-01T00:10:00+00:00",
        error=None,
        resumed=(
            ResumeRecord(at="2025-01-01T00:05:00+00:00", after="failed", stopped=None, error="no space", warnings=()),
        ),
        steps=(STEP,),
        simulations={
            "w8a8": SimulationRecord(
                coverage=CoverageRecord(
                    operations=(
                        OperationRecord(name="head", kind="Conv2d", coverage="quantized", reason="", macs=1_000_000),
                    ),
                    parameters=(
                        ParameterRecord(name="head.weight", num_values=1000, bits=8, coverage="quantized", reason=""),
                    ),
                ),
                seconds=12.0,
                summary="w8a8: 12 weights",
                effect={"same_as_aimet": True},
                layers=(LayerRecord(layer="head", kind="Conv2d", weight_sqnr_db=None, output_sqnr_db=35.0),),
                peak_memory_bytes=1_000_000_000,
            )
        },
        stages={"fp32": STAGE, "w8a8": replace(STAGE, quantized=True, weights_bytes=3_100_000)},
        seconds={"prepare": 1.0},
        warnings=(),
        files={},
        plugins_notified=True,
    )
    return replace(record, **changes)


def metrics_record(**changes: Any) -> MetricsRecord:
    """Metrics of ``run_record``: fp32 0.75, w8a8 0.5."""

    def stage(value: float, *, quantized: bool, same_as: str | None = None) -> StageScores:
        score = ScoreRecord(values={"map": value, "map_small": None}, per_class={"red": value, "green": value})
        return StageScores(
            quantized=quantized,
            num_images=12,
            scores={HEADLINE: score},
            same_as=same_as,
            drop_points=100.0 * (0.75 - value),
            change=None,
            simulation=None,
        )

    metrics = MetricsRecord(
        schema=SCHEMA,
        model="toy_squares",
        headline=HEADLINE,
        num_images=12,
        limited=False,
        fingerprint="f" * 64,
        stages={
            "fp32": stage(0.75, quantized=False),
            "w8a8": stage(0.5, quantized=True),
            "optimized_fp32": stage(0.75, quantized=False, same_as="fp32"),
        },
        protocols={
            HEADLINE: ProtocolRecord(definition="a rule", num_images=12, num_objects={"red": 12, "green": 12}, notes=())
        },
        warnings=(),
    )
    return replace(metrics, **changes)
