"""Makes the amounts of padding in a traced graph constants.

torch's exporter computes them from the shape of a constant, in six nodes of integers per padding. They are the same for
every input, but ONNX's shape inference does not look through them, and not every runtime of a device does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def inline_paddings(model: onnx.ModelProto) -> None:
    """Replace the second input of each ``Pad`` by an initializer, unless it depends on the graph's input.

    Args:
        model: Changed in place; its constants are initializers. Nodes that nothing reads any more are removed.
    """
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    constants = {one.name: one for one in graph.initializer}
    computed: set[str] = set()
    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        needed = _needed(pad.input[1], producers, constants)
        if not needed:
            continue
        names = {name for node in needed for name in node.input}
        part = _model(model, needed, [constants[name] for name in constants if name in names], pad.input[1])
        (amounts,) = ReferenceEvaluator(part).run(None, {})
        pad.input[1] = f"{pad.output[0]}_amounts"
        graph.initializer.append(numpy_helper.from_array(np.asarray(amounts), pad.input[1]))
        computed.update(name for node in needed for name in node.output)
    _remove_unread(graph, computed)


def _needed(
    name: str, producers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """Return the nodes that compute a tensor, in order; none if it is a constant or depends on the graph's input."""
    found: list[onnx.NodeProto] = []

    def visit(tensor: str) -> bool:
        if not tensor or tensor in constants or any(tensor in node.output for node in found):
            return True
        node = producers.get(tensor)
        if node is None or node.domain or not all(visit(one) for one in node.input):
            return False
        found.append(node)
        return True

    return found if visit(name) else []


def _model(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], output: str
) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    result = helper.make_tensor_value_info(output, TensorProto.INT64, None)
    graph = helper.make_graph(nodes, "padding", [], [result], initializer=constants)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _remove_unread(graph: onnx.GraphProto, computed: set[str]) -> None:
    """Remove the nodes of these outputs that nothing reads any more, and initializers that nothing reads."""
    read = {one.name for one in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.isdisjoint(node.output) and not computed.isdisjoint(node.output):
            continue
        kept.append(node)
        read.update(node.input)
    initializers = [one for one in graph.initializer if one.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)
