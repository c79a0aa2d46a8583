"""The checks of ``zoo_core.conformance``; that every step of the recipe runs, ``test_run.py`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from zoo_core.conformance import CHECKS, Check, ModelConformance


class TestSsdlite(ModelConformance):
    model = "torchvision_ssdlite320_mobilenet_v3_large"
    checks: ClassVar[Sequence[Check]] = [check for check in CHECKS if check.name != "every step of the recipe runs"]
