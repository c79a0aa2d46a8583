"""Somebody's own classes, weights and data in VOC layout, wherever above the folder they point."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssd_mobilenetv2_lite.network import build_network
from zoo_core.cli.main import run_command_line

Arguments = Callable[..., list[str]]


@pytest.fixture
def own(voc: Path, tmp_path: Path) -> Path:
    """``parent/VOCdevkit/VOC2007`` with three classes and weights for them; the folder ``parent``."""
    devkit = tmp_path / "parent" / "VOCdevkit"
    devkit.mkdir(parents=True)
    voc = voc.rename(devkit / "VOC2007")
    (tmp_path / "own.txt").write_text("cat\nemu\ndog\n")
    torch.save(build_network(4).state_dict(), tmp_path / "own.pth")
    return tmp_path / "parent"


@pytest.mark.parametrize("data", ["parent/VOCdevkit/VOC2007", "parent/VOCdevkit", "parent"])
def test_the_class_count_follows_the_label_file_and_data_is_found_from_above(
    data: str, own: Path, arguments: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = arguments(
        data=tmp_path / data, labels=tmp_path / "own.txt", checkpoint=tmp_path / "own.pth", stages="fp32", limit=3
    )

    assert run_command_line([*options, "--json", "--no-report"]) == 0

    scores = json.loads(capfd.readouterr().out)["stages"]["fp32"]["metrics"]["voc07_11pt/pytorch-ssd"]
    assert list(scores["per_class"]) == ["cat", "emu", "dog"]
    assert scores["per_class"]["emu"] is None  # no emu in the data: no value, not a zero
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["dataset"]["class_names"] == ["cat", "emu", "dog"]
    assert record["dataset"]["root"] == str(own / "VOCdevkit" / "VOC2007")
    assert sorted(path.name for path in (tmp_path / "run" / "comp4" / "fp32").iterdir()) == [
        f"comp4_det_test_{name}.txt" for name in ("cat", "dog", "emu")
    ]
