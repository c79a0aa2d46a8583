from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from report.synthetic import HEADLINE, write_run
from toy_detector import data
from toy_detector.data import GridDataset
from typed_records import metrics_record
from zoo_core.cli.tables import stage_table, worst_classes
from zoo_core.runs.parts import ScoreRecord
from zoo_core.runs.record import read_metrics, read_record


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
    console.print(stage_table(read_record(run), metrics, "mAP"))
    assert isinstance(console.file, io.StringIO)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines()]

    fp32, w8a8 = (f"{100 * (metrics.stages[name].scores[HEADLINE].headline or 0):.2f}" for name in ("fp32", "w8a8"))
    assert ["fp32", fp32, "", "4.0", "12.00"] in rows
    interval = f"{changed.points:+.2f} ({changed.low:+.2f} to {changed.high:+.2f})"
    assert ["w8a8", w8a8, interval, "4.0", "3.10"] in rows
    assert ["optimized_fp32 (= fp32)", fp32, "+0.00", "4.0", "12.00"] in rows


def test_the_classes_that_lost_most_are_named_once_for_each_network() -> None:
    metrics = metrics_record()
    fp32, w8a8 = metrics.stages["fp32"], metrics.stages["w8a8"]
    fp32 = replace(fp32, scores={HEADLINE: ScoreRecord(values={"map": 0.5}, per_class={"cat": 0.6, "dog": 0.4})})
    scores = {HEADLINE: ScoreRecord(values={"map": 0.45}, per_class={"cat": 0.5, "dog": 0.4, "cow": None})}
    w8a8 = replace(w8a8, scores=scores)
    twin = replace(w8a8, same_as="w8a8")

    lines = worst_classes(replace(metrics, stages={"fp32": fp32, "w8a8": w8a8, "fold_w8a8": twin}))

    assert lines == ["w8a8: classes with the largest drop, in points: cat +10.00"]
