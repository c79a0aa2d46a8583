"""Logs a run's record as an MLflow run: parameters, metrics of every stage, tags, and the report."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.errors import PluginError

if TYPE_CHECKING:
    from zoo_core.runs.record import MetricsRecord, RunRecord

EXPERIMENT = "zoo-eval"
"""Experiment of the runs unless ``MLFLOW_EXPERIMENT_NAME`` names another."""

FILES = ("report.html", "metrics.json", "run.json")
"""Files to upload where they exist; predictions and networks stay in the run directory."""

_SETTINGS = {
    # MLflow's own defaults keep a run waiting for a dead server for minutes: 8 requests of 120 s with growing pauses.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # stdout holds a command's results, with --json one object and nothing else.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# Limits of the server's API: https://mlflow.org/docs/latest/api_reference/rest-api.html#log-batch
_MAX_PARAMS, _MAX_METRICS, _MAX_VALUE = 100, 1000, 500


def log_run(uri: str, run_dir: Path, record: RunRecord, metrics: MetricsRecord | None) -> str:
    """Log a finished run and return its id on the server.

    Args:
        uri: Address of the tracking server in MLflow's syntax.
        run_dir: The run directory.
        record: Content of ``run.json``.
        metrics: Content of ``metrics.json``; None where nothing was evaluated.

    Raises:
        PluginError: The server did not accept it.
    """
    with warnings.catch_warnings(), our_settings():
        warnings.simplefilter("ignore")  # on what MLflow itself will change one day
        import mlflow

        try:
            return _log(mlflow.MlflowClient(tracking_uri=uri), run_dir, record, metrics)
        except Exception as error:  # whatever a client, a server or what lies between them raises
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise PluginError(
                f"The MLflow server at {_without_secrets(uri)} did not take the run: {_without_secrets(reason)[:300]}",
                fix="start the server or unset MLFLOW_TRACKING_URI; the run itself is complete on disk.",
            ) from error


@contextmanager
def our_settings() -> Iterator[None]:
    """Make MLflow give up on a dead server after about 40 s and print nothing, unless the user set its variables."""
    added = {name: value for name, value in _SETTINGS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _log(client: Any, run_dir: Path, record: RunRecord, scores: MetricsRecord | None) -> str:
    from mlflow.entities import Metric, Param, RunTag

    finished = _milliseconds(record.finished or record.started)
    run = client.create_run(
        _experiment(client), start_time=_milliseconds(record.started), run_name=f"{record.model} {run_dir.name}"
    )
    run_id: str = run.info.run_id
    params = [Param(name, value) for name, value in parameters(record).items()]
    metrics = [Metric(name, value, finished, 0) for name, value in stage_metrics(record, scores).items()]
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags(record).items()])
    for start in range(0, len(params), _MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])
    for start in range(0, len(metrics), _MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _MAX_METRICS])
    for name in FILES:
        if (run_dir / name).is_file():
            client.log_artifact(run_id, str(run_dir / name))
    client.set_terminated(run_id, "FINISHED", finished)
    return run_id


def _experiment(client: Any) -> str:
    """Return the experiment's id and create it if it is missing; another process may do so at the same time."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except Exception:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return str(experiment.experiment_id)


def parameters(record: RunRecord) -> dict[str, str]:
    """Collect the conditions of the number: model, weights, data, calibration, recipe with its steps, settings."""
    dataset, calibration, recipe, settings = record.dataset, record.calibration, record.recipe, record.settings
    checkpoint, optimized = record.checkpoint, record.optimized_checkpoint
    nested = {
        "model": record.model,
        "task": record.task,
        "headline": record.headline,
        "checkpoint_sha256": checkpoint.sha256 if checkpoint else None,
        "optimized_checkpoint_sha256": optimized.sha256 if optimized else None,
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "num_images": dataset.num_images,
            "limited": dataset.limited,
            "fingerprint": dataset.fingerprint,
        },
        "calibration": {
            "split": calibration.split,
            "seed": calibration.seed,
            "num_images": calibration.num_images,
        }
        if calibration
        else {},
        "recipe": {
            "name": recipe.name,
            "sha256": recipe.sha256,
            "param_bw": recipe.param_bw,
            "output_bw": recipe.output_bw,
            "quant_scheme": recipe.quant_scheme,
        },
        "step": {f"{index}.{step['step']}": _step(step) for index, step in enumerate(recipe.steps)},
        "settings": {"batch_size": settings.batch_size, "device": settings.device, "seed": settings.seed},
    }
    return {name: value[:_MAX_VALUE] for name, value in _flat("", nested)}


def stage_metrics(record: RunRecord, metrics: MetricsRecord | None) -> dict[str, float]:
    """Collect ``<stage>/<protocol>/<value>``, drop and speed of every stage; undefined values are left out."""
    values: dict[str, float | None] = {}
    for name, stage in metrics.stages.items() if metrics else ():
        for protocol, score in stage.scores.items():
            values |= {f"{name}/{protocol}/{key}": value for key, value in score.values.items()}
        values[f"{name}/drop_points"] = stage.drop_points
        cost = record.stages.get(stage.same_as or name)
        if cost is not None:
            values[f"{name}/images_per_second"] = cost.images_per_second
            values[f"{name}/weights_bytes"] = cost.weights_bytes
    return {name: float(value) for name, value in values.items() if value is not None}


def tags(record: RunRecord) -> dict[str, str]:
    """Versions, and the warnings as the note that the server shows first."""
    values = {"zoo_eval.version": record.zoo_eval, "zoo_eval.status": record.status}
    if record.git is not None:
        values["zoo_eval.git_commit"] = record.git.commit
    if record.warnings:
        values["mlflow.note.content"] = "\n\n".join(record.warnings)
    return values


def _step(step: Mapping[str, Any]) -> Any:
    return {name: value for name, value in step.items() if name != "step"} or "default"


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), item)
    elif value is not None:
        yield prefix, str(value)


def _milliseconds(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def _without_secrets(text: str) -> str:
    """Remove user names and passwords from URLs: a warning ends up in the record and the report."""
    return re.sub(r"//[^/@\s]*@", "//", text)
