"""Measurements of a deployed stage as one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.runs.deployment import DeploymentRecord, LatencyRecord
    from zoo_core.runs.parts import StageScores


def runtime_content(run_dir: Path, stage: str, scores: StageScores, deployment: DeploymentRecord) -> dict[str, Any]:
    """Return metrics, parity, integer coverage and cost of a deployed stage.

    ``latency_ms`` is that of one thread, None for an emulator; ``latency`` has every thread count, with the float
    network on the same runtime.
    """
    parity, cost = deployment.parity, deployment.cost
    single = next((one for one in cost.latency if one.num_threads == 1), None) if cost is not None else None
    return {
        "stage": stage,
        "run_dir": str(run_dir),
        "version": deployment.version,
        "metrics": {protocol: dict(score.values) for protocol, score in scores.scores.items()},
        "change": None if scores.change is None else asdict(scores.change),
        "simulation": None if scores.simulation is None else asdict(scores.simulation),
        "parity": None
        if parity is None
        else {
            "layers": [asdict(layer) for layer in parity.layers],
            "first_over_threshold": parity.first_over_threshold,
            "max_differing": parity.max_differing,
            "max_lsb": parity.max_lsb,
            "images": list(parity.images),
            "outputs": [asdict(output) for output in parity.outputs],
        },
        "integer_coverage": deployment.integer_coverage,
        "nodes": [asdict(node) for node in deployment.nodes],
        "remedy": deployment.remedy,
        "latency_ms": _milliseconds(single),
        "latency": [] if cost is None else [asdict(one) for one in cost.latency],
        "peak_rss_bytes": None if cost is None else cost.peak_rss_bytes,
        "model_bytes": deployment.model_bytes,
    }


def _milliseconds(latency: LatencyRecord | None) -> dict[str, float] | None:
    return None if latency is None else {"p50": latency.p50_ms, "p90": latency.p90_ms}
