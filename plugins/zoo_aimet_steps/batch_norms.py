"""The step reestimate_bn: measures the statistics of batch norms again behind quantized weights.

Rounding weights shifts and scales a convolution's output, and the statistics of the batch norm behind it no longer fit.
Measured again on the calibration images, they remove the shift and the scale channel by channel, and folding carries
the correction into the weights and biases of the simulated network.

Source: AIMET's ``aimet_torch.bn_reestimation``; Sun et al., Hybrid 8-bit Floating Point (HFP8) Training and Inference
for Deep Neural Networks, NeurIPS 2019, re-tunes batch norms for the same reason.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.datatypes import QuantNetwork, StepResult
from zoo_core.errors import RecipeError
from zoo_core.quantization.aimet import library, quantsim
from zoo_core.quantization.graph import probe_image, relative_change

if TYPE_CHECKING:
    from zoo_aimet_steps.params import ReestimateBnParams
    from zoo_core.datatypes import StepContext

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def reestimate(network: QuantNetwork, params: ReestimateBnParams, context: StepContext) -> StepResult:
    """Measure the statistics of every batch norm again behind quantized weights; activations stay float.

    With one range per output channel the simulation rounds the weights after folding as they are rounded here, up to
    the channel's factor; with one range per tensor folding changes the rounding, and the correction is approximate.

    Effect: ``num_batch_norms``, ``num_batches``, ``largest_mean_shift`` (in standard deviations of its channel),
    ``largest_variance_ratio`` (or its inverse), ``max_relative_change`` of the float outputs, which this step changes.

    Raises:
        RecipeError: The network has no batch norms or they are already folded, or there is no calibration image.
    """
    norms = [name for name, module in network.network.named_modules() if isinstance(module, NORMS)]
    if not norms:
        raise RecipeError(
            f"reestimate_bn found no batch norm in {type(network.network).__name__}.",
            fix="put it before fold_batch_norms; a network without batch norms cannot use it.",
        )
    num_batches = min(params.num_batches, len(context.calibration))
    if not num_batches:
        raise RecipeError("reestimate_bn has no calibration image.", fix="give at least one: --calibration-size 500.")
    measured = _with_quantized_weights(network, context)
    batches = list(itertools.islice(context.calibration, num_batches))
    library.load()
    with library.quiet(), contextlib.redirect_stderr(io.StringIO()):  # AIMET's own progress bar
        import aimet_torch.bn_reestimation

        algorithm: Any = aimet_torch.bn_reestimation
        algorithm.reestimate_bn_stats(measured, batches, num_batches)
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
        summary=f"measured {len(norms)} batch norms again on {num_batches} batches; means moved by up to "
        f"{max(shifts):.2f} standard deviations, variances by a factor of up to {max(ratios):.2f}; float outputs "
        f"changed by {change:.1e} of their largest value",
    )


def _with_quantized_weights(network: QuantNetwork, context: StepContext) -> nn.Module:
    """Return a copy whose convolutions and linear layers hold quantized weights; batch norms stay float."""
    sim = quantsim.build(network.network, context.example_input, context.quant, network.param_encodings)
    copied = copy.deepcopy(network.network)
    with torch.no_grad():
        for name, weight in quantsim.quantized_weights(sim).items():
            module = copied.get_submodule(name.rpartition(".")[0])
            if isinstance(module, quantsim.ROUNDABLE):
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
