"""Account of what a simulated network computes in float."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from zoo_core.datatypes import Json, QuantNetwork, StepContext
from zoo_core.errors import RecipeError
from zoo_core.quantization.aimet import quantsim
from zoo_core.quantization.aimet.foreign import prepare
from zoo_core.quantization.aimet.simulation import Simulation
from zoo_core.quantization.aimet.transforms import fold_batch_norms
from zoo_core.quantization.attention import with_attention_modules
from zoo_core.quantization.graph import functional_operations
from zoo_core.quantization.pipeline import simulate
from zoo_core.recipes import config_path
from zoo_core.runs.coverage import coverage_warning, unquantized
from zoo_core.runs.parts import CoverageRecord


def simulated(network: nn.Module, context: StepContext) -> Simulation:
    return simulate(QuantNetwork(network=network.eval()), context)


def account(network: nn.Module, context: StepContext) -> CoverageRecord:
    coverage = simulated(network, context).coverage
    assert coverage is not None
    return coverage


def kinds(coverage: CoverageRecord) -> dict[str, str]:
    operations = {one.name: str(one.coverage) for one in coverage.operations}
    return operations | {one.name: str(one.coverage) for one in coverage.parameters}


def in_float(coverage: CoverageRecord) -> set[str]:
    """Kinds of operations, and names of parameters, that are not quantized."""
    found = unquantized(coverage)
    return {one.kind for one in found.operations} | {one.name for one in found.parameters}


def configure(context: StepContext, **changes: Json) -> None:
    config_file = context.quant.config_file
    content = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps(content | changes), encoding="utf-8")


class Convolutions(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.between(self.first(x)))
        return y


class Branching(Convolutions):
    """A branch on a value, which torch.fx cannot trace."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = self.between(x) if not bool(x.detach().isnan().any()) else -x
        y: torch.Tensor = self.second(x)
        return y


def test_every_part_of_a_network_of_modules_is_accounted_for(network: nn.Module, context: StepContext) -> None:
    fold_batch_norms(network, context.example_input)
    simulation = simulated(network, context)
    coverage = simulation.coverage
    assert coverage is not None
    found = {one.name: (one.coverage, one.reason) for one in coverage.operations}
    assert found["(input)"] == ("exempt", "the configuration leaves the network's input in float")
    assert found["stem.0"] == ("exempt", "one operation with stem.2")
    assert found["stem.1"] == ("folded", "computes nothing")
    assert found["stem.2"] == found["plus"] == found["project.0"] == ("quantized", "")
    assert {(one.coverage, one.bits) for one in coverage.parameters} == {("quantized", 8), ("exempt", 32)}
    assert {one.name for one in coverage.parameters} == {name for name, _ in network.named_parameters()}
    assert sum(one.macs for one in coverage.operations if one.name == "stem.0") == 8 * 8 * 8 * 3 * 9
    assert coverage_warning("w8a8", coverage) is None
    assert simulation.weights_bytes == sum(
        parameter.numel() * (1 if name.endswith("weight") else 4) for name, parameter in network.named_parameters()
    )


@pytest.mark.parametrize(
    ("between", "kind"),
    [
        (torch.tanh, "tanh"),
        (lambda x: functional.avg_pool2d(x, 2), "avg_pool2d"),
        (lambda x: functional.interpolate(x, scale_factor=2.0, mode="bilinear"), "upsample_bilinear2d"),
        (lambda x: x.exp(), "exp"),
        (functional.silu, "silu"),
        (lambda x: functional.relu(x, inplace=True), "relu"),
        (lambda x: x.sqrt_(), "sqrt"),
    ],
    ids=["tanh", "avg_pool2d", "interpolate", "exp", "silu", "relu_", "sqrt_"],
)
def test_a_function_in_a_network_that_cannot_be_traced_is_not_quantized(
    between: Callable[[torch.Tensor], torch.Tensor], kind: str, context: StepContext
) -> None:
    coverage = account(Branching(between), context)
    assert kind in in_float(coverage)
    assert kinds(coverage)["first"] == kinds(coverage)["second"] == "quantized"


