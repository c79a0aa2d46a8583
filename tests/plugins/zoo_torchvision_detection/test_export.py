"""Each detector as an integer graph: every layer gives the simulation's integers, except for rounding ties."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from quantization.conftest import Batches
from strong_detectors import NUM_COLUMNS, strong_detector
from zoo_core.datasets.shapes import draw_image
from zoo_core.datatypes import ModelEntry, QuantNetwork, StepContext
from zoo_core.plugins import PluginHost
from zoo_core.quantization import pipeline
from zoo_core.quantization.export import ExportedGraph, export_qdq
from zoo_core.quantization.integers import IntegerNetwork
from zoo_core.recipes import override
from zoo_core.runtimes.onnxruntime import OnnxSession
from zoo_core.runtimes.parity import compare_layers, cut_at_quantizers
from zoo_torchvision_detection.model import take_apart

ENTRIES = [entry for entry in PluginHost().catalog().values() if entry.plugin == "torchvision_detection"]
TIE = 1e-3
"""Largest distance from the middle of two steps, in steps, at which float sums in another order may round otherwise."""


def quantized(entry: ModelEntry, settings: list[str], work_dir: Path) -> tuple[IntegerNetwork, torch.Tensor]:
    """Return the simulated network under the entry's recipe, weights rounded to nearest, and two images."""
    host = PluginHost()
    bundle = take_apart(strong_detector(entry.options["builder"]), np.arange(NUM_COLUMNS) - 1, "cpu")
    images = torch.from_numpy(np.stack([bundle.preprocess(draw_image("test", index).image) for index in range(2)]))
    plan = pipeline.plan(override(host.recipe(entry, entry.recipe), settings), host.recipe_steps())
    steps = tuple(bound for bound in plan.steps if bound.step.name != "adaround")
    context = StepContext(
        example_input=images[:1],
        calibration=Batches(images, 1),
        quant=dataclasses.replace(plan.quant, quant_scheme="tf"),  # the quickest way to find ranges
        seed=0,
        work_dir=work_dir,
        progress=lambda *_: None,
    )
    network = QuantNetwork(network=bundle.network)
    *_, last = pipeline.walk(dataclasses.replace(plan, steps=steps), network, lambda: context)
    simulation = pipeline.simulate(last.network, context)
    assert simulation.effect["same_as_aimet"] is True
    return IntegerNetwork.from_encodings(simulation.prepared, simulation.encodings), images


def distances_from_ties(exported: ExportedGraph, own: IntegerNetwork, x: torch.Tensor) -> NDArray[np.float64]:
    """Distances, in steps, from the nearest tie, of the values that ONNX Runtime rounds to another integer."""
    cut = onnx.load_model_from_string(cut_at_quantizers(exported.model))
    nodes = [node for node in cut.graph.node if node.op_type == "QuantizeLinear"]
    known = {one.name for one in (*cut.graph.output, *cut.graph.input)}
    for name in {node.input[0] for node in nodes} - known:
        cut.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    integers = own.integers(x)
    given = {f"{node.output[0]}.given": integers[node.output[0]].astype(np.uint8) for node in nodes}
    found = {"input": x.numpy(), **OnnxSession(cut.SerializeToString(), optimize=False)({"input": x.numpy(), **given})}
    scales = {one.name: numpy_helper.to_array(one) for one in cut.graph.initializer}
    distances = []
    for node in nodes:
        steps = found[node.input[0]].astype(np.float64) / scales[node.input[1]]
        differs = found[node.output[0]].astype(np.int64) != integers[node.output[0]]
        distances.append(np.abs(steps[differs] - np.floor(steps[differs]) - 0.5))
    return np.concatenate(distances)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[], ["quantsim.input=quantized"]], ids=["recipe", "quantized input"])
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry.model_id))
def test_every_layer_of_a_detector_gives_the_integers_of_the_simulation(
    entry: ModelEntry, settings: list[str], tmp_path: Path
) -> None:
    own, images = quantized(entry, settings, tmp_path)
    exported = export_qdq(own, images[:1], batch_size=None)

    model = onnx.load_model_from_string(exported.model)
    onnx.checker.check_model(model, full_check=True)
    readers = [node.op_type for node in model.graph.node if "input" in node.input]
    assert (readers == ["QuantizeLinear"]) == bool(settings)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    stored = {one.name: one.data_type for one in model.graph.initializer}
    weights = {node.output[0]: stored.get(node.input[0]) for node in model.graph.node if node.op_type.startswith("Deq")}
    assert {weights[node.input[1]] for node in convolutions} == {onnx.TensorProto.INT8}

    session = OnnxSession(cut_at_quantizers(exported.model), optimize=False)
    found = compare_layers(session, images.numpy(), own.integers(images), input_name="input")
    assert len(found) >= len(convolutions)
    assert max(one.max_lsb for one in found) <= 1
    assert sum(one.num_differing for one in found) <= 1e-5 * sum(one.num_values for one in found)
    assert distances_from_ties(exported, own, images).max(initial=0.0) <= TIE
