"""``zoo-eval report``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo_core import api
from zoo_core.cli.options import FILE, OUTPUT, options


@click.command()
@click.argument("run_dir", metavar="RUN", type=FILE)
@click.option("--against", metavar="RUN", type=FILE, help="Another run directory to show side by side.")
@click.option("--out", type=FILE, help="File to write [default: report.html in RUN].")
@options(*OUTPUT)
def report(*, run_dir: Path, against: Path | None, out: Path | None, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - main() reads --verbose
    """Write the report of a run: tables, plots, and pictures of what quantization changed.

    RUN is a run directory. The report is one HTML file that loads nothing from the network. It names the parts that the
    directory lacks and shows the rest.
    """
    path = api.write_report(run_dir, against=against, out=out)
    click.echo(json.dumps({"report": str(path)}) if as_json else str(path))
    return 0
