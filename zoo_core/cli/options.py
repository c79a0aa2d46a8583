"""Options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import click

from zoo_core.api.arguments import names
from zoo_core.errors import DataError
from zoo_core.evaluation.request import DEFAULT_BATCH_SIZE, FLOAT_RUNTIMES
from zoo_core.files import path_problem
from zoo_core.quantization.export import FORMATS
from zoo_core.runs.request import AUTO, DEFAULT_CALIBRATION_SIZE, DEFAULT_WORKERS

if TYPE_CHECKING:
    from zoo_core.plugins import PluginHost

Command = TypeVar("Command", bound=Callable[..., Any])
Option: TypeAlias = Callable[[Any], Any]


def _flag(param: click.Parameter | None) -> str:
    if isinstance(param, click.Option):
        return param.opts[-1]
    return "The argument" if param is None else param.human_readable_name


class _File(click.Path):
    """Path that the machine and a record can hold; it need not exist."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        problem = path_problem(Path(os.fsdecode(path)))
        if problem is not None:
            raise DataError(f"{_flag(param)}: {problem}.", fix="give another path.")
        return path


class _Score(click.FloatRange):
    """Number in ``[0, 1]``; not-a-number is outside."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            raise DataError(f"{_flag(param)} is {value}.", fix="give a number from 0 to 1.")
        return number


def _name_or_file(_context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return text that may be a path."""
    problem = None if value is None else path_problem(Path(value))
    if problem is not None:
        raise DataError(f"{_flag(param)}: {problem}.", fix="give another name or path.")
    return value


FILE = _File(path_type=Path)
FOLDER = _File(path_type=Path, file_okay=False)
SCORE = _Score(0.0, 1.0)

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
VERBOSE = click.option("--verbose", is_flag=True, help="Show tracebacks.")
OUTPUT = (JSON, VERBOSE)

PROGRESS = (
    JSON,
    click.option("--verbose", is_flag=True, help="Show the log and tracebacks on stderr."),
    click.option("--quiet", is_flag=True, help="Show nothing but the result and errors."),
)
"""Output options of commands that take long enough to show progress."""

OFFLINE = click.option("--offline", is_flag=True, help="Download nothing.")
CHECKPOINT = click.option("--checkpoint", type=FILE, help="Original weights instead of the registry's.")
LABELS = click.option("--labels", type=FILE, help="Label file, one class name per line; it sets the number of classes.")
RECIPE = click.option("--recipe", callback=_name_or_file, help="Name of one of the plugin's recipes, or a recipe file.")
SETTINGS = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="STEP.PARAM=VALUE",
    help="Override a recipe parameter, e.g. quantsim.param_bw=4; may be repeated.",
)
BATCH_SIZE = click.option(
    "--batch-size",
    type=int,
    help=f"Images per forward pass [default: {DEFAULT_BATCH_SIZE['cpu']} on a CPU, {DEFAULT_BATCH_SIZE['cuda']} on a "
    "GPU].",
)


_BACKEND = "zoo_core.backend"
"""Key of a context's ``meta`` with the value of the former ``--backend``."""


def _former(context: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Keep a value of the former ``--backend`` for ``--runtime``, whose default is taken later."""
    if value is not None:
        click.echo("warning: --backend is deprecated; use --runtime.", err=True)
        context.meta[_BACKEND] = value
        if "runtime" in context.params:
            raise click.UsageError(_TWO_NAMES, ctx=context)


def _runtime(context: click.Context, _param: click.Parameter, value: str) -> str:
    given = context.get_parameter_source("runtime") is not click.core.ParameterSource.DEFAULT
    if given and _BACKEND in context.meta:
        raise click.UsageError(_TWO_NAMES, ctx=context)
    return str(context.meta.get(_BACKEND, value))


_TWO_NAMES = "--backend is the former name of --runtime; give only --runtime."


def _names(_context: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    return names(value or "")


RUNTIME = (
    click.option(
        "--runtime",
        type=click.Choice(FLOAT_RUNTIMES),
        default=AUTO,
        show_default=True,
        callback=_runtime,
        help="Runtime of float stages; auto is onnxruntime where it agrees with torch on the first images.",
    ),
    click.option("--backend", type=click.Choice(FLOAT_RUNTIMES), hidden=True, expose_value=False, callback=_former),
)
ALLOW_FALLBACK = click.option(
    "--allow-fallback",
    is_flag=True,
    help="Let a runtime compute nodes elsewhere than on its own device; the record lists them.",
)


def runtimes(default: str | None, text: str) -> Option:
    """Return the option that names runtimes for the exported network."""
    return click.option(
        "--runtimes", metavar="NAME,NAME", default=default, show_default=True, callback=_names, help=text
    )


DEVICE = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Device to run on."
)
SEED = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the choice of calibration images and of every step."
)
CALIBRATION_SIZE = click.option(
    "--calibration-size",
    type=int,
    default=DEFAULT_CALIBRATION_SIZE,
    show_default=True,
    help="Images to calibrate on.",
)
EXPORT_FORMAT = click.option(
    "--format", "kind", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True, help="Files to write."
)
REPORT = click.option(
    "--report/--no-report", default=True, show_default=True, help="Write report.html into the run directory."
)
RUN_OUT = click.option("--out", type=FILE, help="Run directory [default: runs/<model>/<UTC time>-<short id>].")


def _host_with(_context: click.Context, _param: click.Parameter, registries: tuple[Path, ...]) -> PluginHost | None:
    from zoo_core.plugins import PluginHost

    return PluginHost(registries=registries) if registries else None


REGISTRY = click.option(
    "--registry",
    "host",
    multiple=True,
    type=FILE,
    callback=_host_with,
    help="Add the models of a registry file for this call; may be repeated.",
)
"""Turns into the parameter ``host`` of the command's function."""


QUANTIZING = (
    REGISTRY,
    click.option("--data", type=FILE, help="Dataset root in the layout of the model's data, e.g. VOCdevkit."),
    CHECKPOINT,
    LABELS,
    RECIPE,
    SETTINGS,
    CALIBRATION_SIZE,
    click.option("--calibration-split", help="Split to draw calibration images from [default: the model's]."),
    click.option(
        "--allow-calibration-overlap",
        is_flag=True,
        help="Calibrate on images that are evaluated too, or look like it; the result is marked.",
    ),
    click.option(
        "--require-full-quantization",
        is_flag=True,
        help="Stop at a quantized stage in which an operation or parameter is not quantized.",
    ),
    BATCH_SIZE,
    click.option("--workers", type=int, default=DEFAULT_WORKERS, show_default=True, help="Threads that decode images."),
    DEVICE,
    SEED,
    RUN_OUT,
    click.option(
        "--cache/--no-cache",
        default=True,
        show_default=True,
        help="Keep AdaRound's layers in the user's cache and reuse them.",
    ),
    OFFLINE,
    *PROGRESS,
)
"""Options of the commands that quantize a model into a run directory."""


def options(*shared: Option) -> Callable[[Command], Command]:
    """Add options to a command, listed by its help in this order."""

    def add(command: Command) -> Command:
        for option in reversed(shared):
            command = option(command)
        return command

    return add
