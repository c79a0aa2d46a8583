"""Measures the signal-to-quantization-noise ratio (SQNR) of each layer, to find the layers that hurt.

``SQNR = 10 log10(sum(x^2) / sum((x - q)^2))`` in dB, of a float tensor x and its quantized counterpart q.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_core.quantization.graph import tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo_core.datatypes import Json

NUM_IMAGES = 16
"""Images per measurement: ratios of sums over all activations settle with a handful."""

_PASS_THROUGH = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSqnr:
    """Noise that quantization adds to one layer.

    Attributes:
        layer: Module name.
        kind: Class of the float module, e.g. ``Conv2d``.
        weight_sqnr_db: Of the layer's weight; None if it has none, or if no noise was added.
        output_sqnr_db: Of the layer's output in the whole network, noise of earlier layers included; None if no noise
            was added or the output was all zeros.
    """

    layer: str
    kind: str
    weight_sqnr_db: float | None
    output_sqnr_db: float | None

    def as_json(self) -> dict[str, Json]:
        """Return the entry of ``run.json``."""
        return {
            "layer": self.layer,
            "kind": self.kind,
            "weight_sqnr_db": self.weight_sqnr_db,
            "output_sqnr_db": self.output_sqnr_db,
        }


def layer_sqnr(
    network: nn.Module, simulated: nn.Module, batches: Iterable[torch.Tensor], *, num_images: int = NUM_IMAGES
) -> list[LayerSqnr]:
    """Measure every layer that both networks run, in the order in which the float network first runs them.

    Args:
        network: The float reference, in eval mode, with the same function and module names as ``simulated``; for a
            rounded network the one before rounding, otherwise the noise of rounding is not measured. Not modified.
        simulated: Its simulation, calibrated. Not modified.
        batches: ``(B, C, H, W)`` float32 on the networks' device, e.g. the calibration batches.
        num_images: Images to use, from the first; processed one at a time to limit memory.

    Returns:
        One entry per module without children that ran equally often in both; modules that pass their input on
        (``Identity``, which batch-norm folding leaves behind, and dropout) are left out.
    """
    outputs = _Accumulator()
    shared = _shared_leaves(network, simulated)
    with torch.no_grad():
        for image in _images(batches, num_images):
            expected = _run(network, image, shared)
            actual = _run(simulated, image, shared)
            for name, tensors in expected.items():
                outputs.add(name, tensors, actual.get(name, []))
    reference, quantized = dict(network.named_modules()), dict(simulated.named_modules())
    return [
        LayerSqnr(
            layer=name,
            kind=type(reference[name]).__name__,
            weight_sqnr_db=_weight_sqnr(reference[name], quantized[name]),
            output_sqnr_db=outputs.sqnr_db(name),
        )
        for name in outputs.names
    ]


def sqnr_db(signal: float, noise: float) -> float | None:
    """Return the ratio of two sums of squares in dB; None if either is zero or not finite."""
    if not (0.0 < signal < math.inf and 0.0 < noise < math.inf):
        return None
    return 10.0 * math.log10(signal / noise)


class _Accumulator:
    """Sums of squares per layer, in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        self._uneven: set[str] = set()

    @property
    def names(self) -> list[str]:
        return [name for name in self._sums if name not in self._uneven]

    def add(self, name: str, expected: list[torch.Tensor], actual: list[torch.Tensor]) -> None:
        signal, noise = self._sums.get(name, (0.0, 0.0))
        if [x.shape for x in expected] != [q.shape for q in actual]:
            self._uneven.add(name)
        else:
            for x, q in zip(expected, actual, strict=True):
                signal += _sum_of_squares(x)
                noise += _sum_of_squares(x - q)
        self._sums[name] = signal, noise

    def sqnr_db(self, name: str) -> float | None:
        return sqnr_db(*self._sums[name])


def _sum_of_squares(x: torch.Tensor) -> float:
    return float(x.double().square().sum())


def _images(batches: Iterable[torch.Tensor], num_images: int) -> Iterator[torch.Tensor]:
    remaining = num_images
    for batch in batches:
        for image in batch[:remaining]:
            yield image[None]
        remaining -= min(remaining, len(batch))
        if not remaining:
            return


def _shared_leaves(network: nn.Module, simulated: nn.Module) -> list[str]:
    # A simulated module has quantizers as children, so only the float network shows which modules are leaves.
    simulated_names = {name for name, _ in simulated.named_modules()}
    leaves = [
        name
        for name, module in network.named_modules()
        if name and not any(True for _ in module.children()) and not isinstance(module, _PASS_THROUGH)
    ]
    return [name for name in leaves if name in simulated_names]


def _run(network: nn.Module, image: torch.Tensor, names: list[str]) -> dict[str, list[torch.Tensor]]:
    """Return the outputs of every call of the named modules, in the order of the first call."""
    outputs: dict[str, list[torch.Tensor]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            # Copied: a later operation in place would overwrite the layer's output.
            copies = [tensor.detach().clone() for tensor in tensors_in(output) if tensor.is_floating_point()]
            outputs.setdefault(name, []).extend(copies)

        return hook

    handles = [network.get_submodule(name).register_forward_hook(remember(name)) for name in names]
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _weight_sqnr(reference: nn.Module, quantized: nn.Module) -> float | None:
    weight = dict(reference.named_parameters(recurse=False)).get("weight")
    if weight is None:
        return None
    own = dict(quantized.named_parameters(recurse=False)).get("weight")
    # A plain simulation has quantized weights; AIMET's own network has a quantizer beside each weight.
    # Read as a submodule: since Python 3.12 a protocol's instance check does not find submodules.
    beside = dict(quantized.named_children()).get("param_quantizers")
    quantizer = dict(beside.items()).get("weight") if isinstance(beside, nn.ModuleDict) else None
    if own is None or own.shape != weight.shape:
        return None
    with torch.no_grad():
        rounded = own if quantizer is None else quantizer(own)
        return sqnr_db(_sum_of_squares(weight), _sum_of_squares(weight - torch.as_tensor(rounded)))
