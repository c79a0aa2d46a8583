"""Cells of the table of runtimes, for the terminal and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.comparison.verdict import points_cell
from zoo_core.display import DASH, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zoo_core.runs.deployment import DeploymentRecord, LatencyRecord
    from zoo_core.runs.parts import SimulationChange, StageRecord, StageScores


CAPTION = (
    "change and predictions: against the simulation of the same network; layers: their integers against the "
    "simulation's, each layer fed the simulation's own; ms: p50 (p90) of one image, and of fp32 on the same runtime"
)
"""Explains the rows of ``runtime_table``."""


def runtime_table(
    stages: Mapping[str, StageRecord], scores: Mapping[str, StageScores]
) -> tuple[list[str], list[list[str]]]:
    """Return the runtimes of all deployed stages with scores, and a row of cells for each quantity.

    The first cell of a row names the quantity. Both are empty for a run without runtimes.
    """
    columns: dict[str, dict[str, str]] = {}
    for name, stage in stages.items():
        deployment, own = stage.deployment, scores.get(name)
        if deployment is not None and own is not None:
            version = f" {deployment.version}" if deployment.version else ""
            columns[f"{deployment.runtime}{version}"] = _cells(deployment, own.simulation)
    quantities = dict.fromkeys(quantity for cells in columns.values() for quantity in cells)
    rows = [[quantity, *(cells.get(quantity) or DASH for cells in columns.values())] for quantity in quantities]
    return list(columns), rows


def _cells(deployment: DeploymentRecord, simulation: SimulationChange | None) -> dict[str, str]:
    """Return the cells of a runtime by quantity."""
    cost = deployment.cost
    change = None if simulation is None else simulation.change
    return {
        "change, points": "" if change is None else points_cell(change),
        "predictions": "" if simulation is None else _changes(simulation),
        "layers": layers_text(deployment),
        "integer products, %": percent(deployment.integer_coverage, digits=1),
        **{
            quantity: cell
            for latency in (() if cost is None else cost.latency)
            for quantity, cell in _latency(latency).items()
        },
        "peak MB": _megabytes(None if cost is None else cost.peak_rss_bytes),
        "file MB": _megabytes(deployment.model_bytes, digits=2),
    }


def shown_rate(stage: StageRecord | None) -> float | None:
    """Return the images per second of a stage for a table; None where not known, and for an emulator."""
    emulated = stage is not None and stage.deployment is not None and stage.deployment.emulated
    return None if stage is None or emulated else stage.images_per_second


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
    """Name the first layer that is over the threshold of parity; None if there is none.

    The layers themselves decide: a record may have been edited, or damaged, so that ``first_over_threshold`` differs.
    """
    parity = deployment.parity
    if parity is None:
        return None
    over = (one for one in parity.layers if one.differing_inside > parity.max_differing or one.max_lsb > parity.max_lsb)
    layer = next(over, None)
    named = parity.first_over_threshold
    if layer is None:
        return None if named is None else f"layer {named} is named as different, and no layer listed is."
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


def _latency(latency: LatencyRecord) -> dict[str, str]:
    threads = f"ms, {latency.num_threads} thread{'s' if latency.num_threads > 1 else ''}"
    floats = latency.float_p50_ms is not None and latency.float_p90_ms is not None
    return {
        threads: f"{latency.p50_ms:.1f} ({latency.p90_ms:.1f})",
        f"{threads}, fp32": f"{latency.float_p50_ms:.1f} ({latency.float_p90_ms:.1f})" if floats else "",
    }


def _megabytes(num_bytes: int | None, *, digits: int = 0) -> str:
    return "" if num_bytes is None else f"{num_bytes / 1e6:.{digits}f}"
