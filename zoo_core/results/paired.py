"""Two stages paired by image: the difference of their mean APs with an interval, class by class, and what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.comparison import SCORE_THRESHOLD, most_changed, stage_changes
from zoo_core.datatypes import Detections, DetectionTarget
from zoo_core.errors import DataError, RunError
from zoo_core.metrics.bootstrap import (
    holm,
    mean_over_classes,
    percentile_interval,
    resample_weights,
    two_sided_p_value,
)
from zoo_core.metrics.gathering import ImageGatherer
from zoo_core.metrics.outcomes import protocol_outcomes
from zoo_core.report.loading import compared_pair
from zoo_core.results.stored import StoredRun, open_run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.plugins import PluginHost
    from zoo_core.report.facts import Facts

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
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
        num_resamples: Draws of as many images as there are.
        seed: Draws them.
        score_threshold: Detections from this score on are seen, when lost and gained ones are counted.
    """

    run: Path
    other: Path | None = None
    stages: tuple[str, ...] = ()
    protocol: str | None = None
    data: Path | None = None
    labels: Path | None = None
    num_resamples: int = NUM_RESAMPLES
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
class BoxCounts:
    """Detections of both stages matched one to one, from the score threshold on."""

    kept: int
    moved: int
    lost: int
    gained: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A stage held against another.

    Attributes:
        before: Name of the baseline stage.
        after: Name of the other.
        mean: The mean AP.
        classes: The AP of each class.
        boxes: Of each class.
        most_changed: Ids of the images whose detections changed most, most first.
    """

    before: str
    after: str
    mean: Difference
    classes: Mapping[str, Difference]
    boxes: Mapping[str, BoxCounts]
    most_changed: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Every pair, and the conditions they share."""

    protocol: str
    dataset: str
    num_images: int
    num_resamples: int
    seed: int
    score_threshold: float
    pairs: Sequence[PairedDifference]
    notes: Sequence[str]


def compare(request: CompareRequest, host: PluginHost) -> Compared:
    """Compare stages of two runs, or of one.

    Raises:
        RunError: A run is not complete, the runs differ in what must agree (all of it is named), or a stage is missing.
        ZooError: The data or the protocol cannot be used.
    """
    if request.num_resamples < 1:
        raise DataError(f"--resamples is {request.num_resamples}.", fix="give 1000 or more.")
    if request.seed < 0:
        raise DataError(f"--seed is {request.seed}.", fix="give 0 or more.")
    run = _complete(open_run(request.run))
    other = run if request.other is None else _complete(open_run(request.other))
    protocol = request.protocol or _headline(run)
    if other is not run:
        _refuse_unlike(run, other, protocol, asked=request.protocol is not None)
    pairs = _stage_pairs(run, other, request)
    dataset = run.open_dataset(host.model(run.needed("model")), host, data=request.data, labels=request.labels)
    targets = [_detection_target(dataset.target(image_id), image_id) for image_id in run.image_ids]
    work = _Work(dataset.class_names, run.image_ids, targets, protocol, request)
    found = [work.compare(run, before, other, after) for before, after in pairs]
    return Compared(
        protocol=protocol,
        dataset=f"{dataset.name} {dataset.split}",
        num_images=len(run.image_ids),
        num_resamples=request.num_resamples,
        seed=request.seed,
        score_threshold=request.score_threshold,
        pairs=found,
        notes=_notes(run),
    )


def _notes(run: StoredRun) -> list[str]:
    if run.record.object("dataset").flag("limited"):
        return [f"Limited: compared on {len(run.image_ids)} images of the split alone."]
    return []


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


def _detection_target(target: object, image_id: str) -> DetectionTarget:
    if not isinstance(target, DetectionTarget):
        raise RunError(
            f"The target of image {image_id!r} is no set of boxes; only detection runs are compared.",
            fix="compare runs of a detection model.",
        )
    return target


class _Work:
    """What all pairs of a comparison share; each stage is read and matched once."""

    def __init__(
        self,
        class_names: tuple[str, ...],
        image_ids: tuple[str, ...],
        targets: list[DetectionTarget],
        protocol: str,
        request: CompareRequest,
    ) -> None:
        self._class_names = class_names
        self._image_ids = image_ids
        self._targets = targets
        self._protocol = protocol
        self._score_threshold = request.score_threshold
        ones = np.ones((len(image_ids), 1), dtype=np.int32)
        # The first column is the images as they are; the same draws serve every stage, which pairs them.
        self._weights = np.hstack([ones, resample_weights(len(image_ids), request.num_resamples, request.seed)])
        self._read: dict[tuple[Path, str], tuple[dict[str, Detections], NDArray[np.float64]]] = {}

    def compare(self, run: StoredRun, before: str, other: StoredRun, after: str) -> PairedDifference:
        old, old_aps = self._stage(run, before)
        new, new_aps = self._stage(other, after)
        differences = new_aps - old_aps
        p_values = holm([two_sided_p_value(row[1:]) for row in differences])
        means = mean_over_classes(old_aps), mean_over_classes(new_aps)
        mean_difference = (means[1] - means[0])[1:]
        changes = stage_changes(old, new, len(self._class_names), score_threshold=self._score_threshold)
        counts = (changes.num_kept, changes.num_moved, changes.num_lost, changes.num_gained)
        return PairedDifference(
            before=before,
            after=after,
            mean=Difference(
                before=_known(means[0][0]),
                after=_known(means[1][0]),
                interval=percentile_interval(mean_difference, CONFIDENCE),
                p_value=two_sided_p_value(mean_difference),
            ),
            classes={
                name: Difference(
                    before=_known(old_aps[label, 0]),
                    after=_known(new_aps[label, 0]),
                    interval=percentile_interval(differences[label, 1:], CONFIDENCE),
                    p_value=p_values[label],
                )
                for label, name in enumerate(self._class_names)
            },
            boxes={
                name: BoxCounts(**dict(zip(("kept", "moved", "lost", "gained"), map(int, row), strict=True)))
                for name, *row in zip(self._class_names, *counts, strict=True)
            },
            most_changed=most_changed(changes, MOST_CHANGED),
        )

    def _stage(self, run: StoredRun, name: str) -> tuple[dict[str, Detections], NDArray[np.float64]]:
        """Detections by image, and the AP of every class in every resample, ``(C, 1 + R)``."""
        key = (run.path, run.stages.get(name, name))
        if key not in self._read:
            stored = run.predictions(name, Detections)
            found = {image_id: pred for image_id, pred in stored.items() if isinstance(pred, Detections)}
            gatherer = ImageGatherer(self._class_names)
            gatherer.add(self._image_ids, [found[image_id] for image_id in self._image_ids], self._targets)
            outcomes = protocol_outcomes(gatherer.gathered(), len(self._class_names), self._protocol)
            self._read[key] = found, outcomes.average_precisions(self._weights)
        return self._read[key]


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
