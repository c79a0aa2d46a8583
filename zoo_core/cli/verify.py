"""``zoo-eval verify``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from zoo_core import api
from zoo_core.cli.options import FILE, OUTPUT, options

STALE = 1
"""Exit code of a record that is stale."""


@click.command()
@click.argument("run_dir", metavar="RUN", type=FILE)
@click.option("--data", type=FILE, help="Dataset root [default: the run's].")
@options(*OUTPUT)
def verify(*, run_dir: Path, data: Path | None, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - main() reads --verbose
    """Check every hash of a run's record, and name what is stale.

    Covers weights, recipe, configuration, library versions, images and annotations, and scores the stored
    predictions again. Exits with 0 if nothing is stale, 1 if something is, 2 if the record is not valid.
    """
    checks = api.verify(run_dir, data=data)
    stale = any(check.state == "stale" for check in checks)
    if as_json:
        click.echo(json.dumps({"run": str(run_dir), "stale": stale, "checks": [asdict(check) for check in checks]}))
    else:
        for check in checks:
            click.echo(f"{check.state:<9}  {check.what}: {check.message}")
    return STALE if stale else 0
