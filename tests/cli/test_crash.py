"""What is not the user's fault: exit code 3, plugin and hook by name, and a log with the traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from zoo_core.cli.main import run_command_line

Arguments = Callable[..., list[str]]
PLUGIN = "ssd_mobilenetv2_lite"


def explode(*_arguments: object, **_options: object) -> NoReturn:
    raise KeyError("the plugin's own mistake")


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("ssd_mobilenetv2_lite.preprocess.preprocess", "preprocess of zoo_load_model"),
        ("ssd_mobilenetv2_lite.decode.decode", "decode of zoo_load_model"),
        ("zoo_core.datasets.voc.VocDetection.image", r"image\('00000\d'\) of zoo_dataset"),
        ("zoo_core.datasets.voc.VocDetection.write_submission", "write_submission of zoo_dataset"),
        ("zoo_core.metrics.detection.DetectionMetric.update", "update of zoo_metric"),
        ("zoo_core.metrics.detection.DetectionMetric.compute", "compute of zoo_metric"),
    ],
)
def test_a_plugin_that_crashes_in_a_stage_is_named_with_hook_stage_and_log(
    target: str,
    place: str,
    arguments: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(target, explode)

    assert run_command_line([*arguments(stages="fp32", limit=2), "--json"]) == 3

    captured = capfd.readouterr()
    log = tmp_path / "run" / "log.txt"
    assert captured.out == ""
    assert re.search(rf"error: Plugin '{PLUGIN}' failed in {place}: KeyError: .*mistake", captured.err)
    assert "The run stopped at stage 'fp32'" in captured.err
    assert f"fix: read the traceback in {log}" in captured.err
    assert "Traceback" not in captured.err
    assert 'raise KeyError("the plugin\'s own mistake")' in log.read_text()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_fault_of_the_core_in_a_stage_is_named_with_its_log(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zoo_core.runs.predictions.PredictionStore.write", explode)

    assert run_command_line(arguments(stages="fp32", limit=2)) == 3

    captured = capfd.readouterr()
    assert "error: KeyError: " in captured.err
    assert "Plugin" not in captured.err
    assert f"The run stopped at stage 'fp32'; completed results are kept in {tmp_path / 'run'}" in captured.err
    assert "own mistake" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("ssd_mobilenetv2_lite.checkpoint.load_network", "zoo_load_model"),
        ("zoo_core.datasets.voc.VocDetection.target", r"target\('000000'\) of zoo_dataset"),
    ],
)
def test_a_plugin_that_crashes_before_the_run_starts_leaves_a_log_in_the_cache_alone(
    target: str,
    place: str,
    arguments: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(target, explode)

    assert run_command_line(arguments(stages="fp32")) == 3

    captured = capfd.readouterr()
    (log,) = (tmp_path / "cache" / "logs").iterdir()
    assert re.search(rf"error: Plugin '{PLUGIN}' failed in {place}: KeyError", captured.err)
    assert f"fix: read the traceback in {log}" in captured.err
    assert "own mistake" in log.read_text()
    assert not (tmp_path / "run").exists()


def test_a_verbose_crash_prints_the_traceback(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ssd_mobilenetv2_lite.checkpoint.load_network", explode)

    assert run_command_line([*arguments(stages="fp32"), "--verbose"]) == 3

    assert "Traceback" in capfd.readouterr().err


def test_a_cache_that_cannot_be_written_does_not_hide_the_crash(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ssd_mobilenetv2_lite.checkpoint.load_network", explode)

    assert run_command_line(arguments(stages="fp32")) == 3

    error = capfd.readouterr().err
    assert f"Plugin '{PLUGIN}' failed in zoo_load_model" in error
    assert "fix: run again with --verbose" in error
