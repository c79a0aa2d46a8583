"""``zoo-eval validate`` and ``new-plugin``: for people who write a plugin."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zoo_core.conformance import Outcome
    from zoo_core.plugins import PluginHost
    from zoo_core.scaffold import Task

FAILED = 1
"""Exit code of ``validate`` where a check failed."""

_STYLES = {"passed": "green", "failed": "bold red", "not checked": "yellow", "not applicable": "dim"}


@click.command()
@click.argument("name", metavar="PLUGIN|MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
@click.option("--verbose", is_flag=True, help="Show tracebacks.")
def validate(*, name: str, as_json: bool, verbose: bool) -> int:
    """Check a plugin, or one of its models, on drawn pictures; exits with 1 when a check failed.

    Runs on the CPU in about a minute a model, without a download: every step of the recipe with one iteration on a few
    pictures. What the plugin gives no means to check is listed as not checked.
    """
    from zoo_core.plugins import PluginHost

    host = PluginHost()
    results = {model: _validate(host, model, quiet=as_json) for model in _models(host, name)}
    failed = any(outcome.status == "failed" for outcomes in results.values() for outcome in outcomes)
    if as_json:
        click.echo(json.dumps({"passed": not failed, "models": _as_json(results, verbose=verbose)}))
    else:
        for model, outcomes in results.items():
            _print(model, outcomes, verbose=verbose)
    return FAILED if failed else 0


@click.command("new-plugin")
@click.argument("name")
@click.option(
    "--task",
    type=click.Choice(["detection", "classification"]),
    default="detection",
    show_default=True,
    help="What the model does.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="The plugin's folder is made in this one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
def new_plugin(*, name: str, task: Task, out: Path, as_json: bool) -> int:
    """Write a plugin called NAME as a package of its own, which works as it stands."""
    from zoo_core import scaffold
    from zoo_core.plugins import PluginHost

    files = scaffold.new_plugin(name, task, out, PluginHost())
    if as_json:
        click.echo(json.dumps({"folder": str(out / name), "files": [str(file) for file in files]}))
        return 0
    for file in files:
        click.echo(str(file))
    click.echo(f"\nNext: cd {out / name}; pip install -e '.[test]'; zoo-eval validate {name}", err=True)
    return 0


def _models(host: PluginHost, name: str) -> Sequence[str]:
    """Return the model called ``name``, or else every model of the plugin called so.

    Raises:
        PluginError: It is a plugin that cannot be used; says why.
        RegistryError: There is no such model.
    """
    from zoo_core.errors import PluginError

    catalog = host.catalog()
    owned = sorted(entry.model_id for entry in catalog.values() if entry.plugin == name)
    for broken in host.broken:
        if broken.plugin_id == name:
            raise PluginError(
                f"Plugin {name!r} cannot be used: {broken.cause}",
                fix="mend it; `zoo-eval doctor --verbose` has the traceback.",
            )
    if owned and name not in catalog:
        return owned
    others = [model for model in owned if model != name]
    if others:
        click.echo(f"checking the model {name!r}; the plugin of this name also owns {', '.join(others)}", err=True)
    return [host.model(name).model_id]


def _validate(host: PluginHost, model: str, *, quiet: bool) -> list[Outcome]:
    from rich.console import Console

    from zoo_core.conformance import Subject, run_checks

    logging.getLogger("zoo_eval").addHandler(logging.NullHandler())  # else Python prints warnings on stderr itself
    console = Console(stderr=True, quiet=quiet)
    with Subject(host, model) as subject, console.status(f"checking {model}") as status:
        return list(run_checks(subject, begin=lambda check: status.update(f"{model}: {check.name}")))


def _as_json(results: Mapping[str, Sequence[Outcome]], *, verbose: bool) -> list[dict[str, object]]:
    kept = ("name", "status", "found", "fix", "seconds", *(("details",) if verbose else ()))
    return [
        {
            "model": model,
            "passed": all(outcome.status != "failed" for outcome in outcomes),
            "checks": [{key: getattr(outcome, key) for key in kept} for outcome in outcomes],
        }
        for model, outcomes in results.items()
    ]


def _print(model: str, outcomes: Sequence[Outcome], *, verbose: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from zoo_core.cli.tables import make_console

    table = Table(title=Text(model), caption=_summary(outcomes), show_lines=False)
    table.add_column("result", no_wrap=True)
    table.add_column("check", ratio=2)
    table.add_column("what was seen", ratio=3)
    for outcome in outcomes:
        seen = Text(outcome.found)
        if outcome.fix:
            seen.append(f"\nfix: {outcome.fix}", style="bold")
        if verbose and outcome.details:
            seen.append(f"\n{outcome.details.rstrip()}", style="dim")
        table.add_row(Text(outcome.status, style=_STYLES[outcome.status]), Text(outcome.name), seen)
    make_console().print(table)


def _summary(outcomes: Sequence[Outcome]) -> str:
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in _STYLES}
    seconds = sum(outcome.seconds for outcome in outcomes)
    return ", ".join(f"{number} {status}" for status, number in counts.items() if number) + f", {seconds:.0f} s"
