"""The MobileNetV2-SSD-lite network, from an image batch to raw class scores and box locations.

Reimplemented from the published structure, so that published weights load unchanged. Sources of the structure:

* https://github.com/qfgaohao/pytorch-ssd, commit f61ab424d09bf3d4bb3925693579ac0a92541b0d (MIT):
  ``vision/nn/mobilenet_v2.py``, ``vision/ssd/mobilenet_v2_ssd_lite.py``, ``vision/ssd/ssd.py``.
* Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, table 2 and section 6.2.

Softmax, box decoding and NMS are in ``decode.py``, so the quantized and exported network is what a device runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from zoo_core.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_ANCHORS_PER_CELL = 6
TAP_BLOCK = 14
"""The first head reads what this block's expansion gives, 19 x 19 cells."""

_FIRST_CHANNELS = 32
_LAST_CHANNELS = 1280
_FIRST_HEAD_CHANNELS = 576


class _Stage(NamedTuple):
    expand_ratio: int
    channels: int
    num_blocks: int
    stride: int


_STAGES = (
    _Stage(1, 16, 1, 1),
    _Stage(6, 24, 2, 2),
    _Stage(6, 32, 3, 2),
    _Stage(6, 64, 4, 2),
    _Stage(6, 96, 3, 1),
    _Stage(6, 160, 3, 2),
    _Stage(6, 320, 1, 1),
)


class _Extra(NamedTuple):
    in_channels: int
    out_channels: int
    expand_ratio: float


_EXTRAS = (_Extra(1280, 512, 0.2), _Extra(512, 256, 0.25), _Extra(256, 256, 0.5), _Extra(256, 64, 0.25))


class Add(nn.Module):
    """Adds two tensors of one shape.

    A module and not a plus sign, because quantization tools attach quantizers to modules: any other addition would
    silently run in float. It has no parameters and does not change the state dict.
    """

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return ``x + y``."""
        return x + y


class Concat(nn.Module):
    """Concatenates tensors along axis 1; a module for the same reason as ``Add``."""

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return the tensors joined along axis 1."""
        return torch.cat(tensors, dim=1)


