"""``zoo-eval run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from zoo_core import api
from zoo_core.cli.options import ALLOW_FALLBACK, FILE, QUANTIZING, REPORT, RUNTIME, options, runtimes
from zoo_core.cli.progress import TerminalReporter
from zoo_core.cli.quantize import command_line, print_quantized

_BESIDE_RESUME = {"resumed", "as_json", "verbose", "quiet", "report"}


def _numbers(_context: click.Context, _param: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers, such as 1,8.") from error


@click.command()
@click.argument("model", required=False)
@click.option(
    "--resume",
    "resumed",
    metavar="RUN",
    type=FILE,
    help="Continue the run in this directory, with its own options; give no MODEL and no other option.",
)
@options(*QUANTIZING)
@click.option("--optimized-checkpoint", type=FILE, help="Already optimized weights; skips equalization and AdaRound.")
@click.option(
    "--stages",
    metavar="NAMES|all",
    help="Comma-separated stages [default: fp32,w8a8,optimized_fp32,optimized_w8a8]; all adds two rows per step.",
)
@click.option("--split", help="Evaluated split [default: the model's].")
@click.option("--ids", "ids_file", type=FILE, help="Evaluate the image ids in this file, one per line.")
@click.option("--limit", type=int, help="Evaluate the first N images.")
@options(
    *RUNTIME, runtimes(None, "Also evaluate the exported network on these runtimes, e.g. onnxruntime."), ALLOW_FALLBACK
)
@click.option(
    "--batch-sizes",
    metavar="N,N",
    callback=_numbers,
    help="Run every stage again at these batch sizes and record how its predictions change.",
)
@options(REPORT)
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    model: str | None,
    resumed: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    report: bool,
    **given: Any,
) -> int:
    """Quantize MODEL by its recipe, evaluate every stage on its dataset, and record the result.

    MODEL is a name that `zoo-eval list` shows. Results go to stdout, progress to stderr. Exits with 0 whatever the
    metric is, 2 when an argument is wrong, 3 when the run itself failed, 130 or 143 when a signal interrupted it.
    """
    if resumed is not None:
        _refuse_options(context)
    elif model is None:
        raise click.UsageError("Name a MODEL, or a run directory with --resume.", ctx=context)
    with TerminalReporter(quiet=quiet, verbose=verbose) as reporter:
        if resumed is not None:
            result = api.resume(resumed, reporter=reporter, report=report)
        else:
            result = api.evaluate(str(model), reporter=reporter, report=report, command=command_line(), **given)
    if result.metrics is None:
        print_quantized(result, as_json=as_json)  # resumed `zoo-eval quantize`
    elif as_json:
        click.echo(json.dumps(result.as_json()))
    else:
        from zoo_core.cli.tables import print_result

        print_result(result, result.metrics)
    return 0


def _refuse_options(context: click.Context) -> None:
    """A resumed run has its own options: any other would be ignored, or would make it another run."""
    given = [
        param.human_readable_name if isinstance(param, click.Argument) else param.opts[-1]
        for param in context.command.params
        if param.name not in _BESIDE_RESUME
        and context.get_parameter_source(str(param.name)) is not click.core.ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(
            f"--resume continues a run with its own options; leave out {', '.join(given)}.", ctx=context
        )
