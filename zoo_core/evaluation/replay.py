"""The request that made a run, read back from its directory: to go on with it, or to run it again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.errors import DataError, RunError
from zoo_core.evaluation.request import EvaluationRequest
from zoo_core.quantization import saved
from zoo_core.recipes import names_a_file
from zoo_core.runs.directory import RunDirectory

if TYPE_CHECKING:
    from zoo_core.quantization.pipeline import Plan

INPUTS = "inputs"
"""Folder of a run with copies of the small files that it was told with: recipe, AIMET configuration, labels."""

_RECIPE, _LABELS = "recipe.yaml", "labels.txt"


def keep_inputs(run_dir: RunDirectory, request: EvaluationRequest, plan: Plan) -> None:
    """Copy recipe, AIMET configuration and label file into the run, so that ``recorded_request`` finds them there.

    What an interrupted run has copied already stays.

    Raises:
        ZooError: A file is no longer there, or cannot be written.
    """
    if (run_dir.path / INPUTS).exists():
        return
    with run_dir.whole_folder(INPUTS) as folder:
        saved.save_recipe(folder, plan)
        if request.labels is not None:
            _copy_labels(request.labels, folder)


def _copy_labels(labels: Path, folder: Path) -> None:
    try:
        shutil.copyfile(labels, folder / _LABELS)
    except OSError as error:
        raise DataError(
            f"The label file {labels} cannot be copied to {folder}: {error.strerror}.",
            fix="leave it in place until the run ends.",
        ) from error


def recorded_request(path: Path, *, kept: bool = False) -> EvaluationRequest:
    """The request that made the run in ``path``, with everything named that the run itself had to decide.

    Model, stages, splits, batch size and device are those that were used, whatever was left to a default. An id file is
    the run's own ``image_ids.txt``. Data and checkpoints are None where the run was given none: they come from the
    registry and the cache again, and hashes in the record say whether they are the same. ``out`` is None, ``command``
    empty.

    Args:
        path: A run directory, finished or not.
        kept: Take recipe, AIMET configuration and label file from the run's copies, which nobody has edited since;
            overrides are part of that recipe. Its SHA-256 is the recorded one only where the configuration file's name
            is, so compare steps, not hashes. Otherwise all three are the files that the run was given.

    Raises:
        RunError: It is no run directory, or its record does not say what was asked for.
    """
    record = RunDirectory(path).read_json("run.json")
    request = EvaluationRequest.from_json(_object(record, "request", path), place=f"{path / 'run.json'}: request")
    settings, recipe, dataset = (_object(record, key, path) for key in ("settings", "recipe", "dataset"))
    calibration = record.get("calibration")
    request = replace(
        request,
        model=_text(record, "model", path),
        recipe=_recipe(request, settings, recipe, path),
        stages=",".join(_texts(settings, "stages", path)),
        split=_text(dataset, "split", path),
        calibration_split=_text(calibration, "split", path) if calibration else request.calibration_split,
        ids_file=path.absolute() / "image_ids.txt" if request.ids_file is not None else None,
        batch_size=_number(settings, "batch_size", path),
        device=_text(settings, "device", path),
        out=None,
        command=(),
    )
    if not kept:
        return request
    copies = path / INPUTS
    labels = copies / _LABELS if request.labels is not None else None
    return replace(request, recipe=str(copies / _RECIPE), settings=(), labels=labels)


def _recipe(request: EvaluationRequest, settings: Mapping[str, Any], recipe: Mapping[str, Any], path: Path) -> str:
    """A recipe's name as it was looked up, or the absolute path of its file."""
    name = request.recipe or _text(settings, "recipe", path)
    return _text(recipe, "source", path) if names_a_file(name) else name


def _object(record: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = record.get(key)
    if not isinstance(value, dict):
        raise _unusable(key, value, path)
    return value


def _text(values: Mapping[str, Any], key: str, path: Path) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise _unusable(key, value, path)
    return value


def _texts(values: Mapping[str, Any], key: str, path: Path) -> list[str]:
    value = values.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _unusable(key, value, path)
    return value


def _number(values: Mapping[str, Any], key: str, path: Path) -> int:
    value = values.get(key)
    if not isinstance(value, int):
        raise _unusable(key, value, path)
    return value


def _unusable(key: str, value: object, path: Path) -> RunError:
    return RunError(
        f"{path / 'run.json'} does not say {key}: it holds {value!r}.", fix="restore the file, or start a new run."
    )
