"""A network, its weights, and the functions around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from zoo_core.datatypes.predictions import ImageSize, Prediction


class Preprocess(Protocol):
    """Turns an image into the network's input; called in worker threads, so it keeps no state."""

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return ``(C, H, W)`` float32 for one ``(H, W, 3)`` uint8 RGB image."""
        ...


class Decode(Protocol):
    """Turns the network's raw outputs into predictions, on the CPU, outside the quantized graph."""

    def __call__(self, outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> Sequence[Prediction]:
        """Return one prediction per image of the batch.

        Args:
            outputs: The network's outputs on the CPU, batch axis first. Owned by the core; do not modify.
            sizes: The size of each original image, in the order of the batch.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelBundle:
    """Network with its preprocessing and decoding.

    Attributes:
        network: In eval mode, on the requested device; contains only what a device would run.
        example_input: ``(1, C, H, W)`` float32, accepted by ``network``.
        preprocess: Converts one image to one input.
        decode: Converts a batch of outputs to predictions.
        notes: Remarks for readers of the report, e.g. that ReLU6 was replaced.
    """

    network: torch.nn.Module
    example_input: torch.Tensor
    preprocess: Preprocess
    decode: Decode
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights file, hashed and, if a hash is declared, verified.

    Attributes:
        path: Read the file only through ``zoo_core.artifacts.load_state_dict``.
        sha256: Of the file's bytes, hexadecimal.
        optimized: Published as already equalized and rounded, with batch norms folded. Not set for files written by
            ``zoo-eval quantize``: the core loads those into the ordinary network itself.
    """

    path: Path
    sha256: str
    optimized: bool = False
