"""The built-in steps on a small network."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from zoo_core.datatypes import QuantNetwork, RecipeStep, StepContext, StepResult
from zoo_core.errors import PluginError, RecipeError
from zoo_core.quantization.aimet import quantsim
from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.graph import relative_change
from zoo_core.quantization.params import StepParams
from zoo_core.quantization.pipeline import BoundStep, run_step, simulate
from zoo_core.quantization.steps.builtin import BUILTIN_STEPS

if TYPE_CHECKING:
    from collections.abc import Mapping

STEPS = {step.name: step for step in BUILTIN_STEPS}


def apply(name: str, network: QuantNetwork, context: StepContext, **params: Any) -> StepResult:
    step = STEPS[name]
    return run_step(BoundStep(step=step, params=step.params.model_validate(params)), network, context)


def equalized(network: nn.Module, context: StepContext, policy: str = "per_channel_clip") -> QuantNetwork:
    folded = apply("fold_batch_norms", QuantNetwork(network=network), context).result
    treated = apply("relu6", folded, context, policy=policy).result
    return apply("cross_layer_equalization", treated, context).result


def state(network: nn.Module) -> Mapping[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def batch(context: StepContext) -> torch.Tensor:
    return next(iter(context.calibration))


def test_folding_leaves_no_batch_norm_and_the_same_function(network: nn.Module, context: StepContext) -> None:
    before = state(network)
    outcome = apply("fold_batch_norms", QuantNetwork(network=network), context)
    folded = outcome.result.network
    assert outcome.effect["num_folded"] == 4
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert relative_change(network, folded, batch(context)) < 1e-5
    assert same(before, state(network))


def test_equalization_with_clips_scales_every_layer_and_leaves_the_float_function(
    network: nn.Module, context: StepContext
) -> None:
    folded = apply("fold_batch_norms", QuantNetwork(network=network), context).result
    clipped = apply("relu6", folded, context, policy="per_channel_clip").result
    before = state(clipped.network)
    outcome = apply("cross_layer_equalization", clipped, context, min_layer_sets=1)
    assert outcome.effect["layer_sets"] == [["expand.0", "depthwise.0", "project.0"]]
    assert outcome.effect["num_rescaled_clips"] == 2
    assert relative_change(network, outcome.result.network, batch(context)) < 1e-5
    assert same(before, state(clipped.network))
    ceilings = outcome.result.network.get_submodule("expand.2").get_buffer("ceiling")
    assert float(ceilings.max() / ceilings.min()) > 2.0
    assert float(batch(context).abs().max()) <= 1.0  # the images are ordinary, and yet ReLU6 clips:
    with torch.no_grad():
        stem = network.get_submodule("stem")(batch(context))
        assert float(network.get_submodule("expand")(stem).max()) == 6.0


def test_equalization_evens_out_the_ranges_of_the_layers(network: nn.Module, context: StepContext) -> None:
    folded = apply("fold_batch_norms", QuantNetwork(network=network), context).result
    clipped = apply("relu6", folded, context, policy="per_channel_clip").result
    ranges: Any = apply("cross_layer_equalization", clipped, context).effect["weight_ranges"]
    assert set(ranges) == {"expand.0", "depthwise.0", "project.0"}
    assert ranges["depthwise.0"]["spread_after"] < ranges["depthwise.0"]["spread_before"] / 2
    weight = folded.network.get_parameter("expand.0.weight")
    assert ranges["expand.0"]["max_abs_before"] == float(weight.detach().abs().max())


def test_replacing_relu6_changes_the_float_function(network: nn.Module, context: StepContext) -> None:
    replaced = apply("relu6", QuantNetwork(network=network), context, policy="replace")
    assert replaced.effect["num_changed"] == 3
    assert relative_change(network, replaced.result.network, batch(context)) > 0.01


def test_kept_relu6_stops_the_scaling_and_a_recipe_that_expects_more_fails(
    network: nn.Module, context: StepContext
) -> None:
    folded = apply("fold_batch_norms", QuantNetwork(network=network), context).result
    assert apply("cross_layer_equalization", folded, context).effect["num_layer_sets"] == 0
    with pytest.raises(
        RecipeError, match=r"scaled 0 layer sets \(none\).* expects at least 1.* has 3 ReLU6 and 0 batch"
    ):
        apply("cross_layer_equalization", folded, context, min_layer_sets=1)


class _Nothing(StepParams):
    pass


def test_a_step_that_modifies_its_input_is_found_out(network: nn.Module, context: StepContext) -> None:
    def scribble(given: QuantNetwork, _params: Any, _context: StepContext) -> StepResult:
        with torch.no_grad():
            given.network.get_parameter("head.bias").add_(1.0)
        return StepResult(result=given, effect={}, summary="")

    step = RecipeStep(name="scribble", params=_Nothing, apply=scribble)
    with pytest.raises(PluginError, match="'scribble' modified the network it was given"):
        run_step(BoundStep(step=step, params=_Nothing()), QuantNetwork(network=network), context)


def test_the_quantsim_is_what_the_configuration_says(network: nn.Module, context: StepContext) -> None:
    sim = quantsim.build(equalized(network, context).network, context.example_input, context.quant)
    analyzers = set()
    for name, module in sim.named_qmodules():
        assert list(module.input_quantizers) == [None] * len(module.input_quantizers), f"{name} quantizes its input"
        for kind, quantizer in module.param_quantizers.items():
            assert (quantizer is None) == (kind == "bias"), f"{name}.{kind}"
        active = [q for q in (*module.param_quantizers.values(), *module.output_quantizers) if q is not None]
        assert all(q.bitwidth == 8 and not q.symmetric and q.shape == () for q in active)
        analyzers |= {type(q.encoding_analyzer).__name__ for q in active}
    assert analyzers == {"TfEnhancedEncodingAnalyzer"}


@pytest.mark.parametrize("policy", ["keep", "replace", "per_channel_clip"])
def test_an_activation_is_quantized_once_behind_it_and_not_before_it(
    network: nn.Module, context: StepContext, policy: str
) -> None:
    sim = quantsim.build(equalized(network, context, policy).network, context.example_input, context.quant)
    outputs = {name: module.output_quantizers[0] is not None for name, module in sim.named_qmodules()}
    quantized = {name for name, active in outputs.items() if active and not name.endswith(".1")}
    assert quantized == {"stem.2", "expand.2", "depthwise.2", "project.0", "plus", "head"}


def test_a_simulation_is_near_the_float_network_and_not_it(network: nn.Module, context: StepContext) -> None:
    ready = equalized(network, context)
    before = state(ready.network)
    simulation = simulate(ready, context)
    change = relative_change(network, simulation.network, batch(context))
    assert 1e-4 < change < 0.2
    assert same(before, state(ready.network))
    assert simulation.effect["num_quantized_activations"] == 6
    assert simulation.effect["num_quantized_weights"] == 5
    assert json.loads(json.dumps(simulation.encodings)) == simulation.encodings


def test_a_simulation_repeats(network: nn.Module, context: StepContext) -> None:
    ready = equalized(network, context)
    first, second = simulate(ready, context), simulate(ready, context)
    assert first.encodings == second.encodings
    assert relative_change(first.network, second.network, batch(context)) == 0.0


class WithPlus(nn.Module):
    """A residual addition that is no module, and an activation that serves two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.first(x))
        z: torch.Tensor = self.relu(y + self.second(y))
        return z


