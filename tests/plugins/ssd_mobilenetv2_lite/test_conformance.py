"""Both models pass the checks, and the usual silent failures put into the real plugin are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest

from ssd_mobilenetv2_lite.decode import decode
from ssd_mobilenetv2_lite.preprocess import preprocess
from zoo_core.conformance import CHECKS, Check, ModelConformance, Outcome, Subject, run_checks
from zoo_core.plugins import PluginHost

if TYPE_CHECKING:
    import torch

    from zoo_core.datatypes import Detections, ImageSize

STEPS = "every step of the recipe runs"
QUICK = [check for check in CHECKS if check.name != STEPS]


class TestOnVoc(ModelConformance):
    model = "ssd_mobilenetv2_lite"
    checks: ClassVar[Sequence[Check]] = QUICK


class TestOnShapes(ModelConformance):
    model = "ssd_mobilenetv2_lite_shapes"
    checks: ClassVar[Sequence[Check]] = QUICK


@pytest.mark.slow
class TestTheRecipe(ModelConformance):
    model = "ssd_mobilenetv2_lite_shapes"
    checks: ClassVar[Sequence[Check]] = [check for check in CHECKS if check.name == STEPS]


def outcome(name: str) -> Outcome:
    with Subject(PluginHost(), "ssd_mobilenetv2_lite") as subject:
        (found,) = run_checks(subject, [check for check in CHECKS if check.name == name])
    return found


def decoding(change: Callable[[Detections, ImageSize], Detections]) -> Callable[..., list[Detections]]:
    def faulty(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Detections]:
        return [change(found, size) for found, size in zip(decode(outputs, sizes), sizes, strict=True)]

    return faulty


def test_background_counted_as_a_class_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = decoding(lambda found, _: dataclasses.replace(found, labels=found.labels + 1))
    monkeypatch.setattr("ssd_mobilenetv2_lite.decode.decode", faulty)

    found = outcome("labels run from 0 to the last class")

    assert found.status == "failed"
    assert "decode gives the label 20; 20 classes have the labels 0 to 19" in found.found


def test_labels_that_are_shifted_within_the_classes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = decoding(lambda found, _: dataclasses.replace(found, labels=(found.labels + 1) % 20))
    monkeypatch.setattr("ssd_mobilenetv2_lite.decode.decode", faulty)

    found = outcome("a perfect network scores as one")

    assert found.status == "failed"
    assert "Labels look shifted" in found.found
    assert "with -1 added to every label" in found.found


def test_colours_in_the_wrong_order_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd_mobilenetv2_lite.preprocess.preprocess", lambda image: preprocess(image)[::-1].copy())

    found = outcome("colours arrive in the declared order")

    assert found.status == "failed"
    assert "preprocess gives BGR, the kit declares RGB" in found.found


@pytest.mark.parametrize("name", ["boxes are in pixels of the original image", "a perfect network scores as one"])
def test_normalized_boxes_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def normalized(found: Detections, size: ImageSize) -> Detections:
        scale = np.array([*size, *size], np.float32)
        return dataclasses.replace(found, boxes=(found.boxes / scale).astype(np.float32))

    monkeypatch.setattr("ssd_mobilenetv2_lite.decode.decode", decoding(normalized))

    found = outcome(name)

    assert found.status == "failed"
    assert "look normalized" in found.found
