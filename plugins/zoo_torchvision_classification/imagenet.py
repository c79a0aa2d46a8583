"""Determines the classes of an image folder: ImageNet's if its folders are wnids, else the user's own."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from zoo_core.datasets.image_folder import ImageFolder

_WNID = re.compile(r"n\d{8}")


@functools.cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The wnids and names of ImageNet-1k's classes, 1000 each, in the order of torchvision's weights.

    Source: the wnids are WordNet's, in the order of the ILSVRC2012 folders' names; the names are torchvision's.
    """
    lines = Path(__file__).with_name("imagenet.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    return tuple(wnid for wnid, _ in pairs), tuple(name for _, name in pairs)


def open_split(
    root: Path, split: str, *, label_file: Path | None, class_split: str, name: str = "imagenet"
) -> ImageFolder:
    """Open a split of ImageNet, or of data in its layout.

    A label file defines the classes. Without one they are ImageNet's 1000 if the split is flat or any of its folders is
    named like a wnid, so that a part of ImageNet keeps ImageNet's labels; otherwise they are the folders.

    Args:
        root: The folder that holds the split's folder.
        split: Name of that folder.
        label_file: One folder name per line, in the network's order.
        class_split: See ``ImageFolder``; the split that the network was trained on.
        name: Of the data set.

    Raises:
        DataError: As ``ImageFolder``.
    """
    folder = root / split
    inside = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if label_file is None and (not inside or any(_WNID.fullmatch(name) for name in inside)):
        wnids, names = imagenet_classes()
        return ImageFolder(root, split, folders=wnids, class_names=names, name=name)
    return ImageFolder(root, split, label_file=label_file, class_split=class_split, name=root.resolve().name)
