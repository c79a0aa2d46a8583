"""How a run came about: steps, calibration, environment, recipe and hashes, as tables."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from zoo_core.report.sections import Table
from zoo_core.runs.facts import DASH, Facts

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun


def provenance(run: LoadedRun) -> list[tuple[str, Table]]:
    """Heading and table of each group of facts, empty groups left out."""
    record = run.record
    groups = [
        ("Steps", _steps(record)),
        ("Simulations", _simulations(record)),
        ("Recipe", _recipe(record)),
        ("Calibration", _calibration(record)),
        ("Hashes", _hashes(run)),
        ("Settings", _pairs(record.object("settings"), "setting")),
        ("Environment", _environment(record)),
    ]
    return [(heading, table) for heading, table in groups if table.rows]


def _steps(record: Facts) -> Table:
    rows = []
    for step in record.items("steps"):
        memory = step.number("peak_memory_bytes")
        rows.append(
            (
                step.text("step", needed=True) or DASH,
                _seconds(step.number("seconds")),
                DASH if memory is None else f"{memory / 1e6:.0f}",
                step.text("summary") or DASH,
            )
        )
    return Table(columns=("step", "seconds", "peak memory, MB", "effect"), rows=tuple(rows))


def _simulations(record: Facts) -> Table:
    rows = tuple(
        (name, _seconds(facts.number("seconds")), facts.text("summary") or DASH)
        for name, facts in record.objects("simulations").items()
    )
    return Table(columns=("stage", "seconds", "effect"), rows=rows)


def _seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"


def _recipe(record: Facts) -> Table:
    recipe = record.object("recipe")
    rows = [pair for pair in recipe.pairs() if pair[0] != "sha256"]
    for index, step in enumerate(recipe.items("steps"), start=1):
        told = ", ".join(f"{key} = {value}" for key, value in step.pairs() if key != "step")
        rows.append((f"step {index}", f"{step.text('step') or '?'}{f': {told}' if told else ''}"))
    rows += [("override", text) for text in recipe.texts("overrides")]
    return Table(columns=("recipe", "value"), rows=tuple(rows))


def _calibration(record: Facts) -> Table:
    calibration = record.object("calibration")
    rows = calibration.pairs()
    overlap, ids = calibration.texts("overlap"), calibration.texts("ids")
    if list(calibration):
        rows.append(("overlap with the evaluated split", f"{len(overlap)} images" if overlap else "none"))
    if ids:
        rows.append(("ids", " ".join(ids)))
    return Table(columns=("calibration", "value"), rows=tuple(rows))


def _hashes(run: LoadedRun) -> Table:
    record = run.record
    rows = []
    for what in ("checkpoint", "optimized_checkpoint"):
        facts = record.object(what)
        if (sha256 := facts.text("sha256")) is not None:
            rows.append((what.replace("_", " "), sha256, facts.text("path") or DASH))
    recipe, dataset = record.object("recipe"), record.object("dataset")
    for what, sha256, place in (
        ("recipe", recipe.text("sha256"), recipe.text("source")),
        ("data set fingerprint", dataset.text("fingerprint"), dataset.text("root")),
        ("evaluated image ids", dataset.text("image_ids_sha256"), "image_ids.txt"),
        (
            "git commit" + (" (with changes)" if record.object("git").flag("dirty") else ""),
            record.object("git").text("commit"),
            None,
        ),
    ):
        if sha256 is not None:
            rows.append((what, sha256, place or DASH))
    return Table(columns=("of", "hash", "where"), rows=tuple(rows))


def _environment(record: Facts) -> Table:
    environment = record.object("environment")
    rows = environment.pairs()
    rows += [(name, value) for name, value in environment.object("packages").pairs()]
    rows += [(name, value) for name, value in environment.object("environment_variables").pairs()]
    if (version := record.text("zoo_eval")) is not None:
        rows.insert(0, ("zoo-eval that ran it", version))
    return Table(columns=("environment", "value"), rows=tuple(rows))


def _pairs(facts: Facts, heading: str) -> Table:
    rows = facts.pairs()
    stages = facts.texts("stages")
    if stages:
        rows.append(("stages", json.dumps(stages, ensure_ascii=False)[1:-1].replace('"', "")))
    return Table(columns=(heading, "value"), rows=tuple(rows))
