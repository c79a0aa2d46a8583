from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from zoo_core.cli.tables import stage_table, worst_classes


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
RECORD: dict[str, Any] = {
    "dataset": {"name": "d", "split": "test"},
    "stages": {"fp32": {"images_per_second": 2.0, "weights_bytes": 4e6}, "w8a8": {"weights_bytes": 1e6}},
}


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
