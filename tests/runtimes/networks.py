"""Quantized networks on which runtimes are compared with the simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.integers import IntegerNetwork
from zoo_core.runtimes.parity import Simulated


class ConvNet(nn.Module):
    """A convolution with ReLU6, a depthwise one with a clip per channel, two more, and an addition.

    With an input of 8 x 8 several of its tensors have 8 channels, 8 rows and 8 columns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu6 = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6()
        self.depthwise, self.clip = nn.Conv2d(8, 8, 3, padding=1, groups=8), ChannelClip(8)
        self.project = nn.Conv2d(8, 6, 1)
        self.widen, self.plus = nn.Conv2d(6, 8, 3, padding=1), Plus()
        self.head = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.relu6(self.stem(x))
        y = self.plus(x, self.widen(self.project(self.clip(self.depthwise(x)))))
        return self.head(y), y


class Plus(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


QUANTIZED = ("relu6", "clip", "project", "widen", "plus", "head")
"""Modules of ``ConvNet`` whose output is quantized, in the order of the graph."""


def images(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 4 - 2


def conv_net(*, per_channel: bool = True) -> IntegerNetwork:
    """Quantize ``ConvNet`` to 8 bits; its grids imply neither clip, and its images reach both."""
    torch.manual_seed(0)
    network = ConvNet().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # channels of different size, as training leaves them
            module.weight *= torch.linspace(0.4, 1.6, len(module.weight)).reshape(-1, 1, 1, 1)
    network.stem.weight *= 4
    network.clip.rescale(torch.linspace(3, 12, 8))
    weights = {
        f"{name}.weight": of_weight(module.weight, per_channel=per_channel)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    found = outputs(network, images(8))
    activations = {name: {"output": {"0": asymmetric(found[name])}} for name in QUANTIZED}
    activations["relu6"]["output"]["0"] = asymmetric(torch.tensor([-0.5, 7.0]))
    activations["clip"]["output"]["0"] = asymmetric(torch.tensor([0.0, 3.0]))
    return IntegerNetwork.from_encodings(network, {"param_encodings": weights, "activation_encodings": activations})


def outputs(network: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the output of every module in ``QUANTIZED``."""
    found: dict[str, torch.Tensor] = {}
    for name in QUANTIZED:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: found.update({name: output})
        )
    network(x)
    for name in QUANTIZED:
        network.get_submodule(name)._forward_hooks.clear()
    return found


def asymmetric(values: torch.Tensor) -> dict[str, Any]:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scale = float(np.float32((high - low) / 255))
    return {"scale": scale, "offset": round(low / scale), "bitwidth": 8, "is_symmetric": "False"}


def of_weight(weight: torch.Tensor, *, per_channel: bool) -> list[dict[str, Any]]:
    if not per_channel:
        return [asymmetric(weight)]
    scales = [float(np.float32(channel.abs().max() / 127)) for channel in weight]
    return [{"scale": scale, "offset": -128, "bitwidth": 8, "is_symmetric": "True"} for scale in scales]


def simulate(network: IntegerNetwork, x: NDArray[np.float32]) -> Simulated:
    return network.simulated(torch.from_numpy(x))
