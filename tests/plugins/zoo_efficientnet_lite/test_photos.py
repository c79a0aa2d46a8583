"""The trained network on photographs that were labelled by their own titles."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo_core

NUM_PHOTOS = 53


@pytest.mark.data
def test_44_of_53_photographs_are_named_and_51_among_five(photos: Path, tmp_path: Path) -> None:
    result = zoo_core.evaluate("efficientnet_lite0", data=photos, stages=["fp32"], out=tmp_path / "run", report=False)
    found = result.stages["fp32"].scores["topk/first"].values
    assert found["top1"] == pytest.approx(44 / NUM_PHOTOS)  # 0.830
    assert found["top5"] == pytest.approx(51 / NUM_PHOTOS)  # 0.962


@pytest.mark.data
@pytest.mark.slow
def test_eight_bits_cost_at_most_two_of_53_photographs(photos: Path, tmp_path: Path) -> None:
    stages = ["fp32", "w8a8"]
    result = zoo_core.evaluate("efficientnet_lite0", data=photos, stages=stages, out=tmp_path / "run", report=False)
    right = {}
    for name in stages:
        top1 = result.stages[name].scores["topk/first"].values["top1"]
        assert top1 is not None
        right[name] = round(NUM_PHOTOS * top1)
    assert right["fp32"] == 44
    assert abs(right["w8a8"] - right["fp32"]) <= 2  # 43: a candle becomes hair spray
    assert result.record.calibration is not None
    assert len(result.record.calibration.ids) == 128
