"""Opens run directories for the commands that decide something: records are valid, names in them are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.datatypes import DatasetRequest, Prediction
from zoo_core.errors import DataError, RunError
from zoo_core.files import read_regular_file
from zoo_core.runs.binding import stage_binding
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.hashes import IMAGE_IDS, PREDICTIONS, file_problems, metrics_problem
from zoo_core.runs.migration import MAX_BYTES
from zoo_core.runs.predictions import PredictionStore
from zoo_core.runs.record import MetricsRecord, RunRecord, read_metrics, read_record

if TYPE_CHECKING:
    from zoo_core.datatypes import EvalDataset, ModelEntry
    from zoo_core.plugins import PluginHost

_FIX = "restore the run directory, or run again."


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run directory whose records are valid.

    Attributes:
        path: The run directory.
        record: Content of ``run.json``.
        metrics: Content of ``metrics.json``; None where the run is not complete.
        image_ids: The evaluated images, in the order of the run.
    """

    path: Path
    record: RunRecord
    metrics: MetricsRecord | None
    image_ids: tuple[str, ...]

    @property
    def status(self) -> str:
        """``running``, ``complete``, ``failed`` or ``interrupted``, which a run that was killed is too."""
        return RunDirectory(self.path).true_status(self.record.status)

    @property
    def stages(self) -> dict[str, str]:
        """Name of every stage with predictions to the folder that holds them: its own, or that of its twin."""
        folder = self.path / PREDICTIONS
        there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if self.metrics is None:
            return {name: name for name in there}
        # A name becomes a path only where the directory holds it.
        listed = {name: stage.same_as or name for name, stage in self.metrics.stages.items()}
        return {name: twin for name, twin in listed.items() if twin in there}

    @property
    def complete_metrics(self) -> MetricsRecord:
        """The metrics of a complete run.

        Raises:
            RunError: The run is not complete.
        """
        if self.status != "complete" or self.metrics is None:
            raise RunError(
                f"The run in {self.path} is not complete: its status is {self.status!r}.",
                fix="finish it, or run it again.",
            )
        return self.metrics

    def open_dataset(
        self, entry: ModelEntry, host: PluginHost, *, data: Path | None = None, labels: Path | None = None
    ) -> EvalDataset:
        """Open the evaluated split where the run found it, or at ``data``.

        Raises:
            DataError: It cannot be opened, has other classes than the run, or lacks an evaluated image.
        """
        recorded = self.record.dataset
        request = DatasetRequest(
            root=data or Path(recorded.root), split=recorded.split, label_file=labels or self.record.request.labels
        )
        dataset = host.dataset(entry, request)
        if recorded.class_names != dataset.class_names:
            raise DataError(
                f"The data at {dataset.root} has other classes than the run in {self.path}.",
                fix="name the run's label file with --labels.",
            )
        known = frozenset(dataset.ids)
        missing = [image_id for image_id in self.image_ids if image_id not in known]
        if missing:
            raise DataError(
                f"The data at {dataset.root} lacks {len(missing)} of the {len(self.image_ids)} images of the run in "
                f"{self.path}, first {missing[0]!r}.",
                fix="name the data of the run with --data.",
            )
        return dataset

    def predictions(self, stage: str, prediction_type: type[Prediction]) -> Mapping[str, Prediction]:
        """Read a stage's predictions of every evaluated image, in the order of the run.

        Raises:
            RunError: The stage has no predictions, they are damaged, or are not those of the run's images.
        """
        folder = self.stages.get(stage)
        if folder is None:
            raise RunError(
                f"{self.path} has no predictions of a stage {stage!r}.",
                fix=f"choose from {', '.join(self.stages) or 'another run: this one has none'}.",
            )
        stored: dict[str, Prediction] = {}
        for chunk in self._store(folder, prediction_type):
            stored.update(zip(chunk.image_ids, chunk.predictions, strict=True))
        missing = [image_id for image_id in self.image_ids if image_id not in stored]
        if missing or len(stored) != len(self.image_ids):
            strangers = len(stored) - (len(self.image_ids) - len(missing))
            raise RunError(
                f"{self.path / PREDICTIONS / folder} lacks {len(missing)} of the run's {len(self.image_ids)} images "
                f"and holds {strangers} others.",
                fix="finish the run first, or run again.",
            )
        return {image_id: stored[image_id] for image_id in self.image_ids}

    def require_unchanged(self, folder: str) -> None:
        """Refuse files below a folder of a complete run that are not those that the run wrote.

        Raises:
            RunError: A file has changed, is missing, or is not in the record.
        """
        prefix = f"{folder}/"
        recorded = {name: was for name, was in (self.record.files or {}).items() if name.startswith(prefix)}
        if not recorded or self.status != "complete":
            return
        for problem in file_problems(self.path, recorded, all_recorded=True):
            if problem.name.startswith(prefix):
                raise RunError(f"{self.path}: {problem}.", fix=f"{_FIX} `zoo-eval verify` names all that has changed.")

    def num_nonfinite_images(self, stage: str, prediction_type: type[Prediction]) -> int:
        """Count the images for which the network returned infinity or not-a-number; ``stage`` has predictions.

        Raises:
            RunError: The predictions are damaged.
        """
        return sum(len(chunk.nonfinite_ids) for chunk in self._store(self.stages[stage], prediction_type))

    def foreign_chunks(self, stage: str, prediction_type: type[Prediction]) -> list[Path] | None:
        """Return the chunks of a stage that other stages or runs computed; None if the run did not bind its chunks."""
        binding, folder = stage_binding(self.record, stage), self.path / PREDICTIONS / stage
        if binding is None or not folder.is_dir():
            return None
        return PredictionStore(folder, prediction_type, binding=binding).strangers()

    def _store(self, folder: str, prediction_type: type[Prediction]) -> PredictionStore:
        return PredictionStore(self.path / PREDICTIONS / folder, prediction_type)


def open_run(path: Path) -> StoredRun:
    """Read a run directory.

    Raises:
        RunError: It is not a run directory, a record has unknown, missing or ill-typed fields, which are named, or
            ``metrics.json`` is not the file that the run wrote.
    """
    record, metrics = read_record(path), read_metrics(path)
    problem = metrics_problem(path, record.files)
    if problem is not None and RunDirectory(path).true_status(record.status) == "complete":
        raise RunError(f"{path}: {problem}.", fix=f"{_FIX} `zoo-eval verify` names all that has changed.")
    listing = path / IMAGE_IDS
    try:
        image_ids = tuple(read_regular_file(listing, max_bytes=MAX_BYTES).decode().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{listing} cannot be read: {error}", fix=_FIX) from error
    return StoredRun(path=path, record=record, metrics=metrics, image_ids=image_ids)


def open_changed_run(path: Path) -> StoredRun:
    """Read a run directory without its metrics for ``verify``; only ``run.json`` must be valid.

    Raises:
        RunError: It is not a run directory, or ``run.json`` has unknown, missing or ill-typed fields.
    """
    record = read_record(path)
    try:
        listing = read_regular_file(path / IMAGE_IDS, max_bytes=MAX_BYTES).decode(errors="replace")
    except OSError:
        listing = ""
    return StoredRun(path=path, record=record, metrics=None, image_ids=tuple(listing.splitlines()))


def is_run(path: Path) -> bool:
    """Return True where ``path`` is a run directory."""
    return (path / "run.json").is_file()
