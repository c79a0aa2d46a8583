from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ssd_mobilenetv2_lite.priors import PRIOR_SPECS, make_priors

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.mark.data
def test_priors_equal_the_published_ones(golden: dict[str, NDArray[Any]]) -> None:
    np.testing.assert_allclose(make_priors().numpy(), golden["priors_cxcywh"], rtol=0, atol=1e-6)


def test_the_first_cell_holds_six_priors_worked_out_by_hand() -> None:
    center = 0.5 * 16 / 300
    small, big = 60 / 300, (60 * 105) ** 0.5 / 300
    shapes = [(small, small), (big, big)]
    for ratio in (2, 3):
        shapes += [(small * ratio**0.5, small / ratio**0.5), (small / ratio**0.5, small * ratio**0.5)]
    expected = torch.tensor([(center, center, width, height) for width, height in shapes])
    torch.testing.assert_close(make_priors()[:6], expected)


def test_a_cell_to_the_right_comes_before_the_cell_below() -> None:
    cells = make_priors()[: 19 * 19 * 6 : 6]
    assert cells[1, 0] > cells[0, 0]
    assert cells[1, 1] == cells[0, 1]
    assert cells[19, 1] > cells[0, 1]


def test_priors_that_reach_beyond_the_image_are_clipped_to_its_size() -> None:
    priors = make_priors()
    assert priors.shape == (3000, 4) == (6 * sum(spec.map_size**2 for spec in PRIOR_SPECS), 4)
    assert priors.dtype == torch.float32
    assert priors.min() >= 0
    assert priors[-5:, 2:].max() == 1  # 330 px of the last map's big square


def test_priors_are_made_once() -> None:
    assert make_priors() is make_priors()
