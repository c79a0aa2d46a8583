"""The tool from Python: everything that `import zoo_core` offers is documented, and the documented calls work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

import zoo_core
from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.model import untrained
from zoo_core import artifacts
from zoo_core.api import arguments
from zoo_core.cli.commands import COMMANDS, cli
from zoo_core.errors import RunError
from zoo_core.plugins import PluginHost

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")


def test_every_public_function_is_documented() -> None:
    documented = set(re.findall(r"^\| `zoo_core\.(\w+)\(", PAGE, flags=re.MULTILINE))
    assert documented == set(zoo_core.__all__) - {"__version__", "hookimpl"}
    assert all(callable(getattr(zoo_core, name)) for name in documented)


def test_the_documentation_names_the_function_of_every_command() -> None:
    rows = re.findall(r"^\| `zoo_core\.\w+\(.*?\)` \| `([\w-]+)", PAGE, flags=re.MULTILINE)
    assert set(rows) == set(COMMANDS)


def test_parameters_with_other_names_than_their_options_are_documented() -> None:
    documented = dict(re.findall(r"^\| `(--[\w-]+)[^|]*\| `(\w+)", PAGE, flags=re.MULTILINE))
    differing = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for option in command.params:
            flag = max(option.opts, key=len)
            if flag.startswith("--") and flag[2:].replace("-", "_") not in (option.name, "json"):
                differing[flag] = option.name
    assert differing.pop("--resume") == "resumed"  # a function of its own
    assert differing.items() <= documented.items()


@pytest.mark.parametrize("given", ["fp32, w8a8", ["fp32", "w8a8", "fp32"], ("fp32", "w8a8")])
def test_names_of_stages_are_a_list_or_text(given: Sequence[str]) -> None:
    assert arguments.names(given) == ("fp32", "w8a8")


def test_one_setting_may_be_text() -> None:
    assert arguments.texts("quantsim.param_bw=4") == ("quantsim.param_bw=4",)
    assert arguments.texts(["a.b=1", "a.c=2"]) == ("a.b=1", "a.c=2")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    monkeypatch.setattr("zoo_core.plugins.PluginHost", lambda: host)
    return host


def run_block(word: str, **replaced: str) -> dict[str, Any]:
    """Run the page's block of code that contains a word, after replacing quoted text; return its names."""
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if word in code]
    for old, new in replaced.items():
        assert f'"{old}"' in code
        code = code.replace(f'"{old}"', new)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/python.md", "exec"), names)  # noqa: S102 - our own documentation
    return names


@pytest.fixture
def toy_arguments(tmp_path: Path) -> str:
    """Arguments of ``evaluate`` that run the toy instead of the page's model."""
    weights = tmp_path / "toy.safetensors"
    artifacts.save_state_dict(weights, untrained(2).state_dict(), {})
    grid = data.write(tmp_path / "grid")
    return f'"toy_squares", data="{grid}", checkpoint="{weights}", workers=0'


def test_the_documented_run_prints_a_score_and_makes_a_table(
    host: PluginHost,
    toy_arguments: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_block("DataFrame", ssd_mobilenetv2_lite_shapes=toy_arguments)
    result, table = names["result"], names["table"]
    assert list(table["stage"]) == ["fp32", "w8a8"]
    score = result.stages["w8a8"].scores["coco"].headline
    assert table["coco map"][1] == pytest.approx(score)
    printed = capsys.readouterr().out
    assert f"{result!r}\n{score}\n" in printed
    assert "drop" in repr(result)


def test_the_documented_plugin_hears_of_the_finished_run(
    host: PluginHost,
    toy_arguments: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_block("class Listener", ssd_mobilenetv2_lite_shapes=toy_arguments)
    assert names["host"] is host
    assert "complete ['fp32']" in capsys.readouterr().out


def test_the_documented_calls_work_on_a_run(host: PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifacts.save_state_dict(tmp_path / "toy.safetensors", untrained(2).state_dict(), {})
    grid = data.write(tmp_path / "grid")
    options: dict[str, Any] = {"data": str(grid), "checkpoint": "toy.safetensors", "stages": "fp32,w8a8", "workers": 0}
    made = zoo_core.evaluate("toy_squares", report=False, **options).run_dir
    names = run_block("reproduce")

    assert names["newest"].path.resolve() == made
    verdict = zoo_core.check(str(made), stages="w8a8", junit=tmp_path / "junit.xml")
    assert (tmp_path / "junit.xml").is_file()
    assert not verdict.passed  # the toy has no reference
    assert "nothing was checked" in verdict.obstacles[-1]


def test_a_run_that_is_not_there_is_named(host: PluginHost, tmp_path: Path) -> None:
    for call in (zoo_core.check, zoo_core.verify, zoo_core.compare, zoo_core.reproduce):
        with pytest.raises(RunError, match=r"has no run\.json"):
            call(tmp_path)