def test_an_addition_that_is_no_module_is_quantized_too(context: StepContext) -> None:
    torch.manual_seed(0)
    plain = WithPlus().eval()
    simulation = simulate(QuantNetwork(network=plain), context)
    assert any("add" in name for name in simulation.encodings["activation_encodings"])
    assert set(simulation.encodings["param_encodings"]) == {"first.weight", "second.weight"}
    assert 0.0 < relative_change(plain, simulation.network, batch(context)) < 0.1


def test_a_configuration_that_aimet_refuses_is_named(network: nn.Module, context: StepContext) -> None:
    config_file = context.quant.config_file
    settings = json.loads(config_file.read_text(encoding="utf-8"))
    settings["model_input"] = {"is_input_quantized": "False"}
    config_file.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"aimet_config.json: AIMET does not accept it.*model input can only be set"):
        simulate(QuantNetwork(network=network), context)


def test_nothing_is_printed(network: nn.Module, context: StepContext, capfd: pytest.CaptureFixture[str]) -> None:
    done: list[tuple[int, int]] = []
    watched = dataclasses.replace(context, progress=lambda now, total, _what: done.append((now, total)))
    ready = equalized(network, watched)
    rounded = apply("adaround", ready, watched, num_iterations=2).result
    simulate(rounded, watched)
    assert capfd.readouterr() == ("", "")
    assert done == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (1, 3), (2, 3), (3, 3)]


