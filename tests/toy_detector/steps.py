"""A recipe step brought by a plugin."""

from __future__ import annotations

import copy

import torch
from pydantic import BaseModel, ConfigDict, Field

from zoo_core.datatypes import QuantNetwork, RecipeStep, StepContext, StepResult


class RoundWeightsParams(BaseModel):
    """Parameters of ``round_weights``."""

    model_config = ConfigDict(extra="forbid")
    step_size: float = Field(default=2**-12, gt=0, description="Weights become multiples of it.")


def round_weights(network: QuantNetwork, params: RoundWeightsParams, context: StepContext) -> StepResult:
    rounded = copy.deepcopy(network.network)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(torch.round(parameter / params.step_size) * params.step_size)
    return StepResult(
        result=QuantNetwork(network=rounded, param_encodings=network.param_encodings),
        effect={"step_size": params.step_size},
        summary=f"weights are multiples of {params.step_size}",
    )


ROUND_WEIGHTS = RecipeStep(name="round_weights", params=RoundWeightsParams, apply=round_weights)
