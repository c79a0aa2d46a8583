"""Scores stored predictions again, without a model and without images: those of a run, or a submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.datatypes import DatasetRequest, Detections
from zoo_core.display import nonfinite_text
from zoo_core.errors import DataError, RegistryError, RunError, closest_hint
from zoo_core.metrics.detection import DETECTION_PROTOCOLS, DetectionMetric
from zoo_core.results.stored import StoredRun, is_run, open_run
from zoo_core.runs.hashes import PREDICTIONS
from zoo_core.runs.rows import Row, text_table
from zoo_core.tasks.detection import DETECTION

if TYPE_CHECKING:
    from zoo_core.datatypes import EvalDataset, Metric, Prediction, ProtocolScore, Target, Task
    from zoo_core.plugins import PluginHost


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreRequest:
    """Detections to score again; the fields are the parameters of ``zoo_core.api.rescore``, which documents them."""

    source: Path
    model: str | None = None
    data: Path | None = None
    labels: Path | None = None
    split: str | None = None
    ids_file: Path | None = None
    stages: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    first_category: int = 1
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Rescored:
    """Scores by protocol, for each stage of a run; a submission is one stage without a name.

    Attributes:
        source: Kind of the source: ``run``, ``comp4`` or ``coco``.
        dataset: Name and split, for people.
        task: Names the values.
        stages: Protocol scores by stage name; the name is ``""`` for a submission.
        notes: Limits of the numbers.
    """

    source: str
    dataset: str
    task: Task
    stages: Mapping[str, Mapping[str, ProtocolScore]]
    notes: tuple[str, ...] = field(default=())

    def rows(self) -> list[Row]:
        """One row per stage, protocol and value, for ``pandas.DataFrame``."""
        return [
            {"stage": stage, "protocol": protocol, "key": key, "value": value}
            for stage, scores in self.stages.items()
            for protocol, score in scores.items()
            for key, value in score.values.items()
        ]

    def __repr__(self) -> str:
        return "\n".join([text_table(self.dataset, self.rows()), *self.notes])


def rescore(request: RescoreRequest, host: PluginHost) -> Rescored:
    """Score a run or a submission.

    Raises:
        ZooError: The source, the data or a name cannot be used.
    """
    if is_run(request.source):
        return _rescore_run(open_run(request.source), request, host)
    if request.stages:
        raise RunError(f"{request.source} is not a run directory, so it has no stages.", fix="leave out --stages.")
    if request.source.is_dir():
        return _rescore_comp4(request, host)
    if request.source.is_file():
        return _rescore_coco(request, host)
    raise DataError(
        f"{request.source} does not exist.",
        fix="give a run directory, a folder of comp4_det_<split>_<class>.txt files, or a COCO results JSON.",
    )


def _rescore_run(run: StoredRun, request: RescoreRequest, host: PluginHost) -> Rescored:
    if request.split is not None or request.ids_file is not None:
        raise RunError("A run is scored on the images it was run on.", fix="leave out --split and --ids.")
    if request.model is None:
        entry = host.recorded_model(run.record.model, run.record.registry)
    else:
        entry = host.model(request.model)
    dataset = run.open_dataset(entry, host, data=request.data, labels=request.labels)
    targets = {image_id: dataset.target(image_id) for image_id in run.image_ids}
    names = request.stages or tuple(run.stages)
    if not names:
        raise RunError(f"{run.path} has no predictions.", fix="name a run that evaluated a stage.")
    stages = {}
    for name in names:
        metric = host.metric(entry, dataset.class_names)
        run.require_unchanged(f"{PREDICTIONS}/{run.stages.get(name, name)}")
        stages[name] = score(metric, run.predictions(name, metric.prediction_type), targets, request.protocols)
    notes = [f"The run is not complete: its status is {run.status!r}."] if run.status != "complete" else []
    for name in names:
        num_nonfinite = run.num_nonfinite_images(name, host.task(entry).prediction_type)
        if num_nonfinite:
            notes.append(f"{name}: {nonfinite_text(num_nonfinite, len(run.image_ids))}")
    if run.record.dataset.limited:
        notes.append(f"Limited run: scored on its {len(run.image_ids)} images only.")
    return Rescored(
        source="run",
        dataset=f"{dataset.name} {dataset.split}",
        task=host.task(entry),
        stages=stages,
        notes=tuple(notes),
    )


def score(
    metric: Metric,
    predictions: Mapping[str, Prediction],
    targets: Mapping[str, Target],
    protocols: Sequence[str] = (),
) -> dict[str, ProtocolScore]:
    """Score predictions against the targets of the same images, under ``protocols`` or all.

    Raises:
        RegistryError: The metric has no such protocol.
    """
    for protocol in protocols:
        if protocol not in metric.protocol_ids:
            hint = closest_hint(protocol, metric.protocol_ids)
            raise RegistryError(
                f"There is no protocol {protocol!r}{hint}.", fix=f"name one of: {', '.join(metric.protocol_ids)}."
            )
    ids = list(predictions)
    metric.update(ids, [predictions[image_id] for image_id in ids], [targets[image_id] for image_id in ids])
    scores = metric.compute()
    return {protocol: scores[protocol] for protocol in protocols or metric.protocol_ids}


# --------------------------------------------------------------------------- submissions


def _rescore_comp4(request: RescoreRequest, host: PluginHost) -> Rescored:
    from zoo_core.datasets.comp4 import read_comp4

    dataset, headline = _open(request, host, request.split)
    submission = read_comp4(request.source, dataset.class_names, request.split)
    if submission.split != dataset.split:
        dataset, headline = _open(request, host, submission.split)
    submitted = [dataset.class_names[label] for label in submission.submitted]
    return _rescore_submission("comp4", submission.by_image(), submitted, dataset, headline, request)


def _rescore_coco(request: RescoreRequest, host: PluginHost) -> Rescored:
    from zoo_core.datasets.coco_annotations import read_category_ids
    from zoo_core.datasets.coco_results import read_coco_results

    dataset, headline = _open(request, host, request.split)
    category_ids = read_category_ids(dataset.root, dataset.split, dataset.class_names)
    submission = read_coco_results(
        request.source,
        dataset.class_names,
        dataset.ids,
        first_category=request.first_category,
        category_ids=category_ids,
    )
    if category_ids is not None:  # COCO's own rule: a class without detections has AP 0
        return _rescore_submission("coco", submission, dataset.class_names, dataset, headline, request)
    labels = np.unique(np.concatenate([np.zeros(0, np.int64), *(preds.labels for preds in submission.values())]))
    # The format cannot express that a class has no detections, so such a class counts as not submitted.
    submitted = [dataset.class_names[label] for label in labels]
    return _rescore_submission("coco", submission, submitted, dataset, headline, request)


def _open(request: RescoreRequest, host: PluginHost, split: str | None) -> tuple[EvalDataset, str]:
    """The dataset that a submission is scored against, and the protocol that comes first."""
    if request.model is not None:
        from zoo_core.evaluation.prepare import data_root

        entry = host.model(request.model)
        root = data_root(request.data, entry, offline=request.offline)
        wanted = DatasetRequest(root=root, split=split or entry.dataset.split, label_file=request.labels)
        return host.dataset(entry, wanted), entry.headline
    if request.data is None:
        raise DataError(
            "Nothing says which annotations the detections belong to.",
            fix="give a data set in VOC layout with --data, or a model whose data set it is with --model.",
        )
    from zoo_core.datasets.voc import VocDetection

    dataset: EvalDataset = VocDetection(request.data, split or "test", label_file=request.labels)
    return dataset, DETECTION_PROTOCOLS[0]


def _rescore_submission(
    source: str,
    submission: Mapping[str, Detections],
    submitted: Sequence[str],
    dataset: EvalDataset,
    headline: str,
    request: RescoreRequest,
) -> Rescored:
    image_ids = _image_ids(request, dataset)
    known = frozenset(image_ids)
    strangers = [image_id for image_id in submission if image_id not in known]
    if strangers:
        raise DataError(
            f"{request.source} has detections on {len(strangers)} images that are not among the {len(image_ids)} of "
            f"{dataset.split!r} that are scored, first {strangers[0]!r}.",
            fix="name the split that was detected on with --split, or its images with --ids.",
        )
    none = Detections(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64))
    preds = {image_id: submission.get(image_id, none) for image_id in image_ids}
    targets = {image_id: dataset.target(image_id) for image_id in image_ids}
    metric = DetectionMetric(dataset.class_names, submitted=submitted, headline=headline)
    scores = score(metric, preds, targets, request.protocols)
    notes = [f"{len(submission)} of the {len(image_ids)} images have detections; all {len(image_ids)} were scored."]
    return Rescored(
        source=source,
        dataset=f"{dataset.name} {dataset.split}",
        task=DETECTION,
        stages={"": scores},
        notes=tuple(notes),
    )


def _image_ids(request: RescoreRequest, dataset: EvalDataset) -> Sequence[str]:
    if request.ids_file is None:
        return dataset.ids
    from zoo_core.evaluation.request import read_ids

    wanted, known = read_ids(request.ids_file), frozenset(dataset.ids)
    strangers = [image_id for image_id in wanted if image_id not in known]
    if strangers:
        raise DataError(
            f"{request.ids_file} names {len(strangers)} images that {dataset.split!r} does not hold, first "
            f"{strangers[0]!r}.",
            fix="correct the ids, or name their split with --split.",
        )
    return wanted
