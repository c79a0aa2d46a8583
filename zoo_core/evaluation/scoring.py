"""Turns scores of stages into the content of ``metrics.json``: for a run, and for ``verify``, which compares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from zoo_core.comparison.changes import headline_changes
from zoo_core.comparison.stages import BASELINE
from zoo_core.evaluation.stages import Stage
from zoo_core.runs.migration import SCHEMA
from zoo_core.runs.parts import ChangeRecord, ProtocolRecord, ScoreRecord, StageScores
from zoo_core.runs.record import MetricsRecord

if TYPE_CHECKING:
    from zoo_core.datatypes import Prediction, ProtocolScore, Target, Task
    from zoo_core.runs.record import RunRecord


def metrics_record(
    record: RunRecord,
    stages: Sequence[Stage],
    scores: Mapping[str, Mapping[str, ProtocolScore]],
    changes: Mapping[str, ChangeRecord],
    warnings: Sequence[str],
) -> MetricsRecord:
    """Return the content of ``metrics.json``.

    Args:
        record: Of the run.
        stages: The evaluated stages, in the order of the run.
        scores: Scores by protocol, of each stage with predictions of its own.
        changes: Change against fp32, of these stages.
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
            change=changes.get(own),
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
) -> dict[str, ChangeRecord]:
    """Compute the change of each stage against fp32 from stored predictions; empty without an fp32 stage.

    Args:
        task: Of the run.
        class_names: Index is the label.
        targets: Ground truth by image id, in the order of the run.
        stages: Names of the stages with predictions of their own.
        predictions: Returns those of a stage by image id.
        headline: The headline protocol.
    """
    if BASELINE not in stages:
        return {}
    others = ((name, predictions(name)) for name in stages if name != BASELINE)
    baseline = predictions(BASELINE)
    return headline_changes(task, class_names, list(targets), list(targets.values()), baseline, others, headline)


def points_above(value: float | None, other: float | None) -> float | None:
    """Return ``value - other``, both in ``[0, 1]``, in points; None if either is undefined."""
    return None if value is None or other is None else 100.0 * (value - other)
