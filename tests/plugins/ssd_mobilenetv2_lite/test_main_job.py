"""The main job through the command line: from VOC data and a checkpoint to a recorded table of the four corners."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from zoo_core.cli.main import run_command_line
from zoo_core.datasets.comp4 import read_comp4
from zoo_core.datasets.labels import read_label_file
from zoo_core.datasets.voc import VocDetection
from zoo_core.datatypes import Detections
from zoo_core.metrics.detection import DetectionMetric

pytestmark = [pytest.mark.data, pytest.mark.slow]

MODEL = "ssd_mobilenetv2_lite"
HEADLINE = "voc07_11pt/pytorch-ssd"
CORNERS = ("fp32", "w8a8", "optimized_fp32", "optimized_w8a8")
NUM_IMAGES = 60
CORNER_OPTIONS = ("--limit", str(NUM_IMAGES), "--calibration-size", "32", "--set", "adaround.engine=fast")
SMALL_OPTIONS = ("--limit", "8", "--calibration-size", "8", "--set", "adaround.engine=fast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A finished run.

    Attributes:
        path: Its directory.
        printed: The object that it printed on stdout.
        said: What it printed on stderr.
    """

    path: Path
    printed: dict[str, Any]
    said: str

    def read(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / name).read_text())
        return content

    def map(self, stage: str) -> float:
        value = self.printed["stages"][stage]["metrics"][HEADLINE]["map"]
        assert isinstance(value, float)
        return value

    def prediction_files(self) -> dict[str, bytes]:
        root = self.path / "predictions"
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.parquet"))}


Command = Callable[..., Done]


