"""Chooses the stages to compare where the user names none."""

from __future__ import annotations

import re
from collections.abc import Sequence

BASELINE = "fp32"
OPTIMIZED = "optimized_"
_AT = "@"
_PLAIN = re.compile(r"w\d+a\d+")


def is_plain(stage: str) -> bool:
    """True for the network quantized as it is, e.g. ``w8a8``."""
    return _PLAIN.fullmatch(stage) is not None


def is_optimized(stage: str) -> bool:
    """True for the recipe's network quantized, e.g. ``optimized_w8a8``."""
    return stage.startswith(OPTIMIZED) and is_plain(stage.removeprefix(OPTIMIZED))


def deployed_name(stage: str, runtime: str) -> str:
    """Return the name of a stage's exported network on a runtime, e.g. ``optimized_w8a8@onnxruntime``."""
    return f"{stage}{_AT}{runtime}"


def simulation_of(stage: str) -> str | None:
    """Return the stage whose exported network a deployed stage executes; None for other stages."""
    name, at, _ = stage.partition(_AT)
    return name if at else None


def compared_pair(stages: Sequence[str]) -> tuple[str, str] | None:
    """Choose fp32 and the plain quantized stage, else the optimized one; None where a run lacks either side.

    Args:
        stages: Names, without aliases of another stage.
    """
    if BASELINE not in stages:
        return None
    for fits in (is_plain, is_optimized, lambda name: re.search(r"_w\d+a\d+$", name)):
        for name in stages:
            if fits(name):
                return BASELINE, name
    return None
