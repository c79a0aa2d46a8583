"""Determines the classes of an image folder: ImageNet's if its folders are wnids, else the user's own."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.datasets.image_folder import ImageFolder
from zoo_core.datasets.kits import draw_kit
from zoo_core.datasets.scenes import encode_classes
from zoo_core.errors import DataError

if TYPE_CHECKING:
    from zoo_core.datatypes import ConformanceKit, DatasetRequest, ModelEntry

_WNID = re.compile(r"n\d{8}")


@functools.cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The wnids and names of ImageNet-1k's classes, 1000 each, in the order of torchvision's weights.

    Source: the wnids are WordNet's, in the order of the ILSVRC2012 folders' names; the names are torchvision's.
    """
    lines = Path(__file__).with_name("imagenet.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    return tuple(wnid for wnid, _ in pairs), tuple(name for _, name in pairs)


def open_imagenet(entry: ModelEntry, request: DatasetRequest) -> ImageFolder:
    """Open a split of ImageNet, or of data in its layout.

    A label file defines the classes. Without one they are ImageNet's 1000 if the split is flat or any of its folders is
    named like a wnid, so that a part of ImageNet keeps ImageNet's labels; otherwise they are the folders.

    Args:
        entry: ``dataset.calibration_split`` is the split that the network was trained on; its folders define the
            classes of the user's own data.
        request: The split, and the folder that holds the split's folder.

    Raises:
        DataError: No folder is given; or as ``ImageFolder``.
    """
    root, split, label_file = request.root, request.split, request.label_file
    if root is None:
        raise DataError(
            f"{entry.model_id} evaluates on {entry.dataset.name!r}, for which no download is known.",
            fix="give its folder with --data: <folder>/val/<wnid>/*.JPEG and <folder>/train/<wnid>/*.JPEG.",
        )
    folder = root / split
    inside = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if label_file is None and (not inside or any(_WNID.fullmatch(name) for name in inside)):
        wnids, names = imagenet_classes()
        return ImageFolder(root, split, folders=wnids, class_names=names, name=entry.dataset.name)
    class_split = entry.dataset.calibration_split
    return ImageFolder(root, split, label_file=label_file, class_split=class_split, name=root.resolve().name)


def imagenet_kit(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Draw pictures in folders named like ImageNet's, with logits of all its classes; see ``zoo_conformance``."""
    wnids, _ = imagenet_classes()
    kit = draw_kit(replace(entry.dataset, layout="image_folder"), directory, class_names=wnids)
    return replace(kit, label_file=None, encode=functools.partial(encode_classes, num_classes=len(wnids)))
