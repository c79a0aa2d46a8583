"""Batch-norm re-estimation: measures mean and variance behind layers with quantized weights.

Rounding weights shifts and scales the outputs of a convolution, which statistics measured before cannot correct.
Statistics measured again on the calibration images remove the error channel by channel, and folding moves the
correction into the biases and weights of the simulated network.

Source: AIMET's ``aimet_torch.bn_reestimation``; Sun et al., Hybrid 8-bit Floating Point (HFP8) Training and Inference
for Deep Neural Networks, NeurIPS 2019, re-tunes batch norms for the same reason.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.datatypes import QuantNetwork, StepResult
from zoo_core.errors import RecipeError
from zoo_core.quantization.aimet import adapter as aimet
from zoo_core.quantization.aimet.foreign import quiet
from zoo_core.quantization.graph import probe_image, relative_change

if TYPE_CHECKING:
    from zoo_aimet_steps.steps import ReestimateBnParams
    from zoo_core.datatypes import StepContext

logger = logging.getLogger("zoo_eval.aimet")

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def reestimate(network: QuantNetwork, params: ReestimateBnParams, context: StepContext) -> StepResult:
    """Measure the statistics of every batch norm behind quantized weights; activations stay float meanwhile.

    With one range per output channel the weights that are quantized here are those that the simulation quantizes after
    folding, up to the channel's factor; with one range per tensor folding changes the rounding, and the correction is
    approximate.

    Effect: ``num_batch_norms``, ``num_batches``, ``largest_mean_shift`` (in standard deviations of its channel),
    ``largest_variance_ratio`` (or its inverse), ``max_relative_change`` of the float outputs, which this step changes.

    Raises:
        RecipeError: The network has no batch norms or they are already folded, or there is no calibration image.
    """
    norms = [name for name, module in network.network.named_modules() if isinstance(module, NORMS)]
    if not norms:
        raise RecipeError(
            f"reestimate_bn finds no batch norm in {type(network.network).__name__}.",
            fix="put it before fold_batch_norms; a network without batch norms cannot use it.",
        )
    num_batches = min(params.num_batches, len(context.calibration))
    if not num_batches:
        raise RecipeError("reestimate_bn has no calibration image.", fix="give at least one: --calibration-size 500.")
    measured = _with_quantized_weights(network, context)
    batches = list(itertools.islice(context.calibration, num_batches))
    aimet.load()
    with quiet(logger), contextlib.redirect_stderr(io.StringIO()):  # AIMET's own progress bar
        import aimet_torch.bn_reestimation

        library: Any = aimet_torch.bn_reestimation
        library.reestimate_bn_stats(measured, batches, num_batches)
    result = copy.deepcopy(network.network)
    shifts, ratios = [], []
    for name in norms:
        old, new = _norm(result, name), _norm(measured, name)
        deviation = (_variance(old) + old.eps).sqrt()
        shifts.append(float(((_mean(new) - _mean(old)).abs() / deviation).max()))
        ratio = (_variance(new) + old.eps) / (_variance(old) + old.eps)
        ratios.append(float(torch.maximum(ratio, 1 / ratio).max()))
        _mean(old).copy_(_mean(new))
        _variance(old).copy_(_variance(new))
    change = relative_change(network.network, result, probe_image(context))
    context.progress(len(norms), len(norms), "batch norms")
    return StepResult(
        result=QuantNetwork(network=result, param_encodings=network.param_encodings),
        effect={
            "num_batch_norms": len(norms),
            "num_batches": num_batches,
            "largest_mean_shift": max(shifts),
            "largest_variance_ratio": max(ratios),
            "max_relative_change": change,
        },
        summary=f"measured {len(norms)} batch norms anew on {num_batches} batches; means moved by up to "
        f"{max(shifts):.2f} standard deviations, variances by a factor of up to {max(ratios):.2f}; float outputs "
        f"changed by {change:.1e} of their largest value",
    )


def _with_quantized_weights(network: QuantNetwork, context: StepContext) -> nn.Module:
    """Return a copy with quantized weights in convolutions and linear layers, and float batch norms."""
    sim = aimet.build_quantsim(network.network, context.example_input, context.quant, network.param_encodings)
    copied = copy.deepcopy(network.network)
    with torch.no_grad():
        for name, weight in aimet.quantized_weights(sim).items():
            module = copied.get_submodule(name.rpartition(".")[0])
            if isinstance(module, aimet.ROUNDABLE):
                copied.get_parameter(name).copy_(weight)
    return copied


def _norm(network: nn.Module, name: str) -> Any:
    return network.get_submodule(name)


def _mean(norm: Any) -> torch.Tensor:
    mean: torch.Tensor = norm.running_mean
    return mean


def _variance(norm: Any) -> torch.Tensor:
    variance: torch.Tensor = norm.running_var
    return variance
