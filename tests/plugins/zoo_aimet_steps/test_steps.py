"""The two steps on a small network, and on the demo's trained one where they must earn their keep."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from quantization.conftest import CONFIG, Batches, SmallNet  # the network that the core's own steps are tested on
from zoo_aimet_steps.params import ReestimateBnParams, SeqMseParams
from zoo_aimet_steps.steps import STEPS
from zoo_core.datatypes import QuantNetwork, QuantSettings, Recipe, StepContext, StepSpec
from zoo_core.errors import RecipeError
from zoo_core.plugins import PluginHost
from zoo_core.quantization import pipeline
from zoo_core.quantization.aimet import library, quantsim
from zoo_core.quantization.pipeline import BoundStep, run_step
from zoo_core.quantization.sqnr import sqnr_db
from zoo_core.quantization.steps.builtin import BUILTIN_STEPS
from zoo_core.recipes import shipped_configs

STEP = {step.name: step for step in (*BUILTIN_STEPS, *STEPS)}
PER_CHANNEL = shipped_configs()["per_channel_symmetric_quantized_input"]


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return StepContext(
        example_input=images[:1],
        calibration=Batches(images, 4),
        quant=QuantSettings(param_bw=4, output_bw=8, quant_scheme="tf", config_file=PER_CHANNEL),
        seed=3,
        work_dir=tmp_path,
        progress=lambda *_: None,
    )


@pytest.fixture
def network() -> nn.Module:
    """Random weights, batch norms that were measured on the calibration images."""
    torch.manual_seed(1)
    made = SmallNet().train()
    with torch.no_grad():
        for _ in range(30):
            made(torch.rand(16, 3, 16, 16) * 2 - 1)
    return made.eval()


def bound(name: str, **params: Any) -> BoundStep:
    return BoundStep(step=STEP[name], params=STEP[name].params(**params))


def with_bits(context: StepContext, bits: int) -> StepContext:
    return dataclasses.replace(context, quant=dataclasses.replace(context.quant, param_bw=bits))


def recipe(tmp_path: Path, *steps: str) -> Recipe:
    config = tmp_path / "config.json"
    config.write_text(str(CONFIG).replace("'", '"'))
    last = StepSpec(step="quantsim", params={"param_bw": 4, "config_file": "config.json"})
    specs = (*(StepSpec(step=name) for name in steps), last)
    return Recipe(name="r", description="", steps=specs, source=tmp_path / "r.yaml", sha256="0" * 64)


def test_the_installed_plugin_brings_both_steps() -> None:
    names = [step.name for step in PluginHost().recipe_steps()]
    assert {"seq_mse", "reestimate_bn"} <= set(names)


def test_defaults_are_aimets() -> None:
    import inspect

    library.load()
    import aimet_torch.bn_reestimation
    import aimet_torch.seq_mse

    reestimate: Any = aimet_torch.bn_reestimation.reestimate_bn_stats
    assert inspect.signature(reestimate).parameters["num_batches"].default == ReestimateBnParams().num_batches
    candidates = aimet_torch.seq_mse.SeqMseParams(num_batches=None).num_candidates
    assert candidates == SeqMseParams().num_candidates


# --------------------------------------------------------------------------- seq_mse


def test_seq_mse_fixes_ranges_and_leaves_the_network(network: nn.Module, context: StepContext) -> None:
    folded = run_step(bound("fold_batch_norms"), QuantNetwork(network=network), context).result
    made = run_step(bound("seq_mse"), folded, context)
    layers = {name for name, module in folded.network.named_modules() if isinstance(module, nn.Conv2d)}
    assert set(made.result.param_encodings) == {f"{name}.weight" for name in layers}
    for name, value in made.result.network.state_dict().items():
        assert torch.equal(value, folded.network.state_dict()[name])
    assert made.effect["num_layers"] == len(layers)
    assert 0 < made.effect["num_narrowed"] <= len(layers)  # type: ignore[operator]
    # The simulation computes with these ranges to the last bit.
    sim = pipeline.simulate(made.result, context)
    for name, encoding in made.result.param_encodings.items():
        assert sim.encodings["param_encodings"][name] == encoding


def test_seq_mse_brings_each_layers_output_closer(network: nn.Module, context: StepContext) -> None:
    folded = run_step(bound("fold_batch_norms"), QuantNetwork(network=network), context).result
    made = run_step(bound("seq_mse"), folded, context).result
    stem, x = folded.network.get_submodule("stem.0"), next(iter(context.calibration))
    errors = []
    for candidate in (folded, made):
        sim = quantsim.build(candidate.network, x[:1], context.quant, candidate.param_encodings)
        weight = quantsim.quantized_weights(sim)["stem.0.weight"]
        quantized = copy.deepcopy(stem)
        with torch.no_grad():
            quantized.get_parameter("weight").copy_(weight)
            errors.append(float((quantized(x) - stem(x)).square().mean()))
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("scheme", ["tf", "tf_enhanced"])
def test_seq_mse_matters_where_large_weights_see_only_zeros(
    network: nn.Module, context: StepContext, scheme: Literal["tf", "tf_enhanced"]
) -> None:
    """Channels that ReLU never lets through are common after training; no rule that sees weights alone knows them."""
    dead = network.get_submodule("stem.1")
    with torch.no_grad():
        dead.get_parameter("bias")[:2] = -50.0
        network.get_submodule("expand.0").get_parameter("weight")[:, :2] *= 15.0
    context = dataclasses.replace(context, quant=dataclasses.replace(context.quant, quant_scheme=scheme))
    folded = run_step(bound("fold_batch_norms"), QuantNetwork(network=network), context).result
    chosen = run_step(bound("seq_mse"), folded, context).result
    assert chosen.param_encodings
    x = torch.cat(list(context.calibration))
    noise = []
    for candidate in (folded, chosen):
        simulated = pipeline.simulate(candidate, context).network
        with torch.no_grad():
            expected, actual = folded.network(x)[0], simulated(x)[0]
        noise.append(sqnr_db(float(expected.square().sum()), float((expected - actual).square().sum())))
    assert noise[0] is not None
    assert noise[1] is not None
    assert noise[1] > noise[0] + 8.0  # 5.3 to 21.0 dB with tf, 7.1 to 20.3 with tf_enhanced, where this was written


def test_adaround_rounds_on_the_ranges_that_seq_mse_chose(network: nn.Module, context: StepContext) -> None:
    folded = run_step(bound("fold_batch_norms"), QuantNetwork(network=network), context).result
    chosen = run_step(bound("seq_mse"), folded, context).result
    rounded = run_step(bound("adaround"), chosen, context).result
    assert rounded.param_encodings == chosen.param_encodings
    with pytest.raises(RecipeError, match="engine aimet chooses ranges of its own"):
        run_step(bound("adaround", engine="aimet"), chosen, context)


def test_seq_mse_refuses_what_it_cannot_do(network: nn.Module, context: StepContext) -> None:
    folded = run_step(bound("fold_batch_norms"), QuantNetwork(network=network), context).result
    with pytest.raises(RecipeError, match="weights of 4 bits or fewer; these have 8"):
        run_step(bound("seq_mse"), folded, with_bits(context, 8))
    with pytest.raises(RecipeError, match="num_batches is 9, but there are 3"):
        run_step(bound("seq_mse", num_batches=9), folded, context)
    fixed = QuantNetwork(network=folded.network, param_encodings={"head.weight": []})
    with pytest.raises(RecipeError, match="has fixed weight ranges already"):
        run_step(bound("seq_mse"), fixed, context)


@pytest.mark.parametrize("later", ["fold_batch_norms", "cross_layer_equalization"])
def test_a_step_that_changes_weights_may_not_follow(tmp_path: Path, later: str) -> None:
    with pytest.raises(RecipeError, match=rf"steps\[1\] {later}: follows seq_mse, whose weight ranges it would undo"):
        pipeline.plan(recipe(tmp_path, "seq_mse", later), STEPS)
    assert pipeline.plan(recipe(tmp_path, "fold_batch_norms", "seq_mse", "adaround"), STEPS).tag == "w4a8"


# --------------------------------------------------------------------------- reestimate_bn


def test_statistics_are_those_behind_quantized_weights(network: nn.Module, context: StepContext) -> None:
    one = dataclasses.replace(context, calibration=Batches(torch.cat(list(context.calibration)), 12))
    made = run_step(bound("reestimate_bn"), QuantNetwork(network=network), one)
    sim = quantsim.build(network, one.example_input, one.quant)
    stem = copy.deepcopy(network.get_submodule("stem.0"))
    (x,) = one.calibration
    with torch.no_grad():
        stem.get_parameter("weight").copy_(quantsim.quantized_weights(sim)["stem.0.weight"])
        seen = stem(x)
    norm = made.result.network.get_submodule("stem.1")
    torch.testing.assert_close(norm.get_buffer("running_mean"), seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.get_buffer("running_var"), seen.var((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert made.effect["num_batch_norms"] == 4
    assert made.effect["num_batches"] == 1
    weights = {name: value for name, value in made.result.network.state_dict().items() if "running" not in name}
    for name, value in weights.items():
        assert torch.equal(value, network.state_dict()[name]), name


def test_with_many_bits_next_to_nothing_is_corrected(network: nn.Module, context: StepContext) -> None:
    few, many = (
        run_step(bound("reestimate_bn"), QuantNetwork(network=network), with_bits(context, bits)).effect
        for bits in (4, 16)
    )
    assert many["largest_mean_shift"] < few["largest_mean_shift"]  # type: ignore[operator]


def test_without_batch_norms_it_says_where_it_belongs(network: nn.Module, context: StepContext) -> None:
    folded = run_step(bound("fold_batch_norms"), QuantNetwork(network=network), context).result
    with pytest.raises(RecipeError, match=r"found no batch norm in .*\n.*put it before fold_batch_norms"):
        run_step(bound("reestimate_bn"), folded, context)
