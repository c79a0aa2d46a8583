"""``zoo-eval reproduce``: a run made again from its record."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli.signals import termination_interrupts

if TYPE_CHECKING:
    from zoo_core.results.reproduce import Reproduced

_FILE = click.Path(path_type=Path)

DIFFERS = 1
"""Exit code where the new run gave other bytes."""


@click.command()
@click.argument("run_dir", metavar="RUN", type=_FILE)
@click.option("--data", type=_FILE, help="Dataset root [default: where the run found it].")
@click.option("--checkpoint", type=_FILE, help="Original weights [default: where the run found them].")
@click.option("--workers", type=int, help="Threads that decode images [default: the run's]; they change no byte.")
@click.option("--batch-size", type=int, help="Another batch size than the run's, to see what it moves.")
@click.option("--out", type=_FILE, help="Directory of the new run [default: runs/<model>/<UTC time>-<short id>].")
@click.option("--offline", is_flag=True, help="Download nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
@click.option("--verbose", is_flag=True, help="Show the log and tracebacks on stderr.")
@click.option("--quiet", is_flag=True, help="Show nothing but the result and errors.")
def reproduce(*, run_dir: Path, as_json: bool, verbose: bool, quiet: bool, **options: Any) -> int:
    """Run RUN again from its record, and compare every prediction byte by byte.

    Exits with 0 when the two are identical, 1 when they differ: the table then says by how much, and which image is the
    first. Nothing is taken from the cache of slow steps; AdaRound is computed anew.
    """
    from zoo_core import api
    from zoo_core.cli.progress import TerminalReporter

    with termination_interrupts(), TerminalReporter(quiet=quiet, verbose=verbose) as reporter:
        found = api.reproduce(run_dir, reporter=reporter, **options)
    if as_json:
        click.echo(json.dumps(_content(found)))
    else:
        _print(found)
    return 0 if found.identical else DIFFERS


def _content(found: Reproduced) -> dict[str, Any]:
    stages = [{**asdict(stage), "identical": stage.identical, "change": stage.change} for stage in found.stages]
    return {
        "run": str(found.run),
        "again": str(found.again),
        "identical": found.identical,
        "headline": found.headline,
        "stages": stages,
        "conditions": list(found.conditions),
    }


def _print(found: Reproduced) -> None:
    from zoo_core.cli.result_tables import print_table

    rows, notes = [], []
    for stage in found.stages:
        changes = stage.predictions
        rows.append(
            [
                stage.name,
                _percent(stage.before),
                _percent(stage.after),
                "-" if stage.change is None else f"{100 * stage.change:+.3f}",
                f"{len(changes.changed)} of {changes.num_images}",
                f"{changes.num_rows_changed} of {changes.num_rows}",
            ]
        )
        if changes.changed:
            notes.append(f"{stage.name}: the first image that differs is {changes.changed[0]}: {changes.first}.")
    columns = ("stage", "run", "again", "points", "images changed", "predictions changed")
    notes += [f"Not as in the run: {text}." for text in found.conditions]
    notes += [f"new run: {found.again}", "identical, byte for byte" if found.identical else "not identical"]
    print_table(f"{found.run}, {found.headline} in percent", columns, rows, notes)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.4f}"
