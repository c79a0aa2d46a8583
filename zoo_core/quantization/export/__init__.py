"""Exports a quantized network as ONNX with the integers of its weights; free of AIMET."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from zoo_core.errors import RecipeError

if TYPE_CHECKING:
    import torch

    from zoo_core.quantization.export.encodings import EncodingsVersion
    from zoo_core.quantization.export.graph import GraphSummary
    from zoo_core.quantization.integers import IntegerNetwork

Format: TypeAlias = Literal["onnx-qdq", "encodings-1.0.0", "encodings-2.0.0"]
FORMATS: tuple[Format, ...] = ("onnx-qdq", "encodings-1.0.0", "encodings-2.0.0")

_MAX_BITS = 16
_TRACED_OPSET, _TRACED_WIDE_OPSET = 17, 20
"""Opsets that torch traces to; ``graph`` states 21 where Q/DQ nodes need it: nothing else that torch emits changed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportedGraph:
    """Exported network.

    Attributes:
        model: Serialized ONNX model; its input is called ``input``, its outputs ``output`` or ``output_0``, ...
        summary: What the graph contains.
    """

    model: bytes
    summary: GraphSummary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportedEncodings:
    """Float network with a file of encodings.

    Attributes:
        model: Serialized ONNX model, its weights in float.
        encodings: Content of the JSON file.
    """

    model: bytes
    encodings: Mapping[str, Any]


def export_encodings(
    integers: IntegerNetwork, example_input: torch.Tensor, version: EncodingsVersion, *, batch_size: int | None = 1
) -> ExportedEncodings:
    """Export the float network and, by the names of its tensors, all encodings.

    Args:
        integers: Not modified.
        example_input: ``(1, C, H, W)``, on the network's device.
        version: Of the format of encodings.
        batch_size: Images per pass; None for any number.

    Raises:
        RunError: torch cannot export the network.
    """
    from zoo_core.quantization.export.encodings import encodings_file, float_graph
    from zoo_core.quantization.export.tracing import traced

    x = example_input.expand(batch_size or 1, *example_input.shape[1:])
    model = traced(integers, x, opset=_TRACED_OPSET, dynamic_batch=batch_size is None)
    parameters = {name: integers.network.get_parameter(name) for name in integers.weights}
    model, tensors = float_graph(model, parameters)
    grids = dict(integers.quantized_activations())
    content = encodings_file(tensors, grids, integers.weights, version)
    return ExportedEncodings(model=model.SerializeToString(), encodings=content)


def export_qdq(
    integers: IntegerNetwork,
    example_input: torch.Tensor,
    *,
    batch_size: int | None = 1,
    int32_bias: bool = False,
    integer_clips: bool = False,
) -> ExportedGraph:
    """Export a quantized network as an ONNX graph of Q/DQ pairs with integer weights.

    Args:
        integers: Not modified.
        example_input: ``(1, C, H, W)``, on the network's device.
        batch_size: Images per pass; None for any number.
        int32_bias: Store biases as int32, as integer devices add them; the simulation adds them in float.
        integer_clips: Let clips per channel behind a layer read its integers, which is fast on ONNX Runtime and refused
            by onnxruntime-qnn.

    Raises:
        RecipeError: A bit width has no type in ONNX.
        RunError: torch cannot export the network.
    """
    from zoo_core.quantization.export.graph import QdqGraph, activation_bits, storage_bits
    from zoo_core.quantization.export.tracing import traced

    grids = dict(integers.quantized_activations())
    widths = {name: activation_bits(grid) for name, grid in grids.items()}
    widths |= {name: storage_bits(weight.bits) for name, weight in integers.weights.items()}
    too_wide = [f"{name} has {bits} bits" for name, bits in widths.items() if bits > _MAX_BITS]
    if too_wide:
        raise RecipeError(
            f"ONNX has no quantized type for this network: {', '.join(too_wide[:3])}.",
            fix=f"quantize to at most {_MAX_BITS} bits.",
        )
    wide = any(bits != 8 for bits in widths.values())
    opset = _TRACED_WIDE_OPSET if wide else _TRACED_OPSET
    x = example_input.expand(batch_size or 1, *example_input.shape[1:])
    model = traced(integers, x, opset=opset, dynamic_batch=batch_size is None)
    summary = QdqGraph(model, integers.weights, grids, int32_bias=int32_bias, integer_clips=integer_clips).rewrite()
    return ExportedGraph(model=model.SerializeToString(), summary=summary)
