"""Plants faults of converters and devices in an exported graph, each in one layer, and rewrites it as converters do.

A layer is named by its quantized tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from zoo_core.runtimes.cutting import UNCLIPPED, quantized_tensors

CLIPS = ("Clip", "Min", "Relu")
LINEAR = ("Conv", "Gemm")
ELEMENTWISE = ("QuantizeLinear", "DequantizeLinear", "Relu", "Add")


class Graph:
    """A loaded model, with look-ups by layer."""

    def __init__(self, model: bytes) -> None:
        self.model = onnx.load_model_from_string(model)
        self.graph = self.model.graph
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self._producers = {name: node for node in self.graph.node for name in node.output}

    def layers(self, *, kinds: tuple[str, ...] = LINEAR) -> list[str]:
        """Return the layers that are computed by an operation of ``kinds``, in the order of the graph."""
        return [
            name
            for name in quantized_tensors(self.model)
            if (node := self.operation(name)) is not None and node.op_type in kinds
        ]

    def operation(self, layer: str) -> onnx.NodeProto | None:
        """Return what computes a layer, before its clips and the rounding before them."""
        node = self._producers.get(self._producers[layer].input[0])
        while node is not None and (node.op_type in CLIPS or self._rounds_before_a_clip(node)):
            node = self._producers.get(node.input[0])
        return node

    def _rounds_before_a_clip(self, node: onnx.NodeProto) -> bool:
        return any(name.endswith(UNCLIPPED) for name in (node.input[0], node.output[0]))

    def clips(self, layer: str) -> list[onnx.NodeProto]:
        found = []
        node = self._producers.get(self._producers[layer].input[0])
        while node is not None and node.op_type in CLIPS:
            found.append(node)
            node = self._producers.get(node.input[0])
        return found

    def weight(self, layer: str) -> list[str]:
        """Return the names of a layer's integers, scale and zero point."""
        operation = self.operation(layer)
        assert operation is not None
        return list(self._producers[operation.input[1]].input)

    def value(self, name: str) -> NDArray[Any]:
        value: NDArray[Any] = numpy_helper.to_array(self.initializers[name]).copy()
        return value

    def change(self, name: str, value: NDArray[Any]) -> None:
        self.initializers[name].CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        )

    def serialized(self) -> bytes:
        content: bytes = self.model.SerializeToString()
        return content


def activation_zero_point_off_by_one(model: bytes, layer: str) -> bytes:
    graph = Graph(model)
    value = graph.value(f"{layer}.zero_point")
    graph.change(
        f"{layer}.zero_point", np.asarray(value + (1 if value < np.iinfo(value.dtype).max else -1), value.dtype)
    )
    return graph.serialized()


def weight_zero_point_off_by_one(model: bytes, layer: str) -> bytes:
    graph = Graph(model)
    *_, name = graph.weight(layer)
    graph.change(name, graph.value(name) + np.ones((), graph.value(name).dtype))
    return graph.serialized()


def two_scales_swapped(model: bytes, layer: str) -> bytes:
    graph = Graph(model)
    _, name, _ = graph.weight(layer)
    scales = graph.value(name)
    first, second = int(scales.argmin()), int(scales.argmax())
    scales[[first, second]] = scales[[second, first]]
    graph.change(name, scales)
    return graph.serialized()


def clips_dropped(model: bytes, layer: str) -> bytes:
    graph = Graph(model)
    clips = graph.clips(layer)
    (quantizer,) = (node for node in graph.graph.node if node.op_type == "QuantizeLinear" and node.output[0] == layer)
    quantizer.input[0] = clips[-1].input[0]
    for clip in clips:
        graph.graph.node.remove(clip)
    return graph.serialized()


def kernel_transposed(model: bytes, layer: str) -> bytes:
    """Swap the spatial axes of a square kernel."""
    graph = Graph(model)
    name, *_ = graph.weight(layer)
    graph.change(name, graph.value(name).swapaxes(2, 3))
    return graph.serialized()


def one_bias_off(model: bytes, layer: str) -> bytes:
    """Add 16 steps of the output's grid to the bias of one channel, the one with the largest bias."""
    graph = Graph(model)
    operation = graph.operation(layer)
    assert operation is not None
    bias = graph.value(operation.input[2])
    bias[bias.argmax()] += 16 * graph.value(f"{layer}.scale")
    graph.change(operation.input[2], bias)
    return graph.serialized()


FAULTS: dict[str, Callable[[bytes, str], bytes]] = {
    "activation zero point": activation_zero_point_off_by_one,
    "weight zero point": weight_zero_point_off_by_one,
    "scales": two_scales_swapped,
    "clips": clips_dropped,
    "kernel": kernel_transposed,
    "bias": one_bias_off,
}


def applicable(model: bytes, fault: str) -> list[str]:
    """Return the layers in which a fault can be planted, in the order of the graph."""
    graph = Graph(model)
    layers = graph.layers()
    if fault == "activation zero point":
        return quantized_tensors(graph.model)
    if fault == "scales":
        return [one for one in layers if graph.value(graph.weight(one)[1]).size > 1]
    if fault == "clips":
        return [one for one in graph.layers(kinds=(*LINEAR, "Add")) if graph.clips(one)]
    if fault == "kernel":
        shapes = {one: graph.value(graph.weight(one)[0]).shape for one in layers}
        return [one for one, shape in shapes.items() if len(shape) == 4 and shape[2] == shape[3] > 1]
    return layers


def channels_last(model: bytes) -> bytes:
    """Return a graph that computes the same and keeps every tensor with four axes as NHWC, inputs and outputs included.

    Operations that need NCHW stand between transpositions.
    """
    graph = Graph(model).model.graph
    inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    values = {value.name: value for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    ranks = {name: len(value.type.tensor_type.shape.dim) for name, value in values.items()}
    constants = {tensor.name for tensor in graph.initializer}
    dequantized = {node.output[0] for node in graph.node if node.input[0] in constants}
    turned = {name for name, rank in ranks.items() if rank == 4 and name not in constants | dequantized}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        here = [name for name in (*node.input, *node.output) if name in turned]
        if not here or node.op_type in ELEMENTWISE:
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            if name in turned:
                own = f"{node.name}.{index}.nchw"
                nodes.append(helper.make_node("Transpose", [name], [own], perm=[0, 3, 1, 2]))
                node.input[index] = own
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in turned:
                node.output[index] = f"{name}.nchw"
                nodes.append(helper.make_node("Transpose", [f"{name}.nchw"], [name], perm=[0, 2, 3, 1]))
    made = helper.make_graph(nodes, graph.name, list(graph.input), list(graph.output), list(graph.initializer))
    for value in (*made.input, *made.output):
        if value.name in turned:
            shape = value.type.tensor_type.shape
            dims = [shape.dim[axis] for axis in (0, 2, 3, 1)]
            shape.CopyFrom(onnx.TensorShapeProto(dim=dims))
    loaded = onnx.load_model_from_string(model)
    rewritten = helper.make_model(made, opset_imports=list(loaded.opset_import), ir_version=loaded.ir_version)
    onnx.checker.check_model(rewritten, full_check=True)
    content: bytes = rewritten.SerializeToString()
    return content
