"""Puts two runs side by side: their stages, and every condition in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.display import DASH, joined, page_percent, page_points
from zoo_core.errors import RunError
from zoo_core.report.sections import Table, headline, headline_measure, headline_value
from zoo_core.runs.record import Difference, read_record

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """This run and another.

    Attributes:
        other: The other run's directory.
        stages: Values of each stage in both runs.
        cautions: Sentences on differences that make the numbers incomparable.
        conditions: Every difference, as a table.
        gaps: Parts that the other run lacks.
    """

    other: str
    stages: Table
    cautions: Sequence[str]
    conditions: Table
    gaps: Sequence[str]


def compare_runs(this: LoadedRun, other: LoadedRun) -> Comparison:
    """Put two runs side by side; refuses nothing, but lists the differences."""
    cautions: list[str] = []
    try:
        differences = read_record(this.path).differences(read_record(other.path), "report")
    except RunError as error:
        differences = []
        cautions.append(f"The conditions of the runs cannot be compared: {error.fact}")
    rows = tuple((difference.what, *_texts(difference)) for difference in differences)
    for difference, (what, mine, theirs) in zip(differences, rows, strict=True):
        if difference.refused:
            # A hash tells a reader nothing; the table of conditions holds it.
            values = "" if difference.is_hash else f": {mine} here, {theirs} there"
            cautions.append(f"The runs differ in {what}{values}.")
    return Comparison(
        other=str(other.path),
        stages=_stages(this, other),
        cautions=[*cautions, *_protocol_cautions(this, other)],
        conditions=Table(columns=("condition", "this run", "other run"), rows=rows, caption="Conditions that differ."),
        gaps=tuple(other.gaps),
    )


def _texts(difference: Difference) -> tuple[str, str]:
    """Both values as text; of two mappings only the entries that differ."""
    mine, theirs = difference.mine, difference.theirs
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        mine, theirs = ([f"{name} {side.get(name, DASH)}" for name in names] for side in (mine, theirs))
    return _text(mine), _text(theirs)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return joined([str(entry) for entry in value])
    return DASH if value is None else str(value)


def _protocol_cautions(this: LoadedRun, other: LoadedRun) -> list[str]:
    protocol, theirs = headline(this), headline(other)
    cautions = []
    if protocol != theirs:
        cautions.append(
            f"The runs show different protocols first: {protocol} here, {theirs} there. The table compares under "
            f"{protocol}."
        )
    rules = [run.metrics.protocols[protocol].definition for run in (this, other) if protocol in run.metrics.protocols]
    if len(set(rules)) == 2:
        cautions.append(f"The runs define {protocol} differently.")
    return cautions


def _stages(this: LoadedRun, other: LoadedRun) -> Table:
    protocol = headline(this)
    mine, theirs = this.metrics.stages, other.metrics.stages
    rows = []
    for name in dict.fromkeys([*mine, *theirs]):
        here = headline_value(mine[name], protocol) if name in mine else None
        there = headline_value(theirs[name], protocol) if name in theirs else None
        difference = None if here is None or there is None else 100.0 * (here - there)
        rows.append((name, page_percent(here), page_percent(there), page_points(difference)))
    return Table(
        columns=("stage", "this run, %", "other run, %", "difference, points"),
        rows=tuple(rows),
        caption=f"{headline_measure(this).overall} under {protocol}; the difference is this run minus the other.",
    )
