"""Turns scores of stages into the content of ``metrics.json``: for a run, and for ``verify``, which compares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo_core.comparison.changes import headline_changes
from zoo_core.comparison.stages import BASELINE, simulation_of
from zoo_core.datatypes import TaskContext
from zoo_core.evaluation.stages import Stage
from zoo_core.runs.migration import SCHEMA
from zoo_core.runs.parts import ChangeRecord, ProtocolRecord, ScoreRecord, SimulationChange, StageScores
from zoo_core.runs.record import MetricsRecord

if TYPE_CHECKING:
    from zoo_core.datatypes import Prediction, ProtocolScore, Target, Task
    from zoo_core.runs.record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChanges:
    """Changes of stages with predictions of their own, by stage.

    Attributes:
        baseline: Against fp32; empty without that stage.
        simulation: Of deployed stages, against the simulation of their network.
    """

    baseline: Mapping[str, ChangeRecord] = field(default_factory=dict)
    simulation: Mapping[str, SimulationChange] = field(default_factory=dict)


def metrics_record(
    record: RunRecord,
    stages: Sequence[Stage],
    scores: Mapping[str, Mapping[str, ProtocolScore]],
    changes: StageChanges,
    warnings: Sequence[str],
) -> MetricsRecord:
    """Return the content of ``metrics.json``.

    Args:
        record: Of the run.
        stages: The evaluated stages, in the order of the run.
        scores: Scores by protocol, of each stage with predictions of its own.
        changes: Of these stages.
        warnings: Of the run.
    """
    headline = record.headline
    baseline = scores[BASELINE][headline].headline if BASELINE in scores else None
    listed = {}
    for stage in stages:
        own = stage.same_as or stage.name
        listed[stage.name] = StageScores(
            quantized=stage.quantized,
            num_images=record.dataset.num_images,
            scores={
                protocol: ScoreRecord(values=dict(score.values), per_class=dict(score.per_class))
                for protocol, score in scores[own].items()
            },
            same_as=stage.same_as,
            drop_points=points_above(baseline, scores[own][headline].headline),
            change=changes.baseline.get(own),
            simulation=changes.simulation.get(own),
        )
    first = stages[0].same_as or stages[0].name
    return MetricsRecord(
        schema=SCHEMA,
        model=record.model,
        headline=headline,
        num_images=record.dataset.num_images,
        limited=record.dataset.limited,
        fingerprint=record.dataset.fingerprint,
        stages=listed,
        protocols={
            protocol: ProtocolRecord(
                definition=score.definition,
                num_images=score.num_images,
                num_objects=dict(score.num_objects),
                notes=tuple(score.notes),
            )
            for protocol, score in scores[first].items()
        },
        warnings=tuple(warnings),
    )


def stage_changes(
    task: Task,
    class_names: Sequence[str],
    targets: Mapping[str, Target],
    stages: Sequence[str],
    predictions: Callable[[str], Mapping[str, Prediction]],
    headline: str,
    *,
    aliases: Mapping[str, str] | None = None,
) -> StageChanges:
    """Compute the changes of each stage from stored predictions.

    Args:
        task: Of the run.
        class_names: Index is the label.
        targets: Ground truth by image id, in the order of the run.
        stages: Names of the stages with predictions of their own.
        predictions: Returns those of a stage by image id.
        headline: The headline protocol.
        aliases: Further names of these stages: the simulation of a deployed stage may be one of them.
    """
    holders = {**{name: name for name in stages}, **(aliases or {})}

    def against(baseline: str, names: Sequence[str]) -> dict[str, ChangeRecord]:
        others = ((name, predictions(name)) for name in names)
        before = predictions(baseline)
        return headline_changes(task, class_names, list(targets), list(targets.values()), before, others, headline)

    found: dict[str, SimulationChange] = {}
    for simulated, holder in holders.items():
        deployed = [name for name in stages if simulation_of(name) == simulated]
        changes = against(holder, deployed) if deployed else {}
        for name in deployed:
            counts, num_changed = _count(task, class_names, targets, predictions(holder), predictions(name))
            found[name] = SimulationChange(
                stage=simulated, change=changes.get(name), counts=counts, num_images_changed=num_changed
            )
    others = [name for name in stages if name != BASELINE]
    return StageChanges(baseline=against(BASELINE, others) if BASELINE in stages else {}, simulation=found)


def _count(
    task: Task,
    class_names: Sequence[str],
    targets: Mapping[str, Target],
    before: Mapping[str, Prediction],
    after: Mapping[str, Prediction],
) -> tuple[dict[str, int], int]:
    """Return the numbers of changes by kind, and of the images in which any but the first kind occurs."""
    context = TaskContext(class_names=tuple(class_names))
    counts, num_images = dict.fromkeys(task.change_kinds, 0), 0
    for image_id, target in targets.items():
        change = task.compare(before[image_id], after[image_id], target, context)
        own = {kind: int(change.counts[kind].sum()) for kind in task.change_kinds}
        counts = {kind: counts[kind] + own[kind] for kind in counts}
        num_images += any(own[kind] for kind in task.change_kinds[1:])
    return counts, num_images


def points_above(value: float | None, other: float | None) -> float | None:
    """Return ``value - other``, both in ``[0, 1]``, in points; None if either is undefined."""
    return None if value is None or other is None else 100.0 * (value - other)
