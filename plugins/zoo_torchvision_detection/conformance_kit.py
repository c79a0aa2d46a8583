"""Material for the checks of ``zoo-eval validate``: pictures in COCO layout, and the inverse of decode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torchvision.ops import box_iou

from zoo_core.datasets.kits import draw_kit
from zoo_core.datatypes import DetectionTarget
from zoo_torchvision_detection.model import BACKGROUND, Decode, load_model, published_categories

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo_core.datatypes import ConformanceKit, ImageSize, ModelEntry, Target

_CERTAIN = 20.0  # of a logit among zeros


def make_kit(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Draw pictures of COCO's own classes, for the entry's splits; the network stays untrained."""
    # Each name has its own column, so the gaps of the published head are checked too.
    class_names = tuple(name for name in published_categories(entry)[1:] if name != "N/A")
    decode = load_model(entry, None, class_names, "cpu").decode
    assert isinstance(decode, Decode)  # noqa: S101  # our own
    return replace(draw_kit(entry.dataset, directory, class_names=class_names), encode=Encode(decode=decode))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encode:
    """Outputs of a detector that is right: each object in the free anchor that it overlaps most."""

    decode: Decode

    def __call__(self, targets: Sequence[Target], sizes: Sequence[ImageSize]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the outputs from which ``decode`` finds ``targets``."""
        num_anchors, num_columns = len(self.decode.anchors), len(self.decode.labels)
        scores = torch.zeros(len(sizes), num_anchors, num_columns)
        scores[:, :, :BACKGROUND] = _CERTAIN
        codes = torch.zeros(len(sizes), num_anchors, 4)
        for row, (target, size) in enumerate(zip(targets, sizes, strict=True)):
            assert isinstance(target, DetectionTarget)  # noqa: S101  # what the scenes hold
            self._encode(target, size, scores[row], codes[row])
        return scores, codes

    def _encode(self, target: DetectionTarget, size: ImageSize, scores: torch.Tensor, codes: torch.Tensor) -> None:
        height, width = self.decode.input_size
        scale = torch.tensor([width / size.width_px, height / size.height_px] * 2)
        boxes = torch.from_numpy(target.boxes) * scale
        overlaps = box_iou(boxes, self.decode.anchors)
        for box, label, overlap in zip(boxes, target.labels.tolist(), overlaps, strict=True):
            anchor = int(overlap.argmax())
            overlaps[:, anchor] = -1.0
            scores[anchor] = 0.0
            scores[anchor, int((self.decode.labels == label).argmax())] = _CERTAIN
            anchors = self.decode.anchors[anchor : anchor + 1]
            codes[anchor] = self.decode.detector.box_coder.encode_single(box[None], anchors)[0]
