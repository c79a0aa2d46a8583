"""AIMET's simulation of a quantized network: build, calibrate, read encodings and grids.

AIMET works in place, so every function says which argument it modifies. Its supergroups (pairs such as convolution and
ReLU, from the configuration file) do not cover depthwise convolutions or modules that AIMET does not know. Here a pair
applies wherever the first module's output goes to the second one only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.errors import PluginError, RecipeError
from zoo_core.quantization.aimet.foreign import prepare, register_foreign_modules
from zoo_core.quantization.aimet.library import load, quiet
from zoo_core.quantization.aimet.observing import fast_histograms
from zoo_core.quantization.aimet.plain import ActivationGrids, Grid
from zoo_core.quantization.configuration import configuration_file, configuration_of
from zoo_core.quantization.graph import sole_consumers
from zoo_core.quantization.rounding.engine import WeightGrid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from zoo_core.datatypes import QuantSettings, StepContext

ROUNDABLE = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers whose weights AdaRound rounds."""


_NUM_ROUNDS = 5
_MOVED = 1e-6
"""Relative; a float32 has steps of up to 1.2e-7, and a scale moves by about one in a round."""


def build(network: nn.Module, x: torch.Tensor, quant: QuantSettings, frozen: Mapping[str, Any] | None = None) -> Any:
    """Build AIMET's ``QuantizationSimModel`` of a copy of ``network``, activations not yet calibrated.

    Args:
        network: In eval mode; not modified.
        x: An input, ``(B, C, H, W)``, on the network's device.
        quant: Bit widths, scheme and configuration.
        frozen: Encodings of weights by parameter name, in AIMET's exchange form; they are set exactly, and no later
            calibration changes them.

    Raises:
        PluginError: AIMET cannot trace the network.
        RecipeError: AIMET does not accept the configuration file.
    """
    aimet: Any = load()
    with quiet(), configuration_file(quant) as config_file:
        _check_configuration(config_file, quant.config_file)
        prepared = prepare(network, x)
        register_foreign_modules(prepared)
        try:
            sim = aimet.quantsim.QuantizationSimModel(
                prepared,
                dummy_input=x,
                quant_scheme=scheme(quant),
                default_output_bw=quant.output_bw,
                default_param_bw=quant.param_bw,
                config_file=str(config_file),
            )
        except RuntimeError as error:
            raise PluginError(
                f"AIMET cannot simulate {type(network).__name__}: {str(error).strip().splitlines()[0]}",
                fix="let forward() be traceable by torch.jit.trace: no branches on values, no module called twice.",
            ) from error
        _apply_supergroups(sim, prepared, x, configuration_of(quant))
        if frozen:
            _freeze(sim, frozen)
        sim.model.eval().requires_grad_(False)
    return sim


def _freeze(sim: Any, frozen: Mapping[str, Any]) -> None:
    """Set and lock weight encodings, repeatedly until reading them back returns the same values.

    AIMET keeps minimum and maximum and derives the scale, so an encoding that is read and set again may differ in its
    last bit. Most settle after two or three rounds; a few move by one unit in the last place in every round for ever,
    so the rounds are limited. What is left is rounding: the integers of rounded weights stay the same.

    Raises:
        RecipeError: An encoding moved by more than rounding, so the simulation would use another grid.
    """
    encodings = dict(frozen)
    for _ in range(_NUM_ROUNDS):
        for name in encodings:
            module, _, parameter = name.rpartition(".")
            sim.model.get_submodule(module).param_quantizers[parameter].allow_overwrite(True)
        given = {"param_encodings": encodings, "activation_encodings": {}}
        sim.load_encodings(given, strict=True, partial=True, requires_grad=False, allow_overwrite=False)
        settled = {name: encoding for name, encoding in encodings_of(sim)[1].items() if name in frozen}
        if settled == encodings:
            break
        encodings = settled
    moved = sorted(name for name, encoding in frozen.items() if not _same_grid(encoding, encodings.get(name, ())))
    if moved:
        raise RecipeError(
            f"the fixed encodings of {len(moved)} weights ({', '.join(moved[:3])}) do not hold: AIMET sets other ones.",
            fix="check that each encoding's scale, offset and bit width are finite and fit this recipe's quantsim.",
        )


def _same_grid(given: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> bool:
    """Compare the encodings of a weight, one per channel, up to the rounding of scales in ``_NUM_ROUNDS`` rounds."""
    return len(given) == len(found) and all(
        one["offset"] == other["offset"]
        and one["bitwidth"] == other["bitwidth"]
        and math.isclose(one["scale"], other["scale"], rel_tol=_MOVED)
        for one, other in zip(given, found, strict=True)
    )


def _check_configuration(config_file: Path, named: Path) -> None:
    """Let AIMET read ``config_file``; errors name the file that the recipe names."""
    aimet: Any = load()
    try:
        aimet.common.quantsim_config.json_config_importer.JsonConfigImporter.import_json_config_file(str(config_file))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"{named}: AIMET does not accept it as a configuration: {reason}",
            fix="follow AIMET's guide to configuration files; leave out what is not quantized by default.",
        ) from error


