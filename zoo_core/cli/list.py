"""``zoo-eval list``."""

from __future__ import annotations

import json

import click

from zoo_core import api, plugins
from zoo_core.cli.options import JSON, REGISTRY
from zoo_core.display import counted


@click.command("list")
@JSON
@REGISTRY
@click.option("--broken", is_flag=True, help="List the plugins that cannot be used, with the cause.")
def list_models(*, as_json: bool, broken: bool, host: plugins.PluginHost | None) -> int:
    """List the models of the catalogue."""
    host = host or plugins.PluginHost()
    if broken:
        _print_broken(host, as_json=as_json)
        return 0
    models = api.list_models(host=host)
    if as_json:
        rows = [{"model": entry.model_id, "plugin": entry.plugin, "task": entry.task} for entry in models]
        click.echo(json.dumps({"models": rows}))
        return 0
    width = max((len(entry.model_id) for entry in models), default=0)
    for entry in models:
        click.echo(f"{entry.model_id:<{width}}  {entry.task}, {entry.dataset.name}: {entry.description}")
    unusable = api.list_broken_plugins(host=host)
    if unusable:
        click.echo(f"{counted(len(unusable), 'plugin')} cannot be used; run `zoo-eval doctor` for the cause.", err=True)
    return 0


def _print_broken(host: plugins.PluginHost, *, as_json: bool) -> None:
    broken = api.list_broken_plugins(host=host)
    if as_json:
        rows = [{"plugin": plugin.plugin_id, "cause": plugin.cause} for plugin in broken]
        click.echo(json.dumps({"broken": rows}))
        return
    for plugin in broken:
        click.echo(f"{plugin.plugin_id}: {plugin.cause}")
    if not broken:
        click.echo("every plugin can be used")
