"""Describes AIMET's simulation to ``quantization.coverage``: modules, quantizers, what the configuration exempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo_core.quantization.aimet.library import load
from zoo_core.quantization.aimet.quantsim import operation_types, weight_quantizers
from zoo_core.quantization.coverage import Simulated, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

_INPUT_IN_FLOAT = "the configuration leaves the network's input in float"
_FUNCTIONS = {"cat": "Concat", "add": "Add", "mul": "Mul", "div": "Div"}
"""Operation types of the functions that AIMET treats like modules, by their names in aten."""

_OUTPUT_IN_FLOAT = "the configuration leaves the network's outputs in float"


def simulated(sim: Any, prepared: nn.Module, config: Mapping[str, Any]) -> Simulated:
    """Describe a calibrated simulation.

    Args:
        sim: AIMET's ``QuantizationSimModel``.
        prepared: The network that ``sim`` simulates, with the same names of modules and parameters.
        config: The simulation's configuration, which AIMET has accepted.
    """
    configuration = _Configuration(config)
    units = {}
    outputs = []
    known = dict(prepared.named_modules())
    for name, module in sim.named_qmodules():
        original = known.get(name, module)  # AIMET writes some attention as several modules
        types = operation_types(original)
        own = [parameter for parameter, _ in original.named_parameters(recurse=False)]
        units[module] = Unit(
            name=name,
            kind=type(original).__name__,
            exempt=configuration.exempt_output(types),
            types=types,
            exempt_parameters={parameter: configuration.exempt_parameter(types, parameter) for parameter in own},
        )
        outputs += [quantizer for quantizer in module.output_quantizers if quantizer is not None]
    active = {quantizer: int(quantizer.bitwidth) for quantizer in _all_quantizers(sim) if quantizer.is_initialized()}
    internal = {id(one) for quantizer in _all_quantizers(sim) for one in quantizer.parameters()}
    parameters = {name: one for name, one in sim.model.named_parameters() if id(one) not in internal}
    # Two modules may share a parameter, which has one name.
    quantizers = {
        id(sim.model.get_parameter(name)): one for name, one in weight_quantizers(sim).items() if one in active
    }
    return Simulated(
        network=sim.model,
        units=units,
        supergroups=configuration.supergroups,
        quantizers=active,
        output_quantizers=frozenset(outputs),
        parameters=parameters,
        parameter_quantizers={
            name: quantizers[id(value)] for name, value in parameters.items() if id(value) in quantizers
        },
        exempt_functions={
            name: reason for name, kind in _FUNCTIONS.items() if (reason := configuration.exempt_output([kind]))
        },
        exempt_input=_INPUT_IN_FLOAT if configuration.leaves_input else "",
        exempt_output=_OUTPUT_IN_FLOAT if configuration.leaves_output else "",
    )


def _all_quantizers(sim: Any) -> list[Any]:
    aimet: Any = load()
    kind = aimet.quantization.affine.AffineQuantizerBase
    return [module for module in sim.model.modules() if isinstance(module, kind)]


class _Configuration:
    """What a configuration file of AIMET leaves in float."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self.supergroups = frozenset(
            pair
            for group in content.get("supergroups", [])
            for pair in zip(group["op_list"], group["op_list"][1:], strict=False)
        )
        self.leaves_input = content.get("model_input", {}).get("is_input_quantized") != "True"
        self.leaves_output = content.get("model_output", {}).get("is_output_quantized") == "False"

    def exempt_output(self, types: Sequence[str]) -> str:
        """Return the reason for which outputs of these operation types stay float; empty if they do not."""
        quantized = self._content.get("defaults", {}).get("ops", {}).get("is_output_quantized", "False")
        for kind in types:
            quantized = self._content.get("op_type", {}).get(kind, {}).get("is_output_quantized", quantized)
        return "" if quantized == "True" else f"the configuration leaves the output of {types[0]} in float"

    def exempt_parameter(self, types: Sequence[str], name: str) -> str:
        """Return the reason for which a parameter stays float; empty if it does not."""
        quantized = self._content.get("defaults", {}).get("params", {}).get("is_quantized", "False")
        quantized = self._content.get("params", {}).get(name, {}).get("is_quantized", quantized)
        for kind in types:
            settings = self._content.get("op_type", {}).get(kind, {}).get("params", {}).get(name, {})
            quantized = settings.get("is_quantized", quantized)
        return "" if quantized == "True" else f"the configuration leaves {name} in float"
