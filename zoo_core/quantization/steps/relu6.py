"""Step relu6: prepares ReLU6 for cross-layer equalization.

Equalization scales a channel down by s and the next layer's weights up by s. ReLU commutes with that, ReLU6 does not:
``min(relu(x), 6)`` becomes ``min(relu(x / s), 6 / s)``. There are three policies:

* ``keep``: ReLU6 stays, and AIMET 2.4 and later does not scale the layers around it.
* ``replace``: ReLU6 becomes ReLU, as in AIMET before 2.4. This changes the float network.
* ``per_channel_clip``: ReLU6 becomes a clip with one ceiling per channel, which equalization rescales. The float
  function stays the same, but a device must be able to clip per channel; the clip that every device fuses is scalar.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

from torch import nn

from zoo_core.datatypes import Json, QuantNetwork, StepResult
from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.graph import output_shapes, probe_image, relative_change, set_module

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from zoo_core.datatypes import StepContext
    from zoo_core.quantization.params import Relu6Params


def treat_relu6(network: QuantNetwork, params: Relu6Params, context: StepContext) -> StepResult:
    """Apply a ReLU6 policy.

    Effect: ``policy``, ``num_changed``, ``kept`` (names), and ``max_relative_change`` of the float outputs.
    """
    result, changed, kept = apply_policy(network.network, params.policy, context.example_input)
    change = relative_change(network.network, result, probe_image(context))
    verb = {"keep": "kept", "replace": "replaced by ReLU:", "per_channel_clip": "turned into clips per channel:"}
    count = len(kept) if params.policy == "keep" else len(changed)
    return StepResult(
        result=QuantNetwork(network=result, param_encodings=network.param_encodings),
        effect={
            "policy": params.policy,
            "num_changed": len(changed),
            "kept": list[Json](kept),
            "max_relative_change": change,
        },
        summary=f"{verb[params.policy]} {count} ReLU6; float outputs changed by {change:.1e} of their largest value",
    )


def apply_policy(
    network: nn.Module, policy: Literal["keep", "replace", "per_channel_clip"], x: torch.Tensor
) -> tuple[nn.Module, list[str], list[str]]:
    """Return a copy of ``network`` under a policy, the names of changed activations and the names of kept ones.

    Args:
        network: Not modified.
        policy: See the module's docstring.
        x: An input that the network accepts; it shows how many channels each activation has.

    Returns:
        Under ``per_channel_clip`` an activation keeps its ReLU6 if it did not run, ran more than once, or has no
        channel axis: it would have no single set of ceilings.
    """
    result = copy.deepcopy(network)
    names = [name for name, module in result.named_modules() if isinstance(module, nn.ReLU6)]
    if policy == "keep":
        return result, [], names
    replacements: Mapping[str, nn.Module]
    if policy == "replace":
        replacements = {name: nn.ReLU() for name in names}
    else:
        shapes = output_shapes(result, x, names)
        replacements = {name: _clip(shapes[name]) for name in names if _has_one_channel_axis(shapes[name])}
    for name, module in replacements.items():
        set_module(result, name, module.to(x.device).train(mode=False))
    return result, list(replacements), [name for name in names if name not in replacements]


def _has_one_channel_axis(shapes: Sequence[torch.Size]) -> bool:
    return len(shapes) == 1 and len(shapes[0]) >= 2


def _clip(shapes: Sequence[torch.Size]) -> ChannelClip:
    return ChannelClip(shapes[0][1], num_axes=len(shapes[0]))
