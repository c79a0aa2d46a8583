"""A small data set in VOC layout, written for each test that asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

WriteVoc = Callable[..., Path]

_OBJECT = """
<annotation><object><name>dog</name><bndbox>
<xmin>11</xmin><ymin>12</ymin><xmax>31</xmax><ymax>32</ymax>
</bndbox></object></annotation>
"""


@pytest.fixture
def write_voc(tmp_path: Path) -> WriteVoc:
    """Writes ``VOCdevkit/<name>`` with one 60 x 40 image and one dog for each id; returns that folder."""

    def write(ids: tuple[str, ...] = ("a1", "b2"), *, name: str = "VOC2007", split: str = "test") -> Path:
        root = tmp_path / "VOCdevkit" / name
        for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
        for number, image_id in enumerate(ids):
            image = np.full((40, 60, 3), 12 * number % 256, np.uint8)
            assert cv2.imwrite(str(root / "JPEGImages" / f"{image_id}.jpg"), image)
            (root / "Annotations" / f"{image_id}.xml").write_text(_OBJECT)
        return root

    return write