class Clip(nn.Module):
    """``min(relu(x), ceiling)`` with one ceiling per channel: a ReLU6 whose channels were equalized.

    Only networks with equalized weights contain it. Quantization tools recognize the operation by the class name.

    Args:
        num_channels: C of the input ``(B, C, H, W)``.

    Attributes:
        ceiling: ``(1, C, 1, 1)`` buffer, part of the state dict.
    """

    ceiling: torch.Tensor
    floor: torch.Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("ceiling", torch.full((1, num_channels, 1, 1), 6.0))
        self.register_buffer("floor", torch.tensor(0.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Clip to ``[0, ceiling]``."""
        # One operation: of a module that traces to two, AIMET 2.42 sees the two and not the module, and then quantizes
        # the convolution before it as well, as no device that fuses the clip would.
        return torch.clamp(x, self.floor, self.ceiling)


class InvertedResidual(nn.Module):
    """Expands (unless the ratio is 1), filters each channel, projects; adds the input if shapes allow.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        stride: 1 or 2.
        expand_ratio: Hidden channels per input channel; below 1 in the extra layers, where it shrinks.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand_ratio: float) -> None:
        super().__init__()
        hidden = round(in_channels * expand_ratio)
        expand = [] if expand_ratio == 1 else _conv_bn_relu6(in_channels, hidden, kernel_size=1)
        self.conv = nn.Sequential(
            *expand,
            *_conv_bn_relu6(hidden, hidden, kernel_size=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.add = Add() if stride == 1 and in_channels == out_channels else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, out_channels, H / stride, W / stride)``, rounded up, for ``(B, in_channels, H, W)``."""
        y: torch.Tensor = self.conv(x)
        return y if self.add is None else self.add(x, y)

    def forward_with_expansion(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the expansion after its ReLU6, and the output; for a block without addition."""
        expansion = x
        for layer in list(self.conv)[:3]:
            expansion = layer(expansion)
        y = expansion
        for layer in list(self.conv)[3:]:
            y = layer(y)
        return expansion, y


class MobileNetV2SSDLite(nn.Module):
    """MobileNetV2 features, four extra layers, and class and box heads on six feature maps.

    Every ReLU6, addition and concatenation is a module that runs once per forward pass, as quantization tools require.
    State dict keys and shapes are the published checkpoint's.

    Args:
        num_classes_with_background: Class 0 is background; 21 for VOC.
        width_mult: Scales the channels of the features up to block 17; see ``check_width``.

    Raises:
        RegistryError: The published heads do not fit the features of this width.
    """

    def __init__(self, num_classes_with_background: int = 21, width_mult: float = 1.0) -> None:
        super().__init__()
        check_width(width_mult)
        self.num_classes_with_background = num_classes_with_background
        self.width_mult = width_mult
        self.base_net = nn.Sequential(*_features(width_mult))
        self.extras = nn.ModuleList(InvertedResidual(e.in_channels, e.out_channels, 2, e.expand_ratio) for e in _EXTRAS)
        widths = (round(_FIRST_HEAD_CHANNELS * width_mult), _LAST_CHANNELS, *(e.out_channels for e in _EXTRAS))
        self.classification_headers = _heads(widths, NUM_ANCHORS_PER_CELL * num_classes_with_background)
        self.regression_headers = _heads(widths, NUM_ANCHORS_PER_CELL * 4)
        self.concat_scores = Concat()
        self.concat_locations = Concat()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return raw class scores and box locations of every prior, in the order of ``priors.make_priors``.

        Args:
            x: ``(B, 3, 300, 300)`` float32, RGB, ``(value - 127) / 128``.

        Returns:
            Scores ``(B, 3000, num_classes_with_background)`` before softmax, and locations ``(B, 3000, 4)``: centre
            offsets and log sizes relative to the prior, over their variances.
        """
        maps = self._feature_maps(x)
        num_classes = self.num_classes_with_background
        scores = [_per_prior(h(m), num_classes) for h, m in zip(self.classification_headers, maps, strict=True)]
        locations = [_per_prior(h(m), 4) for h, m in zip(self.regression_headers, maps, strict=True)]
        return self.concat_scores(*scores), self.concat_locations(*locations)

    def _feature_maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for index, layer in enumerate(self.base_net):
            if index == TAP_BLOCK and isinstance(layer, InvertedResidual):
                expansion, x = layer.forward_with_expansion(x)
                maps.append(expansion)
            else:
                x = layer(x)
        maps.append(x)
        for extra in self.extras:
            x = extra(x)
            maps.append(x)
        return maps


def build_network(num_classes_with_background: int = 21, width_mult: float = 1.0, seed: int = 0) -> MobileNetV2SSDLite:
    """Build the untrained network in eval mode on the CPU; one seed gives the same weights everywhere.

    The global random state is neither read nor changed.

    Args:
        num_classes_with_background: Class 0 is background.
        width_mult: See ``MobileNetV2SSDLite``.
        seed: Seed of the convolution weights (He et al. 2015, fan-in); biases are 0, batch norms are identities.

    Raises:
        RegistryError: See ``MobileNetV2SSDLite``.
    """
    with torch.device("meta"):  # torch's own initialisation would draw from the global random state
        network = MobileNetV2SSDLite(num_classes_with_background, width_mult)
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                std = (2.0 / module.weight[0].numel()) ** 0.5
                module.weight.normal_(0.0, std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    return network.eval()


def check_width(width_mult: float) -> None:
    """Check that the published structure's widths agree for this width multiplier.

    The structure truncates the channels of a block (``int(96 * width)``, then six times that inside block 14), but
    rounds those of the first head (``round(576 * width)``), and expects 1280 channels in the first extra layer, where
    the features give ``int(1280 * width)`` above width 1. So 0.25, 0.5, 0.75 and 1 agree; 0.35 and 1.4 do not.

    Raises:
        RegistryError: They do not agree; names both channel counts.
    """
    if int(_STAGES[0].channels * width_mult) < 1:
        raise RegistryError(
            f"options.width_mult is {width_mult}: block 1 would have {int(_STAGES[0].channels * width_mult)} channels.",
            fix="use a width multiplier of at least 0.0625, for example 0.5.",
        )
    tapped = 6 * int(96 * width_mult)
    head = round(_FIRST_HEAD_CHANNELS * width_mult)
    if tapped != head:
        raise RegistryError(
            f"options.width_mult is {width_mult}: block {TAP_BLOCK} expands to {tapped} channels, but the published "
            f"structure's first head reads {head}.",
            fix="use a width multiplier for which they agree: 0.25, 0.5, 0.75 or 1.0.",
        )
    last = int(_LAST_CHANNELS * width_mult) if width_mult > 1 else _LAST_CHANNELS
    if last != _LAST_CHANNELS:
        raise RegistryError(
            f"options.width_mult is {width_mult}: the features end in {last} channels, but the published structure's "
            f"second head and first extra layer read {_LAST_CHANNELS}.",
            fix="use a width multiplier of at most 1.0: 0.25, 0.5, 0.75 or 1.0.",
        )


def _features(width_mult: float) -> list[nn.Module]:
    """Layers 0 to 18: first convolution, 17 blocks, last convolution."""
    channels = int(_FIRST_CHANNELS * width_mult)
    layers: list[nn.Module] = [nn.Sequential(*_conv_bn_relu6(3, channels, kernel_size=3, stride=2))]
    for stage in _STAGES:
        out_channels = int(stage.channels * width_mult)
        for index in range(stage.num_blocks):
            stride = stage.stride if index == 0 else 1
            layers.append(InvertedResidual(channels, out_channels, stride, stage.expand_ratio))
            channels = out_channels
    layers.append(nn.Sequential(*_conv_bn_relu6(channels, _LAST_CHANNELS, kernel_size=1)))
    return layers


def _heads(widths: Sequence[int], out_channels: int) -> nn.ModuleList:
    """Build one head per feature map: depthwise, then pointwise; only pointwise for the last map of one cell."""
    separable = [
        nn.Sequential(
            *_conv_bn_relu6(width, width, kernel_size=3, groups=width, bias=True),
            nn.Conv2d(width, out_channels, kernel_size=1),
        )
        for width in widths[:-1]
    ]
    return nn.ModuleList([*separable, nn.Conv2d(widths[-1], out_channels, kernel_size=1)])


def _conv_bn_relu6(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, groups: int = 1, bias: bool = False
) -> list[nn.Module]:
    padding = kernel_size // 2
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias),
        nn.BatchNorm2d(out_channels),
        # Not in place: AdaRound records a convolution's output, which an activation in place would overwrite.
        nn.ReLU6(),
    ]


def _per_prior(x: torch.Tensor, num_values: int) -> torch.Tensor:
    """Turn ``(B, anchors * num_values, H, W)`` into ``(B, H * W * anchors, num_values)``."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, num_values)
