"""Reads a run's request back from its record, to resume or repeat the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.datasets.labels import MAX_LABEL_BYTES, read_label_file
from zoo_core.errors import DataError
from zoo_core.files import read_regular_file
from zoo_core.quantization import saved
from zoo_core.recipes import names_a_file
from zoo_core.runs.hashes import IMAGE_IDS, INPUTS
from zoo_core.runs.record import read_record

if TYPE_CHECKING:
    from zoo_core.quantization.pipeline import Plan
    from zoo_core.runs.directory import RunDirectory
    from zoo_core.runs.request import EvaluationRequest

_RECIPE, _LABELS = "recipe.yaml", "labels.txt"


def keep_inputs(run_dir: RunDirectory, request: EvaluationRequest, plan: Plan) -> None:
    """Copy recipe, AIMET configuration and label file into the run, where ``recorded_request`` looks for them.

    Keeps existing copies of an interrupted run.

    Raises:
        ZooError: A file no longer exists, or cannot be written.
    """
    if (run_dir.path / INPUTS).exists():
        return
    with run_dir.whole_folder(INPUTS) as folder:
        saved.save_recipe(folder, plan)
        if request.labels is not None:
            _copy_labels(request.labels, folder)


def _copy_labels(labels: Path, folder: Path) -> None:
    read_label_file(labels)  # the file may have been replaced since; only what is a label file is copied
    try:
        (folder / _LABELS).write_bytes(read_regular_file(labels, max_bytes=MAX_LABEL_BYTES))
    except OSError as error:
        raise DataError(
            f"The label file {labels} cannot be copied to {folder}: {error.strerror}.",
            fix="leave it in place until the run ends.",
        ) from error


def recorded_request(path: Path, *, kept: bool = False) -> EvaluationRequest:
    """Return the request of the run in ``path``, with every default replaced by the value used.

    An id file is the run's own ``image_ids.txt``. Data and checkpoints are None if the original request named none:
    they come from the registry and the cache again, and the record's hashes show if they are the same. ``out`` is None,
    ``command`` empty.

    Args:
        path: A run directory, finished or not.
        kept: Take recipe, AIMET configuration and label file from the run's copies, which are safe from later edits;
            overrides are part of that recipe. Its SHA-256 equals the recorded one only if the configuration file has
            the same name, so compare steps, not hashes. False takes the original files.

    Raises:
        RunError: The run directory does not exist, or its record is not valid.
    """
    record = read_record(path)
    request = record.request
    name = request.recipe or record.settings.recipe
    request = replace(
        request,
        model=record.model,
        recipe=record.recipe.source if names_a_file(name) else name,
        stages=",".join(record.settings.stages),
        split=record.dataset.split,
        calibration_split=record.calibration.split if record.calibration else request.calibration_split,
        ids_file=path.absolute() / IMAGE_IDS if request.ids_file is not None else None,
        batch_size=record.settings.batch_size,
        device=record.settings.device,
        out=None,
        command=(),
    )
    if not kept:
        return request
    copies = path / INPUTS
    labels = copies / _LABELS if request.labels is not None else None
    return replace(request, recipe=str(copies / _RECIPE), settings=(), labels=labels)
