"""``zoo-eval runs``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from zoo_core import api
from zoo_core.cli.options import FILE, OUTPUT, options
from zoo_core.display import percent


@click.command()
@click.argument("folder", metavar="[DIR]", default=Path("runs"), type=FILE)
@click.option("--model", help="List only runs of this model.")
@options(*OUTPUT)
def runs(*, folder: Path, model: str | None, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - main() reads --verbose
    """List the runs in a folder, newest first, with the headline value of every stage.

    DIR is searched three levels deep [default: runs].
    """
    listed = api.list_runs(folder, model=model)
    if as_json:
        click.echo(json.dumps({"runs": [{**asdict(run), "path": str(run.path)} for run in listed]}))
        return 0
    for run in listed:
        images = "" if run.num_images is None else f", {run.num_images} images{' (limited)' if run.limited else ''}"
        click.echo(f"{run.started or '?':<25}  {run.model}  {run.status}  {run.dataset}{images}  {run.recipe}")
        values = ", ".join(f"{name} {percent(value)}" for name, value in run.values.items())
        click.echo(f"    {run.headline}: {values}" if values else "    no scores")
        click.echo(f"    {run.path}")
    if not listed:
        click.echo(f"no runs in {folder}" + (f" of {model}" if model else ""))
    return 0
