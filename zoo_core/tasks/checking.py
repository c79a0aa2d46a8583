"""Checks of predictions and targets that the built-in tasks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from zoo_core.errors import PluginError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import Prediction, Target

T = TypeVar("T", bound="Prediction | Target")


def expect(value: Prediction | Target, kind: type[T]) -> T:
    """Return ``value``, whose type is ``kind``.

    Raises:
        PluginError: It has another type.
    """
    if isinstance(value, kind):
        return value
    raise PluginError(
        f"The task takes {kind.__name__}, got {type(value).__name__}.",
        fix=f"return {kind.__name__} from the plugin, or name another task in the registry entry.",
    )


def dtype_problems(prediction: Prediction, dtypes: Mapping[str, type[np.generic]]) -> list[str]:
    """Return the arrays that have another dtype than ``dtypes`` gives them."""
    return [
        f"{name} are {array.dtype}, not {np.dtype(dtypes[name])}"
        for name, array in prediction.arrays().items()
        if array.dtype != dtypes[name]
    ]


def score_problems(scores: NDArray[np.floating[Any]]) -> list[str]:
    """Return whether scores, ``(N,)``, lie outside ``[0, 1]`` or do not descend."""
    wrong = []
    if ((scores < 0) | (scores > 1)).any():
        wrong.append("scores lie outside [0, 1]")
    if (np.diff(scores) > 0).any():
        wrong.append("scores do not descend")
    return wrong
