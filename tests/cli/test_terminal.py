"""No text controls the terminal, and no closed or full stream stops a command."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from rich.table import Table
from rich.text import Text

from zoo_core.cli.main import run_command_line
from zoo_core.cli.terminal import SafeStream, make_console, safe_streams
from zoo_core.display import printable

Arguments = Callable[..., list[str]]
HOSTILE = "a\x1b[31m\x1b]0;title\x07b\x9b2J\u202ec\rd\x7f\udcff"
SHOWN = r"a\u001b[31m\u001b]0;title\u0007b\u009b2J\u202ec\u000dd\u007f\udcff"


class Unwritable(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.num_writes = 0

    def write(self, _text: str, /) -> int:
        self.num_writes += 1
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("text", ["plain", "two\nlines\tand a tab", "größe 東京 ✓", "no\N{NO-BREAK SPACE}break"])
def test_text_that_controls_nothing_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_control_characters_become_escapes_that_json_reads_back() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("\U000e0001") == r"\U000e0001"
    assert json.loads(printable(json.dumps("a\x7f"))) == "a\x7f"


def test_a_stream_shows_escapes_but_lets_a_library_redraw_its_bar() -> None:
    stream = io.StringIO()
    safe = SafeStream(stream)

    safe.write(HOSTILE)
    safe.write("\r 50 %\rpassed")

    assert stream.getvalue() == f"{SHOWN}\r 50 %\\u000dpassed"


def test_a_stream_writes_what_its_encoding_lacks_as_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")

    SafeStream(stream).write("größe\n")
    stream.flush()

    assert raw.getvalue() == b"gr\\xf6\\xdfe\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_everybodys_output_is_made_harmless(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with safe_streams():
        click.echo(HOSTILE, err=name == "stderr")
        print(HOSTILE, file=getattr(sys, name))
        console = make_console(stderr=name == "stderr", width=200)
        console.print(Text(HOSTILE))
        table = Table("column")
        table.add_row(Text(HOSTILE))
        console.print(table)

    captured = capsys.readouterr()
    printed = captured.out if name == "stdout" else captured.err
    assert printed.count(r"\u001b]0") == 4
    assert all(char.isprintable() or char == "\n" for char in printed)


def test_a_console_keeps_its_own_colors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    with safe_streams():
        make_console(force_terminal=True, width=200, color_system="standard").print(Text("\x1b[2J", style="red"))

    assert capsys.readouterr().out == "\x1b[31m\\u001b[2J\x1b[0m\n"


@pytest.mark.parametrize(("number", "reported"), [(errno.EPIPE, False), (errno.ENOSPC, True)])
def test_a_stream_that_cannot_be_written_is_left_alone(
    number: int, reported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = Unwritable(number), Unwritable(number)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    with safe_streams() as flush:
        for _ in range(3):
            click.echo("result")
            click.echo("progress", err=True)
        failure = flush()

    assert (out.num_writes, err.num_writes) == (1, 1)
    assert (failure is not None) is reported


def shell(command: str) -> subprocess.CompletedProcess[str]:
    command = command.replace("zoo-eval", f"{sys.executable} -m zoo_core.cli.main")
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602 - redirections


@pytest.mark.parametrize("command", ["list", "list --json", "--help", "doctor --json"])
def test_a_full_stdout_is_a_sentence_and_exit_code_2(command: str) -> None:
    done = shell(f"zoo-eval {command} > /dev/full")

    assert done.returncode == 2, done.stderr
    assert "error: The result cannot be written to stdout: No space left on device.\n  fix: make room" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirections", [">&-", "2>&-", ">&- 2>&- <&-", "2> /dev/full"])
def test_missing_streams_do_not_matter(redirections: str) -> None:
    done = shell(f"zoo-eval list {redirections}")

    assert done.returncode == 0
    assert done.stderr == ""


def test_a_run_whose_reader_leaves_ends_complete(arguments: Arguments, tmp_path: Path) -> None:
    given = " ".join(arguments(stages="fp32", limit=2))

    done = shell(f"(zoo-eval {given} 2>&1; echo $? > {tmp_path}/code) | head -1")

    assert len(done.stdout.splitlines()) == 1
    assert (tmp_path / "code").read_text() == "0\n"
    assert done.stderr == ""
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["plugins_notified"] is True
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_run_whose_result_cannot_be_printed_is_complete(arguments: Arguments, tmp_path: Path) -> None:
    given = " ".join(arguments(stages="fp32", limit=2))

    done = shell(f"zoo-eval {given} --json > /dev/full")

    assert done.returncode == 2
    assert "The result cannot be written to stdout" in done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "complete"


def test_too_little_memory_to_import_is_a_sentence_and_exit_code_2(arguments: Arguments, tmp_path: Path) -> None:
    done = shell(f"ulimit -v 400000; zoo-eval {' '.join(arguments(stages='fp32'))}")

    assert done.returncode == 2, done.stderr
    assert "error: There is not enough memory (" in done.stderr
    assert "fix: end other programs that need memory, or raise the limit (`ulimit -v`)." in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_end_of_file_inside_is_not_taken_for_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path))

    def fail(_self: object) -> None:
        raise EOFError("ran out of input")

    monkeypatch.setattr("zoo_core.plugins.PluginHost.catalog", fail)

    assert run_command_line(["list"]) == 3
    assert "The run failed: EOFError: ran out of input" in capsys.readouterr().err
