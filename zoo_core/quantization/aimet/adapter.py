"""The only module of the core that imports aimet_torch, and a thin one: what AIMET does, in this project's terms.

Checked with aimet-torch 2.42. Its import takes seconds and it prints, logs to stdout and warns; all of that ends in the
logger ``zoo_eval.aimet``. AIMET works in place, so every function says which argument it modifies.

Modules that AIMET does not know: every leaf module class of the network that is foreign to it (a plugin's ``Add``, the
per-channel clip) is registered with ``QuantizationMixin.implements``: its tensor outputs are quantized as those of
AIMET's own modules are, under an operation type that configuration files can name, which is the class's name.
Arithmetic that is no module (``x + y`` in a ``forward``) would run in float, unseen; where ``torch.fx`` finds some,
AIMET's model preparer turns it into modules first.

Supergroups: AIMET does not apply a configuration's pairs such as convolution and ReLU to depthwise convolutions, nor
across modules that it does not know. Here a pair holds wherever the first's output goes to the second alone.
"""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.errors import PluginError, RecipeError
from zoo_core.quantization.aimet.foreign import ForwardingHandler, quantized_class, quiet
from zoo_core.quantization.aimet.observing import fast_histograms
from zoo_core.quantization.aimet.plain import ActivationGrids, Grid
from zoo_core.quantization.graph import functional_arithmetic, sole_consumers
from zoo_core.quantization.rounding.engine import WeightGrid
from zoo_core.quantization.steps.relu6 import ChannelClip

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

    from zoo_core.datatypes import QuantSettings, StepContext

logger = logging.getLogger("zoo_eval.aimet")

OPERATION_TYPES: dict[type[nn.Module], str] = {ChannelClip: "Clip"}
"""The operation type, as configuration files name it, of a class whose own name is not it."""


ROUNDABLE = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers whose weights AdaRound rounds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledLayers:
    """A layer set that cross-layer scaling has scaled.

    Attributes:
        layers: Two or three module names, in the order of the data.
        factors: One array a pair of neighbours: output channel c of the first was divided by ``factors[c]`` and the
            second's weights that read it multiplied.
    """

    layers: tuple[str, ...]
    factors: tuple[NDArray[np.float64], ...]


