from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from zoo_core.quantization.sqnr import layer_sqnr, sqnr_db


class Grid(nn.Module):
    """Rounds to multiples of a step, as a quantizer does."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rounded: torch.Tensor = torch.round(x / self.step) * self.step
        return rounded


class GridConv(nn.Conv2d):
    """A convolution whose weight is rounded when it runs, with the attribute that simulated modules have."""

    def quantize(self, step: float) -> GridConv:
        self.param_quantizers = nn.ModuleDict({"weight": Grid(step)})
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._conv_forward(x, self.param_quantizers["weight"](self.weight), self.bias)
        return output


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1)).eval()


def simulated(network: nn.Sequential, step: float) -> nn.Sequential:
    copied = copy.deepcopy(network)
    for index, layer in enumerate(network):
        if isinstance(layer, nn.Conv2d):
            conv = GridConv(layer.in_channels, layer.out_channels, layer.kernel_size[0]).quantize(step)
            conv.load_state_dict(layer.state_dict())
            copied[index] = conv
    return copied.eval()


def by_hand(expected: torch.Tensor, actual: torch.Tensor) -> float:
    return 10 * math.log10(float(expected.square().sum()) / float((expected - actual).square().sum()))


def test_the_ratio_is_that_of_the_definition(network: nn.Sequential) -> None:
    sim, images = simulated(network, 0.01), torch.randn(4, 3, 12, 12)

    first, clip, last = layer_sqnr(network, sim, [images])

    assert (first.layer, first.kind, clip.kind, last.layer) == ("0", "Conv2d", "ReLU", "2")
    conv = network[0]
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        assert first.weight_sqnr_db == pytest.approx(by_hand(conv.weight, Grid(0.01)(conv.weight)), abs=1e-3)
        assert first.output_sqnr_db == pytest.approx(by_hand(network[0](images), sim[0](images)), abs=1e-3)
        assert last.output_sqnr_db == pytest.approx(by_hand(network(images), sim(images)), abs=1e-3)
    assert clip.weight_sqnr_db is None


def test_half_the_step_gains_six_decibels(network: nn.Sequential) -> None:
    images = [torch.randn(2, 3, 12, 12)]

    coarse = layer_sqnr(network, simulated(network, 0.004), images)[0].weight_sqnr_db
    fine = layer_sqnr(network, simulated(network, 0.002), images)[0].weight_sqnr_db

    assert coarse is not None
    assert fine is not None
    assert fine - coarse == pytest.approx(6.02, abs=1.0)


def test_a_network_that_holds_its_rounded_weights_is_measured_alike(network: nn.Sequential) -> None:
    images = [torch.randn(2, 3, 12, 12)]
    plain = copy.deepcopy(network)
    with torch.no_grad():
        for layer in (plain[0], plain[2]):
            assert isinstance(layer, nn.Conv2d)
            layer.weight.copy_(Grid(0.01)(layer.weight))

    assert layer_sqnr(network, plain, images) == layer_sqnr(network, simulated(network, 0.01), images)


def test_a_layer_without_noise_has_no_ratio(network: nn.Sequential) -> None:
    for layer in layer_sqnr(network, copy.deepcopy(network), [torch.randn(1, 3, 12, 12)]):
        assert layer.weight_sqnr_db is None
        assert layer.output_sqnr_db is None


def test_no_more_images_are_used_than_asked_for(network: nn.Sequential) -> None:
    images = torch.randn(6, 3, 12, 12)
    sim = simulated(network, 0.01)

    some = layer_sqnr(network, sim, [images[:2], images[2:]], num_images=3)

    assert some == layer_sqnr(network, sim, [images[:3]])
    assert some != layer_sqnr(network, sim, [images])


def test_neither_network_is_changed_nor_keeps_a_hook(network: nn.Sequential) -> None:
    sim = simulated(network, 0.01)
    before = [value.clone() for value in [*network.state_dict().values(), *sim.state_dict().values()]]

    layer_sqnr(network, sim, [torch.randn(1, 3, 12, 12)])

    after = [*network.state_dict().values(), *sim.state_dict().values()]
    assert all(old.equal(new) for old, new in zip(before, after, strict=True))
    assert not any(module._forward_hooks for model in (network, sim) for module in model.modules())


def test_a_layer_that_only_one_network_runs_is_left_out(network: nn.Sequential) -> None:
    class Skips(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self[2](self[0](x))
            return result

    sim = Skips(*simulated(network, 0.01)).eval()

    assert [layer.layer for layer in layer_sqnr(network, sim, [torch.randn(1, 3, 12, 12)])] == ["0", "2"]


def test_modules_that_pass_their_input_on_are_left_out() -> None:
    network = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 1), nn.Dropout(), nn.ReLU6()).eval()

    assert [layer.layer for layer in layer_sqnr(network, network, [torch.randn(1, 3, 4, 4)])] == ["1", "3"]


def test_a_ratio_without_signal_or_noise_is_undefined() -> None:
    assert sqnr_db(100.0, 1.0) == pytest.approx(20.0)
    assert sqnr_db(0.0, 1.0) is None
    assert sqnr_db(1.0, 0.0) is None
    assert sqnr_db(float("inf"), 1.0) is None
    assert sqnr_db(1.0, float("nan")) is None


def test_the_entry_of_the_record_is_plain_json(network: nn.Sequential) -> None:
    layer = layer_sqnr(network, simulated(network, 0.01), [torch.randn(1, 3, 12, 12)])[1]

    assert layer.as_json() == {
        "layer": "1",
        "kind": "ReLU",
        "weight_sqnr_db": None,
        "output_sqnr_db": layer.output_sqnr_db,
    }
