"""``zoo-eval check``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo_core import api
from zoo_core.cli.options import FILE, OUTPUT, options
from zoo_core.display import percent

if TYPE_CHECKING:
    from zoo_core.results.check import Verdict

FAILED = 1
"""Exit code of a run that does not satisfy its references."""


@click.command()
@click.argument("run_dir", metavar="RUN", type=FILE)
@click.option("--stages", default="", metavar="NAMES", help="Comma-separated; check only references of these stages.")
@click.option("--junit", metavar="FILE", type=FILE, help="Write a JUnit report for continuous integration.")
@options(*OUTPUT)
def check(*, run_dir: Path, stages: str, junit: Path | None, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - main() reads --verbose
    """Compare a run with the registry's reference values of its model.

    Exits with 1 when a value is below its reference by more than the tolerance, when one is missing, when a stage has
    references but none that was measured under the run's conditions, or when the run is limited, incomplete, on other
    images, or calibrated on evaluated ones: such a run never passes.
    """
    verdict = api.check(run_dir, stages=stages, junit=junit)
    if as_json:
        click.echo(json.dumps({**asdict(verdict), "run": str(verdict.run), "passed": verdict.passed}))
    else:
        _print(verdict)
    return 0 if verdict.passed else FAILED


def _print(verdict: Verdict) -> None:
    """Print each reference beside the measured value, and the verdict."""
    from zoo_core.cli.tables import print_table

    rows, chosen = [], []
    for finding in verdict.findings:
        reference, name = finding.reference, f"{finding.stage} {finding.protocol} {finding.key}"
        rows.append(
            [
                name,
                percent(finding.value),
                percent(reference.value if reference else None),
                percent(reference.tolerance if reference else None),
                finding.status,
                reference.source if reference else "",
            ]
        )
        if finding.versions:
            chosen.append(f"The reference of {name} is its value for {finding.versions}.")
    aside = [
        f"Not compared: {one.reference.stage} {one.reference.protocol} {percent(one.reference.value)} "
        f"({one.reference.source}), {one.reason}."
        for one in verdict.set_aside
    ]
    columns = ("value", "measured", "reference", "tolerance", "", "source")
    notes = [*chosen, *aside, *verdict.notes, *verdict.obstacles, "passed" if verdict.passed else "failed"]
    print_table(f"{verdict.model}, in percent", columns, rows, notes)
