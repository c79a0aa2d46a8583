"""Table of the plugin's steps; importing this module loads neither torch nor AIMET."""

from __future__ import annotations

from zoo_aimet_steps.params import ReestimateBnParams, SeqMseParams
from zoo_core.datatypes import QuantNetwork, RecipeStep, StepContext, StepResult


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
