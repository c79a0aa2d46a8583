"""Turns functions in a network's ``forward`` into modules.

AIMET's model preparer knows the names of many functions but takes arithmetic on sizes for arithmetic on tensors, passes
positional settings of an activation as inputs, copies weights, and does not know layers as functions. What it gets
wrong is converted or set aside here; the rest is left to it, so names and operation types are AIMET's.
"""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.nn import functional

from zoo_core.quantization.aimet.library import load
from zoo_core.quantization.graph import MOVES, computed, function_name, is_leaf

if TYPE_CHECKING:
    from collections.abc import Mapping


class Normalize(nn.Module):
    """``functional.normalize``, whose norm belongs to the operation."""

    def __init__(self, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> None:
        super().__init__()
        self.p, self.dim, self.eps = p, dim, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.normalize(x, self.p, self.dim, self.eps)


_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "softmax": nn.Softmax,
    "log_softmax": nn.LogSoftmax,
    "normalize": Normalize,
}

_LAYERS: Mapping[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
}
"""Functions of layers with the names of their operands."""


class Value(nn.Module):
    """Passes a parameter on to a function."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def with_function_modules(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """Return a copy of ``network`` whose functions are modules where there is one; ``torch.fx`` must trace it."""
    aimet: Any = load()
    network = copy.deepcopy(network)
    leaves = [module for module in network.modules() if is_leaf(module)]
    traced, scopes = aimet.model_preparer._trace_model(network, leaves, None, None)
    floats = set(computed(traced, x))
    for node in list(traced.graph.nodes):
        if node.op not in ("call_function", "call_method"):
            continue
        if node.name not in floats:
            if function_name(node) not in MOVES:
                node._rename(f"whole_{node.name}")  # AIMET goes by the name of a node
            continue
        made = _module(traced, node)
        if made is not None:
            _replace(traced, node, made, scopes)
    _round_parameters(traced, scopes)
    _share_parameters(traced, scopes)
    aimet.model_preparer._prepare_traced_model(traced, scopes)
    prepared: nn.Module = traced
    return prepared


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that computes a node from its first operand; None if AIMET's is right, or there is none."""
    name = function_name(node)
    if name in _LAYERS:
        return _layer(traced, node, name)
    if name not in _ACTIVATIONS:
        return None
    settings = {key: value for key, value in _settings(node, _ACTIVATIONS[name]).items() if key != "inplace"}
    if any(isinstance(value, fx.Node) for value in settings.values()):
        return None
    return _ACTIVATIONS[name](**settings)


def _layer(traced: fx.GraphModule, node: fx.Node, name: str) -> nn.Module | None:
    """Return the layer of a function whose weight and bias are parameters, which another module may own."""
    given: dict[str, Any] = {**dict(zip(_LAYERS[name], node.args, strict=False)), **node.kwargs}
    operands = {key: given.pop(key, None) for key in ("weight", "bias")}
    found = {key: _parameter(traced, value) for key, value in operands.items()}
    weight = found["weight"]
    if weight is None or any(operands[key] is not None and found[key] is None for key in found):
        return None
    given.pop("input", None)
    if any(isinstance(value, fx.Node) for value in given.values()):
        return None
    made: nn.Module
    has_bias = found["bias"] is not None
    if name == "linear":
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias, device="meta")
    elif name == "layer_norm":
        shape = given.pop("normalized_shape")
        made = nn.LayerNorm(tuple(shape), bias=has_bias, device="meta", **given)
    else:
        inputs = weight.shape[1] * given.get("groups", 1)
        made = nn.Conv2d(
            inputs, weight.shape[0], (weight.shape[2], weight.shape[3]), bias=has_bias, device="meta", **given
        )
    for key, parameter in found.items():
        if parameter is not None:
            setattr(made, key, parameter)
    return made


def _settings(node: fx.Node, kind: type[nn.Module]) -> dict[str, Any]:
    """Return the arguments after the first as keywords of the module, whose order torch keeps."""
    order = [key for key in inspect.signature(kind).parameters if key not in ("min_value", "max_value")]
    given = dict(zip(order, node.args[1:], strict=False))
    known = {*order}
    return {**given, **{key: value for key, value in node.kwargs.items() if key in known}}


def _parameter(traced: fx.GraphModule, node: Any) -> nn.Parameter | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = traced
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, nn.Parameter) else None


def _replace(traced: fx.GraphModule, node: fx.Node, made: nn.Module, scopes: Any) -> None:
    aimet: Any = load()
    parent, child, name = aimet.model_preparer._get_info_for_functional_node(traced, node, scopes)
    setattr(parent, child, made.eval())
    operand = node.args[0] if node.args else node.kwargs["input"]
    with traced.graph.inserting_after(node):
        new = traced.graph.call_module(name, args=(operand,))
    node.replace_all_uses_with(new)
    traced.graph.erase_node(node)


def _round_parameters(traced: fx.GraphModule, scopes: Any) -> None:
    """Let functions read parameters through modules, whose outputs have quantizers."""
    aimet: Any = load()
    for node in list(traced.graph.nodes):
        readers = [user for user in node.users if user.op in ("call_function", "call_method")]
        if _parameter(traced, node) is None or not readers:
            continue
        parent, child, name = aimet.model_preparer._get_info_for_functional_node(traced, node, scopes)
        setattr(parent, child, Value().eval())
        with traced.graph.inserting_after(node):
            new = traced.graph.call_module(name, args=(node,))
        for user in readers:
            user.replace_input_with(node, new)


def _share_parameters(traced: fx.GraphModule, scopes: Any) -> None:
    """Give each later call of a module its own copy with the same parameters, so that none counts twice."""
    aimet: Any = load()
    seen: set[str] = set()
    for node in traced.graph.nodes:
        if node.op != "call_module" or node.target not in seen:
            seen.add(str(node.target))
            continue
        module = traced.get_submodule(node.target)
        parameters = list(module.parameters())
        if parameters:
            parent, child, name = aimet.model_preparer._get_info_for_reused_node(traced, node, scopes)
            setattr(parent, child, copy.deepcopy(module, {id(parameter): parameter for parameter in parameters}))
            node.target = name
