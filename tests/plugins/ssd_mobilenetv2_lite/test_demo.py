"""The README's first command, as a newcomer types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo_core.cli.main import run_command_line


@pytest.mark.slow
def test_the_demo_needs_no_option_and_no_network_and_reaches_its_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    assert run_command_line(["run", "ssd_mobilenetv2_lite_shapes", "--offline"]) == 0

    shown = capsys.readouterr().out
    (run_dir,) = (tmp_path / "runs" / "ssd_mobilenetv2_lite_shapes").iterdir()
    for words in ("fp32", "w8a8", "optimized_fp32", "optimized_w8a8", "classes with the largest drop"):
        assert words in shown
    assert f"report: {run_dir / 'report.html'}" in shown
    assert 100_000 < (run_dir / "report.html").stat().st_size < 5_000_000
    stages = json.loads((run_dir / "metrics.json").read_text())["stages"]
    per_class = {name: stage["metrics"]["voc07_11pt/pytorch-ssd"]["per_class"] for name, stage in stages.items()}
    assert any(abs(per_class["fp32"][name] - value) > 0.002 for name, value in per_class["w8a8"].items())
    assert run_command_line(["check", str(run_dir)]) == 0, capsys.readouterr().out


@pytest.mark.slow
def test_every_stage_of_the_demo_is_reproduced_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    small = ["--limit", "10", "--calibration-size", "12", "--no-report", "--out", "run"]
    assert run_command_line(["run", "ssd_mobilenetv2_lite_shapes", "--offline", *small]) == 0
    capsys.readouterr()

    assert run_command_line(["reproduce", "run", "--out", "again", "--workers", "0", "--json"]) == 0

    content = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in content["stages"]] == ["fp32", "w8a8", "optimized_fp32", "optimized_w8a8"]
    assert all(stage["predictions"]["num_rows"] > 100 for stage in content["stages"])
    assert content["conditions"] == []
    encodings = [Path(run, "quantized", "encodings.json").read_bytes() for run in ("run", "again")]
    assert encodings[0] == encodings[1]
