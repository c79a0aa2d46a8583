from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from toy_detector.model import untrained
from zoo_core import artifacts
from zoo_core.cli.main import run_command_line
from zoo_core.datasets.images import read_image

pytestmark = pytest.mark.usefixtures("toy")


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
