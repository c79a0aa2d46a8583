"""Typed contents of ``run.json`` and ``metrics.json``: one writer, one strict reader, and the rules for comparing runs.

Every module that makes decisions about a run (check, compare, verify, resume, reproduce) uses ``read_record`` and
``read_metrics``, which refuse a file with unknown, missing or ill-typed fields. ``runs.lenient`` reads damaged files
for the report and the listing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from zoo_core.errors import RunError
from zoo_core.runs.part import Part, SourceRecord
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
    Status,
    StepRecord,
)
from zoo_core.runs.request import EvaluationRequest

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Purpose: TypeAlias = Literal["resume", "compare", "report", "reproduce", "predict"]
T = TypeVar("T")

HEADLINE_PROTOCOL = "headline protocol"
"""Condition that a comparison under a named protocol ignores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Condition that differs between two runs; as text, ``split: trainval instead of test``.

    Attributes:
        what: Name of the condition, e.g. ``split``.
        mine: Value in the first run.
        theirs: Value in the other.
        refused: The purpose does not allow the difference; otherwise it is only mentioned.
        is_hash: The values are hashes, which mean nothing to a reader.
    """

    what: str
    mine: Any
    theirs: Any
    refused: bool
    is_hash: bool

    def __str__(self) -> str:
        return f"{self.what}: {self._change()}"

    def _change(self) -> str:
        """Format differing entries of tables and lists, the first digits of hashes, or the two values."""
        mine, theirs = self.mine, self.theirs
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
            return ", ".join(f"{name} {theirs.get(name, 'none')} instead of {mine.get(name, 'none')}" for name in names)
        if isinstance(mine, tuple) and isinstance(theirs, tuple):
            gone, new = ([item for item in one if item not in other] for one, other in ((mine, theirs), (theirs, mine)))
            return f"{_first_of(gone)} gone, {_first_of(new)} new" if gone or new else "in another order"
        short = slice(12) if self.is_hash else slice(None)
        return f"{_text(theirs)[short]} instead of {_text(mine)[short]}"


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _first_of(items: Sequence[Any]) -> str:
    return f"{len(items)} ({items[0]}{', ...' if len(items) > 1 else ''})" if items else "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord(Part):
    """Content of ``run.json``: the request, the inputs and versions used, and the cost of each part.

    ``sources`` is by plugin id; ``zoo-eval`` and ``registry entry`` (of the model) are there as well. ``files`` has the
    SHA-256 of each file that is complete, by its path in the run directory; None for runs before schema 3.
    """

    schema: int
    zoo_eval: str
    model: str
    plugin: str
    task: str
    registry: str
    headline: str
    request: EvaluationRequest
    settings: SettingsRecord
    recipe: RecipeRecord
    checkpoint: CheckpointRecord | None
    optimized_checkpoint: CheckpointRecord | None
    dataset: DatasetRecord
    calibration: CalibrationRecord | None
    environment: EnvironmentRecord
    sources: Mapping[str, SourceRecord]
    git: GitRecord | None
    evaluate: bool
    status: Status
    started: str
    finished: str | None
    error: str | None
    resumed: tuple[ResumeRecord, ...]
    steps: tuple[StepRecord, ...]
    simulations: Mapping[str, SimulationRecord]
    stages: Mapping[str, StageRecord]
    seconds: Mapping[str, float]
    warnings: tuple[str, ...]
    files: Mapping[str, str] | None
    plugins_notified: bool

    @property
    def float_runtime(self) -> str:
        """Return the runtime that computed the float stages; the requested one where it is not one and the same."""
        used = {stage.runtime for stage in self.stages.values() if not stage.quantized and stage.runtime is not None}
        return used.pop() if len(used) == 1 else self.settings.runtime

    @property
    def runtime_versions(self) -> dict[str, str | None]:
        """Return the version of each runtime that executed the exported network."""
        deployed = [stage.deployment for stage in self.stages.values() if stage.deployment is not None]
        return {deployment.runtime: deployment.version for deployment in deployed}

    @property
    def measured_runtimes(self) -> frozenset[str]:
        """Return the runtimes whose stages have everything but perhaps chunks that were damaged since."""
        deployed = [stage.deployment for stage in self.stages.values() if stage.deployment is not None]
        return frozenset(one.runtime for one in deployed if one.parity is not None and one.cost is not None)

    def conditions(self, purpose: Purpose) -> dict[str, Any]:
        """Return the conditions that must agree for ``purpose``, by name.

        Those of ``predict`` select the predictions of a given network: recipe and weights are not among them.
        """
        return {own.what: own.value(self) for own in _CONDITIONS if purpose in own.refuse}

    def differences(self, other: RunRecord, purpose: Purpose) -> list[Difference]:
        """List the conditions that matter for ``purpose`` and differ between this run and another.

        This is the only place that decides which conditions must agree. ``resume`` and ``compare`` refuse; ``report``
        marks what makes numbers incomparable; ``reproduce`` only mentions, and ``compare`` mentions what else belongs
        to a quantized number.
        """
        listed = []
        for condition in _CONDITIONS:
            refused = purpose in condition.refuse
            if not refused and purpose not in condition.mention:
                continue
            mine, theirs = condition.value(self), condition.value(other)
            if mine != theirs:
                listed.append(
                    Difference(
                        what=condition.what, mine=mine, theirs=theirs, refused=refused, is_hash=condition.is_hash
                    )
                )
        return listed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Condition:
    """Condition with the purposes for which it must agree, and those for which a difference is only mentioned."""

    what: str
    value: Callable[[RunRecord], Any]
    refuse: frozenset[Purpose]
    mention: frozenset[Purpose]
    is_hash: bool


def _condition(
    what: str,
    value: Callable[[RunRecord], Any],
    *,
    refuse: tuple[Purpose, ...] = (),
    mention: tuple[Purpose, ...] = (),
    is_hash: bool = False,
) -> _Condition:
    return _Condition(what=what, value=value, refuse=frozenset(refuse), mention=frozenset(mention), is_hash=is_hash)


def _sha256(checkpoint: CheckpointRecord | None) -> str | None:
    return None if checkpoint is None else checkpoint.sha256


_CONDITIONS: tuple[_Condition, ...] = (
    _condition("zoo-eval", lambda run: run.zoo_eval, refuse=("resume", "predict"), mention=("report",)),
    # Not the git commit: it may be that of a repository around the installation, and it misses uncommitted edits.
    _condition("sources", lambda run: run.sources, refuse=("resume", "predict"), mention=("report",)),
    _condition("Python", lambda run: run.environment.python, refuse=("resume", "predict")),
    _condition("libraries", lambda run: run.environment.packages, refuse=("resume", "predict"), mention=("report",)),
    _condition("model", lambda run: run.model, mention=("report",)),
    _condition(HEADLINE_PROTOCOL, lambda run: run.headline, refuse=("resume", "compare"), mention=("report",)),
    _condition("stages", lambda run: run.settings.stages, refuse=("resume",)),
    _condition(
        "device", lambda run: run.settings.device, refuse=("resume", "predict"), mention=("report", "reproduce")
    ),
    _condition("batch size", lambda run: run.settings.batch_size, mention=("report", "reproduce")),
    _condition("runtime of float stages", lambda run: run.settings.runtime, mention=("report",)),
    _condition("seed", lambda run: run.settings.seed, mention=("report",)),
    _condition("recipe", lambda run: run.recipe.name, mention=("report",)),
    _condition("recipe content", lambda run: run.recipe.sha256, refuse=("resume",), mention=("report",), is_hash=True),
    _condition(
        "AIMET configuration",
        lambda run: run.recipe.config_sha256,
        refuse=("resume",),
        mention=("report",),
        is_hash=True,
    ),
    _condition("weights", lambda run: _sha256(run.checkpoint), refuse=("resume",), mention=("report",), is_hash=True),
    _condition(
        "optimized weights",
        lambda run: _sha256(run.optimized_checkpoint),
        refuse=("resume",),
        mention=("compare", "report"),
        is_hash=True,
    ),
    _condition("data set", lambda run: run.dataset.name, refuse=("compare", "report")),
    _condition("split", lambda run: run.dataset.split, refuse=("compare", "report")),
    _condition("classes", lambda run: run.dataset.class_names, refuse=("resume", "compare", "report", "predict")),
    _condition("number of images", lambda run: run.dataset.num_images, refuse=("report",)),
    _condition(
        "evaluated images",
        lambda run: run.dataset.image_ids_sha256,
        refuse=("resume", "report", "predict"),
        is_hash=True,
    ),
    _condition(
        "content of images and annotations",
        lambda run: run.dataset.fingerprint,
        refuse=("resume", "compare", "report", "predict"),
        is_hash=True,
    ),
    # The limit, and the images that calibration avoids, follow from the whole split.
    _condition("number of images in the split", lambda run: run.dataset.num_images_in_split, refuse=("resume",)),
    _condition("images in the split", lambda run: run.dataset.split_ids_sha256, refuse=("resume",), is_hash=True),
    _condition("limit", lambda run: run.dataset.limited, refuse=("resume", "report")),
    _condition(
        "calibration split", lambda run: run.calibration and run.calibration.split, mention=("compare", "report")
    ),
    _condition(
        "number of calibration images",
        lambda run: run.calibration and run.calibration.num_images,
        mention=("compare", "report"),
    ),
    _condition("calibration images", lambda run: run.calibration and run.calibration.ids, refuse=("resume",)),
    _condition(
        "content of calibration images and annotations",
        lambda run: run.calibration and run.calibration.fingerprint,
        refuse=("resume",),
        is_hash=True,
    ),
    _condition("versions of runtimes", lambda run: run.runtime_versions, mention=("compare", "report", "reproduce")),
    _condition("processor", lambda run: run.environment.processor, mention=("resume", "reproduce")),
    _condition(
        "instruction set of torch's kernels",
        lambda run: run.environment.cpu_capability,
        mention=("resume", "report", "reproduce"),
    ),
    # Refused, unlike another processor: the user can restore them.
    _condition(
        "environment variables that select kernels",
        lambda run: run.environment.kernel_variables,
        refuse=("resume", "predict"),
        mention=("report", "reproduce"),
    ),
    _condition(
        "settings of torch",
        lambda run: run.environment.torch_settings,
        refuse=("resume", "predict"),
        mention=("report", "reproduce"),
    ),
    _condition("device name", lambda run: run.environment.device_name, mention=("resume", "reproduce")),
    _condition("threads of torch", lambda run: run.environment.torch_threads, mention=("reproduce",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRecord(Part):
    """Content of ``metrics.json``; only a complete run has one."""

    schema: int
    model: str
    headline: str
    num_images: int
    limited: bool
    fingerprint: str
    stages: Mapping[str, StageScores]
    protocols: Mapping[str, ProtocolRecord]
    warnings: tuple[str, ...]


def record_content(record: RunRecord | MetricsRecord) -> dict[str, Any]:
    """Return the JSON object of a record, as in ``run.json`` and ``metrics.json``."""
    content = asdict(record)
    if isinstance(record, RunRecord):
        content["request"] = record.request.as_json()
        return content
    # The published form has the values of a protocol and per_class side by side below "metrics".
    for stage in content["stages"].values():
        stage["metrics"] = {
            protocol: {**score["values"], "per_class": score["per_class"]}
            for protocol, score in stage.pop("scores").items()
        }
    return content


def record_text(record: RunRecord | MetricsRecord) -> str:
    """Return the JSON text of a record; floats keep every digit, not-a-number is refused."""
    return json.dumps(record_content(record), indent=1, allow_nan=False, default=str, ensure_ascii=False) + "\n"


def read_record(run: Path) -> RunRecord:
    """Read ``run.json`` of a run directory.

    Raises:
        RunError: The file is missing, damaged, of a newer schema, or has unknown, missing or ill-typed fields; every
            one of them is named.
    """
    return _read(run / "run.json", RunRecord)


def read_metrics(run: Path) -> MetricsRecord | None:
    """Read ``metrics.json`` of a run directory; None where the run has none.

    Raises:
        RunError: As ``read_record``.
    """
    return _read(run / "metrics.json", MetricsRecord) if (run / "metrics.json").exists() else None


def _read(path: Path, kind: type[T]) -> T:
    from pydantic import ValidationError

    from zoo_core.runs.migration import load_object, migrated

    content = migrated(load_object(path), path)
    try:
        valid: T = adapter(cast("Hashable", kind)).validate_json(json.dumps(content), strict=True)
    except (ValidationError, ValueError) as error:
        problems = validation_problems(error) if isinstance(error, ValidationError) else [str(error)]
        raise RunError(
            f"{path} is not a valid record: {'; '.join(problems)}.", fix="restore the file, or run again."
        ) from error
    return valid


def validation_problems(error: Any) -> list[str]:
    """Return up to ten problems that pydantic found, as ``field: message``."""
    items = error.errors()
    listed = [f"{'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}" for item in items[:10]]
    return listed + ([f"and {len(items) - 10} more"] if len(items) > 10 else [])


@lru_cache
def adapter(kind: Hashable) -> TypeAdapter[Any]:
    """Return the validator of a type, built once."""
    from pydantic import TypeAdapter

    return TypeAdapter(cast("Any", kind))
