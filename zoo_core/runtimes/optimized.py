"""Reads the graph that ONNX Runtime made of a model: which of the model's nodes each of its nodes computes, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from zoo_core.datatypes import ExecutedNode
from zoo_core.runtimes.cutting import DEQUANTIZE, QUANTIZE
from zoo_core.runtimes.products import has_products

if TYPE_CHECKING:
    import onnx

    from zoo_core.datatypes import Precision

_INTEGER_PRODUCTS = re.compile(r"QLinear|QGemm|QAttention|.*Integer|DynamicQuantize")
"""Operations with integer products: ``QLinearConv``, ``QGemm``, ``MatMulInteger``, ``MatMulIntegerToFloat``, ..."""

_PRODUCTS = re.compile(r".*(Conv|Gemm|MatMul)")
"""Operations with products: also ``FusedConv``, ``QLinearConv``, ``NhwcFusedConv``, ``DynamicQuantizeMatMul``."""

_ADDED = re.compile(r"(_token_\d+|_nchwc|_nhwc|/(MatMulAdd|GemmTranspose|MatmulTranspose)Fusion/?)+$")
"""What ONNX Runtime adds to the name of a node, or of the output of one, when it replaces the node."""


def executed_nodes(model: onnx.ModelProto, optimized: onnx.ModelProto) -> list[ExecutedNode]:
    """Return the nodes of an optimized graph.

    Args:
        model: The model that was loaded.
        optimized: What ONNX Runtime wrote to ``optimized_model_filepath``.

    Returns:
        In the order of the optimized graph. A node with products is claimed by one executed node, recognized by its
        name, else by its weight.
    """
    claims = _claims(model, optimized)
    integers = _integer_tensors(optimized)
    return [
        ExecutedNode(
            name=node.name,
            operation=node.op_type,
            computes=claims[index],
            precision=_precision(node, integers),
            device="CPU",
        )
        for index, node in enumerate(optimized.graph.node)
    ]


def _claims(model: onnx.ModelProto, optimized: onnx.ModelProto) -> list[tuple[str, ...]]:
    """Return for each node of the optimized graph the names of the model's nodes that it computes."""
    names = {node.name for node in model.graph.node if node.name}
    by_output = {output: node.name for node in model.graph.node for output in node.output}
    with_products = {node.name: node for node in model.graph.node if has_products(node)}
    claims: list[tuple[str, ...]] = []
    for node in optimized.graph.node:
        stem = _ADDED.sub("", node.name)
        while stem not in names and stem.startswith("fused "):
            stem = stem.removeprefix("fused ")
        name = stem if stem in names else by_output.get(stem, "")
        if name in with_products and not _PRODUCTS.match(node.op_type):
            name = ""  # e.g. a transposition of the layer's output
        claims.append((name,) if name else ())
    claimed = {name for own in claims for name in own}
    left = {name: set(_weights(model, node)) for name, node in with_products.items() if name not in claimed}
    for index, node in enumerate(optimized.graph.node):
        if not claims[index] and _PRODUCTS.match(node.op_type):
            reads = set(_weights(optimized, node))
            name = next((name for name, weights in left.items() if weights & reads), "")
            if name:
                claims[index] = (name,)
                del left[name]
    return claims


def _weights(model: onnx.ModelProto, node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names by which the weight of a node may be known: its tensors, and what is dequantized to them."""
    producers = {output: one for one in model.graph.node for output in one.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    for name in node.input:
        producer = producers.get(name)
        stored = producer.input[0] if producer is not None and producer.op_type == DEQUANTIZE else name
        if stored in constants and not stored.endswith((".scale", ".zero_point")):
            yield from (name, stored)


def _integer_tensors(optimized: onnx.ModelProto) -> Mapping[str, bool]:
    """Return by tensor whether it holds integers; nodes that only move values keep the kind of their first input."""
    kinds = {tensor.name: _is_integer(tensor.data_type) for tensor in optimized.graph.initializer}
    kinds |= {value.name: _is_integer(value.type.tensor_type.elem_type) for value in optimized.graph.input}
    for node in optimized.graph.node:
        kind = kinds.get(node.input[0], False) if node.input else False
        if node.op_type == QUANTIZE or node.op_type.startswith(("QLinear", "QGemm")):
            kind = True
        elif node.op_type == DEQUANTIZE or _INTEGER_PRODUCTS.match(node.op_type):
            kind = node.op_type in ("MatMulInteger", "ConvInteger")
        kinds.update(dict.fromkeys(node.output, kind))
    return kinds


def _precision(node: onnx.NodeProto, integers: Mapping[str, bool]) -> Precision:
    if _INTEGER_PRODUCTS.match(node.op_type):
        return "integer"
    if node.op_type in (QUANTIZE, DEQUANTIZE) or _PRODUCTS.match(node.op_type):
        return "float"
    return "integer" if _first(node.input, integers) else "float"


def _first(names: Sequence[str], integers: Mapping[str, bool]) -> bool:
    return integers.get(names[0], False) if names else False


def _is_integer(kind: int) -> bool:
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    return kind not in floats
