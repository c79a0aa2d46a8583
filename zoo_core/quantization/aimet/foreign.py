"""Modules and arithmetic that AIMET does not know.

Every leaf module class that AIMET does not know (a plugin's ``Add``, the per-channel clip) is registered with
``QuantizationMixin.implements``: its tensor outputs are quantized like those of AIMET's own modules, under an operation
type that configuration files can name, which is the class's name. Operations outside modules (``x + y``) would run in
float; where ``torch.fx`` finds some, they become modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.quantization import attention
from zoo_core.quantization.aimet.functions import with_function_modules
from zoo_core.quantization.aimet.library import load, logger
from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.graph import functional_operations

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATION_TYPES: dict[type[nn.Module], str] = {
    ChannelClip: "Clip",
    attention.Scale: "Mul",
    attention.WindowSoftmax: "Softmax",
    attention.Rows: "Gather",
}
"""Operation type, as configuration files name it, of classes for which it is not the class's name."""


def register_foreign_modules(network: nn.Module) -> None:
    """Register the leaf modules of ``network`` that AIMET does not know; see the module's docstring."""
    aimet: Any = load()
    known = aimet.nn.QuantizationMixin.cls_to_qcls
    operation_types = aimet.onnx_utils.map_torch_types_to_onnx
    for module in network.modules():
        kind = type(module)
        if kind in known or any(True for _ in module.children()) or kind.__module__.startswith("torch.nn."):
            continue
        operation_types.setdefault(kind, [OPERATION_TYPES.get(kind, kind.__name__)])
        aimet.nn.QuantizationMixin.implements(kind)(_quantized_class(aimet.nn.QuantizationMixin, kind))


def prepare(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """Return the network itself, or a prepared copy if it computes with tensors outside modules.

    Names of modules and parameters stay; preparing twice changes nothing.
    """
    operations = functional_operations(network, x)
    if not operations:
        return network
    prepared = with_function_modules(network, x)
    logger.info("%d operations without a module become modules: %s", len(operations), ", ".join(operations))
    return prepared.eval()


def _quantized_class(mixin: Any, kind: type[nn.Module]) -> Any:
    """Return a subclass of ``kind`` that quantizes its tensor inputs, parameters and outputs where quantizers are."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = iter(self.input_quantizers)
        args = tuple(quantize_tensors(arg, inputs) for arg in args)
        with self._patch_quantized_parameters():
            output = kind.forward(self, *args, **kwargs)
        return quantize_tensors(output, iter(self.output_quantizers))

    return type(mixin)(
        f"Quantized{kind.__name__}",
        (mixin, kind),
        {
            "forward": forward,
            "_supports_dynamic_input_count": classmethod(lambda _: True),
            "__doc__": kind.__doc__,
            "__module__": kind.__module__,
        },
    )


def quantize_tensors(value: Any, quantizers: Iterator[Any]) -> Any:
    """Apply one quantizer after the other to the tensors in a value; None skips a tensor, and integers stay."""
    if isinstance(value, torch.Tensor):
        quantizer = next(quantizers, None)
        return value if quantizer is None or not value.is_floating_point() else quantizer(value)
    if isinstance(value, list | tuple):
        return type(value)(quantize_tensors(item, quantizers) for item in value)
    return value
