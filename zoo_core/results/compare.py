"""Compares two stages image by image: the change of their values with an interval, class by class, and lost objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.comparison.changes import CONFIDENCE, MAX_RESAMPLES, MIN_RESAMPLES, NUM_RESAMPLES, paired_weights
from zoo_core.comparison.detections import SCORE_THRESHOLD
from zoo_core.comparison.resampling import (
    can_resample,
    check_images,
    count_changes,
    images_by_class,
    resampled_values,
)
from zoo_core.comparison.stages import BASELINE, compared_pair
from zoo_core.datatypes import Prediction, ResampledImages, ResampledValues, TaskContext, measure
from zoo_core.errors import DataError, RunError
from zoo_core.metrics.bootstrap import (
    MIN_IMAGES,
    holm,
    percentile_interval,
    two_sided_p_value,
)
from zoo_core.results.stored import StoredRun, open_run
from zoo_core.runs.hashes import PREDICTIONS
from zoo_core.runs.record import HEADLINE_PROTOCOL, MetricsRecord
from zoo_core.runs.rows import Row, text_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zoo_core.datatypes import Metric, Task
    from zoo_core.plugins import PluginHost

NUM_METRIC_RESAMPLES = 200
"""Where every resample runs the metric again, which takes that many times as long as scoring."""
MOST_CHANGED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """Runs to compare; the fields are the parameters of ``zoo_core.api.compare``, which documents them."""

    run: Path
    other: Path | None = None
    stages: tuple[str, ...] = ()
    protocol: str | None = None
    data: Path | None = None
    labels: Path | None = None
    num_resamples: int | None = None
    seed: int = 0
    score_threshold: float = SCORE_THRESHOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedChange:
    """One value before and after.

    Attributes:
        before: In ``[0, 1]``; None where undefined.
        after: Likewise.
        interval: Of the change, 95 %, from resampled images; None where undefined.
        p_value: Two-sided, from the same resamples; for classes Holm's correction for their number is applied.
    """

    before: float | None
    after: float | None
    interval: tuple[float, float] | None
    p_value: float | None

    @property
    def change(self) -> float | None:
        """After minus before, so negative is worse; None where a value is undefined."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedStages:
    """A stage compared with another.

    Attributes:
        before: Name of the baseline stage.
        after: Name of the other.
        overall: The protocol's headline value: mAP or top-1.
        classes: That value of each class: its AP, or top-1 of its images.
        counts: Numbers of changes by class and kind; see ``Compared.change_definition``.
        most_changed: Ids of the images that changed most, most first.
    """

    before: str
    after: str
    overall: PairedChange
    classes: Mapping[str, PairedChange]
    counts: Mapping[str, Mapping[str, int]]
    most_changed: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Compared:
    """Every pair of stages, and the conditions they share.

    Attributes:
        measured: Display name of the protocol's first value.
        change_kinds: Names of the kinds of change that are counted.
        change_definition: Explains them.
        score_threshold: Applied to changes; None where the task has no scores.
    """

    protocol: str
    measured: str
    dataset: str
    num_images: int
    num_resamples: int
    seed: int
    score_threshold: float | None
    change_kinds: tuple[str, ...]
    change_definition: str
    pairs: Sequence[ComparedStages]
    notes: Sequence[str]

    def rows(self) -> list[Row]:
        """One row per pair of stages (``class`` is None) and one per class, for ``pandas.DataFrame``."""
        rows: list[Row] = []
        for pair in self.pairs:
            rows.append(self._row(pair, None, pair.overall))
            rows += [self._row(pair, name, change) for name, change in pair.classes.items()]
        return rows

    def _row(self, pair: ComparedStages, name: str | None, change: PairedChange) -> Row:
        low, high = change.interval or (None, None)
        counts = [pair.counts[name]] if name is not None else list(pair.counts.values())
        return {
            "before": pair.before,
            "after": pair.after,
            "class": name,
            "value_before": change.before,
            "value_after": change.after,
            "change": change.change,
            "low": low,
            "high": high,
            "p_value": change.p_value,
            **{kind: sum(count[kind] for count in counts) for kind in self.change_kinds},
        }

    def __repr__(self) -> str:
        title = f"{self.measured} under {self.protocol}, {self.dataset}, {self.num_images} images"
        return text_table(title, [row for row in self.rows() if row["class"] is None], _OVERALL)


