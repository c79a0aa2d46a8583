"""``zoo-eval export``: files of a run's network, their comparison with the simulation, and what bad input gets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from toy_detector import data as toy_data
from toy_detector.model import untrained
from zoo_core import api, artifacts
from zoo_core.cli.main import run_command_line
from zoo_core.errors import RunError
from zoo_core.plugins import PluginHost

MOST_DIFFERING = 0.002
"""Largest share of a layer's values that rounding ties change."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy with its optimized quantized stage."""
    from toy_detector import hooks as toy_detector

    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    folder = tmp_path_factory.mktemp("export")
    grid = toy_data.write(folder / "grid")
    weights = folder / "toy.safetensors"
    artifacts.save_state_dict(weights, untrained(2).state_dict(), {})
    options: dict[str, Any] = {"data": grid, "checkpoint": weights, "report": False, "cache": False, "host": host}
    made = api.evaluate("toy_squares", out=folder / "run", stages="optimized_w8a8", **options)
    return made.run_dir


def test_a_run_is_exported_with_every_layer_as_simulated(
    run: Path, host: PluginHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["export", str(run), "--out", str(tmp_path / "out"), "--json"]) == 0

    content = json.loads(capsys.readouterr().out)
    assert content["model"] == str(tmp_path / "out" / "model.onnx")
    assert content["encodings"] is None
    assert content["compared_on"] == "image test_000"
    assert content["layers"]
    assert all(layer["differing"] <= MOST_DIFFERING and layer["max_lsb"] <= 1 for layer in content["layers"])
    # The file of the run itself is the same graph.
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (run / "quantized" / "model.onnx").read_bytes()


def test_the_terminal_shows_clips_and_layers(
    run: Path, host: PluginHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["export", str(run), "--out", str(tmp_path / "out"), "--batch", "dynamic"]) == 0

    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "layers give the simulation's integers on image test_000" in printed
    assert "clips removed because the grid implies them" in printed
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("kind", ["encodings-1.0.0", "encodings-2.0.0"])
def test_encodings_are_written_beside_a_float_graph(
    run: Path, host: PluginHost, tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    result = api.export(run, kind=kind, out=tmp_path / "out", host=host)

    assert result.encodings == tmp_path / "out" / "model.encodings"
    content = json.loads(result.encodings.read_text())
    assert content["version"] == kind.removeprefix("encodings-")
    assert result.layers == ()
    assert run_command_line(["export", str(run), "--format", kind, "--out", str(tmp_path / "again")]) == 0
    assert "model.encodings" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["encodings-1.0.0", "encodings-2.0.0"])
@pytest.mark.parametrize(("option", "what"), [("int32_bias", "biases"), ("integer_clips", "clips")])
def test_integer_biases_and_clips_are_refused_where_the_format_has_none(
    run: Path, host: PluginHost, tmp_path: Path, kind: Any, option: str, what: str
) -> None:
    options: dict[str, Any] = {option: True}
    with pytest.raises(RunError, match=f"{kind} has no integer {what}"):
        api.export(run, kind=kind, out=tmp_path / "out", host=host, **options)
    assert not (tmp_path / "out").exists()


def test_without_the_data_layers_are_compared_on_noise(
    run: Path, host: PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Path(json.loads((run / "run.json").read_text())["dataset"]["root"])
    grid.rename(tmp_path / "elsewhere")
    try:
        found = api.export(run, out=tmp_path / "out", host=host)
        named = api.export(run, out=tmp_path / "named", data=tmp_path / "elsewhere", host=host)
    finally:
        (tmp_path / "elsewhere").rename(grid)

    assert found.compared_on == "noise"
    assert named.compared_on == "image test_000"


def test_a_run_without_a_quantized_network_is_refused(
    run: Path, host: PluginHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((run / "run.json").read_text())
    given: dict[str, Any] = {"data": record["dataset"]["root"], "checkpoint": record["checkpoint"]["path"]}
    api.evaluate("toy_squares", out=tmp_path / "float", stages="fp32", report=False, host=host, **given)

    with pytest.raises(RunError, match=r"has quantized nothing|no optimized quantized stage"):
        api.export(tmp_path / "float", out=tmp_path / "out", host=host)
    assert run_command_line(["export", str(tmp_path / "float")]) == 2
    assert "optimized_w8a8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["encodings.json", "network.safetensors"])
def test_a_network_that_was_altered_is_refused(run: Path, host: PluginHost, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    content = bytearray((copy / "quantized" / name).read_bytes())
    content[-9] ^= 1
    (copy / "quantized" / name).write_bytes(content)

    with pytest.raises(RunError, match=f"quantized/{name} has changed"):
        api.export(copy, out=tmp_path / "out", host=host)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_not_written_into(run: Path, host: PluginHost, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not empty"):
        api.export(run, out=tmp_path, host=host)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("ssd_mobilenetv2_lite_shapes", ()),
        ("ssd_mobilenetv2_lite_shapes", ("quantsim.param_bw=4",)),
        ("torchvision_mobilenet_v2_shapes", ()),
        ("torchvision_mobilenet_v2_shapes", ("quantsim.output_bw=16",)),
    ],
)
def test_a_bundled_model_is_quantized_and_exported(
    model: str, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = api.export(model, settings=settings, out=tmp_path / "out")

    assert len(result.layers) > 20
    # Two steps of a 16-bit grid are as near as one of 8 bits is not: sums in another order already reach them.
    assert all(layer.max_lsb <= 1 for layer in result.layers)
    allowed = 0.02 if "quantsim.output_bw=16" in settings else MOST_DIFFERING
    assert {layer.name for layer in result.layers if layer.differing > allowed} == set()
