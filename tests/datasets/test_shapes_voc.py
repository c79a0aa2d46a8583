from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from zoo_core.datasets import drawn, shapes_voc
from zoo_core.datasets.labels import read_label_file
from zoo_core.datasets.shapes import CLASS_NAMES, draw_image
from zoo_core.datasets.shapes_voc import DEFAULT_SPLITS, image_id, write_voc
from zoo_core.datasets.voc import VocDetection
from zoo_core.errors import DataError


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_voc_reader_reads_back_what_was_drawn(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, splits={"test": 5, "trainval": 3}, seed=4)
    for split, number in (("test", 5), ("trainval", 3)):
        dataset = VocDetection(tmp_path, split, label_file=folder / "labels.txt")
        assert len(dataset.ids) == number
        for index, name in enumerate(dataset.ids):
            picture, target = draw_image(split, index, seed=4), dataset.target(name)  # type: ignore[arg-type]
            np.testing.assert_array_equal(target.boxes, picture.boxes)
            np.testing.assert_array_equal(target.labels, picture.labels)
            np.testing.assert_array_equal(target.difficult, picture.difficult)
            image = dataset.image(name)
            assert image.shape == picture.image.shape
            # JPEG loses detail, not places or the order of channels.
            assert np.abs(image.astype(int) - picture.image).mean() < 12


def test_the_label_file_names_the_classes_after_background(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, splits={"test": 1})
    assert (folder / "labels.txt").read_text().splitlines()[0] == "BACKGROUND"
    assert tuple(read_label_file(folder / "labels.txt")) == CLASS_NAMES


def test_ids_of_the_splits_are_disjoint_and_do_not_depend_on_their_sizes(tmp_path: Path) -> None:
    small = write_voc(tmp_path / "small", splits={"test": 2, "trainval": 2, "train": 2})
    large = write_voc(tmp_path / "large", splits={"test": 4})
    names = [(small / "ImageSets" / "Main" / f"{split}.txt").read_text().split() for split in ("test", "trainval")]
    assert names == [["000001", "000002"], ["300001", "300002"]]
    assert image_id("train", 0) == "600001"
    picture = "JPEGImages/000002.jpg"
    assert (small / picture).read_bytes() == (large / picture).read_bytes()


def test_a_second_call_draws_nothing(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_voc(tmp_path, splits={"test": 2}, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    write_voc(tmp_path, splits={"test": 2}, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 2
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}


def no_lock(path: object) -> None:
    raise OSError(30, "Read-only file system", str(path))


def test_pictures_in_a_read_only_folder_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_voc(tmp_path, splits={"test": 1})
    monkeypatch.setattr(drawn, "file_lock", no_lock)

    assert write_voc(tmp_path, splits={"test": 1}) == folder
    with pytest.raises(DataError, match="cannot be written"):
        write_voc(tmp_path, splits={"test": 2})


@pytest.mark.parametrize("change", ["splits", "seed", "version", "opencv"])
def test_other_conditions_draw_again(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_voc(tmp_path, splits={"test": 2}, seed=1)
    (folder / "JPEGImages" / "leftover.jpg").write_bytes(b"from before")
    splits, seed = {"test": 2}, 1
    if change == "splits":
        splits = {"test": 1}
    elif change == "seed":
        seed = 2
    elif change == "version":
        monkeypatch.setattr(shapes_voc, "DRAWING_VERSION", -1)
    else:
        monkeypatch.setattr("cv2.__version__", "0.0")
    write_voc(tmp_path, splits=splits, seed=seed)  # type: ignore[arg-type]
    assert not (folder / "JPEGImages" / "leftover.jpg").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shapes.lock", "VOC2007"]


def test_two_folders_of_one_seed_hold_the_same_bytes(tmp_path: Path) -> None:
    one = write_voc(tmp_path / "one", splits={"test": 3, "trainval": 2})
    two = write_voc(tmp_path / "two", splits={"trainval": 2, "test": 3})
    assert _contents(one) == _contents(two)


def test_an_interrupted_drawing_leaves_no_folder_and_the_next_call_repairs_it(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_voc(tmp_path, splits={"test": 3}, progress=interrupt)
    assert not (tmp_path / "VOC2007").exists()
    folder = write_voc(tmp_path, splits={"test": 3})
    assert len(list((folder / "JPEGImages").iterdir())) == 3
    assert not (tmp_path / ".VOC2007.partial").exists()


def test_a_folder_that_was_not_drawn_here_is_not_touched(tmp_path: Path) -> None:
    photograph = tmp_path / "VOC2007" / "JPEGImages" / "000001.jpg"
    photograph.parent.mkdir(parents=True)
    photograph.write_bytes(b"precious")
    with pytest.raises(DataError, match=r"VOC2007 was not drawn by zoo-eval: it has no readable shapes.json"):
        write_voc(tmp_path, splits={"test": 1})
    assert photograph.read_bytes() == b"precious"


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written to .*file"):
        write_voc(tmp_path / "file", splits={"test": 1})


@pytest.mark.parametrize("splits", [{}, {"test": 0}, {"test": 300_000}, {"val": 1}])
def test_an_impossible_split_is_an_error_before_anything_is_written(tmp_path: Path, splits: dict[str, int]) -> None:
    with pytest.raises(DataError, match="Shapes cannot be drawn for splits"):
        write_voc(tmp_path / "new", splits=splits)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_the_marker_records_the_conditions(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, splits={"trainval": 1, "test": 2}, seed=9)
    marker = json.loads((folder / "shapes.json").read_text())
    assert marker["seed"] == 9
    assert marker["splits"] == {"test": 2, "trainval": 1}
    assert set(marker) == {"drawing_version", "seed", "splits", "jpeg_quality", "opencv"}
    assert set(DEFAULT_SPLITS) == {"test", "trainval"}


def test_annotations_are_voc_xml_with_corners_counted_from_one(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, splits={"test": 1})
    text = (folder / "Annotations" / "000001.xml").read_text()
    box = draw_image("test", 0).boxes[0].astype(int)
    assert f"<xmin>{box[0] + 1}</xmin>" in text
    assert f"<ymax>{box[3] + 1}</ymax>" in text
    assert text.count("<truncated>") == text.count("<difficult>") == text.count("<object>")
    assert os.linesep == "\n" or "\r" not in text
