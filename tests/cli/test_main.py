from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from zoo_core import __version__
from zoo_core.cli.commands import COMMANDS, cli
from zoo_core.cli.main import run_command_line
from zoo_core.cli.run import run as run_command


def test_help_and_list_load_neither_torch_nor_aimet_nor_numpy() -> None:
    code = (
        "import sys; from zoo_core.cli.main import run_command_line; "
        "assert run_command_line([{command!r}]) == 0; "
        "heavy = {{'torch', 'aimet_torch', 'numpy', 'cv2', 'pyarrow'}} & set(sys.modules); assert not heavy, heavy"
    )
    for command in ("--help", "list", "--version"):
        arguments = [sys.executable, "-c", code.format(command=command)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_every_command_has_the_line_of_help_that_the_overview_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["--help"]) == 0

    overview = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert f"{name:<8} " in overview
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.name == name
        assert text.split(":")[0].split(",")[0][:20] in " ".join(overview.split())


def test_version_is_the_packages() -> None:
    assert __version__ in CliRunner().invoke(cli, ["--version"]).output


def test_an_unknown_command_exits_with_2_and_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["rnu", "x"]) == 2
    assert "the closest is 'run'" in capsys.readouterr().err


def test_an_unknown_model_is_one_paragraph_with_a_fix_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["run", "ssd_mobilenet_lite", "--json"]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: There is no model 'ssd_mobilenet_lite'; the closest is 'ssd_mobilenetv2_lite'" in captured.err
    assert "\n  fix: " in captured.err
    assert "Traceback" not in captured.err


def test_a_fault_of_the_tool_exits_with_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path))  # the traceback is kept there

    def fail() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("zoo_core.plugins.PluginHost.catalog", lambda _self: fail())

    assert run_command_line(["list"]) == 3
    assert "The run failed: ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo_core.plugins.PluginHost.catalog", interrupt)

    assert run_command_line(["list"]) == 130


def test_list_show_and_doctor_speak_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["list", "--json"]) == 0
    models = [row["model"] for row in json.loads(capsys.readouterr().out)["models"]]
    assert "ssd_mobilenetv2_lite" in models

    assert run_command_line(["show", "ssd_mobilenetv2_lite", "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)
    assert entry["checkpoint"]["url"].endswith("mb2-ssd-lite-mp-0_686.pth")

    assert run_command_line(["doctor", "--json"]) == 0
    assert all(check["ok"] for check in json.loads(capsys.readouterr().out)["checks"])


def test_run_offers_every_flag_that_scripts_rely_on() -> None:
    flags = {flag for parameter in run_command.params for flag in parameter.opts}

    assert {
        "--data", "--checkpoint", "--optimized-checkpoint", "--labels", "--out", "--stages", "--recipe", "--limit",
        "--batch-size", "--workers", "--device", "--seed", "--json", "--split", "--ids", "--calibration-size", "--set",
        "--offline", "--verbose", "--quiet",
    } <= flags  # fmt: skip


def test_offline_without_weights_says_how_to_get_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path))

    assert run_command_line(["fetch", "ssd_mobilenetv2_lite", "--offline"]) == 2
    assert "fix: " in capsys.readouterr().err
