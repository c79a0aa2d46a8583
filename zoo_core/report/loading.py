"""Reads a run directory as far as it can be read, and the run's data where it still exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zoo_core.comparison.stages import compared_pair
from zoo_core.datatypes import DatasetRequest
from zoo_core.display import joined
from zoo_core.errors import RunError, ZooError
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.hashes import metrics_problem
from zoo_core.runs.lenient import ReadableMetrics, ReadableRecord, read_leniently
from zoo_core.runs.predictions import PredictionStore

if TYPE_CHECKING:
    from zoo_core.datatypes import EvalDataset, Prediction, Target, Task
    from zoo_core.plugins import PluginHost
    from zoo_core.runs.parts import StageScores

P = TypeVar("P", bound="Prediction")
T = TypeVar("T", bound="Target")


@dataclass(slots=True, kw_only=True)
class LoadedRun:
    """The readable content of a run directory.

    Attributes:
        path: The run directory.
        record: ``run.json``; empty where it cannot be read.
        metrics: ``metrics.json``, likewise.
        task: Names the values and chooses the view; None where no installed plugin declares it.
        gaps: A sentence for each part that is missing or unusable; grows while the page is made.
        pair: The two compared stages, or None.
        predictions: By stage and image id, for the compared stages; empty where their kind is not known.
        dataset: The evaluated split; None where it cannot be opened, ``gaps`` says why.
        targets: By image id, for the images with predictions.
    """

    path: Path
    record: ReadableRecord
    metrics: ReadableMetrics
    gaps: list[str]
    task: Task | None = None
    pair: tuple[str, str] | None = None
    predictions: dict[str, dict[str, Prediction]] = field(default_factory=dict)
    dataset: EvalDataset | None = None
    targets: dict[str, Target] = field(default_factory=dict)

    @property
    def own_stages(self) -> dict[str, StageScores]:
        """Scores by stage name without aliases, in the order of the run."""
        return {name: stage for name, stage in self.metrics.stages.items() if stage.same_as is None}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names from the record, else from the dataset, else those with a score."""
        if self.record.dataset is not None and self.record.dataset.class_names:
            return self.record.dataset.class_names
        if self.dataset is not None:
            return self.dataset.class_names
        scores = (score for stage in self.metrics.stages.values() for score in stage.scores.values())
        return next((tuple(score.per_class) for score in scores), ())


def load_run(path: Path) -> LoadedRun:
    """Read the two JSON files of a run.

    Raises:
        RunError: ``path`` is no directory, or neither file can be read.
    """
    if not path.is_dir():
        raise RunError(
            f"{path} is not a directory.", fix="name a run directory, as `zoo-eval run` prints it at the end."
        )
    gaps: list[str] = []
    record = read_leniently(path / "run.json", gaps, ReadableRecord)
    metrics = read_leniently(path / "metrics.json", gaps, ReadableMetrics)
    if record is None and metrics is None:
        raise RunError(
            f"{path} has nothing that can be reported: {' '.join(gaps)}",
            fix="name a run directory, as `zoo-eval run` prints it at the end, or run again.",
        )
    if record is not None and record.status is not None:
        status = RunDirectory(path).true_status(record.status)
        if status != "complete":
            error = f" It says: {record.error}" if record.error else ""
            gaps.append(f"The run is not complete: its status is {status!r}.{error}")
        problem = metrics_problem(path, record.files) if status == "complete" else None
        if problem is not None:
            gaps.append(f"Do not trust the numbers below: {problem}.")
    return LoadedRun(path=path, record=record or ReadableRecord(), metrics=metrics or ReadableMetrics(), gaps=gaps)


def find_task(run: LoadedRun, host: PluginHost) -> None:
    """Fill ``run.task`` from the recorded task id, else from the model's entry; a gap says why it stays None.

    Args:
        run: ``task`` is filled.
        host: The plugins; those of the run need not be installed where the task is built in.
    """
    named, model = run.record.task, run.record.model or run.metrics.model
    try:
        named = named or (host.recorded_model(model, run.record.registry).task if model else None)
        run.task = host.find_task(named) if named else None
    except ZooError as error:
        run.gaps.append(f"The run's task is not known: {error.fact}")
        return
    if run.task is None:
        what = "run.json names no task" if named is None else f"No installed plugin declares the task {named!r}"
        run.gaps.append(f"{what}: values have their keys as names, and changes image by image cannot be shown.")


