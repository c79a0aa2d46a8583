from __future__ import annotations

import json
from typing import Any

import pytest

from zoo_core.cli.main import run_command_line
from zoo_core.plugins import PluginHost


def break_plugins(monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    class Host(PluginHost):
        def __init__(self) -> None:
            super().__init__(installed=False)
            for index in range(num):
                too_new: Any = type("TooNew", (), {"ZOO_API_VERSION": 99})()
                self.register(too_new, f"broken_{index}")

    monkeypatch.setattr("zoo_core.plugins.PluginHost", Host)


@pytest.mark.parametrize(("num", "text"), [(1, "1 plugin cannot be used"), (2, "2 plugins cannot be used")])
def test_plugins_that_cannot_be_used_are_counted(
    num: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_plugins(monkeypatch, num)

    assert run_command_line(["list"]) == 0
    assert capsys.readouterr().err.startswith(text)


def test_the_broken_plugins_are_listed_with_their_cause(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_plugins(monkeypatch, 1)

    assert run_command_line(["list", "--broken", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["broken"]
    assert row["plugin"] == "broken_0"
    assert "needs version 99" in row["cause"]
    assert run_command_line(["list", "--broken"]) == 0
    assert capsys.readouterr().out.startswith("broken_0: ")


def test_a_broken_plugin_fails_the_doctor_with_its_traceback_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_plugins(monkeypatch, 1)

    assert run_command_line(["doctor"]) == 2
    brief = capsys.readouterr().out
    assert "FAIL  plugin broken_0: " in brief
    assert "Traceback" not in brief
    assert run_command_line(["doctor", "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().out
