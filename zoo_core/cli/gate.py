"""``zoo-eval check`` and ``zoo-eval verify``: may this run be believed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

_FILE = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
_VERBOSE = click.option("--verbose", is_flag=True, help="Show tracebacks.")

FAILED = 1
"""Exit code of a gate that is not satisfied, and of a record that is stale."""


@click.command()
@click.argument("run_dir", metavar="RUN", type=_FILE)
@click.option("--stages", metavar="NAMES", help="Comma-separated; check the references of these stages alone.")
@click.option("--junit", metavar="FILE", type=_FILE, help="Write a JUnit report for continuous integration.")
@_JSON
@_VERBOSE
def check(*, run_dir: Path, stages: str | None, junit: Path | None, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - main() reads --verbose
    """Hold a run against the references of its model in the registry.

    Exits with 1 when a value lies below its reference by more than the tolerance, when one is missing, or when the run
    is limited, incomplete, or calibrated on evaluated images: such a run satisfies no gate.
    """
    from zoo_core.cli.result_tables import print_verdict
    from zoo_core.cli.stored import names
    from zoo_core.plugins import PluginHost
    from zoo_core.results.check import check_run, write_junit
    from zoo_core.results.stored import open_run

    run = open_run(run_dir)
    host = PluginHost()
    verdict = check_run(run, host.model(run.record.model), host, names(stages))
    if junit is not None:
        write_junit(junit, verdict)
    if as_json:
        click.echo(json.dumps({**asdict(verdict), "run": str(verdict.run), "passed": verdict.passed}))
    else:
        print_verdict(verdict)
    return 0 if verdict.passed else FAILED


@click.command()
@click.argument("run_dir", metavar="RUN", type=_FILE)
@click.option("--data", type=_FILE, help="Dataset root [default: where the run found it].")
@_JSON
@_VERBOSE
def verify(*, run_dir: Path, data: Path | None, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - main() reads --verbose
    """Check every hash of a run's record, and name what is stale.

    Weights, recipe, configuration, library versions, images and annotations, and whether the scores follow from the
    stored predictions. Exits with 0 when nothing is stale, 1 when something is, 2 when the record cannot be read.
    """
    from zoo_core.plugins import PluginHost
    from zoo_core.results.stored import open_run
    from zoo_core.results.verify import verify

    checks = verify(open_run(run_dir), PluginHost(), data=data)
    stale = any(check.state == "stale" for check in checks)
    if as_json:
        click.echo(json.dumps({"run": str(run_dir), "stale": stale, "checks": [asdict(check) for check in checks]}))
    else:
        for check in checks:
            click.echo(f"{check.state:<9}  {check.what}: {check.message}")
    return FAILED if stale else 0
