"""Cuts an exported Q/DQ graph at its quantizers, so that each layer can be computed from integers that it is given."""

from __future__ import annotations

import onnx

from zoo_core.errors import RuntimeUnsupportedError

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
GIVEN = ".given"
"""The input of the cut graph for the quantized tensor ``t`` is called ``t.given``."""

UNCLIPPED, MOVED = ".unclipped", ".moved"
"""Ends of the names of quantized tensors that the simulation does not have: before a clip, and behind a Flatten.

Their integers follow from those behind the clip, or before the Flatten, so they are no layers of their own.
"""


def cut_at_quantizers(model: bytes) -> bytes:
    """Return a graph in which everything behind a quantizer of an activation reads an input instead of its output.

    The input of the quantized tensor ``t`` is called ``t.given``, and the outputs are all quantized tensors, so one
    pass computes every layer from the integers that it is given. The network's own input stays an input. What comes
    after the last quantizer is not part of any output.

    Raises:
        RuntimeUnsupportedError: The graph has no quantized activation, or the shape of one is not known.
    """
    cut = onnx.load_model_from_string(model)
    graph = onnx.shape_inference.infer_shapes(cut).graph
    shapes = {value.name: value for value in (*graph.value_info, *graph.output)}
    names = quantized_tensors(cut)
    unknown = [name for name in names if name not in shapes]
    if unknown or not names:
        raise RuntimeUnsupportedError(
            f"The shape of {', '.join(unknown[:3])} is not known."
            if unknown
            else "The graph has no quantized activation, so there is no layer to compare.",
            fix="use a graph of Q/DQ pairs with static shapes, as `zoo-eval export` writes it.",
        )
    for node in cut.graph.node:
        node.input[:] = [f"{name}{GIVEN}" if name in names else name for name in node.input]
    del cut.graph.output[:]
    for name in names:
        cut.graph.output.append(shapes[name])
        given = onnx.ValueInfoProto()
        given.CopyFrom(shapes[name])
        given.name += GIVEN
        cut.graph.input.append(given)
    serialized: bytes = cut.SerializeToString()
    return serialized


def quantized_tensors(model: onnx.ModelProto) -> list[str]:
    """Return the names of the quantized activations, in the order of the graph, as the simulation has them.

    A clip of integers has no quantizer behind it, so its result is known by the tensor before it.
    """
    rounded = [node.output[0] for node in model.graph.node if node.op_type == QUANTIZE]
    found = []
    for own in rounded:
        name = own.removesuffix(UNCLIPPED)
        if not own.endswith(MOVED) and (name == own or name not in rounded):
            found.append(name)
    return found
