"""Executes exported networks and compares them with the simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.datatypes import Runtime

TORCH = "torch"
"""Name of the runtime that computes simulations, and float stages where no other is chosen; it loads no file."""


def built_in() -> Sequence[Runtime]:
    """Return the runtimes that come with zoo-eval; their libraries are imported when one is used."""
    from zoo_core.runtimes.onnxruntime import OnnxRuntime

    return (OnnxRuntime(),)
