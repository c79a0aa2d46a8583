"""Writes a float ONNX graph beside a file of encodings, the form that Qualcomm's and AIMET's tools read.

Formats: AIMET 2.42, ``AffineEncoding.to_qnn_encoding_dict`` and ``QuantizationSimModel.export``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import onnx
from onnx import helper, numpy_helper

from zoo_core.quantization.export.tracing import ACTIVATION, DOMAIN

if TYPE_CHECKING:
    import torch

    from zoo_core.quantization.aimet.plain import Grid
    from zoo_core.quantization.integers import IntegerWeight

EncodingsVersion: TypeAlias = Literal["1.0.0", "2.0.0"]


def float_graph(
    model: onnx.ModelProto, parameters: Mapping[str, torch.Tensor]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Remove the roundings from a traced graph, in place.

    Args:
        model: From ``tracing.traced``.
        parameters: Float weights by parameter name; they replace the dequantized ones.

    Returns:
        The model, and the name in it of each quantized activation's tensor. A rounded weight is called like its
        parameter.
    """
    tensors: dict[str, str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        if node.domain != DOMAIN:
            kept.append(node)
            continue
        name = helper.get_attribute_value(node.attribute[0]).decode()
        if node.op_type == ACTIVATION:
            source = renamed.get(node.input[0], node.input[0])
            tensors[name] = renamed[node.output[0]] = source
        else:
            renamed[node.output[0]] = name
            value = parameters[name].detach().cpu().numpy()
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    outputs = {output.name for output in model.graph.output}
    for published, source in renamed.items():
        if published in outputs:  # a name that users see stays; the tensor that it repeats takes it
            for node in kept:
                node.output[:] = [published if name == source else name for name in node.output]
                node.input[:] = [published if name == source else name for name in node.input]
            tensors = {name: published if tensor == source else tensor for name, tensor in tensors.items()}
    used = {name for node in kept for name in node.input}
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(initializers)
    for index, opset in enumerate(model.opset_import):
        if opset.domain == DOMAIN:
            del model.opset_import[index]
            break
    onnx.checker.check_model(model, full_check=True)
    return model, tensors


def encodings_file(
    tensors: Mapping[str, str],
    grids: Mapping[str, Grid],
    weights: Mapping[str, IntegerWeight],
    version: EncodingsVersion,
) -> dict[str, Any]:
    """Return the content of the file of encodings.

    Args:
        tensors: Name in the graph by quantized activation.
        grids: By quantized activation.
        weights: By parameter, which is also the name in the graph.
        version: Of the format.
    """
    rounded = dict.fromkeys((tensor, grids[name]) for name, tensor in tensors.items())  # readers of one may agree
    if version == "1.0.0":
        return {
            "version": version,
            "activation_encodings": [_grid_1(tensor, grid) for tensor, grid in rounded],
            "param_encodings": [_weight_1(name, weight) for name, weight in weights.items()],
            "excluded_layers": [],
        }
    activations = [_grid_2(tensor, grid) for tensor, grid in rounded]
    return {"version": version, "encodings": activations + [_weight_2(name, one) for name, one in weights.items()]}


def _grid_1(name: str, grid: Grid) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": "INT",
        "enc_type": "PER_TENSOR",
        "bw": _bits(grid),
        "is_sym": False,
        "scale": [grid.scale],
        "offset": [grid.lowest],
    }


def _weight_1(name: str, weight: IntegerWeight) -> dict[str, Any]:
    lowest = -(2 ** (weight.bits - 1)) if weight.signed else 0
    return {
        "name": name,
        "dtype": "INT",
        "enc_type": "PER_TENSOR" if weight.axis is None else "PER_CHANNEL",
        "bw": weight.bits,
        "is_sym": weight.signed,
        "scale": weight.scale.reshape(-1).tolist(),
        "offset": (lowest - weight.zero_point).reshape(-1).tolist(),
    }


def _grid_2(name: str, grid: Grid) -> dict[str, Any]:
    zero_point = {} if grid.lowest == 0 else {"y_zero_point": -grid.lowest}
    return {"name": name, "output_dtype": f"uint{_bits(grid)}", "y_scale": grid.scale, **zero_point}


def _weight_2(name: str, weight: IntegerWeight) -> dict[str, Any]:
    axis = {} if weight.axis is None else {"axis": weight.axis}
    zero_point = {} if not weight.zero_point.any() else {"y_zero_point": weight.zero_point.tolist()}
    kind = f"{'int' if weight.signed else 'uint'}{weight.bits}"
    return {"name": name, "output_dtype": kind, "y_scale": weight.scale.tolist(), **zero_point, **axis}


def _bits(grid: Grid) -> int:
    return (grid.highest - grid.lowest).bit_length()
