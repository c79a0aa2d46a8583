"""Counts the multiply-accumulates (MACs) of a model's nodes, and reads from the graph why one is not quantized."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.runtimes.cutting import DEQUANTIZE, QUANTIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

_WITH_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def has_products(node: onnx.NodeProto) -> bool:
    """Return whether a node of ONNX's own operations multiplies and accumulates."""
    return node.op_type in _WITH_PRODUCTS and node.domain in ("", "ai.onnx")


def macs(model: onnx.ModelProto) -> dict[str, int]:
    """Return the MACs of one image by node name, in the order of the graph; nodes without products have no entry.

    Args:
        model: Its first input has the batch on the first axis; where that has no fixed length, 1 is put in.

    Raises:
        RuntimeUnsupportedError: The shape of a tensor does not follow from the graph.
    """
    import onnx

    static = onnx.ModelProto()
    static.CopyFrom(model)
    constants = {tensor.name for tensor in static.graph.initializer}
    batch = 1
    for index, value in enumerate([one for one in static.graph.input if one.name not in constants]):
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_value = 1
        if dims and index == 0:
            batch = dims[0].dim_value
    del static.graph.value_info[:]  # a tracing exporter wrote symbolic shapes there
    static = onnx.shape_inference.infer_shapes(static, data_prop=True)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in static.graph.initializer}
    for value in (*static.graph.input, *static.graph.value_info, *static.graph.output):
        shapes.setdefault(value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))
    nodes = [node for node in static.graph.node if has_products(node)]
    return {node.name: _macs(node, shapes) // batch for node in nodes}


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    found = [shapes.get(name, ()) for name in (*node.input[:2], node.output[0])]
    if not all(shape and all(shape) for shape in found):
        raise RuntimeUnsupportedError(
            f"The shapes of the {node.op_type} {node.name!r} do not follow from the graph, so its share of the "
            "network's products is not known.",
            fix="export the network for a fixed batch size.",
        )
    first, weight, output = found
    if node.op_type == "Conv":  # the weight is (Cout, Cin / groups, ...)
        return prod(output) * prod(weight[1:])
    if node.op_type == "ConvTranspose":  # the weight is (Cin, Cout / groups, ...)
        return prod(first) * prod(weight[1:])
    if node.op_type == "Gemm":
        transposed = any(one.name == "transA" and one.i for one in node.attribute)
        return prod(output) * first[0 if transposed else -1]
    return prod(output) * first[-1]


def float_reason(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """Return what in the graph keeps a node from integers, e.g. ``its input is not quantized``; empty if nothing does.

    Args:
        model: The Q/DQ graph.
        node: One of its nodes with products.
    """
    producers = {output: one for one in model.graph.node for output in one.output}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    operands = ("first input", "second input") if node.op_type == "MatMul" else ("input", "weight")
    for name, what in zip(node.input, operands, strict=False):
        producer = producers.get(name)
        if producer is None:
            return f"its {what} is not quantized"
        if producer.op_type != DEQUANTIZE:
            return f"its {what} comes from {producer.op_type} in float"
    readers = [one for one in model.graph.node if node.output[0] in one.input]
    if not readers:
        return "its output is not quantized"
    for reader in readers:
        if reader.op_type != QUANTIZE:
            return f"its output goes to {reader.op_type} in float"
    weight = producers[node.input[1]]
    if len(weight.input) > 2 and weight.input[2] in stored and _has_nonzero(stored[weight.input[2]]):
        return "its weights have a zero point other than 0"
    return ""


def _has_nonzero(tensor: onnx.TensorProto) -> bool:
    from onnx import numpy_helper

    return bool(numpy_helper.to_array(tensor).any())
