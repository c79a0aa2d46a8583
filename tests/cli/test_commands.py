"""Every command is a function of the API, with the same parameters and defaults, and calls nothing else."""

from __future__ import annotations

import ast
import inspect
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import click
import pytest

import zoo_core.cli
from zoo_core import api
from zoo_core.cli.commands import COMMANDS, cli
from zoo_core.results.compare import CompareRequest
from zoo_core.results.reproduce import ReproduceRequest
from zoo_core.results.rescore import RescoreRequest
from zoo_core.runs.request import EvaluationRequest

FOLDER = Path(zoo_core.cli.__file__).parent

FUNCTIONS = {"run": "evaluate", "list": "list_models", "runs": "list_runs", "report": "write_report"}
"""Commands whose function has another name."""

OUTPUT = {"as_json", "verbose", "quiet"}
SPECIAL = {"run": {"resumed"}, "list": {"broken"}}
"""Options that choose another function: resume, list_broken_plugins."""

ALLOWED = {"api", "cli", "datatypes", "display", "errors", "plugins"}
"""Modules of the core that a command may import at run time; ``plugins`` for the type that every function takes."""


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def function(name: str) -> Any:
    return getattr(api, FUNCTIONS.get(name, name.replace("-", "_")))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_lives_in_the_module_of_its_name(name: str) -> None:
    callback = command(name).callback
    assert callback is not None
    assert callback.__module__ == f"zoo_core.cli.{name.replace('-', '_')}"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_of_a_command_is_a_parameter_of_its_function_with_the_same_default(name: str) -> None:
    parameters = inspect.signature(function(name)).parameters
    for option in command(name).params:
        if option.name in OUTPUT | SPECIAL.get(name, set()) or isinstance(option, click.Argument):
            continue
        assert option.name in parameters, option.name
        shown = option.to_info_dict()["default"]
        default = parameters[option.name].default
        assert _plain(shown) == _plain(default), option.name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_has_no_parameter_that_its_command_lacks(name: str) -> None:
    parameters = list(inspect.signature(function(name)).parameters.values())
    options = {option.name for option in command(name).params if isinstance(option, click.Option)}
    keywords = {one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}

    assert keywords - {"host", "reporter", "command"} <= options
    assert all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in parameters)


def _plain(value: Any) -> Any:
    """A default as text: nothing given is None, empty or false, whoever says it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "" if value is None or value is False or "Sentinel" in type(value).__name__ else str(value)


@pytest.mark.parametrize(
    ("made", "request_type"),
    [
        (api.evaluate, EvaluationRequest),
        (api.quantize, EvaluationRequest),
        (api.compare, CompareRequest),
        (api.rescore, RescoreRequest),
        (api.reproduce, ReproduceRequest),
    ],
)
def test_a_function_has_the_defaults_of_its_request(made: Any, request_type: Any) -> None:
    fields = request_type.__dataclass_fields__
    for name, parameter in inspect.signature(made).parameters.items():
        if name in fields and parameter.default is not inspect.Parameter.empty:
            own = fields[name]
            default = own.default if own.default is not MISSING else own.default_factory()
            assert parameter.default == default, name


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_imports_nothing_but_the_api(name: str) -> None:
    path = FOLDER / f"{name.replace('-', '_')}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    imported = {
        f"{node.module}.{alias.name}".split(".")[1]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "zoo_core"
        for alias in node.names
    }

    assert imported <= ALLOWED
