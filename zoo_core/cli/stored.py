"""``zoo-eval rescore``, ``compare`` and ``runs``: what finished runs and stored detections say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
_VERBOSE = click.option("--verbose", is_flag=True, help="Show tracebacks.")


@click.command()
@click.argument("source", metavar="SOURCE", type=_FILE)
@click.option("--model", help="Model whose dataset and metric to use [default: the run's].")
@click.option("--data", type=_FILE, help="Dataset root with the annotations [default: the run's].")
@click.option("--labels", type=_FILE, help="Label file, one class name a line.")
@click.option("--split", help="Split a submission was made on [default: as its file names say].")
@click.option("--ids", "ids_file", type=_FILE, help="A submission covers the image ids in this file alone.")
@click.option("--stages", metavar="NAMES", help="Comma-separated stages of a run [default: all].")
@click.option("--protocol", "protocols", multiple=True, help="Protocol id; may be repeated [default: all].")
@click.option(
    "--first-category", type=int, default=1, show_default=True, help="category_id of the first class in a COCO file."
)
@click.option("--offline", is_flag=True, help="Download nothing.")
@_JSON
@_VERBOSE
def rescore(*, stages: str | None, as_json: bool, verbose: bool, **options: Any) -> int:  # noqa: ARG001 - main() reads --verbose
    """Score stored detections again, without a model and without images.

    SOURCE is a run directory, a folder of comp4_det_<split>_<class>.txt files, or a COCO results JSON.
    """
    from zoo_core.cli.result_tables import metrics_json, print_rescored
    from zoo_core.plugins import PluginHost
    from zoo_core.results.rescore import RescoreRequest, rescore

    found = rescore(RescoreRequest(stages=names(stages), **options), PluginHost())
    if not as_json:
        print_rescored(found)
        return 0
    scores = {name: metrics_json(dict(values)) for name, values in found.stages.items()}
    stage, metrics = next(iter(scores.items()))
    first = next(iter(found.stages[stage].values()))
    content: dict[str, Any] = {
        "source": found.source,
        "dataset": found.dataset,
        "num_images": first.num_images,
        "num_classes": {
            "scored": sum(value is not None for value in first.per_class.values()),
            "all": len(first.per_class),
        },
        "metrics": metrics,
        "notes": [*found.notes, *first.notes],
    }
    if found.source == "run":
        content |= {"stage": stage, "stages": {name: {"metrics": values} for name, values in scores.items()}}
    click.echo(json.dumps(content))
    return 0


def names(text: str | None) -> tuple[str, ...]:
    """The names in a comma-separated list, each once."""
    return tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


@click.command()
@click.argument("run_dir", metavar="RUN_A", type=_FILE)
@click.argument("other", metavar="[RUN_B]", required=False, type=_FILE)
@click.option(
    "--stages",
    metavar="NAMES",
    help="Comma-separated; of one run, the baseline first [default: fp32 and its quantized one; of two runs, all].",
)
@click.option("--protocol", help="Protocol id [default: the runs' first].")
@click.option("--data", type=_FILE, help="Dataset root with the annotations [default: the run's].")
@click.option("--labels", type=_FILE, help="Label file [default: the run's].")
@click.option(
    "--resamples",
    "num_resamples",
    type=int,
    help="Draws of the images [default: 2000, or 200 where every draw runs the metric again].",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws them.")
@click.option(
    "--score",
    "score_threshold",
    type=click.FloatRange(0.0, 1.0),
    default=0.5,
    show_default=True,
    help="Count lost and gained predictions from this score on.",
)
@_JSON
@_VERBOSE
def compare(*, run_dir: Path, stages: str | None, as_json: bool, verbose: bool, **options: Any) -> int:  # noqa: ARG001 - main() reads --verbose
    """Compare two runs, or stages of one run, paired by image.

    The difference is RUN_B minus RUN_A, or a stage minus the first stage, with a 95 % interval from resampled
    images. Runs on different images, splits or protocols are refused.
    """
    from dataclasses import asdict

    from zoo_core.cli.result_tables import print_compared
    from zoo_core.plugins import PluginHost
    from zoo_core.results.compare import CompareRequest, compare

    found = compare(CompareRequest(run=run_dir, stages=names(stages), **options), PluginHost())
    if not as_json:
        print_compared(found)
        return 0
    content = asdict(found)
    for pair, compared in zip(content["pairs"], found.pairs, strict=True):
        pair["mean"]["difference"] = compared.mean.difference
        for name, difference in compared.classes.items():
            pair["classes"][name]["difference"] = difference.difference
    click.echo(json.dumps(content))
    return 0


@click.command()
@click.argument("folder", metavar="[DIR]", default=Path("runs"), type=_FILE)
@click.option("--model", help="List runs of this model alone.")
@_JSON
@_VERBOSE
def runs(*, folder: Path, model: str | None, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - main() reads --verbose
    """List what has been run, newest first, with the headline value of every stage.

    DIR is searched three levels deep [default: runs].
    """
    from dataclasses import asdict

    from zoo_core.runs.listing import list_runs

    found = list_runs(folder, model)
    if as_json:
        click.echo(json.dumps({"runs": [{**asdict(run), "path": str(run.path)} for run in found]}))
        return 0
    for run in found:
        images = "" if run.num_images is None else f", {run.num_images} images{' (limited)' if run.limited else ''}"
        click.echo(f"{run.started or '?':<25}  {run.model}  {run.status}  {run.dataset}{images}  {run.recipe}")
        values = (f"{name} {'-' if value is None else f'{100 * value:.2f}'}" for name, value in run.values.items())
        line = ", ".join(values)
        click.echo(f"    {run.headline}: {line}" if line else "    no scores")
        click.echo(f"    {run.path}")
    if not found:
        click.echo(f"no runs in {folder}" + (f" of {model}" if model else ""))
    return 0
