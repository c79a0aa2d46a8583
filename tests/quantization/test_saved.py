"""What ``quantize`` wrote is loaded into the plugin's ordinary network again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import nn

from quantization.conftest import SmallNet
from zoo_core import artifacts
from zoo_core.datatypes import ModelBundle, QuantNetwork, Recipe, StepContext, StepSpec
from zoo_core.errors import CheckpointError
from zoo_core.quantization.pipeline import plan, walk
from zoo_core.quantization.saved import fixed_encodings, is_saved_network, load_saved, save_quantized

if TYPE_CHECKING:
    from zoo_core.datatypes import Decode, Preprocess


@pytest.fixture
def ordinary(context: StepContext) -> ModelBundle:
    """What a plugin that knows nothing of folding gives: the network with other weights."""
    torch.manual_seed(5)
    return ModelBundle(
        network=SmallNet().eval(),
        example_input=context.example_input,
        preprocess=cast("Preprocess", None),
        decode=cast("Decode", None),
        notes=("The network is untrained.",),
    )


def saved(network: nn.Module, context: StepContext, *steps: tuple[str, dict[str, Any]]) -> tuple[Path, nn.Module]:
    """Run steps, save the network, and return its file and the network itself."""
    specs = [StepSpec(step=name, params=params) for name, params in steps]
    specs.append(StepSpec(step="quantsim", params={"config_file": context.quant.config_file.name}))
    source = context.quant.config_file.parent / "recipe.yaml"
    checked = plan(Recipe(name="r", description="", steps=tuple(specs), source=source, sha256="abc"))
    *_, last = walk(checked, QuantNetwork(network=network), lambda: context)
    folder = context.work_dir / "quantized"
    folder.mkdir()
    save_quantized(folder, last.network, None, checked, context.example_input)
    return folder / "network.safetensors", last.network.network


@pytest.mark.parametrize(
    "steps",
    [
        (),
        ("fold_batch_norms",),
        ("relu6",),
        ("fold_batch_norms", "relu6", "cross_layer_equalization", "adaround"),
    ],
    ids=["none", "folded", "relu6", "all"],
)
@pytest.mark.parametrize("policy", ["keep", "replace", "per_channel_clip"])
def test_a_saved_network_computes_the_same_in_a_network_that_was_built_anew(
    network: nn.Module, ordinary: ModelBundle, context: StepContext, steps: tuple[str, ...], policy: str
) -> None:
    params = [(name, {"policy": policy} if name == "relu6" else {}) for name in steps]
    path, expected = saved(network, context, *params)
    before = {name: value.clone() for name, value in ordinary.network.state_dict().items()}

    assert is_saved_network(path)
    loaded = load_saved(ordinary, path)

    images = next(iter(context.calibration))
    with torch.no_grad():
        for actual, output in zip(loaded.network(images), expected(images), strict=True):
            assert torch.equal(actual, output)
    assert not loaded.network.training
    assert [type(module).__name__ for module in loaded.network.modules()] == [
        type(module).__name__ for module in expected.modules()
    ]
    assert ordinary.network.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], value) for name, value in ordinary.network.state_dict().items())


def test_the_notes_say_how_the_loaded_network_differs(
    network: nn.Module, ordinary: ModelBundle, context: StepContext
) -> None:
    path, _ = saved(network, context, ("fold_batch_norms", {}), ("relu6", {"policy": "replace"}))
    first, second = load_saved(ordinary, path).notes
    assert "batch norms folded" in first
    assert "ReLU6 is replaced by ReLU" in second


def test_weights_of_another_model_are_refused_by_name(
    network: nn.Module, ordinary: ModelBundle, context: StepContext
) -> None:
    path, expected = saved(network, context, ("fold_batch_norms", {}))
    weights = {**expected.state_dict(), "head.weight": torch.zeros(7, 8, 1, 1), "tail.weight": torch.zeros(1)}
    del weights["head.bias"]
    artifacts.save_state_dict(path, weights, artifacts.load_metadata(path))
    with pytest.raises(
        CheckpointError,
        match=r"does not fit the model: head.bias is missing; tail.weight is not in the network; "
        r"head.weight has shape \(7, 8, 1, 1\) instead of \(4, 8, 1, 1\)",
    ):
        load_saved(ordinary, path)


def test_weights_that_are_not_finite_are_refused(
    network: nn.Module, ordinary: ModelBundle, context: StepContext
) -> None:
    path, expected = saved(network, context)
    weights = {**expected.state_dict(), "head.bias": torch.full((4,), torch.nan)}
    artifacts.save_state_dict(path, weights, artifacts.load_metadata(path))
    with pytest.raises(CheckpointError, match=r"head\.bias is not finite"):
        load_saved(ordinary, path)


@pytest.mark.parametrize("steps", ["[]", "{", json.dumps({"relu6": {"policy": "drop"}})])
def test_damaged_metadata_is_refused(
    network: nn.Module, ordinary: ModelBundle, context: StepContext, steps: str
) -> None:
    path, expected = saved(network, context)
    artifacts.save_state_dict(path, expected.state_dict(), {**artifacts.load_metadata(path), "steps": steps})
    with pytest.raises(CheckpointError, match=r"its metadata does not list the recipe's steps.*\n.*zoo-eval quantize"):
        load_saved(ordinary, path)


def test_encodings_of_rounded_weights_are_recorded_for_the_settings_they_were_made_under(
    network: nn.Module, context: StepContext
) -> None:
    path, _ = saved(network, context, ("fold_batch_norms", {}), ("adaround", {}))
    encodings = fixed_encodings(path, context.quant)
    assert set(encodings) == {f"{name}.weight" for name in ("stem.0", "expand.0", "depthwise.0", "project.0", "head")}
    assert {encoding["bitwidth"] for (encoding,) in encodings.values()} == {8}
    assert fixed_encodings(path, dataclasses.replace(context.quant, param_bw=4)) == {}


def test_damaged_encodings_are_refused(network: nn.Module, context: StepContext) -> None:
    path, expected = saved(network, context)
    artifacts.save_state_dict(path, expected.state_dict(), {**artifacts.load_metadata(path), "param_encodings": "3"})
    with pytest.raises(CheckpointError, match=r"the encodings in its metadata are damaged.*\n.*zoo-eval quantize"):
        fixed_encodings(path, context.quant)


def test_weights_without_a_recipe_are_left_to_the_plugin(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "published.safetensors"
    artifacts.save_state_dict(path, network.state_dict(), {"relu6_policy": "replace"})
    assert not is_saved_network(path)