def load_predictions(run: LoadedRun, kind: type[Prediction] | None) -> None:
    """Choose the compared stages and read their predictions into ``run``; without a pair, those of the first stage.

    Args:
        run: ``pair`` and ``predictions`` are filled.
        kind: The class of the predictions; None leaves them unread.
    """
    folder = run.path / "predictions"
    there = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    # Paths come from names in the directory, never from a file that may have been edited.
    names = list(run.own_stages) or sorted(there)
    run.pair = compared_pair(names)
    if run.pair is None:
        run.gaps.append(
            "The run has no fp32 stage with a quantized one beside it: what quantization changed cannot be shown."
        )
    for stage in run.pair or names[:1]:
        if stage not in there:
            run.gaps.append(f"predictions/{stage} is missing: its predictions cannot be shown.")
            continue
        if kind is None:
            continue
        try:
            chunks = list(PredictionStore(folder / stage, kind))
        except ZooError as error:
            run.gaps.append(f"The predictions of {stage} cannot be shown: {error.fact}")
            continue
        run.predictions[stage] = {
            image_id: pred
            for chunk in chunks
            for image_id, pred in zip(chunk.image_ids, chunk.predictions, strict=True)
        }
    _check_counts(run)


def _check_counts(run: LoadedRun) -> None:
    recorded = run.metrics.num_images
    for stage, preds in run.predictions.items():
        if recorded is not None and len(preds) != recorded:
            run.gaps.append(f"predictions/{stage} holds {len(preds)} images; metrics.json says {recorded}.")
    if len(run.predictions) == 2:
        first, second = run.predictions.values()
        if first.keys() != second.keys():
            num = len(first.keys() ^ second.keys())
            run.gaps.append(f"{num} images have predictions of one compared stage only; they are left out.")


def open_dataset(run: LoadedRun, host: PluginHost, kind: type[Target]) -> None:
    """Open the evaluated split at the recorded place and read the targets; a gap says why that failed.

    Args:
        run: With predictions; ``dataset`` and ``targets`` are filled.
        host: The plugins.
        kind: The class of the targets.
    """
    recorded, asked = run.record.dataset, run.record.request
    if run.record.model is None or recorded is None:
        run.gaps.append("run.json does not name the data: pictures and ground truth cannot be shown.")
        return
    labels = asked.labels if asked is not None else None
    request = DatasetRequest(root=Path(recorded.root), split=recorded.split, label_file=labels)
    try:
        dataset = host.dataset(host.recorded_model(run.record.model, run.record.registry), request)
        _check_classes(run, dataset.class_names)
        run.targets = _targets(dataset, run.predictions, kind)
    except ZooError as error:
        run.gaps.append(f"The data cannot be read, so pictures and ground truth are not shown: {error.fact}")
        return
    run.dataset = dataset


def _check_classes(run: LoadedRun, class_names: tuple[str, ...]) -> None:
    recorded = run.class_names
    if recorded and recorded != class_names:
        other = [name for name in class_names if name not in recorded] or [*class_names]
        raise RunError(
            f"it has other classes than the run, e.g. {joined(other, 3)}.", fix="give the label file of the run."
        )


def _targets(
    dataset: EvalDataset, predictions: Mapping[str, Mapping[str, Prediction]], kind: type[Target]
) -> dict[str, Target]:
    targets = {}
    for image_id in next(iter(predictions.values()), {}):
        target = dataset.target(image_id)
        if not isinstance(target, kind):
            raise RunError(
                f"its targets are {type(target).__name__}, not {kind.__name__}.", fix="name the data of the run."
            )
        targets[image_id] = target
    return targets


def predictions_of(run: LoadedRun, kind: type[P]) -> dict[str, dict[str, P]]:
    """Select the predictions of a kind, by stage and image id."""
    return {
        stage: {image_id: one for image_id, one in preds.items() if isinstance(one, kind)}
        for stage, preds in run.predictions.items()
    }


def targets_of(run: LoadedRun, kind: type[T]) -> dict[str, T]:
    """Select the targets of a kind, by image id."""
    return {image_id: target for image_id, target in run.targets.items() if isinstance(target, kind)}
