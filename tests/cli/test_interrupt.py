"""Ctrl-C during a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zoo_core.cli.main import run_command_line
from zoo_core.cli.signals import RAPID_S, termination_interrupts

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


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "zoo_core.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def five_times(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C five times in quick succession, and return what is printed on stderr."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    return process.communicate()[1]


@pytest.mark.parametrize("module", ["torch", "click", "aimet_torch"])
def test_rapid_ctrl_c_while_a_library_is_imported_prints_no_traceback(
    module: str, arguments: Arguments, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            open({str(tmp_path / 'importing')!r}, 'w').close()\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
        process = start(arguments())
    while process.poll() is None and not (tmp_path / "importing").exists():
        time.sleep(0.001)
    printed = five_times(process)

    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    "moment",
    [
        "predictions/fp32",
        pytest.param("quantized", marks=pytest.mark.slow),
        pytest.param("metrics", marks=pytest.mark.slow),
    ],
)
def test_rapid_ctrl_c_during_a_run_is_recorded_once(moment: str, arguments: Arguments, tmp_path: Path) -> None:
    """While a stage runs, before AdaRound's network is saved, and just before the final writes."""
    run = tmp_path / "run"
    last_prediction = "predictions/optimized_w8a8/chunk-00000.parquet"
    awaited = {"quantized": "predictions/w8a8", "metrics": last_prediction}.get(moment, moment)
    process = start([*arguments(calibration_size=2), "--no-cache", "--no-report"])
    while process.poll() is None and not (run / awaited).exists():
        time.sleep(0.001)
    if moment == "quantized":
        time.sleep(1)  # into equalization and AdaRound
    printed = five_times(process)

    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert printed.endswith(f"interrupted\n  resume with: zoo-eval run --resume {run}\n")
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert record["finished"] is not None
    assert not list(run.rglob(".*.partial"))


@pytest.fixture
def usual_interrupts() -> Iterator[None]:
    """Python's own handler of SIGINT; a shell starts background jobs with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Signalled:
    """Sends a signal to this process when it is destroyed; Python cannot raise exceptions there."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)  # the handler runs here


@pytest.mark.usefixtures("usual_interrupts")
def test_an_interrupt_that_python_swallows_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    with termination_interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it arrives at any moment
            Signalled()
            for _ in range(1000):
                time.sleep(0.01)
        assert interrupts.arrived

    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("usual_interrupts")
def test_a_later_interrupt_is_raised_again() -> None:
    with termination_interrupts():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # at once: ignored
        time.sleep(RAPID_S)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_resumed_run_prints_what_the_run_would_have_printed(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a run"

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("zoo_core.evaluation.stage_runner.predict", interrupt)
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
