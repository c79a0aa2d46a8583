"""``zoo-eval export``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from zoo_core import api
from zoo_core.cli.options import EXPORT_FORMAT, FILE, PROGRESS, RECIPE, SETTINGS, options
from zoo_core.cli.progress import TerminalReporter
from zoo_core.display import percent

if TYPE_CHECKING:
    from zoo_core.results.export import Exported

WORST_LAYERS = 5


class BatchSize(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click only
    """A number of images, or ``dynamic``, which is None."""

    name = "N|dynamic"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number; None for ``dynamic``."""
        if value == "dynamic":
            return None
        number = click.IntRange(min=1).convert(value, param, ctx)
        return int(number)


@click.command()
@click.argument("source", metavar="RUN|MODEL")
@click.option("--batch", "batch_size", type=BatchSize(), default=1, show_default=True, help="Images per pass.")
@click.option("--int32-bias", is_flag=True, help="onnx-qdq: store biases as int32, as integer devices add them.")
@click.option(
    "--integer-clips",
    is_flag=True,
    help="onnx-qdq: let clips per channel read integers, for ONNX Runtime; Qualcomm's HTP refuses them.",
)
@click.option("--out", type=FILE, help="Folder for the files [default: <run>-<format>].")
@click.option("--data", type=FILE, help="Dataset root [default: the run's].")
@options(EXPORT_FORMAT, RECIPE, SETTINGS, *PROGRESS)
def export(*, source: str, as_json: bool, verbose: bool, quiet: bool, **given: Any) -> int:
    """Write the optimized quantized network of RUN for a device; MODEL is quantized first.

    onnx-qdq is compared with the simulation: ONNX Runtime computes each layer as the graph says, from the simulation's
    own integers, and the table shows how many results are other integers.
    """
    with TerminalReporter(quiet=quiet, verbose=verbose) as reporter:
        result = api.export(source, reporter=reporter, **given)
    if as_json:
        click.echo(json.dumps(_content(result)))
    else:
        _print(result)
    return 0


def _content(result: Exported) -> dict[str, Any]:
    return {
        "run": str(result.run),
        "model": str(result.model),
        "encodings": None if result.encodings is None else str(result.encodings),
        "model_bytes": result.model_bytes,
        "graph": None if result.summary is None else asdict(result.summary),
        "compared_on": result.compared_on,
        "layers": [{"name": one.name, "differing": one.differing, "max_lsb": one.max_lsb} for one in result.layers],
    }


def _print(result: Exported) -> None:
    from zoo_core.cli.tables import print_table

    files = [str(path) for path in (result.model, result.encodings) if path is not None]
    notes = [f"{', '.join(files)} ({result.model_bytes / 1e6:.2f} MB)"]
    if result.summary is None:
        click.echo(notes[0])
        return
    summary = result.summary
    notes.append(
        f"{summary.num_clips_removed} clips removed because the grid implies them; {summary.num_clips} stay, which "
        "devices compute as operations of their own"
    )
    equal = sum(layer.num_differing == 0 for layer in result.layers)
    notes.append(
        f"{equal} of {len(result.layers)} layers give the simulation's integers on {result.compared_on}; "
        f"the largest difference is {max((layer.max_lsb for layer in result.layers), default=0)} LSB"
    )
    worst = sorted(result.layers, key=lambda layer: -layer.differing)[:WORST_LAYERS]
    rows = [[layer.name, percent(layer.differing, digits=4), str(layer.max_lsb)] for layer in worst]
    print_table("Layers with the most differences", ("layer", "integers that differ, %", "largest, LSB"), rows, notes)
