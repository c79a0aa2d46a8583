"""Integer form of a quantized network: weights as integers, activations with their grids; free of AIMET."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.errors import CheckpointError
from zoo_core.quantization.aimet.plain import ActivationGrids, Grid, plain_simulation
from zoo_core.quantization.graph import tensors_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zoo_core.runtimes.parity import Simulated

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weights have the output channels on axis 1; they are on axis 0 in all others."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerWeight:
    """Weight as the integers that a device stores; the weight is ``(values - zero_point) * scale``.

    Attributes:
        values: int32, the parameter's shape, in the range of ``bits``.
        scale: float32, ``()`` or one per index of ``axis``, ``(C,)``.
        zero_point: int32, like ``scale``.
        axis: Axis of the channels; None with one scale for all.
        bits: Bits of a value.
        signed: Values are from ``-2**(bits - 1)``, otherwise from 0.
    """

    values: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor
    axis: int | None
    bits: int
    signed: bool

    def dequantized(self) -> torch.Tensor:
        """Return the float32 weight."""
        shape = [1] * self.values.dim()
        if self.axis is not None:
            shape[self.axis] = -1
        return (self.values - self.zero_point.reshape(shape)).to(torch.float32) * self.scale.reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerNetwork:
    """Network with everything that rounds in it.

    Attributes:
        network: The float network, in eval mode.
        weights: By parameter name.
        activations: By module name.
    """

    network: nn.Module
    weights: Mapping[str, IntegerWeight]
    activations: Mapping[str, ActivationGrids]

    @classmethod
    def from_encodings(cls, network: nn.Module, encodings: Mapping[str, Any]) -> IntegerNetwork:
        """Combine a float network with its encodings in AIMET's exchange form, such as ``quantized/encodings.json``.

        Args:
            network: In eval mode; not modified.
            encodings: ``activation_encodings`` by module name, ``param_encodings`` by parameter name.

        Raises:
            CheckpointError: The encodings are not complete, or name what the network does not have.
        """
        try:
            return cls(
                network=network,
                weights={
                    name: _weight(network, name, entries) for name, entries in encodings["param_encodings"].items()
                },
                activations={
                    name: ActivationGrids(
                        inputs=_grids(sides.get("input", {})), outputs=_grids(sides.get("output", {}))
                    )
                    for name, sides in encodings["activation_encodings"].items()
                    if network.get_submodule(name) is not None
                },
            )
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"The encodings do not fit {type(network).__name__}: {type(error).__name__}: {error}",
                fix="use network and encodings of one run that has a quantized stage.",
            ) from error

    def simulation(self) -> nn.Module:
        """Return a copy of the network that computes with the dequantized weights and rounds its activations."""
        weights = {name: weight.dequantized() for name, weight in self.weights.items()}
        return plain_simulation(self.network, weights, self.activations)

    def quantized_activations(self) -> Iterator[tuple[str, Grid]]:
        """Yield the name of each quantized tensor with its grid, by module."""
        for name, grids in self.activations.items():
            for side, own in (("input", grids.inputs), ("output", grids.outputs)):
                for index, grid in enumerate(own):
                    if grid is not None:
                        yield tensor_name(name, side, index), grid

    def integers(self, x: torch.Tensor) -> dict[str, NDArray[np.int64]]:
        """Run the simulation and return the integers of each quantized tensor, counted from the lowest of its grid.

        Args:
            x: ``(B, C, H, W)`` float32.
        """
        return dict(self.simulated(x).integers)

    def simulated(self, x: torch.Tensor) -> Simulated:
        """Run the simulation and return the integers of each quantized tensor, and the network's outputs.

        Args:
            x: ``(B, C, H, W)`` float32.
        """
        from zoo_core.runtimes.parity import Simulated

        simulation = self.simulation()
        with _recorded(simulation, self.activations) as found, torch.no_grad():
            outputs = simulation(x)
        return Simulated(integers=found, outputs=[tensor.cpu().numpy() for tensor in tensors_in(outputs)])


def tensor_name(module: str, side: str, index: int) -> str:
    """Name a quantized tensor: the module's name, with the side if it is an input and the index if it is not 0."""
    return module + (f"/{side}" if side == "input" else "") + (f":{index}" if index else "")


def _weight(network: nn.Module, name: str, entries: Sequence[Mapping[str, Any]]) -> IntegerWeight:
    """Round a weight to its encodings: one for the tensor, or one per channel."""
    value = network.get_parameter(name).detach()
    module = network.get_submodule(name.rpartition(".")[0])
    axis = None if len(entries) == 1 else int(isinstance(module, _TRANSPOSED))
    widths = {int(entry["bitwidth"]) for entry in entries}
    if len(widths) != 1 or (axis is not None and value.shape[axis] != len(entries)):
        raise ValueError(f"{name} has {len(entries)} encodings of {sorted(widths)} bits")
    (bits,) = widths
    flat = () if axis is None else (-1,)
    scale = torch.tensor([entry["scale"] for entry in entries], dtype=torch.float32, device=value.device).reshape(flat)
    lowest = torch.tensor([entry["offset"] for entry in entries], dtype=torch.int32, device=value.device).reshape(flat)
    symmetric = all(str(entry["is_symmetric"]) == "True" for entry in entries)  # AIMET writes text
    signed = symmetric and bool((lowest == -(2 ** (bits - 1))).all())
    shape = [1] * value.dim()
    if axis is not None:
        shape[axis] = -1
    low = lowest.reshape(shape).to(torch.float32)
    inverse = (1.0 / scale).reshape(shape)  # as torch's fake_quantize does
    rounded = torch.clamp(torch.round(value * inverse), low, low + (2**bits - 1)).to(torch.int32)
    zero_point = torch.zeros_like(lowest) if signed else -lowest
    return IntegerWeight(
        values=rounded + zero_point.reshape(shape),
        scale=scale,
        zero_point=zero_point,
        axis=axis,
        bits=bits,
        signed=signed,
    )


def _grids(entries: Mapping[str, Mapping[str, Any]]) -> tuple[Grid | None, ...]:
    """Return the grids of one side of a module, None at an index without an encoding."""
    found: list[Grid | None] = [None] * (1 + max(map(int, entries), default=-1))
    for index, entry in entries.items():
        lowest, bits = int(entry["offset"]), int(entry["bitwidth"])
        found[int(index)] = Grid(scale=float(entry["scale"]), lowest=lowest, highest=lowest + 2**bits - 1)
    return tuple(found)


@contextmanager
def _recorded(
    simulation: nn.Module, activations: Mapping[str, ActivationGrids]
) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Yield a table that fills with the integers of each quantized tensor while the simulation runs."""
    found: dict[str, NDArray[np.int64]] = {}

    def record(module: str, side: str, grids: tuple[Grid | None, ...], value: Any) -> None:
        floats = (tensor for tensor in tensors_in(value) if tensor.is_floating_point())
        for index, (tensor, grid) in enumerate(zip(floats, grids, strict=False)):
            if grid is not None:
                counted = torch.round(tensor / grid.scale) - grid.lowest
                found[tensor_name(module, side, index)] = counted.to(torch.int64).cpu().numpy()

    handles = []
    for name, grids in activations.items():
        module = simulation.get_submodule(name)
        if any(grids.inputs):
            handles.append(
                module.register_forward_pre_hook(
                    lambda _module, args, name=name, own=grids.inputs: record(name, "input", own, args)
                )
            )
        if any(grids.outputs):
            handles.append(
                module.register_forward_hook(
                    lambda _module, _args, output, name=name, own=grids.outputs: record(name, "output", own, output)
                )
            )
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
