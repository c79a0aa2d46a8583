"""``quantsim.input`` decides whether the model's input is quantized, whatever the configuration says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from quantization.conftest import Batches, SmallNet
from quantization.test_coverage import small_swin, small_vit
from zoo_core.datatypes import QuantNetwork, Recipe, StepContext, StepSpec
from zoo_core.errors import RecipeError
from zoo_core.quantization.aimet.simulation import Simulation
from zoo_core.quantization.attention import with_attention_modules
from zoo_core.quantization.export import export_encodings, export_qdq
from zoo_core.quantization.integers import IntegerNetwork
from zoo_core.quantization.pipeline import Plan, plan, simulate, walk
from zoo_core.quantization.saved import fixed_encodings, save_quantized
from zoo_core.recipes import load_recipe, override
from zoo_core.runtimes.onnxruntime import OnnxSession
from zoo_core.runtimes.parity import compare_layers, cut_at_quantizers


class SeveralReaders(nn.Module):
    """Two convolutions and an addition outside modules read the input."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.clip = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.clip(self.wide(x)) + self.narrow(x) + x
        return y


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, set[str]]] = {
    "convolution first": (SmallNet, 16, {"stem.0"}),
    "several readers": (SeveralReaders, 16, {"wide", "narrow", "module_add_1"}),
    "vit": (small_vit, 32, {"conv_proj"}),
    "swin": (small_swin, 40, {"features.0.0"}),
}
"""How to build each network, the side of its images, and the modules that read its input."""


def built(build: Callable[[], nn.Module]) -> QuantNetwork:
    torch.manual_seed(0)
    return QuantNetwork(network=with_attention_modules(build().eval()))


def configured(context: StepContext, size: int, *, config: str, choice: Any) -> StepContext:
    """Return ``context`` with a configuration that quantizes the input or leaves it in float, and with the choice."""
    content = json.loads(context.quant.config_file.read_text(encoding="utf-8"))
    content["model_input"] = {"is_input_quantized": "True"} if config == "quantized" else {}
    path = context.quant.config_file.with_name(f"{config}.json")
    path.write_text(json.dumps(content), encoding="utf-8")
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    quant = dataclasses.replace(context.quant, quant_scheme="tf", config_file=path, input=choice)
    return dataclasses.replace(context, example_input=images[:1], calibration=Batches(images, 1), quant=quant)


def quantized_inputs(simulation: Simulation) -> set[str]:
    """Names of the modules of which an input is quantized."""
    return {name for name, sides in simulation.encodings["activation_encodings"].items() if sides.get("input")}


@pytest.mark.parametrize(("choice", "config"), [("quantized", "float"), ("float", "quantized")])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_choice_gives_the_simulation_of_a_configuration_that_says_so(
    name: str, choice: str, config: str, context: StepContext
) -> None:
    build, size, readers = NETWORKS[name]
    other, same = (
        simulate(built(build), configured(context, size, config=one, choice=given))
        for one, given in ((config, choice), (choice, None))
    )

    assert other.encodings == same.encodings
    assert other.effect["same_as_aimet"] is True
    assert quantized_inputs(other) & readers == (readers if choice == "quantized" else set())
    assert other.coverage is not None
    reasons = {one.reason for one in other.coverage.operations if one.name == "(input)"}
    assert ("the configuration leaves the network's input in float" in reasons) == (choice == "float")


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_graph_quantizes_its_input_once_and_computes_every_layer(name: str, context: StepContext) -> None:
    build, size, _ = NETWORKS[name]
    context = configured(context, size, config="float", choice="quantized")
    simulation = simulate(built(build), context)
    own = IntegerNetwork.from_encodings(simulation.prepared, simulation.encodings)
    exported = export_qdq(own, context.example_input)

    graph = onnx.load_model_from_string(exported.model).graph
    assert [node.op_type for node in graph.node if "input" in node.input] == ["QuantizeLinear"]
    session = OnnxSession(cut_at_quantizers(exported.model), optimize=False)
    x = context.example_input
    found = compare_layers(session, x.numpy(), own.integers(x), input_name="input")
    assert sum(one.num_values for one in found) > 3 * size * size
    assert max(one.max_lsb for one in found) <= 1
    assert sum(one.num_differing for one in found) <= 1e-4 * sum(one.num_values for one in found)


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_encodings_names_the_input_once(name: str, version: Any, context: StepContext) -> None:
    build, size, _ = NETWORKS[name]
    context = configured(context, size, config="float", choice="quantized")
    simulation = simulate(built(build), context)
    own = IntegerNetwork.from_encodings(simulation.prepared, simulation.encodings)
    content = export_encodings(own, context.example_input, version).encodings

    listed = content["encodings"] if version == "2.0.0" else content["activation_encodings"]
    names = [one["name"] for one in listed]
    assert names.count("input") == 1
    assert len(set(names)) == len(names)


