"""Results as tables on stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoo_core.datatypes import measure

if TYPE_CHECKING:
    from zoo_core.datatypes import Task

NUM_WORST_CLASSES = 3


def make_console() -> Console:
    """A console on stdout; a pipe gets a fixed width."""
    # A pipe has no width of its own; 100 columns keep each row on one line.
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=100)


def print_result(
    record: Mapping[str, Any],
    metrics: Mapping[str, Any],
    run_dir: Path,
    console: Console | None = None,
    *,
    task: Task | None = None,
) -> None:
    """Print a run: stages with their drop, every protocol, the classes hit worst, and where the rest lies.

    ``task`` names the values; without one they are shown by their keys.
    """
    console = console or make_console()
    console.print(stage_table(record, metrics, task))
    console.print(protocol_table(metrics))
    for line in batch_size_lines(record):
        console.print(Text(line))
    for line in worst_classes(metrics):
        console.print(Text(line))
    for text in metrics["warnings"]:
        console.print(Text(f"warning: {text}", style="yellow"))
    console.print(Text(f"run directory: {run_dir}"), soft_wrap=True)
    if (run_dir / "report.html").exists():
        console.print(Text(f"report: {run_dir / 'report.html'}"), soft_wrap=True)


def batch_size_lines(record: Mapping[str, Any]) -> list[str]:
    """What every other batch size that was asked for moved, a line a stage and size."""
    lines = []
    for name, stage in record["stages"].items():
        for size, found in stage.get("batch_sizes", {}).items():
            if "error" in found:
                lines.append(f"{name} at batch size {size}: {found['error']}")
                continue
            difference = found["difference_points"]
            lines.append(
                f"{name} at batch size {size} instead of {stage['batch_size']}: "
                f"{'undefined' if difference is None else f'{difference:+.3f} points'}, "
                f"{found['num_predictions_changed']} of {found['num_predictions']} predictions changed in "
                f"{found['num_images_changed']} of {found['num_images']} images"
            )
    return lines


def stage_table(record: Mapping[str, Any], metrics: Mapping[str, Any], task: Task | None = None) -> Table:
    """One row per stage: headline value, drop against fp32, speed and size."""
    dataset, headline = record["dataset"], metrics["headline"]
    title = f"{metrics['model']} on {dataset['name']} {dataset['split']}, {metrics['num_images']} images"
    values = next(iter(metrics["stages"].values()))["metrics"][headline]
    measured = measure(task, next(iter(values))).overall
    table = Table(title=Text(title), caption=Text(f"{measured}: {headline}, in percent; drop against fp32, in points"))
    for name, justify in (("stage", "left"), (measured, "right"), ("drop", "right"), ("images/s", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("weights MB", justify="right")
    for name, stage in metrics["stages"].items():
        cost = record["stages"].get(stage["same_as"] or name, {})
        values = stage["metrics"][headline]
        alias = f" (= {stage['same_as']})" if stage["same_as"] else ""
        table.add_row(
            Text(name + alias),
            percent(next(iter(values.values()))),
            "" if name == "fp32" or stage["drop_points"] is None else points(stage["drop_points"]),
            f"{cost['images_per_second']:.1f}" if cost.get("images_per_second") else "",
            f"{cost['weights_bytes'] / 1e6:.2f}" if cost else "",
        )
    return table


def protocol_table(metrics: Mapping[str, Any]) -> Table:
    """One row per stage, one column per protocol: its first value, from the same predictions."""
    table = Table(title="the same predictions under every protocol, in percent")
    table.add_column("stage")
    stages = {name: stage for name, stage in metrics["stages"].items() if not stage["same_as"]}
    for protocol in next(iter(stages.values()))["metrics"]:
        table.add_column(Text(protocol.replace("/", "/\n")), justify="right")
    for name, stage in stages.items():
        table.add_row(Text(name), *(percent(next(iter(values.values()))) for values in stage["metrics"].values()))
    return table


def worst_classes(metrics: Mapping[str, Any]) -> Sequence[str]:
    """A line for each quantized stage naming the classes that lost most against fp32."""
    stages, headline = metrics["stages"], metrics["headline"]
    if "fp32" not in stages:
        return []
    baseline = stages["fp32"]["metrics"][headline]["per_class"]
    lines = []
    for name, stage in stages.items():
        if not stage["quantized"] or stage["same_as"]:
            continue
        per_class = stage["metrics"][headline]["per_class"]
        drops = sorted(
            (100 * (baseline[label] - value), label)
            for label, value in per_class.items()
            if value is not None and baseline.get(label) is not None and value < baseline[label]
        )
        worst = ", ".join(f"{label} {points(drop)}" for drop, label in reversed(drops[-NUM_WORST_CLASSES:]))
        if worst:
            lines.append(f"{name}: classes with the largest drop, in points: {worst}")
    return lines


def percent(value: float | None) -> str:
    """A value in ``[0, 1]`` as percent, or a dash where it is undefined."""
    return "-" if value is None else f"{100 * value:.2f}"


def points(value: float) -> str:
    """A difference in points with its sign; what rounds to nothing has none to lose."""
    return f"{round(value, 2) + 0.0:+.2f}"


def print_steps(record: Mapping[str, Any], folder: Path) -> None:
    """Print what each step of a recipe did."""
    console = make_console()
    table = Table(title=Text(f"{record['model']}: {record['recipe']['name']}"))
    for name in ("step", "seconds", "effect"):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for step in record["steps"]:
        table.add_row(Text(step["step"]), f"{step['seconds']:.1f}", Text(step["summary"]))
    console.print(table)
    console.print(Text(f"quantized network: {folder}"), soft_wrap=True)
