"""The shipped recipes on the published structure, with trained and with seeded weights."""

from __future__ import annotations

import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from onnx import load_model_from_string, numpy_helper
from torch import nn

import ssd_mobilenetv2_lite
from ssd_mobilenetv2_lite.network import Add, MobileNetV2SSDLite, build_network
from ssd_mobilenetv2_lite.preprocess import preprocess
from zoo_core.datatypes import QuantNetwork, StepContext, StepResult
from zoo_core.quantization.aimet import quantsim
from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.export import export_qdq
from zoo_core.quantization.graph import relative_change
from zoo_core.quantization.integers import IntegerNetwork
from zoo_core.quantization.pipeline import BoundStep, Plan, plan, run_step, simulate
from zoo_core.recipes import load_recipe

if TYPE_CHECKING:
    from zoo_core.datatypes import CalibrationBatches

RECIPES = Path(ssd_mobilenetv2_lite.__file__).parent / "recipes"
DEFAULT = "w8a8_tf_enhanced_cle_adaround"
REPLACED = "w8a8_published_relu6_replaced"
KEPT = "w8a8_relu6_kept_per_channel"
SYMMETRIC = "w8a8_per_channel_symmetric"
pytestmark = [pytest.mark.data, pytest.mark.slow]


_done: dict[tuple[str, nn.Module], list[StepResult]] = {}


