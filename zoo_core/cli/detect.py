"""``zoo-eval detect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from zoo_core import api
from zoo_core.cli.options import (
    BATCH_SIZE,
    CHECKPOINT,
    DEVICE,
    FILE,
    OFFLINE,
    PROGRESS,
    RECIPE,
    REGISTRY,
    SCORE,
    SEED,
    SETTINGS,
    options,
)
from zoo_core.cli.progress import TerminalReporter


@click.command()
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=FILE)
@click.option("--stage", "stages", default="fp32,w8a8", show_default=True, help="Comma-separated stages, or all.")
@click.option("--out", type=FILE, default=Path("detections"), show_default=True, help="Folder for the pictures.")
@click.option(
    "--score",
    "score_threshold",
    type=SCORE,
    default=0.5,
    show_default=True,
    help="Draw detections with at least this score.",
)
@click.option("--data", type=FILE, help="Dataset root, to calibrate quantized stages.")
@click.option("--labels", type=FILE, help="Label file; with it, --stage fp32 needs no data.")
@click.option("--calibration-size", type=int, default=100, show_default=True, help="Images to calibrate on.")
@options(REGISTRY, CHECKPOINT, RECIPE, SETTINGS, BATCH_SIZE, DEVICE, SEED, OFFLINE, *PROGRESS)
def detect(*, model: str, images: tuple[Path, ...], as_json: bool, verbose: bool, quiet: bool, **given: Any) -> int:
    """Draw the predictions of MODEL's stages for image files, side by side.

    Writes one PNG per IMAGE and prints its path. Boxes that a quantized stage of a detector lost, gained or moved
    against the first stage are marked. Quantized stages are calibrated first, on images of the model's dataset.
    """
    with TerminalReporter(quiet=quiet, verbose=verbose) as reporter:
        detected = api.detect(model, images, reporter=reporter, **given)
    if as_json:
        rows = [
            {"image": str(one.image), "picture": str(one.picture), "captions": dict(one.captions)} for one in detected
        ]
        click.echo(json.dumps({"images": rows}))
    else:
        for one in detected:
            click.echo(str(one.picture))
    return 0
