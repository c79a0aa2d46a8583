from __future__ import annotations

from collections.abc import Callable

import pytest

from zoo_core.cli.main import run_command_line


def test_a_broken_plugin_fails_the_doctor_with_its_traceback_when_asked(
    break_plugins: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    break_plugins(1)

    assert run_command_line(["doctor"]) == 2
    brief = capsys.readouterr().out
    assert "FAIL  plugin broken_0: " in brief
    assert "Traceback" not in brief
    assert run_command_line(["doctor", "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().out
