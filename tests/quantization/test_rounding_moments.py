"""The quadratic form against the error computed directly, on each kind of layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from zoo_core.quantization.rounding.moments import (
    ReconstructionError,
    RoundableLayer,
    num_positions,
    patches,
    weight_rows,
)


def layers() -> dict[str, tuple[RoundableLayer, tuple[int, ...]]]:
    """Layer and input shape by kind."""
    return {
        "pointwise": (nn.Conv2d(6, 8, 1), (3, 6, 5, 7)),
        "pointwise with stride": (nn.Conv2d(6, 4, 1, stride=2), (3, 6, 5, 7)),
        "full 3x3, stride and padding": (nn.Conv2d(4, 5, 3, stride=2, padding=1), (3, 4, 9, 8)),
        "dilated, oblong": (nn.Conv2d(4, 5, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 3)), (3, 4, 9, 8)),
        "same padding": (nn.Conv2d(4, 5, (3, 4), padding="same"), (2, 4, 6, 7)),
        "valid padding": (nn.Conv2d(4, 5, 3, padding="valid"), (2, 4, 6, 7)),
        "reflected border": (nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"), (2, 4, 6, 7)),
        "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (3, 6, 5, 7)),
        "depthwise, stride 2, multiplier 2": (nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), (3, 3, 8, 7)),
        "grouped": (nn.Conv2d(6, 9, 3, padding=1, groups=3), (3, 6, 5, 7)),
        "linear": (nn.Linear(7, 5), (6, 7)),
        "linear over a sequence": (nn.Linear(7, 5, bias=False), (3, 4, 7)),
    }


def inputs(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    exact = torch.randn(shape, generator=generator, dtype=torch.float64)
    return exact, exact + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)


def output(layer: RoundableLayer, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The layer's own forward pass with another weight, bias left out; ``(positions, channels)``."""
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weight).reshape(-1, layer.out_features)
    y: torch.Tensor = layer._conv_forward(x, weight, None)
    return y.movedim(1, -1).reshape(-1, layer.out_channels)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kind", layers())
def test_the_quadratic_form_equals_the_error_computed_directly(kind: str) -> None:
    layer, shape = layers()[kind]
    layer = layer.double()
    error = ReconstructionError(layer)
    batches = [inputs(shape, seed) for seed in range(3)]
    for exact, rounded in batches:
        error.add(exact, rounded)
    weight = layer.weight.detach()
    changed = weight + 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(9)).double()

    wanted = torch.cat([output(layer, exact, weight) for exact, _ in batches])
    given = torch.cat([output(layer, rounded, changed) for _, rounded in batches])
    direct = (wanted - given).square().sum(0)

    rows = changed.reshape(weight_rows(layer).shape)
    torch.testing.assert_close(error(rows).flatten(), direct, rtol=1e-9, atol=0.0)
    assert error.relative(rows) == pytest.approx(float(direct.sum() / wanted.square().sum()), rel=1e-9)
    assert error.num_samples == len(wanted)


@pytest.mark.parametrize("kind", layers())
def test_with_one_input_for_both_networks_unchanged_weights_have_no_error(kind: str) -> None:
    layer, shape = layers()[kind]
    layer = layer.double()
    error = ReconstructionError(layer)
    x, _ = inputs(shape, 0)
    error.add(x, x)
    assert torch.equal(error(weight_rows(layer)), torch.zeros(weight_rows(layer).shape[:2], dtype=torch.float64))
    assert not error.linear.any()


@pytest.mark.parametrize("kind", layers())
def test_patches_at_chosen_positions_are_those_of_all_positions(kind: str) -> None:
    layer, shape = layers()[kind]
    layer = layer.double()
    x, _ = inputs(shape, 0)
    available = num_positions(layer, x)
    chosen = torch.arange(0, available, 2)
    whole = patches(layer, x)
    whole = whole.reshape(whole.shape[0], len(x), available, -1)
    picked = patches(layer, x, chosen).reshape(whole.shape[0], len(x), len(chosen), -1)
    assert torch.equal(picked, whole[:, :, chosen])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kind", layers())
def test_memory_format_does_not_change_patches(kind: str) -> None:
    layer, shape = layers()[kind]
    layer = layer.double()
    x, _ = inputs(shape, 0)
    if x.dim() == 4:
        other = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(patches(layer, x), patches(layer, other))
    assert num_positions(layer, x) == output(layer, x, layer.weight.detach()).shape[0] // len(x)


def test_a_layer_whose_output_is_zero_has_relative_error_zero() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.zero_()
    error = ReconstructionError(layer)
    error.add(*(torch.ones(4, 3),) * 2)
    assert error.relative(weight_rows(layer)) == 0.0
