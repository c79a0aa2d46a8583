"""Rounded weights lie on the simulation's grid, and their encodings stay as they were fixed."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from zoo_core.datatypes import QuantNetwork, Recipe, StepContext, StepResult, StepSpec
from zoo_core.errors import RecipeError
from zoo_core.quantization.aimet import gradient_rounding, quantsim
from zoo_core.quantization.aimet.gradient_rounding import RoundedWeights
from zoo_core.quantization.pipeline import BoundStep, plan, run_step, simulate
from zoo_core.quantization.saved import save_quantized
from zoo_core.quantization.steps.builtin import BUILTIN_STEPS
from zoo_core.recipes import load_recipe

STEPS = {step.name: step for step in BUILTIN_STEPS}
ENGINES = [{"engine": "aimet", "num_iterations": 30}, {"engine": "fast"}, {"engine": "fast", "choices": "free"}]


def rounded(network: nn.Module, context: StepContext, params: dict[str, Any]) -> StepResult:
    step = STEPS["adaround"]
    return run_step(
        BoundStep(step=step, params=step.params.model_validate(params)),
        QuantNetwork(network=folded(network, context)),
        context,
    )


def folded(network: nn.Module, context: StepContext) -> nn.Module:
    step = STEPS["fold_batch_norms"]
    return run_step(BoundStep(step=step, params=step.params()), QuantNetwork(network=network), context).result.network


@pytest.mark.parametrize("params", ENGINES, ids=lambda params: "-".join(map(str, params.values())))
def test_every_weight_lies_on_its_grid_within_one_step_or_as_free_as_asked(
    network: nn.Module, context: StepContext, params: dict[str, Any]
) -> None:
    before = folded(network, context)
    outcome = rounded(network, context, params)
    assert set(outcome.result.param_encodings) == {
        f"{name}.weight" for name in ("stem.0", "expand.0", "depthwise.0", "project.0", "head")
    }
    for name, (encoding,) in outcome.result.param_encodings.items():
        integers = outcome.result.network.get_parameter(name).detach().double() / encoding["scale"]
        assert float((integers - integers.round()).abs().max()) < 1e-4
        steps = (integers.round() - before.get_parameter(name).detach().double() / encoding["scale"]).abs()
        if params.get("choices") != "free":
            inside = before.get_parameter(name).detach().clamp(encoding["min"], encoding["max"]).double()
            steps = (integers.round() - inside / encoding["scale"]).abs()
            assert float(steps.max()) <= 1.001


@pytest.mark.parametrize("params", ENGINES, ids=lambda params: "-".join(map(str, params.values())))
def test_fixed_encodings_survive_calibration_and_the_weights_do_not_move(
    network: nn.Module, context: StepContext, params: dict[str, Any]
) -> None:
    ready = rounded(network, context, params).result
    sim = quantsim.build(ready.network, context.example_input, context.quant, ready.param_encodings)
    fixed = quantsim.encodings_of(sim)
    assert fixed[0] == {}, "activations are not calibrated yet"
    assert fixed[1] == ready.param_encodings, "and the weights' encodings are set"
    for quantizer in quantsim.weight_quantizers(sim).values():
        assert not quantizer.is_overwrite_allowed()
    quantsim.calibrate(sim, context)
    assert quantsim.encodings_of(sim)[1] == ready.param_encodings
    for name, weight in quantsim.quantized_weights(sim).items():
        assert torch.equal(weight, ready.network.get_parameter(name))


@pytest.mark.parametrize("params", ENGINES, ids=lambda params: "-".join(map(str, params.values())))
def test_one_seed_gives_the_same_bytes_and_leaves_the_global_random_states_alone(
    network: nn.Module, context: StepContext, params: dict[str, Any]
) -> None:
    torch.manual_seed(11)
    random.seed(11)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = rounded(network, context, params).result
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # type: ignore[index]
    torch.manual_seed(12)
    second = rounded(network, context, params).result
    assert first.param_encodings == second.param_encodings
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name


def test_the_effect_counts_weights_that_are_not_rounded_to_nearest(network: nn.Module, context: StepContext) -> None:
    before = folded(network, context)
    outcome = rounded(network, context, {"engine": "aimet", "num_iterations": 300})
    layers: Any = outcome.effect["layers"]
    expected = {}
    for name, (encoding,) in outcome.result.param_encodings.items():
        inside = before.get_parameter(name).detach().double().clamp(encoding["min"], encoding["max"])
        nearest = (inside / encoding["scale"]).round()
        got = (outcome.result.network.get_parameter(name).detach().double() / encoding["scale"]).round()
        expected[name.removesuffix(".weight")] = int((nearest != got).sum())
    assert {name: layer["num_changed"] for name, layer in layers.items()} == expected
    assert outcome.effect["num_changed"] == sum(expected.values()) > 0
    assert outcome.effect["num_weights"] == sum(layer["num_weights"] for layer in layers.values()) == 648


@pytest.mark.parametrize(("bits", "iterations", "short"), [(8, 1, True), (8, 10_000, False), (4, 10_000, True)])
def test_fewer_iterations_than_aimets_default_are_called_short(
    network: nn.Module, context: StepContext, bits: int, iterations: int, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = dataclasses.replace(context, quant=dataclasses.replace(context.quant, param_bw=bits))
    asked = []

    def no_rounding(_given: nn.Module, params: Any, num_batches: int, *_: Any) -> RoundedWeights:
        asked.append((params.num_iterations, num_batches))
        return RoundedWeights(weights={}, encodings={})

    monkeypatch.setattr(gradient_rounding, "round_network", no_rounding)
    effect = rounded(network, context, {"engine": "aimet", "num_iterations": iterations}).effect
    assert (effect["num_iterations"], effect["short"]) == (iterations, short)
    assert asked == [(iterations, 3)]


def test_the_recipes_bit_width_reaches_adaround(network: nn.Module, context: StepContext) -> None:
    context = dataclasses.replace(context, quant=dataclasses.replace(context.quant, param_bw=5))
    ready = rounded(network, context, {"engine": "aimet", "num_iterations": 1}).result
    assert {encoding["bitwidth"] for (encoding,) in ready.param_encodings.values()} == {5}


def test_more_batches_than_there_are_is_an_error(network: nn.Module, context: StepContext) -> None:
    with pytest.raises(RecipeError, match="num_batches is 4, but there are 3 calibration batches"):
        rounded(network, context, {"num_batches": 4})


def test_what_is_saved_can_be_read_back(network: nn.Module, context: StepContext, tmp_path: Path) -> None:
    source = context.quant.config_file.parent / "recipe.yaml"
    specs = (
        StepSpec(step="fold_batch_norms"),
        StepSpec(step="relu6", params={"policy": "per_channel_clip"}),
        StepSpec(step="quantsim", params={"config_file": context.quant.config_file.name}),
    )
    checked = plan(Recipe(name="r", description="As tested.", steps=specs, source=source, sha256="abc"))
    ready = QuantNetwork(network=network)
    for bound in checked.steps:
        ready = run_step(bound, ready, context).result
    simulation = simulate(ready, context)
    target = tmp_path / "quantized"
    target.mkdir()
    save_quantized(target, ready, simulation, checked, context.example_input)
    with safe_open(target / "network.safetensors", framework="pt") as file:
        metadata = file.metadata()
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    assert saved.keys() == ready.network.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in ready.network.state_dict().items())
    assert metadata["relu6_policy"] == "per_channel_clip"
    assert (metadata["recipe"], metadata["recipe_sha256"], metadata["folded"]) == ("r", "abc", "true")
    assert json.loads((target / "encodings.json").read_text(encoding="utf-8")) == simulation.encodings
    read_again = plan(load_recipe(target / "recipe.yaml"))  # names the configuration beside it
    assert [bound.params for bound in read_again.steps] == [bound.params for bound in checked.steps]
    assert read_again.quant.config_file == (target / "aimet_config.json").resolve()
    assert (target / "aimet_config.json").read_bytes() == context.quant.config_file.read_bytes()


def test_fixed_encodings_can_be_set_again_to_the_last_bit(network: nn.Module, context: StepContext) -> None:
    # AIMET derives the scale from a range, so what is read and set once may differ in its last bit.
    fixed = rounded(network, context, {"engine": "fast"}).result.param_encodings
    for _ in range(3):
        sim = quantsim.build(folded(network, context), context.example_input, context.quant, fixed)
        assert quantsim.encodings_of(sim)[1] == fixed