@pytest.fixture(scope="module")
def shapes(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    with tarfile.open(shared / "data" / "shapes_voc.tar") as archive:
        archive.extractall(root, filter="data")
    return root / "VOC2007"


@pytest.fixture(scope="module")
def base_options(shared: Path, shapes: Path) -> tuple[str, ...]:
    """Data, weights and labels of the drawn shapes."""
    weights = shared / "data" / "shapes_mb2_ssd_lite.pth"
    return ("--data", str(shapes), "--checkpoint", str(weights), "--labels", str(shapes / "labels.txt"))


def command(name: str, out: Path, *options: str | Path) -> Done:
    """Run a command in this process, which saves the import of torch and AIMET; it must succeed."""
    stdout, stderr = io.StringIO(), io.StringIO()
    arguments = [name, MODEL, *map(str, options), "--out", str(out), "--device", "cpu", "--json"]
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = run_command_line([*arguments, *(["--no-report"] if name == "run" else [])])
    assert code == 0, stderr.getvalue()
    return Done(path=out, printed=json.loads(stdout.getvalue()), said=stderr.getvalue())


@pytest.fixture(scope="module")
def corners(base_options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The four corners on the first 60 images; shared, do not write into it."""
    return command("run", tmp_path_factory.mktemp("corners") / "run", *base_options, *CORNER_OPTIONS)


def test_fp32_of_400_images_is_the_published_evaluators_and_stdout_is_one_object(
    shared: Path, base_options: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = [MODEL, *base_options, "--stages", "fp32", "--out", str(tmp_path / "run"), "--device", "cpu", "--json"]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "zoo_core.cli.main", "run", *arguments], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert set(printed) == {"run_dir", "stages"}
    assert list(printed["stages"]) == ["fp32"]
    expected = json.loads((shared / "data" / "shapes_expected.json").read_text())
    scores = printed["stages"]["fp32"]["metrics"][expected["protocol"]]
    assert scores["map"] == pytest.approx(expected["map"], abs=0.002)
    assert scores["per_class"] == pytest.approx(expected["per_class"], abs=0.01)
    assert (Path(printed["run_dir"]) / "report.html").stat().st_size > 0


def test_the_four_corners_are_there_and_quantization_costs_little(corners: Done) -> None:
    assert tuple(corners.printed["stages"]) == CORNERS
    fp32 = corners.map("fp32")
    assert 0.85 < fp32 < 1.0
    assert corners.map("w8a8") == pytest.approx(fp32, abs=0.03)
    # Equalization keeps the float function, and rounding costs little of it.
    assert corners.map("optimized_fp32") == pytest.approx(fp32, abs=0.02)
    assert corners.map("optimized_w8a8") == pytest.approx(fp32, abs=0.03)
    files = corners.prediction_files()
    assert len({files[f"{stage}/chunk-00000.parquet"] for stage in CORNERS}) == len(CORNERS)


def test_the_record_says_what_each_step_did(corners: Done) -> None:
    record = corners.read("run.json")
    assert record["status"] == "complete"
    effects = {step["step"]: step["effect"] for step in record["steps"]}
    assert list(effects) == ["fold_batch_norms", "relu6", "cross_layer_equalization", "adaround"]
    assert effects["fold_batch_norms"]["num_folded"] == 74
    assert effects["relu6"]["policy"] == "per_channel_clip"
    assert effects["cross_layer_equalization"]["num_layer_sets"] == 33
    assert effects["cross_layer_equalization"]["max_relative_change"] < 1e-4
    assert effects["adaround"]["engine"] == "fast"
    frozen = {stage: facts["effect"]["num_frozen_weights"] for stage, facts in record["simulations"].items()}
    assert frozen == {"w8a8": 0, "optimized_w8a8": 86}
    assert record["recipe"]["overrides"] == ["adaround.engine=fast"]


def test_calibration_never_sees_an_evaluated_image(corners: Done, shapes: Path) -> None:
    record = corners.read("run.json")
    evaluated = (corners.path / "image_ids.txt").read_text().split()
    splits = {
        name: (shapes / "ImageSets" / "Main" / f"{name}.txt").read_text().split() for name in ("test", "trainval")
    }
    drawn = record["calibration"]["ids"]
    assert evaluated == splits["test"][:NUM_IMAGES]
    assert len(set(drawn)) == 32
    assert set(drawn) <= set(splits["trainval"])
    assert not set(drawn) & set(splits["test"])


def test_the_run_directory_is_complete(corners: Done, shapes: Path) -> None:
    names = read_label_file(shapes / "labels.txt")
    assert {path.name for path in corners.path.iterdir()} == {
        *("run.json", "metrics.json", "image_ids.txt", "log.txt"),
        *("inputs", "predictions", "comp4", "quantized"),
    }
    for stage in CORNERS:
        assert {path.name for path in (corners.path / "comp4" / stage).iterdir()} == {
            f"comp4_det_test_{name}.txt" for name in names
        }
    encodings = corners.read("quantized/encodings.json")
    assert len(encodings["param_encodings"]) == 86
    weights = load_file(corners.path / "quantized" / "network.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert not any("running_mean" in key for key in weights)
    assert corners.read("metrics.json")["stages"] == corners.printed["stages"]


def test_the_comp4_files_scored_again_give_the_same_metrics(corners: Done, shapes: Path) -> None:
    dataset = VocDetection(shapes, "test", label_file=shapes / "labels.txt")
    by_image = read_comp4(corners.path / "comp4" / "fp32", dataset.class_names).by_image()
    evaluated = (corners.path / "image_ids.txt").read_text().split()
    nothing = Detections(
        boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64)
    )
    metric = DetectionMetric(dataset.class_names, headline=HEADLINE)
    predictions = [by_image.get(image_id, nothing) for image_id in evaluated]
    metric.update(evaluated, predictions, [dataset.target(image_id) for image_id in evaluated])

    stored = corners.read("metrics.json")["stages"]["fp32"]["metrics"]
    again = {name: {**score.values, "per_class": dict(score.per_class)} for name, score in metric.compute().items()}
    assert json.loads(json.dumps(again)) == stored


def test_the_optimized_network_that_a_run_wrote_gives_its_numbers_again(
    corners: Done, base_options: tuple[str, ...], tmp_path: Path
) -> None:
    optimized = corners.path / "quantized" / "network.safetensors"
    stages = ("--stages", "optimized_fp32", "--optimized-checkpoint", optimized)
    done = command("run", tmp_path / "run", *base_options, *CORNER_OPTIONS, *stages)

    assert done.map("optimized_fp32") == corners.map("optimized_fp32")
    (name,) = (path for path in done.prediction_files())
    assert done.prediction_files()[name] == corners.prediction_files()[name]
    record = done.read("run.json")
    assert record["steps"] == []
    assert len(record["optimized_checkpoint"]["sha256"]) == 64
    skipped = "cross-layer equalization and AdaRound were skipped"
    assert any(skipped in text for text in record["warnings"])
    assert skipped in " ".join(done.said.split())


def test_any_number_of_workers_gives_the_same_bytes_at_every_stage(
    base_options: tuple[str, ...], tmp_path: Path
) -> None:
    files = []
    for workers in ("0", "3"):
        done = command("run", tmp_path / workers, *base_options, *SMALL_OPTIONS, "--no-cache", "--workers", workers)
        assert [step["step"] for step in done.read("run.json")["steps"]][-1] == "adaround"
        files.append(done.prediction_files())
    assert set(files[0]) == {f"{stage}/chunk-00000.parquet" for stage in CORNERS}
    assert files[0] == files[1]


def test_weights_like_the_published_optimized_ones_are_loaded_with_relu6_replaced(
    base_options: tuple[str, ...], tmp_path: Path
) -> None:
    recipe = ("--recipe", "w8a8_published_relu6_replaced", "--set", "adaround.engine=fast", "--calibration-size", "8")
    made = command("quantize", tmp_path / "made", *base_options, *recipe)
    written = Path(made.printed["quantized"]) / "network.safetensors"
    # The published file is a plain state dict: it says nothing of folding, ReLU6 or the recipe.
    torch.save(load_file(written), tmp_path / "published.pth")
    options = (*base_options, "--limit", "8", "--calibration-size", "8", "--stages", "optimized_fp32")

    own = command("run", tmp_path / "own", *options, "--optimized-checkpoint", written)
    plain = command("run", tmp_path / "plain", *options, "--optimized-checkpoint", tmp_path / "published.pth")

    assert own.map("optimized_fp32") > 0.5
    assert plain.prediction_files() == own.prediction_files()
    assert "ReLU6 is replaced by ReLU" in " ".join(plain.said.split())
    assert "were skipped" in " ".join(plain.said.split())


def test_genuine_voc_images_run_and_untrained_weights_are_met_with_the_usual_suspects(
    voc2007: Path, seeded_weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(seeded_weights, tmp_path / "seeded.pth")
    test_ids = set((voc2007 / "ImageSets" / "Main" / "test.txt").read_text().split())
    ids = sorted(path.stem for path in (voc2007 / "JPEGImages").glob("*.jpg") if path.stem in test_ids)
    assert len(ids) == 19
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    options = ("--data", voc2007, "--checkpoint", tmp_path / "seeded.pth", "--ids", tmp_path / "ids.txt")

    done = command("run", tmp_path / "run", *options, "--stages", "fp32")

    assert done.map("fp32") < 0.02
    assert (done.path / "image_ids.txt").read_text().split() == ids
    metrics = done.read("metrics.json")
    assert metrics["num_images"] == 19
    warnings = [text for text in metrics["warnings"] if text.startswith("fp32: ")]
    assert "near zero. The usual suspects:" in warnings[0]
    assert len(warnings) > 1  # what the data shows about them
    assert all(" ".join(text.split()) in " ".join(done.said.split()) for text in warnings)
