"""The steps and their parameters; importing this module loads neither torch nor AIMET."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from zoo_core.datatypes import QuantNetwork, RecipeStep, StepContext, StepResult


class SeqMseParams(BaseModel):
    """Parameters of seq_mse; the defaults are AIMET's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_candidates: int = Field(default=20, ge=2, description="ranges that are tried for each layer")
    num_batches: int | None = Field(default=None, ge=1, description="calibration batches to use; null is all")


class ReestimateBnParams(BaseModel):
    """Parameters of reestimate_bn; the default is AIMET's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_batches: int = Field(default=100, ge=1, description="calibration batches to use, or all where there are fewer")


def _seq_mse(network: QuantNetwork, params: SeqMseParams, context: StepContext) -> StepResult:
    from zoo_aimet_steps import seq_mse

    return seq_mse.choose_ranges(network, params, context)


def _reestimate_bn(network: QuantNetwork, params: ReestimateBnParams, context: StepContext) -> StepResult:
    from zoo_aimet_steps import batch_norms

    return batch_norms.reestimate(network, params, context)


STEPS: tuple[RecipeStep, ...] = (
    RecipeStep(name="reestimate_bn", params=ReestimateBnParams, apply=_reestimate_bn),
    RecipeStep(name="seq_mse", params=SeqMseParams, apply=_seq_mse, fixes_encodings=True),
)
