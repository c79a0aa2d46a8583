"""A task that a plugin declares goes through every command like a built-in one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toy_detector import data
from toy_detector.model import untrained
from toy_masks import hooks
from toy_masks.masks import GRID_SEGMENTATION, Mask, MeanIou
from zoo_core import artifacts
from zoo_core.cli.main import run_command_line
from zoo_core.conformance.running import run_checks
from zoo_core.conformance.subject import Subject
from zoo_core.datatypes import Task
from zoo_core.errors import PluginError
from zoo_core.hookspecs import hookimpl
from zoo_core.plugins import PluginHost
from zoo_core.report.html import render_report
from zoo_core.results.compare import NUM_METRIC_RESAMPLES, CompareRequest, compare
from zoo_core.results.stored import open_run


@pytest.fixture(scope="module")
def host() -> PluginHost:
    host = PluginHost(installed=False)
    host.register(hooks, "toy_masks")
    return host


@pytest.fixture
def on_the_command_line(host: PluginHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo_core.plugins.PluginHost", lambda: host)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.write(tmp_path_factory.mktemp("data") / "grid")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "toy.safetensors"
    network = untrained(2)
    assert network.head.bias is not None
    with torch.no_grad():
        network.head.bias[1] = 0.15  # pale green squares come just above the threshold: 4 bits lose some of them
    artifacts.save_state_dict(path, network.state_dict(), {})
    return path


@pytest.fixture(scope="module")
def run(host: PluginHost, grid: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from zoo_core.evaluation.run import evaluate_request
    from zoo_core.runs.request import EvaluationRequest

    request = EvaluationRequest(
        model="toy_masks",
        data=grid,
        checkpoint=weights,
        stages="fp32,w4a4",
        settings=("quantsim.param_bw=4", "quantsim.output_bw=4"),
        calibration_size=4,
        batch_sizes=(3,),
        device="cpu",
        out=tmp_path_factory.mktemp("runs") / "run",
    )
    return evaluate_request(request, host=host).run_dir


def test_the_table_of_a_run_names_the_values(
    run: Path, on_the_command_line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["rescore", str(run)]) == 0

    printed = capsys.readouterr().out
    assert "mIoU in percent" in " ".join(printed.split())
    assert "mIoU is the mean over 3 of 3 classes." in printed


def test_another_batch_size_is_compared_mask_by_mask(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())

    (found,) = record["stages"]["fp32"]["batch_sizes"].values()
    assert (found["num_predictions"], found["num_predictions_changed"]) == (12, 0)
    assert found["changes"] == {"same": 12 * 16, "changed": 0}


def test_the_report_shows_counts_and_pictures_under_the_names_of_the_task(run: Path, host: PluginHost) -> None:
    page = render_report(run, host=host)
    text = re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]+>", " ", page, flags=re.DOTALL)

    assert "mIoU, %" in text
    assert "IoU in %" in text
    assert "cells cell accuracy" in " ".join(text.split())
    assert not re.search(r"\bmiou\b|\bitems\b|most probable class", text)
    assert "Cells are counted by the class that the first stage gives them." in text
    assert page.count('<div class="panel"><p>ground truth') > 0


def test_without_the_plugin_the_report_keeps_the_scores_and_says_what_is_missing(run: Path) -> None:
    page = render_report(run, host=PluginHost(installed=False))

    assert "No installed plugin declares the task &#39;grid_segmentation&#39;" in page
    assert "miou, %" in page
    assert "most probable class" not in page


def test_stages_are_compared_by_running_the_metric_on_every_resample(
    run: Path, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo_core.metrics.bootstrap.MIN_IMAGES", 12)
    found = compare(CompareRequest(run=run), host)

    (pair,) = found.pairs
    stored = open_run(run)
    targets = [scene.target for scene in hooks_scenes()]
    assert (found.measured, found.num_resamples, found.score_threshold) == ("mIoU", NUM_METRIC_RESAMPLES, None)
    for stage, value in (("fp32", pair.overall.before), ("w4a4", pair.overall.after)):
        metric = MeanIou(("background", "red", "green"))
        metric.update(stored.image_ids, list(stored.predictions(stage, Mask).values()), targets)
        assert metric.compute()["cells"].headline == pytest.approx(value)
    assert pair.overall.interval is not None
    assert pair.overall.change is not None
    assert pair.overall.interval[0] <= pair.overall.change <= pair.overall.interval[1]
    num_changed = sum(counts["changed"] for counts in pair.counts.values())
    assert num_changed > 0
    assert pair.most_changed


def hooks_scenes() -> Any:
    from toy_masks.masks import scenes

    return scenes()["test"]


def test_the_comparison_is_printed_with_the_kinds_of_change_of_the_task(
    run: Path, on_the_command_line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["compare", str(run), "--resamples", "40"]) == 0

    printed = capsys.readouterr().out
    assert re.search(r"same\W+changed", printed)
    assert "mIoU" in printed
    assert "score threshold" not in printed


def test_a_reference_without_a_key_is_about_the_first_value(
    run: Path, on_the_command_line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_command_line(["check", str(run), "--stages", "fp32", "--json"])

    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["key"] == "miou"
    assert (code, finding["status"]) == (0, "reproduced")


def test_detect_draws_masks(
    grid: Path, weights: Path, tmp_path: Path, on_the_command_line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    image = grid / "test_000.png"
    arguments = ["detect", "toy_masks", str(image), "--checkpoint", str(weights), "--data", str(grid)]

    assert run_command_line([*arguments, "--stage", "fp32", "--out", str(tmp_path / "out"), "--json", "--quiet"]) == 0

    (row,) = json.loads(capsys.readouterr().out)["images"]
    assert row["captions"] == {"fp32": "2 cells"}
    assert Path(row["picture"]).is_file()


def test_every_check_of_the_plugin_passes_or_does_not_apply(host: PluginHost) -> None:
    with Subject(host, "toy_masks") as subject:
        outcomes = {outcome.name: outcome for outcome in run_checks(subject)}

    assert [(outcome.name, outcome.found) for outcome in outcomes.values() if outcome.status == "failed"] == []
    assert outcomes["decode of nothing is empty"].found == "a Mask is never empty"
    assert outcomes["boxes are in pixels of the original image"].status == "not applicable"
    assert outcomes["labels run from 0 to the last class"].status == "passed"
    assert outcomes["the task compares and draws predictions"].found.startswith("same, changed; ")


class Declares:
    """A plugin that declares one task."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @hookimpl
    def zoo_task(self, task: str) -> Task | None:
        return self._task if task == self._task.task_id else None


