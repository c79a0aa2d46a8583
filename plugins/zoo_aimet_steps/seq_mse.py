"""The step seq_mse: chooses each layer's weight range so that its output stays closest to the float network's.

Source: AIMET's ``aimet_torch.seq_mse``, which goes layer by layer; the inputs of each come from the layers quantized
before it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.datatypes import QuantNetwork, StepResult
from zoo_core.errors import RecipeError
from zoo_core.quantization.aimet import library, quantsim

if TYPE_CHECKING:
    from zoo_aimet_steps.params import SeqMseParams
    from zoo_core.datatypes import Json, StepContext

MOST_BITS = 4
"""AIMET's limit: layers with more bits are skipped."""


def choose_ranges(network: QuantNetwork, params: SeqMseParams, context: StepContext) -> StepResult:
    """Fix the weight range of every convolution and linear layer; the network itself does not change.

    Effect: ``num_layers``, ``num_narrowed`` (layers whose range is narrower than the scheme's), ``num_candidates``,
    ``num_batches``, and per layer ``narrowing``, the mean over its channels of the new scale divided by the scheme's.

    Raises:
        RecipeError: Weights have more than four bits, an earlier step has fixed ranges, or there are fewer batches than
            asked for.
    """
    if context.quant.param_bw > MOST_BITS:
        raise RecipeError(
            f"seq_mse chooses ranges for weights of {MOST_BITS} bits or fewer; these have {context.quant.param_bw}.",
            fix=f"set quantsim.param_bw to {MOST_BITS}, or leave the step out: above that AIMET skips every layer.",
        )
    if network.param_encodings:
        raise RecipeError(
            "seq_mse follows a step that has fixed weight ranges already.", fix="put it before adaround, once."
        )
    batches = _batches(params, context)
    plain = quantsim.weight_grids(_initialized(network, context))
    sim = quantsim.build(network.network, context.example_input, context.quant)
    total = len(plain)
    context.progress(0, total, "sequential MSE")
    library.load()
    with library.quiet(), contextlib.redirect_stderr(io.StringIO()):  # AIMET's own progress bar
        import aimet_torch.seq_mse

        algorithm: Any = aimet_torch.seq_mse
        with torch.no_grad():
            algorithm.apply_seq_mse(sim, batches, num_candidates=params.num_candidates)
    context.progress(total, total, "sequential MSE")
    encodings = quantsim.encodings_of(sim)[1]
    chosen = quantsim.weight_grids(sim)
    layers: dict[str, Json] = {
        name: {"narrowing": float((grid.scale / plain[name].scale).mean())} for name, grid in chosen.items()
    }
    ratios = [float((grid.scale / plain[name].scale).mean()) for name, grid in chosen.items()]
    narrowed = sum(ratio < 1.0 - 1e-6 for ratio in ratios)
    return StepResult(
        result=QuantNetwork(
            network=copy.deepcopy(network.network),
            param_encodings={f"{name}.weight": encodings[f"{name}.weight"] for name in chosen},
        ),
        effect={
            "num_layers": len(chosen),
            "num_narrowed": narrowed,
            "num_candidates": params.num_candidates,
            "num_batches": len(batches),
            "layers": layers,
        },
        summary=f"chose the weight ranges of {len(chosen)} layers among {params.num_candidates} each on {len(batches)} "
        f"batches; {narrowed} are narrower than {context.quant.quant_scheme}'s",
    )


def _initialized(network: QuantNetwork, context: StepContext) -> Any:
    """Build a simulation whose weight ranges come from the recipe's scheme."""
    sim = quantsim.build(network.network, context.example_input, context.quant)
    quantsim.weight_quantizers(sim)
    return sim


def _batches(params: SeqMseParams, context: StepContext) -> list[torch.Tensor]:
    available = len(context.calibration)
    if not available:
        raise RecipeError("seq_mse has no calibration image.", fix="give at least one: --calibration-size 500.")
    if params.num_batches is not None and params.num_batches > available:
        raise RecipeError(
            f"seq_mse.num_batches is {params.num_batches}, but there are {available} calibration batches.",
            fix="leave num_batches out to use all, or raise --calibration-size.",
        )
    return list(itertools.islice(context.calibration, params.num_batches))
