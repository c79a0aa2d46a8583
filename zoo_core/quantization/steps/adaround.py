"""Step adaround: rounds each weight so that the layer's output changes least, not to the nearest grid point.

Two engines solve the same problem: AIMET's by gradient descent on a relaxation, ``rounding`` by descent on integers.
Both use the grids of the later simulation, whose encodings are then fixed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import logging
import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zoo_core.datatypes import CalibrationBatches, Json, QuantNetwork, StepResult
from zoo_core.errors import RecipeError
from zoo_core.quantization.aimet import gradient_rounding, quantsim
from zoo_core.quantization.aimet.gradient_rounding import RoundedWeights
from zoo_core.quantization.cache import StepCache, engine_sha256, tensor_sha256
from zoo_core.quantization.graph import program_sha256
from zoo_core.quantization.rounding import engine as rounding
from zoo_core.runs import provenance

if TYPE_CHECKING:
    from zoo_core.datatypes import StepContext
    from zoo_core.quantization.params import AdaroundParams

logger = logging.getLogger("zoo_eval.quantization")

AIMET_ITERATIONS_8_BIT = 10_000
AIMET_ITERATIONS_BELOW_8_BIT = 15_000
"""Default iterations per layer, as in AIMET 2.42."""


def round_weights(network: QuantNetwork, params: AdaroundParams, context: StepContext) -> StepResult:
    """Round the weights of every convolution and linear layer; the result runs in float with weights on their grids.

    AIMET leaves a weight between grid points if its relaxation has not converged; here it is rounded hard, as the
    method prescribes. Effect: ``engine``, ``num_weights``, ``num_changed`` (compared with nearest rounding),
    ``num_batches``, ``cache`` (the share of cached results; None if it is off), ``arithmetic`` (processor, threads and
    kernels, on which the last digits depend), and ``layers`` with the first two numbers per layer. Engine aimet adds
    ``num_iterations`` and ``short`` (fewer than AIMET's default); engine fast adds ``choices`` and per layer ``error``
    and ``error_nearest``.

    Raises:
        RecipeError: There are no calibration images or too few batches, or engine aimet follows a step that has fixed
            weight ranges.
    """
    num_batches = _num_batches(params, context.calibration)
    arithmetic = provenance.arithmetic(str(context.example_input.device))
    cache = _cache(network, params, num_batches, context, arithmetic)
    if params.engine == "aimet" and network.param_encodings:
        raise RecipeError(
            "adaround follows a step that has fixed weight ranges, and its engine aimet chooses ranges of its own.",
            fix="use `engine: fast`, or leave the earlier step out.",
        )
    if params.engine == "aimet":
        with _seeded(context.seed, context.example_input.device):
            rounded = gradient_rounding.round_network(network.network, params, num_batches, context, cache)
        rounded = dataclasses.replace(rounded, facts=_iterations(params, context))
    else:
        rounded = _fast(network, params, num_batches, context, cache)
    cache.close()
    sim = quantsim.build(network.network, context.example_input, context.quant, rounded.encodings)
    hard = copy.deepcopy(network.network)
    layers: dict[str, Json] = {}
    quantizers = quantsim.weight_quantizers(sim)
    with torch.no_grad():
        for name, soft in rounded.weights.items():
            parameter, quantizer = hard.get_parameter(name), quantizers[name]
            nearest = quantizer(parameter)
            parameter.copy_(quantizer(soft.to(parameter)))
            changed = int((parameter - nearest).abs().gt(quantizer.get_scale() / 2).sum())
            layer = name.rpartition(".")[0]
            layers[layer] = {"num_weights": parameter.numel(), "num_changed": changed, **rounded.layers.get(layer, {})}
    encodings = quantsim.encodings_of(sim)[1]
    result = QuantNetwork(network=hard, param_encodings={name: encodings[name] for name in rounded.encodings})
    facts = {**rounded.facts, "arithmetic": arithmetic}
    return _result(result, params, facts, layers, num_batches, cache)


def _fast(
    network: QuantNetwork, params: AdaroundParams, num_batches: int, context: StepContext, cache: StepCache
) -> RoundedWeights:
    sim = quantsim.build(network.network, context.example_input, context.quant, network.param_encodings)
    quantsim.weight_quantizers(sim)  # computes the ranges that no earlier step has fixed
    grids = quantsim.weight_grids(sim)
    rounded = rounding.round_network(
        network.network,
        _FirstBatches(context.calibration, num_batches),
        grids,
        choices=params.choices,
        seed=context.seed,
        progress=context.progress,
        cache=cache,
    )
    encodings = quantsim.encodings_of(sim)[1]
    names = [f"{name}.weight" for name in grids]
    return RoundedWeights(
        weights={name: rounded.network.get_parameter(name).detach() for name in names},
        encodings={name: encodings[name] for name in names},
        facts={"choices": params.choices, "num_iterations_unused": params.num_iterations},
        layers={layer.name: {"error": layer.error, "error_nearest": layer.error_nearest} for layer in rounded.layers},
    )


def _iterations(params: AdaroundParams, context: StepContext) -> dict[str, Json]:
    default = AIMET_ITERATIONS_8_BIT if context.quant.param_bw >= 8 else AIMET_ITERATIONS_BELOW_8_BIT
    num_iterations = params.num_iterations or default
    return {"num_iterations": num_iterations, "short": num_iterations < default}


def _result(
    network: QuantNetwork,
    params: AdaroundParams,
    facts: Mapping[str, Json],
    layers: dict[str, Json],
    num_batches: int,
    cache: StepCache,
) -> StepResult:
    counts: list[Any] = list(layers.values())
    num_weights = sum(layer["num_weights"] for layer in counts)
    num_changed = sum(layer["num_changed"] for layer in counts)
    note = f", {facts['num_iterations']} iterations a layer" if "num_iterations" in facts else ""
    if facts.get("num_iterations_unused") is not None:
        note += f"; num_iterations {facts['num_iterations_unused']} was ignored, it belongs to engine aimet"
    note += " (short: fewer than AIMET's default)" if facts.get("short") else ""
    return StepResult(
        result=network,
        effect={
            "engine": params.engine,
            **facts,
            "num_batches": num_batches,
            "num_weights": num_weights,
            "num_changed": num_changed,
            "cache": cache.record(),
            "layers": layers,
        },
        summary=f"engine {params.engine}: {num_changed / max(num_weights, 1):.1%} of {num_weights} weights in "
        f"{len(layers)} layers not rounded to nearest{note}{cache.summary()}",
    )


_LIBRARIES = ("torch", "aimet-torch", "numpy")


def _cache(
    network: QuantNetwork,
    params: AdaroundParams,
    num_batches: int,
    context: StepContext,
    arithmetic: Mapping[str, Any],
) -> StepCache:
    """Open the cache entry for these weights, images, settings, library versions, threads and kernels."""
    if context.cache_dir is None:
        return StepCache(None, {})
    try:
        program = program_sha256(network.network, context.example_input)
    except Exception as error:  # a plugin's forward() may raise anything; rounding itself does not need the hash
        logger.warning("Rounded layers are not cached: the network's operations cannot be recorded: %s", error)
        return StepCache(None, {})
    images = _FirstBatches(context.calibration, num_batches)
    quant = dataclasses.asdict(context.quant)
    config = quant.pop("config_file").read_bytes()
    return StepCache(
        context.cache_dir / "adaround",
        {
            "engine": params.engine,
            "params": params.model_dump(mode="json"),
            "weights": {name: tensor_sha256(value) for name, value in network.network.state_dict().items()},
            "program": program,
            "encodings": json.dumps(dict(network.param_encodings), sort_keys=True),
            "images": [tensor_sha256(batch) for batch in images],
            "quant": {**quant, "config_sha256": hashlib.sha256(config).hexdigest()},
            "seed": context.seed,
            "versions": {name: provenance.installed_version(name) for name in _LIBRARIES},
            "engine_sha256": engine_sha256(),
            "arithmetic": dict(arithmetic),
        },
    )


def _num_batches(params: AdaroundParams, calibration: CalibrationBatches) -> int:
    available = len(calibration)
    if available == 0:
        raise RecipeError("adaround has no calibration images.", fix="give at least one: --calibration-size 500.")
    if params.num_batches is not None and params.num_batches > available:
        raise RecipeError(
            f"adaround.num_batches is {params.num_batches}, but there are {available} calibration batches.",
            fix="leave num_batches out to use all, or raise --calibration-size.",
        )
    return params.num_batches or available


class _FirstBatches:
    """Limits a calibration set to its first batches."""

    def __init__(self, calibration: CalibrationBatches, num_batches: int) -> None:
        self._calibration = calibration
        self._num_batches = num_batches
        share = calibration.num_images * num_batches // len(calibration)
        self.num_images = calibration.num_images if num_batches == len(calibration) else share

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _, batch in zip(range(self._num_batches), self._calibration, strict=False):
            yield batch

    def __len__(self) -> int:
        return self._num_batches


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random states of torch, numpy and Python, and restore them on exit."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # AIMET draws from them
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
