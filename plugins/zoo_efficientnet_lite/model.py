"""Builds a registry entry's network and its preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from zoo_core.artifacts import load_classifier
from zoo_core.datatypes import ModelBundle
from zoo_core.errors import RegistryError, closest_hint
from zoo_core.metrics.classification import rank_classes
from zoo_efficientnet_lite.network import VARIANTS, EfficientNetLite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo_core.datatypes import Checkpoint, Classification, ImageSize, ModelEntry

_MEAN, _STD = 127.0, 128.0
_OPTIONS = ("variant", "crop_fraction")
_UNTRAINED = "The network is untrained: what it says means nothing."


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Resizes an image with PIL's bicubic filter and maps its values to about -1 to 1.

    Attributes:
        side: Height and width of the result in pixels.
        crop_fraction: 1 resizes the whole image, without keeping its aspect ratio. Less cuts out a central square
            first, with this fraction of the shorter side, as the authors do with 0.875.
    """

    side: int
    crop_fraction: float

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``(H, W, 3)`` uint8 RGB to ``(3, side, side)`` float32."""
        picture = Image.fromarray(image)
        if self.crop_fraction < 1:
            picture = picture.crop(self._square(*picture.size))
        resized = picture.resize((self.side, self.side), Image.Resampling.BICUBIC)
        pixels = (np.asarray(resized, np.float32) - _MEAN) / _STD
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _square(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Source: tensorflow/tpu, models/official/efficientnet/preprocessing.py, ``_decode_and_center_crop``."""
        padding = round(self.side * (1 / self.crop_fraction - 1))
        side = max(1, int(self.side / (self.side + padding) * min(width, height)))
        left, top = (width - side + 1) // 2, (height - side + 1) // 2
        return left, top, left + side, top + side


def decode(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Classification]:
    """Turn logits ``(B, C)`` into each image's most probable classes; ``sizes`` is not used."""
    return [rank_classes(logits) for logits, _ in zip(outputs[0].float().numpy(), sizes, strict=True)]


def load_bundle(entry: ModelEntry, checkpoint: Checkpoint | None, num_classes: int, device: str) -> ModelBundle:
    """Build the network that an entry describes.

    Args:
        entry: ``options.variant`` is one of ``VARIANTS``; see ``Preprocess`` for ``options.crop_fraction``, 1 by
            default.
        checkpoint: Weights; None for an untrained network, the same each time.
        num_classes: Outputs of the network.
        device: A torch device string.

    Raises:
        RegistryError: An option is missing, unknown or has no sensible value.
        CheckpointError: The weights are not this network's.
    """
    name, preprocess = _options(entry)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = EfficientNetLite(VARIANTS[name], num_classes).eval()
    notes: tuple[str, ...] = (_UNTRAINED,)
    if checkpoint is not None:
        notes = load_classifier(network, checkpoint)
    side = preprocess.side
    example = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return ModelBundle(
        network=network.to(device),
        example_input=example.to(device),
        preprocess=preprocess,
        decode=decode,
        notes=notes,
    )


def _options(entry: ModelEntry) -> tuple[str, Preprocess]:
    given = entry.options
    variant = str(given.get("variant"))
    problems = [f"does not know {name!r}{closest_hint(name, _OPTIONS)}" for name in given if name not in _OPTIONS]
    if variant not in VARIANTS:
        problems.append(f"has no variant {variant!r}{closest_hint(variant, VARIANTS)}")
    fraction = given.get("crop_fraction", 1.0)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        problems.append(f"needs a crop_fraction above 0 and up to 1, got {fraction!r}")
    if problems:
        raise RegistryError(
            f"{entry.source}: {entry.model_id}.options: {entry.plugin} {'; '.join(problems)}.",
            fix=f"give variant ({', '.join(VARIANTS)}) and, if needed, crop_fraction.",
        )
    return variant, Preprocess(side=VARIANTS[variant].resolution, crop_fraction=float(fraction))
