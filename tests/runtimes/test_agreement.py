"""Agreement of outputs, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.runtimes.agreement import OutputAgreement, OutputSums


def agreement(*pairs: tuple[list[float], list[float]]) -> OutputAgreement:
    sums = OutputSums("output")
    for expected, found in pairs:
        sums.add(np.array(expected), np.array(found))
    return sums.agreement()


def test_images_are_summed_before_the_ratio_is_taken() -> None:
    found = agreement(([3.0, 4.0], [3.0, 4.0]), ([5.0, 0.0], [5.0, 0.5]))
    assert found.sqnr_db == pytest.approx(10 * np.log10(50 / 0.25))
    assert found.cosine == pytest.approx(50 / np.sqrt(50 * 50.25))


def test_equal_outputs_have_no_ratio() -> None:
    assert agreement(([3.0, 4.0], [3.0, 4.0])) == OutputAgreement(name="output", sqnr_db=None, cosine=1.0)


@pytest.mark.parametrize("pair", [([0.0], [1.0]), ([0.0], [0.0])])
def test_an_output_of_zeros_has_neither(pair: tuple[list[float], list[float]]) -> None:
    assert agreement(pair) == OutputAgreement(name="output", sqnr_db=None, cosine=None)


def test_another_shape_is_refused() -> None:
    with pytest.raises(RuntimeUnsupportedError, match=r"output with shape \(1,\); it has \(2,\)"):
        agreement(([1.0, 2.0], [1.0]))
