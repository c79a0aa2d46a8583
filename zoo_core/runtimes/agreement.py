"""Measures how well the outputs of two executions of one network agree, end to end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.errors import RuntimeUnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAgreement:
    """Agreement of one output of a network with the simulation's, over all images.

    It depends on which rounding boundaries are crossed on the way; a low value alone does not show that a layer is
    wrong.

    Attributes:
        name: Of the output in the graph.
        sqnr_db: ``10 log10(sum(x^2) / sum((x - y)^2))`` in dB, x of the simulation and y of the runtime; None if they
            are equal, or if x is all zeros.
        cosine: Of the angle between x and y, in ``[-1, 1]``; None if one of them is all zeros.
    """

    name: str
    sqnr_db: float | None
    cosine: float | None


@dataclass(slots=True)
class OutputSums:
    """Sums over images from which an agreement is computed.

    Attributes:
        name: Of the output in the graph.
    """

    name: str
    _signal: float = field(default=0.0, init=False)
    _found: float = field(default=0.0, init=False)
    _noise: float = field(default=0.0, init=False)
    _product: float = field(default=0.0, init=False)

    def add(self, expected: NDArray[np.generic], found: NDArray[np.generic]) -> None:
        """Add the results of some images.

        Raises:
            RuntimeUnsupportedError: The shapes differ.
        """
        if expected.shape != found.shape:
            raise RuntimeUnsupportedError(
                f"The runtime returns {self.name} with shape {found.shape}; it has {expected.shape} in the simulation.",
                fix="load the graph as it was exported; the shapes that it declares must be those of the results.",
            )
        x, y = expected.astype(np.float64), found.astype(np.float64)
        self._signal += float(np.square(x).sum())
        self._found += float(np.square(y).sum())
        self._noise += float(np.square(x - y).sum())
        self._product += float((x * y).sum())

    def agreement(self) -> OutputAgreement:
        """Return the agreement over everything that was added."""
        has_ratio = self._signal > 0 and self._noise > 0
        has_angle = self._signal > 0 and self._found > 0
        return OutputAgreement(
            name=self.name,
            sqnr_db=10 * math.log10(self._signal / self._noise) if has_ratio else None,
            cosine=self._product / math.sqrt(self._signal * self._found) if has_angle else None,
        )
