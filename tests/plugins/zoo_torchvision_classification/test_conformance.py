"""The checks on torchvision's classifiers: two kinds of block here; every model is one registry entry away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest

from zoo_core.conformance import CHECKS, Check, ModelConformance

STEPS = "every step of the recipe runs"
QUICK = [check for check in CHECKS if check.name != STEPS]


class TestMobileNetV2(ModelConformance):
    model = "torchvision_mobilenet_v2"
    checks: ClassVar[Sequence[Check]] = QUICK


class TestTheDemo(ModelConformance):
    model = "torchvision_mobilenet_v2_shapes"  # with its weights
    checks: ClassVar[Sequence[Check]] = QUICK


class TestResNet18(ModelConformance):
    model = "torchvision_resnet18"
    checks: ClassVar[Sequence[Check]] = QUICK


@pytest.mark.slow
class TestTheRecipe(ModelConformance):
    model = "torchvision_mobilenet_v2_shapes"
    checks: ClassVar[Sequence[Check]] = [check for check in CHECKS if check.name == STEPS]