@pytest.mark.parametrize("function", [functional.relu, lambda x: functional.avg_pool2d(x, 2)], ids=["relu", "pool"])
def test_a_function_in_a_traceable_network_is_a_module_or_not_quantized(
    function: Callable[[torch.Tensor], torch.Tensor], context: StepContext
) -> None:
    coverage = account(Convolutions(function), context)
    names = {one.name for one in coverage.operations}
    assert len(names) == 4, "input, two convolutions and the function"
    assert in_float(coverage) or all(one.coverage in ("quantized", "exempt") for one in coverage.operations)


@pytest.mark.parametrize(
    "between",
    [
        lambda x: functional.max_pool2d(x, 2),
        lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest"),
        lambda x: x.flip(-1).contiguous(),
        lambda x: functional.pad(x, (1, 1)),
        lambda x: torch.cat([x[:, :4], x[:, 4:]], 1),
        lambda x: x[:, torch.arange(7, -1, -1)],
    ],
    ids=["max_pool2d", "interpolate", "flip", "pad", "cat", "index"],
)
def test_moving_and_selecting_rounded_values_needs_no_quantizer(
    between: Callable[[torch.Tensor], torch.Tensor], context: StepContext
) -> None:
    coverage = account(Branching(between), context)
    assert in_float(coverage) == set()
    assert any(one.coverage == "folded" for one in coverage.operations)


