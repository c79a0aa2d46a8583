"""Parameters of the built-in steps and of the closing quantsim, checked by pydantic.

Importing this module loads neither torch nor AIMET.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class StepParams(BaseModel):
    """Base of a step's parameters: unknown names are errors, values are not coerced from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FoldBatchNormsParams(StepParams):
    """Parameters of fold_batch_norms, which has none."""


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
    input: Literal["float", "quantized"] | None = Field(
        default=None, description="whether the model's input is quantized; null leaves it to the configuration"
    )
