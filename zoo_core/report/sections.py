"""Builds the tables of the page as plain values that the templates print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.comparison.deployed import shown_rate
from zoo_core.comparison.stages import BASELINE
from zoo_core.comparison.verdict import change_cell
from zoo_core.datatypes import Measure, measure
from zoo_core.display import DASH, page_percent, page_points

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun
    from zoo_core.runs.parts import StageRecord, StageScores


MAX_CLASS_ROWS = 120
"""Rows of the class table; a thousand classes would be ten screens of small changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of texts.

    Attributes:
        columns: Headings; the first column names the row.
        rows: As many cells each.
        caption: The content with its unit.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class under the headline protocol.

    Attributes:
        name: The class.
        num_objects: Objects that count; None where not recorded.
        values: Value of the protocol, e.g. AP, in ``[0, 1]`` by stage; None where undefined.
        drop_points: First of the compared stages minus the second; None where undefined.
    """

    name: str
    num_objects: int | None
    values: Mapping[str, float | None]
    drop_points: float | None


def headline_value(stage: StageScores, protocol: str) -> float | None:
    """Return the first value of a protocol; None where the stage has none."""
    score = stage.scores.get(protocol)
    return None if score is None else score.headline


def headline(run: LoadedRun) -> str:
    """Return the id of the protocol shown first; the first with a score where none is recorded."""
    named = run.metrics.headline or run.record.headline
    return named or next((name for stage in run.metrics.stages.values() for name in stage.scores), "")


def headline_measure(run: LoadedRun) -> Measure:
    """Return the display names of the headline protocol's first value."""
    protocol = headline(run)
    scores = (stage.scores[protocol] for stage in run.metrics.stages.values() if protocol in stage.scores)
    return measure(run.task, next((score.key for score in scores), "value"))


def all_warnings(run: LoadedRun) -> tuple[str, ...]:
    """List the warnings of both files, each once."""
    return tuple(dict.fromkeys([*run.metrics.warnings, *run.record.warnings]))


_UNBROKEN_TO = "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"
"""A narrow column breaks before the interval, not inside it."""


def stage_table(run: LoadedRun) -> Table:
    """Build one row per stage: headline value, change with its interval, time and size."""
    protocol = headline(run)
    name_of_value = headline_measure(run).overall
    rows = tuple(
        (
            f"{name} (= {stage.same_as})" if stage.same_as else name,
            page_percent(headline_value(stage, protocol)),
            "baseline" if name == BASELINE else change_cell(stage).replace(" to ", _UNBROKEN_TO),
            *_costs(run.record.stages.get(stage.same_as or name)),
        )
        for name, stage in run.metrics.stages.items()
    )
    return Table(
        columns=(
            "stage",
            f"{name_of_value}, %",
            "change (95 % interval), points",
            "images/s",
            "network, ms/image",
            "weights, MB",
        ),
        rows=rows,
        caption=f"{name_of_value} under {protocol}; the change is the stage minus fp32, so negative is worse. "
        "Quantized stages without a runtime in their name are simulated: their speed is not that of a device. The size "
        "counts each parameter at the bits of its quantizer, and at its float width if it has none.",
    )


def _costs(cost: StageRecord | None) -> tuple[str, str, str]:
    if cost is None:
        return (DASH, DASH, DASH)
    rate, seconds, network = shown_rate(cost), cost.seconds, cost.network_seconds
    per_image = 1e3 * network / (rate * seconds) if rate and seconds and network is not None else None
    return (
        DASH if rate is None else f"{rate:.1f}",
        DASH if per_image is None else f"{per_image:.1f}",
        f"{cost.weights_bytes / 1e6:.2f}",
    )


def protocol_table(run: LoadedRun) -> Table:
    """Build one row per protocol and value, one column per stage."""
    stages = run.own_stages
    keys = dict.fromkeys(
        (protocol, key) for stage in stages.values() for protocol, score in stage.scores.items() for key in score.values
    )
    rows = tuple(
        (
            f"{protocol} {measure(run.task, key).overall}",
            *(
                page_percent(stage.scores[protocol].values.get(key) if protocol in stage.scores else None)
                for stage in stages.values()
            ),
        )
        for protocol, key in keys
    )
    return Table(columns=("protocol", *stages), rows=rows, caption="The same predictions under every protocol, in %.")


def definitions(run: LoadedRun) -> list[tuple[str, str, tuple[str, ...]]]:
    """List each protocol's id, exact rule and notes."""
    return [(name, protocol.definition, protocol.notes) for name, protocol in run.metrics.protocols.items()]


def class_scores(run: LoadedRun) -> list[ClassScore]:
    """List every class under the headline protocol, the largest drop first, undefined ones last."""
    protocol = headline(run)
    values = {
        name: stage.scores[protocol].per_class if protocol in stage.scores else {}
        for name, stage in run.own_stages.items()
    }
    rule = run.metrics.protocols.get(protocol)
    counts = rule.num_objects if rule is not None else {}
    names = dict.fromkeys([*run.class_names, *(name for by_class in values.values() for name in by_class)])
    scores = []
    for name in names:
        per_stage = {stage: by_class.get(name) for stage, by_class in values.items()}
        drop = _drop(per_stage, run.pair)
        scores.append(ClassScore(name=name, num_objects=counts.get(name), values=per_stage, drop_points=drop))
    return sorted(scores, key=lambda score: (score.drop_points is None, -(score.drop_points or 0.0), score.name))


def _drop(values: Mapping[str, float | None], pair: tuple[str, str] | None) -> float | None:
    if pair is None:
        return None
    before, after = values.get(pair[0]), values.get(pair[1])
    return None if before is None or after is None else 100.0 * (before - after)


def class_table(scores: list[ClassScore], pair: tuple[str, str] | None, measured: Measure) -> Table:
    """Build the class table; of more than ``MAX_CLASS_ROWS`` classes those that lost and those that gained most."""
    shown = scores
    if len(scores) > MAX_CLASS_ROWS:
        shown = [*scores[: MAX_CLASS_ROWS * 3 // 4], *scores[-(MAX_CLASS_ROWS // 4) :]]
    stages = list(scores[0].values) if scores else []
    rows = tuple(
        (
            score.name,
            DASH if score.num_objects is None else str(score.num_objects),
            *(page_percent(score.values[stage]) for stage in stages),
            page_points(None if score.drop_points is None else -score.drop_points),
        )
        for score in shown
    )
    part = "" if len(shown) == len(scores) else f" {len(shown)} of {len(scores)} classes; metrics.json holds all."
    against = f"; the change is {pair[1]} minus {pair[0]}" if pair else ""
    return Table(
        columns=("class", measured.counted, *stages, "change, points"),
        rows=rows,
        caption=f"{measured.per_class} in %{against}, largest drop first.{part}",
    )
