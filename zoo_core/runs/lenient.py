"""Reads a run's JSON files as far as they can be used: what is missing or wrong is noted as a gap and left out.

Only the report and the listing read this way. What decides something reads with ``runs.record``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from zoo_core.errors import RunError
from zoo_core.runs.migration import SCHEMA, load_object, migrated
from zoo_core.runs.part import SourceRecord
from zoo_core.runs.parts import (
    CalibrationRecord,
    CheckpointRecord,
    DatasetRecord,
    EnvironmentRecord,
    GitRecord,
    ProtocolRecord,
    RecipeRecord,
    ResumeRecord,
    SettingsRecord,
    SimulationRecord,
    StageRecord,
    StageScores,
    StepRecord,
)
from zoo_core.runs.record import adapter, validation_problems
from zoo_core.runs.request import EvaluationRequest

R = TypeVar("R", bound="ReadableRecord | ReadableMetrics")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadableRecord:
    """``run.json`` as far as it is valid: the fields of ``RunRecord``, None or empty where they cannot be used.

    A part with a wrong field is left out as a whole; of a collection only the wrong entries are.
    """

    schema: int | None = None
    zoo_eval: str | None = None
    model: str | None = None
    plugin: str | None = None
    task: str | None = None
    registry: str | None = None
    headline: str | None = None
    request: EvaluationRequest | None = None
    settings: SettingsRecord | None = None
    recipe: RecipeRecord | None = None
    checkpoint: CheckpointRecord | None = None
    optimized_checkpoint: CheckpointRecord | None = None
    dataset: DatasetRecord | None = None
    calibration: CalibrationRecord | None = None
    environment: EnvironmentRecord | None = None
    sources: Mapping[str, SourceRecord] = field(default_factory=dict)
    git: GitRecord | None = None
    evaluate: bool | None = None
    status: str | None = None
    started: str | None = None
    finished: str | None = None
    error: str | None = None
    resumed: tuple[ResumeRecord, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    simulations: Mapping[str, SimulationRecord] = field(default_factory=dict)
    stages: Mapping[str, StageRecord] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    files: Mapping[str, str] | None = None
    plugins_notified: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadableMetrics:
    """``metrics.json`` as far as it is valid: the fields of ``MetricsRecord``."""

    schema: int | None = None
    model: str | None = None
    headline: str | None = None
    num_images: int | None = None
    limited: bool | None = None
    fingerprint: str | None = None
    stages: Mapping[str, StageScores] = field(default_factory=dict)
    protocols: Mapping[str, ProtocolRecord] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_leniently(path: Path, gaps: list[str], kind: type[R]) -> R | None:
    """Read ``run.json`` or ``metrics.json``; None, with a gap, where it is missing or holds no JSON object.

    Args:
        path: The file.
        gaps: Receives a sentence for each part that is left out.
        kind: ``ReadableRecord`` or ``ReadableMetrics``.
    """
    if not path.exists():
        gaps.append(f"{path.name} is missing.")
        return None
    try:
        content = load_object(path)
    except RunError as error:
        gaps.append(error.fact.replace(str(path), path.name, 1).splitlines()[0])
        return None
    try:
        content = migrated(content, path)
    except RunError:
        gaps.append(
            f"{path.name} has schema {content.get('schema')!r}; this version writes {SCHEMA} and shows what it knows."
        )
        content = migrated({**content, "schema": SCHEMA}, path)
    hints = get_type_hints(kind)
    values = {}
    for own in fields(kind):
        if own.name in content:
            hint = hints[own.name]
            values[own.name] = _valid(content[own.name], hint, f"{path.name}: {own.name}", gaps)
        else:
            gaps.append(f"{path.name}: {own.name} is missing.")
    gaps.extend(f"{path.name}: {name} is unknown to this version." for name in content if name not in hints)
    return kind(**{name: value for name, value in values.items() if value is not None})


def _valid(value: Any, hint: Any, place: str, gaps: list[str]) -> Any:
    """The value as ``hint`` wants it, without the entries that are wrong; None where nothing can be used."""
    try:
        return adapter(hint).validate_json(json.dumps(value), strict=True)
    except (ValidationError, ValueError) as error:
        unknown = _unknown_fields(error)
        if unknown:
            gaps.extend(f"{'.'.join([place, *map(str, names)])} is unknown to this version." for names in unknown)
            return _valid(_without(value, unknown), hint, place, gaps)
        arguments = get_args(hint)
        if isinstance(value, dict) and get_origin(hint) is Mapping:
            kept = {name: _valid(entry, arguments[1], f"{place}.{name}", gaps) for name, entry in value.items()}
            return {name: entry for name, entry in kept.items() if entry is not None}
        if isinstance(value, list) and len(arguments) == 2 and arguments[1] is Ellipsis:
            entries = [_valid(entry, arguments[0], f"{place}[{index}]", gaps) for index, entry in enumerate(value)]
            return tuple(entry for entry in entries if entry is not None)
        problems = validation_problems(error) if isinstance(error, ValidationError) else [str(error)]
        gaps.append(f"{place} is left out: {'; '.join(problems)}.")
        return None


def _unknown_fields(error: Exception) -> list[tuple[int | str, ...]]:
    problems = error.errors() if isinstance(error, ValidationError) else []
    return [item["loc"] for item in problems if item["type"] == "unexpected_keyword_argument"]


def _without(value: Any, places: list[tuple[int | str, ...]]) -> Any:
    copied = json.loads(json.dumps(value))
    for *parents, last in places:
        parent = copied
        for name in parents:
            parent = parent[name]
        del parent[last]
    return copied
