"""What a run directory holds, as far as it can be read; the data of the run where it still lies in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zoo_core.datatypes import DatasetRequest
from zoo_core.errors import RunError, ZooError
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.lenient import Facts, joined, read_facts
from zoo_core.runs.predictions import PredictionStore

if TYPE_CHECKING:
    from zoo_core.datatypes import EvalDataset, Prediction, Target, Task
    from zoo_core.plugins import PluginHost

P = TypeVar("P", bound="Prediction")
T = TypeVar("T", bound="Target")

BASELINE = "fp32"
_PLAIN = re.compile(r"w\d+a\d+")
_OPTIMIZED = re.compile(r"optimized_w\d+a\d+")


@dataclass(slots=True, kw_only=True)
class LoadedRun:
    """A run as its directory tells it.

    Attributes:
        path: The run directory.
        record: ``run.json``; empty facts where it cannot be read.
        metrics: ``metrics.json``, likewise.
        task: Names the values and chooses the view; None where no installed plugin declares it.
        gaps: A sentence for each thing that is missing or not usable; grows while the page is made.
        pair: The two stages that are compared, or None.
        predictions: By stage and image id, for the compared stages; empty where their kind is not known.
        dataset: The evaluated split; None where it cannot be opened, ``gaps`` says why.
        targets: By image id, for the images with predictions.
    """

    path: Path
    record: Facts
    metrics: Facts
    gaps: list[str]
    task: Task | None = None
    pair: tuple[str, str] | None = None
    predictions: dict[str, dict[str, Prediction]] = field(default_factory=dict)
    dataset: EvalDataset | None = None
    targets: dict[str, Target] = field(default_factory=dict)

    @property
    def stages(self) -> dict[str, Facts]:
        """Scores by stage name, aliases included, in the order of the run."""
        return self.metrics.objects("stages")

    @property
    def class_names(self) -> tuple[str, ...]:
        """As recorded, else the data set's, else those that have a score."""
        recorded = self.record.object("dataset").texts("class_names")
        if recorded:
            return tuple(recorded)
        if self.dataset is not None:
            return self.dataset.class_names
        for stage in self.stages.values():
            for protocol in stage.objects("metrics").values():
                return tuple(protocol.object("per_class"))
        return ()


def compared_pair(stages: list[str]) -> tuple[str, str] | None:
    """fp32 with plain quantization, else with the optimized network's; None where a run has neither.

    Args:
        stages: Names, without those that are another stage under a second name.
    """
    if BASELINE not in stages:
        return None
    for pattern in (_PLAIN, _OPTIMIZED):
        for name in stages:
            if pattern.fullmatch(name):
                return BASELINE, name
    quantized = [name for name in stages if re.search(r"_w\d+a\d+$", name)]
    return (BASELINE, quantized[0]) if quantized else None


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
    record, metrics = read_facts(path / "run.json", gaps), read_facts(path / "metrics.json", gaps)
    if record is None and metrics is None:
        raise RunError(
            f"{path} holds nothing that can be reported: {' '.join(gaps)}",
            fix="name a run directory, as `zoo-eval run` prints it at the end, or run again.",
        )
    recorded = record.text("status", needed=True) if record else None
    status = None if recorded is None else RunDirectory(path).true_status(recorded)
    if record and status is not None and status != "complete":
        error = record.text("error")
        gaps.append(f"The run is not complete: its status is {status!r}." + (f" It says: {error}" if error else ""))
    return LoadedRun(
        path=path,
        record=record or Facts({}, "run.json", []),  # that the whole file is missing is noted once
        metrics=metrics or Facts({}, "metrics.json", []),
        gaps=gaps,
    )


def find_task(run: LoadedRun, host: PluginHost) -> None:
    """Fill ``run.task`` from the recorded task id, else from the model's entry; a gap says why it stays None.

    Args:
        run: ``task`` is filled.
        host: The plugins; those of the run need not be installed where the task is built in.
    """
    named, model = run.record.text("task"), run.record.text("model") or run.metrics.text("model")
    try:
        named = named or (host.model(model).task if model else None)
        run.task = host.find_task(named) if named else None
    except ZooError as error:
        run.gaps.append(f"The run's task is not known: {error.fact}")
        return
    if run.task is None:
        what = "run.json names no task" if named is None else f"No installed plugin declares the task {named!r}"
        run.gaps.append(f"{what}: values have their keys as names, and changes image by image cannot be shown.")


def load_predictions(run: LoadedRun, kind: type[Prediction] | None) -> None:
    """Choose the compared stages, and read their predictions, or the baseline's alone, into ``run``.

    Args:
        run: ``pair`` and ``predictions`` are filled.
        kind: The class of the predictions; None leaves them unread.
    """
    folder = run.path / "predictions"
    there = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    named = [name for name, stage in run.stages.items() if stage.text("same_as") is None]
    # A name comes from the directory, never from a file that somebody may have edited.
    names = named or sorted(there)
    run.pair = compared_pair(names)
    if run.pair is None:
        run.gaps.append("No fp32 stage with a quantized one beside it: what quantization changed cannot be shown.")
    for stage in run.pair or names[:1]:
        if stage not in there:
            run.gaps.append(f"predictions/{stage} is missing: what it saw cannot be shown.")
            continue
        if kind is None:
            continue
        try:
            chunks = list(PredictionStore(folder / stage, kind))
        except ZooError as error:
            run.gaps.append(f"What {stage} saw cannot be shown: {error.fact}")
            continue
        run.predictions[stage] = {
            image_id: found
            for chunk in chunks
            for image_id, found in zip(chunk.image_ids, chunk.predictions, strict=True)
        }
    _check_counts(run)


def _check_counts(run: LoadedRun) -> None:
    recorded = run.metrics.number("num_images")
    for stage, found in run.predictions.items():
        if recorded is not None and len(found) != recorded:
            run.gaps.append(f"predictions/{stage} holds {len(found)} images; metrics.json says {recorded:.0f}.")
    if len(run.predictions) == 2:
        first, second = run.predictions.values()
        if first.keys() != second.keys():
            num = len(first.keys() ^ second.keys())
            run.gaps.append(f"{num} images have predictions of one compared stage only; they are left out.")


def open_dataset(run: LoadedRun, host: PluginHost, kind: type[Target]) -> None:
    """Open the evaluated split where ``run.json`` says it lay, and read the targets; a gap says why not.

    Args:
        run: With predictions; ``dataset`` and ``targets`` are filled.
        host: The plugins.
        kind: The class of the targets.
    """
    facts = run.record.object("dataset")
    model, root, split = run.record.text("model"), facts.text("root"), facts.text("split")
    if model is None or root is None or split is None:
        run.gaps.append("run.json does not say where the data lay: pictures and ground truth cannot be shown.")
        return
    label_file = run.record.object("request").text("labels")
    request = DatasetRequest(root=Path(root), split=split, label_file=Path(label_file) if label_file else None)
    try:
        dataset = host.dataset(host.model(model), request)
        _check_classes(run, dataset.class_names)
        run.targets = _targets(dataset, run.predictions, kind)
    except ZooError as error:
        run.gaps.append(f"The data cannot be read any more, so pictures and ground truth are not shown: {error.fact}")
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
    """The predictions of that kind, by stage and image id."""
    return {
        stage: {image_id: one for image_id, one in found.items() if isinstance(one, kind)}
        for stage, found in run.predictions.items()
    }


def targets_of(run: LoadedRun, kind: type[T]) -> dict[str, T]:
    """The targets of that kind, by image id."""
    return {image_id: target for image_id, target in run.targets.items() if isinstance(target, kind)}
