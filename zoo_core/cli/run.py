"""``zoo-eval run`` and ``zoo-eval quantize``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zoo_core.cli.signals import termination_interrupts
from zoo_core.evaluation.request import BACKENDS, DEFAULT_BATCH_SIZE, DEFAULT_CALIBRATION_SIZE, DEFAULT_WORKERS

if TYPE_CHECKING:
    from zoo_core.evaluation.run import EvaluationResult

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)

_BATCH_SIZE_HELP = (
    f"Images per forward pass [default: {DEFAULT_BATCH_SIZE['cpu']} on a CPU, {DEFAULT_BATCH_SIZE['cuda']} on a GPU]."
)

_SHARED_OPTIONS = (
    click.option("--data", type=_FILE, help="Dataset root: VOCdevkit/VOC2007, VOCdevkit, or its parent."),
    click.option("--checkpoint", type=_FILE, help="Original weights instead of the registry's."),
    click.option("--labels", type=_FILE, help="Label file, one class name a line; the class count follows it."),
    click.option("--recipe", help="Name of one of the plugin's recipes, or a recipe file."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="STEP.PARAM=VALUE",
        help="Override a recipe parameter, e.g. quantsim.param_bw=4; may be repeated.",
    ),
    click.option(
        "--calibration-size",
        type=int,
        default=DEFAULT_CALIBRATION_SIZE,
        show_default=True,
        help="Images to calibrate on.",
    ),
    click.option("--calibration-split", help="Split to draw calibration images from."),
    click.option(
        "--allow-calibration-overlap", is_flag=True, help="Calibrate on evaluated images; the result is stamped."
    ),
    click.option("--batch-size", type=int, help=_BATCH_SIZE_HELP),
    click.option("--workers", type=int, default=DEFAULT_WORKERS, show_default=True, help="Threads that decode images."),
    click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where to run."),
    click.option("--seed", type=int, default=0, show_default=True, help="Draws the calibration set, seeds the steps."),
    click.option("--out", type=_FILE, help="Run directory [default: runs/<model>/<UTC time>-<short id>]."),
    click.option(
        "--cache/--no-cache",
        default=True,
        show_default=True,
        help="Keep AdaRound's layers in the user's cache and reuse them.",
    ),
    click.option("--offline", is_flag=True, help="Download nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else."),
    click.option("--verbose", is_flag=True, help="Show the log and tracebacks on stderr."),
    click.option("--quiet", is_flag=True, help="Show nothing but the result and errors."),
)


def _numbers(_context: click.Context, _param: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of whole numbers, such as 1,8.") from error


def _shared(command: Command) -> Command:
    for option in reversed(_SHARED_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("model", required=False)
@click.option(
    "--resume",
    "resumed",
    metavar="RUN",
    type=_FILE,
    help="Go on with the run in this directory, with its own options; give no MODEL and no other option.",
)
@_shared
@click.option("--optimized-checkpoint", type=_FILE, help="Weights already optimized: skips equalization and AdaRound.")
@click.option(
    "--stages",
    metavar="NAMES|all",
    help="Comma-separated stages [default: fp32,w8a8,optimized_fp32,optimized_w8a8]; all adds two rows per step.",
)
@click.option("--split", help="Evaluated split [default: the model's].")
@click.option("--ids", "ids_file", type=_FILE, help="Evaluate the image ids in this file, one a line.")
@click.option("--limit", type=int, help="Evaluate the first N ids.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="torch",
    show_default=True,
    help="What computes float stages; onnxruntime is faster on a CPU and checked against torch.",
)
@click.option(
    "--batch-sizes",
    metavar="N,N",
    callback=_numbers,
    help="Run every stage again at these batch sizes and record what they move.",
)
@click.option("--report/--no-report", default=True, show_default=True, help="Write report.html into the run directory.")
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
    **options: Any,
) -> int:
    """Quantize MODEL by its recipe, evaluate every stage on its dataset, and record the result.

    MODEL is a name that `zoo-eval list` shows. Results go to stdout, progress to stderr. Exits with 0 whatever the
    metric is, 2 when something given is wrong, 3 when the run itself failed, 130 or 143 when a signal interrupted it.
    """
    from zoo_core import api
    from zoo_core.cli.progress import TerminalReporter

    if resumed is not None:
        _refuse_options(context)
    elif model is None:
        raise click.UsageError("Name a MODEL, or a run directory with --resume.", ctx=context)
    with termination_interrupts(), TerminalReporter(quiet=quiet, verbose=verbose) as reporter:
        if resumed is not None:
            result = api.resume(resumed, reporter=reporter, report=report)
        else:
            result = api.evaluate(str(model), reporter=reporter, report=report, command=_command(), **options)
    if not result.metrics:
        return _print_quantized(result, as_json=as_json)  # resumed `zoo-eval quantize`
    if as_json:
        click.echo(json.dumps({"run_dir": str(result.run_dir), "stages": result.metrics["stages"]}))
    else:
        from zoo_core.cli.tables import print_result
        from zoo_core.plugins import PluginHost

        task = PluginHost().find_task(result.record["task"])
        print_result(result.record, result.metrics, result.run_dir, task=task)
    return 0


@click.command()
@click.argument("model")
@_shared
def quantize(*, model: str, as_json: bool, verbose: bool, quiet: bool, **options: Any) -> int:
    """Run MODEL's recipe and save the optimized network with its encodings; evaluate nothing."""
    from zoo_core import api
    from zoo_core.cli.progress import TerminalReporter

    with termination_interrupts(), TerminalReporter(quiet=quiet, verbose=verbose) as reporter:
        result = api.quantize(model, reporter=reporter, command=_command(), **options)
    return _print_quantized(result, as_json=as_json)


def _print_quantized(result: EvaluationResult, *, as_json: bool) -> int:
    folder = result.run_dir / "quantized"
    if as_json:
        click.echo(
            json.dumps({"run_dir": str(result.run_dir), "quantized": str(folder), "steps": result.record["steps"]})
        )
    else:
        from zoo_core.cli.tables import print_steps

        print_steps(result.record, folder)
    return 0


_BESIDE_RESUME = {"resumed", "as_json", "verbose", "quiet", "report"}


def _refuse_options(context: click.Context) -> None:
    """A resumed run has its own options: whatever else is given would be ignored, or would not be that run."""
    given = [
        param.human_readable_name if isinstance(param, click.Argument) else param.opts[-1]
        for param in context.command.params
        if param.name not in _BESIDE_RESUME
        and context.get_parameter_source(str(param.name)) is not click.core.ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(
            f"--resume goes on with the run's own options; leave out {', '.join(given)}.", ctx=context
        )


def _command() -> tuple[str, ...]:
    return ("zoo-eval", *sys.argv[1:])
