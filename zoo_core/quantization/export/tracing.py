"""Traces an integer network to an ONNX graph in which each rounding is one node of our own; ``graph`` replaces them."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.onnx_export import export_onnx
from zoo_core.quantization.export.padding import inline_paddings
from zoo_core.quantization.integers import tensor_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from torch import nn

    from zoo_core.quantization.aimet.plain import Grid
    from zoo_core.quantization.integers import IntegerNetwork

DOMAIN = "zoo"
ACTIVATION, WEIGHT = "Activation", "Weight"
"""Nodes that ``traced`` emits: ``name`` is the quantized tensor's or the parameter's."""


class _Activation(torch.autograd.Function):
    """Rounds a tensor to a grid; one node in the traced graph."""

    @staticmethod
    def forward(_ctx: Any, x: torch.Tensor, grid: Grid, _name: str) -> torch.Tensor:
        return grid(x)

    @staticmethod
    def symbolic(graph: Any, x: Any, _grid: Grid, name: str) -> Any:
        return graph.op(f"{DOMAIN}::{ACTIVATION}", x, name_s=name).setType(x.type())


class _Weight(torch.autograd.Function):
    """Returns a dequantized weight; one node in the traced graph."""

    @staticmethod
    def forward(_ctx: Any, weight: torch.Tensor, _name: str) -> torch.Tensor:
        return weight.clone()

    @staticmethod
    def symbolic(graph: Any, weight: Any, name: str) -> Any:
        return graph.op(f"{DOMAIN}::{WEIGHT}", weight, name_s=name).setType(weight.type())


def traced(integers: IntegerNetwork, x: torch.Tensor, *, opset: int, dynamic_batch: bool) -> onnx.ModelProto:
    """Trace the network and mark where it rounds.

    Args:
        integers: Not modified.
        x: Example input, ``(B, C, H, W)``; a static graph takes batches of this size.
        opset: Of the operations.
        dynamic_batch: Let the first axis of inputs and outputs have any length.

    Raises:
        RunError: torch cannot export the network.
    """
    import onnx as library

    exported = export_onnx(
        _marked(integers),
        x,
        opset=opset,
        dynamic_batch=dynamic_batch,
        fix="write the operation that it names with operations that ONNX has.",
        custom_opsets={DOMAIN: 1},
    )
    model: onnx.ModelProto = library.load_model_from_string(exported)
    _inline_constants(model)
    inline_paddings(model)
    return model


def _inline_constants(model: onnx.ModelProto) -> None:
    """Make initializers of constant nodes."""
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _marked(integers: IntegerNetwork) -> nn.Module:
    network = copy.deepcopy(integers.network).requires_grad_(False)
    for name, weight in integers.weights.items():
        module_name, _, own = name.rpartition(".")
        module = network.get_submodule(module_name)
        device = module.get_parameter(own).device
        del module._parameters[own]
        module.register_buffer(f"{own}_dequantized", weight.dequantized().to(device), persistent=False)
        module.register_forward_pre_hook(partial(_set_weight, own=own, name=name))
        setattr(module, own, None)
    for name, grids in integers.activations.items():
        module = network.get_submodule(name)
        if any(grids.inputs):
            module.register_forward_pre_hook(
                lambda _module, args, name=name, own=grids.inputs: _rounded(args, iter(_named(name, "input", own)))
            )
        if any(grids.outputs):
            module.register_forward_hook(
                lambda _module, _args, output, name=name, own=grids.outputs: _rounded(
                    output, iter(_named(name, "output", own))
                )
            )
    return network


def _set_weight(module: nn.Module, _args: Any, *, own: str, name: str) -> None:
    setattr(module, own, _Weight.apply(getattr(module, f"{own}_dequantized"), name))


def _named(module: str, side: str, grids: tuple[Grid | None, ...]) -> list[tuple[str, Grid | None]]:
    return [(tensor_name(module, side, index), grid) for index, grid in enumerate(grids)]


def _rounded(value: Any, grids: Iterator[tuple[str, Grid | None]]) -> Any:
    """Round the float tensors in a value, in order; the same order as ``foreign.quantize_tensors``."""
    if isinstance(value, torch.Tensor):
        name, grid = next(grids, ("", None))
        return value if grid is None or not value.is_floating_point() else _Activation.apply(value, grid, name)
    if isinstance(value, list | tuple):
        return type(value)(_rounded(item, grids) for item in value)
    return value
