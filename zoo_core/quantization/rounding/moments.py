"""Computes a layer's reconstruction error as a quadratic form, from one pass over the layer's inputs.

A convolution is a matrix product on patches, so the squared error of its output depends on the inputs only through
their second moments. These are collected once; any choice of weights is then scored without reading the inputs again.
``docs/adaround.md`` has the derivation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

RoundableLayer = nn.Conv2d | nn.Linear
"""Layers whose weights this engine can round."""


def weight_rows(layer: RoundableLayer) -> Tensor:
    """Return the weight as ``(G, R, d)``, a view: G groups, each with R filters of d weights.

    A depthwise convolution over C channels gives ``(C, R, 9)`` for a 3x3 kernel, a linear layer ``(1, out, in)``.
    """
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    weight = layer.weight.detach()
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def num_positions(layer: RoundableLayer, x: Tensor) -> int:
    """Count outputs per image and channel for an input ``x``: ``H_out * W_out``, or the product of the inner axes.

    Args:
        layer: The layer.
        x: ``(B, C, H, W)`` for a convolution, ``(B, ..., in)`` for a linear layer.
    """
    if isinstance(layer, nn.Linear):
        return x[0].numel() // layer.in_features
    height, width = _output_size(layer, x)
    return height * width


def patches(layer: RoundableLayer, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the inputs of each output position, in the order of ``weight_rows``.

    Args:
        layer: The layer; its stride, padding, dilation and groups are respected.
        x: ``(B, C, H, W)`` for a convolution, ``(B, ..., in)`` for a linear layer.
        positions: ``(P,)`` int64, indices of each image's outputs (row by row); None for all.

    Returns:
        ``(G, B * P, d)``, dtype of ``x``.
    """
    if isinstance(layer, nn.Linear):
        rows = x.reshape(x.shape[0], -1, layer.in_features)
        rows = rows if positions is None else rows[:, positions]
        return rows.reshape(1, -1, layer.in_features)
    height, width = _output_size(layer, x)
    if positions is None:
        positions = torch.arange(height * width, device=x.device)
    if layer.padding_mode != "zeros":
        x = functional.pad(x, _padding(layer), mode=layer.padding_mode)
    taps, inside = _taps(layer, x, positions, width)  # (K, P)
    batch, channels = x.shape[:2]
    # Channels last: a tap is one run of memory, and no copy is needed if the network already runs that way.
    inputs = x.permute(0, 2, 3, 1).reshape(batch, -1, channels)[:, taps.flatten()]  # (B, K * P, C)
    if inside is not None:
        inputs *= inside.flatten()[:, None]
    inputs = inputs.reshape(batch, len(taps), len(positions), layer.groups, channels // layer.groups)
    return inputs.permute(3, 0, 2, 4, 1).reshape(layer.groups, batch * len(positions), -1)


class ReconstructionError:
    """Summed squared output error of one layer, as a function of its weights.

    W are the float weights, V the weights to score, x the inputs in the float network and x' those in the network
    whose earlier layers are already rounded. The error of one filter is::

        sum (W x - V x')^2 = (W - V) Q (W - V)^T + 2 b (W - V)^T + c
        Q = sum x' x'^T      b = sum e x'      c = sum e^2      e = W (x - x')

    All sums run over images and output positions, in float64.

    Args:
        layer: Its current weights are W.

    Attributes:
        moment: Q, ``(G, d, d)``.
        linear: b, ``(G, R, d)``.
        constant: c, ``(G, R)``.
        energy: ``sum (W x)^2``, ``(G, R)``, the float output's sum of squares.
        num_samples: Output positions added so far, over all images.
    """

    def __init__(self, layer: RoundableLayer) -> None:
        self.layer = layer
        self.weight = weight_rows(layer).clone()
        groups, rows, size = self.weight.shape
        zeros = self.weight.new_zeros
        self.moment = zeros((groups, size, size), dtype=torch.float64)
        self.linear = zeros((groups, rows, size), dtype=torch.float64)
        self.constant = zeros((groups, rows), dtype=torch.float64)
        self.energy = zeros((groups, rows), dtype=torch.float64)
        self.num_samples = 0

    def add(self, x_float: Tensor, x_rounded: Tensor, positions: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            x_float: The layer's input in the float network.
            x_rounded: The same images' input in the rounded network; may be the same tensor.
            positions: See ``patches``.
        """
        inputs = patches(self.layer, x_rounded, positions)
        weight = self.weight.transpose(1, 2)
        self.moment += inputs.transpose(1, 2) @ inputs
        self.num_samples += inputs.shape[1]
        if x_float is x_rounded:
            self.energy += (inputs @ weight).square().sum(1)
            return
        exact = patches(self.layer, x_float, positions)
        self.energy += (exact @ weight).square().sum(1)
        carried = (exact - inputs) @ weight  # (G, P, R)
        self.linear += carried.transpose(1, 2) @ inputs
        self.constant += carried.square().sum(1)

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the error of each filter, ``(G, R)`` float64, for weights ``(G, R, d)``."""
        change = self.weight.double() - weight.double()
        return ((change @ self.moment + 2 * self.linear) * change).sum(-1) + self.constant

    def relative(self, weight: Tensor) -> float:
        """Return the error of all filters divided by the float output's sum of squares; 0.0 if that is 0."""
        energy = float(self.energy.sum())
        return float(self(weight).sum()) / energy if energy > 0 else 0.0


def _output_size(layer: nn.Conv2d, x: Tensor) -> tuple[int, int]:
    left, right, top, bottom = _padding(layer)
    height = x.shape[-2] + top + bottom - layer.dilation[0] * (layer.kernel_size[0] - 1) - 1
    width = x.shape[-1] + left + right - layer.dilation[1] * (layer.kernel_size[1] - 1) - 1
    return height // layer.stride[0] + 1, width // layer.stride[1] + 1


def _padding(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """Return left, right, top, bottom, in the order of ``functional.pad``."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return 0, 0, 0, 0
        total = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        return total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2
    top, left = layer.padding
    return left, left, top, top


def _taps(layer: nn.Conv2d, x: Tensor, positions: Tensor, width: int) -> tuple[Tensor, Tensor | None]:
    """Return the flat index in a channel that each kernel tap reads for each output position, and a mask of its inside.

    Only the given positions are gathered: padding the whole input would copy the largest tensors of the network.
    """
    left, _, top, _ = _padding(layer) if layer.padding_mode == "zeros" else (0, 0, 0, 0)
    rows = torch.arange(layer.kernel_size[0], device=x.device) * layer.dilation[0] - top
    columns = torch.arange(layer.kernel_size[1], device=x.device) * layer.dilation[1] - left
    row = rows[:, None, None] + positions // width * layer.stride[0]  # (kh, 1, P)
    column = columns[:, None] + positions % width * layer.stride[1]  # (kw, P)
    height, width = x.shape[-2:]
    taps = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten(0, 1)
    inside = ((row >= 0) & (row < height) & (column >= 0) & (column < width)).flatten(0, 1)
    return taps, None if bool(inside.all()) else inside
