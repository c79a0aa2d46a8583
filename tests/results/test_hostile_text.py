"""Records with control sequences in every text: no command obeys them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from results.conftest import MakeRun
from zoo_core.cli.main import run_command_line

HOSTILE = "\x1b[31m\x1b]0;title\x07\x9b2J\u202e\r[red]"
_KEPT = {"schema", "status", "started", "finished", "device", "model", "task"}


def spoil(value: Any, key: str = "") -> Any:
    """Append control sequences to every text that may be any text."""
    if isinstance(value, dict):
        return {name: spoil(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [spoil(one, key) for one in value]
    is_hash = isinstance(value, str) and len(value) == 64
    return value + HOSTILE if isinstance(value, str) and key not in _KEPT and not is_hash else value


@pytest.fixture
def hostile(make_run: MakeRun) -> Path:
    run = make_run()
    for part in ("record", "warnings"):
        path = run / "run.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        record["warnings"] = [f"a warning {HOSTILE}"]
        if part == "record":
            for name in ("zoo_eval", "plugin", "recipe", "environment", "request", "git", "error"):
                record[name] = spoil(record[name], name)
            record["dataset"]["name"] += HOSTILE
        path.write_text(json.dumps(record), encoding="utf-8")
    return run


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    "command",
    [
        ["verify", "RUN"],
        ["runs", "FOLDER"],
        ["check", "RUN"],
        ["compare", "RUN", "--stages", "fp32,w8a8"],
        ["rescore", "RUN"],
        ["report", "RUN"],
        ["run", "--resume", "RUN"],
        ["reproduce", "RUN"],
        ["list", HOSTILE],
        ["show", HOSTILE],
        ["fetch", HOSTILE],
        ["validate", HOSTILE],
        [HOSTILE],
    ],
    ids=lambda command: command[0],
)
def test_no_command_prints_a_control_sequence(
    command: list[str], hostile: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"RUN": str(hostile), "FOLDER": str(hostile.parent)}

    run_command_line([given.get(word, word) for word in command])

    captured = capfd.readouterr()
    assert captured.out + captured.err
    for text in (captured.out, captured.err):
        assert not [char for char in text if not char.isprintable() and char != "\n"]


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_the_error_of_a_hostile_record_is_shown_as_text(
    status: str, hostile: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((hostile / "run.json").read_text(encoding="utf-8"))
    record |= {"status": status, "error": f"an error {HOSTILE}", "model": f"toy{HOSTILE}"}
    (hostile / "run.json").write_text(json.dumps(record), encoding="utf-8")

    for command in (["runs", str(hostile.parent)], ["check", str(hostile)], ["run", "--resume", str(hostile)]):
        run_command_line(command)

    captured = capfd.readouterr()
    assert r"toy\u001b]0;title" in captured.out
    assert not [char for char in captured.out + captured.err if not char.isprintable() and char != "\n"]
