"""AIMET's transformations of float networks: batch-norm folding and cross-layer scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.quantization.aimet.library import load, quiet

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledLayers:
    """Layer set that cross-layer scaling has scaled.

    Attributes:
        layers: Two or three module names, in execution order.
        factors: One array per pair of neighbours: output channel c of the first was divided by ``factors[c]`` and the
            second's weights that read it were multiplied by it.
    """

    layers: tuple[str, ...]
    factors: tuple[NDArray[np.float64], ...]


def fold_batch_norms(network: nn.Module, x: torch.Tensor) -> list[str]:
    """Fold every batch norm into the convolution or linear layer before or after it, in place.

    Returns:
        Names of the layers that a batch norm was folded into.
    """
    aimet: Any = load()
    names = {module: name for name, module in network.named_modules()}
    with quiet():
        pairs = aimet.batch_norm_fold.fold_all_batch_norms(network, None, dummy_input=x)
    return [names[layer] for layer, _ in pairs]


def scale_layers(network: nn.Module, x: torch.Tensor) -> list[ScaledLayers]:
    """Equalize the weight ranges of neighbouring convolutions, in place, with only ReLU or PReLU between them."""
    aimet: Any = load()
    names = {module: name for name, module in network.named_modules()}
    with quiet():
        infos = aimet.cross_layer_equalization.CrossLayerScaling.scale_model(network, dummy_input=x)
    layer_sets = []
    for info in infos:
        pairs = info.cls_pair_info_list
        layers = (names[pairs[0].layer1], *(names[pair.layer2] for pair in pairs))
        layer_sets.append(ScaledLayers(layers=layers, factors=tuple(pair.scale_factor for pair in pairs)))
    return layer_sets
