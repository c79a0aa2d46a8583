"""ReLU6 policies, without any quantization tool."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.steps.relu6 import apply_policy


def test_a_new_clip_equals_relu6() -> None:
    x = torch.tensor([[[[-1.0, 0.0]], [[5.999, 7.0]]]])
    assert torch.equal(ChannelClip(2)(x), nn.ReLU6()(x))


def test_a_rescaled_clip_follows_its_channels() -> None:
    clip = ChannelClip(2)
    clip.rescale(torch.tensor([2.0, 0.5]))
    x = torch.tensor([[[[10.0]], [[10.0]]], [[[-1.0]], [[20.0]]]])
    assert clip(x).flatten().tolist() == [3.0, 10.0, 0.0, 12.0]


def test_a_clip_behind_a_linear_layer_has_its_channels_on_axis_1() -> None:
    clip = ChannelClip(3, num_axes=2)
    assert clip(torch.full((5, 3), 9.0)).shape == (5, 3)
    assert clip.ceiling.shape == (1, 3)


def test_ceilings_are_part_of_the_state_dict() -> None:
    assert set(ChannelClip(4).state_dict()) == {"ceiling"}


@pytest.mark.parametrize(
    ("policy", "kind"), [("keep", nn.ReLU6), ("replace", nn.ReLU), ("per_channel_clip", ChannelClip)]
)
def test_each_policy_gives_its_activation_and_leaves_the_network_alone(
    network: nn.Module, policy: str, kind: type[nn.Module]
) -> None:
    changed, names, kept = apply_policy(network, policy, torch.zeros(1, 3, 16, 16))  # type: ignore[arg-type]
    activations = ["stem.2", "expand.2", "depthwise.2"]
    assert all(type(changed.get_submodule(name)) is kind for name in activations)
    assert all(type(network.get_submodule(name)) is nn.ReLU6 for name in activations)
    assert (names, kept) == (([], activations) if policy == "keep" else (activations, []))


def test_each_clip_has_as_many_channels_as_its_input(network: nn.Module) -> None:
    changed, _, _ = apply_policy(network, "per_channel_clip", torch.zeros(1, 3, 16, 16))
    clips = [module for module in changed.modules() if isinstance(module, ChannelClip)]
    assert [clip.ceiling.shape for clip in clips] == [(1, 8, 1, 1), (1, 16, 1, 1), (1, 16, 1, 1)]


class Reusing(nn.Module):
    """One ReLU6 for two layers of different width, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1)
        self.shared, self.idle = nn.ReLU6(), nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.shared(self.second(self.shared(self.first(x))))
        return y


def test_an_activation_that_serves_two_layers_or_none_is_left_as_it_is() -> None:
    changed, names, kept = apply_policy(Reusing(), "per_channel_clip", torch.zeros(1, 1, 4, 4))
    assert (names, kept) == ([], ["shared", "idle"])
    assert isinstance(changed.get_submodule("shared"), nn.ReLU6)
