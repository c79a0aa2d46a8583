"""``zoo-eval deploy``."""

from __future__ import annotations

import json
from typing import Any

import click

from zoo_core import api
from zoo_core.cli.options import (
    ALLOW_FALLBACK,
    CALIBRATION_SIZE,
    FILE,
    OFFLINE,
    PROGRESS,
    RECIPE,
    REPORT,
    RUN_OUT,
    SETTINGS,
    options,
    runtimes,
)
from zoo_core.cli.progress import TerminalReporter
from zoo_core.cli.quantize import command_line


@click.command()
@click.argument("source", metavar="RUN|MODEL")
@options(runtimes("onnxruntime", "Runtimes to evaluate the network on; `zoo-eval doctor` lists them."), ALLOW_FALLBACK)
@click.option("--limit", type=int, help="Evaluate the first N images.")
@click.option("--data", type=FILE, help="Dataset root [default: the run's].")
@options(RECIPE, SETTINGS, CALIBRATION_SIZE, RUN_OUT, OFFLINE, REPORT, *PROGRESS)
def deploy(*, source: str, as_json: bool, verbose: bool, quiet: bool, **given: Any) -> int:
    """Evaluate the optimized quantized network of RUN on runtimes; MODEL is quantized first.

    Each runtime is a stage of a new run directory, compared with the simulation and with fp32 on the same images. Every
    layer is compared with the simulation, fed the simulation's own integers. --recipe, --set and --calibration-size are
    for a MODEL.
    """
    with TerminalReporter(quiet=quiet, verbose=verbose) as reporter:
        result = api.deploy(source, reporter=reporter, command=command_line(), **given)
    if as_json:
        click.echo(json.dumps({"runtimes": result.runtimes()}))
    elif result.metrics is not None:
        from zoo_core.cli.tables import print_result

        print_result(result, result.metrics)
    return 0
