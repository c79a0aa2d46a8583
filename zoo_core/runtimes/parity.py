"""Compares an exported network with the simulation layer by layer, each layer fed the simulation's own integers.

An end-to-end comparison cannot tell a bit-exact runtime from an inexact one, because one crossed rounding boundary
changes everything behind it. Here no layer sees another layer's difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_GIVEN = ".given"

Session: TypeAlias = "Callable[[Mapping[str, NDArray[np.generic]]], Mapping[str, NDArray[np.generic]]]"
"""Computes the outputs of an ONNX model by name from its inputs by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParity:
    """Difference of one quantized tensor between a runtime and the simulation.

    Attributes:
        name: Of the tensor: the module whose output it is.
        num_values: Values compared.
        num_differing: Those with another integer.
        max_lsb: Largest difference of two integers.
    """

    name: str
    num_values: int
    num_differing: int
    max_lsb: int

    @property
    def differing(self) -> float:
        """Return the share of values that differ, in ``[0, 1]``."""
        return self.num_differing / self.num_values if self.num_values else 0.0


def cut_at_quantizers(model: bytes) -> bytes:
    """Return a graph in which every dequantizer of an activation reads an input instead of the quantizer before it.

    The input of the quantized tensor ``t`` is called ``t.given``, and the outputs are all quantized tensors, so one
    pass computes every layer from the integers that it is given. The network's own input stays an input.
    """
    cut = onnx.load_model_from_string(model)
    shapes = {value.name: value for value in onnx.shape_inference.infer_shapes(cut).graph.value_info}
    names = quantized_tensors(cut)
    for node in cut.graph.node:
        if node.op_type == DEQUANTIZE and node.input[0] in names:
            node.input[0] += _GIVEN
    del cut.graph.output[:]
    for name in names:
        cut.graph.output.append(shapes[name])
        given = onnx.ValueInfoProto()
        given.CopyFrom(shapes[name])
        given.name += _GIVEN
        cut.graph.input.append(given)
    serialized: bytes = cut.SerializeToString()
    return serialized


def quantized_tensors(model: onnx.ModelProto) -> list[str]:
    """Return the names of the quantized activations, in the order of the graph."""
    return [node.output[0] for node in model.graph.node if node.op_type == QUANTIZE]


def compare_layers(
    session: Session, x: NDArray[np.float32], integers: Mapping[str, NDArray[np.int64]], *, input_name: str
) -> Sequence[LayerParity]:
    """Compute every layer from the simulation's integers and compare the results with them.

    Args:
        session: Of the graph of ``cut_at_quantizers``.
        x: The input from which the simulation computed ``integers``, ``(B, C, H, W)``.
        integers: By quantized tensor, counted from the lowest of its grid.
        input_name: Name of the network's input.

    Returns:
        One entry per quantized tensor of the graph, in its order.
    """
    given = {f"{name}{_GIVEN}": values for name, values in integers.items()}
    outputs = session({input_name: x, **given})
    return [_compared(name, output, integers[name]) for name, output in outputs.items()]


def _compared(name: str, output: NDArray[np.generic], expected: NDArray[np.int64]) -> LayerParity:
    difference = np.abs(output.astype(np.int64) - expected)
    return LayerParity(
        name=name,
        num_values=difference.size,
        num_differing=int(np.count_nonzero(difference)),
        max_lsb=int(difference.max(initial=0)),
    )
