from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from zoo_core.cli.main import run_command_line


@pytest.mark.parametrize(("num", "text"), [(1, "1 plugin cannot be used"), (2, "2 plugins cannot be used")])
def test_plugins_that_cannot_be_used_are_counted(
    num: int, text: str, break_plugins: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    break_plugins(num)

    assert run_command_line(["list"]) == 0
    assert capsys.readouterr().err.startswith(text)


def test_the_broken_plugins_are_listed_with_their_cause(
    break_plugins: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    break_plugins(1)

    assert run_command_line(["list", "--broken", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["broken"]
    assert row["plugin"] == "broken_0"
    assert "zoo_hook_of_tomorrow" in row["cause"]
    assert run_command_line(["list", "--broken"]) == 0
    assert capsys.readouterr().out.startswith("broken_0: ")
