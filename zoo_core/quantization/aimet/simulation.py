"""The closing step: a network whose quantizers are calibrated, and the facts about them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.quantization.aimet import adapter as aimet
from zoo_core.quantization.aimet.foreign import quiet
from zoo_core.quantization.aimet.plain import plain_simulation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from zoo_core.datatypes import Json, QuantNetwork, StepContext

logger = logging.getLogger("zoo_eval.aimet")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulated:
    """See ``pipeline.Simulation``; without the time it took."""

    network: nn.Module
    encodings: Mapping[str, Any]
    effect: Mapping[str, Json]
    summary: str


def simulate(network: QuantNetwork, context: StepContext) -> Simulated:
    """Build the quantsim, freeze what is fixed, calibrate the rest; see ``pipeline.simulate``."""
    prepared = aimet.prepare(network.network, context.example_input)
    sim = aimet.build_quantsim(prepared, context.example_input, context.quant, network.param_encodings)
    aimet.calibrate(sim, context)
    activations, params = aimet.encodings_of(sim)
    num_activations = sum(len(entry.get(side, {})) for entry in activations.values() for side in ("input", "output"))
    bits = f"w{context.quant.param_bw}a{context.quant.output_bw}"
    plain = plain_simulation(prepared, aimet.quantized_weights(sim), aimet.activation_grids(sim))
    same = _same_outputs(plain, sim.model, next(iter(context.calibration))[:1])
    if not same:
        logger.warning("The plain simulation differs from this AIMET's own; AIMET's, which is slower, is evaluated.")
    return Simulated(
        network=plain if same else sim.model,
        encodings={"activation_encodings": activations, "param_encodings": params},
        effect={
            "num_quantized_activations": num_activations,
            "num_quantized_weights": len(params),
            "num_frozen_weights": len(network.param_encodings),
            "num_calibration_images": context.calibration.num_images,
            "same_as_aimet": same,
        },
        summary=f"{bits}: {len(params)} weights ({len(network.param_encodings)} with fixed encodings) and "
        f"{num_activations} activations quantized, calibrated on {context.calibration.num_images} images",
    )


def _same_outputs(plain: nn.Module, own: nn.Module, image: torch.Tensor) -> bool:
    """Whether the plain network gives the very numbers of AIMET's own for one calibration image ``(1, C, H, W)``."""
    with quiet(logger), torch.no_grad():
        pairs = [_outputs(network(image)) for network in (plain, own)]
    return len(pairs[0]) == len(pairs[1]) and all(map(torch.equal, *pairs))


def _outputs(value: torch.Tensor | Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return (value,) if isinstance(value, torch.Tensor) else tuple(value)