def _apply_supergroups(sim: Any, network: nn.Module, x: torch.Tensor, configuration: Mapping[str, Any]) -> None:
    """Switch off the output quantizer of each module that forms a supergroup with the one module that reads it."""
    groups = configuration.get("supergroups", [])
    pairs = {pair for group in groups for pair in zip(group["op_list"], group["op_list"][1:], strict=False)}
    types = {name: operation_types(module) for name, module in network.named_modules()}
    for name, reader in sole_consumers(network, x).items():
        if any((first, second) in pairs for first in types[name] for second in types[reader]):
            sim.model.get_submodule(name).output_quantizers[0] = None


def operation_types(module: nn.Module) -> Sequence[str]:
    """Return the operation types of a module, as configuration files name them."""
    aimet: Any = load()
    kind = type(module)
    types: Sequence[str] = aimet.onnx_utils.map_torch_types_to_onnx.get(kind, [kind.__name__])
    return types


def calibrate(sim: Any, context: StepContext) -> None:
    """Compute every encoding of ``sim`` that is not frozen, from the calibration images."""
    total = len(context.calibration)

    def run(model: nn.Module) -> None:
        with fast_histograms(_activation_analyzers(sim), _is_histogram):
            for index, batch in enumerate(context.calibration):
                model(batch)
                context.progress(index + 1, total, "calibrate activations")

    with quiet(), torch.no_grad():
        sim.compute_encodings(run)


def _activation_analyzers(sim: Any) -> list[Any]:
    """Return the analyzers that calibration fills, each once."""
    quantizers = {
        quantizer: None
        for _, module in sim.named_qmodules()
        for quantizer in (*module.input_quantizers, *module.output_quantizers)
        if quantizer is not None and quantizer.is_overwrite_allowed()
    }
    analyzers = [getattr(quantizer, "encoding_analyzer", None) for quantizer in quantizers]
    return [analyzer for analyzer in analyzers if analyzer is not None]


def _is_histogram(observer: Any) -> bool:
    aimet: Any = load()
    return isinstance(observer, aimet.quantization.encoding_analyzer._HistogramObserver)


def encodings_of(sim: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return activation encodings by module name and weight encodings by parameter name, in AIMET's exchange form."""
    with quiet(), torch.no_grad():
        activations, params = sim.get_activation_param_encodings()
    return _plain(activations), _plain(params)


def quantized_weights(sim: Any) -> dict[str, torch.Tensor]:
    """Return the weights that the simulation computes with, by parameter name."""
    with quiet(), torch.no_grad():
        return {name: quantizer(sim.model.get_parameter(name)) for name, quantizer in weight_quantizers(sim).items()}


def activation_grids(sim: Any) -> dict[str, ActivationGrids]:
    """Return the grids of each module's inputs and outputs, by module name; ``sim`` must be calibrated.

    Quantizers that no image reached are left out.

    Raises:
        RecipeError: The configuration asks for activations that are not on one integer grid per tensor.
    """
    return {
        name: ActivationGrids(
            inputs=tuple(_grid(name, quantizer) for quantizer in module.input_quantizers),
            outputs=tuple(_grid(name, quantizer) for quantizer in module.output_quantizers),
        )
        for name, module in sim.named_qmodules()
    }


def _grid(name: str, quantizer: Any) -> Grid | None:
    aimet: Any = load()
    if quantizer is None or not quantizer.is_initialized():
        return None
    if not isinstance(quantizer, aimet.quantization.affine.AffineQuantizerBase) or tuple(quantizer.shape):
        raise RecipeError(
            f"the configuration quantizes the activations of {name} as {quantizer}, not on one integer grid.",
            fix="leave floating point types and per-channel activations out of the AIMET configuration.",
        )
    offset = int(quantizer.get_offset())
    return Grid(scale=float(quantizer.get_scale()), lowest=quantizer.qmin + offset, highest=quantizer.qmax + offset)


def weight_quantizers(sim: Any) -> dict[str, Any]:
    """Return the active quantizer of each parameter by name; encodings that are not set yet are computed."""
    quantizers = {}
    with quiet(), torch.no_grad():
        for name, module in sim.named_qmodules():
            for param_name, quantizer in module.param_quantizers.items():
                if quantizer is None:
                    continue
                if not quantizer.is_initialized():
                    module.compute_param_encodings()
                quantizers[f"{name}.{param_name}"] = quantizer
    return quantizers


def weight_grids(sim: Any) -> dict[str, WeightGrid]:
    """Return the weight grid of each convolution and linear layer, by module name; encodings must be set."""
    grids = {}
    for parameter, quantizer in weight_quantizers(sim).items():
        name, _, kind = parameter.rpartition(".")
        if kind == "weight" and isinstance(sim.model.get_submodule(name), ROUNDABLE):
            # AIMET counts a signed grid from qmin, WeightGrid from 0.
            scale, offset = quantizer.get_scale().detach(), quantizer.get_offset().detach() + quantizer.qmin
            grids[name] = WeightGrid(scale=scale.reshape(-1), offset=offset.reshape(-1), bw=quantizer.bitwidth)
    return grids


def scheme(quant: QuantSettings) -> Any:
    """Return AIMET's constant for the recipe's scheme."""
    aimet: Any = load()
    schemes = aimet.common.defs.QuantScheme
    return {"tf": schemes.post_training_tf, "tf_enhanced": schemes.post_training_tf_enhanced}[quant.quant_scheme]


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
