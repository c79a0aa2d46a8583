"""``zoo-eval fetch``."""

from __future__ import annotations

import json
from typing import Any

import click

from zoo_core import api
from zoo_core.cli.options import OUTPUT, REGISTRY, options


@click.command()
@click.argument("model")
@click.option("--offline", is_flag=True, help="Download nothing; only report what is in the cache.")
@options(REGISTRY, *OUTPUT)
def fetch(*, model: str, as_json: bool, verbose: bool, **given: Any) -> int:  # noqa: ARG001 - main() reads --verbose
    """Download MODEL's weights and dataset into the cache, and verify them."""
    places = api.fetch(model, **given)
    if as_json:
        click.echo(json.dumps({"places": [str(place) for place in places]}))
        return 0
    for place in places:
        click.echo(str(place))
    if not places:
        fix = "give its weights with --checkpoint and its data with --data."
        click.echo(f"The registry has no download for {model!r}; {fix}", err=True)
    return 0
