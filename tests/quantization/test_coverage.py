"""Account of what a simulated network computes in float."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from zoo_core.datatypes import Json, QuantNetwork, StepContext
from zoo_core.quantization.aimet.simulation import Simulation
from zoo_core.quantization.aimet.transforms import fold_batch_norms
from zoo_core.quantization.pipeline import simulate
from zoo_core.runs.coverage import coverage_warning, unquantized
from zoo_core.runs.parts import CoverageRecord


def simulated(network: nn.Module, context: StepContext) -> Simulation:
    return simulate(QuantNetwork(network=network.eval()), context)


def account(network: nn.Module, context: StepContext) -> CoverageRecord:
    coverage = simulated(network, context).coverage
    assert coverage is not None
    return coverage


def kinds(coverage: CoverageRecord) -> dict[str, str]:
    return {one.name: str(one.coverage) for one in (*coverage.operations, *coverage.parameters)}


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
    network = getattr(torchvision.models, name)(num_classes=4).eval()
    images = torch.rand(1, 3, 32, 32)
    context = dataclasses.replace(context, example_input=images, calibration=OneImage(images))
    simulation = simulated(network, context)
    assert simulation.coverage is not None
    values = sum(parameter.numel() for parameter in network.parameters())
    assert sum(one.num_values for one in simulation.coverage.parameters) == values
    found = unquantized(simulation.coverage)
    floats = sum(one.num_values for one in simulation.coverage.parameters if one.bits == 32)
    assert simulation.weights_bytes == values - floats + 4 * floats
    attention = sum(p.numel() for key, p in network.named_parameters() if key.endswith(("qkv.weight", "proj.weight")))
    if simulation.effect["num_quantized_weights"] == 58:  # swin_t as long as its attention is not made of modules
        assert sum(one.num_values for one in found.parameters) > attention
        assert found.share_of_macs > 0.2
