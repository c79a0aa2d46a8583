"""The toy plugin passes the checks, used as a plugin's author would use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from toy_detector import hooks
from zoo_core.conformance import ModelConformance


class TestToySquares(ModelConformance):
    model = "toy_squares"
    plugins: ClassVar[Mapping[str, object]] = {"toy_detector": hooks}
