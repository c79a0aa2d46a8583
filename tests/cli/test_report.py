from __future__ import annotations

import json
from pathlib import Path

import pytest

from report.synthetic import write_run
from toy_detector.data import GridDataset
from zoo_core.cli.main import run_command_line

pytestmark = pytest.mark.usefixtures("toy")


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
