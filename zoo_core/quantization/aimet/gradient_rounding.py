"""AIMET's AdaRound: gradient descent on relaxed rounding, layer by layer; takes minutes to hours on a CPU."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from zoo_core.quantization.aimet.foreign import prepare, register_foreign_modules
from zoo_core.quantization.aimet.library import load, quiet
from zoo_core.quantization.aimet.quantsim import ROUNDABLE, scheme
from zoo_core.quantization.cache import Part, StepCache
from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.configuration import configuration_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from zoo_core.datatypes import Json, StepContext
    from zoo_core.quantization.params import AdaroundParams


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundedWeights:
    """Result of a rounding engine.

    Attributes:
        weights: By parameter name; on their grids, except for rounding errors in the last bits.
        encodings: Encodings of the same parameters, in AIMET's exchange form.
        facts: About the engine's run, for the record.
        layers: Facts by layer.
    """

    weights: Mapping[str, torch.Tensor]
    encodings: Mapping[str, Any]
    facts: Mapping[str, Json] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)


def round_network(
    network: nn.Module, params: AdaroundParams, num_batches: int, context: StepContext, cache: StepCache | None = None
) -> RoundedWeights:
    """Run AIMET's AdaRound on a copy of ``network``.

    Seeds the global random states again for every layer, so that a resumed run draws the same numbers as an
    uninterrupted one.

    Args:
        network: Not modified.
        params: Parameters of the step.
        num_batches: Calibration batches to use; at most as many as there are.
        context: Its bit widths, scheme and configuration are those of the later simulation.
        cache: Stores each layer as a part. Its content must cover all other arguments. None stores nothing.
    """
    aimet: Any = load()
    x = context.example_input
    with quiet(), _bars_and_clips(), configuration_file(context.quant) as config_file:
        prepared = prepare(copy.deepcopy(network), x)
        register_foreign_modules(prepared)
        rounded = _layer_by_layer(context, cache or StepCache(None, {})).apply_adaround(
            prepared,
            x,
            aimet.adaround.adaround_weight.AdaroundParameters(
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
            default_quant_scheme=scheme(context.quant),
            default_config_file=str(config_file),
        )
    written = json.loads((context.work_dir / "adaround.encodings").read_text(encoding="utf-8"))
    encodings: dict[str, Any] = written["param_encodings"]
    weights = {name: rounded.get_parameter(name).detach() for name in encodings}
    return RoundedWeights(weights=weights, encodings=encodings)


def _layer_by_layer(context: StepContext, cache: StepCache) -> Any:
    """Return AIMET's AdaRound class changed to round one layer per call; cached layers are read from ``cache``.

    AIMET has no argument for this. A later version that does not call the overridden method rounds every layer.
    """
    aimet: Any = load()
    base: Any = aimet.adaround.adaround_weight.Adaround

    class LayerByLayer(base):  # type: ignore[misc]  # AIMET is imported on first use
        @classmethod
        def _run_adaround_model(
            cls,
            modules: Sequence[tuple[str, nn.Module]],
            model: nn.Module,
            sim_model: nn.Module,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            layers = [(name, module) for name, module in modules if isinstance(module, ROUNDABLE)]
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
    first, second = (int(seed) for seed in np.random.SeedSequence((seed, index)).generate_state(2))
    torch.manual_seed(first)
    np.random.seed(second)


@contextlib.contextmanager
def _bars_and_clips() -> Iterator[None]:
    """While AdaRound runs, switch off its progress bars and let its loss treat a per-channel clip like a ReLU6.

    AIMET has no argument for either. A name that a later version lacks is skipped: then there are bars in the log, or
    the loss is taken before the clip.
    """
    aimet: Any = load()
    bars = sys.modules[aimet.adaround.adaround_weight.AdaroundBase.__module__]
    graph_utils = aimet.meta.connectedgraph_utils

    with contextlib.ExitStack() as stack:
        if hasattr(bars, "progress_bar"):
            stack.enter_context(mock.patch.object(bars, "progress_bar", lambda items, *_, **__: items))
        if hasattr(graph_utils, "ActivationTypes"):
            types = (*graph_utils.ActivationTypes, ChannelClip)
            stack.enter_context(mock.patch.object(graph_utils, "ActivationTypes", types))
        yield
