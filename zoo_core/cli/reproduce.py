"""``zoo-eval reproduce``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core import api
from zoo_core.cli.options import FILE, OFFLINE, PROGRESS, options
from zoo_core.cli.progress import TerminalReporter
from zoo_core.display import percent, points

if TYPE_CHECKING:
    from zoo_core.results.reproduce import Reproduced

DIFFERS = 1
"""Exit code where the new run has other bytes."""


@click.command()
@click.argument("run_dir", metavar="RUN", type=FILE)
@click.option("--data", type=FILE, help="Dataset root [default: the run's].")
@click.option("--checkpoint", type=FILE, help="Original weights [default: the run's].")
@click.option("--workers", type=int, help="Threads that decode images [default: the run's]; no effect on results.")
@click.option("--batch-size", type=int, help="Batch size other than the run's, to see how predictions change.")
@click.option("--out", type=FILE, help="Directory of the new run [default: runs/<model>/<UTC time>-<short id>].")
@options(OFFLINE, *PROGRESS)
def reproduce(*, run_dir: Path, as_json: bool, verbose: bool, quiet: bool, **given: Any) -> int:
    """Repeat RUN from its record, and compare every prediction byte by byte.

    Exits with 0 if the two are identical, 1 if they differ: the table then shows by how much, and names the first
    image that does. Nothing comes from the cache of slow steps; AdaRound is computed again.
    """
    with TerminalReporter(quiet=quiet, verbose=verbose) as reporter:
        result = api.reproduce(run_dir, reporter=reporter, **given)
    if as_json:
        click.echo(json.dumps(_content(result)))
    else:
        _print(result)
    return 0 if result.identical else DIFFERS


def _content(result: Reproduced) -> dict[str, Any]:
    return {
        "run": str(result.run),
        "again": str(result.again),
        "identical": result.identical,
        "headline": result.headline,
        "stages": [{**asdict(stage), "identical": stage.identical, "change": stage.change} for stage in result.stages],
        "conditions": list(result.conditions),
    }


def _print(result: Reproduced) -> None:
    from zoo_core.cli.tables import print_table

    rows, notes = [], []
    for stage in result.stages:
        changes = stage.predictions
        rows.append(
            [
                stage.name,
                percent(stage.before, digits=4),
                percent(stage.after, digits=4),
                points(None if stage.change is None else 100 * stage.change, digits=3),
                f"{len(changes.changed)} of {changes.num_images}",
                f"{changes.num_rows_changed} of {changes.num_rows}",
            ]
        )
        if changes.changed:
            notes.append(f"{stage.name}: the first image that differs is {changes.changed[0]}: {changes.first}.")
    columns = ("stage", "run", "again", "points", "images changed", "predictions changed")
    notes += [f"Not as in the run: {text}." for text in result.conditions]
    notes += [f"new run: {result.again}", "identical, byte for byte" if result.identical else "not identical"]
    print_table(f"{result.run}, {result.headline} in percent", columns, rows, notes)
