"""Builds the 3000 prior boxes that the network's outputs refer to."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import torch

IMAGE_SIZE_PX = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorSpec:
    """The priors of one feature map.

    Attributes:
        map_size: Cells in each direction.
        stride_px: Distance of two cells in the 300-pixel input. Published numbers: 300 over it is not quite
            ``map_size`` on the larger maps.
        min_size_px: Edge of the small square prior.
        max_size_px: The big square prior has the geometric mean of both sizes.
        aspect_ratios: Each gives a wide and a tall prior of the small square's area.
    """

    map_size: int
    stride_px: int
    min_size_px: int
    max_size_px: int
    aspect_ratios: tuple[int, ...] = (2, 3)


PRIOR_SPECS = (
    PriorSpec(map_size=19, stride_px=16, min_size_px=60, max_size_px=105),
    PriorSpec(map_size=10, stride_px=32, min_size_px=105, max_size_px=150),
    PriorSpec(map_size=5, stride_px=64, min_size_px=150, max_size_px=195),
    PriorSpec(map_size=3, stride_px=100, min_size_px=195, max_size_px=240),
    PriorSpec(map_size=2, stride_px=150, min_size_px=240, max_size_px=285),
    PriorSpec(map_size=1, stride_px=300, min_size_px=285, max_size_px=330),
)
"""Feature maps in the order of the network's heads.

Source: AIMET model zoo, MobileNetV2-SSD-lite, "Model modifications", step 3.
"""


@functools.cache
def make_priors() -> torch.Tensor:
    """Return every prior, ``(3000, 4)`` float32, ``cxcywh`` normalized and clipped to ``[0, 1]``.

    In the order of the network's outputs: feature map, row, column, then the cell's six priors. The tensor is shared
    by all callers; do not modify it.
    """
    priors = [prior for spec in PRIOR_SPECS for prior in _map_priors(spec)]
    return torch.tensor(priors, dtype=torch.float32).clamp_(0.0, 1.0)


def _map_priors(spec: PriorSpec) -> list[tuple[float, float, float, float]]:
    cells_per_image = IMAGE_SIZE_PX / spec.stride_px
    shapes = _cell_shapes(spec)
    return [
        ((column + 0.5) / cells_per_image, (row + 0.5) / cells_per_image, width, height)
        for row, column in itertools.product(range(spec.map_size), repeat=2)
        for width, height in shapes
    ]


def _cell_shapes(spec: PriorSpec) -> list[tuple[float, float]]:
    """Return the normalized width and height of the priors in each cell."""
    small = spec.min_size_px / IMAGE_SIZE_PX
    big = math.sqrt(spec.min_size_px * spec.max_size_px) / IMAGE_SIZE_PX
    shapes = [(small, small), (big, big)]
    for ratio in spec.aspect_ratios:
        root = math.sqrt(ratio)
        shapes += [(small * root, small / root), (small / root, small * root)]
    return shapes
