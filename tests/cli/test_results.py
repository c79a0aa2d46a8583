from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from report.synthetic import write_run
from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.data import GridDataset
from toy_detector.model import untrained
from zoo_core import artifacts
from zoo_core.cli.main import run_command_line
from zoo_core.datasets.images import read_image
from zoo_core.plugins import PluginHost


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line find the toy plugin as if it were installed."""

    class Host(PluginHost):
        def __init__(self) -> None:
            super().__init__(installed=False)
            self.register(toy_detector, "toy_detector")

    monkeypatch.setattr("zoo_core.plugins.PluginHost", Host)
    monkeypatch.setattr("zoo_core.report.html.PluginHost", Host)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return data.write(tmp_path / "grid")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "toy.safetensors"
    artifacts.save_state_dict(path, untrained(2).state_dict(), {})
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("red\ngreen\n")
    return path


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A red square of one cell at x 16, y 32 in an image of 64 x 64 pixels."""
    image = np.full((64, 64, 3), 4, np.uint8)
    image[32:48, 16:32] = (0, 0, 255)  # BGR
    path = tmp_path / "photo.one.png"
    cv2.imwrite(str(path), image)
    return path


def test_report_writes_the_page_and_prints_its_path(
    tmp_path: Path, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", GridDataset(grid, "test"), grid, "toy_squares")

    assert run_command_line(["report", str(run), "--against", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert 'id="against"' in (run / "report.html").read_text()


def test_report_speaks_json_and_writes_where_it_is_told(
    tmp_path: Path, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", GridDataset(grid, "test"), grid, "toy_squares", limit=3)
    out = tmp_path / "page.html"

    assert run_command_line(["report", str(run), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(out)}
    assert out.read_text().startswith("<!doctype html>")
    assert not (run / "report.html").exists()


def test_report_of_nothing_exits_with_2_and_a_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["report", str(tmp_path / "nowhere")]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "is not a directory" in captured.err
    assert "fix: name a run directory" in captured.err


def test_detect_in_float_needs_weights_and_labels_but_no_data(
    tmp_path: Path, weights: Path, labels: Path, photograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures"
    arguments = ["detect", "toy_squares", str(photograph), "--stage", "fp32", "--checkpoint", str(weights)]

    assert run_command_line([*arguments, "--labels", str(labels), "--out", str(out), "--score", "0.3", "--json"]) == 0

    (row,) = json.loads(capsys.readouterr().out)["images"]
    assert row == {
        "image": str(photograph),
        "picture": str(out / "photo.one.png"),
        "captions": {"fp32": "1 detection"},
    }
    assert read_image(Path(row["picture"])).shape[1] == 720


def test_detect_draws_float_and_quantized_side_by_side(
    tmp_path: Path, grid: Path, weights: Path, photograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures"
    other = tmp_path / "elsewhere" / photograph.name
    other.parent.mkdir()
    other.write_bytes(photograph.read_bytes())
    before = sorted(tmp_path.iterdir())

    inputs = [str(photograph), str(other), "--data", str(grid), "--checkpoint", str(weights)]
    code = run_command_line(
        ["detect", "toy_squares", *inputs, "--out", str(out), "--calibration-size", "4", "--device", "cpu", "--quiet"]
    )

    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.out.splitlines() == [str(out / "photo.one.png"), str(out / "photo.one-2.png")]
    assert read_image(out / "photo.one-2.png").shape[1] == 2 * 720 + 10
    assert sorted(tmp_path.iterdir()) == sorted([*before, out])


def test_detect_of_a_file_that_is_no_image_exits_with_2(
    tmp_path: Path, weights: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["detect", "toy_squares", str(labels), "--stage", "fp32", "--checkpoint", str(weights)]

    assert run_command_line([*arguments, "--labels", str(labels), "--out", str(tmp_path / "pictures")]) == 2
    assert str(labels) in capsys.readouterr().err


def test_detect_into_a_file_exits_with_2_before_anything_is_run(
    tmp_path: Path, labels: Path, photograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["detect", "toy_squares", str(photograph), "--out", str(labels)]) == 2
    assert "cannot be a folder" in capsys.readouterr().err


def test_detect_with_an_unknown_stage_names_those_there_are(
    tmp_path: Path, grid: Path, weights: Path, photograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [str(photograph), "--data", str(grid), "--checkpoint", str(weights)]
    code = run_command_line(["detect", "toy_squares", *inputs, "--stage", "w8a9", "--out", str(tmp_path / "p")])

    assert code == 2
    assert "no stage 'w8a9'; the closest is 'w8a8'" in capsys.readouterr().err
