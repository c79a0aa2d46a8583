"""Logs a run's record as an MLflow run: parameters, metrics of every stage, tags, and the report."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from zoo_core.errors import PluginError

EXPERIMENT = "zoo-eval"
"""Where runs go unless ``MLFLOW_EXPERIMENT_NAME`` says otherwise."""

FILES = ("report.html", "metrics.json", "run.json")
"""What is uploaded, where it is there; predictions and networks stay in the run directory."""

_SETTINGS = {
    # MLflow's own defaults keep a run waiting for a dead server for minutes: 8 requests of 120 s with growing pauses.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # stdout holds a command's results, with --json one object and nothing else.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# Limits of the server's API: https://mlflow.org/docs/latest/api_reference/rest-api.html#log-batch
_MAX_PARAMS, _MAX_METRICS, _MAX_VALUE = 100, 1000, 500


def log_run(uri: str, run_dir: Path, record: Mapping[str, Any]) -> str:
    """Log a finished run and return its id on the server.

    Args:
        uri: Address of the tracking server in MLflow's syntax.
        run_dir: The run directory.
        record: ``run.json`` with ``metrics``.

    Raises:
        PluginError: The server did not accept it.
    """
    with warnings.catch_warnings(), our_settings():
        warnings.simplefilter("ignore")  # on what MLflow itself will change one day
        import mlflow

        try:
            return _log(mlflow.MlflowClient(tracking_uri=uri), run_dir, record)
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


def _log(client: Any, run_dir: Path, record: Mapping[str, Any]) -> str:
    from mlflow.entities import Metric, Param, RunTag

    finished = _milliseconds(record["finished"])
    run = client.create_run(
        _experiment(client), start_time=_milliseconds(record["started"]), run_name=f"{record['model']} {run_dir.name}"
    )
    run_id: str = run.info.run_id
    params = [Param(name, value) for name, value in parameters(record).items()]
    metrics = [Metric(name, value, finished, 0) for name, value in stage_metrics(record).items()]
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
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except Exception:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def parameters(record: Mapping[str, Any]) -> dict[str, str]:
    """Collect the conditions of the number: model, weights, data, calibration, recipe with its steps, settings."""
    nested = {
        "model": record["model"],
        "task": record["task"],
        "headline": record["headline"],
        "checkpoint_sha256": (record["checkpoint"] or {}).get("sha256"),
        "optimized_checkpoint_sha256": (record["optimized_checkpoint"] or {}).get("sha256"),
        "dataset": _chosen(record["dataset"], "name", "split", "num_images", "limited", "fingerprint"),
        "calibration": _chosen(record["calibration"], "split", "seed", "num_images"),
        "recipe": _chosen(record["recipe"], "name", "sha256", "param_bw", "output_bw", "quant_scheme"),
        "step": {f"{index}.{step['step']}": _step(step) for index, step in enumerate(record["recipe"]["steps"])},
        "settings": _chosen(record["settings"], "batch_size", "device", "seed"),
    }
    return {name: value[:_MAX_VALUE] for name, value in _flat("", nested)}


def stage_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Collect ``<stage>/<protocol>/<value>``, drop and speed of every stage; undefined values are left out."""
    found: dict[str, float] = {}
    for stage, scores in record["metrics"].get("stages", {}).items():
        for protocol, values in scores["metrics"].items():
            found |= {f"{stage}/{protocol}/{name}": value for name, value in values.items()}
        found[f"{stage}/drop_points"] = scores["drop_points"]
        facts = record["stages"].get(scores.get("same_as") or stage, {})
        found |= {f"{stage}/{name}": facts.get(name) for name in ("images_per_second", "weights_bytes")}
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}


def tags(record: Mapping[str, Any]) -> dict[str, str]:
    """Collect versions, and the warnings as the note that the server shows first."""
    found = {"zoo_eval.version": str(record["zoo_eval"]), "zoo_eval.status": str(record["status"])}
    commit = (record["git"] or {}).get("commit")
    if commit:
        found["zoo_eval.git_commit"] = str(commit)
    if record["warnings"]:
        found["mlflow.note.content"] = "\n\n".join(record["warnings"])
    return found


def _chosen(facts: Mapping[str, Any] | None, *names: str) -> dict[str, Any]:
    return {name: facts.get(name) for name in names} if facts else {}


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
