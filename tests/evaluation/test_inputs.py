"""Images that change while a run goes on, pictures in both splits, and files that are none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from zoo_core import api
from zoo_core.errors import DataError, ZooError
from zoo_core.evaluation.request import SilentReporter
from zoo_core.plugins import PluginHost

Run = Callable[..., Any]

TOY_RECIPE = Path(__file__).parents[1] / "toy_detector" / "recipes" / "w8a8_toy.yaml"


@pytest.fixture
def run(host: PluginHost, grid: Path, weights: Path, tmp_path: Path) -> Run:
    def run(command: Callable[..., Any] = api.evaluate, **options: Any) -> Any:
        options = {"data": grid, "checkpoint": weights, "out": tmp_path / "run", "host": host, **options}
        return command("toy_squares", **options)

    return run


class Exchanging(SilentReporter):
    """Replaces an image when a task starts whose name begins with ``when``."""

    def __init__(self, when: str, path: Path, by: Path) -> None:
        self.when, self.path, self.by = when, path, by

    def start(self, what: str, total: int | None) -> None:
        if what.startswith(self.when):
            shutil.copyfile(self.by, self.path)


@pytest.mark.parametrize(
    ("when", "image_id", "stages"),
    [
        ("fp32", "test_005", "fp32"),
        ("w8a8", "test_000", "fp32,w8a8"),
        ("reading calibration", "trainval_002", "fp32,w8a8"),
        ("fp32, batch size", "test_011", "fp32"),
    ],
)
def test_an_image_exchanged_during_the_run_stops_it_by_name(
    run: Run, grid: Path, tmp_path: Path, when: str, image_id: str, stages: str
) -> None:
    reporter = Exchanging(when, grid / f"{image_id}.png", grid / "test_009.png")
    options = {"batch_sizes": (2,)} if "batch" in when else {}

    with pytest.raises(DataError, match=rf"Image '{image_id}' of grid \w+ changed during the run"):
        run(stages=stages, reporter=reporter, workers=2, **options)

    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("command", [api.evaluate, api.quantize])
def test_a_calibration_image_that_is_evaluated_under_another_name_is_refused(
    run: Run, grid: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    shutil.copyfile(grid / "test_004.png", grid / "trainval_003.png")  # its annotation stays another one

    with pytest.raises(
        DataError, match=r"1 of 8 calibration images are evaluated too \(trainval_003 \w+ the \w+ \w+ of"
    ):
        run(command)
    assert not (tmp_path / "run").exists()

    result = run(command, allow_calibration_overlap=True)
    assert result.record.calibration.overlap == ("trainval_003",)
    assert any("Calibration overlap: 1" in text for text in result.record.warnings)


@pytest.mark.parametrize("command", [api.evaluate, api.quantize])
def test_a_calibration_image_that_only_looks_like_an_evaluated_one_is_recorded_apart(
    run: Run, grid: Path, command: Callable[..., Any]
) -> None:
    pixels = cv2.imread(str(grid / "test_004.png"))
    assert pixels is not None
    cv2.imwrite(str(grid / "trainval_003.png"), np.clip(pixels.astype(np.int64) + 1, 0, 255).astype(np.uint8))

    with pytest.raises(DataError, match=r"1 of 8 .* look like evaluated ones \(trainval_003 shows .*'test_004'\)"):
        run(command)

    result = run(command, allow_calibration_overlap=True)
    assert (result.record.calibration.overlap, result.record.calibration.alike) == ((), ("trainval_003",))
    assert any(
        "1 calibration images look like evaluated ones (trainval_003)" in text for text in result.record.warnings
    )


def test_quantize_says_how_many_evaluated_images_it_could_not_compare(run: Run, grid: Path) -> None:
    for number in (3, 7):
        (grid / f"test_{number:03d}.png").unlink()
        (grid / f"test_{number:03d}.json").unlink()

    result = run(api.quantize)

    text = "Calibration images were not compared with 2 of the 12 images of test, which cannot be read."
    assert text in result.record.warnings


# --------------------------------------------------------------------------- files that are none


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def too_large(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: it takes no space
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "device": lambda _path: Path("/dev/zero"),
    "link to a device": lambda path: path.symlink_to("/dev/zero") or path,  # type: ignore[func-returns-value]
    "pipe": fifo,
    "a terabyte": too_large,
    "directory": lambda path: path.mkdir() or path,  # type: ignore[func-returns-value]
    "loop": loop,
    "memory of the process": lambda _path: Path("/proc/self/mem"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("option", ["recipe", "ids_file", "labels", "config_file", "registry"])
def test_what_is_no_ordinary_file_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path, option: str, kind: str
) -> None:
    path = HOSTILE[kind](tmp_path / "hostile.yaml")
    if option == "config_file":
        text = TOY_RECIPE.read_text().splitlines()
        lines = [f"    config_file: {path}" if "config_file:" in line else line for line in text]
        (tmp_path / "own.yaml").write_text("\n".join(lines) + "\n")
        options: dict[str, Any] = {"recipe": tmp_path / "own.yaml"}
    elif option == "registry":
        options = {"host": PluginHost(installed=False, registries=[path])}
    else:
        options = {option: path}

    with pytest.raises(ZooError, match="cannot be read"):
        run(**options)

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"token": "s3cret"},
        {},
        {"defaults": {"ops": {}, "params": {}}},
        {
            "defaults": {"ops": {}, "params": {}},
            "params": {},
            "op_type": {},
            "supergroups": [],
            "model_input": {},
            "model_output": {},
            "token": "s3cret",
        },
    ],
)
def test_a_private_json_named_as_configuration_is_neither_copied_nor_quoted(
    run: Run, tmp_path: Path, content: dict[str, Any]
) -> None:
    private = tmp_path / "private.json"
    private.write_text(json.dumps(content))
    text = TOY_RECIPE.read_text().splitlines()
    lines = [f"    config_file: {private}" if "config_file:" in line else line for line in text]
    (tmp_path / "own.yaml").write_text("\n".join(lines) + "\n")

    with pytest.raises(ZooError, match=r"private\.json is not an AIMET configuration") as caught:
        run(recipe=tmp_path / "own.yaml", stages="fp32")

    assert "s3cret" not in str(caught.value)
    assert not (tmp_path / "run").exists()
