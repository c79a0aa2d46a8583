from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from zoo_core.datasets.image_folder import ImageFolder
from zoo_core.datasets.shapes import CLASS_NAMES, draw_image
from zoo_core.datasets.shapes_folder import SIDE_PX, cut_out, write_folder
from zoo_core.errors import DataError

FEW = {"val": 2, "train": 1}


def test_each_class_has_its_folder_with_as_many_pictures(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "shapes", counts=FEW)
    for split, count in FEW.items():
        dataset = ImageFolder(root, split, class_split="train")
        assert dataset.class_names == tuple(sorted(CLASS_NAMES))
        assert len(dataset.ids) == count * len(CLASS_NAMES)
        assert dataset.image(dataset.ids[0]).shape == (SIDE_PX, SIDE_PX, 3)


def test_a_cut_shows_the_shape_of_its_box() -> None:
    drawn = draw_image("test", 0)
    cuts = list(itertools.islice(cut_out("test"), int((~drawn.difficult).sum())))
    assert [label for label, _ in cuts] == drawn.labels[~drawn.difficult].tolist()
    box = drawn.boxes[~drawn.difficult][0].astype(int)
    middle = drawn.image[(box[1] + box[3]) // 2, (box[0] + box[2]) // 2].astype(int)
    # The middle of the box is the middle of the cut, up to a pixel of the texture.
    around = cuts[0][1][SIDE_PX // 2 - 3 : SIDE_PX // 2 + 3, SIDE_PX // 2 - 3 : SIDE_PX // 2 + 3].astype(int)
    assert np.abs(around - middle).sum(axis=2).min() < 60


def test_the_splits_are_cut_out_of_different_pictures_and_repeat() -> None:
    def first(split: str) -> bytes:
        return next(cut_out(split))[1].tobytes()  # type: ignore[arg-type]

    assert first("test") != first("trainval") != first("train")
    assert first("test") == first("test")


def test_pictures_are_drawn_once_and_again_for_other_counts(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "shapes", counts=FEW)
    file = root / "val" / "solid_disk" / "0001.JPEG"
    before = file.stat().st_mtime_ns
    assert write_folder(root, counts=FEW) == root
    assert file.stat().st_mtime_ns == before
    content = file.read_bytes()
    write_folder(root, counts={"val": 1})
    assert not (root / "train").exists()
    assert file.read_bytes() == content


def test_a_folder_of_somebody_elses_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "picture.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="was not drawn by zoo-eval"):
        write_folder(tmp_path / "mine", counts=FEW)
