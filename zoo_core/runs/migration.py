"""Reads a JSON object of a run and brings older schemas to the current one; values of the wrong type pass unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo_core.errors import RunError
from zoo_core.files import read_regular_file

SCHEMA = 4
"""Version of ``run.json`` and ``metrics.json``."""

MAX_BYTES = 1 << 28
"""Largest record that is read."""


def load_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: The file is missing, unreadable, not a JSON object, or has a key twice.
    """
    try:
        text = read_regular_file(path, max_bytes=MAX_BYTES).decode()
        content = json.loads(text, object_pairs_hook=_without_repeated_keys)
    except FileNotFoundError as error:
        raise RunError(
            f"{path.parent} has no {path.name}.", fix="name a run directory, as `zoo-eval run` prints it at the end."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{path} cannot be read: {reason}", fix="restore the file, or run again.") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is not a JSON object.", fix="restore the file, or run again.")
    return content


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a key twice: readers would differ in which of its values counts."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice.")
    return content


def migrated(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Convert the content of a record to the current schema, with scores in the layout of ``StageScores``.

    Raises:
        RunError: The schema is unknown.
    """
    schema = content.get("schema")
    if isinstance(schema, bool) or not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        raise RunError(
            f"{path} has schema {schema!r}; this version reads 1 to {SCHEMA}.",
            fix="read it with the zoo-eval version that wrote it, or a newer one.",
        )
    content = {**content, "schema": SCHEMA}
    is_run = path.name == "run.json"
    if is_run:
        if schema == 1:
            _from_schema_1(content)
        if schema <= 2:
            _from_schema_2(content)
        if schema <= 3:
            _from_schema_3(content)
        return content
    added = {"change": None} if schema == 1 else {}
    added |= {"simulation": None} if schema <= 3 else {}
    return {**content, "stages": _split_scores(content.get("stages"), added)}


def _from_schema_1(content: dict[str, Any]) -> None:
    """Rename the fields that schema 2 renamed, and set the fields that schema 1 omitted to null."""
    content["plugins_notified"] = content.pop("plugins_told", True)
    content.setdefault("error", None)
    if isinstance(content.get("steps"), list):
        content["steps"] = [
            {**step, "short": _flag(step.get("effect"), "short")} if isinstance(step, dict) else step
            for step in content["steps"]
        ]
    if isinstance(content.get("resumed"), list):
        content["resumed"] = [
            {"error": None, **entry} if isinstance(entry, dict) else entry for entry in content["resumed"]
        ]
    if isinstance(content.get("stages"), dict):
        content["stages"] = {
            name: {**dict.fromkeys(_MEASURED_LATER), **stage, "batch_sizes": _batch_sizes(stage.get("batch_sizes", {}))}
            if isinstance(stage, dict)
            else stage
            for name, stage in content["stages"].items()
        }


def _from_schema_2(content: dict[str, Any]) -> None:
    """Set the fields that schema 3 added to null or empty."""
    content.setdefault("sources", {})
    content.setdefault("files", None)
    if isinstance(content.get("calibration"), dict):
        content["calibration"] = {"alike": [], **content["calibration"]}
    content["environment"] = _added(content.get("environment"), "cpu_capability")
    if isinstance(content["environment"], dict):
        content["environment"].setdefault("torch_settings", {})
    content["dataset"] = _added(content.get("dataset"), "split_ids_sha256")
    for part, name in (
        ("simulations", "coverage"),
        ("stages", "num_nonfinite_images"),
        ("stages", "network_sha256"),
    ):
        if isinstance(content.get(part), dict):
            content[part] = {key: _added(value, name) for key, value in content[part].items()}


def _from_schema_3(content: dict[str, Any]) -> None:
    """Rename backends, which schema 4 calls runtimes, and set the fields that it added to null."""
    for part in ("request", "settings"):
        content[part] = _renamed(content.get(part), "backend", "runtime")
    if isinstance(content.get("stages"), dict):
        stages = {name: _renamed(stage, "backend", "runtime") for name, stage in content["stages"].items()}
        content["stages"] = {
            name: {"runtime_reason": None, "deployment": None, **stage} if isinstance(stage, dict) else stage
            for name, stage in stages.items()
        }


def _renamed(part: Any, old: str, new: str) -> Any:
    return {new if key == old else key: value for key, value in part.items()} if isinstance(part, dict) else part


def _added(part: Any, name: str) -> Any:
    return {name: None, **part} if isinstance(part, dict) else part


_MEASURED_LATER = (
    "backend",
    "agreement",
    "export_seconds",
    "num_images_timed",
    "seconds",
    "network_seconds",
    "images_per_second",
    "peak_memory_bytes",
    "scoring_seconds",
)
_BATCH_SIZE_FIELDS = (
    "error",
    "headline",
    "change_points",
    "num_images",
    "num_images_changed",
    "num_predictions",
    "num_predictions_changed",
    "changes",
    "seconds",
)


def _batch_sizes(measured: Any) -> Any:
    if not isinstance(measured, dict):
        return measured
    renamed = {"seen": "changes", "difference_points": "change_points"}
    return {
        size: {**dict.fromkeys(_BATCH_SIZE_FIELDS), **{renamed.get(key, key): value for key, value in entry.items()}}
        if isinstance(entry, dict)
        else entry
        for size, entry in measured.items()
    }


def _flag(values: Any, key: str) -> bool:
    return isinstance(values, dict) and values.get(key) is True


def _split_scores(stages: Any, added: dict[str, Any]) -> Any:
    """Convert ``{"metrics": {protocol: {"map": ..., "per_class": {...}}}}`` to ``{"scores": {protocol: ScoreRecord}}``.

    ``added`` has the fields that the file's schema did not have.
    """
    if not isinstance(stages, dict):
        return stages
    return {name: _split_stage(stage, added) if isinstance(stage, dict) else stage for name, stage in stages.items()}


def _split_stage(stage: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    rest = {**added, **stage}
    metrics = rest.pop("metrics", None)
    if isinstance(metrics, dict):
        metrics = {
            protocol: {
                "values": {key: value for key, value in score.items() if key != "per_class"},
                "per_class": score.get("per_class"),
            }
            if isinstance(score, dict)
            else score
            for protocol, score in metrics.items()
        }
    return {**rest, "scores": metrics}
