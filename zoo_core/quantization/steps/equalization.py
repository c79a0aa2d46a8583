"""The steps that change the float network: batch-norm folding, the ReLU6 policy, cross-layer equalization."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo_core.datatypes import Json, QuantNetwork, StepResult
from zoo_core.errors import RecipeError
from zoo_core.quantization.aimet import adapter as aimet
from zoo_core.quantization.graph import OUTPUT, direct_consumers, probe_image, relative_change, set_module
from zoo_core.quantization.steps import relu6

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.datatypes import StepContext
    from zoo_core.quantization.steps.builtin import CrossLayerEqualizationParams, FoldBatchNormsParams, Relu6Params


def fold_batch_norms(network: QuantNetwork, _params: FoldBatchNormsParams, context: StepContext) -> StepResult:
    """Fold every batch norm into its convolution; effect ``num_folded``, ``max_relative_change`` of float outputs."""
    folded = copy.deepcopy(network.network)
    layers = aimet.fold_batch_norms(folded, context.example_input)
    change = relative_change(network.network, folded, probe_image(context))
    return StepResult(
        result=QuantNetwork(network=folded),
        effect={"num_folded": len(layers), "max_relative_change": change},
        summary=f"folded {len(layers)} batch norms; float outputs changed by {change:.1e} of their largest value",
    )


def treat_relu6(network: QuantNetwork, params: Relu6Params, context: StepContext) -> StepResult:
    """Apply a ReLU6 policy; effect ``policy``, ``num_changed``, ``kept``, ``max_relative_change``."""
    changed, names, kept = relu6.apply_policy(network.network, params.policy, context.example_input)
    change = relative_change(network.network, changed, probe_image(context))
    verb = {"keep": "kept", "replace": "replaced by ReLU:", "per_channel_clip": "turned into clips per channel:"}
    count = len(kept) if params.policy == "keep" else len(names)
    return StepResult(
        result=QuantNetwork(network=changed, param_encodings=network.param_encodings),
        effect={
            "policy": params.policy,
            "num_changed": len(names),
            "kept": list[Json](kept),
            "max_relative_change": change,
        },
        summary=f"{verb[params.policy]} {count} ReLU6; float outputs changed by {change:.1e} of their largest value",
    )


def equalize(network: QuantNetwork, params: CrossLayerEqualizationParams, context: StepContext) -> StepResult:
    """Equalize weight ranges across layers; high-bias fold is not part of it.

    Per-channel clips count as ReLU while AIMET looks for layers to scale, and their ceilings follow the scales after.
    High-bias fold needs the batch norms' statistics, which folding has consumed, and changes the float function.

    Effect: ``num_layer_sets``, ``layer_sets`` (module names), ``num_rescaled_clips``, ``max_relative_change`` of the
    float outputs, and ``weight_ranges``: per scaled layer ``max_abs`` and ``spread`` before and after, where the spread
    is the largest over the smallest of its output channels' largest magnitudes (None where a channel is zero).

    Raises:
        RecipeError: Fewer layer sets than ``min_layer_sets`` were scaled.
    """
    equalized = copy.deepcopy(network.network)
    clips = {name: module for name, module in equalized.named_modules() if isinstance(module, relu6.ChannelClip)}
    for name in clips:
        set_module(equalized, name, nn.ReLU())
    sets = aimet.scale_layers(equalized, context.example_input)
    for name, clip in clips.items():
        set_module(equalized, name, clip)
    if len(sets) < params.min_layer_sets:
        raise _too_few(sets, params.min_layer_sets, network.network)
    num_rescaled = _rescale_clips(equalized, sets, context.example_input)
    layers = list(dict.fromkeys(name for found in sets for name in found.layers))
    change = relative_change(network.network, equalized, probe_image(context))
    return StepResult(
        result=QuantNetwork(network=equalized),
        effect={
            "num_layer_sets": len(sets),
            "layer_sets": [list[Json](found.layers) for found in sets],
            "num_rescaled_clips": num_rescaled,
            "max_relative_change": change,
            "weight_ranges": {name: _range_change(network.network, equalized, name) for name in layers},
        },
        summary=f"scaled {len(sets)} layer sets and {num_rescaled} clips; float outputs changed by {change:.1e} of "
        "their largest value",
    )


def _rescale_clips(network: nn.Module, sets: Sequence[aimet.ScaledLayers], x: torch.Tensor) -> int:
    """Let each clip between scaled layers follow its channels; returns how many did."""
    readers = direct_consumers(network, x)
    count = 0
    for found in sets:
        for layer, factors in zip(found.layers, found.factors, strict=False):
            for clip in (network.get_submodule(name) for name in readers[layer] if name != OUTPUT):
                if isinstance(clip, relu6.ChannelClip):
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


def _too_few(sets: Sequence[aimet.ScaledLayers], expected: int, network: nn.Module) -> RecipeError:
    num_relu6 = sum(isinstance(module, nn.ReLU6) for module in network.modules())
    num_batch_norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    scaled = "; ".join(" - ".join(found.layers) for found in sets) or "none"
    return RecipeError(
        f"cross_layer_equalization scaled {len(sets)} layer sets ({scaled}), but the recipe expects at least "
        f"{expected}. The network has {num_relu6} ReLU6 and {num_batch_norms} batch norms, which stop the scaling.",
        fix="put fold_batch_norms before it and a relu6 policy other than keep, or state a lower min_layer_sets.",
    )
