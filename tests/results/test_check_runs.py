"""The gate on runs that were really made, and the demos' references against the pictures that are drawn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from results import gated
from results.conftest import edit_json
from results.gated import reference
from toy_detector.model import untrained
from zoo_core import api, artifacts
from zoo_core.cli.main import run_command_line
from zoo_core.datasets.image_folder import ImageFolder
from zoo_core.datasets.shapes import CLASS_NAMES
from zoo_core.datasets.shapes_folder import write_folder
from zoo_core.datasets.shapes_voc import write_voc
from zoo_core.datasets.voc import VocDetection
from zoo_core.datatypes import EvalDataset
from zoo_core.evaluation.prepare import fingerprint
from zoo_core.plugins import PluginHost
from zoo_core.results.check import check_run
from zoo_core.results.stored import open_run

DETECTOR, CLASSIFIER = "ssd_mobilenetv2_lite_shapes", "torchvision_mobilenet_v2_shapes"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``voc`` and ``classes`` with the pictures of the demos."""
    root = tmp_path_factory.mktemp("drawn")
    write_voc(root / "voc")
    write_folder(root / "classes")
    return root


def splits_of(drawn: Path, model: str) -> tuple[EvalDataset, EvalDataset]:
    """The evaluated split and the calibration split."""
    if model == DETECTOR:
        labels = drawn / "voc" / "VOC2007" / "labels.txt"
        test, trainval = (VocDetection(drawn / "voc", split, label_file=labels) for split in ("test", "trainval"))
        return test, trainval
    val, train = (ImageFolder(drawn / "classes", split, folders=CLASS_NAMES) for split in ("val", "train"))
    return val, train


@pytest.mark.parametrize("model", [DETECTOR, CLASSIFIER])
def test_the_references_of_a_demo_name_the_pictures_that_are_drawn(drawn: Path, model: str) -> None:
    entry = PluginHost().model(model)
    evaluated, calibration = splits_of(drawn, model)

    assert entry.dataset.num_images == len(evaluated.ids)
    hashes = {image_id: evaluated.content_hash(image_id) for image_id in evaluated.ids}
    assert fingerprint(hashes) in entry.dataset.fingerprints
    for one in entry.references:
        assert one.num_calibration_images == (None if one.stage == "fp32" else len(calibration.ids))


@pytest.mark.parametrize(
    ("model", "num_images"),
    [
        ("ssd_mobilenetv2_lite", 4952),
        ("torchvision_ssd300_vgg16", 5000),
        ("torchvision_ssdlite320_mobilenet_v3_large", 5000),
        ("torchvision_resnet18", 50_000),
    ],
)
def test_published_references_name_the_number_of_their_images(model: str, num_images: int) -> None:
    assert PluginHost().model(model).dataset.num_images == num_images


@pytest.fixture
def ten(drawn: Path, tmp_path: Path) -> Path:
    """The demo's data, of whose test split only 10 of 250 images are listed."""
    voc = tmp_path / "VOC2007"
    voc.mkdir()
    for path in (drawn / "voc" / "VOC2007").iterdir():
        if path.name != "ImageSets":
            (voc / path.name).symlink_to(path)
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    ids = [f"{index:06d}" for index in range(1, 11)]
    (voc / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    return voc


def test_a_test_split_of_10_of_250_images_fails_the_gate(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(ten), "--labels", str(ten / "labels.txt"), "--stages", "fp32", "--no-report", "--quiet"]
    assert run_command_line(["run", DETECTOR, *options, "--offline", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()

    assert run_command_line(["check", str(tmp_path / "run"), "--stages", "fp32", "--json"]) == 1

    verdict = json.loads(capsys.readouterr().out)
    assert verdict["findings"][0]["status"] == "improvement"
    assert verdict["obstacles"] == ["The run evaluated 10 images; the references were measured on 250."]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), ("--set", "quantsim.quant_scheme=tf")])
def test_a_run_calibrated_on_one_image_does_not_pass(
    tmp_path: Path, settings: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--stages", "fp32,w8a8", "--calibration-size", "1", "--no-report", "--quiet", "--offline"]
    assert run_command_line(["run", CLASSIFIER, *options, *settings, "--out", str(run)]) == 0

    for asked, code in (((), 1), (("--stages", "w8a8"), 1), (("--stages", "fp32,w8a8"), 1), (("--stages", "fp32"), 0)):
        assert run_command_line(["check", str(run), *asked]) == code
        assert "calibrated on 200 images; the run on 1" in " ".join(capsys.readouterr().out.split()) or code == 0


def test_a_run_with_a_loaded_network_is_not_compared_as_if_the_recipe_had_made_it(
    host: PluginHost, grid: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "toy.safetensors"
    artifacts.save_state_dict(weights, untrained(2).state_dict(), {})
    options: dict[str, Any] = {"host": host, "data": grid, "checkpoint": weights}
    made = api.quantize("toy_squares", out=tmp_path / "made", **options)
    network = made.run_dir / "quantized" / "network.safetensors"
    loaded = api.evaluate(
        "toy_squares", out=tmp_path / "loaded", stages="fp32,optimized_w8a8", optimized_checkpoint=network, **options
    )
    optimized = reference(0.0, stage="optimized_w8a8")
    entry = gated.entry(host, reference(0.0), optimized)

    verdict = check_run(open_run(loaded.run_dir), entry, host)

    assert not verdict.passed
    assert [one.reference for one in verdict.set_aside] == [optimized]
    stated = dataclasses.replace(optimized, optimized_checkpoint=artifacts.sha256_of(network))
    entry = dataclasses.replace(entry, references=(reference(0.0), stated))
    assert check_run(open_run(loaded.run_dir), entry, host).passed


def test_compare_names_differences_of_calibration_and_loaded_networks(
    make_run: Any, host: PluginHost, tmp_path: Path
) -> None:
    one, other = make_run("one"), make_run("other")

    def edit(record: dict[str, Any]) -> None:
        record["calibration"].update(num_images=1)
        record["optimized_checkpoint"] = {"path": "/network", "sha256": "9" * 64, "optimized": True}

    edit_json(other / "run.json", edit)

    notes = api.compare(one, other, stages=("fp32", "w8a8"), host=host, num_resamples=40).notes

    assert "The runs differ in optimized weights: 999999999999 instead of none." in notes
    assert "The runs differ in number of calibration images: 1 instead of 2." in notes
    assert not any("differ" in text for text in api.compare(one, other, stages=("fp32",), host=host).notes)
