"""EfficientNet-Lite, written from its published structure.

Source of the structure: github.com/tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py at
22d5cab9cb59c1255589ac4401e5f3a47c01787a (Apache-2.0), and Tan and Le, EfficientNet, ICML 2019, table 1. The modules are
named like those of github.com/ml-illustrated/EfficientNet-Lite-PyTorch, so that its state dicts fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

_STEM_CHANNELS, _HEAD_CHANNELS = 32, 1280
_BN_EPS = 1e-3
_DIVISOR = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Scale of one network of the family.

    Attributes:
        width: Multiplies the channels of every stage; stem and head are never scaled.
        depth: Multiplies the repeats of every stage but the first and the last.
        resolution: Height and width of the input in pixels, on which TensorFlow's padding depends.
    """

    width: float
    depth: float
    resolution: int


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "lite0": Variant(width=1.0, depth=1.0, resolution=224),
        "lite1": Variant(width=1.0, depth=1.1, resolution=240),
        "lite2": Variant(width=1.1, depth=1.2, resolution=260),
    }
)


@dataclass(frozen=True, slots=True)
class _Stage:
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class EfficientNetLite(nn.Module):
    """Classifier from images ``(B, 3, side, side)`` to logits ``(B, num_classes)``; dropout is left out.

    Args:
        variant: Scale.
        num_classes: Outputs.
    """

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        side = variant.resolution
        self._pad_stem = same_padding(side, kernel=3, stride=2)
        self._conv_stem = nn.Conv2d(3, _STEM_CHANNELS, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(_STEM_CHANNELS, eps=_BN_EPS)
        self._relu0 = nn.ReLU6()
        side, channels = _strided(side, 2), _STEM_CHANNELS
        blocks = []
        for index, stage in enumerate(_STAGES):
            outer = index in (0, len(_STAGES) - 1)
            out = scaled_channels(stage.channels, variant.width)
            for repeat in range(stage.repeats if outer else math.ceil(stage.repeats * variant.depth)):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(_Block(channels, out, stage.kernel, stride, stage.expansion, side))
                side, channels = _strided(side, stride), out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(channels, _HEAD_CHANNELS, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(_HEAD_CHANNELS, eps=_BN_EPS)
        self._relu1 = nn.ReLU6()
        self._pool = nn.AdaptiveAvgPool2d(1)
        self._flatten = nn.Flatten()
        self._fc = nn.Linear(_HEAD_CHANNELS, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, num_classes)``."""
        x = self._relu0(self._bn0(self._conv_stem(self._pad_stem(x))))
        x = self._relu1(self._bn1(self._conv_head(self._blocks(x))))
        logits: torch.Tensor = self._fc(self._flatten(self._pool(x)))
        return logits


class _Block(nn.Module):
    """Inverted residual: expansion, depthwise convolution, linear projection; no squeeze-and-excitation."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int, side: int) -> None:
        super().__init__()
        inner = channels * expansion
        self._expands = expansion > 1
        if self._expands:
            self._expand_conv = nn.Conv2d(channels, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=_BN_EPS)
            self._relu0 = nn.ReLU6()
        # The padding of a stride of 1 is symmetric, so the convolution does it itself.
        self._pad = same_padding(side, kernel, stride) if stride > 1 else nn.Identity()
        self._depthwise_conv = nn.Conv2d(
            inner, inner, kernel, stride, padding=0 if stride > 1 else kernel // 2, groups=inner, bias=False
        )
        self._bn1 = nn.BatchNorm2d(inner, eps=_BN_EPS)
        self._relu1 = nn.ReLU6()
        self._project_conv = nn.Conv2d(inner, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=_BN_EPS)
        self._adds = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self._relu0(self._bn0(self._expand_conv(x))) if self._expands else x
        inner = self._relu1(self._bn1(self._depthwise_conv(self._pad(inner))))
        projected: torch.Tensor = self._bn2(self._project_conv(inner))
        return projected + x if self._adds else projected


def same_padding(side: int, kernel: int, stride: int) -> nn.ZeroPad2d:
    """Pad as TensorFlow's ``SAME`` does; of an odd number of rows or columns the last one gets more.

    Source: tensorflow.org/api_docs/python/tf/nn, section "Notes on padding".
    """
    total = max((_strided(side, stride) - 1) * stride + kernel - side, 0)
    before, after = total // 2, total - total // 2
    return nn.ZeroPad2d((before, after, before, after))


def scaled_channels(channels: int, width: float) -> int:
    """Multiply channels by a width and round to a multiple of 8, never down by more than a tenth."""
    if width == 1.0:
        return channels
    scaled = channels * width
    rounded = max(_DIVISOR, int(scaled + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded if rounded >= 0.9 * scaled else rounded + _DIVISOR


def _strided(side: int, stride: int) -> int:
    return math.ceil(side / stride)
