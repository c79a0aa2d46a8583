"""``zoo-eval validate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo_core import api
from zoo_core.cli.options import OUTPUT, REGISTRY, options
from zoo_core.cli.progress import TerminalReporter

if TYPE_CHECKING:
    from zoo_core.conformance import Outcome
    from zoo_core.conformance.validate import Validation

FAILED = 1
"""Exit code where a check failed."""

_STYLES = {
    "passed": "green",
    "warning": "yellow",
    "failed": "bold red",
    "not checked": "yellow",
    "not applicable": "dim",
}


@click.command()
@click.argument("name", metavar="PLUGIN|MODEL")
@click.option(
    "--as",
    "kind",
    type=click.Choice(["model", "plugin"]),
    help="Take the name as that of a model or of a plugin [default: a plugin with several models, else a model].",
)
@options(REGISTRY, *OUTPUT)
def validate(*, name: str, as_json: bool, verbose: bool, **given: Any) -> int:
    """Check a plugin, or one of its models, on drawn pictures; exits with 1 when a check failed.

    Runs on the CPU in about a minute per model, without a download: every step of the recipe with one iteration on a
    few pictures. Checks that need something the plugin does not provide are listed as not checked.
    """
    with TerminalReporter(quiet=as_json) as reporter:
        validation = api.validate(name, reporter=reporter, **given)
    if as_json:
        click.echo(json.dumps({"passed": validation.passed, "models": _content(validation, verbose=verbose)}))
    else:
        for model, outcomes in validation.models.items():
            _print(model, outcomes, verbose=verbose)
    return 0 if validation.passed else FAILED


def _content(validation: Validation, *, verbose: bool) -> list[dict[str, object]]:
    keys = ("name", "status", "found", "fix", "seconds", *(("details",) if verbose else ()))
    return [
        {
            "model": model,
            "passed": all(outcome.status != "failed" for outcome in outcomes),
            "checks": [{key: getattr(outcome, key) for key in keys} for outcome in outcomes],
        }
        for model, outcomes in validation.models.items()
    ]


def _print(model: str, outcomes: Sequence[Outcome], *, verbose: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from zoo_core.cli.tables import table_console

    table = Table(title=Text(model), caption=_summary(outcomes), show_lines=False)
    table.add_column("result", no_wrap=True)
    table.add_column("check", ratio=2)
    table.add_column("observation", ratio=3)
    for outcome in outcomes:
        text = Text(outcome.found)
        if outcome.fix:
            text.append(f"\nfix: {outcome.fix}", style="bold")
        if verbose and outcome.details:
            text.append(f"\n{outcome.details.rstrip()}", style="dim")
        table.add_row(Text(outcome.status, style=_STYLES[outcome.status]), Text(outcome.name), text)
    table_console().print(table)


def _summary(outcomes: Sequence[Outcome]) -> str:
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in _STYLES}
    seconds = sum(outcome.seconds for outcome in outcomes)
    return ", ".join(f"{number} {status}" for status, number in counts.items() if number) + f", {seconds:.0f} s"
