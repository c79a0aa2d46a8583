"""Material for the checks of a plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from zoo_core.datatypes.predictions import ImageSize, Prediction, Target


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Drawn picture with its exact ground truth.

    Attributes:
        image_id: Id that the dataset must use.
        image: ``(H, W, 3)`` uint8 RGB.
        target: Ground truth that the dataset must return.
    """

    image_id: str
    image: NDArray[np.uint8]
    target: Target


class Encode(Protocol):
    """Inverse of ``Decode``: returns the outputs of a perfect network."""

    def __call__(self, targets: Sequence[Target], sizes: Sequence[ImageSize]) -> tuple[torch.Tensor, ...]:
        """Return the outputs from which ``decode`` finds exactly ``targets``, shaped as the network's own."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConformanceKit:
    """Drawn pictures and functions with which a model is checked without a download.

    Attributes:
        root: The dataset that was written, as a user would give it to ``--data``.
        scenes: The pictures by split; contains the entry's evaluated and calibration splits.
        label_file: As a user would give it to ``--labels``.
        encode: The inverse of ``decode``; None skips the checks that need a perfect network.
        perfect: Returns the best prediction for a target; None uses the task's function.
        channels: The network's colour order; images always come in RGB.
        checkpoint: Weights that ship with the plugin; None uses the untrained network.
        least_headline: Minimum score of these weights on the evaluated scenes, in ``[0, 1]``, under the entry's
            headline protocol; None if there is no expectation.
    """

    root: Path
    scenes: Mapping[str, Sequence[Scene]]
    label_file: Path | None = None
    encode: Encode | None = None
    perfect: Callable[[Target], Prediction] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    checkpoint: Path | None = None
    least_headline: float | None = None
