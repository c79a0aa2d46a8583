"""Table of the built-in quantization steps.

Importing this module loads neither torch nor AIMET; a step is imported when it runs.
"""

from __future__ import annotations

from zoo_core.datatypes import QuantNetwork, RecipeStep, StepContext, StepResult
from zoo_core.quantization.params import (
    AdaroundParams,
    CrossLayerEqualizationParams,
    FoldBatchNormsParams,
    Relu6Params,
)


def _fold_batch_norms(network: QuantNetwork, params: FoldBatchNormsParams, context: StepContext) -> StepResult:
    from zoo_core.quantization.steps import folding

    return folding.fold_batch_norms(network, params, context)


def _relu6(network: QuantNetwork, params: Relu6Params, context: StepContext) -> StepResult:
    from zoo_core.quantization.steps import relu6

    return relu6.treat_relu6(network, params, context)


def _cross_layer_equalization(
    network: QuantNetwork, params: CrossLayerEqualizationParams, context: StepContext
) -> StepResult:
    from zoo_core.quantization.steps import equalization

    return equalization.equalize(network, params, context)


def _adaround(network: QuantNetwork, params: AdaroundParams, context: StepContext) -> StepResult:
    from zoo_core.quantization.steps import adaround

    return adaround.round_weights(network, params, context)


BUILTIN_STEPS: tuple[RecipeStep, ...] = (
    RecipeStep(name="fold_batch_norms", params=FoldBatchNormsParams, apply=_fold_batch_norms),
    RecipeStep(name="relu6", params=Relu6Params, apply=_relu6),
    RecipeStep(name="cross_layer_equalization", params=CrossLayerEqualizationParams, apply=_cross_layer_equalization),
    RecipeStep(name="adaround", params=AdaroundParams, apply=_adaround, fixes_encodings=True),
)
"""Does not contain quantsim, which ends every recipe and yields no further network."""
