"""Table of what each quantized stage computes in float."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.display import DASH
from zoo_core.report.sections import Table
from zoo_core.runs.coverage import unquantized

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun
    from zoo_core.runs.parts import Coverage, CoverageRecord, OperationRecord, ParameterRecord

NUM_LISTED = 200
"""Rows of the list; run.json has all."""

_KINDS: tuple[Coverage, ...] = ("quantized", "exempt", "folded", "not quantized")


def coverage_table(run: LoadedRun) -> Table | None:
    """Count operations and parameters by kind for each quantized stage; None for a run without an account."""
    rows = tuple(
        (stage, *(DASH,) * 6) if simulation.coverage is None else (stage, *_cells(simulation.coverage))
        for stage, simulation in run.record.simulations.items()
    )
    if all(simulation.coverage is None for simulation in run.record.simulations.values()):
        return None
    return Table(
        columns=("stage", *_KINDS, "MACs not quantized", "parameters not quantized"),
        rows=rows,
        caption="Operations + parameters of each quantized stage. Exempt: the AIMET configuration leaves it in float. "
        "Folded: it moves values or computes nothing. Not quantized: it runs in float, unlike on an integer device.",
    )


def _cells(coverage: CoverageRecord) -> tuple[str, ...]:
    found = unquantized(coverage)
    counts = (f"{_count(coverage.operations, kind)} + {_count(coverage.parameters, kind)}" for kind in _KINDS)
    return (*counts, f"{100 * found.share_of_macs:.1f} %", f"{100 * found.share_of_values:.1f} %")


def _count(entries: tuple[OperationRecord, ...] | tuple[ParameterRecord, ...], kind: Coverage) -> int:
    return sum(entry.coverage == kind for entry in entries)


def unquantized_table(run: LoadedRun) -> Table | None:
    """List operations and parameters that are not quantized, by stage; None if there are none."""
    rows: list[tuple[str, ...]] = []
    for stage, simulation in run.record.simulations.items():
        if simulation.coverage is None:
            continue
        found = unquantized(simulation.coverage)
        rows += [(one.name, stage, one.kind, f"{one.macs:,} MACs", one.reason) for one in found.operations]
        rows += [(one.name, stage, "parameter", f"{one.num_values:,} values", one.reason) for one in found.parameters]
    more = f" {NUM_LISTED} of {len(rows)}; run.json lists them all." if len(rows) > NUM_LISTED else ""
    caption = f"What runs in float although the configuration quantizes it.{more}"
    columns = ("name", "stage", "kind", "size", "reason")
    return Table(columns=columns, rows=tuple(rows[:NUM_LISTED]), caption=caption) if rows else None
