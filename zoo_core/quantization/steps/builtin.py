"""What quantization steps there are: their parameters, checked by pydantic, and the functions that apply them.

Importing this module loads neither torch nor AIMET; a step imports what it needs when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from zoo_core.datatypes import QuantNetwork, RecipeStep, StepContext, StepResult


class StepParams(BaseModel):
    """Parameters of a step: unknown names are errors, values are not coerced from text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FoldBatchNormsParams(StepParams):
    """fold_batch_norms has no parameters."""


class Relu6Params(StepParams):
    """Parameters of relu6."""

    policy: Literal["keep", "replace", "per_channel_clip"] = Field(
        description="keep ReLU6, replace it by ReLU, or turn it into a clip per channel that equalization can scale"
    )


class CrossLayerEqualizationParams(StepParams):
    """Parameters of cross_layer_equalization."""

    min_layer_sets: int = Field(default=0, ge=0, description="fewer scaled layer sets are an error")


class AdaroundParams(StepParams):
    """Parameters of adaround; the defaults are AIMET's."""

    engine: Literal["aimet", "fast"] = Field(
        default="fast",
        description="aimet: AIMET's gradient descent per layer; fast: the same objective solved by descent on integers",
    )
    num_iterations: int | None = Field(
        default=None, ge=1, description="engine aimet: iterations per layer; null is 10000 at 8 bits, 15000 below"
    )
    num_batches: int | None = Field(default=None, ge=1, description="calibration batches to use; null is all")
    reg_param: float = Field(default=0.01, gt=0, description="engine aimet: weight of the rounding loss")
    beta_range: tuple[float, float] = Field(
        default=(20.0, 2.0), description="engine aimet: annealing of the rounding loss, from and to"
    )
    warm_start: float = Field(
        default=0.2, ge=0, lt=1, description="engine aimet: share of the iterations without rounding loss"
    )
    choices: Literal["floor_ceil", "free"] = Field(
        default="floor_ceil", description="engine fast: each weight to its floor or ceiling, or to any grid point"
    )


class QuantSimParams(StepParams):
    """Parameters of quantsim, which every earlier step must agree with."""

    param_bw: int = Field(default=8, ge=4, le=31, description="bits of a weight")
    output_bw: int = Field(default=8, ge=4, le=31, description="bits of an activation")
    quant_scheme: Literal["tf", "tf_enhanced"] = Field(
        default="tf_enhanced", description="range of a quantizer: tf_enhanced by SQNR, tf by minimum and maximum"
    )
    config_file: Annotated[Path, Field(strict=False)] = Field(
        description="AIMET configuration: the name of a shipped one, or a path relative to the recipe's folder"
    )


def _fold_batch_norms(network: QuantNetwork, params: FoldBatchNormsParams, context: StepContext) -> StepResult:
    from zoo_core.quantization.steps import equalization

    return equalization.fold_batch_norms(network, params, context)


def _relu6(network: QuantNetwork, params: Relu6Params, context: StepContext) -> StepResult:
    from zoo_core.quantization.steps import equalization

    return equalization.treat_relu6(network, params, context)


def _cross_layer_equalization(
    network: QuantNetwork, params: CrossLayerEqualizationParams, context: StepContext
) -> StepResult:
    from zoo_core.quantization.steps import equalization

    return equalization.equalize(network, params, context)


def _adaround(network: QuantNetwork, params: AdaroundParams, context: StepContext) -> StepResult:
    from zoo_core.quantization.steps import adaround

    return adaround.round_weights(network, params, context)


QUANTSIM = "quantsim"
"""The last entry of every recipe; it simulates and yields no further network, so it is not in the table below."""

BUILTIN_STEPS: tuple[RecipeStep, ...] = (
    RecipeStep(name="fold_batch_norms", params=FoldBatchNormsParams, apply=_fold_batch_norms),
    RecipeStep(name="relu6", params=Relu6Params, apply=_relu6),
    RecipeStep(name="cross_layer_equalization", params=CrossLayerEqualizationParams, apply=_cross_layer_equalization),
    RecipeStep(name="adaround", params=AdaroundParams, apply=_adaround, fixes_encodings=True),
)
