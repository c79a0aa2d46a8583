"""Two runs side by side: their stages, and every condition in which they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.report.sections import Table, headline, headline_measure, headline_value
from zoo_core.runs.facts import DASH, percent, points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.report.loading import LoadedRun
    from zoo_core.runs.facts import Facts

# What is compared, where it stands in run.json, and whether a difference makes the numbers incomparable.
_CONDITIONS: tuple[tuple[str, str, str, bool], ...] = (
    ("data set", "dataset", "name", True),
    ("split", "dataset", "split", True),
    ("evaluated images", "dataset", "image_ids_sha256", True),
    ("content of images and annotations", "dataset", "fingerprint", True),
    ("number of images", "dataset", "num_images", True),
    ("checkpoint", "checkpoint", "sha256", False),
    ("optimized checkpoint", "optimized_checkpoint", "sha256", False),
    ("recipe", "recipe", "name", False),
    ("recipe content", "recipe", "sha256", False),
    ("calibration split", "calibration", "split", False),
    ("calibration images", "calibration", "num_images", False),
    ("seed", "settings", "seed", False),
    ("batch size", "settings", "batch_size", False),
    ("device", "settings", "device", False),
    ("backend of float stages", "settings", "backend", False),
)
_PACKAGES = ("torch", "aimet-torch", "numpy", "opencv-python")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """This run and another.

    Attributes:
        other: The other run's directory.
        stages: Stage by stage.
        cautions: Differences that make the numbers not comparable, in sentences.
        conditions: Every difference, as a table.
        gaps: What the other run lacks.
    """

    other: str
    stages: Table
    cautions: Sequence[str]
    conditions: Table
    gaps: Sequence[str]


def compare_runs(this: LoadedRun, other: LoadedRun) -> Comparison:
    """Put two runs side by side; refuses nothing, but says what differs."""
    rows, cautions = [], []
    for what, section, key, serious in _CONDITIONS:
        mine, theirs = _value(this.record.object(section), key), _value(other.record.object(section), key)
        if mine != theirs:
            rows.append((what, mine, theirs))
            if serious:
                # A hash tells a reader nothing; the table of conditions holds it.
                values = "" if key.endswith(("sha256", "fingerprint")) else f": {mine} here, {theirs} there"
                cautions.append(f"The runs differ in {what}{values}.")
    for what, key in (("model", "model"), ("zoo-eval", "zoo_eval")):
        mine, theirs = this.record.text(key) or DASH, other.record.text(key) or DASH
        if mine != theirs:
            rows.append((what, mine, theirs))
    for package in _PACKAGES:
        mine, theirs = (
            run.record.object("environment").object("packages").text(package) or DASH for run in (this, other)
        )
        if mine != theirs:
            rows.append((package, mine, theirs))
    cautions += _protocol_cautions(this, other)
    return Comparison(
        other=str(other.path),
        stages=_stages(this, other),
        cautions=cautions,
        conditions=Table(
            columns=("condition", "this run", "other run"), rows=tuple(rows), caption="Conditions that differ."
        ),
        gaps=tuple(other.gaps),
    )


def _value(facts: Facts, key: str) -> str:
    return next((value for name, value in facts.pairs() if name == key), DASH)


def _protocol_cautions(this: LoadedRun, other: LoadedRun) -> list[str]:
    protocol, theirs = headline(this), headline(other)
    cautions = []
    if protocol != theirs:
        cautions.append(
            f"The runs show different protocols first: {protocol} here, {theirs} there. The table compares under "
            f"{protocol}."
        )
    mine, rule = (run.metrics.object("protocols").object(protocol).text("definition") for run in (this, other))
    if mine != rule and mine is not None and rule is not None:
        cautions.append(f"The runs define {protocol} differently.")
    if this.metrics.flag("limited") != other.metrics.flag("limited"):
        cautions.append("One of the runs is limited to a part of its split, the other is not.")
    return cautions


def _stages(this: LoadedRun, other: LoadedRun) -> Table:
    protocol = headline(this)
    mine, theirs = this.stages, other.stages
    rows = []
    for name in dict.fromkeys([*mine, *theirs]):
        here = headline_value(mine[name], protocol) if name in mine else None
        there = headline_value(theirs[name], protocol) if name in theirs else None
        difference = None if here is None or there is None else 100.0 * (here - there)
        rows.append((name, percent(here), percent(there), points(difference)))
    return Table(
        columns=("stage", "this run, %", "other run, %", "difference, points"),
        rows=tuple(rows),
        caption=f"{headline_measure(this).overall} under {protocol}; the difference is this run minus the other.",
    )
