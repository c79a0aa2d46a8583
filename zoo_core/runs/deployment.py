"""Parts of ``run.json`` about an exported network on a runtime."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_core.runs.part import Part, SourceRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedNodeRecord(Part):
    """Node that a runtime computed in float, or elsewhere than on its own device; ``macs`` counts one image."""

    name: str
    operation: str
    precision: str
    device: str
    elsewhere: bool
    macs: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParityRecord(Part):
    """Quantized tensor of a runtime compared with the simulation's.

    ``differing`` is the share of its integers that differ, ``differing_inside`` the share among those that are not at
    the same end of the grid in both.
    """

    name: str
    differing: float
    differing_inside: float
    max_lsb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParityRecord(Part):
    """Output of the network compared end to end; ``sqnr_db`` is None where nothing differs."""

    name: str
    sqnr_db: float | None
    cosine: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityRecord(Part):
    """Comparison of a runtime with the simulation, layer by layer, each layer fed the simulation's own integers.

    A layer is over the threshold with ``differing_inside`` above ``max_differing`` or a difference above ``max_lsb``.
    """

    images: tuple[str, ...]
    layers: tuple[LayerParityRecord, ...]
    max_differing: float
    max_lsb: int
    first_over_threshold: str | None
    outputs: tuple[OutputParityRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRecord(Part):
    """Milliseconds per image at batch 1; ``float_*`` of the float network on the same runtime, in the same process."""

    num_threads: int
    num_passes: int
    p50_ms: float
    p90_ms: float
    min_ms: float
    max_ms: float
    float_p50_ms: float | None
    float_p90_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRecord(Part):
    """Cost of an exported network on a runtime, each measured in a process of its own.

    An emulator's latency and memory say nothing about the device, so ``latency`` is empty and ``peak_rss_bytes`` None.
    """

    latency: tuple[LatencyRecord, ...]
    peak_rss_bytes: int | None
    float_peak_rss_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRecord(Part):
    """Exported network on a runtime.

    ``source`` is that of the plugin that brings the runtime; None for a built-in one. ``remedy`` says what was done
    because the runtime's fast 8-bit products were wrong here. ``integer_coverage`` is the share of multiply-accumulates
    computed in integers, and ``nodes`` lists those that were not, and all that ran elsewhere. ``parity`` and ``cost``
    are None until they are measured.
    """

    runtime: str
    version: str | None
    source: SourceRecord | None
    emulated: bool
    model_sha256: str
    model_bytes: int
    remedy: str | None
    allow_fallback: bool
    integer_coverage: float | None
    nodes: tuple[ExecutedNodeRecord, ...]
    parity: ParityRecord | None
    cost: CostRecord | None
