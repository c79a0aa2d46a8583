"""Splits a single-shot detector of torchvision into the quantized network and the code around it.

torchvision's ``SSD`` is one module from images to detections. A device runs its backbone and its heads; resizing and
normalization before them, and anchors, box decoding, score threshold and NMS after them, are torchvision's own methods,
called outside the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from zoo_core.artifacts import cast_state_dict
from zoo_core.datatypes import Detections, ImageSize, ModelBundle
from zoo_core.errors import CheckpointError, DataError, PluginError, RegistryError
from zoo_torchvision_detection.checkpoint import fold_like, load_weights, num_columns_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import Checkpoint, ModelEntry

_OPTIONS = ("builder", "weights")
_FIX = "name both as torchvision does, for example ssd300_vgg16 and SSD300_VGG16_Weights.COCO_V1."
BACKGROUND = 1
"""Columns of the class scores before the first class."""


class RawSsd(nn.Module):
    """Backbone and heads of an ``SSD``, under the names they have there: its checkpoints load unchanged."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class scores before softmax ``(B, A, columns)``, background first, and box codes ``(B, A, 4)``.

        Args:
            x: ``(B, 3, H, W)`` float32, resized and normalized.
        """
        outputs = self.head(list(self.backbone(x).values()))
        return outputs["cls_logits"], outputs["bbox_regression"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Preprocess:
    """Scales to ``[0, 1]``, normalizes and resizes as the detector's own transform does."""

    transform: nn.Module

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return ``(3, H, W)`` float32 for ``(h, w, 3)`` uint8 RGB; the aspect ratio is not kept."""
        channels_first = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        with torch.no_grad():
            images, _ = self.transform([channels_first.to(torch.float32) / 255])
        resized: NDArray[np.float32] = images.tensors[0].numpy()
        return resized


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decode:
    """Turns raw outputs into detections by the detector's own post-processing.

    Attributes:
        detector: An ``SSD`` without backbone and heads.
        anchors: ``(A, 4)``, ``xyxy`` in pixels of the network's input.
        input_size: Height and width of the network's input.
        labels: ``(columns,)``, the class of each column; -1 for background and for columns without a class.
    """

    detector: SSD
    anchors: torch.Tensor
    input_size: tuple[int, int]
    labels: NDArray[np.int64]

    def __call__(self, outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Detections]:
        """Return the detections of each image: boxes clipped to it, highest score first.

        Raises:
            PluginError: The outputs are not finite.
        """
        scores, codes = outputs
        # A not-a-number score is never above the threshold: the image would seem to have no detections.
        if not (torch.isfinite(scores).all() and torch.isfinite(codes).all()):
            raise PluginError(
                "The network's outputs are not finite numbers (NaN or infinity).",
                fix="check the checkpoint, and the ranges that calibration found if the network is quantized.",
            )
        shapes = [self.input_size] * len(sizes)
        originals = [(size.height_px, size.width_px) for size in sizes]
        with torch.no_grad():
            found = self.detector.postprocess_detections(
                {"cls_logits": scores.float(), "bbox_regression": codes.float()}, [self.anchors] * len(sizes), shapes
            )
            found = self.detector.transform.postprocess(found, shapes, originals)
        return [self._detections(image) for image in found]

    def _detections(self, found: dict[str, torch.Tensor]) -> Detections:
        labels = self.labels[found["labels"].numpy()]
        known = labels >= 0
        return Detections(
            boxes=found["boxes"].numpy()[known], scores=found["scores"].numpy()[known], labels=labels[known]
        )


def load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    """Build the detector of an entry; see ``hookspecs.zoo_load_model``.

    A head with as many columns as the published weights, COCO's 91 with gaps, gives its classes by their names in
    torchvision; any other must have one column per class in the data set's order, after background.

    Raises:
        RegistryError: ``entry.options`` does not name a single-shot detector of torchvision or weights of it.
        CheckpointError: The weights do not fit the network, or the head does not fit the classes.
        DataError: The head is the published one and lacks a class of the data set.
    """
    builder, categories = _options(entry)
    state = load_weights(checkpoint) if checkpoint is not None else None
    by_name = set(class_names) <= set(categories)
    num_columns = len(categories) if by_name else BACKGROUND + len(class_names)
    detector = build_detector(builder, num_columns)
    if state is not None and (found := num_columns_in(state, detector)) != num_columns:
        num_columns = found
        detector = build_detector(builder, num_columns)
    labels = _labels_of_columns(num_columns, categories, class_names)
    notes: tuple[str, ...] = ("The network is untrained: its detections mean nothing.",)
    if state is not None:
        notes = fold_like(detector, state) if checkpoint is not None and checkpoint.optimized else ()
        _load(detector, state, checkpoint)
    return take_apart(detector, labels, device, notes)


def build_detector(builder: str, num_columns: int, seed: int = 0) -> SSD:
    """Build an untrained detector in eval mode; one seed gives the same weights; the global random state is kept.

    Raises:
        RegistryError: ``builder`` is not a single-shot detector of torchvision.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = torchvision.models.get_model(builder, weights=None, weights_backbone=None, num_classes=num_columns)
    if not isinstance(detector, SSD):
        raise RegistryError(
            f"options.builder {builder!r} gives a {type(detector).__name__}, which is no single-shot detector.",
            fix="name a builder of torchvision.models.detection that gives an SSD, for example ssd300_vgg16.",
        )
    for module in detector.modules():
        # AdaRound records a convolution's output, which an activation in place would overwrite.
        if getattr(module, "inplace", False):
            module.inplace = False
    return detector.eval()


