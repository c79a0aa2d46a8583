"""Step cross_layer_equalization: equalizes the weight ranges of neighbouring layers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo_core.datatypes import Json, QuantNetwork, StepResult
from zoo_core.errors import RecipeError
from zoo_core.quantization.aimet import transforms
from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.graph import OUTPUT, direct_consumers, probe_image, relative_change, set_module

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.datatypes import StepContext
    from zoo_core.quantization.aimet.transforms import ScaledLayers
    from zoo_core.quantization.params import CrossLayerEqualizationParams


def equalize(network: QuantNetwork, params: CrossLayerEqualizationParams, context: StepContext) -> StepResult:
    """Equalize weight ranges across layers, without high-bias fold.

    AIMET sees per-channel clips as ReLU while it looks for layers to scale; their ceilings are rescaled afterwards.
    High-bias fold needs the batch norms' statistics, which folding has removed, and would change the float function.

    Effect: ``num_layer_sets``, ``layer_sets`` (module names), ``num_rescaled_clips``, ``max_relative_change`` of the
    float outputs, and ``weight_ranges``: for each scaled layer ``max_abs`` and ``spread`` before and after, where the
    spread is the largest over the smallest of its output channels' largest magnitudes (None where a channel is zero).

    Raises:
        RecipeError: Fewer layer sets than ``min_layer_sets`` were scaled.
    """
    equalized = copy.deepcopy(network.network)
    clips = {name: module for name, module in equalized.named_modules() if isinstance(module, ChannelClip)}
    for name in clips:
        set_module(equalized, name, nn.ReLU())
    layer_sets = transforms.scale_layers(equalized, context.example_input)
    for name, clip in clips.items():
        set_module(equalized, name, clip)
    if len(layer_sets) < params.min_layer_sets:
        raise _too_few(layer_sets, params.min_layer_sets, network.network)
    num_rescaled = _rescale_clips(equalized, layer_sets, context.example_input)
    layers = list(dict.fromkeys(name for layer_set in layer_sets for name in layer_set.layers))
    change = relative_change(network.network, equalized, probe_image(context))
    return StepResult(
        result=QuantNetwork(network=equalized),
        effect={
            "num_layer_sets": len(layer_sets),
            "layer_sets": [list[Json](layer_set.layers) for layer_set in layer_sets],
            "num_rescaled_clips": num_rescaled,
            "max_relative_change": change,
            "weight_ranges": {name: _range_change(network.network, equalized, name) for name in layers},
        },
        summary=f"scaled {len(layer_sets)} layer sets and {num_rescaled} clips; float outputs changed by "
        f"{change:.1e} of their largest value",
    )


def _rescale_clips(network: nn.Module, layer_sets: Sequence[ScaledLayers], x: torch.Tensor) -> int:
    """Rescale the ceilings of the clips between scaled layers and return the number of clips."""
    readers = direct_consumers(network, x)
    count = 0
    for layer_set in layer_sets:
        for layer, factors in zip(layer_set.layers, layer_set.factors, strict=False):
            for clip in (network.get_submodule(name) for name in readers[layer] if name != OUTPUT):
                if isinstance(clip, ChannelClip):
                    clip.rescale(torch.as_tensor(factors))
                    count += 1
    return count


def _range_change(before: nn.Module, after: nn.Module, name: str) -> Json:
    ranges: dict[str, Json] = {}
    for when, network in (("before", before), ("after", after)):
        layer = network.get_submodule(name)
        axis = 1 if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d) else 0
        per_channel = layer.get_parameter("weight").detach().movedim(axis, 0).flatten(1).abs().amax(1)
        largest, smallest = float(per_channel.max()), float(per_channel.min())
        ranges[f"max_abs_{when}"] = largest
        ranges[f"spread_{when}"] = largest / smallest if smallest > 0.0 else None
    return ranges


def _too_few(layer_sets: Sequence[ScaledLayers], expected: int, network: nn.Module) -> RecipeError:
    num_relu6 = sum(isinstance(module, nn.ReLU6) for module in network.modules())
    num_batch_norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    scaled = "; ".join(" - ".join(layer_set.layers) for layer_set in layer_sets) or "none"
    return RecipeError(
        f"cross_layer_equalization scaled {len(layer_sets)} layer sets ({scaled}), but the recipe expects at least "
        f"{expected}. The network has {num_relu6} ReLU6 and {num_batch_norms} batch norms, which stop the scaling.",
        fix="put fold_batch_norms before it and use a relu6 policy other than keep, or lower min_layer_sets.",
    )