_OVERALL = ("before", "after", "value_before", "value_after", "change", "low", "high", "p_value")


def compare(request: CompareRequest, host: PluginHost) -> Compared:
    """Compare stages of two runs, or of one.

    Raises:
        RunError: A run is not complete, the runs differ in what must agree (all of it is named), or a stage is missing.
        ZooError: The data or the protocol cannot be used.
    """
    if request.num_resamples is not None and not MIN_RESAMPLES <= request.num_resamples <= MAX_RESAMPLES:
        raise DataError(
            f"--resamples is {request.num_resamples}.",
            fix=f"give {MIN_RESAMPLES} to {MAX_RESAMPLES}; 1000 or more make the digits stable.",
        )
    if request.seed < 0:
        raise DataError(f"--seed is {request.seed}.", fix="give 0 or more.")
    run = open_run(request.run)
    other = run if request.other is None else open_run(request.other)
    protocol = request.protocol or run.record.headline
    metrics, _ = run.complete_metrics, other.complete_metrics
    if other is not run:
        _refuse_unlike(run, other, protocol, asked=request.protocol is not None)
    pairs = _stage_pairs(run, other, request)
    entry = host.recorded_model(run.record.model, run.record.registry)
    dataset = run.open_dataset(entry, host, data=request.data, labels=request.labels)
    task = host.task(entry)
    num_resamples = request.num_resamples or (NUM_RESAMPLES if can_resample(task, protocol) else NUM_METRIC_RESAMPLES)
    images = ResampledImages(
        class_names=dataset.class_names,
        image_ids=run.image_ids,
        targets=[dataset.target(image_id) for image_id in run.image_ids],
        weights=paired_weights(len(run.image_ids), num_resamples, request.seed),
        protocol=protocol,
    )
    context = TaskContext(class_names=dataset.class_names, score_threshold=request.score_threshold)
    work = _Work(task, lambda: host.metric(entry, dataset.class_names), images, context)
    return Compared(
        protocol=protocol,
        measured=_measured(metrics, protocol, task),
        dataset=f"{dataset.name} {dataset.split}",
        num_images=len(run.image_ids),
        num_resamples=num_resamples,
        seed=request.seed,
        score_threshold=request.score_threshold if task.uses_scores else None,
        change_kinds=task.change_kinds,
        change_definition=task.change_definition,
        pairs=[work.compare(run, before, other, after) for before, after in pairs],
        notes=_notes(run, other, pairs, images_by_class(task, images.class_names, images.targets)),
    )


def _notes(
    run: StoredRun, other: StoredRun, pairs: Sequence[tuple[str, str]], images_of_classes: Sequence[int]
) -> list[str]:
    notes, num_images = [], len(run.image_ids)
    if any(pair != (BASELINE, BASELINE) for pair in pairs):
        found = [one for one in run.record.differences(other.record, "compare") if not one.refused]
        notes += [f"The runs differ in {difference}." for difference in found]
    if run.record.dataset.limited:
        notes.append(f"Limited: compared on {num_images} images of the split only.")
    if num_images < MIN_IMAGES:
        notes.append(f"No interval: {num_images} images; intervals and p-values need {MIN_IMAGES} or more.")
    elif few := sum(0 < num < MIN_IMAGES for num in images_of_classes):
        notes.append(f"No interval for {few} classes that fewer than {MIN_IMAGES} images show.")
    return notes


def _measured(metrics: MetricsRecord, protocol: str, task: Task) -> str:
    keys = (stage.scores[protocol].key for stage in metrics.stages.values() if protocol in stage.scores)
    return measure(task, next(keys, "value")).overall


