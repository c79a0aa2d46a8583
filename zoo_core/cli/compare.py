"""``zoo-eval compare``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core import api
from zoo_core.cli.options import FILE, OUTPUT, SCORE, options
from zoo_core.display import percent, points

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo_core.results.compare import Compared, PairedChange


@click.command()
@click.argument("run_dir", metavar="RUN_A", type=FILE)
@click.argument("other", metavar="[RUN_B]", required=False, type=FILE)
@click.option(
    "--stages",
    default="",
    metavar="NAMES",
    help="Comma-separated; of one run, the baseline first [default: fp32 and its quantized one; of two runs, all].",
)
@click.option("--protocol", help="Protocol id [default: the runs' first].")
@click.option("--data", type=FILE, help="Dataset root with the annotations [default: the run's].")
@click.option("--labels", type=FILE, help="Label file [default: the run's].")
@click.option(
    "--resamples",
    "num_resamples",
    type=int,
    help="Resamples of the images [default: 2000, or 200 where the metric runs on each].",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the resamples.")
@click.option(
    "--score",
    "score_threshold",
    type=SCORE,
    default=0.5,
    show_default=True,
    help="Count lost and gained boxes with at least this score.",
)
@options(*OUTPUT)
def compare(*, run_dir: Path, as_json: bool, verbose: bool, **given: Any) -> int:  # noqa: ARG001 - main() reads --verbose
    """Compare two runs, or stages of one run, paired by image.

    The change of mAP is RUN_B minus RUN_A, or a stage minus the first stage, so negative is worse; its 95 % interval
    comes from resampled images. Runs on different images, splits or protocols are refused.
    """
    result = api.compare(run_dir, **given)
    if as_json:
        click.echo(json.dumps(_content(result)))
    else:
        _print(result)
    return 0


def _content(result: Compared) -> dict[str, Any]:
    content = asdict(result)
    for pair, compared in zip(content["pairs"], result.pairs, strict=True):
        pair["overall"]["change"] = compared.overall.change
        for name, value in compared.classes.items():
            pair["classes"][name]["change"] = value.change
    return content


def _print(result: Compared) -> None:
    """Print, for each pair of stages, every class and the mean."""
    from zoo_core.cli.tables import print_table

    for pair in result.pairs:
        rows = [_row(name, pair.classes[name], pair.counts[name]) for name in pair.classes]
        total = {kind: sum(counts[kind] for counts in pair.counts.values()) for kind in result.change_kinds}
        rows.append(_row(result.measured, pair.overall, total))
        names = (pair.before, pair.after) if pair.before != pair.after else ("RUN_A", "RUN_B")
        title = f"{pair.after} against {pair.before}" if pair.before != pair.after else f"{pair.after}: RUN_B - RUN_A"
        columns = ("class", *names, "change", "95 % interval", "p", *result.change_kinds)
        notes = [f"Most changed images: {', '.join(pair.most_changed) or 'none'}."]
        print_table(f"{title}, {result.dataset}, {result.num_images} images, {result.protocol}", columns, rows, notes)
    notes = [
        f"Intervals and p-values from {result.num_resamples} resamples of the images, seed {result.seed}; p-values of "
        "classes are corrected for their number (Holm), their intervals are not.",
        result.change_definition,
        *([] if result.score_threshold is None else [f"The score threshold is {result.score_threshold:g}."]),
        *result.notes,
    ]
    print_table("", (), (), notes)


def _row(name: str, value: PairedChange, changes: Mapping[str, int]) -> list[str]:
    interval = value.interval
    return [
        name,
        percent(value.before),
        percent(value.after),
        points(None if value.change is None else 100 * value.change),
        "-" if interval is None else " to ".join(points(100 * end) for end in interval),
        "-" if value.p_value is None else f"{value.p_value:.3f}",
        *map(str, changes.values()),
    ]
