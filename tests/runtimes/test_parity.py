"""Parity: a planted fault is named at its layer and at no other, and what computes the same raises no alarm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from runtimes.networks import QUANTIZED, conv_net, images, simulate
from runtimes.planting import FAULTS, Graph, activation_zero_point_off_by_one, applicable, channels_last
from zoo_core import api
from zoo_core.datatypes import LoadOptions
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.plugins import PluginHost
from zoo_core.quantization.export import export_qdq
from zoo_core.quantization.integers import IntegerNetwork
from zoo_core.results.export import _integer_network
from zoo_core.results.stored import open_run
from zoo_core.runtimes.onnxruntime import OnnxRuntime
from zoo_core.runtimes.parity import Parity, measure_parity


@dataclass(frozen=True, eq=False)
class Case:
    """An exported network with images for it."""

    integers: IntegerNetwork
    model: bytes
    x: NDArray[np.float32]

    def parity(self, model: bytes | None = None, **given: Any) -> Parity:
        return measure_parity(OnnxRuntime(), model or self.model, self.x, partial(simulate, self.integers), **given)


@cache
def small(*, per_channel: bool = True, batch_size: int | None = 1) -> Case:
    integers = conv_net(per_channel=per_channel)
    exported = export_qdq(integers, images(), batch_size=batch_size)
    return Case(integers, exported.model, images(4).numpy())


def places(model: bytes, fault: str) -> list[str]:
    """Return the first, the middle and the last layer for a fault, and the first depthwise one."""
    layers = applicable(model, fault)
    graph = Graph(model)
    linear = [one for one in layers if one in graph.layers()]
    depthwise = [one for one in linear if graph.value(graph.weight(one)[0]).shape[1] == 1]
    return list(dict.fromkeys([layers[0], layers[len(layers) // 2], layers[-1], *depthwise[:1]]))


def test_a_network_without_a_fault_has_no_layer_over_the_threshold() -> None:
    found = small().parity()

    assert tuple(one.name for one in found.layers) == QUANTIZED
    assert found.first_over_threshold is None
    assert all(one.max_lsb <= 1 for one in found.layers)
    assert [one.name for one in found.outputs] == ["output_0", "output_1"]
    assert all(one.cosine is not None and one.cosine > 0.999 for one in found.outputs)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_fault_is_named_at_its_layer_and_no_other(fault: str, per_channel: bool) -> None:
    case = small(per_channel=per_channel)
    layers = applicable(case.model, fault)
    assert layers or (fault == "scales" and not per_channel)

    for layer in layers:
        found = case.parity(FAULTS[fault](case.model, layer))
        behind = {"plus", "widen", "clip", "project", "head"} if fault == "activation zero point" else set()
        assert found.first_over_threshold == layer
        assert {one.name for one in found.over_threshold} <= {layer} | behind  # they read with the wrong zero point


def test_faults_are_planted_in_every_kind_of_layer() -> None:
    planted = {fault: set(applicable(small().model, fault)) for fault in FAULTS}

    assert planted["activation zero point"] == set(QUANTIZED)
    assert planted["bias"] == planted["weight zero point"] == {"relu6", "clip", "project", "widen", "head"}
    assert planted["clips"] == {"relu6", "clip"}
    assert planted["kernel"] == {"relu6", "clip", "widen", "head"}


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_graph_with_channels_last_has_the_same_counts(per_channel: bool) -> None:
    case = small(per_channel=per_channel)
    rewritten = channels_last(case.model)
    shapes = {value.name: value for value in onnx.load_model_from_string(rewritten).graph.input}
    assert [dim.dim_value for dim in shapes["input"].type.tensor_type.shape.dim] == [1, 8, 8, 3]

    found, ordinary = case.parity(rewritten), case.parity()

    assert found.first_over_threshold is None
    assert found.layers == ordinary.layers
    assert [one.sqnr_db for one in found.outputs] == pytest.approx([one.sqnr_db for one in ordinary.outputs], abs=1)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_in_a_graph_with_channels_last_too(fault: str) -> None:
    case = small()
    for layer in applicable(case.model, fault):
        assert case.parity(channels_last(FAULTS[fault](case.model, layer))).first_over_threshold == layer


def test_the_agreement_of_outputs_does_not_tell_a_fault_from_rounding() -> None:
    case = small()
    sound = case.parity()
    faulty = case.parity(activation_zero_point_off_by_one(case.model, "head"))

    # The output that does not depend on the faulty layer is as good as before, and the other one looks healthy too.
    assert faulty.outputs[1] == sound.outputs[1]
    assert faulty.outputs[0].cosine is not None
    assert faulty.outputs[0].cosine > 0.999
    assert faulty.first_over_threshold == "head"


def test_images_are_computed_in_the_batches_of_the_graph_and_summed() -> None:
    alone, pairs, any_number = (small(batch_size=size).parity() for size in (1, 2, None))

    assert alone.num_images == pairs.num_images == any_number.num_images == 4
    assert [one.num_values for one in alone.layers] == [2048, 2048, 1536, 2048, 2048, 1024]
    assert [one.num_values for one in pairs.layers] == [one.num_values for one in alone.layers]
    assert any_number == alone
    with pytest.raises(RuntimeUnsupportedError, match="4 images cannot be computed in batches of 3"):
        small(batch_size=3).parity()


def test_what_only_the_simulation_has_is_listed_and_what_only_the_graph_has_is_refused() -> None:
    case = small()
    with_repeat = conv_net()
    found = measure_parity(
        OnnxRuntime(), case.model, case.x, lambda x: extended(simulate(with_repeat, x), "clip:1", "clip")
    )
    assert found.not_in_graph == ("clip:1",)

    renamed = onnx.load_model_from_string(case.model)
    for node in renamed.graph.node:
        node.input[:] = ["projekt" if name == "project" else name for name in node.input]
        node.output[:] = ["projekt" if name == "project" else name for name in node.output]
    message = "lacks 1 quantized tensors of the graph: projekt; the closest is 'project'"
    with pytest.raises(RuntimeUnsupportedError, match=message):
        case.parity(renamed.SerializeToString())


def extended(simulated: Any, name: str, like: str) -> Any:
    integers = {**simulated.integers, name: simulated.integers[like]}
    return type(simulated)(integers=integers, outputs=simulated.outputs)


def test_a_graph_of_another_network_is_refused_by_shape() -> None:
    case = small()
    other = export_qdq(case.integers, torch.zeros(1, 3, 12, 12)).model
    with pytest.raises(
        RuntimeUnsupportedError, match=r"another shape .* input is \(1, 3, 12, 12\), simulated \(1, 3, 8"
    ):
        case.parity(other)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda values: values[..., :4], r"returns relu6 as uint8 with shape \(1, 8, 8, 4\); .* shape \(1, 8, 8, 8\)"),
        (lambda values: values.astype(np.float32), "returns relu6 as float32"),
    ],
)
def test_a_runtime_that_returns_something_else_is_refused(wrong: Any, message: str) -> None:
    class Wrong(OnnxRuntime):
        def load(self, model: bytes, options: LoadOptions) -> Any:
            session = super().load(model, options)
            return lambda inputs: {name: wrong(values) for name, values in session(inputs).items()}

    case = small()
    with pytest.raises(RuntimeUnsupportedError, match=message):
        measure_parity(Wrong(), case.model, case.x, partial(simulate, case.integers))


def test_a_graph_without_quantizers_is_refused() -> None:
    case = small()
    model = onnx.load_model_from_string(case.model)
    kept = [node for node in model.graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    with pytest.raises(RuntimeUnsupportedError, match="no quantized activation"):
        case.parity(model.SerializeToString())


def test_thresholds_are_the_callers_choice() -> None:
    case = small()
    model = FAULTS["bias"](case.model, "head")  # 16 LSB in one of four channels
    assert case.parity(model).first_over_threshold == "head"
    assert case.parity(model, lsb_threshold=16, differing_threshold=0.3).first_over_threshold is None
    assert case.parity(model, lsb_threshold=16, differing_threshold=0.2).first_over_threshold == "head"


# ------------------------------------------------------------------ bundled models


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Quantize a bundled model by its recipe, once per module."""

    @cache
    def quantized(model: str) -> Case:
        host = PluginHost()
        run = open_run(api.quantize(model, out=tmp_path_factory.mktemp("run") / "run", host=host).run_dir)
        bundle, integers = _integer_network(run, host)
        entry = host.recorded_model(run.record.model, run.record.registry)
        dataset = run.open_dataset(entry, host)
        x = np.stack([bundle.preprocess(dataset.image(one)) for one in dataset.ids[:2]])
        return Case(integers, export_qdq(integers, bundle.example_input).model, x)

    return quantized


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "clips"])
def test_a_fault_in_a_bundled_classifier_is_named_at_its_layer(fault: str, bundled: Any) -> None:
    case = bundled("torchvision_mobilenet_v2_shapes")
    assert case.parity().first_over_threshold is None
    for layer in places(case.model, fault):
        assert case.parity(FAULTS[fault](case.model, layer)).first_over_threshold == layer


@pytest.mark.slow
def test_a_dropped_clip_of_a_bundled_detector_is_named_where_the_images_reach_it(bundled: Any) -> None:
    case = bundled("ssd_mobilenetv2_lite_shapes")
    assert case.parity().first_over_threshold is None
    for layer in ("base_net.1.conv.2", "base_net.4.conv.5", "base_net.13.conv.5", "regression_headers.0.2"):
        assert case.parity(FAULTS["clips"](case.model, layer)).first_over_threshold == layer
    for layer in ("base_net.0.2", "classification_headers.4.2"):
        assert case.parity(FAULTS["clips"](case.model, layer)).first_over_threshold is None


@pytest.mark.slow
@pytest.mark.parametrize("model", ["torchvision_mobilenet_v2_shapes", "ssd_mobilenetv2_lite_shapes"])
def test_a_bundled_model_with_channels_last_has_the_same_counts(model: str, bundled: Any) -> None:
    case = bundled(model)
    found, ordinary = case.parity(channels_last(case.model)), case.parity()
    assert found.first_over_threshold is None
    assert found.layers == ordinary.layers
