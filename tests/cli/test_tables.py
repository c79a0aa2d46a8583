from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from report.synthetic import HEADLINE, write_run
from toy_detector import data
from toy_detector.data import GridDataset
from zoo_core.cli.tables import percent, points, stage_table, worst_classes
from zoo_core.runs.record import read_metrics, read_record


def stage(value: float, drop: float | None, per_class: dict[str, float | None], **more: Any) -> dict[str, Any]:
    metrics = {"coco": {"map": value, "per_class": per_class}}
    return {"metrics": metrics, "drop_points": drop, "same_as": None, "quantized": False, **more}


METRICS: dict[str, Any] = {
    "model": "m",
    "headline": "coco",
    "num_images": 7,
    "stages": {
        "fp32": stage(0.5, 0.0, {"cat": 0.6, "dog": 0.4, "cow": None}),
        "w8a8": stage(0.45, 5.0, {"cat": 0.5, "dog": 0.4, "cow": None}, quantized=True),
        "fold_w8a8": stage(0.45, 5.0, {"cat": 0.5, "dog": 0.4, "cow": None}, quantized=True, same_as="w8a8"),
    },
}


@pytest.mark.parametrize(("value", "text"), [(-0.001, "+0.00"), (0.001, "+0.00"), (0.146, "+0.15"), (-1.5, "-1.50")])
def test_a_difference_that_rounds_to_nothing_has_no_minus(value: float, text: str) -> None:
    assert points(value) == text


def test_what_is_undefined_is_a_dash_and_never_zero() -> None:
    assert percent(None) == "-"
    assert percent(0.0) == "0.00"


def test_the_stage_table_shows_value_change_cost_and_the_other_name(tmp_path: Path) -> None:
    grid = data.write(tmp_path / "grid", num_test=40)
    run = write_run(tmp_path / "run", GridDataset(grid, "test"), grid, "toy_squares")
    metrics = read_metrics(run)
    assert metrics is not None
    changed = metrics.stages["w8a8"].change
    assert changed is not None
    assert changed.low is not None
    assert changed.high is not None
    console = Console(file=io.StringIO(), width=100)
    console.print(stage_table(read_record(run), metrics))
    assert isinstance(console.file, io.StringIO)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines()]

    fp32, w8a8 = (f"{100 * (metrics.stages[name].scores[HEADLINE].headline or 0):.2f}" for name in ("fp32", "w8a8"))
    assert ["fp32", fp32, "", "4.0", "12.00"] in rows
    interval = f"{changed.points:+.2f} ({changed.low:+.2f} to {changed.high:+.2f})"
    assert ["w8a8", w8a8, interval, "4.0", "3.10"] in rows
    assert ["optimized_fp32 (= fp32)", fp32, "+0.00", "4.0", "12.00"] in rows


def test_the_classes_that_lost_most_are_named_once_for_each_network() -> None:
    assert worst_classes(METRICS) == ["w8a8: classes with the largest drop, in points: cat +10.00"]
