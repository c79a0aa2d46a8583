"""What happens to ReLU6 before cross-layer equalization; torch alone.

Equalization scales a channel down by s and the next layer's weights up by s. ReLU commutes with that, ReLU6 does not:
``min(relu(x), 6)`` becomes ``min(relu(x / s), 6 / s)``. Three policies answer it:

* ``keep``: ReLU6 stays, and AIMET 2.4 and later leaves the layers around it alone.
* ``replace``: ReLU6 becomes ReLU, as AIMET before 2.4 did; the float network is another one from here on.
* ``per_channel_clip``: ReLU6 becomes a clip with one ceiling a channel, which equalization scales along. The float
  function stays; a device must be able to clip per channel, which is not the scalar clip that every device fuses.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from zoo_core.quantization.graph import output_shapes, set_module

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CEILING = 6.0


class ChannelClip(nn.Module):
    """``min(relu(x), ceiling)`` with one ceiling a channel; equals ReLU6 until it is rescaled.

    Args:
        num_channels: Length of the input's axis 1.
        num_axes: Of the input; 4 for ``(B, C, H, W)``.

    Attributes:
        ceiling: ``(1, C, 1, ...)`` buffer, part of the state dict.
    """

    ceiling: torch.Tensor
    _floor: torch.Tensor

    def __init__(self, num_channels: int, num_axes: int = 4) -> None:
        super().__init__()
        shape = (1, num_channels, *[1] * (num_axes - 2))
        self.register_buffer("ceiling", torch.full(shape, CEILING))
        self.register_buffer("_floor", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Clip ``(B, C, ...)`` to ``[0, ceiling]``."""
        return torch.clamp(x, self._floor, self.ceiling)  # one operation: half the time of relu and minimum

    def rescale(self, factors: torch.Tensor) -> None:
        """Follow a layer whose output channels were divided by ``factors``, ``(C,)``, all positive."""
        self.ceiling /= factors.to(self.ceiling).reshape(self.ceiling.shape)

    def extra_repr(self) -> str:
        return f"{self.ceiling.shape[1]}, ceiling {float(self.ceiling.min()):.4g} to {float(self.ceiling.max()):.4g}"


def apply_policy(
    network: nn.Module, policy: Literal["keep", "replace", "per_channel_clip"], x: torch.Tensor
) -> tuple[nn.Module, list[str], list[str]]:
    """Return a copy of ``network`` under a policy, the names of the changed activations and of those left as they were.

    Args:
        network: Not modified.
        policy: See the module's docstring.
        x: An input that the network accepts; tells how many channels each activation has.

    Returns:
        A module that did not run, ran more than once, or has no channel axis keeps its ReLU6 under
        ``per_channel_clip``: its ceilings would not be one channel's.
    """
    changed_network = copy.deepcopy(network)
    names = [name for name, module in changed_network.named_modules() if isinstance(module, nn.ReLU6)]
    if policy == "keep":
        return changed_network, [], names
    replacements: Mapping[str, nn.Module]
    if policy == "replace":
        replacements = {name: nn.ReLU() for name in names}
    else:
        shapes = output_shapes(changed_network, x, names)
        replacements = {name: _clip(shapes[name]) for name in names if _has_one_channel_axis(shapes[name])}
    for name, module in replacements.items():
        set_module(changed_network, name, module.to(x.device).train(mode=False))
    return changed_network, list(replacements), [name for name in names if name not in replacements]


def _has_one_channel_axis(shapes: Sequence[torch.Size]) -> bool:
    return len(shapes) == 1 and len(shapes[0]) >= 2


def _clip(shapes: Sequence[torch.Size]) -> ChannelClip:
    return ChannelClip(shapes[0][1], num_axes=len(shapes[0]))
