"""``zoo-eval rescore``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core import api
from zoo_core.cli.options import FILE, OFFLINE, OUTPUT, options
from zoo_core.display import percent

if TYPE_CHECKING:
    from zoo_core.datatypes import Measure, ProtocolScore
    from zoo_core.results.rescore import Rescored


@click.command()
@click.argument("source", metavar="SOURCE", type=FILE)
@click.option("--model", help="Model whose dataset and metric to use [default: the run's].")
@click.option("--data", type=FILE, help="Dataset root with the annotations [default: the run's].")
@click.option("--labels", type=FILE, help="Label file, one class name per line.")
@click.option("--split", help="Split of a submission [default: from its file names].")
@click.option("--ids", "ids_file", type=FILE, help="Score a submission only on the image ids in this file.")
@click.option("--stages", default="", metavar="NAMES", help="Comma-separated stages of a run [default: all].")
@click.option("--protocol", "protocols", multiple=True, help="Protocol id; may be repeated [default: all].")
@click.option(
    "--first-category", type=int, default=1, show_default=True, help="category_id of the first class in a COCO file."
)
@options(OFFLINE, *OUTPUT)
def rescore(*, source: Path, as_json: bool, verbose: bool, **given: Any) -> int:  # noqa: ARG001 - main() reads --verbose
    """Score stored detections again, without a model and without images.

    SOURCE is a run directory, a folder of comp4_det_<split>_<class>.txt files, or a COCO results JSON.
    """
    result = api.rescore(source, **given)
    if as_json:
        click.echo(json.dumps(_content(result)))
    else:
        _print(result)
    return 0


def _content(result: Rescored) -> dict[str, Any]:
    scores = {name: _metrics(values) for name, values in result.stages.items()}
    stage, metrics = next(iter(scores.items()))
    first = next(iter(result.stages[stage].values()))
    content: dict[str, Any] = {
        "source": result.source,
        "dataset": result.dataset,
        "num_images": first.num_images,
        "num_classes": {
            "scored": sum(value is not None for value in first.per_class.values()),
            "all": len(first.per_class),
        },
        "metrics": metrics,
        "notes": [*result.notes, *first.notes],
    }
    if result.source == "run":
        content |= {"stage": stage, "stages": {name: {"metrics": values} for name, values in scores.items()}}
    return content


def _metrics(scores: Mapping[str, ProtocolScore]) -> dict[str, Any]:
    """Scores in the form of ``metrics.json``."""
    return {protocol: {**score.values, "per_class": dict(score.per_class)} for protocol, score in scores.items()}


def _print(result: Rescored) -> None:
    """Print stages by protocol; a submission class by class."""
    from zoo_core.cli.tables import print_table
    from zoo_core.datatypes import measure

    first = next(iter(result.stages.values()))
    columns = [name.replace("/", "/\n") for name in first]
    some = next(iter(first.values()))
    measured = measure(result.task, next(iter(some.values)))
    notes = [*result.notes, *some.notes, *_classes_note(some, measured)]
    title = f"{result.dataset}, {some.num_images} images"
    if list(result.stages) == [""]:
        rows = [[name, *(percent(score.per_class[name]) for score in first.values())] for name in some.per_class]
        rows.append(["mean", *(percent(score.headline) for score in first.values())])
        print_table(f"{title}; {measured.per_class} in percent", ["class", *columns], rows, notes)
        return
    rows = [[name, *(percent(score.headline) for score in scores.values())] for name, scores in result.stages.items()]
    print_table(f"{title}; {measured.overall} in percent", ["stage", *columns], rows, notes)


def _classes_note(score: ProtocolScore, measured: Measure) -> Sequence[str]:
    """The number of classes in a mean; nothing for a value that is not a mean over classes."""
    if not measured.class_mean:
        return ()
    num_scored = sum(value is not None for value in score.per_class.values())
    return (f"{measured.overall} is the mean over {num_scored} of {len(score.per_class)} classes.",)
