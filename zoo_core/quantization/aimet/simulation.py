"""Simulates a network on integers, as the last step of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.quantization import coverage
from zoo_core.quantization.aimet import quantsim
from zoo_core.quantization.aimet.accounting import simulated
from zoo_core.quantization.aimet.foreign import prepare
from zoo_core.quantization.aimet.library import logger, quiet
from zoo_core.quantization.aimet.plain import plain_simulation
from zoo_core.quantization.configuration import configuration_of
from zoo_core.runs.coverage import COVERAGE_ERROR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from zoo_core.datatypes import Json, QuantNetwork, StepContext
    from zoo_core.runs.parts import CoverageRecord


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulation:
    """Network that computes in float what a device would compute in integers.

    Attributes:
        network: Called like the network it simulates.
        encodings: ``activation_encodings`` by module name and ``param_encodings`` by parameter name, AIMET's exchange
            form, JSON-able.
        effect: Facts for the record.
        summary: The effect in one line.
        coverage: Account of what is quantized; None if it could not be made, with the error in ``effect``.
        prepared: The float network that is simulated, with arithmetic as modules; ``encodings`` name its modules.
        weights_bytes: Size of the parameters at the bits of their quantizers.
        seconds: Wall time of building and calibrating, filled in by the pipeline.
    """

    network: nn.Module
    encodings: Mapping[str, Any]
    effect: Mapping[str, Json]
    summary: str
    coverage: CoverageRecord | None
    prepared: nn.Module
    weights_bytes: int
    seconds: float = 0.0

    @property
    def coverage_error(self) -> str:
        """Return the reason for which there is no account; empty if there is one."""
        return str(self.effect.get(COVERAGE_ERROR, ""))


def simulate(network: QuantNetwork, context: StepContext) -> Simulation:
    """Build the simulation, freeze fixed encodings and calibrate the others; see ``pipeline.simulate``."""
    prepared = prepare(network.network, context.example_input)
    sim = quantsim.build(prepared, context.example_input, context.quant, network.param_encodings)
    quantsim.calibrate(sim, context)
    activations, params = quantsim.encodings_of(sim)
    num_activations = sum(len(entry.get(side, {})) for entry in activations.values() for side in ("input", "output"))
    widths = f"w{context.quant.param_bw}a{context.quant.output_bw}"
    image = next(iter(context.calibration))[:1]
    plain = _plain(prepared, sim)
    same = plain is not None and _same_outputs(plain, sim.model, image)
    if not same:
        logger.warning(
            "The plain simulation differs from the installed AIMET's; AIMET's own, which is slower, is used."
        )
    # AIMET's network is accounted for even where the plain one runs: they compute the same bits.
    account, failure, weights_bytes = _account(sim, prepared, configuration_of(context.quant), image)
    return Simulation(
        network=plain if same and plain is not None else sim.model,
        encodings={"activation_encodings": activations, "param_encodings": params},
        effect={
            "num_quantized_activations": num_activations,
            "num_quantized_weights": len(params),
            "num_frozen_weights": len(network.param_encodings),
            "num_calibration_images": context.calibration.num_images,
            "same_as_aimet": same,
            **({COVERAGE_ERROR: failure} if failure else {}),
        },
        summary=f"{widths}: {len(params)} weights ({len(network.param_encodings)} with fixed encodings) and "
        f"{num_activations} activations quantized, calibrated on {context.calibration.num_images} images",
        coverage=account,
        prepared=prepared,
        weights_bytes=weights_bytes,
    )


def _plain(prepared: nn.Module, sim: Any) -> nn.Module | None:
    """Build the plain simulation; None where AIMET has replaced a module by several, whose names the network lacks."""
    try:
        return plain_simulation(prepared, quantsim.quantized_weights(sim), quantsim.activation_grids(sim))
    except AttributeError as error:
        logger.info("plain simulation: %s", error)
        return None


def _account(
    sim: Any, prepared: nn.Module, config: Mapping[str, Any], image: torch.Tensor
) -> tuple[CoverageRecord | None, str, int]:
    """Account for a simulation and measure its weights in bytes.

    An error becomes a text, because the number of the stage does not depend on it.
    """
    described = simulated(sim, prepared, config)
    try:
        with quiet():
            account = coverage.account(described, image)
    except Exception as error:  # the network is a plugin's, and may do anything with an observed tensor
        logger.exception("The simulated network could not be accounted for.")
        failure = f"{type(error).__name__}: {error}".splitlines()[0]
        return None, failure, round(coverage.weights_bits(described) / 8)
    return account, "", round(sum(one.num_values * one.bits for one in account.parameters) / 8)


def _same_outputs(plain: nn.Module, own: nn.Module, image: torch.Tensor) -> bool:
    """Compare the plain network with AIMET's own, bit by bit, on one calibration image ``(1, C, H, W)``."""
    with quiet(), torch.no_grad():
        pairs = [_outputs(network(image)) for network in (plain, own)]
    return len(pairs[0]) == len(pairs[1]) and all(map(torch.equal, *pairs))


def _outputs(value: torch.Tensor | Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return (value,) if isinstance(value, torch.Tensor) else tuple(value)
