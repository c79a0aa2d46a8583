"""Runs under ``--require-full-quantization``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from toy_detector.model import ToyNetwork
from zoo_core import api
from zoo_core.cli.commands import cli
from zoo_core.errors import RecipeError
from zoo_core.plugins import PluginHost

MESSAGE = r"w8a8: 1 operation \(tanh in \(network\)\) not quantized, 0.0 % of the MACs and 0.0 % of the parameters."


@pytest.fixture
def branching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the toy detector compute a function that torch.fx cannot find."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.clip(self.norm(self.pool(x)))
        y: torch.Tensor = self.head(x.tanh() if not bool(x.detach().isnan().any()) else -x)
        return y

    monkeypatch.setattr(ToyNetwork, "forward", forward)


@pytest.mark.usefixtures("branching")
@pytest.mark.parametrize("command", [api.evaluate, api.quantize], ids=["run", "quantize"])
def test_an_operation_in_float_stops_the_run(
    command: Any, host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    given = {"data": grid, "checkpoint": weights, "out": tmp_path / "run", "host": host}
    with pytest.raises(RecipeError, match=MESSAGE) as caught:
        command("toy_squares", require_full_quantization=True, **given)
    assert "leave out --require-full-quantization" in caught.value.fix
    assert caught.value.exit_code == 2
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.usefixtures("branching")
@pytest.mark.parametrize("command", [api.evaluate, api.quantize], ids=["run", "quantize"])
def test_without_the_option_it_is_a_warning(
    command: Any, host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    given = {"data": grid, "checkpoint": weights, "out": tmp_path / "run", "host": host}
    command("toy_squares", settings=["cross_layer_equalization.min_layer_sets=0"], **given)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "complete"
    assert any("1 operation (tanh in (network)) not quantized" in text for text in record["warnings"])


@pytest.mark.parametrize("command", [api.evaluate, api.quantize], ids=["run", "quantize"])
def test_a_network_that_is_quantized_completely_passes(
    command: Any, host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    given = {"data": grid, "checkpoint": weights, "out": tmp_path / "run", "host": host}
    command("toy_squares", require_full_quantization=True, **given)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "complete"
    assert not any("not quantized" in text for text in record["warnings"])


@pytest.mark.parametrize("command", ["run", "quantize"])
def test_both_commands_have_the_option(command: str) -> None:
    text = CliRunner().invoke(cli, [command, "--help"]).output
    assert "--require-full-quantization" in text
