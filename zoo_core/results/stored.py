"""A run directory read back: every name in it checked before it is used, whatever the file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.datatypes import DatasetRequest, Prediction
from zoo_core.errors import DataError, RunError
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.facts import Facts
from zoo_core.runs.predictions import PredictionStore

if TYPE_CHECKING:
    from zoo_core.datatypes import EvalDataset, ModelEntry
    from zoo_core.plugins import PluginHost

_FIX = "restore the run directory, or run again."


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run as its directory tells it.

    Attributes:
        path: The run directory.
        record: ``run.json``.
        metrics: ``metrics.json``; None where the run is not complete.
        image_ids: The evaluated images, in the order of the run.
    """

    path: Path
    record: Facts
    metrics: Facts | None
    image_ids: tuple[str, ...]

    @property
    def status(self) -> str:
        """``running``, ``complete``, ``failed`` or ``interrupted``, which a run that was killed is too."""
        return RunDirectory(self.path).true_status(self.record.text("status") or "unknown")

    @property
    def stages(self) -> dict[str, str]:
        """Name of every stage with predictions to the folder that holds them: its own, or that of its twin."""
        folder = self.path / "predictions"
        there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if self.metrics is None:
            return {name: name for name in there}
        # A name becomes a path only where the directory holds it.
        listed = {name: stage.text("same_as") or name for name, stage in self.metrics.objects("stages").items()}
        return {name: twin for name, twin in listed.items() if twin in there}

    def needed(self, *keys: str) -> str:
        """A text of ``run.json``, ``("dataset", "split")`` for example.

        Raises:
            RunError: It is missing.
        """
        facts = self.record
        for key in keys[:-1]:
            facts = facts.object(key)
        value = facts.text(keys[-1])
        if value is None:
            raise RunError(f"{self.path / 'run.json'} does not say {'.'.join(keys)}.", fix=_FIX)
        return value

    def open_dataset(
        self, entry: ModelEntry, host: PluginHost, *, data: Path | None = None, labels: Path | None = None
    ) -> EvalDataset:
        """Open the evaluated split where the run found it, or at ``data``.

        Raises:
            DataError: It cannot be opened, has other classes than the run, or lacks an evaluated image.
        """
        label_file = self.record.object("request").text("labels")
        request = DatasetRequest(
            root=data or Path(self.needed("dataset", "root")),
            split=self.needed("dataset", "split"),
            label_file=labels or (Path(label_file) if label_file else None),
        )
        dataset = host.dataset(entry, request)
        recorded = tuple(self.record.object("dataset").texts("class_names"))
        if recorded and recorded != dataset.class_names:
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
        """What a stage said of every evaluated image, in the order of the run.

        Raises:
            RunError: The stage has no predictions, they are damaged, or are not those of the run's images.
        """
        folder = self.stages.get(stage)
        if folder is None:
            raise RunError(
                f"{self.path} holds no predictions of a stage {stage!r}.",
                fix=f"choose from {', '.join(self.stages) or 'another run: this one has none'}.",
            )
        found: dict[str, Prediction] = {}
        for chunk in PredictionStore(self.path / "predictions" / folder, prediction_type):
            found.update(zip(chunk.image_ids, chunk.predictions, strict=True))
        missing = [image_id for image_id in self.image_ids if image_id not in found]
        if missing or len(found) != len(self.image_ids):
            strangers = len(found) - (len(self.image_ids) - len(missing))
            raise RunError(
                f"{self.path / 'predictions' / folder} lacks {len(missing)} of the run's {len(self.image_ids)} images "
                f"and holds {strangers} others.",
                fix="finish the run first, or run again.",
            )
        return {image_id: found[image_id] for image_id in self.image_ids}


def open_run(path: Path) -> StoredRun:
    """Read a run directory.

    Raises:
        RunError: It is no run directory, or a file of it is damaged.
    """
    directory = RunDirectory(path)
    gaps: list[str] = []
    record = Facts(directory.read_json("run.json"), "run.json", gaps)
    has_metrics = (path / "metrics.json").exists()
    metrics = Facts(directory.read_json("metrics.json"), "metrics.json", gaps) if has_metrics else None
    listing = path / "image_ids.txt"
    try:
        image_ids = tuple(listing.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{listing} cannot be read: {error}", fix=_FIX) from error
    return StoredRun(path=path, record=record, metrics=metrics, image_ids=image_ids)


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run directory."""
    return (path / "run.json").is_file()
