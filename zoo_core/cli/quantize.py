"""``zoo-eval quantize``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from zoo_core import api
from zoo_core.cli.options import QUANTIZING, options
from zoo_core.cli.progress import TerminalReporter

if TYPE_CHECKING:
    from zoo_core.evaluation.result import EvaluationResult


@click.command()
@click.argument("model")
@options(*QUANTIZING)
def quantize(*, model: str, as_json: bool, verbose: bool, quiet: bool, **given: Any) -> int:
    """Run MODEL's recipe and save the optimized network with its encodings; evaluate nothing."""
    with TerminalReporter(quiet=quiet, verbose=verbose) as reporter:
        result = api.quantize(model, reporter=reporter, command=command_line(), **given)
    print_quantized(result, as_json=as_json)
    return 0


def print_quantized(result: EvaluationResult, *, as_json: bool) -> None:
    """Print where the quantized network is, and what each step did."""
    if as_json:
        click.echo(json.dumps(result.as_json()))
    else:
        from zoo_core.cli.tables import print_steps

        print_steps(result.record, result.run_dir / "quantized")


def command_line() -> tuple[str, ...]:
    """Return the command line, for the record."""
    return ("zoo-eval", *sys.argv[1:])
