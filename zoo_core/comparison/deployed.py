"""Cells of the table of runtimes, for the terminal and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.comparison.verdict import points_cell
from zoo_core.display import percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zoo_core.runs.parts import DeploymentRecord, LatencyRecord, SimulationChange, StageRecord, StageScores

COLUMNS = (
    "runtime",
    "change against the simulation",
    "predictions",
    "layers",
    "in integers, %",
    "ms p50 (p90)",
    "fp32 ms",
    "peak MB",
    "file MB",
)


def runtime_rows(stages: Mapping[str, StageRecord], scores: Mapping[str, StageScores]) -> Iterator[list[str]]:
    """Yield the cells of each deployed stage with scores, in the order of COLUMNS."""
    for name, stage in stages.items():
        deployment, own = stage.deployment, scores.get(name)
        if deployment is None or own is None:
            continue
        version = f" {deployment.version}" if deployment.version else ""
        yield [
            f"{deployment.runtime}{version}",
            "" if own.simulation is None or own.simulation.change is None else points_cell(own.simulation.change),
            "" if own.simulation is None else _changes(own.simulation),
            layers_text(deployment),
            percent(deployment.integer_coverage, digits=1),
            *_latency(deployment),
            _megabytes(None if deployment.cost is None else deployment.cost.peak_rss_bytes),
            _megabytes(deployment.model_bytes, digits=2),
        ]


def runtime_notes(stages: Mapping[str, StageRecord]) -> Iterator[str]:
    """Yield sentences on what a reader must know of the runtimes: remedies, fallbacks, layers over the threshold."""
    for name, stage in stages.items():
        deployment = stage.deployment
        if deployment is None:
            continue
        if deployment.remedy is not None:
            yield f"{name}: {deployment.remedy}"
        elsewhere = [node.name for node in deployment.nodes if node.elsewhere]
        if elsewhere:
            first = elsewhere[0]
            yield f"{name}: {len(elsewhere)} nodes ran elsewhere than on the runtime's own device, first {first}."
        if deployment.emulated:
            yield f"{name}: an emulator, whose times and memory are not those of the device and are not shown."
        problem = parity_problem(deployment)
        if problem is not None:
            yield f"{name}: {problem}"


def parity_problem(deployment: DeploymentRecord) -> str | None:
    """Name the first layer that is over the threshold of parity; None if there is none."""
    parity = deployment.parity
    if parity is None or parity.first_over_threshold is None:
        return None
    layer = next(one for one in parity.layers if one.name == parity.first_over_threshold)
    share = percent(layer.differing_inside, digits=2)
    return (
        f"layer {layer.name} differs from the simulation in {share} % of its integers, by up to {layer.max_lsb}; "
        f"rounding gives at most {percent(parity.max_differing, digits=0)} % and {parity.max_lsb}."
    )


def coverage_text(deployment: DeploymentRecord) -> str:
    """Describe in one line what a runtime computes in integers."""
    share = percent(deployment.integer_coverage, digits=1)
    floats = [node for node in deployment.nodes if node.precision == "float" and node.macs]
    first = f", first {floats[0].name}" if floats else ""
    reason = f" ({floats[0].reason})" if floats and floats[0].reason else ""
    return f"{share} % of the products in integers; {len(floats)} nodes multiply in float{first}{reason}"


def layers_text(deployment: DeploymentRecord) -> str:
    """Describe parity in a few words: ``93 of 96 equal, 1 LSB``."""
    parity = deployment.parity
    if parity is None or not parity.layers:
        return ""
    equal = sum(layer.differing == 0 for layer in parity.layers)
    worst = max(layer.max_lsb for layer in parity.layers)
    return f"{equal} of {len(parity.layers)} equal" + (f", {worst} LSB" if worst else "")


def _changes(change: SimulationChange) -> str:
    """Counts of the kinds of change other than the first, which is none."""
    kinds = list(change.counts.items())[1:]
    return ", ".join(f"{num} {kind}" for kind, num in kinds)


def _latency(deployment: DeploymentRecord) -> tuple[str, str]:
    """One line per number of threads: of the quantized network, and of the float network on the same runtime."""
    cost = deployment.cost
    measured: tuple[LatencyRecord, ...] = () if cost is None else cost.latency
    return (
        "\n".join(f"{_threads(one)}{one.p50_ms:.1f} ({one.p90_ms:.1f})" for one in measured),
        "\n".join("" if one.float_p50_ms is None else f"{one.float_p50_ms:.1f}" for one in measured),
    )


def _threads(latency: LatencyRecord) -> str:
    return f"{latency.num_threads} thread{'s' if latency.num_threads > 1 else ''}: "


def _megabytes(num_bytes: int | None, *, digits: int = 0) -> str:
    return "" if num_bytes is None else f"{num_bytes / 1e6:.{digits}f}"
