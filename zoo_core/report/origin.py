"""Lists the origin of a run as tables: steps, recipe, data, settings, environment and hashes.

Tables of settings and environment print every field of their dataclass, so a new field appears by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from zoo_core.display import DASH, joined
from zoo_core.report.sections import Table
from zoo_core.runs.part import Part

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun
    from zoo_core.runs.lenient import ReadableRecord

_MOST_NAMES = 20
"""Names printed of a long list; run.json holds all."""


def provenance(run: LoadedRun) -> list[tuple[str, Table]]:
    """Return heading and table of each group, empty groups left out."""
    record = run.record
    groups = [
        ("Steps", _steps(record)),
        ("Simulations", _simulations(record)),
        ("Recipe", _recipe(record)),
        ("Data set", _table("data set", _pairs(record.dataset))),
        ("Calibration", _table("calibration", _pairs(record.calibration))),
        ("Settings", _table("setting", _pairs(record.settings))),
        ("Environment", _table("environment", _pairs(record.environment))),
        ("Hashes", _hashes(record)),
    ]
    return [(heading, table) for heading, table in groups if table.rows]


def _table(heading: str, rows: list[tuple[str, str]]) -> Table:
    return Table(columns=(heading, "value"), rows=tuple(rows))


def _pairs(part: Part | None, *, without: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Name and text of every field; a mapping gives a pair for each of its entries."""
    pairs = []
    for field in fields(part) if part is not None else ():  # type: ignore[arg-type]  # every Part is a dataclass
        value = getattr(part, field.name)
        if field.name in without:
            continue
        if isinstance(value, Mapping):
            pairs += [(str(name), _text(entry)) for name, entry in value.items()]
        else:
            pairs.append((field.name.removeprefix("num_").replace("_", " "), _text(value)))
    return pairs


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return joined([str(entry) for entry in value], _MOST_NAMES) or "none"
    return DASH if value is None else str(value)


def _steps(record: ReadableRecord) -> Table:
    rows = tuple(
        (step.step, f"{step.seconds:.1f}", f"{step.peak_memory_bytes / 1e6:.0f}", step.summary) for step in record.steps
    )
    return Table(columns=("step", "seconds", "peak memory, MB", "effect"), rows=rows)


def _simulations(record: ReadableRecord) -> Table:
    rows = tuple(
        (name, f"{simulation.seconds:.1f}", f"{simulation.peak_memory_bytes / 1e6:.0f}", simulation.summary)
        for name, simulation in record.simulations.items()
    )
    return Table(columns=("stage", "seconds", "peak memory, MB", "effect"), rows=rows)


def _recipe(record: ReadableRecord) -> Table:
    rows = _pairs(record.recipe, without=("steps",))
    for index, step in enumerate(record.recipe.steps if record.recipe is not None else (), start=1):
        parameters = ", ".join(f"{key} = {_text(value)}" for key, value in step.items() if key != "step")
        rows.append((f"step {index}", f"{step.get('step', '?')}{f': {parameters}' if parameters else ''}"))
    return _table("recipe", rows)


def _hashes(record: ReadableRecord) -> Table:
    rows = []
    for name, checkpoint in (("checkpoint", record.checkpoint), ("optimized checkpoint", record.optimized_checkpoint)):
        if checkpoint is not None:
            rows.append((name, checkpoint.sha256, checkpoint.path))
    if record.recipe is not None:
        rows.append(("recipe", record.recipe.sha256, record.recipe.source))
    if record.dataset is not None:
        rows.append(("content of images and annotations", record.dataset.fingerprint, record.dataset.root))
        rows.append(("evaluated image ids", record.dataset.image_ids_sha256, "image_ids.txt"))
    for name, source in record.sources.items():
        where = " ".join(text for text in (source.distribution, source.version) if text) or DASH
        rows.append((f"sources of {name}", source.sha256 or DASH, where))
    if record.git is not None:
        rows.append((f"git commit{' (with changes)' if record.git.dirty else ''}", record.git.commit, DASH))
    return Table(columns=("of", "hash", "where"), rows=tuple(rows))
