"""Sequential MSE: chooses each layer's weight range so that its output is closest to the float network's.

Source: AIMET's ``aimet_torch.seq_mse``, which goes layer by layer, each on the inputs that the layers quantized before
it give.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import logging
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.datatypes import QuantNetwork, StepResult
from zoo_core.errors import RecipeError
from zoo_core.quantization.aimet import adapter as aimet
from zoo_core.quantization.aimet.foreign import quiet

if TYPE_CHECKING:
    from zoo_aimet_steps.steps import SeqMseParams
    from zoo_core.datatypes import Json, StepContext

logger = logging.getLogger("zoo_eval.aimet")

MOST_BITS = 4
"""AIMET's limit: layers with more bits are left as they are."""


def choose_ranges(network: QuantNetwork, params: SeqMseParams, context: StepContext) -> StepResult:
    """Fix the weight range of every convolution and linear layer; the network itself does not change.

    Effect: ``num_layers``, ``num_narrowed`` (layers whose ranges became narrower than the scheme's),
    ``num_candidates``, ``num_batches``, and per layer ``narrowing``, the mean over its channels of new scale over the
    scheme's.

    Raises:
        RecipeError: Weights have more than four bits, earlier steps have fixed ranges already, or more batches are
            requested than exist.
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
    plain = aimet.weight_grids(_initialized(network, context))
    sim = aimet.build_quantsim(network.network, context.example_input, context.quant)
    total = len(plain)
    context.progress(0, total, "sequential MSE")
    aimet.load()
    with quiet(logger), contextlib.redirect_stderr(io.StringIO()):  # AIMET's own progress bar
        import aimet_torch.seq_mse

        library: Any = aimet_torch.seq_mse
        with torch.no_grad():
            library.apply_seq_mse(sim, batches, num_candidates=params.num_candidates)
    context.progress(total, total, "sequential MSE")
    encodings = aimet.encodings_of(sim)[1]
    chosen = aimet.weight_grids(sim)
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
    """Build a simulation with the scheme's ranges."""
    sim = aimet.build_quantsim(network.network, context.example_input, context.quant)
    aimet.weight_quantizers(sim)
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