def test_behind_a_quantized_input_the_first_layers_have_integer_biases(context: StepContext) -> None:
    found = {}
    for choice in ("quantized", "float"):
        given = configured(context, 16, config="float", choice=choice)
        simulation = simulate(built(SeveralReaders), given)
        own = IntegerNetwork.from_encodings(simulation.prepared, simulation.encodings)
        graph = onnx.load_model_from_string(export_qdq(own, given.example_input, int32_bias=True).model).graph
        found[choice] = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.INT32}
    assert found == {"quantized": {"wide.bias.quantized", "narrow.bias.quantized"}, "float": set()}


def test_aimets_own_adaround_takes_the_choice(network: nn.Module, context: StepContext) -> None:
    plans = [
        planned(context, "adaround.engine=aimet", "adaround.num_iterations=3", *more)
        for more in ((), ("quantsim.input=quantized",))
    ]
    rounded = []
    for checked in plans:
        given = dataclasses.replace(context, quant=checked.quant)
        *_, last = walk(checked, QuantNetwork(network=network), lambda given=given: given)  # type: ignore[misc]
        rounded.append(last.network.param_encodings)
    assert rounded[0]
    assert rounded[0] == rounded[1]  # ranges of weights do not depend on the input


RECIPE = """\
schema: 1
name: own
description: d
steps:
  - step: fold_batch_norms
  - step: adaround
  - step: quantsim
    config_file: aimet_config.json
"""


def planned(context: StepContext, *settings: str) -> Plan:
    path = context.quant.config_file.with_name("recipe.yaml")
    path.write_text(RECIPE, encoding="utf-8")
    return plan(override(load_recipe(path), settings))


def test_a_setting_of_the_command_line_reaches_the_simulation(context: StepContext) -> None:
    assert planned(context).quant.input is None
    assert planned(context, "quantsim.input=quantized").quant.input == "quantized"
    assert planned(context, "quantsim.input=float", "quantsim.input=null").quant.input is None
    with pytest.raises(RecipeError, match=r"quantsim\.input: 'int8': Input should be 'float' or 'quantized'"):
        planned(context, "quantsim.input=int8")


def test_a_saved_network_carries_the_choice(network: nn.Module, context: StepContext) -> None:
    checked = planned(context, "quantsim.input=quantized")
    context = dataclasses.replace(context, quant=checked.quant)
    simulation = simulate(QuantNetwork(network=network), context)
    rounded = QuantNetwork(network=network, param_encodings=simulation.encodings["param_encodings"])

    folder = context.work_dir / "quantized"
    folder.mkdir()
    assert save_quantized(folder, rounded, simulation, checked, context.example_input) is None

    assert plan(load_recipe(folder / "recipe.yaml")).quant.input == "quantized"
    written = json.loads((folder / "encodings.json").read_text(encoding="utf-8"))
    assert list(written["activation_encodings"]["stem.0"]["input"]) == ["0"]
    graph = onnx.load(str(folder / "model.onnx")).graph
    assert {node.op_type for node in graph.node if "input" in node.input} == {"QuantizeLinear"}
    path = folder / "network.safetensors"
    assert fixed_encodings(path, checked.quant) == rounded.param_encodings
    assert fixed_encodings(path, dataclasses.replace(checked.quant, input=None)) == {}


def test_a_configuration_that_aimet_refuses_is_named_by_its_own_path(context: StepContext) -> None:
    content = json.loads(context.quant.config_file.read_text(encoding="utf-8"))
    content["defaults"]["ops"]["is_input_quantized"] = "True"
    context.quant.config_file.write_text(json.dumps(content), encoding="utf-8")
    quant = dataclasses.replace(context.quant, input="quantized")
    with pytest.raises(RecipeError, match=f"^{context.quant.config_file}: AIMET does not accept it"):
        simulate(built(SmallNet), dataclasses.replace(context, quant=quant))


def test_a_recipe_names_the_choice_in_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    recipe = load_recipe(path)
    chosen: Recipe = override(recipe, ["quantsim.input=quantized"])
    assert chosen.sha256 != recipe.sha256
    assert chosen.steps[-1] == StepSpec(
        step="quantsim", params={"config_file": "aimet_config.json", "input": "quantized"}
    )
