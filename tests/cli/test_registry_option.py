"""``--registry FILE``: one entry of an installed plugin's family, without a package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo_core.cli.main import run_command_line

ENTRY = """schema: 1
models:
  my_detector:
    plugin: ssd_mobilenetv2_lite
    task: detection
    description: The bundled network on data of our own.
    dataset: {name: VOC2007, layout: voc, split: test, calibration_split: trainval}
    recipe: w8a8_tf_enhanced_cle_adaround
    recipes: package:ssd_mobilenetv2_lite/recipes
    headline: voc07_11pt/pytorch-ssd
"""


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(ENTRY, encoding="utf-8")
    return path


def test_a_registry_file_adds_its_models_for_one_call(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["show", "my_detector", "--registry", str(registry)]) == 0
    assert "The bundled network on data of our own." in capsys.readouterr().out
    assert run_command_line(["list", "--registry", str(registry), "--json"]) == 0
    assert "my_detector" in [row["model"] for row in json.loads(capsys.readouterr().out)["models"]]
    assert run_command_line(["show", "my_detector"]) == 2


def test_commands_on_a_run_find_the_model_in_the_registry_file_that_it_used(
    registry: Path, voc: Path, untrained_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    arguments = ["my_detector", "--registry", str(registry), "--data", str(voc), "--labels", str(voc / "labels.txt")]
    arguments += ["--checkpoint", str(untrained_weights), "--stages", "fp32", "--out", run, "--quiet"]
    assert run_command_line(["run", *arguments]) == 0
    capsys.readouterr()

    assert run_command_line(["rescore", run, "--json"]) == 0
    assert run_command_line(["verify", run]) == 0
    assert run_command_line(["report", run]) == 0
    assert run_command_line(["run", "--resume", run]) == 0
    assert "is complete; there is nothing to resume." in capsys.readouterr().err

    registry.unlink()
    assert run_command_line(["check", run]) == 2
    assert f"No plugin has the model 'my_detector', and its registry file {registry} does not exist." in " ".join(
        capsys.readouterr().err.split()
    )
