"""EfficientNet-Lite0 as an integer graph: every layer gives the simulation's integers, padding included."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from quantization.conftest import Batches
from zoo_core import artifacts
from zoo_core.datasets.shapes import draw_image
from zoo_core.datatypes import QuantNetwork, StepContext
from zoo_core.plugins import PluginHost
from zoo_core.quantization import pipeline
from zoo_core.quantization.export import export_qdq
from zoo_core.quantization.integers import IntegerNetwork
from zoo_core.runtimes.onnxruntime import OnnxSession
from zoo_core.runtimes.parity import compare_layers, cut_at_quantizers

MODELS = ("efficientnet_lite0", "efficientnet_lite2")  # even sizes, and odd ones too


def quantized(model: str, work_dir: Path) -> tuple[IntegerNetwork, torch.Tensor]:
    """Return the trained network simulated under its recipe, weights rounded to nearest, and two images."""
    host = PluginHost()
    entry = host.model(model)
    assert entry.checkpoint is not None
    weights = artifacts.local_checkpoint(artifacts.fetch(entry.checkpoint, offline=True))
    bundle = host.load_model(entry, weights, tuple(map(str, range(1000))), "cpu")
    images = torch.from_numpy(np.stack([bundle.preprocess(draw_image("test", index).image) for index in range(2)]))
    plan = pipeline.plan(host.recipe(entry, entry.recipe), host.recipe_steps())
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


@pytest.mark.parametrize("model", MODELS)
def test_every_layer_gives_the_integers_of_the_simulation(model: str, tmp_path: Path) -> None:
    own, images = quantized(model, tmp_path)
    exported = export_qdq(own, images[:1], batch_size=None)

    graph = onnx.load_model_from_string(exported.model)
    onnx.checker.check_model(graph, full_check=True)
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    stored = {one.name: one.data_type for one in graph.graph.initializer}
    weights = {node.output[0]: stored.get(node.input[0]) for node in graph.graph.node if node.op_type.startswith("Deq")}
    assert {weights[node.input[1]] for node in convolutions} == {onnx.TensorProto.INT8}
    paddings = [node.input[1] for node in graph.graph.node if node.op_type == "Pad"]
    assert len(paddings) == 5
    assert set(paddings) <= set(stored)

    session = OnnxSession(cut_at_quantizers(exported.model), optimize=False)
    found = compare_layers(session, images.numpy(), own.integers(images), input_name="input")
    assert len(found) >= len(convolutions)
    assert max(one.max_lsb for one in found) <= 1
    # Sums in another order round a tie otherwise, once in 100,000 values or less.
    assert sum(one.num_differing for one in found) <= 1e-5 * sum(one.num_values for one in found)
