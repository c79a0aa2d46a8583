"""Step fold_batch_norms: folds each batch norm into its convolution."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from zoo_core.datatypes import QuantNetwork, StepResult
from zoo_core.quantization.aimet import transforms
from zoo_core.quantization.graph import probe_image, relative_change

if TYPE_CHECKING:
    from zoo_core.datatypes import StepContext
    from zoo_core.quantization.params import FoldBatchNormsParams


def fold_batch_norms(network: QuantNetwork, _params: FoldBatchNormsParams, context: StepContext) -> StepResult:
    """Fold every batch norm into its convolution.

    Effect: ``num_folded``, and ``max_relative_change`` of the float outputs.
    """
    folded = copy.deepcopy(network.network)
    layers = transforms.fold_batch_norms(folded, context.example_input)
    change = relative_change(network.network, folded, probe_image(context))
    return StepResult(
        result=QuantNetwork(network=folded),
        effect={"num_folded": len(layers), "max_relative_change": change},
        summary=f"folded {len(layers)} batch norms; float outputs changed by {change:.1e} of their largest value",
    )
