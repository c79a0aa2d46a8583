"""Writes VOC's annotation files."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

FOLDER = "VOC2007"


def write_annotation(
    path: Path,
    *,
    image_file: str,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    difficult: NDArray[np.bool_],
    truncated: NDArray[np.bool_] | None = None,
) -> None:
    """Write the annotation of one image; corners in the file are 1-based, as in VOC.

    Args:
        path: The XML file.
        image_file: Name of the image's file.
        image_shape: ``(H, W, 3)``.
        class_names: Index is the label.
        boxes: ``(M, 4)``, ``xyxy`` in whole pixels, 0-based.
        labels: ``(M,)``.
        difficult: ``(M,)``.
        truncated: ``(M,)``; None if no object reaches over the border.
    """
    height, width, depth = image_shape
    root = Element("annotation")
    _add(root, folder=FOLDER, filename=image_file)
    _add(SubElement(root, "size"), width=width, height=height, depth=depth)
    _add(root, segmented=0)
    for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        element = SubElement(root, "object")
        reaches_over = int(truncated is not None and truncated[index])
        _add(element, name=class_names[label], pose="Unspecified", truncated=reaches_over)
        _add(element, difficult=int(difficult[index]))
        corners = [int(value) + 1 for value in box]
        _add(SubElement(element, "bndbox"), **dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)))
    tree = ElementTree(root)
    indent(tree, "\t")
    tree.write(path, encoding="utf-8")


def _add(parent: Element, **values: str | int) -> None:
    for tag, value in values.items():
        SubElement(parent, tag).text = str(value)