class Moved(nn.Module):
    """Joins values of two grids, in a network that torch.fx cannot trace."""

    def __init__(self, join: Callable[[list[torch.Tensor]], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.first(x), self.second(x)]
        y: torch.Tensor = self.third(self.join(parts if not bool(parts[0].detach().isnan().any()) else parts[::-1]))
        return y


def test_joining_values_of_two_grids_needs_a_quantizer(context: StepContext) -> None:
    def interleave(parts: list[torch.Tensor]) -> torch.Tensor:
        whole = torch.zeros(len(parts[0]), 8, 16, 16)
        whole[:, 0::2], whole[:, 1::2] = parts
        return whole

    assert in_float(account(Moved(interleave), context)) == {"copy"}
    # AIMET rounds the input of the layer that reads a concatenation.
    assert in_float(account(Moved(lambda parts: torch.cat(parts, 1)), context)) == set()


@pytest.mark.parametrize(
    ("between", "kind"),
    [
        (lambda x: functional.pad(x, (1, 1), value=0.37), "constant_pad_nd"),
        (lambda x: torch.stack([x, torch.full_like(x, 0.37)]).amax(0), "stack"),
        (lambda x: x.masked_fill(x > 0.1, 0.37), "masked_fill"),
        (lambda x: x.index_put((torch.tensor([0]),), x[:1], accumulate=True), "index_put"),
    ],
    ids=["pad", "stack", "masked_fill", "index_put"],
)
def test_a_constant_that_joins_rounded_values_is_not_on_their_grid(
    between: Callable[[torch.Tensor], torch.Tensor], kind: str, context: StepContext
) -> None:
    assert kind in in_float(account(Branching(between), context))


def test_a_concatenation_that_the_configuration_leaves_in_float_is_exempt(context: StepContext) -> None:
    configure(context, op_type={"Concat": {"is_output_quantized": "False"}})
    coverage = account(Moved(lambda parts: torch.cat(parts, 1)), context)
    (joined,) = [one for one in coverage.operations if one.kind == "cat"]
    assert (joined.coverage, joined.reason) == ("exempt", "the configuration leaves the output of Concat in float")


class OwnWeight(nn.Module):
    """Uses its own weight, and that of another module, through functions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.layer, self.weight = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Parameter(torch.randn(4, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).mean((2, 3))
        x = functional.linear(x, self.layer.weight, self.layer.bias) if not bool(x.detach().isnan().any()) else -x
        return functional.linear(x, self.weight)


def test_a_weight_that_a_function_reads_is_in_float_with_its_bias(context: StepContext) -> None:
    simulation = simulated(OwnWeight(), context)
    assert simulation.coverage is not None
    found = unquantized(simulation.coverage)
    assert {one.name for one in found.parameters} == {"weight", "layer.weight", "layer.bias"}
    assert {one.bits for one in found.parameters} == {32}
    assert found.share_of_macs == (64 + 32) / (64 + 32 + 8 * 27 * 14 * 14)
    assert simulation.weights_bytes == 8 * 27 + 4 * (8 + 64 + 8 + 32)
    text = coverage_warning("w8a8", simulation.coverage)
    assert text is not None
    assert text.startswith("w8a8: 3 operations (addmm in (network), mm in (network), mean in (network)) and 3 param")
    assert "(layer.weight, weight, layer.bias) not quantized, 0.2 % of the MACs and 31.7 % of the parameters." in text


class Tied(nn.Module):
    """A layer whose weight a function reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.layer = nn.Conv2d(3, 8, 3), nn.Linear(8, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(self.conv(x).mean((2, 3)))
        return functional.linear(x, self.layer.weight.t()) if not bool(x.detach().isnan().any()) else -x


def test_a_weight_with_a_quantizer_is_in_float_if_a_function_reads_it_too(context: StepContext) -> None:
    assert "layer.weight" in in_float(account(Tied(), context))


class Reused(nn.Module):
    """AIMET switches off the quantizers of a module that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.sigmoid = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.sigmoid(self.second(self.sigmoid(self.first(x))))
        return y


def test_a_module_without_its_quantizer_is_not_quantized(context: StepContext) -> None:
    assert in_float(account(Reused(), context)) == {"Sigmoid"}


class Attention(nn.Module):
    """A leaf module with several products."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return torch.softmax((tokens @ self.query) @ (tokens @ self.key).transpose(1, 2), -1) @ tokens


def test_products_within_a_module_need_quantizers_of_their_own(context: StepContext) -> None:
    coverage = account(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Attention()), context)
    found = unquantized(coverage)
    assert [(one.kind, one.macs) for one in found.operations] == [("Attention", 2 * 256 * 64 + 2 * 256 * 256 * 8)]


def test_what_the_configuration_leaves_in_float_is_exempt(network: nn.Module, context: StepContext) -> None:
    fold_batch_norms(network, context.example_input)
    configure(
        context,
        op_type={"Plus": {"is_output_quantized": "False"}},
        params={"bias": {"is_quantized": "False"}, "weight": {"is_quantized": "False"}},
    )
    simulation = simulated(network, context)
    assert simulation.coverage is not None
    found = kinds(simulation.coverage)
    assert found["plus"] == found["head.weight"] == "exempt"
    assert coverage_warning("w8a8", simulation.coverage) is None
    assert simulation.weights_bytes == 4 * sum(parameter.numel() for parameter in network.parameters())


def test_an_input_that_is_read_in_float_counts_where_it_should_be_quantized(context: StepContext) -> None:
    configure(context, model_input={"is_input_quantized": "True"})
    quantized = account(nn.Sequential(nn.Conv2d(3, 4, 1)), context)
    assert kinds(quantized)["(input)"] == "quantized"

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(torch.tanh(x) if not bool(x.detach().isnan().any()) else -x)
            return y

    assert "(input)" in {one.name for one in unquantized(account(Scaled(), context)).operations}


def test_aimets_own_network_is_accounted_for_alike(
    network: nn.Module, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = account(network, context)
    builder = "zoo_core.quantization.aimet.simulation.plain_simulation"
    monkeypatch.setattr(builder, lambda prepared, *_: prepared)
    doubted = simulated(network, context)
    assert doubted.effect["same_as_aimet"] is False
    assert doubted.coverage == known


def test_an_account_that_fails_is_a_warning(
    network: nn.Module, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a reason")

    monkeypatch.setattr("zoo_core.quantization.coverage.account", fail)
    fold_batch_norms(network, context.example_input)
    simulation = simulated(network, context)
    assert simulation.coverage is None
    text = coverage_warning("w8a8", simulation.coverage, simulation.coverage_error)
    assert text is not None
    assert text.endswith("the network could not be accounted for: ValueError: a reason")
    assert simulation.weights_bytes == sum(
        parameter.numel() * (1 if name.endswith("weight") else 4) for name, parameter in network.named_parameters()
    )


class OneImage:
    """A calibration set of one image."""

    num_images = 1

    def __init__(self, image: torch.Tensor) -> None:
        self._image = image

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter([self._image])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny"])
def test_a_transformer_is_no_smaller_than_its_quantizers_make_it(name: str, context: StepContext) -> None:
    torch.manual_seed(0)
    network = with_attention_modules(getattr(torchvision.models, name)(num_classes=4).eval())
    images = torch.rand(1, 3, 32, 32)
    context = dataclasses.replace(context, example_input=images, calibration=OneImage(images))
    simulation = simulated(network, context)
    assert simulation.coverage is not None
    values = sum(parameter.numel() for parameter in network.parameters())
    assert sum(one.num_values for one in simulation.coverage.parameters) == values
    floats = sum(one.num_values for one in simulation.coverage.parameters if one.bits == 32)
    assert simulation.weights_bytes == values - floats + 4 * floats


def small_vit() -> nn.Module:
    network: nn.Module = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=5
    )
    return network


def small_swin() -> nn.Module:
    network: nn.Module = torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=[3, 3], num_classes=5
    )
    return network


def small_convnext() -> nn.Module:
    blocks = [
        torchvision.models.convnext.CNBlockConfig(8, 16, 1),
        torchvision.models.convnext.CNBlockConfig(16, None, 1),
    ]
    network: nn.Module = torchvision.models.ConvNeXt(blocks, num_classes=5)
    return network


@pytest.mark.parametrize(("build", "size"), [(small_vit, 32), (small_swin, 40)], ids=["vit", "swin"])
def test_attention_of_modules_computes_the_same(build: Callable[[], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    network = build().eval()
    written = with_attention_modules(network)
    assert written is not network
    assert with_attention_modules(written) is written
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(written(images), network(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "size", "num_weights"),
    [(small_vit, 32, 15), (small_swin, 40, 30), (small_convnext, 32, 14)],
    ids=["vit", "swin", "convnext"],
)
def test_a_transformer_is_quantized_completely(
    build: Callable[[], nn.Module], size: int, num_weights: int, context: StepContext
) -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, size, size)
    configure(context, model_input={"is_input_quantized": "True"})
    context = dataclasses.replace(context, example_input=images, calibration=OneImage(images))
    simulation = simulated(with_attention_modules(build().eval()), context)
    assert simulation.coverage is not None
    assert in_float(simulation.coverage) == set()
    assert simulation.effect["num_quantized_weights"] == num_weights
    assert simulation.effect["same_as_aimet"] is True


class Functions(nn.Module):
    """Functions with positional settings, layers as functions and a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.weight, self.norm = nn.Parameter(torch.randn(4, 8)), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.hardtanh(self.second(functional.relu(self.first(x))), 0.0, 6.0)
        x = functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
        x = functional.gelu(functional.relu6(self.second(x)))
        x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        x = functional.layer_norm(x, (8,), self.norm.weight, self.norm.bias)
        return functional.softmax(functional.linear(x, self.weight), 1)


def test_functions_become_modules_with_quantizers_and_shared_weights_count_once(context: StepContext) -> None:
    network = Functions().eval()
    prepared = prepare(network, context.example_input)
    with torch.no_grad():
        torch.testing.assert_close(prepared(context.example_input), network(context.example_input))
    assert functional_operations(prepared, context.example_input) == []
    simulation = simulated(network, context)
    assert simulation.coverage is not None
    assert in_float(simulation.coverage) == set()
    assert simulation.weights_bytes == 3 * 8 * 9 + 8 * 8 * 9 + 4 * 8 + 8 + 4 * (8 + 8 + 8)


class Halves(nn.Module):
    """Divides a size, as ShuffleNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.nothing = nn.Sequential(nn.Conv2d(3, 8, 1)), nn.Sequential()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.nothing(self.conv(torch.cat([x, x], 1)[:, :3]))
        channels = x.shape[1]
        return x.reshape(-1, 2, channels // 2, 16, 16) * 2.0


def test_arithmetic_on_sizes_does_not_become_a_module(context: StepContext) -> None:
    kinds_found = {type(module).__name__ for module in prepare(Halves().eval(), context.example_input).modules()}
    assert "FloorDivide" not in kinds_found
    assert {"Concat", "Multiply"} <= kinds_found


def test_attention_that_only_aimet_can_write_as_modules_is_simulated(context: StepContext) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.attention = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.conv(x).flatten(2).permute(2, 0, 1)
            y: torch.Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return y

    simulation = simulated(Masked(), context)
    assert simulation.effect["same_as_aimet"] is False
    assert simulation.coverage is not None


def one_convolution() -> nn.Module:
    convolution = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        convolution.weight.copy_(torch.linspace(-0.001, 0.29, 216).reshape(8, 3, 3, 3))
    return nn.Sequential(convolution).eval()


def test_fixed_encodings_that_move_by_rounding_in_every_round_hold(context: StepContext) -> None:
    network, scale = one_convolution(), 0.0011583175510168076  # its last bit changes whenever AIMET reads it back
    given = {"min": -scale, "max": 0.29421266913414, "scale": scale, "offset": -1, "bitwidth": 8, "dtype": "int"}
    frozen = {"0.weight": [{**given, "is_symmetric": "False"}]}
    sim = quantsim.build(network, context.example_input, context.quant, frozen)
    (found,) = quantsim.encodings_of(sim)[1]["0.weight"]
    assert found["offset"] == -1
    assert found["scale"] == pytest.approx(scale, rel=1e-6, abs=0)


def test_fixed_encodings_that_do_not_hold_are_an_error(context: StepContext) -> None:
    given = {
        "min": -1.0,
        "max": 1.0,
        "scale": 0.5,
        "offset": -2,
        "bitwidth": 8,
        "dtype": "int",
        "is_symmetric": "False",
    }
    with pytest.raises(RecipeError, match=r"the fixed encodings of 1 weights \(0.weight\) do not hold"):
        quantsim.build(one_convolution(), context.example_input, context.quant, {"0.weight": [given]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_weights", "num_activations"),
    [
        ("resnet18", 21, 31),
        ("shufflenet_v2_x1_0", 57, 75),
        ("mobilenet_v2", 53, 82),
        ("mobilenet_v3_large", 64, 127),
        ("regnet_y_400mf", 86, 152),
        ("efficientnet_b0", 82, 288),
    ],
)
def test_the_shipped_configuration_quantizes_a_network_completely(
    name: str, num_weights: int, num_activations: int, context: StepContext
) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    images = torch.rand(1, 3, 64, 64)
    fold_batch_norms(network, images)
    config_file = config_path(Path("recipe.yaml"), "per_channel_symmetric_quantized_input")
    quant = dataclasses.replace(context.quant, config_file=config_file)
    context = dataclasses.replace(context, example_input=images, calibration=OneImage(images), quant=quant)
    simulation = simulated(network, context)
    assert simulation.coverage is not None
    assert in_float(simulation.coverage) == set()
    assert simulation.effect["num_quantized_weights"] == num_weights
    assert simulation.effect["num_quantized_activations"] == num_activations
