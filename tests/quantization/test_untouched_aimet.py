"""Our use of AIMET beside AIMET as installed, called without any of our changes.

Where both follow the same configuration they agree to the last bit. Where ours differs on purpose, the difference is
the one that docs/recipes.md names under "Differences from AIMET", and nothing else.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn

from zoo_core.datatypes import QuantNetwork, StepContext
from zoo_core.quantization.aimet import gradient_rounding, quantsim
from zoo_core.quantization.aimet.library import load, quiet
from zoo_core.quantization.aimet.simulation import simulate
from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.params import AdaroundParams


class Classifier(nn.Module):
    """Only modules that AIMET knows; with ``groups=8`` the second convolution is depthwise."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6())
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=groups), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.flatten(self.pool(self.middle(self.stem(x)))))
        return logits


def made(groups: int) -> nn.Module:
    torch.manual_seed(5)
    return Classifier(groups).eval()


def untouched(network: nn.Module, context: StepContext) -> Any:
    """AIMET's own simulation, calibrated by its own observers."""
    aimet: Any = load()
    with quiet(), torch.no_grad():
        sim = aimet.quantsim.QuantizationSimModel(
            copy.deepcopy(network),
            dummy_input=context.example_input,
            quant_scheme=aimet.common.defs.QuantScheme.post_training_tf_enhanced,
            default_output_bw=context.quant.output_bw,
            default_param_bw=context.quant.param_bw,
            config_file=str(context.quant.config_file),
        )
        sim.compute_encodings(lambda model: [model(batch) for batch in context.calibration] and None)
    return sim


def places(activations: Any) -> set[tuple[str, str, str]]:
    return {(module, side, index) for module, sides in activations.items() for side in sides for index in sides[side]}


@pytest.mark.parametrize("param_bw", [4, 8])
@pytest.mark.parametrize("per_channel", ["False", "True"])
def test_encodings_and_outputs_equal_aimets_where_the_configurations_agree(
    context: StepContext, param_bw: int, per_channel: str
) -> None:
    config = json.loads(context.quant.config_file.read_text())
    config["defaults"]["per_channel_quantization"] = per_channel
    context.quant.config_file.write_text(json.dumps(config))
    context = _at(context, param_bw)
    network = made(groups=1)

    own, ours = untouched(network, context), simulate(QuantNetwork(network=network), context)

    activations, params = quantsim.encodings_of(own)
    assert places(activations) == {(name, "output", "0") for name in ("stem.1", "middle.1", "pool", "head")}
    assert ours.encodings == {"activation_encodings": activations, "param_encodings": params}
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(7)) * 2 - 1
    with quiet(), torch.no_grad():
        assert torch.equal(ours.network(x), own.model(x))
    assert ours.effect["same_as_aimet"] is True


def test_a_depthwise_supergroup_differs_by_the_quantizer_between_its_two_modules(context: StepContext) -> None:
    network = made(groups=8)

    own, ours = untouched(network, context), simulate(QuantNetwork(network=network), context)

    activations, params = quantsim.encodings_of(own)
    assert places(activations) - places(ours.encodings["activation_encodings"]) == {("middle.0", "output", "0")}
    assert places(ours.encodings["activation_encodings"]) <= places(activations)
    assert ours.encodings["param_encodings"] == params
    # Our comparison in every run is with AIMET's simulation after that quantizer was removed.
    assert ours.effect["same_as_aimet"] is True


def test_a_module_that_aimet_does_not_know_is_refused_by_aimet_and_quantized_here(
    network: nn.Module, context: StepContext
) -> None:
    aimet: Any = load()
    kind = type(network.get_submodule("plus"))
    quantized = aimet.nn.QuantizationMixin.cls_to_qcls
    known = quantized.pop(kind, None)  # an earlier simulation in this process may have registered it
    try:
        with pytest.raises(Exception, match="Plus"):
            untouched(network, context)
    finally:
        if known is not None:
            quantized[kind] = known

    ours = simulate(QuantNetwork(network=network), context)

    assert ("plus", "output", "0") in places(ours.encodings["activation_encodings"])


def test_rounding_by_aimet_equals_aimets_where_no_change_of_ours_applies(context: StepContext) -> None:
    """One layer, because ours seeds each layer again, so that interrupted work can be resumed."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU6()).eval()
    params = AdaroundParams(engine="aimet", num_iterations=40)
    context = _at(context, 4)

    ours = gradient_rounding.round_network(network, params, 3, context)

    gradient_rounding._seed(context.seed, 0)
    assert torch.equal(ours.weights["0.weight"], _rounded_by_aimet(network, params, context))


def test_the_only_change_inside_aimets_rounding_is_that_its_loss_sees_past_a_clip_per_channel() -> None:
    aimet: Any = load()
    before = tuple(aimet.meta.connectedgraph_utils.ActivationTypes)
    with gradient_rounding._bars_and_clips():
        inside = tuple(aimet.meta.connectedgraph_utils.ActivationTypes)

    assert set(inside) - set(before) == {ChannelClip}
    assert tuple(aimet.meta.connectedgraph_utils.ActivationTypes) == before


def _at(context: StepContext, param_bw: int) -> StepContext:
    return dataclasses.replace(context, quant=dataclasses.replace(context.quant, param_bw=param_bw))


def _rounded_by_aimet(network: nn.Module, params: AdaroundParams, context: StepContext) -> torch.Tensor:
    aimet: Any = load()
    with quiet():
        rounded = aimet.adaround.adaround_weight.Adaround.apply_adaround(
            copy.deepcopy(network),
            context.example_input,
            aimet.adaround.adaround_weight.AdaroundParameters(
                context.calibration,
                3,
                default_num_iterations=params.num_iterations,
                default_reg_param=params.reg_param,
                default_beta_range=params.beta_range,
                default_warm_start=params.warm_start,
                forward_fn=lambda model, batch: model(batch),
            ),
            path=str(context.work_dir),
            filename_prefix="untouched",
            default_param_bw=context.quant.param_bw,
            default_quant_scheme=aimet.common.defs.QuantScheme.post_training_tf_enhanced,
            default_config_file=str(context.quant.config_file),
        )
    weight: torch.Tensor = rounded.get_parameter("0.weight").detach()
    return weight
