"""``zoo-eval doctor``."""

from __future__ import annotations

import json

import click

from zoo_core import api
from zoo_core.cli.options import OUTPUT, options

UNUSABLE = 2
"""Exit code where a part of the installation cannot be used."""


@click.command()
@options(*OUTPUT)
def doctor(*, as_json: bool, verbose: bool) -> int:
    """Check plugins, registry, libraries and devices; exits with 2 when something cannot be used."""
    checks = api.doctor()
    if as_json:
        rows = [
            {"what": check.name, "ok": check.ok, "found": check.message, "details": check.details} for check in checks
        ]
        click.echo(json.dumps({"checks": rows}))
    else:
        for check in checks:
            click.echo(f"{'ok   ' if check.ok else 'FAIL '} {check.name}: {check.message}")
            if verbose and check.details:
                click.echo(check.details)
    return 0 if all(check.ok for check in checks) else UNUSABLE
