"""Exported graphs: what they contain, and that each layer computes the simulation's integers."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from packaging.version import Version
from torch import nn

from zoo_core.errors import CheckpointError, RecipeError
from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.export import ExportedGraph, export_encodings, export_qdq
from zoo_core.quantization.integers import IntegerNetwork
from zoo_core.runtimes.onnxruntime import OnnxSession
from zoo_core.runtimes.parity import LayerParity, compare_layers, cut_at_quantizers


def encoding(low: float, high: float, bits: int = 8, *, symmetric: bool = False) -> dict[str, Any]:
    if symmetric:
        scale, offset = max(-low, high) / (2 ** (bits - 1) - 1), -(2 ** (bits - 1))
    else:
        scale = (high - low) / (2**bits - 1)
        offset = round(low / scale)
    scale = float(np.float32(scale))
    return {"scale": scale, "offset": offset, "bitwidth": bits, "is_symmetric": str(symmetric)}


def of_weight(weight: torch.Tensor, bits: int = 8, *, axis: int | None = None) -> list[dict[str, Any]]:
    if axis is None:
        return [encoding(min(0.0, float(weight.min())), max(0.0, float(weight.max())), bits)]
    return [encoding(float(one.min()), float(one.max()), bits, symmetric=True) for one in weight.unbind(axis)]


def integers(
    network: nn.Module, outputs: dict[str, dict[str, Any]], bits: int = 8, *, per_channel: bool = False
) -> IntegerNetwork:
    """Every weight on ``bits``, and the outputs of the named modules on their encodings."""
    axes = {
        name: 1 if isinstance(module, nn.ConvTranspose2d) else 0
        for name, module in network.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
    }
    params = {
        f"{name}.weight": of_weight(
            network.get_parameter(f"{name}.weight").detach(), bits, axis=axis if per_channel else None
        )
        for name, axis in axes.items()
    }
    activations = {name: {"output": {"0": one}} for name, one in outputs.items()}
    encodings = {"param_encodings": params, "activation_encodings": activations}
    return IntegerNetwork.from_encodings(network.eval(), encodings)


def convolution(*after: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), *after, nn.Conv2d(5, 4, 1)).eval()


def image(batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def layers(exported: ExportedGraph, network: IntegerNetwork, x: torch.Tensor) -> dict[str, LayerParity]:
    session = OnnxSession(cut_at_quantizers(exported.model), optimize=False)
    return {one.name: one for one in compare_layers(session, x.numpy(), network.integers(x), input_name="input")}


def kinds(exported: ExportedGraph) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(exported.model).graph.node]


def initializers(exported: ExportedGraph) -> dict[str, onnx.TensorProto]:
    return {one.name: one for one in onnx.load_model_from_string(exported.model).graph.initializer}


@pytest.mark.parametrize("bits", [4, 5, 8, 12, 16])
@pytest.mark.parametrize("per_channel", [False, True])
def test_every_layer_gives_the_integers_of_the_simulation(bits: int, per_channel: bool) -> None:
    network = convolution(nn.ReLU6(), nn.ConvTranspose2d(5, 5, 2))
    own = integers(
        network,
        {"1": encoding(0, 2), "2": encoding(-1, 1), "3": encoding(-1.5, 1)},
        bits,
        per_channel=per_channel,
    )
    exported = export_qdq(own, image())

    found = layers(exported, own, image())

    assert list(found) == ["1", "2", "3"]
    assert all(one.num_values > 100 and one.max_lsb <= 1 for one in found.values())
    assert sum(one.num_differing for one in found.values()) <= 1


def test_the_whole_graph_gives_the_outputs_of_the_simulation() -> None:
    own = integers(convolution(nn.ReLU6()), {"1": encoding(0, 2), "2": encoding(-1, 1)})
    exported = export_qdq(own, image(), batch_size=2)

    found = OnnxSession(exported.model, optimize=False)({"input": image(2).numpy()})["output"]

    with torch.no_grad():
        expected = own.simulation()(image(2)).numpy()
    assert found.shape == (2, 4, 8, 8)
    assert np.abs(found - expected).max() <= 1.01 * 2 / 255
    assert (found == expected).mean() > 0.99


def test_a_wrong_layer_is_named_and_no_other() -> None:
    own = integers(convolution(nn.ReLU6()), {"1": encoding(0, 2), "2": encoding(-1, 1)})
    model = onnx.load_model_from_string(export_qdq(own, image()).model)
    (zero_point,) = (one for one in model.graph.initializer if one.name == "2.weight.zero_point")
    zero_point.CopyFrom(numpy_helper.from_array(np.uint8(numpy_helper.to_array(zero_point) + 1), zero_point.name))
    broken = ExportedGraph(model=model.SerializeToString(), summary=export_qdq(own, image()).summary)

    found = layers(broken, own, image())

    assert found["1"].num_differing == 0
    assert found["2"].differing > 0.1


def test_weights_are_stored_as_the_fewest_bits_that_hold_them() -> None:
    network = convolution(nn.ReLU6())
    sizes = {}
    for bits, kind in ((4, onnx.TensorProto.UINT4), (6, onnx.TensorProto.UINT8), (16, onnx.TensorProto.UINT16)):
        own = integers(network, {"1": encoding(0, 2)}, bits)
        tensor = initializers(export_qdq(own, image()))["0.weight.quantized"]
        assert tensor.data_type == kind
        sizes[bits] = len(tensor.raw_data)
        stored = numpy_helper.to_array(tensor).astype(np.int64)
        assert np.array_equal(stored, own.weights["0.weight"].values.numpy())
    assert sizes == {4: 68, 6: 135, 16: 270}  # 135 weights; half a byte stays empty


@pytest.mark.parametrize(("bits", "opset"), [(8, 17), (4, 21)])
def test_the_opset_follows_the_widths(bits: int, opset: int) -> None:
    own = integers(convolution(nn.ReLU6()), {"1": encoding(0, 2)}, bits)
    model = onnx.load_model_from_string(export_qdq(own, image()).model)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]


@pytest.mark.parametrize(
    ("clip", "grid", "num_removed", "left"),
    [
        (nn.ReLU6(), encoding(0, 6), 1, 0),
        (nn.ReLU6(), encoding(0, 2), 1, 0),
        (nn.ReLU6(), encoding(0, 6.5), 0, 1),
        (nn.ReLU6(), encoding(-0.5, 5), 0, 1),
        (nn.ReLU(), encoding(0, 9), 1, 0),
        (nn.ReLU(), encoding(-1, 9), 0, 1),
        (nn.Hardtanh(-1.0, 1.0), encoding(-0.9, 0.9), 1, 0),
        (nn.Hardtanh(-1.0, 1.0), encoding(-0.9, 1.1), 0, 1),
    ],
)
def test_a_clip_goes_where_the_grid_clips_as_much(
    clip: nn.Module, grid: dict[str, Any], num_removed: int, left: int
) -> None:
    own = integers(convolution(clip), {"1": grid})
    exported = export_qdq(own, image())

    assert (exported.summary.num_clips_removed, exported.summary.num_clips) == (num_removed, left)
    assert sum(kind in ("Clip", "Relu") for kind in kinds(exported)) == left
    assert layers(exported, own, image())["1"].max_lsb <= 1


def test_a_clip_per_channel_keeps_its_ceilings_and_loses_its_floor() -> None:
    clip = ChannelClip(5)
    clip.rescale(torch.tensor([1.0, 2.0, 3.0, 4.0, 60.0]))
    own = integers(convolution(clip), {"1": encoding(0, 3)})
    exported = export_qdq(own, image())

    assert (exported.summary.num_clips_removed, exported.summary.num_clips) == (1, 1)
    assert "Min" in kinds(exported)
    assert layers(exported, own, image())["1"].num_differing == 0

    own = integers(convolution(clip), {"1": encoding(0, 0.09)})
    assert export_qdq(own, image()).summary.num_clips == 0  # the lowest ceiling is 0.1


def test_clips_of_integers_give_the_integers_of_the_simulation() -> None:
    clip = ChannelClip(5)
    clip.rescale(torch.tensor([1.0, 2.0, 3.0, 4.0, 60.0]))  # the ceilings are 6, 3, 2, 1.5 and 0.1
    own = integers(convolution(clip), {"1": encoding(0, 2.9), "2": encoding(-1, 1)})
    exported = export_qdq(own, image(), integer_clips=True)
    if Version(version("onnxruntime")) < Version("1.24"):
        pytest.skip("ONNX Runtime before 1.24 has no Min of uint8")

    graph = onnx.load_model_from_string(exported.model).graph
    clips = [node for node in graph.node if node.op_type in ("Min", "Max")]
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    assert clips
    assert all(stored[name].dtype == np.uint8 for node in clips for name in node.input if name in stored)
    found = layers(exported, own, image())
    assert list(found) == ["1", "2"]
    assert all(one.num_differing == 0 for one in found.values())
    assert int(own.integers(image())["1"][:, 4].max()) == 9  # the image does reach the ceiling: 0.1 * 255 / 2.9 = 8.8
    plain = OnnxSession(export_qdq(own, image()).model, optimize=False)({"input": image().numpy()})
    same = OnnxSession(exported.model, optimize=False)({"input": image().numpy()})
    assert np.array_equal(plain["output"], same["output"])


def test_a_grid_of_fewer_bits_than_its_type_keeps_a_clip() -> None:
    own = integers(convolution(nn.ReLU6()), {"1": encoding(0, 0.3, 6)})
    exported = export_qdq(own, image())

    assert exported.summary.num_clips == 1
    assert int(own.integers(image())["1"].max()) == 63  # the image does reach the end of the grid
    assert layers(exported, own, image())["1"].num_differing == 0


def test_a_clip_that_others_read_too_stays() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.clip, self.after = nn.Conv2d(3, 3, 1), nn.ReLU6(), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.clip(self.first(x))
            return self.after(y), y

    own = integers(Branch().eval(), {"after": encoding(-1, 1)})
    assert export_qdq(own, image()).summary.num_clips == 1


def test_a_pair_that_repeats_the_one_before_it_goes() -> None:
    network = convolution(nn.ReLU6(), nn.Identity())
    own = integers(network, {"1": encoding(0, 2), "2": encoding(0, 2)})
    exported = export_qdq(own, image())

    assert exported.summary.num_repeats_removed == 1
    assert kinds(exported).count("QuantizeLinear") == 1
    other = integers(network, {"1": encoding(0, 2), "2": encoding(0, 1.5)})
    assert export_qdq(other, image()).summary.num_repeats_removed == 0


def test_two_readers_that_round_a_tensor_alike_share_a_pair() -> None:
    class Readers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.first(x), self.second(x)

    network = Readers().eval().requires_grad_(False)
    for high, num_pairs in ((1.0, 1), (0.5, 2)):
        params = {f"{name}.weight": of_weight(network.get_parameter(f"{name}.weight")) for name in ("first", "second")}
        inputs = {"first": encoding(0, 1), "second": encoding(0, high)}
        activations = {name: {"input": {"0": one}} for name, one in inputs.items()}
        own = IntegerNetwork.from_encodings(network, {"param_encodings": params, "activation_encodings": activations})
        exported = export_qdq(own, image())
        assert kinds(exported).count("QuantizeLinear") == num_pairs
        assert exported.summary.num_repeats_removed == 2 - num_pairs
        found = OnnxSession(exported.model, optimize=False)({"input": image().numpy()})
        with torch.no_grad():
            expected = own.simulation()(image())
        assert all(np.allclose(one, two, atol=1e-6) for one, two in zip(found.values(), expected, strict=True))


def test_int32_biases_have_the_scale_of_input_times_weight() -> None:
    network = convolution(nn.ReLU6())
    own = integers(network, {"1": encoding(0, 2), "2": encoding(-1, 1)}, per_channel=True)
    found = initializers(export_qdq(own, image(), int32_bias=True))

    scale = numpy_helper.to_array(found["2.bias.scale"])
    stored = numpy_helper.to_array(found["2.bias.quantized"])
    assert stored.dtype == np.int32
    assert np.allclose(scale, own.weights["2.weight"].scale.numpy() * 2 / 255, rtol=1e-6)
    bias = network.get_parameter("2.bias").detach().numpy()
    assert np.abs(stored * scale - bias).max() <= scale.max()
    assert "0.bias.quantized" not in found  # the network's input is float, so its first layer has no integer scale


def test_a_dynamic_batch_is_named_and_a_static_one_is_a_number() -> None:
    own = integers(convolution(nn.ReLU6()), {"1": encoding(0, 2)})
    for batch_size, expected in ((None, "batch"), (3, 3)):
        model = onnx.load_model_from_string(export_qdq(own, image(), batch_size=batch_size).model)
        first = model.graph.input[0].type.tensor_type.shape.dim[0]
        assert (first.dim_param or first.dim_value) == expected


def test_a_width_without_a_type_is_refused_by_name() -> None:
    own = integers(convolution(nn.ReLU6()), {"1": encoding(0, 2, 20)})
    with pytest.raises(RecipeError, match="no quantized type for this network: 1 has 20 bits"):
        export_qdq(own, image())


def test_encodings_of_another_network_are_refused() -> None:
    network = convolution(nn.ReLU6())
    encodings = {"param_encodings": {"7.weight": of_weight(torch.ones(1))}, "activation_encodings": {}}
    with pytest.raises(CheckpointError, match="The encodings do not fit Sequential"):
        IntegerNetwork.from_encodings(network, encodings)
    five = {"param_encodings": {"2.weight": of_weight(torch.ones(3, 2), axis=0)}, "activation_encodings": {}}
    with pytest.raises(CheckpointError, match=r"2\.weight has 3 encodings"):
        IntegerNetwork.from_encodings(network, five)


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_the_float_graph_equals_the_network_and_names_every_encoding(version: Any) -> None:
    network = convolution(nn.ReLU6())
    own = integers(network, {"1": encoding(0, 2), "2": encoding(-1, 1)}, per_channel=True)
    exported = export_encodings(own, image(), version)

    found = OnnxSession(exported.model, optimize=False)({"input": image().numpy()})["output"]
    with torch.no_grad():
        assert np.allclose(found, network(image()).numpy(), atol=1e-6)
    graph = onnx.load_model_from_string(exported.model).graph
    assert "QuantizeLinear" not in {node.op_type for node in graph.node}
    content = exported.encodings
    assert content["version"] == version
    listed = (
        content["encodings"] if version == "2.0.0" else content["activation_encodings"] + content["param_encodings"]
    )
    tensors = {name for node in graph.node for name in node.output} | {one.name for one in graph.initializer}
    assert {one["name"] for one in listed} <= tensors
    assert {"0.weight", "2.weight", "output"} <= {one["name"] for one in listed}
    assert len(listed) == 4


def test_encodings_are_those_that_aimet_writes_for_the_same_quantizers() -> None:
    own = integers(convolution(nn.ReLU6()), {"1": encoding(-0.5, 2)}, 4)
    first = export_encodings(own, image(), "1.0.0").encodings
    second = export_encodings(own, image(), "2.0.0").encodings["encodings"]

    (activation,) = first["activation_encodings"]
    assert (activation["bw"], activation["offset"], activation["is_sym"]) == (8, [-51], False)
    assert second[0]["y_zero_point"] == 51
    assert second[0]["output_dtype"] == "uint8"
    weight = first["param_encodings"][0]
    assert (weight["bw"], weight["enc_type"]) == (4, "PER_TENSOR")
    assert second[1]["y_zero_point"] == -weight["offset"][0]
    assert second[1]["output_dtype"] == "uint4"


@pytest.mark.parametrize("batch_size", [1, None])
def test_padding_is_a_constant_so_that_every_shape_follows(batch_size: int | None) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 5, 3, stride=2), nn.ReLU6()).eval()
    own = integers(network, {"2": encoding(0, 2)})
    exported = export_qdq(own, image(), batch_size=batch_size)

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(exported.model), strict_mode=True)
    (pad,) = [node for node in model.graph.node if node.op_type == "Pad"]
    assert sorted(kinds(exported)) == ["Conv", "DequantizeLinear", "DequantizeLinear", "Pad", "QuantizeLinear"]
    amounts = initializers(exported)[pad.input[1]]
    assert numpy_helper.to_array(amounts).tolist() == [0, 0, 2, 0, 0, 0, 3, 1]  # begins of N, C, H, W, then ends
    (padded,) = [one for one in model.graph.value_info if one.name == pad.output[0]]
    assert [axis.dim_value for axis in padded.type.tensor_type.shape.dim][1:] == [3, 13, 9]
    assert {name for node in model.graph.node for name in node.input} >= set(initializers(exported))
    (found,) = layers(exported, own, image()).values()
    assert found.max_lsb == 0


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_padding_is_a_constant_beside_encodings_too(version: Any) -> None:
    network = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 5, 3, stride=2)).eval()
    exported = export_encodings(integers(network, {"1": encoding(-1, 1)}), image(), version)
    nodes = [node.op_type for node in onnx.load_model_from_string(exported.model).graph.node]
    assert nodes == ["Pad", "Conv"]
