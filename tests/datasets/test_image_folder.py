from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from zoo_core.datasets.image_folder import ImageFolder
from zoo_core.datatypes import Classification, Detections
from zoo_core.errors import DataError, PluginError


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path.with_suffix(".png")), np.full((4, 6, 3), (0, 0, value), np.uint8))
    path.with_suffix(".png").rename(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; three cats and one dog to evaluate."""
    for name in ("val/cat/1.JPEG", "val/cat/2.png", "val/cat/3.jpg", "val/dog/1.jpeg", "train/cat/1.png"):
        picture(tmp_path / name, value=len(name))
    (tmp_path / "val" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "val" / "cat" / "._1.JPEG").write_text("an archive's leftover")
    return tmp_path


def submitted(*labels: int) -> Classification:
    return Classification(labels=np.array(labels), scores=np.linspace(0.5, 0.1, len(labels)))


def test_folders_are_classes_in_order_and_the_first_images_are_of_all_classes(root: Path) -> None:
    dataset = ImageFolder(root, "val")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.ids == ("val/cat/1.JPEG", "val/dog/1.jpeg", "val/cat/2.png", "val/cat/3.jpg")
    assert [dataset.target(image_id).label for image_id in dataset.ids] == [0, 1, 0, 0]


def test_an_image_is_rgb(root: Path) -> None:
    image = ImageFolder(root, "val").image("val/cat/2.png")
    assert image.shape == (4, 6, 3)
    assert image[0, 0].tolist() == [len("val/cat/2.png"), 0, 0]


def test_two_splits_share_no_id_though_their_files_are_called_alike(root: Path) -> None:
    val, train = ImageFolder(root, "val"), ImageFolder(root, "train", folders=("cat", "dog"))
    assert not set(val.ids) & set(train.ids)


def test_classes_come_from_the_split_that_was_trained_on_so_that_a_missing_one_shifts_no_label(tmp_path: Path) -> None:
    for name in ("train/ant/1.png", "train/bee/1.png", "train/cow/1.png", "val/bee/1.png", "val/cow/1.png"):
        picture(tmp_path / name)
    dataset = ImageFolder(tmp_path, "val", class_split="train")
    assert dataset.class_names == ("ant", "bee", "cow")
    assert [dataset.target(image_id).label for image_id in dataset.ids] == [1, 2]


def test_a_label_file_gives_the_order_of_the_network(root: Path) -> None:
    (root / "labels.txt").write_text("dog\ncat\nowl\n")
    dataset = ImageFolder(root, "val", label_file=root / "labels.txt")
    assert dataset.class_names == ("dog", "cat", "owl")
    assert dataset.target("val/cat/1.JPEG").label == 1


def test_a_folder_that_is_no_class_is_named_with_the_closest(root: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)1 folders that .* pets: 'dog'; the closest is 'dogs'.*--labels"):
        ImageFolder(root, "val", folders=("cat", "dogs"), name="pets")


def test_class_names_stand_for_people_and_folders_for_labels(root: Path) -> None:
    dataset = ImageFolder(root, "val", folders=("cat", "dog"), class_names=("tabby cat", "hound"))
    assert dataset.class_names == ("tabby cat", "hound")
    with pytest.raises(PluginError, match="1 class names were given for 2 folders"):
        ImageFolder(root, "val", folders=("cat", "dog"), class_names=("tabby cat",))


# --------------------------------------------------------------------------- flat


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        picture(tmp_path / "val" / f"ILSVRC2012_val_{number}.JPEG")
    return tmp_path


def open_flat(root: Path) -> ImageFolder:
    return ImageFolder(root, "val", folders=("n01", "n02", "n03"))


@pytest.mark.parametrize(
    "text",
    [
        "ILSVRC2012_val_1.JPEG 2\nILSVRC2012_val_2.JPEG 0\nILSVRC2012_val_3.JPEG 1\nILSVRC2012_val_4.JPEG 1\n",
        "val/ILSVRC2012_val_1.JPEG n03\nval/ILSVRC2012_val_2.JPEG n01\nval/ILSVRC2012_val_3.JPEG\tn02\n",
    ],
)
def test_a_flat_split_takes_labels_or_folders_from_a_listing(flat: Path, text: str) -> None:
    (flat / "val.txt").write_text(text)
    dataset = open_flat(flat)
    assert dataset.ids == tuple(f"val/ILSVRC2012_val_{number}.JPEG" for number in (1, 2, 3))
    assert [dataset.target(image_id).label for image_id in dataset.ids] == [2, 0, 1]


def test_a_flat_split_takes_the_first_class_of_kaggles_solution(flat: Path) -> None:
    (flat / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_2,n01 0 1 2 3 n01 4 5 6 7 \n"
        "ILSVRC2012_val_1,n03 0 1 2 3 \nILSVRC2012_val_3,n02 0 1 2 3 \n"
    )
    assert [open_flat(flat).target(f"val/ILSVRC2012_val_{number}.JPEG").label for number in (1, 2, 3)] == [2, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("490\n361\n", r"val\.txt:1: '490' does not name an image.*only numbers counts classes in the development"),
        ("ILSVRC2012_val_1.JPEG 3\n", r"val\.txt:1: '3' is neither one of the 3 classes .* nor a label from 0 to 2"),
        ("ILSVRC2012_val_1.JPEG n04\n", r"'n04' is neither .*; the closest is 'n0"),
        ("ILSVRC2012_val_1.JPEG 1\nILSVRC2012_val_1.JPEG 2\n", r"val\.txt:2: .* is listed twice, with two classes"),
        ("ILSVRC2012_val_1.JPEG 1\n", r"val\.txt does not name 'ILSVRC2012_val_2.JPEG', and 1 more of 3 images"),
    ],
)
def test_a_listing_that_cannot_be_right_is_refused(flat: Path, text: str, message: str) -> None:
    (flat / "val.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_flat(flat)


def test_a_flat_split_without_ground_truth_says_what_to_write(flat: Path) -> None:
    with pytest.raises(DataError, match=r"neither val\.txt nor LOC_val_solution\.csv.*\n.*write .*val\.txt"):
        open_flat(flat)


# --------------------------------------------------------------------------- hashes, submission, refusals


def test_the_hash_changes_with_the_image_and_with_its_class(root: Path) -> None:
    dataset = ImageFolder(root, "val")
    first = dataset.content_hash("val/cat/1.JPEG")
    (root / "val" / "dog" / "1.JPEG").write_bytes((root / "val" / "cat" / "1.JPEG").read_bytes())
    assert ImageFolder(root, "val").content_hash("val/dog/1.JPEG") != first
    picture(root / "val" / "cat" / "1.JPEG", value=99)
    assert dataset.content_hash("val/cat/1.JPEG") != first
    # The same image in both splits must be found, whatever it is called.
    (root / "train" / "cat" / "copy.jpg").write_bytes((root / "val" / "cat" / "1.JPEG").read_bytes())
    train = ImageFolder(root, "train", folders=("cat", "dog"))
    assert train.content_hash("train/cat/copy.jpg") == dataset.content_hash("val/cat/1.JPEG")


def test_the_submission_has_a_line_an_image_with_at_most_five_labels(root: Path, tmp_path: Path) -> None:
    predictions = [("val/cat/1.JPEG", submitted(5, 4, 3, 2, 1, 0)), ("val/dog/1.jpeg", submitted(1))]
    (tmp_path / "out").mkdir()
    ImageFolder(root, "val").write_submission(tmp_path / "out", iter(predictions))
    assert (tmp_path / "out" / "val.txt").read_text() == "val/cat/1.JPEG\t5\t4\t3\t2\t1\nval/dog/1.jpeg\t1\n"
    boxes = Detections(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64))
    with pytest.raises(PluginError, match="is a Detections, not a Classification"):
        ImageFolder(root, "val").write_submission(tmp_path / "out", iter([("val/cat/1.JPEG", boxes)]))


def test_an_id_never_leaves_the_split(root: Path) -> None:
    picture(root / "secret.png")
    for image_id in ("val/../secret.png", "secret.png", "train/cat/1.png"):
        with pytest.raises(DataError, match=r"is not in split 'val'"):
            ImageFolder(root, "val").image(image_id)


@pytest.mark.parametrize("split", ["../train", "", "a/b"])
def test_a_split_that_is_a_path_is_refused(root: Path, split: str) -> None:
    with pytest.raises(DataError, match="The split"):
        ImageFolder(root, split)


def test_a_missing_split_says_what_there_is(root: Path) -> None:
    with pytest.raises(DataError, match=r"test is not a folder; .* holds train, val\..*\n.*--split"):
        ImageFolder(root, "test")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no image"):
        ImageFolder(tmp_path, "val")
