"""Commands that decide something refuse a record that is not valid, and open runs of an earlier version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from report.synthetic import HEADLINE
from results.conftest import Edit, MakeRun, edit_json
from toy_detector.data import GridDataset
from zoo_core.cli.main import run_command_line
from zoo_core.errors import RunError
from zoo_core.evaluation.prepare import fingerprint
from zoo_core.evaluation.resume import resume_run
from zoo_core.plugins import PluginHost
from zoo_core.results.check import check_run
from zoo_core.results.compare import CompareRequest, compare
from zoo_core.results.rescore import RescoreRequest, rescore
from zoo_core.results.stored import open_run
from zoo_core.results.verify import verify

SCHEMA_1 = Path(__file__).parents[1] / "runs" / "schema1"

COMMANDS = ("check", "compare", "verify", "reproduce", "rescore")


def spoil_types(record: dict[str, Any]) -> None:
    """The record that once passed the gate."""
    record["calibration"]["overlap"] = "test_000"
    record["steps"] = {"step": "adaround", "short": True}


def spoil_names(record: dict[str, Any]) -> None:
    record["dataset"]["is_limited"] = record["dataset"].pop("limited")


def spoil_schema(record: dict[str, Any]) -> None:
    record["schema"] = 99


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("spoil", "messages"),
    [
        (spoil_types, ("calibration.overlap: Input should be", "steps: Input should be")),
        (spoil_names, ("dataset.limited: Field required", "dataset.is_limited: Unexpected")),
        (spoil_schema, ("run.json has schema 99",)),
    ],
)
def test_a_record_that_is_not_valid_is_refused_by_every_command_that_decides(
    make_run: MakeRun,
    host: PluginHost,
    capsys: pytest.CaptureFixture[str],
    command: str,
    spoil: Edit,
    messages: tuple[str, ...],
) -> None:
    run = make_run()
    edit_json(run / "run.json", spoil)

    assert run_command_line([command, str(run)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert all(message in captured.err for message in messages)


@pytest.mark.parametrize("command", COMMANDS)
def test_metrics_that_are_not_valid_are_refused_by_every_command_that_decides(
    make_run: MakeRun, host: PluginHost, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    run = make_run()

    def spoil(metrics: dict[str, Any]) -> None:
        metrics["stages"]["w8a8"]["metrics"][HEADLINE]["map"] = "0.9"

    edit_json(run / "metrics.json", spoil)

    verifies = command == "verify"  # which names all that is wrong with a run
    assert run_command_line([command, str(run)]) == (1 if verifies else 2)
    captured = capsys.readouterr()
    message = f"stages.w8a8.scores.{HEADLINE}.values.map: Input should be"
    assert message in (captured.out if verifies else captured.err)


@pytest.mark.parametrize("spoil", [spoil_types, spoil_names, spoil_schema])
def test_a_record_that_is_not_valid_is_not_resumed(make_run: MakeRun, host: PluginHost, spoil: Edit) -> None:
    run = make_run()
    edit_json(run / "run.json", lambda record: record.update(status="interrupted"))
    edit_json(run / "run.json", spoil)

    with pytest.raises(RunError, match=r"run\.json (is not a valid record: |has schema 99)"):
        resume_run(run, host=host)


# --------------------------------------------------------------------------- runs of an earlier version


@pytest.fixture
def stored(tmp_path: Path, grid: Path) -> Path:
    """The stored run of schema 1, its data beside it."""
    path = tmp_path / "stored"
    shutil.copytree(SCHEMA_1, path)
    dataset = GridDataset(grid, "test")
    # Of the images as this machine's OpenCV encodes them.
    content = fingerprint({image_id: dataset.content_hash(image_id) for image_id in dataset.ids})
    edit_json(path / "run.json", lambda record: record["dataset"].update(root=str(grid), fingerprint=content))
    edit_json(path / "metrics.json", lambda metrics: metrics.update(fingerprint=content))
    assert json.loads((path / "run.json").read_text())["schema"] == 1
    return path


def test_a_run_of_schema_1_is_checked(stored: Path, host: PluginHost) -> None:
    verdict = check_run(open_run(stored), host.model("toy_squares"), host)

    assert verdict.obstacles[0].startswith("The step adaround was cut short: engine aimet")
    assert {"fp32", "w8a8", "optimized_w8a8"} <= {finding.stage for finding in verdict.findings}


def test_a_run_of_schema_1_is_compared_and_scored_again(stored: Path, host: PluginHost) -> None:
    (pair,) = compare(CompareRequest(run=stored, num_resamples=100), host).pairs
    metrics = open_run(stored).complete_metrics

    assert (pair.before, pair.after) == ("fp32", "w8a8")
    assert pair.overall.before == pytest.approx(metrics.stages["fp32"].scores[HEADLINE].headline)
    assert pair.overall.after == pytest.approx(metrics.stages["w8a8"].scores[HEADLINE].headline)
    scores = rescore(RescoreRequest(source=stored), host).stages
    assert scores["w8a8"][HEADLINE].headline == pytest.approx(pair.overall.after)


def test_a_run_of_schema_1_is_verified_and_its_scores_follow_from_its_predictions(
    stored: Path, host: PluginHost
) -> None:
    states = {check.what: check.state for check in verify(open_run(stored), host)}

    assert (states["record"], states["image list"], states["data"]) == ("holds", "holds", "holds")
    assert (states["scores"], states["files"], states["predictions"]) == ("holds", "unchecked", "unchecked")


def test_a_run_of_schema_1_has_a_report(stored: Path, host: PluginHost) -> None:
    from zoo_core.report.html import write_report

    page = write_report(stored, host=host).read_text(encoding="utf-8")

    assert "optimized_w8a8" in page
    assert "unknown to this version" not in page