class Batches:
    def __init__(self, images: torch.Tensor) -> None:
        self._images = images
        self.num_images = len(images)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.split(self._images, 2))

    def __len__(self) -> int:
        return -(-self.num_images // 2)


@pytest.fixture(scope="module")
def shapes_images(shared: Path) -> torch.Tensor:
    """``(4, 3, 300, 300)``: preprocessed images of the set that the trained weights know."""
    images = []
    with tarfile.open(shared / "data" / "shapes_voc.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".jpg"))
        for name in names[:: len(names) // 4][:4]:
            file = archive.extractfile(name)
            assert file is not None
            bgr = cv2.imdecode(np.frombuffer(file.read(), dtype=np.uint8), cv2.IMREAD_COLOR)
            assert bgr is not None
            images.append(torch.from_numpy(preprocess(np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8))))
    return torch.stack(images)


@pytest.fixture(scope="module")
def trained_network(shared: Path) -> MobileNetV2SSDLite:
    """Shared by the module: do not modify."""
    network = build_network()
    network.load_state_dict(torch.load(shared / "data" / "shapes_mb2_ssd_lite.pth", weights_only=True))
    return network


@pytest.fixture(scope="module")
def golden_images(golden: dict[str, Any]) -> torch.Tensor:
    resized = [golden[f"{image_id}_resized_rgb_uint8"] for image_id in ("000001", "000004", "000138")]
    return ((torch.from_numpy(np.stack(resized)).float() - 127) / 128).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module", params=["trained", "seeded"])
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    """A network and images that its weights were made for, or at least genuine ones."""
    if request.param == "trained":
        return request.getfixturevalue("trained_network"), request.getfixturevalue("shapes_images")
    return request.getfixturevalue("seeded_network"), request.getfixturevalue("golden_images")


def checked(name: str) -> Plan:
    return plan(load_recipe(RECIPES / f"{name}.yaml"))


def context_of(checked_plan: Plan, images: torch.Tensor, work_dir: Path) -> StepContext:
    calibration: CalibrationBatches = Batches(images)
    return StepContext(
        example_input=images[:1],
        calibration=calibration,
        quant=checked_plan.quant,
        seed=0,
        work_dir=work_dir,
        progress=lambda *_: None,
    )


def run_float_steps(name: str, network: nn.Module, images: torch.Tensor, work_dir: Path) -> list[StepResult]:
    """Every step of a recipe but the rounding; once a recipe and network, since steps leave their input alone."""
    if (name, network) in _done:
        return _done[name, network]
    checked_plan = checked(name)
    context = context_of(checked_plan, images, work_dir)
    outcomes: list[StepResult] = []
    ready = QuantNetwork(network=network)
    for bound in checked_plan.steps:
        if bound.step.name != "adaround":
            outcomes.append(run_step(bound, ready, context))
            ready = outcomes[-1].result
    _done[name, network] = outcomes
    return outcomes


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_named_after_its_file_and_can_run(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert plan(recipe).tag == "w8a8"


def test_the_default_recipe_scales_33_layer_sets_and_leaves_the_float_outputs(
    case: tuple[nn.Module, torch.Tensor], tmp_path: Path
) -> None:
    network, images = case
    fold, relu6, equalization = run_float_steps(DEFAULT, network, images, tmp_path)
    assert fold.effect["num_folded"] == 74
    assert relu6.effect["num_changed"] == 53
    assert equalization.effect["num_layer_sets"] == 33
    for outcome in (fold, relu6, equalization):
        assert relative_change(network, outcome.result.network, images) < 1e-4, outcome.name


def test_equalization_evens_out_the_trained_weights(
    trained_network: nn.Module, shapes_images: torch.Tensor, tmp_path: Path
) -> None:
    equalization = run_float_steps(DEFAULT, trained_network, shapes_images, tmp_path)[-1]
    ranges: dict[str, Any] = dict(equalization.effect["weight_ranges"])  # type: ignore[arg-type]
    changed = [layer["spread_after"] < layer["spread_before"] for layer in ranges.values() if layer["spread_before"]]
    assert sum(changed) > 0.8 * len(ranges)


def test_replacing_relu6_scales_the_same_layer_sets_and_changes_the_trained_networks_outputs(
    trained_network: nn.Module, shapes_images: torch.Tensor, tmp_path: Path
) -> None:
    _, relu6, equalization = run_float_steps(REPLACED, trained_network, shapes_images, tmp_path)
    assert equalization.effect["num_layer_sets"] == 33
    assert relative_change(trained_network, relu6.result.network, shapes_images) > 0.05
    assert relative_change(relu6.result.network, equalization.result.network, shapes_images) < 1e-4


def test_keeping_relu6_leaves_2_layer_sets(
    trained_network: nn.Module, shapes_images: torch.Tensor, tmp_path: Path
) -> None:
    equalization = run_float_steps(KEPT, trained_network, shapes_images, tmp_path)[-1]
    assert equalization.effect["layer_sets"] == [
        ["base_net.1.conv.3", "base_net.2.conv.0"],
        ["base_net.17.conv.6", "base_net.18.0"],
    ]
    assert relative_change(trained_network, equalization.result.network, shapes_images) < 1e-4


@pytest.fixture(scope="module")
def default_sim(
    trained_network: nn.Module, shapes_images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The default recipe's quantsim before calibration."""
    work_dir = tmp_path_factory.mktemp("work")
    ready = run_float_steps(DEFAULT, trained_network, shapes_images, work_dir)[-1].result
    return quantsim.build(ready.network, shapes_images[:1], checked(DEFAULT).quant)


def test_weights_are_8_bit_asymmetric_per_tensor(default_sim: Any) -> None:
    quantizers = [q for _, m in default_sim.named_qmodules() for n, q in m.param_quantizers.items() if n == "weight"]
    assert len(quantizers) == 86
    assert all(q.bitwidth == 8 and not q.symmetric and q.shape == () for q in quantizers)


def test_activations_are_8_bit_asymmetric(default_sim: Any) -> None:
    quantizers = [q for _, m in default_sim.named_qmodules() for q in m.output_quantizers if q is not None]
    assert len(quantizers) == 53 + (86 - 53) + 10, "clips, convolutions without activation, additions"
    assert all(q.bitwidth == 8 and not q.symmetric for q in quantizers)


def test_every_range_is_searched_by_tf_enhanced(default_sim: Any) -> None:
    for _, module in default_sim.named_qmodules():
        for quantizer in (*module.param_quantizers.values(), *module.output_quantizers):
            assert quantizer is None or type(quantizer.encoding_analyzer).__name__ == "TfEnhancedEncodingAnalyzer"


def test_no_bias_is_quantized(default_sim: Any) -> None:
    with_bias = [module for _, module in default_sim.named_qmodules() if getattr(module, "bias", None) is not None]
    assert len(with_bias) == 86
    assert all(module.param_quantizers["bias"] is None for module in with_bias)


def test_neither_the_model_input_nor_any_other_input_is_quantized_twice(default_sim: Any) -> None:
    assert all(q is None for _, module in default_sim.named_qmodules() for q in module.input_quantizers)


def test_each_clip_is_quantized_behind_it_and_not_before_it(default_sim: Any) -> None:
    modules: dict[str, Any] = dict(default_sim.named_qmodules())
    clips = [name for name, module in modules.items() if isinstance(module, ChannelClip)]
    assert len(clips) == 53
    outputs = {name: module.output_quantizers[0] for name, module in default_sim.named_qmodules()}
    for name in clips:
        parent, _, index = name.rpartition(".")
        before = f"{parent}.{int(index) - 2}"  # the folded batch norm lies between
        assert isinstance(modules[before], nn.Conv2d)
        assert outputs[before] is None
        assert outputs[name] is not None


def test_each_residual_addition_is_quantized_and_no_concatenation(default_sim: Any) -> None:
    outputs = {name: module.output_quantizers[0] for name, module in default_sim.named_qmodules()}
    additions = [name for name, module in default_sim.named_qmodules() if isinstance(module, Add)]
    assert len(additions) == 10
    assert all(outputs[name] is not None for name in additions)
    assert outputs["concat_scores"] is outputs["concat_locations"] is None


def test_kept_relu6_has_the_same_quantizers_and_a_symmetric_weight_range_per_channel(
    default_sim: Any, trained_network: nn.Module, shapes_images: torch.Tensor, tmp_path: Path
) -> None:
    ready = run_float_steps(KEPT, trained_network, shapes_images, tmp_path)[-1].result
    kept = quantsim.build(ready.network, shapes_images[:1], checked(KEPT).quant)
    modules: dict[str, Any] = dict(kept.named_qmodules())
    for name, module in default_sim.named_qmodules():
        if not isinstance(module, nn.Identity):
            assert (module.output_quantizers[0] is None) == (modules[name].output_quantizers[0] is None), name
    ranges = {name: module.param_quantizers["weight"] for name, module in modules.items() if module.param_quantizers}
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            assert ranges[name].shape == (module.out_channels, 1, 1, 1)
            assert ranges[name].symmetric


def test_the_recipe_for_runtimes_differs_from_the_default_in_its_weights_and_its_input() -> None:
    own, default = load_recipe(RECIPES / f"{SYMMETRIC}.yaml"), load_recipe(RECIPES / f"{DEFAULT}.yaml")
    assert own.steps[:-1] == default.steps[:-1]
    assert dict(own.steps[-1].params) == {
        **default.steps[-1].params,
        "config_file": "per_channel_symmetric",
        "input": "quantized",
    }


def test_the_recipe_for_runtimes_exports_int8_weights_without_zero_points_and_a_quantized_input(
    trained_network: nn.Module, shapes_images: torch.Tensor, tmp_path: Path
) -> None:
    ready = run_float_steps(SYMMETRIC, trained_network, shapes_images, tmp_path)[-1].result
    simulation = simulate(ready, context_of(checked(SYMMETRIC), shapes_images, tmp_path))
    integers = IntegerNetwork.from_encodings(simulation.prepared, simulation.encodings)
    graph = load_model_from_string(export_qdq(integers, shapes_images[:1]).model).graph
    values = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in values]
    assert len(weights) == 86
    for node in weights:
        weight, scale, zero_point = (values[name] for name in node.input)
        assert weight.dtype == np.int8
        assert scale.shape == zero_point.shape == weight.shape[:1]
        assert not zero_point.any()
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {values[node.input[2]].dtype for node in activations} == {np.dtype(np.uint8)}
    assert [node.op_type for node in graph.node if "input" in node.input] == ["QuantizeLinear"]


def test_rounded_weights_keep_their_encodings_through_calibration(
    trained_network: nn.Module, shapes_images: torch.Tensor, tmp_path: Path
) -> None:
    checked_plan = checked(DEFAULT)
    context = context_of(checked_plan, shapes_images, tmp_path)
    ready = run_float_steps(DEFAULT, trained_network, shapes_images, tmp_path)[-1].result
    (bound,) = (bound for bound in checked_plan.steps if bound.step.name == "adaround")
    fast = BoundStep(step=bound.step, params=bound.params.model_copy(update={"engine": "fast"}))
    rounded = run_step(fast, ready, context).result
    assert len(rounded.param_encodings) == 86
    sim = quantsim.build(rounded.network, context.example_input, context.quant, rounded.param_encodings)
    assert quantsim.encodings_of(sim) == ({}, rounded.param_encodings)
    quantsim.calibrate(sim, context)
    activations, params = quantsim.encodings_of(sim)
    assert len(activations) == 96
    assert params == rounded.param_encodings
    for name, weight in quantsim.quantized_weights(sim).items():
        assert torch.equal(weight, rounded.network.get_parameter(name)), name


def test_the_plain_network_computes_what_aimets_computes_bit_for_bit(
    trained_network: nn.Module, shapes_images: torch.Tensor, tmp_path: Path
) -> None:
    context = context_of(checked(DEFAULT), shapes_images, tmp_path)
    ready = run_float_steps(DEFAULT, trained_network, shapes_images, tmp_path)[-1].result
    sim = quantsim.build(ready.network, context.example_input, context.quant)
    quantsim.calibrate(sim, context)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AIMET warns of itself in every pass
        expected = sim.model(shapes_images)
        exact = trained_network(shapes_images)
    actual = simulate(ready, context).network(shapes_images)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
    noise = (actual[0] - exact[0]).square().sum()
    assert 20.0 < 10.0 * float(torch.log10(exact[0].square().sum() / noise)) < 50.0  # dB
