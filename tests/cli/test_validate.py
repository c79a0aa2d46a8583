"""``zoo-eval validate``: the checklist, its JSON, and its exit code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from conformance.faulty_toy import FaultyToy
from toy_detector import hooks as toy
from zoo_core.cli.main import run_command_line
from zoo_core.conformance import running
from zoo_core.conformance.validate import models_named
from zoo_core.errors import RegistryError
from zoo_core.hookspecs import hookimpl
from zoo_core.plugins import PluginHost

NEED_AIMET = {"every step of the recipe runs", "everything is quantized"}


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Makes the command see one more plugin, called toy_detector, and leave out the steps, which need AIMET."""
    real_host, real_run = PluginHost, running.run_checks

    def with_plugin(plugin: object) -> None:
        def host() -> PluginHost:
            made = real_host()
            made.register(plugin, "toy_detector")
            return made

        monkeypatch.setattr("zoo_core.plugins.PluginHost", host)

    def quick(subject: Any, **options: Any) -> Any:
        return real_run(subject, [check for check in running.CHECKS if check.name not in NEED_AIMET], **options)

    monkeypatch.setattr(running, "run_checks", quick)
    return with_plugin


def checks(printed: str) -> dict[str, dict[str, Any]]:
    (model,) = json.loads(printed)["models"]
    return {check["name"]: check for check in model["checks"]}


@pytest.mark.parametrize("name", ["toy_squares", "toy_detector"])
def test_a_healthy_plugin_passes(
    name: str, register: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    register(toy)

    assert run_command_line(["validate", name]) == 0

    captured = capsys.readouterr()
    assert "toy_squares" in captured.out
    assert "26 passed, " in captured.out
    assert "failed" not in captured.out


def test_a_fault_is_shown_with_its_fix_and_exits_with_1(
    register: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    register(FaultyToy(kit=lambda kit: dataclasses.replace(kit, channels="bgr", encode=None)))

    assert run_command_line(["validate", "toy_squares"]) == 1
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "24 passed, 1 failed, 1 not checked" in printed
    assert "gives RGB, the kit declares BGR" in printed
    assert "fix: images come in RGB" in printed
    assert "Traceback" not in printed
    assert run_command_line(["validate", "toy_squares", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().out


def test_json_holds_every_check_and_nothing_else_goes_to_stdout(
    register: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    register(FaultyToy(kit=lambda kit: dataclasses.replace(kit, channels="bgr", encode=None)))

    assert run_command_line(["validate", "toy_squares", "--json"]) == 1

    captured = capsys.readouterr()
    found = checks(captured.out)
    assert json.loads(captured.out)["passed"] is False
    assert len(found) == 26
    assert found["colours arrive in the declared order"]["status"] == "failed"
    assert found["a perfect network scores as one"]["status"] == "not checked"
    assert found["a perfect network scores as one"]["found"] == "the kit of zoo_conformance has no encode"
    assert found["the plugin loads"]["status"] == "passed"


def test_a_plugin_that_cannot_be_used_is_named_with_its_cause(
    register: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    class Misspelt:
        @hookimpl
        def zoo_metrics(self) -> None: ...

    register(Misspelt())

    assert run_command_line(["validate", "toy_detector"]) == 2
    assert "'toy_detector' cannot be used: " in capsys.readouterr().err


def test_an_unknown_name_suggests_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["validate", "ssd_mobilenetv2_lit"]) == 2
    assert "the closest is 'ssd_mobilenetv2_lite'" in capsys.readouterr().err


def test_the_name_of_a_plugin_names_all_of_its_models() -> None:
    models = models_named("torchvision_classification", None, PluginHost())

    assert "torchvision_resnet18" in models
    assert len(models) > 1


def test_a_model_named_like_its_plugin_can_be_checked_by_itself() -> None:
    host, name = PluginHost(), "ssd_mobilenetv2_lite"

    assert len(models_named(name, None, host)) > 1
    assert models_named(name, "plugin", host) == models_named(name, None, host)
    assert models_named(name, "model", host) == [name]


def test_a_model_is_not_a_plugin() -> None:
    with pytest.raises(RegistryError, match="no plugin 'torchvision_resnet18' with a model"):
        models_named("torchvision_resnet18", "plugin", PluginHost())


def test_a_name_of_both_kinds_is_said_to_check_all_of_the_plugins_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "run_checks", lambda _subject, **_options: iter(()))

    assert run_command_line(["validate", "ssd_mobilenetv2_lite"]) == 0
    assert "is a model and a plugin with 2 models; checking all of them; --as model" in capsys.readouterr().err
    assert run_command_line(["validate", "ssd_mobilenetv2_lite", "--as", "model"]) == 0
    assert "checking all" not in capsys.readouterr().err
