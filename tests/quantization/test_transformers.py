"""Networks with attention through every step of a recipe."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from quantization.conftest import Batches
from quantization.test_coverage import small_swin, small_vit
from zoo_core.datatypes import QuantNetwork, Recipe, StepContext, StepSpec
from zoo_core.quantization import pipeline
from zoo_core.quantization.attention import with_attention_modules
from zoo_core.recipes import config_path
from zoo_core.runs.coverage import coverage_warning
from zoo_torchvision_classification.model import for_device

STEPS = (
    StepSpec(step="fold_batch_norms", params={}),
    StepSpec(step="cross_layer_equalization", params={"min_layer_sets": 0}),
    StepSpec(step="adaround", params={"engine": "fast"}),
    StepSpec(step="quantsim", params={"quant_scheme": "tf", "config_file": "per_channel_symmetric_quantized_input"}),
)


def shipped(context: StepContext, images: torch.Tensor) -> StepContext:
    """Return ``context`` with these calibration images and the configuration of the shipped recipes."""
    config = config_path(Path("recipe.yaml"), "per_channel_symmetric_quantized_input")
    quant = dataclasses.replace(context.quant, quant_scheme="tf", config_file=config)
    return dataclasses.replace(context, example_input=images[:1], calibration=Batches(images, 1), quant=quant)


@pytest.mark.parametrize(
    ("build", "size", "num_rounded", "num_weights", "num_activations"),
    [(small_vit, 32, 10, 15, 34), (small_swin, 40, 19, 30, 69)],
    ids=["vit", "swin"],
)
def test_every_step_of_a_recipe_takes_attention(
    build: Callable[[], nn.Module],
    size: int,
    num_rounded: int,
    num_weights: int,
    num_activations: int,
    context: StepContext,
) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, size, size)
    context = shipped(context, images)
    recipe = Recipe(name="all", description="", steps=STEPS, source=Path("recipe.yaml"), sha256="0")
    network = QuantNetwork(network=build().eval())
    *_, last = pipeline.walk(pipeline.plan(recipe), network, lambda: context)
    assert len(last.network.param_encodings) == num_rounded
    simulation = pipeline.simulate(last.network, context)
    assert coverage_warning("w8a8", simulation.coverage, simulation.coverage_error) is None
    assert simulation.effect["same_as_aimet"] is True
    assert simulation.effect["num_quantized_weights"] == num_weights
    assert simulation.effect["num_quantized_activations"] == num_activations
    with torch.no_grad():
        assert simulation.network(images).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_weights", "num_activations"),
    [("swin_t", 82, 195), ("vit_b_16", 75, 164), ("convnext_tiny", 82, 156), ("densenet121", 183, 312)],
)
def test_a_large_network_is_quantized_completely(
    name: str, num_weights: int, num_activations: int, context: StepContext
) -> None:
    torch.manual_seed(0)
    options = {"image_size": 32} if name.startswith("vit") else {}
    network = for_device(torchvision.models.get_model(name, weights=None, **options)).eval()
    context = shipped(context, torch.rand(1, 3, 32, 32))
    recipe = Recipe(name="all", description="", steps=(STEPS[0], STEPS[-1]), source=Path("recipe.yaml"), sha256="0")
    *_, last = pipeline.walk(pipeline.plan(recipe), QuantNetwork(network=network), lambda: context)
    simulation = pipeline.simulate(last.network, context)
    assert coverage_warning("w8a8", simulation.coverage, simulation.coverage_error) is None
    assert simulation.effect["same_as_aimet"] is True
    assert simulation.effect["num_quantized_weights"] == num_weights
    assert simulation.effect["num_quantized_activations"] == num_activations


class Calls(nn.Module):
    """Calls ``nn.MultiheadAttention`` in one of the ways that are not written as modules."""

    def __init__(self, call: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.call = nn.Conv2d(3, 8, 4, 4), call
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(self.attention, self.conv(x).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda module, x: module(x, x, x, need_weights=False, attn_mask=torch.eye(16, dtype=torch.bool))[0],
        lambda module, x: module(x, x.flip(1), x, need_weights=False)[0],
        lambda module, x: module(x, x, x)[1],
    ],
    ids=["mask", "key", "weights"],
)
def test_attention_that_is_not_written_as_modules_computes_the_same_and_is_said(
    call: Callable[[nn.Module, torch.Tensor], torch.Tensor], context: StepContext
) -> None:
    torch.manual_seed(0)
    network = Calls(call).eval()
    written = with_attention_modules(network)
    with torch.no_grad():
        torch.testing.assert_close(written(context.example_input), network(context.example_input))
    simulation = pipeline.simulate(QuantNetwork(network=written), context)
    text = coverage_warning("w8a8", simulation.coverage, simulation.coverage_error)
    assert text is not None
    assert "mm in (network)" in text
    share = re.search(r"not quantized, (\d+\.\d) % of the MACs", text)
    assert share is not None, text
    assert float(share[1]) >= 40.0  # 57.1 with the products of attention, which a torch may compute in one kernel


class Standardized(nn.Conv2d):
    """Computes its weight in ``forward``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # torch's name
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(input, weight, self.bias)


def test_a_weight_computed_within_a_module_is_not_quantized(context: StepContext) -> None:
    simulation = pipeline.simulate(QuantNetwork(network=nn.Sequential(Standardized(3, 8, 3)).eval()), context)
    text = coverage_warning("w8a8", simulation.coverage, simulation.coverage_error)
    assert text is not None
    assert "1 operation (Standardized in 0) not quantized, 100.0 % of the MACs" in text