def take_apart(detector: SSD, labels: NDArray[np.int64], device: str, notes: tuple[str, ...] = ()) -> ModelBundle:
    """Return the network, and preprocessing and decoding as functions.

    Args:
        detector: In eval mode on the CPU; consumed: its backbone and heads move into the network.
        labels: See ``Decode``.
        device: A torch device string.
        notes: For the report.
    """
    height, width = _input_size(detector)
    network = RawSsd(detector.backbone, detector.head).eval()
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(1, 3, height, width, generator=generator) * 2 - 1
    with torch.no_grad():
        feature_maps = list(network.backbone(example).values())
        (anchors,) = detector.anchor_generator(ImageList(example, [(height, width)]), feature_maps)
    detector.backbone, detector.head = nn.Identity(), nn.Identity()
    return ModelBundle(
        network=network.to(device),
        example_input=example.to(device),
        preprocess=Preprocess(transform=detector.transform),
        decode=Decode(detector=detector, anchors=anchors, input_size=(height, width), labels=labels),
        notes=notes,
    )


def _input_size(detector: SSD) -> tuple[int, int]:
    width, height = detector.transform.fixed_size  # torchvision's order
    return height, width


def _options(entry: ModelEntry) -> tuple[str, tuple[str, ...]]:
    """Return the builder's name and the categories of its published weights, background first, gaps as ``N/A``."""
    unknown = sorted(set(entry.options) - set(_OPTIONS))
    missing = [name for name in _OPTIONS if not isinstance(entry.options.get(name), str)]
    if unknown or missing:
        problem = f"has {unknown[0]!r}, which {entry.plugin} does not know" if unknown else f"lacks {missing[0]!r}"
        raise RegistryError(
            f"{entry.source}: {entry.model_id}.options {problem}.",
            fix=_FIX,
        )
    builder, name = entry.options["builder"], entry.options["weights"]
    try:
        weights: Any = torchvision.models.get_weight(name)
        known = weights in torchvision.models.get_model_weights(builder)
    except ValueError as error:
        raise _no_weights(entry) from error
    if not known:
        raise _no_weights(entry)
    return builder, tuple(weights.meta["categories"])


def published_categories(entry: ModelEntry) -> tuple[str, ...]:
    """Return the category of each column of the published head: background first, gaps as ``N/A``.

    Raises:
        RegistryError: As ``load_model``.
    """
    return _options(entry)[1]


def _no_weights(entry: ModelEntry) -> RegistryError:
    return RegistryError(
        f"{entry.source}: {entry.model_id}.options: torchvision {torchvision.__version__} has no weights "
        f"{entry.options['weights']!r} of {entry.options['builder']!r}.",
        fix=_FIX,
    )


def _labels_of_columns(num_columns: int, categories: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    labels = np.full(num_columns, -1, np.int64)
    if num_columns == len(categories):
        missing = [name for name in class_names if name not in categories[BACKGROUND:]]
        if not missing:
            labels[[categories.index(name) for name in class_names]] = np.arange(len(class_names))
            return labels
        if num_columns != BACKGROUND + len(class_names):
            raise DataError(
                f"The data set has the class {missing[0]!r}, which the published weights do not know.",
                fix="name the classes to evaluate with --labels FILE, or give weights trained on these classes.",
            )
    if num_columns != BACKGROUND + len(class_names):
        raise CheckpointError(
            f"The checkpoint's head has {num_columns} columns; {len(class_names)} classes and background are "
            f"{BACKGROUND + len(class_names)}.",
            fix="name the classes that the network was trained on with --labels FILE, in its order.",
        )
    labels[BACKGROUND:] = np.arange(len(class_names))
    return labels


def _load(detector: SSD, state: dict[str, torch.Tensor], checkpoint: Checkpoint | None) -> None:
    path = checkpoint.path if checkpoint is not None else ""
    try:
        detector.load_state_dict(cast_state_dict(state, detector.state_dict(), path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:600]
        raise CheckpointError(
            f"{path} does not fit {type(detector.backbone).__name__}: {reason}",
            fix="use a state dict of this very detector, as torchvision's checkpoints are.",
        ) from error
