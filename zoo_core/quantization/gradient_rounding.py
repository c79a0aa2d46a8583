"""AIMET's AdaRound: gradient descent on relaxed rounding, layer by layer, minutes to hours on a CPU."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import nn

from zoo_core.quantization import aimet
from zoo_core.quantization.foreign import quiet
from zoo_core.quantization.relu6 import ChannelClip

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from zoo_core.datatypes import StepContext
    from zoo_core.quantization.steps import AdaroundParams


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundedWeights:
    """What a rounding engine decided.

    Attributes:
        weights: By parameter name; on their grids but for the engine's last bits.
        encodings: Of the same parameters, AIMET's exchange form.
    """

    weights: Mapping[str, torch.Tensor]
    encodings: Mapping[str, Any]


def round_network(network: nn.Module, params: AdaroundParams, num_batches: int, context: StepContext) -> RoundedWeights:
    """Run AIMET's AdaRound on a copy of ``network``.

    Args:
        network: Not modified.
        params: Of the step.
        num_batches: Calibration batches to use; not more than there are.
        context: Its bit widths, scheme and configuration are those of the later simulation.
    """
    framework: Any = aimet.load()
    x = context.example_input
    with quiet(aimet.logger), _progress_and_clips(context):
        prepared = aimet.prepare(copy.deepcopy(network), x)
        aimet.register_foreign_modules(prepared)
        rounded = framework.adaround.adaround_weight.Adaround.apply_adaround(
            prepared,
            x,
            framework.adaround.adaround_weight.AdaroundParameters(
                context.calibration,
                num_batches,
                default_num_iterations=params.num_iterations,
                default_reg_param=params.reg_param,
                default_beta_range=params.beta_range,
                default_warm_start=params.warm_start,
                forward_fn=lambda model, batch: model(batch),
            ),
            path=str(context.work_dir),
            filename_prefix="adaround",
            default_param_bw=context.quant.param_bw,
            default_quant_scheme=aimet.scheme(context.quant),
            default_config_file=str(context.quant.config_file),
        )
    written = json.loads((context.work_dir / "adaround.encodings").read_text(encoding="utf-8"))
    encodings: dict[str, Any] = written["param_encodings"]
    weights = {name: rounded.get_parameter(name).detach() for name in encodings}
    return RoundedWeights(weights=weights, encodings=encodings)


@contextlib.contextmanager
def _progress_and_clips(context: StepContext) -> Iterator[None]:
    """While AdaRound runs: its bar moves ours, and its loss looks behind a per-channel clip as behind a ReLU6.

    AIMET offers neither as an argument. A name that a later version lacks is left alone: then a bar is not moved, or
    the loss is taken before the clip.
    """
    framework: Any = aimet.load()
    bars = sys.modules[framework.adaround.adaround_weight.AdaroundBase.__module__]
    graph_utils = framework.meta.connectedgraph_utils

    def progress_bar(modules: Sequence[tuple[str, nn.Module]], *_: Any, **__: Any) -> Iterator[tuple[str, nn.Module]]:
        layers = [name for name, module in modules if isinstance(module, aimet.ROUNDABLE)]
        for name, module in modules:
            if isinstance(module, aimet.ROUNDABLE):
                context.progress(layers.index(name), len(layers), f"adaround {name}")
            yield name, module
        context.progress(len(layers), len(layers), "adaround")

    with contextlib.ExitStack() as stack:
        if hasattr(bars, "progress_bar"):
            stack.enter_context(mock.patch.object(bars, "progress_bar", progress_bar))
        if hasattr(graph_utils, "ActivationTypes"):
            types = (*graph_utils.ActivationTypes, ChannelClip)
            stack.enter_context(mock.patch.object(graph_utils, "ActivationTypes", types))
        yield