def test_a_task_that_is_declared_twice_is_an_error_with_both_names(host: PluginHost) -> None:
    other = PluginHost(installed=False)
    other.register(hooks, "toy_masks")
    other.register(Declares(GRID_SEGMENTATION), "another")

    with pytest.raises(PluginError, match="'grid_segmentation' is declared twice: by the plugins 'another' and 'toy_m"):
        other.task(other.model("toy_masks"))


def test_a_task_that_nobody_declares_names_the_entry_and_the_hook(host: PluginHost) -> None:
    from dataclasses import replace

    entry = replace(host.model("toy_masks"), task="segmentatoin")

    with pytest.raises(
        PluginError, match=r"toy_masks.task is 'segmentatoin', a task that no plugin declares"
    ) as caught:
        host.task(entry)
    assert "zoo_task" in str(caught.value.fix)


def test_a_task_that_fails_names_its_plugin(host: PluginHost) -> None:
    task = host.task(host.model("toy_masks"))

    with pytest.raises(PluginError, match="Plugin 'toy_masks' failed in draw of zoo_task"):
        task.draw(np.zeros((4, 4, 3), np.uint8), "no prediction", None, None)  # type: ignore[arg-type]


def test_the_core_is_no_plugin_in_the_list_of_plugins(host: PluginHost) -> None:
    assert host.plugin_ids == ("toy_masks",)