def _refuse_unlike(run: StoredRun, other: StoredRun, protocol: str, *, asked: bool) -> None:
    """Name everything that makes the values of two runs incomparable."""
    differ = [
        str(difference)
        for difference in run.record.differences(other.record, "compare")
        if difference.refused and not (asked and difference.what == HEADLINE_PROTOCOL)
    ]
    # Not conditions of the record: the images of the run are a file of their own, whose order does not matter here,
    # and the definition belongs to the protocol that was asked for.
    if frozenset(run.image_ids) != frozenset(other.image_ids):
        common = len(frozenset(run.image_ids) & frozenset(other.image_ids))
        differ.append(f"images: {len(run.image_ids)} and {len(other.image_ids)}, {common} in common")
    if len({_definition(one.metrics, protocol) for one in (run, other)}) > 1:
        differ.append(f"definition of {protocol}")
    if differ:
        raise RunError(
            f"The runs in {run.path} and {other.path} cannot be compared; they differ in " + "; ".join(differ) + ".",
            fix="compare runs on the same images under one protocol; --protocol names it where the headlines differ.",
        )


def _definition(metrics: MetricsRecord | None, protocol: str) -> str | None:
    rule = metrics.protocols.get(protocol) if metrics is not None else None
    return rule.definition if rule is not None else None


def _stage_pairs(run: StoredRun, other: StoredRun, request: CompareRequest) -> list[tuple[str, str]]:
    if other is not run:
        names = request.stages or tuple(name for name in run.stages if name in other.stages)
        if not names:
            raise RunError("The two runs have no stage in common.", fix="name two stages of one run with --stages.")
        return [(name, name) for name in names]
    if not request.stages:
        pair = compared_pair([name for name, folder in run.stages.items() if name == folder])
        if pair is None:
            raise RunError(
                f"{run.path} has no fp32 stage with a quantized one beside it, but {', '.join(run.stages) or 'none'}.",
                fix="name two stages with --stages, or a second run.",
            )
        return [pair]
    if len(request.stages) < 2:
        raise RunError(
            f"One stage, {request.stages[0]!r}, has nothing to be compared with.",
            fix=f"name two or more of {', '.join(run.stages)} with --stages, or a second run.",
        )
    return [(request.stages[0], name) for name in request.stages[1:]]


class _Work:
    """State that all pairs of a comparison share; each stage is read and matched once."""

    def __init__(
        self, task: Task, make_metric: Callable[[], Metric], images: ResampledImages, context: TaskContext
    ) -> None:
        check_images(task, make_metric, images)
        self._task = task
        self._make_metric = make_metric
        self._images = images
        self._context = context
        self._num_images = images_by_class(task, images.class_names, images.targets)
        self._read: dict[tuple[Path, str], tuple[Mapping[str, Prediction], ResampledValues]] = {}

    def compare(self, run: StoredRun, before: str, other: StoredRun, after: str) -> ComparedStages:
        old, old_values = self._stage(run, before)
        new, new_values = self._stage(other, after)
        differences = new_values.classes - old_values.classes
        counts = self._num_images
        p_values = holm([two_sided_p_value(row[1:], num) for row, num in zip(differences, counts, strict=True)])
        changes = count_changes(self._task, old, new, self._images, self._context, MOST_CHANGED)
        return ComparedStages(
            before=before,
            after=after,
            overall=_change(old_values.overall, new_values.overall, len(self._images.image_ids)),
            classes={
                name: replace(
                    _change(old_values.classes[label], new_values.classes[label], counts[label]),
                    p_value=p_values[label],
                )
                for label, name in enumerate(self._images.class_names)
            },
            counts=changes.counts,
            most_changed=changes.most_changed,
        )

    def _stage(self, run: StoredRun, name: str) -> tuple[Mapping[str, Prediction], ResampledValues]:
        """Predictions by image, and the values in every resample, the first column being the images as they are."""
        key = (run.path, run.stages.get(name, name))
        if key not in self._read:
            run.require_unchanged(f"{PREDICTIONS}/{run.stages.get(name, name)}")
            predictions = run.predictions(name, self._task.prediction_type)
            values = resampled_values(self._task, self._make_metric, predictions, self._images)
            self._read[key] = predictions, values
        return self._read[key]


def _change(before: NDArray[np.float64], after: NDArray[np.float64], num_images: int) -> PairedChange:
    """From ``(1 + R,)`` values: of the images as they are, then of each resample."""
    resampled = (after - before)[1:]
    return PairedChange(
        before=_known(before[0]),
        after=_known(after[0]),
        interval=percentile_interval(resampled, num_images, CONFIDENCE),
        p_value=two_sided_p_value(resampled, num_images),
    )


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