@functools.cache
def load() -> ModuleType:
    """Import aimet_torch once, quietly, and take over its loggers."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    with quiet(logger):
        import aimet_torch
        import aimet_torch.adaround.adaround_weight
        import aimet_torch.batch_norm_fold
        import aimet_torch.common.defs
        import aimet_torch.common.quantsim_config.json_config_importer
        import aimet_torch.common.utils
        import aimet_torch.cross_layer_equalization
        import aimet_torch.meta.connectedgraph_utils
        import aimet_torch.model_preparer
        import aimet_torch.nn
        import aimet_torch.onnx_utils
        import aimet_torch.quantization.affine
        import aimet_torch.quantization.encoding_analyzer
        import aimet_torch.quantsim
    # AIMET logs its version through the root logger, which gives an unconfigured root a handler on stderr.
    root.handlers[:] = handlers
    for area in aimet_torch.common.utils.AimetLogger.LogAreas:
        area_logger = logging.getLogger(area.value)
        area_logger.handlers[:] = [ForwardingHandler(logger)]
        area_logger.propagate = False
    module: ModuleType = aimet_torch
    return module


def fold_batch_norms(network: nn.Module, x: torch.Tensor) -> list[str]:
    """Fold every batch norm that follows or precedes a linear layer into it, in place.

    Returns:
        Names of the layers that took one in.
    """
    aimet: Any = load()
    names = {module: name for name, module in network.named_modules()}
    with quiet(logger):
        pairs = aimet.batch_norm_fold.fold_all_batch_norms(network, None, dummy_input=x)
    return [names[layer] for layer, _ in pairs]


def scale_layers(network: nn.Module, x: torch.Tensor) -> list[ScaledLayers]:
    """Equalize the weight ranges of neighbouring convolutions, in place; only ReLU and PReLU may lie between them."""
    aimet: Any = load()
    names = {module: name for name, module in network.named_modules()}
    with quiet(logger):
        infos = aimet.cross_layer_equalization.CrossLayerScaling.scale_model(network, dummy_input=x)
    found = []
    for info in infos:
        pairs = info.cls_pair_info_list
        layers = (names[pairs[0].layer1], *(names[pair.layer2] for pair in pairs))
        found.append(ScaledLayers(layers=layers, factors=tuple(pair.scale_factor for pair in pairs)))
    return found


def build_quantsim(
    network: nn.Module, x: torch.Tensor, quant: QuantSettings, frozen: Mapping[str, Any] | None = None
) -> Any:
    """Build AIMET's ``QuantizationSimModel`` of a copy of ``network``, activations not yet calibrated.

    Args:
        network: In eval mode; not modified. Ownership of nothing passes.
        x: An input, ``(B, C, H, W)``, on the network's device.
        quant: Bit widths, scheme and configuration.
        frozen: Encodings of weights by parameter name, in AIMET's exchange form; they are set up to the last bit, and
            no later calibration changes them. What ``encodings_of`` then gives for them can be set exactly.

    Raises:
        PluginError: AIMET cannot trace the network.
        RecipeError: AIMET does not accept the configuration file.
    """
    aimet: Any = load()
    with quiet(logger):
        _check_configuration(quant.config_file)
        prepared = prepare(network, x)
        register_foreign_modules(prepared)
        try:
            sim = aimet.quantsim.QuantizationSimModel(
                prepared,
                dummy_input=x,
                quant_scheme=scheme(quant),
                default_output_bw=quant.output_bw,
                default_param_bw=quant.param_bw,
                config_file=str(quant.config_file),
            )
        except RuntimeError as error:
            raise PluginError(
                f"AIMET cannot simulate {type(network).__name__}: {str(error).strip().splitlines()[0]}",
                fix="let forward() be traceable by torch.jit.trace: no branches on values, no module called twice.",
            ) from error
        _apply_supergroups(sim, prepared, x, quant.config_file)
        if frozen:
            _freeze(sim, frozen)
        sim.model.eval().requires_grad_(False)
    return sim


def _freeze(sim: Any, frozen: Mapping[str, Any]) -> None:
    """Set and lock weight encodings until reading them back gives what was set.

    AIMET keeps minimum and maximum and derives the scale, so an encoding that was read and set again may have another
    last bit; after a second or third time it has not.
    """
    encodings = dict(frozen)
    for _ in range(5):
        for name in encodings:
            module, _, parameter = name.rpartition(".")
            sim.model.get_submodule(module).param_quantizers[parameter].allow_overwrite(True)
        given = {"param_encodings": encodings, "activation_encodings": {}}
        sim.load_encodings(given, strict=True, partial=True, requires_grad=False, allow_overwrite=False)
        settled = {name: encoding for name, encoding in encodings_of(sim)[1].items() if name in frozen}
        if settled == encodings:
            return
        encodings = settled


def _check_configuration(config_file: Path) -> None:
    aimet: Any = load()
    try:
        aimet.common.quantsim_config.json_config_importer.JsonConfigImporter.import_json_config_file(str(config_file))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"{config_file}: AIMET does not accept it as a configuration: {reason}",
            fix="follow AIMET's guide to configuration files; what is not to be quantized by default is left out.",
        ) from error


def _apply_supergroups(sim: Any, network: nn.Module, x: torch.Tensor, config_file: Path) -> None:
    """Switch off the output quantizer of each module that forms a supergroup with the one module that reads it."""
    groups = json.loads(config_file.read_text(encoding="utf-8")).get("supergroups", [])
    pairs = {pair for group in groups for pair in zip(group["op_list"], group["op_list"][1:], strict=False)}
    types = {name: _operation_types(module) for name, module in network.named_modules()}
    for name, reader in sole_consumers(network, x).items():
        if any((first, second) in pairs for first in types[name] for second in types[reader]):
            sim.model.get_submodule(name).output_quantizers[0] = None


def _operation_types(module: nn.Module) -> Sequence[str]:
    aimet: Any = load()
    kind = type(module)
    found: Sequence[str] = aimet.onnx_utils.map_torch_types_to_onnx.get(kind, [kind.__name__])
    return found


def calibrate(sim: Any, context: StepContext) -> None:
    """Compute every encoding of ``sim`` that is not frozen, from the calibration images."""
    total = len(context.calibration)

    def run(model: nn.Module) -> None:
        with fast_histograms(_activation_analyzers(sim), _is_histogram):
            for index, batch in enumerate(context.calibration):
                model(batch)
                context.progress(index + 1, total, "calibrate activations")

    with quiet(logger), torch.no_grad():
        sim.compute_encodings(run)


def _activation_analyzers(sim: Any) -> list[Any]:
    """The analyzers that calibration fills, each once."""
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
    """Activation encodings by module name and weight encodings by parameter name, JSON-able, AIMET's exchange form."""
    with quiet(logger), torch.no_grad():
        activations, params = sim.get_activation_param_encodings()
    return _plain(activations), _plain(params)


