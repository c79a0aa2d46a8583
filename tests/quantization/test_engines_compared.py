"""The engines of ``adaround`` on the same layer, inputs and grid, as docs/adaround.md compares them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ssd_mobilenetv2_lite
from benchmarks.adaround import LayerData, aimet_grid, aimet_weight, capture, errors, fast_weight, fold
from ssd_mobilenetv2_lite.network import build_network
from ssd_mobilenetv2_lite.preprocess import preprocess
from zoo_core import artifacts
from zoo_core.datasets.shapes import draw_image
from zoo_core.quantization.aimet.library import quiet
from zoo_core.recipes import shipped_configs

LAYERS = ("1.conv.0", "1.conv.3")
"""Of the first two blocks: a depthwise layer and a projection."""

NUM_IMAGES = 64
"""Images that both engines see; as many others only score."""


@pytest.fixture(scope="module")
def layers() -> dict[str, LayerData]:
    """The demo's first blocks on its own pictures: real weights, real activations."""
    network = build_network()
    weights = Path(ssd_mobilenetv2_lite.__file__).parent / "checkpoints" / "shapes.safetensors"
    network.load_state_dict(artifacts.load_state_dict(weights))
    start = fold(nn.Sequential(network.base_net[0], network.base_net[1])).requires_grad_(False).eval()
    pictures = [preprocess(draw_image("trainval", index).image) for index in range(2 * NUM_IMAGES)]
    inputs = capture(start, torch.from_numpy(np.stack(pictures)), LAYERS, bw=8)
    found = {}
    for name, (exact, rounded, other_exact, other_rounded) in inputs.items():
        layer = start.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        found[name] = LayerData(
            layer=layer, activation=None, seen=(exact, rounded), unseen=(other_exact, other_rounded)
        )
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")  # in AIMET's optimizer
@pytest.mark.parametrize(
    ("name", "bw", "iterations"),
    [
        (LAYERS[0], 8, 10_000),  # AIMET's default
        (LAYERS[1], 4, 2_000),  # its default of 15,000 would take a minute
    ],
)
def test_the_fast_engine_leaves_less_error_than_aimet_and_aimet_less_than_nearest_rounding(
    layers: dict[str, LayerData], name: str, bw: int, iterations: int
) -> None:
    data = layers[name]
    with quiet():
        sim, grid = aimet_grid(data.layer, data.seen[0], bw, shipped_configs()["per_tensor_asymmetric"])
        of_aimet = aimet_weight(data, sim, iterations, with_activation=False)
    nearest = (data.layer.weight / grid.scale).round().clamp(grid.offset, grid.offset + 2**bw - 1) * grid.scale
    with torch.no_grad():
        error = {
            "fast": errors(data, fast_weight(data, grid, "floor_ceil")),
            "aimet": errors(data, of_aimet),
            "nearest": errors(data, nearest),
        }

    for part in ("seen", "unseen"):
        assert error["fast"][part] < error["aimet"][part] < error["nearest"][part], error
