from __future__ import annotations

import io

from rich.console import Console

from example_records import example_metrics, example_record, example_scores, example_stage
from zoo_core.cli.tables import stage_table, worst_classes

METRICS = example_metrics(
    fp32=example_scores(0.5, {"cat": 0.6, "dog": 0.4, "cow": None}, drop_points=0.0),
    w8a8=example_scores(0.45, {"cat": 0.5, "dog": 0.4, "cow": None}, drop_points=5.0, quantized=True),
    fold_w8a8=example_scores(
        0.45, {"cat": 0.5, "dog": 0.4, "cow": None}, drop_points=5.0, quantized=True, same_as="w8a8"
    ),
)
RECORD = example_record(
    fp32=example_stage(images_per_second=2.0, weights_bytes=4_000_000),
    w8a8=example_stage(quantized=True, weights_bytes=1_000_000),
)


def test_the_stage_table_shows_value_drop_cost_and_the_other_name() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(stage_table(RECORD, METRICS))
    assert isinstance(console.file, io.StringIO)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines()]

    assert ["fp32", "50.00", "", "2.0", "4.00"] in rows
    assert ["w8a8", "45.00", "+5.00", "", "1.00"] in rows
    assert ["fold_w8a8 (= w8a8)", "45.00", "+5.00", "", "1.00"] in rows


def test_the_classes_that_lost_most_are_named_once_for_each_network() -> None:
    assert worst_classes(METRICS) == ["w8a8: classes with the largest drop, in points: cat +10.00"]
