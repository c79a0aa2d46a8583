"""The checks on EfficientNet-Lite; the variants differ in nothing that they look at, apart from odd sizes in lite2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest

from zoo_core.conformance import CHECKS, Check, ModelConformance

STEPS = "every step of the recipe runs"
QUICK = [check for check in CHECKS if check.name != STEPS]


class TestLite0(ModelConformance):
    model = "efficientnet_lite0"
    checks: ClassVar[Sequence[Check]] = QUICK


class TestLite2(ModelConformance):
    model = "efficientnet_lite2"
    checks: ClassVar[Sequence[Check]] = QUICK


@pytest.mark.slow
class TestTheRecipe(ModelConformance):
    model = "efficientnet_lite0"
    checks: ClassVar[Sequence[Check]] = [check for check in CHECKS if check.name == STEPS]
