"""AIMET's AdaRound: gradient descent on relaxed rounding, layer by layer, minutes to hours on a CPU."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from zoo_core.quantization.aimet import adapter as aimet
from zoo_core.quantization.aimet.foreign import quiet
from zoo_core.quantization.cache import Part, StepCache
from zoo_core.quantization.steps.relu6 import ChannelClip

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from zoo_core.datatypes import StepContext
    from zoo_core.quantization.steps.builtin import AdaroundParams


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundedWeights:
    """What a rounding engine decided.

    Attributes:
        weights: By parameter name; on their grids but for the engine's last bits.
        encodings: Of the same parameters, AIMET's exchange form.
    """

    weights: Mapping[str, torch.Tensor]
    encodings: Mapping[str, Any]


def round_network(
    network: nn.Module, params: AdaroundParams, num_batches: int, context: StepContext, cache: StepCache | None = None
) -> RoundedWeights:
    """Run AIMET's AdaRound on a copy of ``network``.

    Seeds the global random states anew for every layer, so that a run that goes on draws as one that was not stopped.

    Args:
        network: Not modified.
        params: Of the step.
        num_batches: Calibration batches to use; not more than there are.
        context: Its bit widths, scheme and configuration are those of the later simulation.
        cache: Keeps each layer as a part. All other arguments must be in its content. None keeps nothing.
    """
    framework: Any = aimet.load()
    x = context.example_input
    with quiet(aimet.logger), _bars_and_clips():
        prepared = aimet.prepare(copy.deepcopy(network), x)
        aimet.register_foreign_modules(prepared)
        rounded = _layer_by_layer(context, cache or StepCache(None, {})).apply_adaround(
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


def _layer_by_layer(context: StepContext, cache: StepCache) -> Any:
    """AIMET's AdaRound, entered anew for each layer; a layer that ``cache`` holds gets its weight from there.

    AIMET has no argument for it. A later version that does not call the method overridden here rounds every layer.
    """
    framework: Any = aimet.load()
    base: Any = framework.adaround.adaround_weight.Adaround

    class LayerByLayer(base):  # type: ignore[misc]  # AIMET is imported when it is needed
        @classmethod
        def _run_adaround_model(
            cls,
            modules: Sequence[tuple[str, nn.Module]],
            model: nn.Module,
            sim_model: nn.Module,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            layers = [(name, module) for name, module in modules if isinstance(module, aimet.ROUNDABLE)]
            for index, (name, module) in enumerate(layers):
                context.progress(index, len(layers), f"adaround {name}")
                weight = sim_model.get_parameter(f"{name}.weight")
                part = cache.take(name)
                if part is not None:
                    with torch.no_grad():
                        weight.copy_(part.tensors["weight"])
                    continue
                _seed(context.seed, index)
                super()._run_adaround_model([(name, module)], model, sim_model, *args, **kwargs)
                cache.put(name, Part(tensors={"weight": weight}))
            context.progress(len(layers), len(layers), "adaround")

    return LayerByLayer


def _seed(seed: int, index: int) -> None:
    first, second = (int(word) for word in np.random.SeedSequence((seed, index)).generate_state(2))
    torch.manual_seed(first)
    np.random.seed(second)


@contextlib.contextmanager
def _bars_and_clips() -> Iterator[None]:
    """While AdaRound runs: it draws no bars, and its loss looks behind a per-channel clip as behind a ReLU6.

    AIMET offers neither as an argument. A name that a later version lacks is left alone: then there are bars in the
    log, or the loss is taken before the clip.
    """
    framework: Any = aimet.load()
    bars = sys.modules[framework.adaround.adaround_weight.AdaroundBase.__module__]
    graph_utils = framework.meta.connectedgraph_utils

    with contextlib.ExitStack() as stack:
        if hasattr(bars, "progress_bar"):
            stack.enter_context(mock.patch.object(bars, "progress_bar", lambda items, *_, **__: items))
        if hasattr(graph_utils, "ActivationTypes"):
            types = (*graph_utils.ActivationTypes, ChannelClip)
            stack.enter_context(mock.patch.object(graph_utils, "ActivationTypes", types))
        yield
