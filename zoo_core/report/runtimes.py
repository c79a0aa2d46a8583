"""Shows what each runtime made of the exported network: a row per runtime, float nodes, and parity by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.comparison.deployed import CAPTION, layers_text, runtime_notes
from zoo_core.comparison.deployed import runtime_table as table_of_runtimes
from zoo_core.display import DASH, counted
from zoo_core.report.layers import LayerGroup
from zoo_core.report.plots import layer_plot
from zoo_core.report.sections import Table

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun
    from zoo_core.runs.deployment import DeploymentRecord, ExecutedNodeRecord, ParityRecord

_NUM_WORST = 8


def runtime_table(run: LoadedRun) -> Table | None:
    """Build one column per runtime; None for a run without runtimes."""
    runtimes, rows = table_of_runtimes(run.record.stages, run.metrics.stages)
    if not rows:
        return None
    return Table(
        columns=("", *runtimes),
        rows=tuple(tuple(row) for row in rows),
        caption=f"{CAPTION[0].upper()}{CAPTION[1:]}. Times and peak memory are measured in processes that only run the "
        "network.",
    )


def runtime_sentences(run: LoadedRun) -> list[str]:
    """List what a reader must know of the runtimes."""
    return list(runtime_notes(run.record.stages))


def float_nodes(run: LoadedRun) -> Table | None:
    """Count the nodes that runtimes computed in float or elsewhere, by reason; None if there are none."""
    groups: dict[tuple[str, str, str, str], list[ExecutedNodeRecord]] = {}
    for stage in run.record.stages.values():
        for node in () if stage.deployment is None else stage.deployment.nodes:
            where = f"{node.precision} on {node.device or 'an unknown device'}"
            key = (stage.deployment.runtime if stage.deployment else "", node.operation, where, node.reason or DASH)
            groups.setdefault(key, []).append(node)
    if not groups:
        return None
    rows = tuple(
        (
            runtime,
            f"{len(nodes)} {operation}",
            where,
            f"{sum(node.macs for node in nodes) / 1e6:.1f}",
            max(nodes, key=lambda node: node.macs).name,
            reason,
        )
        for (runtime, operation, where, reason), nodes in groups.items()
    )
    return Table(
        columns=("runtime", "nodes", "computed in", "million products", "the largest", "reason"),
        rows=rows,
        caption="What a runtime computed in float, or elsewhere than on its own device; run.json names every node.",
    )


def parity_groups(run: LoadedRun) -> list[LayerGroup]:
    """Return the comparison of each runtime with the simulation, layer by layer."""
    deployed = {name: stage.deployment for name, stage in run.record.stages.items() if stage.deployment is not None}
    return [_group(name, one, one.parity) for name, one in deployed.items() if one.parity is not None]


def _group(stage: str, deployment: DeploymentRecord, parity: ParityRecord) -> LayerGroup:
    names = [layer.name for layer in parity.layers]
    plots = [
        layer_plot(f"parity-{stage}-{key}", title, unit, names, {key: values}, log=False)
        for key, title, unit, values in (
            (
                "differing",
                f"Share of the integers of {stage} that differ from the simulation's",
                "differing, %",
                [100.0 * layer.differing_inside for layer in parity.layers],
            ),
            (
                "largest",
                f"Largest difference of two integers between {stage} and the simulation",
                "largest difference, LSB",
                [float(layer.max_lsb) for layer in parity.layers],
            ),
        )
    ]
    order = sorted(range(len(names)), key=lambda index: (-parity.layers[index].max_lsb, -_share(parity, index)))
    worst = [index for index in order if parity.layers[index].max_lsb][:_NUM_WORST]
    rows = tuple(
        (f"{index + 1}. {names[index]}", f"{100.0 * _share(parity, index):.2f}", str(parity.layers[index].max_lsb))
        for index in sorted(worst)
    )
    table = Table(columns=("layer", "differing, %", "largest, LSB"), rows=rows, caption="Layers that differ most.")
    return LayerGroup(
        heading=f"Parity of {stage} with the simulation",
        text=f"{layers_text(deployment)}, on {counted(len(parity.images), 'image')}. Each layer gets the simulation's "
        f"own integers, so its differences are its own. {_end_to_end(parity)}",
        plots=plots,
        worst=table if rows else None,
    )


def _share(parity: ParityRecord, index: int) -> float:
    return parity.layers[index].differing_inside


def _end_to_end(parity: ParityRecord) -> str:
    """Describe the outputs of the whole network, where each layer gets what the runtime computed before."""
    parts = [
        f"{output.name} {'equal' if output.sqnr_db is None else f'{output.sqnr_db:.1f} dB'}"
        + ("" if output.cosine is None else f" (cosine {output.cosine:.5f})")
        for output in parity.outputs
    ]
    return (
        f"End to end, signal to difference: {', '.join(parts)}; this depends on which rounding boundaries are crossed "
        "on the way, and does not name a layer."
    )
