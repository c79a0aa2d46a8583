"""A small quantized network as an ONNX graph, for tests of runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo_core.datatypes import RuntimeSession
from zoo_core.quantization.export import export_qdq
from zoo_core.quantization.integers import IntegerNetwork
from zoo_core.runtimes.parity import LayerParity, compare_layers

NUM_MACS = {"first": 8 * 64 * 27, "depthwise": 8 * 64 * 9, "last": 4 * 64 * 8}
"""Products of one image of 8 x 8 pixels, by layer."""


class SmallNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.depthwise(self.relu(self.first(x))))  # type: ignore[no-any-return]


def float_network() -> nn.Module:
    torch.manual_seed(0)
    return SmallNetwork().eval()


def image(batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def quantized_network(*, quantized_input: bool = True, per_channel: bool = True) -> IntegerNetwork:
    """Eight bits everywhere; weights symmetric per channel, or asymmetric per tensor."""
    network = float_network()
    activations: dict[str, Any] = {
        "relu": {"output": {"0": _encoding(0, 1.5)}},
        "depthwise": {"output": {"0": _encoding(-1, 1)}},
        "last": {"output": {"0": _encoding(-1, 1)}},
    }
    if quantized_input:
        activations["first"] = {"input": {"0": _encoding(0, 1)}}
    params = {}
    for name in NUM_MACS:
        weight = network.get_parameter(f"{name}.weight").detach()
        parts: Sequence[torch.Tensor] = weight.unbind(0) if per_channel else [weight]
        params[f"{name}.weight"] = [_encoding(float(one.min()), float(one.max()), per_channel) for one in parts]
    return IntegerNetwork.from_encodings(network, {"param_encodings": params, "activation_encodings": activations})


def quantized_model(*, quantized_input: bool = True, per_channel: bool = True, batch_size: int | None = 1) -> bytes:
    network = quantized_network(quantized_input=quantized_input, per_channel=per_channel)
    # ONNX Runtime before 1.21 makes integer operations only of layers whose bias is an integer.
    return export_qdq(network, image(), batch_size=batch_size, int32_bias=True).model


def layers_in(session: RuntimeSession, network: IntegerNetwork) -> dict[str, LayerParity]:
    """Compare the graph of ``cut_at_quantizers`` with the simulation."""
    compared = compare_layers(session, image().numpy(), network.integers(image()), input_name="input")
    return {one.name: one for one in compared}


def _encoding(low: float, high: float, symmetric: bool = False) -> dict[str, Any]:
    if symmetric:
        scale, offset = max(-low, high) / 127, -128
    else:
        scale = (high - low) / 255
        offset = round(low / scale)
    return {"scale": float(np.float32(scale)), "offset": offset, "bitwidth": 8, "is_symmetric": str(symmetric)}
