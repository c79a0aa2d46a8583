from __future__ import annotations

import pytest

from zoo_core.comparison.stages import compared_pair


@pytest.mark.parametrize(
    ("stages", "pair"),
    [
        (["fp32", "w8a8", "optimized_fp32", "optimized_w8a8"], ("fp32", "w8a8")),
        (["fp32", "optimized_w8a8", "adaround_w8a8"], ("fp32", "optimized_w8a8")),
        (["fp32", "relu6_fp32", "relu6_w4a8"], ("fp32", "relu6_w4a8")),
        (["fp32", "w4a16"], ("fp32", "w4a16")),
        (["fp32", "optimized_fp32"], None),
        (["w8a8", "optimized_w8a8"], None),
        ([], None),
    ],
)
def test_the_compared_stages_are_fp32_and_the_plainest_quantized_one(
    stages: list[str], pair: tuple[str, str] | None
) -> None:
    assert compared_pair(stages) == pair
