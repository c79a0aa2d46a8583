"""Two stages of a classifier paired by image."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drawn_classes import CLASSES, write_classes
from report.synthetic import write_run
from results.conftest import write_record
from zoo_core.cli.main import run_command_line
from zoo_core.comparison.resampling import images_by_class
from zoo_core.datasets.image_folder import ImageFolder
from zoo_core.datatypes import DetectionTarget
from zoo_core.errors import RegistryError
from zoo_core.metrics.bootstrap import resample_weights
from zoo_core.plugins import PluginHost
from zoo_core.results.compare import Compared, CompareRequest, compare
from zoo_core.results.rescore import RescoreRequest, rescore
from zoo_core.tasks.detection import DETECTION
from zoo_torchvision_classification import hooks


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    host = PluginHost(installed=False)
    host.register(hooks, "torchvision_classification")
    monkeypatch.setattr("zoo_core.plugins.PluginHost", lambda: host)
    return host


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """60 images of three classes."""
    folder = write_classes(tmp_path / "drawn", num_val=20, num_train=1)
    dataset = ImageFolder(folder, "val", class_split="train")
    path = write_run(tmp_path / "run", dataset, folder, "torchvision_resnet18", noise=0.2, warnings=())
    write_record(path, dataset, model="torchvision_resnet18", headline="topk/first")
    return path


def compared(run: Path, host: PluginHost, **options: Any) -> Compared:
    return compare(CompareRequest(run=run, num_resamples=200, **options), host)


def recorded(run: Path, stage: str, protocol: str) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((run / "metrics.json").read_text())["stages"][stage]["metrics"][protocol]
    return scores


@pytest.mark.parametrize("protocol", [None, "topk/expected"])
def test_values_are_those_recorded_and_lost_less_gained_is_the_difference(
    run: Path, plugins: PluginHost, protocol: str | None
) -> None:
    found = compared(run, plugins, protocol=protocol)
    (pair,) = found.pairs
    assert (pair.before, pair.after, found.measured) == ("fp32", "w8a8", "top-1")
    old, new = (recorded(run, stage, found.protocol) for stage in ("fp32", "w8a8"))
    assert pair.overall.before == pytest.approx(old["top1"])
    assert pair.overall.after == pytest.approx(new["top1"])
    assert {name: value.after for name, value in pair.classes.items()} == pytest.approx(new["per_class"])
    for name in CLASSES:
        count = pair.counts[name]
        change = pair.classes[name].change
        assert change is not None
        assert count["gained"] - count["lost"] == round(20 * change)
    assert pair.overall.interval is not None
    assert pair.overall.change is not None
    assert pair.overall.interval[0] <= pair.overall.change <= pair.overall.interval[1]
    assert len(pair.most_changed) == 5


@pytest.mark.parametrize(("least", "enough"), [(20, True), (21, False)])
def test_a_class_that_few_images_show_has_no_interval(
    run: Path, plugins: PluginHost, monkeypatch: pytest.MonkeyPatch, least: int, enough: bool
) -> None:
    """60 images, 20 of each class. All resamples with a class's only image agree, and used to give p = 0.001."""
    for module in ("zoo_core.metrics.bootstrap", "zoo_core.results.compare"):
        monkeypatch.setattr(f"{module}.MIN_IMAGES", least)

    found = compared(run, plugins)

    (pair,) = found.pairs
    assert pair.overall.interval is not None
    for value in pair.classes.values():
        assert (value.interval is not None, value.p_value is not None) == (enough, enough)
        assert value.change is not None
    note = "No interval for 3 classes that fewer than 21 images show."
    assert (note in found.notes) is not enough


def test_objects_that_count_are_the_images_of_a_class() -> None:
    def target(labels: list[int], difficult: list[bool]) -> DetectionTarget:
        boxes = np.zeros((len(labels), 4), np.float32)
        return DetectionTarget(boxes=boxes, labels=np.array(labels, np.int64), difficult=np.array(difficult, bool))

    targets = [target([0, 0, 1], [False, False, True]), target([0], [False]), target([], [])]
    assert images_by_class(DETECTION, ("a", "b", "c"), targets) == [2, 0, 0]
    without = dataclasses.replace(DETECTION, target_labels=None)
    assert images_by_class(without, ("a", "b"), targets) == [3, 3]


def test_the_interval_is_that_of_counting_each_draw_anew(run: Path, plugins: PluginHost) -> None:
    (pair,) = compared(run, plugins).pairs
    rescored = rescore(RescoreRequest(source=run), plugins)
    assert rescored.stages["w8a8"]["topk/first"].headline == pytest.approx(pair.overall.after)
    assert {"stage": "w8a8", "protocol": "topk/first", "key": "top1", "value": pair.overall.after} in rescored.rows()
    assert repr(rescored).splitlines()[1].split() == ["stage", "protocol", "key", "value"]
    # Rows as the run has them: which images are right in each stage, from the stored predictions alone.
    from zoo_core.datatypes import Classification
    from zoo_core.results.stored import open_run

    stored = open_run(run)
    right = np.array(
        [
            [
                CLASSES[int(found.arrays()["labels"][0])] == image_id.split("/")[1]
                for image_id, found in stored.predictions(stage, Classification).items()
            ]
            for stage in ("fp32", "w8a8")
        ],
        dtype=float,
    )
    weights = resample_weights(60, 200, 0)
    differences = ((right[1] - right[0]) @ weights) / 60
    assert pair.overall.interval == pytest.approx(np.percentile(differences, [2.5, 97.5]).tolist())


def test_a_stage_against_itself_shows_nothing(run: Path, plugins: PluginHost) -> None:
    (pair,) = compared(run, plugins, stages=("fp32", "fp32")).pairs
    assert (pair.overall.change, pair.overall.interval, pair.overall.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert all(count["lost"] == count["gained"] == count["moved"] == 0 for count in pair.counts.values())


def test_a_protocol_of_another_task_is_refused(run: Path, plugins: PluginHost) -> None:
    with pytest.raises(RegistryError, match="no classification protocol 'coco'"):
        compared(run, plugins, protocol="coco")


def test_the_tables_speak_of_top_1(run: Path, plugins: PluginHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["compare", str(run), "--stages", "fp32,w8a8", "--resamples", "100"]) == 0
    printed = capsys.readouterr().out
    assert "top-1" in printed
    assert "mAP" not in printed
    assert "Boxes" not in printed
    assert run_command_line(["rescore", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "images; top-1 in" in printed
    assert "mAP" not in printed