def quantized_weights(sim: Any) -> dict[str, torch.Tensor]:
    """The values that the simulation computes with, by parameter name."""
    with quiet(logger), torch.no_grad():
        return {name: quantizer(sim.model.get_parameter(name)) for name, quantizer in weight_quantizers(sim).items()}


def activation_grids(sim: Any) -> dict[str, ActivationGrids]:
    """The grids of each module's inputs and outputs, by module name; the simulation must be calibrated.

    A quantizer that no image reached is left out.

    Raises:
        RecipeError: The configuration asks for activations that are not one integer grid a tensor.
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
    """The active quantizer of each parameter, by parameter name; encodings are computed where none are set yet."""
    found = {}
    with quiet(logger), torch.no_grad():
        for name, module in sim.named_qmodules():
            for param_name, quantizer in module.param_quantizers.items():
                if quantizer is None:
                    continue
                if not quantizer.is_initialized():
                    module.compute_param_encodings()
                found[f"{name}.{param_name}"] = quantizer
    return found


def weight_grids(sim: Any) -> dict[str, WeightGrid]:
    """The grid of each convolution's and linear layer's weights, by module name; encodings must be set."""
    grids = {}
    for parameter, quantizer in weight_quantizers(sim).items():
        name, _, kind = parameter.rpartition(".")
        if kind == "weight" and isinstance(sim.model.get_submodule(name), ROUNDABLE):
            # AIMET counts a signed grid from qmin, WeightGrid from 0.
            scale, offset = quantizer.get_scale().detach(), quantizer.get_offset().detach() + quantizer.qmin
            grids[name] = WeightGrid(scale=scale.reshape(-1), offset=offset.reshape(-1), bw=quantizer.bitwidth)
    return grids


def scheme(quant: QuantSettings) -> Any:
    """AIMET's name for the recipe's scheme."""
    aimet: Any = load()
    schemes = aimet.common.defs.QuantScheme
    return {"tf": schemes.post_training_tf, "tf_enhanced": schemes.post_training_tf_enhanced}[quant.quant_scheme]


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


# --------------------------------------------------------------------------- modules that AIMET does not know


def register_foreign_modules(network: nn.Module) -> None:
    """Tell AIMET how to simulate the leaf modules of ``network`` that it does not know; see the module's docstring."""
    aimet: Any = load()
    known = aimet.nn.QuantizationMixin.cls_to_qcls
    operation_types = aimet.onnx_utils.map_torch_types_to_onnx
    for module in network.modules():
        kind = type(module)
        if kind in known or any(True for _ in module.children()) or kind.__module__.startswith("torch.nn."):
            continue
        operation_types.setdefault(kind, [OPERATION_TYPES.get(kind, kind.__name__)])
        aimet.nn.QuantizationMixin.implements(kind)(quantized_class(aimet.nn.QuantizationMixin, kind))


def prepare(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """The network itself, or AIMET's prepared copy where arithmetic on tensors is written without modules.

    Names of modules and parameters stay; doing it twice does nothing more.
    """
    found = functional_arithmetic(network, x)
    if not found:
        return network
    aimet: Any = load()
    logger.info("%d operations without a module become modules: %s", len(found), ", ".join(found))
    prepared: nn.Module = aimet.model_preparer.prepare_model(network)
    return prepared.eval()
