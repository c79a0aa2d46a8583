"""Two stages paired by image: the difference of their values with an interval, class by class, and what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.comparison.detections import SCORE_THRESHOLD
from zoo_core.datatypes import Prediction, ResampledImages, ResampledValues, TaskContext, measure
from zoo_core.errors import DataError, RunError
from zoo_core.metrics.bootstrap import (
    holm,
    percentile_interval,
    resample_weights,
    two_sided_p_value,
)
from zoo_core.report.loading import compared_pair
from zoo_core.results.compare_tasks import can_resample, check_images, count_changes, resampled_values
from zoo_core.results.stored import StoredRun, open_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zoo_core.datatypes import Metric, Task
    from zoo_core.plugins import PluginHost
    from zoo_core.runs.lenient import Facts

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
NUM_METRIC_RESAMPLES = 200
"""Where every resample runs the metric again, which takes that many times as long as scoring."""
MOST_CHANGED = 5

# What must agree, and where run.json says it.
_SAME: tuple[tuple[str, str], ...] = (
    ("data set", "name"),
    ("split", "split"),
    ("content of images and annotations", "fingerprint"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """What to compare; None means what the first run says.

    Attributes:
        run: A run directory: of two runs the baseline.
        other: The run that is held against it; None compares stages of ``run``.
        stages: With two runs, the stages to compare, empty for all that both have; with one, the baseline and those
            held against it, empty for fp32 and the first quantized one.
        protocol: Protocol id.
        data: Root of the dataset.
        labels: Label file.
        num_resamples: Draws of as many images as there are; None for 2000, or 200 where the metric runs for each.
        seed: Draws them.
        score_threshold: Predictions from this score on count as lost or gained, where the task has scores.
    """

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
class Difference:
    """One value before and after; ``difference`` is after minus before.

    Attributes:
        before: In ``[0, 1]``; None where undefined.
        after: Likewise.
        interval: Of the difference, 95 %, from resampled images; None where undefined.
        p_value: Two-sided, from the same resamples; for classes Holm's correction for their number is applied.
    """

    before: float | None
    after: float | None
    interval: tuple[float, float] | None
    p_value: float | None

    @property
    def difference(self) -> float | None:
        """After minus before, or None."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A stage held against another.

    Attributes:
        before: Name of the baseline stage.
        after: Name of the other.
        mean: The protocol's first value: the mean AP, or top-1.
        classes: That of each class: its AP, or top-1 of its images.
        changes: Numbers of changes by class and kind; see ``Compared.change_definition``.
        most_changed: Ids of the images that changed most, most first.
    """

    before: str
    after: str
    mean: Difference
    classes: Mapping[str, Difference]
    changes: Mapping[str, Mapping[str, int]]
    most_changed: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Every pair, and the conditions they share.

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
    pairs: Sequence[PairedDifference]
    notes: Sequence[str]


def compare(request: CompareRequest, host: PluginHost) -> Compared:
    """Compare stages of two runs, or of one.

    Raises:
        RunError: A run is not complete, the runs differ in what must agree (all of it is named), or a stage is missing.
        ZooError: The data or the protocol cannot be used.
    """
    if request.num_resamples is not None and request.num_resamples < 1:
        raise DataError(f"--resamples is {request.num_resamples}.", fix="give 1000 or more.")
    if request.seed < 0:
        raise DataError(f"--seed is {request.seed}.", fix="give 0 or more.")
    run = _complete(open_run(request.run))
    other = run if request.other is None else _complete(open_run(request.other))
    protocol = request.protocol or _headline(run)
    if other is not run:
        _refuse_unlike(run, other, protocol, asked=request.protocol is not None)
    pairs = _stage_pairs(run, other, request)
    entry = host.model(run.needed("model"))
    dataset = run.open_dataset(entry, host, data=request.data, labels=request.labels)
    task = host.task(entry)
    num_resamples = request.num_resamples or (NUM_RESAMPLES if can_resample(task, protocol) else NUM_METRIC_RESAMPLES)
    images = ResampledImages(
        class_names=dataset.class_names,
        image_ids=run.image_ids,
        targets=[dataset.target(image_id) for image_id in run.image_ids],
        weights=_weights(len(run.image_ids), num_resamples, request.seed),
        protocol=protocol,
    )
    context = TaskContext(class_names=dataset.class_names, score_threshold=request.score_threshold)
    work = _Work(task, lambda: host.metric(entry, dataset.class_names), images, context)
    compared = [work.compare(run, before, other, after) for before, after in pairs]
    return Compared(
        protocol=protocol,
        measured=_measured(run, protocol, task),
        dataset=f"{dataset.name} {dataset.split}",
        num_images=len(run.image_ids),
        num_resamples=num_resamples,
        seed=request.seed,
        score_threshold=request.score_threshold if task.uses_scores else None,
        change_kinds=task.change_kinds,
        change_definition=task.change_definition,
        pairs=compared,
        notes=_notes(run),
    )


def _weights(num_images: int, num_resamples: int, seed: int) -> NDArray[np.int32]:
    """The images as they are, then each resample; the same draws serve every stage, which pairs them."""
    ones = np.ones((num_images, 1), dtype=np.int32)
    return np.hstack([ones, resample_weights(num_images, num_resamples, seed)])


def _notes(run: StoredRun) -> list[str]:
    if run.record.object("dataset").flag("limited"):
        return [f"Limited: compared on {len(run.image_ids)} images of the split alone."]
    return []


def _measured(run: StoredRun, protocol: str, task: Task) -> str:
    stages = run.metrics.objects("stages") if run.metrics is not None else {}
    keys = (key for stage in stages.values() for key in stage.object("metrics").object(protocol))
    return measure(task, next((key for key in keys if key != "per_class"), "value")).overall


def _complete(run: StoredRun) -> StoredRun:
    if run.status != "complete" or run.metrics is None:
        raise RunError(
            f"The run in {run.path} is not complete: its status is {run.status!r}.", fix="finish it, or run it again."
        )
    return run


def _headline(run: StoredRun) -> str:
    return (run.metrics.text("headline") if run.metrics else None) or run.needed("headline")


def _refuse_unlike(run: StoredRun, other: StoredRun, protocol: str, *, asked: bool) -> None:
    """Name everything that makes the numbers of two runs incomparable."""
    differ = []
    for what, key in _SAME:
        mine, theirs = (_text(one.record.object("dataset"), key) for one in (run, other))
        if mine != theirs:
            differ.append(f"{what}: {mine} and {theirs}")
    if frozenset(run.image_ids) != frozenset(other.image_ids):
        common = len(frozenset(run.image_ids) & frozenset(other.image_ids))
        differ.append(f"images: {len(run.image_ids)} and {len(other.image_ids)}, {common} in common")
    classes = [one.record.object("dataset").texts("class_names") for one in (run, other)]
    if classes[0] != classes[1]:
        differ.append(f"classes: {len(classes[0])} and {len(classes[1])}, not the same in the same order")
    if not asked and _headline(run) != _headline(other):
        differ.append(f"protocol: {_headline(run)} and {_headline(other)}")
    rules = [
        one.metrics.object("protocols").object(protocol).text("definition") if one.metrics else None
        for one in (run, other)
    ]
    if rules[0] != rules[1]:
        differ.append(f"definition of {protocol}")
    if differ:
        raise RunError(
            f"The runs in {run.path} and {other.path} cannot be compared; they differ in " + "; ".join(differ) + ".",
            fix="compare runs on the same images under one protocol; --protocol names it where only the first differs.",
        )


def _text(facts: Facts, key: str) -> str:
    return facts.text(key) or "unknown"


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
    """What all pairs of a comparison share; each stage is read and matched once."""

    def __init__(
        self, task: Task, make_metric: Callable[[], Metric], images: ResampledImages, context: TaskContext
    ) -> None:
        check_images(task, make_metric, images)
        self._task = task
        self._make_metric = make_metric
        self._images = images
        self._context = context
        self._read: dict[tuple[Path, str], tuple[Mapping[str, Prediction], ResampledValues]] = {}

    def compare(self, run: StoredRun, before: str, other: StoredRun, after: str) -> PairedDifference:
        old, old_values = self._stage(run, before)
        new, new_values = self._stage(other, after)
        p_values = holm([two_sided_p_value(row[1:]) for row in new_values.classes - old_values.classes])
        changes = count_changes(self._task, old, new, self._images, self._context, MOST_CHANGED)
        return PairedDifference(
            before=before,
            after=after,
            mean=_difference(old_values.overall, new_values.overall),
            classes={
                name: replace(
                    _difference(old_values.classes[label], new_values.classes[label]), p_value=p_values[label]
                )
                for label, name in enumerate(self._images.class_names)
            },
            changes=changes.counts,
            most_changed=changes.most_changed,
        )

    def _stage(self, run: StoredRun, name: str) -> tuple[Mapping[str, Prediction], ResampledValues]:
        """Predictions by image, and the values in every resample, the first column being the images as they are."""
        key = (run.path, run.stages.get(name, name))
        if key not in self._read:
            predictions = run.predictions(name, self._task.prediction_type)
            values = resampled_values(self._task, self._make_metric, predictions, self._images)
            self._read[key] = predictions, values
        return self._read[key]


def _difference(before: NDArray[np.float64], after: NDArray[np.float64]) -> Difference:
    """From ``(1 + R,)`` values: of the images as they are, then of each resample."""
    resampled = (after - before)[1:]
    return Difference(
        before=_known(before[0]),
        after=_known(after[0]),
        interval=percentile_interval(resampled, CONFIDENCE),
        p_value=two_sided_p_value(resampled),
    )


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
