"""The networks against their published sizes, and TensorFlow's padding by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo_efficientnet_lite.network import VARIANTS, EfficientNetLite, Variant, same_padding, scaled_channels


# The table of tensorflow/tpu, models/official/efficientnet/lite/README.md.
@pytest.mark.parametrize(("name", "millions"), [("lite0", 4.7), ("lite1", 5.4), ("lite2", 6.1)])
def test_parameters_are_as_many_as_the_authors_count(name: str, millions: float) -> None:
    network = EfficientNetLite(VARIANTS[name], 1000)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "expected"),
    [
        (224, 3, 2, (0, 1, 0, 1)),
        (56, 5, 2, (1, 2, 1, 2)),
        (65, 3, 2, (1, 1, 1, 1)),
        (33, 5, 2, (2, 2, 2, 2)),
        (14, 5, 1, (2, 2, 2, 2)),
        (7, 1, 2, (0, 0, 0, 0)),
    ],
)
def test_an_odd_row_of_padding_comes_last(side: int, kernel: int, stride: int, expected: tuple[int, ...]) -> None:
    assert same_padding(side, kernel, stride).padding == expected


@pytest.mark.parametrize("side", [32, 33, 65, 130])
def test_every_stride_rounds_the_size_up(side: int) -> None:
    network = EfficientNetLite(Variant(width=1.0, depth=1.0, resolution=side), 3).eval()
    sizes = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.register_forward_hook(lambda _, __, output: sizes.append(output.shape[-1]))
    with torch.inference_mode():
        network(torch.zeros(1, 3, side, side))
    expected = [side]
    for _ in range(5):
        expected.append(-(-expected[-1] // 2))
    assert sizes == expected[1:]


def test_channels_are_multiples_of_8_and_never_lose_more_than_a_tenth() -> None:
    assert [scaled_channels(n, 1.1) for n in (16, 24, 40, 80, 112, 192, 320)] == [16, 24, 48, 88, 120, 208, 352]
    assert scaled_channels(16, 1.2) == 24  # 16 would be less than nine tenths of 19.2
    assert scaled_channels(20, 1.0) == 20


@pytest.mark.parametrize(("name", "num_blocks"), [("lite0", 16), ("lite1", 21), ("lite2", 21)])
def test_depth_multiplies_every_stage_but_the_first_and_the_last(name: str, num_blocks: int) -> None:
    blocks = list(EfficientNetLite(VARIANTS[name], 3).get_submodule("_blocks").children())
    strides: list[object] = [block.get_submodule("_depthwise_conv").stride for block in blocks]
    assert len(blocks) == num_blocks
    assert strides.count((2, 2)) == 4


def test_the_padding_of_a_stride_is_zeros_after_the_image() -> None:
    network = EfficientNetLite(Variant(width=1.0, depth=1.0, resolution=4), 3).eval()
    stem = network.get_submodule("_conv_stem")
    seen = []
    stem.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    image = torch.rand(1, 3, 4, 4)
    with torch.inference_mode():
        network(image)
    assert torch.equal(seen[0][..., :4, :4], image)
    assert seen[0].shape == (1, 3, 5, 5)
    assert not seen[0][..., 4, :].any()
    assert not seen[0][..., 4].any()
