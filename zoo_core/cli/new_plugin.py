"""``zoo-eval new-plugin``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo_core import api
from zoo_core.cli.options import FOLDER, JSON

if TYPE_CHECKING:
    from zoo_core.scaffold import Task


@click.command("new-plugin")
@click.argument("name")
@click.option(
    "--task",
    type=click.Choice(["detection", "classification"]),
    default="detection",
    show_default=True,
    help="Task of the model.",
)
@click.option(
    "--out",
    type=FOLDER,
    default=Path(),
    show_default=True,
    help="Folder in which the plugin's folder is made.",
)
@JSON
def new_plugin(*, name: str, task: Task, out: Path, as_json: bool) -> int:
    """Write a plugin called NAME as a working package of its own."""
    files = api.new_plugin(name, task=task, out=out)
    if as_json:
        click.echo(json.dumps({"folder": str(out / name), "files": [str(file) for file in files]}))
        return 0
    for file in files:
        click.echo(str(file))
    click.echo(f"\nNext: cd {out / name}; pip install -e '.[test]'; zoo-eval validate {name}", err=True)
    return 0