def test_a_clip_is_in_the_rounded_network(network: nn.Module, context: StepContext) -> None:
    rounded = apply("adaround", equalized(network, context), context, num_iterations=2).result
    assert isinstance(rounded.network.get_submodule("expand.2"), ChannelClip)


@pytest.mark.parametrize("output_bw", [8, 16])
@pytest.mark.parametrize("model_input", [{}, {"is_input_quantized": "True"}], ids=["input_float", "input_quantized"])
def test_the_plain_network_computes_what_aimets_computes_bit_for_bit(
    network: nn.Module, context: StepContext, output_bw: int, model_input: dict[str, str]
) -> None:
    config_file = context.quant.config_file
    settings = json.loads(config_file.read_text(encoding="utf-8")) | {"model_input": model_input}
    config_file.write_text(json.dumps(settings), encoding="utf-8")
    context = dataclasses.replace(context, quant=dataclasses.replace(context.quant, output_bw=output_bw))
    ready = equalized(network, context)
    sim = quantsim.build(ready.network, context.example_input, context.quant)
    quantsim.calibrate(sim, context)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AIMET warns of itself in every pass
        expected = [sim.model(3 * images) for images in context.calibration]  # beyond the calibrated ranges too
    plain = simulate(ready, context).network
    for images, outputs in zip(context.calibration, expected, strict=True):
        for actual, reference in zip(plain(3 * images), outputs, strict=True):
            assert torch.equal(actual, reference)
            assert not actual.requires_grad


def test_a_plain_network_that_computes_something_else_gives_way_to_aimets_own(
    network: nn.Module, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = equalized(network, context)
    trusted = simulate(ready, context)
    builder = "zoo_core.quantization.aimet.simulation.plain_simulation"
    monkeypatch.setattr(builder, lambda prepared, *_: prepared)

    doubted = simulate(ready, context)

    assert trusted.effect["same_as_aimet"] is True
    assert doubted.effect["same_as_aimet"] is False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AIMET warns of itself in every pass
        assert relative_change(trusted.network, doubted.network, batch(context)) == 0.0


def test_a_simulation_can_be_pickled_and_copied(network: nn.Module, context: StepContext) -> None:
    simulated = simulate(equalized(network, context), context).network
    for twin in (pickle.loads(pickle.dumps(simulated)), copy.deepcopy(simulated)):  # noqa: S301  # just dumped
        assert relative_change(simulated, twin, batch(context)) == 0.0


def test_a_simulation_keeps_the_names_of_the_network(network: nn.Module, context: StepContext) -> None:
    ready = equalized(network, context)
    simulated = simulate(ready, context).network
    assert simulated.state_dict().keys() == ready.network.state_dict().keys()
    assert [name for name, _ in simulated.named_modules()] == [name for name, _ in ready.network.named_modules()]
