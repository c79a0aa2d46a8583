"""Every bundled model family under the configuration of every recipe: nothing runs in float unintentionally."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest

from quantization.conftest import Batches
from zoo_core.datatypes import QuantNetwork, StepContext
from zoo_core.errors import RecipeError
from zoo_core.plugins import PluginHost
from zoo_core.quantization import pipeline
from zoo_core.runs.coverage import coverage_warning

MODELS = (
    "ssd_mobilenetv2_lite",
    "ssd_mobilenetv2_lite_shapes",
    "torchvision_mobilenet_v2",
    "torchvision_mobilenet_v2_shapes",
    "torchvision_mobilenet_v3_large",
    "torchvision_resnet18",
    "torchvision_resnet50",
    "torchvision_efficientnet_b0",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "torchvision_ssdlite320_mobilenet_v3_large",
    "torchvision_ssd300_vgg16",
)
RECIPES = (
    "w8a8_per_channel",
    "w4a8_per_channel",
    "w8a8_published_relu6_replaced",
    "w8a8_relu6_kept_per_channel",
    "w8a8_per_channel_symmetric",
    "w8a8_tf_enhanced_cle_adaround",
    "w8a8_per_channel_adaround",
)
SMALL = 64
"""Side of the images of classifiers, whose accounts do not depend on it; detectors need their own."""


def given(context: StepContext) -> StepContext:
    return context


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return PluginHost()


def test_the_lists_hold_every_bundled_model_and_recipe(host: PluginHost) -> None:
    root = Path(__file__).parents[2]
    files = [*root.glob("plugins/*/recipes/*.yaml"), *root.glob("zoo_core/shipped/recipes/*.yaml")]
    assert set(RECIPES) == {file.stem for file in files}
    bundled = {
        "ssd_mobilenetv2_lite",
        "torchvision_classification",
        "efficientnet_lite",
        "torchvision_detection",
    }
    assert set(MODELS) == {name for name, entry in host.catalog().items() if entry.plugin in bundled}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_family_is_quantized_completely_under_the_configurations_of_its_recipes(
    model: str, host: PluginHost, tmp_path: Path
) -> None:
    entry = host.model(model)
    bundle = host.load_model(entry, None, ("first", "second", "third"), "cpu")
    image = bundle.example_input[:1]
    if entry.task == "classification":
        image = image[..., :SMALL, :SMALL]
    judged = set()
    for name in RECIPES:
        try:
            plan = pipeline.plan(host.recipe(entry, name), host.recipe_steps())
        except RecipeError:  # a recipe of another plugin
            continue
        # Ranges are not judged, so the quickest way to find them will do; what rounds what is the same.
        quant = dataclasses.replace(plan.quant, quant_scheme="tf")
        steps = tuple(bound for bound in plan.steps if bound.step.name in ("fold_batch_norms", "relu6"))
        key = (quant, tuple(repr(bound.params) for bound in steps))
        if key in judged:
            continue
        judged.add(key)
        context = StepContext(
            example_input=image,
            calibration=Batches(image, 1),
            quant=quant,
            seed=0,
            work_dir=tmp_path,
            progress=lambda *_: None,
        )
        original = QuantNetwork(network=bundle.network)
        *_, last = pipeline.walk(dataclasses.replace(plan, steps=steps), original, partial(given, context))
        simulation = pipeline.simulate(last.network, context)
        assert coverage_warning(name, simulation.coverage, simulation.coverage_error) is None
        assert simulation.effect["same_as_aimet"] is True
        assert simulation.effect["num_quantized_weights"]
    assert judged
