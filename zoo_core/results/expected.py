"""Computes what ``metrics.json`` must contain, from the stored predictions, and compares it with the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo_core.evaluation.notifying import is_plugin_failure
from zoo_core.evaluation.scoring import metrics_record, stage_changes
from zoo_core.evaluation.stages import Stage, all_stages, choose
from zoo_core.recipes import QUANTSIM
from zoo_core.results.rescore import score
from zoo_core.runs.record import record_content

if TYPE_CHECKING:
    from zoo_core.datatypes import EvalDataset, ModelEntry
    from zoo_core.plugins import PluginHost
    from zoo_core.results.stored import StoredRun
    from zoo_core.runs.record import MetricsRecord, RunRecord

_LAST_DIGITS = 1e-9
"""Scores may differ this much: another numpy may add in another order."""


def recorded_stages(record: RunRecord) -> Sequence[Stage]:
    """Return the stages of a run, in its order, as its recipe defines them.

    Raises:
        RecipeError: The recorded recipe has no such stages.
    """
    recipe = record.recipe
    steps = [str(step.get("step")) for step in recipe.steps]
    tag = f"w{recipe.param_bw}a{recipe.output_bw}"
    loaded = record.request.optimized_checkpoint is not None
    possible = all_stages(
        [step for step in steps if step != QUANTSIM],
        tag,
        optimized_checkpoint=loaded,
        runtimes=record.request.runtimes,
    )
    return choose(possible, ",".join(record.settings.stages), tag)


def expected_metrics(run: StoredRun, entry: ModelEntry, dataset: EvalDataset, host: PluginHost) -> MetricsRecord:
    """Return the metrics that follow from a run's record, predictions and annotations.

    Raises:
        ZooError: Predictions or annotations cannot be read.
    """
    record, task = run.record, host.task(entry)
    stages = recorded_stages(record)
    targets = {image_id: dataset.target(image_id) for image_id in run.image_ids}
    scores = {}
    for stage in stages:
        if stage.same_as is None:
            metric = host.metric(entry, dataset.class_names)
            scores[stage.name] = score(metric, run.predictions(stage.name, metric.prediction_type), targets)
    changes = stage_changes(
        task,
        dataset.class_names,
        targets,
        list(scores),
        lambda name: run.predictions(name, task.prediction_type),
        record.headline,
        aliases={stage.name: stage.same_as for stage in stages if stage.same_as is not None},
    )
    warnings = [text for text in record.warnings if not is_plugin_failure(text)]  # plugins are notified later
    return metrics_record(record, stages, scores, changes, warnings)


def differences(found: MetricsRecord, expected: MetricsRecord, *, scores_only: bool) -> list[str]:
    """List the fields that differ, as ``stages.w8a8.metrics.coco.map is 0.99; 0.5 follows from the predictions``.

    Args:
        found: As in the file.
        expected: From ``expected_metrics``.
        scores_only: Compare only values and classes of expected stages, for runs of versions with other fields.
    """
    left, right = (dict(_flat(record_content(metrics), "")) for metrics in (found, expected))
    paths = [path for path in {**right, **left} if not scores_only or (".metrics." in path and path in right)]
    missing = object()
    return [
        f"{path} is {_text(left.get(path, missing))}; {_text(right.get(path, missing))} follows from the predictions"
        for path in paths
        if not _same(left.get(path, missing), right.get(path, missing))
    ]


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield path and value of every leaf; empty collections are leaves, and so is the order of names."""
    if isinstance(value, Mapping) and value:
        yield f"{path}.keys".lstrip("."), ", ".join(value)
        for name, entry in value.items():
            yield from _flat(entry, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list | tuple) and value:
        for index, entry in enumerate(value):
            yield from _flat(entry, f"{path}[{index}]")
    else:
        yield path, value


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=_LAST_DIGITS, abs_tol=_LAST_DIGITS)
    return type(left) is type(right) and bool(left == right)


def _text(value: Any) -> str:
    return "none" if value is None else "missing" if type(value) is object else str(value)
