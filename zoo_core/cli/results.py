"""``zoo-eval report`` and ``zoo-eval detect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("run_dir", metavar="RUN", type=_FILE)
@click.option("--against", metavar="RUN", type=_FILE, help="Another run directory to put side by side.")
@click.option("--out", type=_FILE, help="File to write [default: report.html in RUN].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
@click.option("--verbose", is_flag=True, help="Show tracebacks.")
def report(*, run_dir: Path, against: Path | None, out: Path | None, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - the command line reads it
    """Write the page of a run: tables, plots, and pictures of what quantization changed.

    RUN is a run directory. One HTML file holds everything and needs no network. What the directory lacks is named on
    the page, and the rest is shown.
    """
    from zoo_core.report.html import write_report

    path = write_report(run_dir, against=against, out=out)
    click.echo(json.dumps({"report": str(path)}) if as_json else str(path))
    return 0


@click.command()
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=_FILE)
@click.option("--stage", "stages", default="fp32,w8a8", show_default=True, help="Comma-separated stages, or all.")
@click.option("--out", type=_FILE, default=Path("detections"), show_default=True, help="Folder for the pictures.")
@click.option(
    "--score", type=click.FloatRange(0.0, 1.0), default=0.5, show_default=True, help="Draw from this score on."
)
@click.option("--data", type=_FILE, help="Dataset root, to calibrate quantized stages.")
@click.option("--checkpoint", type=_FILE, help="Original weights instead of the registry's.")
@click.option("--labels", type=_FILE, help="Label file; with --stage fp32 no data is needed then.")
@click.option("--recipe", help="Name of one of the plugin's recipes, or a recipe file.")
@click.option("--set", "settings", multiple=True, metavar="STEP.PARAM=VALUE", help="Override a recipe parameter.")
@click.option("--calibration-size", type=int, default=100, show_default=True, help="Images to calibrate on.")
@click.option("--batch-size", type=int, help="Images per forward pass while calibrating.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where to run.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the calibration set, seeds the steps.")
@click.option("--offline", is_flag=True, help="Download nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
@click.option("--verbose", is_flag=True, help="Show the log and tracebacks on stderr.")
@click.option("--quiet", is_flag=True, help="Show nothing but the result and errors.")
def detect(
    *, images: tuple[Path, ...], out: Path, score: float, as_json: bool, verbose: bool, quiet: bool, **options: Any
) -> int:
    """Draw the predictions of MODEL's stages for image files, side by side.

    Writes one PNG per IMAGE and prints its path. Boxes that a quantized stage of a detector lost, gained or moved
    against the first stage are marked. Quantized stages are calibrated first, on images of the model's dataset.
    """
    from zoo_core.cli.progress import TerminalReporter
    from zoo_core.datatypes import TaskContext
    from zoo_core.evaluation.detect import detect as detect_images
    from zoo_core.evaluation.request import EvaluationRequest
    from zoo_core.plugins import PluginHost
    from zoo_core.report.side_by_side import draw_stages, side_by_side

    names = _names(images)
    _make_folder(out)
    with TerminalReporter(quiet=quiet, verbose=verbose) as reporter:
        found = detect_images(EvaluationRequest(**options), images, PluginHost(), reporter)
    rows = []
    for name, seen in zip(names, found, strict=True):
        path = out / name
        drawings = draw_stages(
            seen.pixels, seen.stages, seen.task, TaskContext(class_names=seen.class_names, score_threshold=score)
        )
        _write(path, side_by_side(seen.pixels, drawings))
        captions = {stage: drawing.caption for stage, drawing in drawings.items()}
        rows.append({"image": str(seen.path), "picture": str(path), "captions": captions})
    if as_json:
        click.echo(json.dumps({"images": rows}))
    else:
        for row in rows:
            click.echo(row["picture"])
    return 0


def _names(images: tuple[Path, ...]) -> list[str]:
    """A file name per image; images of one name in several folders are numbered."""
    names: list[str] = []
    for image in images:
        name, number = f"{image.stem}.png", 1
        while name in names:
            number += 1
            name = f"{image.stem}-{number}.png"
        names.append(name)
    return names


def _make_folder(folder: Path) -> None:
    from zoo_core.errors import RunError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be a folder: {error}", fix="name another place with --out.") from error


def _write(path: Path, data: bytes) -> None:
    from zoo_core.errors import RunError

    try:
        path.write_bytes(data)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error}", fix="make room or name another place with --out."
        ) from error
