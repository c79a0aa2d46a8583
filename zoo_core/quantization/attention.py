"""Writes attention as modules, so that each of its products has quantizers and its matrices can be rounded.

``nn.MultiheadAttention`` and torchvision's ``ShiftedWindowAttention`` multiply through functions, which no simulation
sees. The replacements compute the same within rounding. Attention with masks, other inputs for key and value, or a
cosine (Swin V2) is left as it is.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.nn import functional
from torchvision.models.swin_transformer import ShiftedWindowAttention

if TYPE_CHECKING:
    from collections.abc import Sequence

_MASKED = -100.0
"""Added to the logit of a pair of tokens from different windows, as in torchvision."""


class MatMul(nn.Module):
    """Product of two tensors."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.matmul(x, y)


class Add(nn.Module):
    """Sum of two tensors."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Rows(nn.Module):
    """Selects rows of a table."""

    def forward(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return table[index]


class Scale(nn.Module):
    """Product with a fixed factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class WindowSoftmax(nn.Module):
    """Softmax over the last axis of the logits of windows, ``(N, heads, tokens, tokens)``.

    The mask of shifted windows is added within, so that it does not widen the range of the logits.
    """

    def __init__(self, window: Sequence[int], shift: Sequence[int]) -> None:
        super().__init__()
        self.window, self.shift = tuple(window), tuple(shift)

    def forward(self, logits: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return weights; only the size of ``image``, ``(B, H, W, C)``, is read."""
        counts, shift = _windows_of(image, self.window, self.shift)
        if not any(shift):
            return torch.softmax(logits, -1)
        mask = _mask(counts, self.window, shift).to(logits)
        windows = logits.view(-1, len(mask), *logits.shape[1:])
        return torch.softmax(windows + mask.unsqueeze(1), -1).view(logits.shape)


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` of one input with itself, ``(B, N, C)``.

    Args:
        original: Satisfies ``_is_plain``; its parameters are used, not copied.
    """

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.width = original.num_heads, original.head_dim
        bias = original.in_proj_bias
        self.in_proj = nn.Linear(original.embed_dim, 3 * original.embed_dim, bias=bias is not None, device="meta")
        self.in_proj.weight = original.in_proj_weight
        if bias is not None:
            self.in_proj.bias = bias
        self.out_proj = nn.Linear(original.embed_dim, original.embed_dim, bias=bias is not None, device="meta")
        self.out_proj.weight, self.out_proj.bias = original.out_proj.weight, original.out_proj.bias
        self.scale = Scale(original.head_dim**-0.5)
        self.logits, self.softmax, self.weighted = MatMul(), nn.Softmax(-1), MatMul()

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the result and the weights, which are None if they are not needed.

        With a mask, another key or value, or weights to return, torch's function computes it in float.
        """
        if key is not query or value is not query or need_weights or not (key_padding_mask is attn_mask is None):
            x, weights = functional.multi_head_attention_forward(
                query.transpose(0, 1),
                key.transpose(0, 1),
                value.transpose(0, 1),
                self.num_heads * self.width,
                self.num_heads,
                self.in_proj.weight,
                self.in_proj.bias,
                None,
                None,
                False,
                0.0,
                self.out_proj.weight,
                self.out_proj.bias,
                training=False,
                key_padding_mask=key_padding_mask,
                need_weights=need_weights,
                attn_mask=attn_mask,
                average_attn_weights=average_attn_weights,
                is_causal=is_causal,
            )
            return x.transpose(0, 1), weights
        x = self.in_proj(query)
        x = x.reshape(x.shape[0], x.shape[1], 3, self.num_heads, self.width).permute(2, 0, 3, 1, 4)
        weights = self.softmax(self.logits(self.scale(x[0]), x[1].transpose(-2, -1)))
        x = self.weighted(weights, x[2]).transpose(1, 2).flatten(2)
        return self.out_proj(x), None


class WindowAttention(nn.Module):
    """torchvision's ``ShiftedWindowAttention``, ``(B, H, W, C)``; names of parameters and buffers stay.

    Args:
        original: Its layers are used, not copied.
    """

    def __init__(self, original: ShiftedWindowAttention) -> None:
        super().__init__()
        self.window, self.shift, self.num_heads = original.window_size, original.shift_size, original.num_heads
        self.qkv, self.proj = original.qkv, original.proj
        self.relative_position_bias_table = original.relative_position_bias_table
        self.register_buffer("relative_position_index", original.relative_position_index)
        self.scale = Scale((original.qkv.in_features // original.num_heads) ** -0.5)
        self.rows, self.biased = Rows(), Add()
        self.softmax = WindowSoftmax(self.window, self.shift)
        self.logits, self.weighted = MatMul(), MatMul()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens, channels = self.window[0] * self.window[1], self.qkv.in_features
        qkv = self.qkv(into_windows(x, self.window, self.shift))
        qkv = qkv.reshape(-1, tokens, 3, self.num_heads, channels // self.num_heads).permute(2, 0, 3, 1, 4)
        bias = self.rows(self.relative_position_bias_table, self.relative_position_index)
        bias = bias.view(tokens, tokens, self.num_heads).permute(2, 0, 1).contiguous().unsqueeze(0)
        logits = self.biased(self.logits(self.scale(qkv[0]), qkv[1].transpose(-2, -1)), bias)
        y = self.weighted(self.softmax(logits, x), qkv[2]).transpose(1, 2).reshape(-1, tokens, channels)
        return from_windows(self.proj(y), x, self.window, self.shift)


def into_windows(x: torch.Tensor, window: Sequence[int], shift: Sequence[int]) -> torch.Tensor:
    """Cut ``(B, H, W, C)``, padded and rolled, into windows, ``(N, tokens, C)``."""
    # An exporter may keep the batch size variable; the image has one size.
    batch, (height, width, channels) = x.shape[0], (int(size) for size in x.shape[1:])
    (down, right), shift = _windows_of(x, window, shift)
    x = functional.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), (1, 2))
    x = x.view(batch, down, window[0], right, window[1], channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(batch * down * right, window[0] * window[1], channels)


def from_windows(
    windows: torch.Tensor, image: torch.Tensor, window: Sequence[int], shift: Sequence[int]
) -> torch.Tensor:
    """Undo ``into_windows`` for ``image``, of which only the size is read."""
    batch, (height, width, channels) = image.shape[0], (int(size) for size in image.shape[1:])
    (down, right), shift = _windows_of(image, window, shift)
    x = windows.view(batch, down, right, window[0], window[1], channels).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, down * window[0], right * window[1], channels)
    if any(shift):
        x = x.roll((shift[0], shift[1]), (1, 2))
    return x[:, :height, :width].contiguous()


# Both depend on the size of the image, which torch.fx does not know: it keeps them as calls.
fx.wrap("into_windows")
fx.wrap("from_windows")


def _windows_of(image: torch.Tensor, window: Sequence[int], shift: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the numbers of windows, down and right, and the shift, which is 0 where there is only one."""
    counts = [-(-int(size) // side) for size, side in zip(image.shape[1:3], window, strict=True)]
    return counts, [0 if count == 1 else by for count, by in zip(counts, shift, strict=True)]


def _mask(counts: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> torch.Tensor:
    """Return ``(windows, tokens, tokens)``: what is added to the logit of two tokens."""
    (down, right), (rows, columns) = counts, window
    regions = torch.zeros(down * rows, right * columns, dtype=torch.int64)
    # torchvision's slices: with a shift of 0, the last one covers all.
    for place, (top, bottom) in enumerate(((0, -rows), (-rows, -shift[0]), (-shift[0], None))):
        for other, (left, end) in enumerate(((0, -columns), (-columns, -shift[1]), (-shift[1], None))):
            regions[top:bottom, left:end] = 3 * place + other
    regions = regions.view(down, rows, right, columns).permute(0, 2, 1, 3).reshape(down * right, rows * columns)
    return (regions.unsqueeze(1) != regions.unsqueeze(2)) * _MASKED


def with_attention_modules(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` whose attention is made of modules, or ``network`` itself if it has none to write.

    Parameters of ``nn.MultiheadAttention`` get other names: ``in_proj.weight`` instead of ``in_proj_weight``.
    """
    if not _replaceable(network):
        return network
    network = copy.deepcopy(network)
    for name, module in _replaceable(network):
        parent, _, child = name.rpartition(".")
        made = SelfAttention(module) if isinstance(module, nn.MultiheadAttention) else WindowAttention(module)
        setattr(network.get_submodule(parent), child, made.train(module.training))
    return network


def _replaceable(network: nn.Module) -> list[tuple[str, Any]]:
    # torch's own encoder layers read the parameters of their attention directly.
    inside = {
        part
        for layer in network.modules()
        if isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
        for part in layer.modules()
    }
    return [
        (name, module)
        for name, module in network.named_modules()
        if type(module) is ShiftedWindowAttention or (_is_plain(module) and module not in inside)
    ]


def _is_plain(module: nn.Module) -> bool:
    return (
        type(module) is nn.MultiheadAttention
        and module.batch_first
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )
