"""Results as tables on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from zoo_core.cli.terminal import make_console
from zoo_core.comparison.deployed import CAPTION, runtime_notes, runtime_table, shown_rate
from zoo_core.comparison.stages import BASELINE
from zoo_core.comparison.verdict import change_cell, verdict
from zoo_core.display import DASH, MINUS, percent, points

if TYPE_CHECKING:
    from rich.console import Console

    from zoo_core.evaluation.result import EvaluationResult
    from zoo_core.runs.record import MetricsRecord, RunRecord

NUM_WORST_CLASSES = 3


def table_console(width: int = 100) -> Console:
    """A console on stdout; ``width`` is in columns and counts for a pipe, which has none of its own."""
    console = make_console()
    return console if console.is_terminal else make_console(width=width)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Print a table, its first column to the left and the others to the right, and lines below it."""
    console = table_console(width=120)
    if rows:
        table = Table(title=Text(title))
        for index, name in enumerate(columns):
            table.add_column(Text(name), justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for text in notes:
        console.print(Text(text), soft_wrap=True)


def print_result(result: EvaluationResult, metrics: MetricsRecord, console: Console | None = None) -> None:
    """Print a run: the verdict, the stages, every protocol, the classes hit worst, and where the rest lies."""
    console = console or table_console()
    for line in verdict(metrics):
        console.print(Text(line.replace(MINUS, "-"), style="bold"))
    record, run_dir = result.record, result.run_dir
    console.print(stage_table(record, metrics, result.headline_name))
    console.print(protocol_table(metrics))
    print_runtimes(record, metrics, console)
    for line in batch_size_lines(record):
        console.print(Text(line))
    for line in worst_classes(metrics):
        console.print(Text(line))
    for text in metrics.warnings:
        console.print(Text(f"warning: {text}", style="yellow"))
    console.print(Text(f"run directory: {run_dir}"), soft_wrap=True)
    if (run_dir / "report.html").exists():
        console.print(Text(f"report: {run_dir / 'report.html'}"), soft_wrap=True)


def print_runtimes(record: RunRecord, metrics: MetricsRecord, console: Console) -> None:
    """Print what each runtime made of the exported network; nothing for a run without runtimes."""
    runtimes, rows = runtime_table(record.stages, metrics.stages)
    if not rows:
        return
    table = Table(title="the exported network on runtimes", caption=CAPTION)
    for index, name in enumerate(("", *runtimes)):
        table.add_column(Text(name), justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(Text(cell.replace(MINUS, "-").replace(DASH, "-")) for cell in row))
    console.print(table)
    for text in runtime_notes(record.stages):
        console.print(Text(text))


def batch_size_lines(record: RunRecord) -> list[str]:
    """Describe the effect of every further batch size, one line per stage and size."""
    lines = []
    for name, stage in record.stages.items():
        for size, effect in stage.batch_sizes.items():
            if effect.error is not None:
                lines.append(f"{name} at batch size {size}: {effect.error}")
                continue
            change = effect.change_points
            lines.append(
                f"{name} at batch size {size} instead of {stage.batch_size}: "
                f"{'undefined' if change is None else f'{change:+.3f} points'}, "
                f"{effect.num_predictions_changed} of {effect.num_predictions} predictions changed in "
                f"{effect.num_images_changed} of {effect.num_images} images"
            )
    return lines


def stage_table(record: RunRecord, metrics: MetricsRecord, measured: str) -> Table:
    """One row per stage: headline value, called ``measured``, its change against fp32 with interval, speed and size."""
    dataset, protocol = record.dataset, metrics.headline
    title = f"{metrics.model} on {dataset.name} {dataset.split}, {metrics.num_images} images"
    caption = f"{measured}: {protocol}, in percent; change against fp32 (95 % interval), in points: negative is worse"
    table = Table(title=Text(title), caption=Text(caption))
    table.add_column("stage")
    for name in (measured, "change, 95 % interval", "images/s", "weights MB"):
        table.add_column(name, justify="right")
    for name, stage in metrics.stages.items():
        cost = record.stages.get(stage.same_as or name)
        rate = shown_rate(cost)
        table.add_row(
            Text(f"{name} (= {stage.same_as})" if stage.same_as else name),
            percent(stage.scores[protocol].headline),
            "" if name == BASELINE else change_cell(stage).replace(MINUS, "-").replace(DASH, "-"),
            "" if rate is None else f"{rate:.1f}",
            "" if cost is None else f"{cost.weights_bytes / 1e6:.2f}",
        )
    return table


def protocol_table(metrics: MetricsRecord) -> Table:
    """One row per stage, one column per protocol: its first value, from the same predictions."""
    table = Table(title="the same predictions under every protocol, in percent")
    table.add_column("stage")
    stages = {name: stage for name, stage in metrics.stages.items() if not stage.same_as}
    for protocol in next(iter(stages.values())).scores:
        table.add_column(Text(protocol.replace("/", "/\n")), justify="right")
    for name, stage in stages.items():
        table.add_row(Text(name), *(percent(score.headline) for score in stage.scores.values()))
    return table


def worst_classes(metrics: MetricsRecord) -> Sequence[str]:
    """A line for each quantized stage naming the classes that lost most against fp32."""
    stages, headline = metrics.stages, metrics.headline
    if "fp32" not in stages:
        return []
    baseline = stages["fp32"].scores[headline].per_class
    lines = []
    for name, stage in stages.items():
        if not stage.quantized or stage.same_as:
            continue
        per_class = stage.scores[headline].per_class
        drops = sorted(
            (100 * (before - value), label)
            for label, value in per_class.items()
            if value is not None and (before := baseline.get(label)) is not None and value < before
        )
        worst = ", ".join(f"{label} {points(drop)}" for drop, label in reversed(drops[-NUM_WORST_CLASSES:]))
        if worst:
            lines.append(f"{name}: classes with the largest drop, in points: {worst}")
    return lines


def print_steps(record: RunRecord, folder: Path) -> None:
    """Print what each step of a recipe did."""
    console = table_console()
    table = Table(title=Text(f"{record.model}: {record.recipe.name}"))
    for name in ("step", "seconds", "effect"):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for step in record.steps:
        table.add_row(Text(step.step), f"{step.seconds:.1f}", Text(step.summary))
    console.print(table)
    for text in record.warnings:
        console.print(Text(f"warning: {text}", style="yellow"))
    console.print(Text(f"quantized network: {folder}"), soft_wrap=True)
