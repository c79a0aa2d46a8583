"""Parts of ``run.json`` and ``metrics.json`` as frozen dataclasses; ``runs.record`` combines them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from zoo_core.runs.deployment import DeploymentRecord
from zoo_core.runs.part import Part

Status: TypeAlias = Literal["running", "complete", "failed", "interrupted"]

Coverage: TypeAlias = Literal["quantized", "exempt", "folded", "not quantized"]
"""``exempt``: the configuration leaves it in float. ``folded``: it does nothing, or was merged into another module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsRecord(Part):
    """Settings of a run with every default resolved; ``recipe`` is the name or path as requested.

    ``runtime`` is that of float stages as requested, perhaps ``auto``; each stage records its own.
    """

    batch_size: int
    workers: int
    device: str
    runtime: str
    seed: int
    recipe: str
    stages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRecord(Part):
    """Recipe as used; each entry of ``steps`` has ``step`` and its parameters."""

    name: str
    description: str
    source: str
    sha256: str
    overrides: tuple[str, ...]
    steps: tuple[Mapping[str, Any], ...]
    param_bw: int
    output_bw: int
    quant_scheme: str
    config_sha256: str

    @property
    def config_file(self) -> str | None:
        """Path of the AIMET configuration relative to the recipe, as the recipe's last step names it."""
        name = self.steps[-1].get("config_file") if self.steps else None
        return name if isinstance(name, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord(Part):
    """Weights file."""

    path: str
    sha256: str
    optimized: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRecord(Part):
    """Evaluated images; ``fingerprint`` covers the content of images and annotations.

    ``split_ids_sha256`` covers the ids of the whole split, in its order; runs before schema 3 have none.
    """

    name: str
    root: str
    split: str
    num_images: int
    num_images_in_split: int
    limited: bool
    fingerprint: str
    image_ids_sha256: str
    split_ids_sha256: str | None
    class_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord(Part):
    """Calibration images; ``overlap`` lists those that are evaluated too, ``alike`` those that only look like it."""

    split: str
    seed: int
    requested: int
    num_images: int
    num_available: int
    overlap: tuple[str, ...]
    alike: tuple[str, ...]
    fingerprint: str | None
    ids: tuple[str, ...]


KERNEL_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDNN_CONV_WSCAP_DBG",
    "DISABLE_ADDMM_CUDA_LT",
    "DNNL_CPU_ISA_HINTS",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "GLIBC_TUNABLES",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_THREAD_LIMIT",
    "ONEDNN_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENCV_CPU_DISABLE",
    "OPENCV_IPP",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUDNN_V8_API_DEBUG",
    "TORCH_CUDNN_V8_API_DISABLED",
    "TORCH_LINALG_PREFER_CUSOLVER",
)
"""Environment variables that select the kernels of torch, oneDNN, MKL, OpenBLAS, numpy, OpenCV, glibc and CUDA.

The two of OpenMP let it use fewer threads than torch reports.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRecord(Part):
    """Versions, hardware and thread settings.

    ``cpu_capability`` is the instruction set of torch's kernels; ``torch_settings`` are torch's global settings that
    select kernels or change the arithmetic.
    """

    python: str
    packages: Mapping[str, str]
    platform: str
    processor: str
    num_cores: int | None
    device: str
    device_name: str | None
    torch_threads: int | None
    cpu_capability: str | None
    torch_settings: Mapping[str, str]
    environment_variables: Mapping[str, str]

    @property
    def kernel_variables(self) -> dict[str, str]:
        """Return those of ``environment_variables`` that select kernels."""
        return {name: value for name, value in self.environment_variables.items() if name in KERNEL_VARIABLES}


@dataclass(frozen=True, slots=True, kw_only=True)
class GitRecord(Part):
    """State of the checkout that zoo-eval ran from."""

    commit: str
    dirty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRecord(Part):
    """Resumption of a run: its time, the status and time of the previous stop, and the inputs that changed."""

    at: str
    after: Status
    stopped: str | None
    error: str | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord(Part):
    """Step of the recipe; ``short`` marks one with less than the library's default effort."""

    step: str
    seconds: float
    summary: str
    effect: Mapping[str, Any]
    short: bool
    peak_memory_bytes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord(Part):
    """Signal-to-quantization-noise ratio of a layer in dB; None without noise or without signal."""

    layer: str
    kind: str
    weight_sqnr_db: float | None
    output_sqnr_db: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRecord(Part):
    """Float operation of a quantized stage; ``name`` is the module's, ``macs`` counts one image."""

    name: str
    kind: str
    coverage: Coverage
    reason: str
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRecord(Part):
    """Parameter of a quantized stage with the bits that each value takes."""

    name: str
    num_values: int
    bits: int
    coverage: Coverage
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRecord(Part):
    """Account of every float operation and every parameter that a quantized stage computes with."""

    operations: tuple[OperationRecord, ...]
    parameters: tuple[ParameterRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationRecord(Part):
    """Computation of a quantized stage's encodings; runs before schema 3 have no ``coverage``."""

    coverage: CoverageRecord | None
    seconds: float
    summary: str
    effect: Mapping[str, Any]
    layers: tuple[LayerRecord, ...]
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementRecord(Part):
    """Comparison of another runtime with torch on the first images."""

    num_images: int
    max_difference: float
    tolerance: float
    num_same_predictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizeRecord(Part):
    """Result of a stage at another batch size; only ``error`` is set if it failed.

    ``change_points`` is the headline value at this batch size minus the stage's own, in points.
    """

    error: str | None
    headline: float | None
    change_points: float | None
    num_images: int | None
    num_images_changed: int | None
    num_predictions: int | None
    num_predictions_changed: int | None
    changes: Mapping[str, int] | None
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord(Part):
    """Cost and conditions of a stage; values that are not measured yet are None.

    ``runtime`` computed its predictions; ``runtime_reason`` says why it is torch although ``auto`` was requested. A
    stage of an exported network has a ``deployment``. ``num_nonfinite_images`` counts images for which the network
    returned infinities or not-a-number. ``network_sha256`` covers structure, weights and encodings of the network, or
    the exported file and what the runtime makes of it; runs before schema 3 have none.
    """

    warnings: tuple[str, ...]
    quantized: bool
    batch_size: int
    weights_bytes: int
    network_sha256: str | None
    runtime: str | None
    runtime_reason: str | None
    deployment: DeploymentRecord | None
    agreement: AgreementRecord | None
    export_seconds: float | None
    num_images_timed: int | None
    num_nonfinite_images: int | None
    seconds: float | None
    network_seconds: float | None
    images_per_second: float | None
    peak_memory_bytes: int | None
    scoring_seconds: float | None
    batch_sizes: Mapping[str, BatchSizeRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRecord(Part):
    """Values of one protocol in ``[0, 1]``, the headline first; ``per_class`` has the headline value by class."""

    values: Mapping[str, float | None]
    per_class: Mapping[str, float | None]

    @property
    def key(self) -> str:
        """Return the name of the headline value, e.g. ``map``."""
        return next(iter(self.values), "")

    @property
    def headline(self) -> float | None:
        """Return the first of ``values``; None if undefined."""
        return next(iter(self.values.values()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRecord(Part):
    """Change of the headline value against fp32 in points, after minus before (negative is worse), with its interval.

    ``low`` and ``high`` bound the 95 % interval; both stages share the ``num_resamples`` draws of the images.
    ``resolution_points`` is half its width: a smaller difference could not be detected. All three are None if
    there are too few images for an interval.
    """

    points: float
    low: float | None
    high: float | None
    resolution_points: float | None
    num_images: int
    num_resamples: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationChange(Part):
    """Change of a deployed stage against the simulation of the same network.

    ``change`` is as against fp32. ``counts`` has the task's kinds of change at scores of 0.5 or more, such as lost and
    gained detections, and ``num_images_changed`` the images in which anything but the first kind occurs.
    """

    stage: str
    change: ChangeRecord | None
    counts: Mapping[str, int]
    num_images_changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScores(Part):
    """Scores of a stage by protocol id.

    ``same_as`` names the stage whose network and predictions this one shares. ``drop_points`` is the fp32 headline
    value minus this stage's, in points: positive is worse. ``change`` is None for fp32 itself, without an fp32 stage
    in the run, and for a task whose values cannot be resampled. ``simulation`` is None but for deployed stages.
    """

    quantized: bool
    num_images: int
    scores: Mapping[str, ScoreRecord]
    same_as: str | None
    drop_points: float | None
    change: ChangeRecord | None
    simulation: SimulationChange | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolRecord(Part):
    """Definition of a protocol and its counts."""

    definition: str
    num_images: int
    num_objects: Mapping[str, int]
    notes: tuple[str, ...]
