"""Ctrl-C during a run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo_core.cli.main import run_command_line

Arguments = Callable[..., list[str]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_exits_with_the_signals_code_and_says_what_goes_on(
    number: signal.Signals, code: int, arguments: Arguments, voc: Path, tmp_path: Path
) -> None:
    ids = [f"9{index:05d}" for index in range(2000)]  # far more than run until the interrupt comes
    for image_id in ids:
        for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
            shutil.copyfile(voc / folder / f"000000.{suffix}", voc / folder / f"{image_id}.{suffix}")
    (voc / "ImageSets" / "Main" / "test.txt").write_text("\n".join(ids))
    run = tmp_path / "run"
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "zoo_core.cli.main", *arguments(stages="fp32"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A gate that runs in the background hands down "ignore SIGINT", which a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not list(run.glob("predictions/fp32/*.parquet")):
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate()

    assert process.returncode == code, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.endswith(f"interrupted\n  resume with: zoo-eval run --resume {run}\n")
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert record["finished"] is not None
    assert not (run / "metrics.json").exists()
    assert list(run.glob("predictions/fp32/chunk-*.parquet"))


def test_a_resumed_run_prints_what_the_run_would_have_printed(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a run"

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("zoo_core.evaluation.run.predict", interrupt)
        assert run_command_line([*arguments(stages="fp32", limit=2, out=run), "--json"]) == 130
    assert capfd.readouterr().err.endswith(f"resume with: zoo-eval run --resume '{run}'\n")

    assert run_command_line(["run", "--resume", str(run), "--json", "--quiet", "--no-report"]) == 0

    captured = capfd.readouterr()
    assert json.loads(captured.out)["run_dir"] == str(run)
    assert list(json.loads(captured.out)["stages"]) == ["fp32"]
    assert captured.err == ""
    assert not (run / "report.html").exists()

    assert run_command_line(["run", "--resume", str(run)]) == 0  # complete: only the report is written

    captured = capfd.readouterr()
    assert f"{run} is complete; there is nothing to resume." in captured.err
    assert "fp32" in captured.out
    assert (run / "report.html").exists()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["toy_squares"], "MODEL"),
        (["--batch-size", "1"], "--batch-size"),
        (["--seed", "0", "--offline", "--set", "a.b=1"], "--set, --seed, --offline"),
        (["--ids", "ids.txt", "--stages", "all"], "--stages, --ids"),
    ],
)
def test_resuming_takes_no_other_options(given: list[str], named: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["run", "--resume", "nowhere", *given]) == 2

    assert f"--resume continues a run with its own options; leave out {named}." in capfd.readouterr().err


def test_a_run_needs_a_model_or_a_run_to_go_on_with(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["run"]) == 2

    assert "Name a MODEL, or a run directory with --resume." in capfd.readouterr().err


def test_resuming_what_is_no_run_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["run", "--resume", str(tmp_path)]) == 2

    assert "no run was started there" in capfd.readouterr().err
