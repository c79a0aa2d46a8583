"""What a network's run tells."""

from __future__ import annotations

import copy

import torch
from torch import nn

from zoo_core.quantization.graph import (
    OUTPUT,
    direct_consumers,
    functional_operations,
    program_sha256,
    relative_change,
)


class Forked(nn.Module):
    """A layer read by two, one behind an identity, and one read by nobody but the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.passing = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        z: torch.Tensor = self.left(y) + self.right(self.passing(y))
        return z


def test_consumers_are_found_through_an_identity() -> None:
    assert direct_consumers(Forked(), torch.zeros(1, 2)) == {"first": ["left", "right"], "left": [], "right": []}


def test_a_network_output_counts_as_a_reader(network: nn.Module) -> None:
    readers = direct_consumers(network, torch.zeros(1, 3, 16, 16))
    assert readers["head"] == [OUTPUT]
    assert readers["plus"] == ["head", OUTPUT]


def test_an_addition_outside_any_module_is_found() -> None:
    assert functional_operations(Forked(), torch.zeros(1, 2)) == ["add"]


def test_arithmetic_inside_a_leaf_module_is_not_functional(network: nn.Module) -> None:
    assert functional_operations(network, torch.zeros(1, 3, 16, 16)) == []


class Sizes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0] * x.shape[1], -1)


def test_arithmetic_on_sizes_is_none() -> None:
    assert functional_operations(nn.Sequential(Sizes()), torch.zeros(2, 3, 4)) == []


def test_relative_change_is_relative_to_the_largest_value_of_the_worst_output(network: nn.Module) -> None:
    class Moved(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x, x + 0.5]

    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x, x]

    assert relative_change(Same(), Moved(), torch.tensor([-2.0, 1.0])) == 0.25
    assert relative_change(network, network, torch.ones(1, 3, 16, 16)) == 0.0
    assert relative_change(Same(), Moved(), torch.zeros(3)) == float("inf")


class Residual(nn.Module):
    """Adds one of two tensors of the same shape, times a constant that no state dict holds."""

    def __init__(self, *, skip_from_input: bool, scale: float = 2.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.scale = torch.full((3, 1, 1), scale)
        self.skip_from_input = skip_from_input

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        total: torch.Tensor = (self.second(y).relu() + (x if self.skip_from_input else y)) * self.scale
        return total


def test_a_programs_hash_tells_apart_what_is_computed_not_how_it_is_written() -> None:
    x = torch.zeros(1, 3, 4, 4)
    network = Residual(skip_from_input=True)
    known = program_sha256(network, x)
    assert program_sha256(copy.deepcopy(network), torch.ones(1, 3, 4, 4)) == known
    assert program_sha256(torch.fx.symbolic_trace(network), x) == known
    others = [
        program_sha256(Residual(skip_from_input=False), x),
        program_sha256(Residual(skip_from_input=True, scale=3.0), x),
        program_sha256(network, torch.zeros(1, 3, 5, 5)),
    ]
    network.get_parameter("first.weight").data[0] += 1
    others.append(program_sha256(network, x))
    assert len({known, *others}) == 5
