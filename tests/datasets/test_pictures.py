"""The same picture in two splits, and a picture that changed after it was hashed."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from toy_detector import data as toy_data
from toy_detector.data import GridDataset
from zoo_core.datasets.image_folder import ImageFolder
from zoo_core.datasets.pictures import CheckedDataset, same_pictures, take_evidence
from zoo_core.datasets.scenes import draw_detection_scenes
from zoo_core.datasets.voc import VocDetection
from zoo_core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import EvalDataset

WriteVoc = Callable[..., Path]


def photo(seed: int, height: int = 180, width: int = 240) -> NDArray[np.uint8]:
    """A smooth random picture with detail, BGR, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(
        rng.integers(0, 256, (9, 12, 3)).astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    noise = rng.normal(0, 6, (height, width, 3))
    return np.clip(coarse + noise, 0, 255).astype(np.uint8)


def read(path: Path, flags: int = cv2.IMREAD_COLOR) -> NDArray[np.uint8]:
    pixels = cv2.imread(str(path), flags)
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


def overlap(one: EvalDataset, other: EvalDataset) -> dict[str, str]:
    evidence = [
        {image_id: take_evidence(data, image_id, thumbnail=True) for image_id in data.ids} for data in (one, other)
    ]
    return {image_id: twin.reason for image_id, twin in same_pictures(one, evidence[0], other, evidence[1]).items()}


@pytest.fixture
def voc(write_voc: WriteVoc) -> Path:
    """A split ``test`` of three pictures and a split ``trainval`` of three others."""
    write_voc(("t0", "t1", "t2"), split="test")
    root = write_voc(("c0", "c1", "c2"), split="trainval")
    for seed, image_id in enumerate(("t0", "t1", "t2", "c0", "c1", "c2")):
        cv2.imwrite(str(root / "JPEGImages" / f"{image_id}.jpg"), photo(seed), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return root


def splits(root: Path) -> tuple[VocDetection, VocDetection]:
    return VocDetection(root, "trainval"), VocDetection(root, "test")


def test_different_pictures_do_not_overlap_though_their_annotations_are_equal(voc: Path) -> None:
    assert overlap(*splits(voc)) == {}


def test_a_renamed_image_is_found_though_its_annotation_names_another_file(voc: Path) -> None:
    shutil.copyfile(voc / "JPEGImages" / "t1.jpg", voc / "JPEGImages" / "c2.jpg")
    for image_id in ("c2", "t1"):
        path = voc / "Annotations" / f"{image_id}.xml"
        text = path.read_text().replace("<annotation>", f"<annotation><filename>{image_id}.jpg</filename>")
        path.write_text(text)
    calibration, test = splits(voc)
    assert calibration.content_hash("c2") != test.content_hash("t1")
    assert overlap(calibration, test) == {"c2": "has the image file of 't1'"}


@pytest.mark.parametrize("quality", [95, 75, 50, 30])
def test_a_picture_encoded_again_is_found(voc: Path, quality: int) -> None:
    pixels = read(voc / "JPEGImages" / "t1.jpg")
    cv2.imwrite(str(voc / "JPEGImages" / "c0.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert overlap(*splits(voc)) == {"c0": "shows the picture of 't1'"}


@pytest.mark.parametrize("factor", [0.5, 0.75, 2.0])
def test_a_scaled_picture_is_found_also_as_png(voc: Path, factor: float) -> None:
    pixels = read(voc / "JPEGImages" / "t0.jpg")
    (voc / "JPEGImages" / "c1.jpg").unlink()
    scaled = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(voc / "JPEGImages" / "c1.png"), scaled)
    assert overlap(*splits(voc)) == {"c1": "shows the picture of 't0'"}


def test_a_picture_stretched_to_another_shape_is_another_picture(voc: Path) -> None:
    pixels = read(voc / "JPEGImages" / "t0.jpg")
    cv2.imwrite(str(voc / "JPEGImages" / "c1.jpg"), cv2.resize(pixels, (240, 240)))
    assert overlap(*splits(voc)) == {}


def test_nearly_uniform_pictures_are_compared_by_their_bytes_only(voc: Path) -> None:
    for image_id, level in (("t0", 90), ("c0", 91), ("c1", 90)):
        cv2.imwrite(str(voc / "JPEGImages" / f"{image_id}.jpg"), np.full((180, 240, 3), level, np.uint8))
    assert overlap(*splits(voc)) == {"c1": "has the content of 't0'"}


def test_an_image_that_cannot_be_decoded_is_still_compared_by_its_bytes(voc: Path) -> None:
    for image_id in ("t0", "c0"):
        path = voc / "JPEGImages" / f"{image_id}.jpg"
        path.write_bytes((voc / "JPEGImages" / "t0.jpg").read_bytes()[:3000])
    assert overlap(*splits(voc)) == {"c0": "has the content of 't0'"}


def test_the_same_image_is_found_in_coco_and_in_a_folder_of_classes(tmp_path: Path) -> None:
    scenes = draw_detection_scenes(2, {"val": 3, "train": 3})
    scenes["train"][1] = scenes["val"][2]
    from zoo_core.datasets.coco import CocoDetection
    from zoo_core.datasets.scenes import write_coco as write

    write(tmp_path / "coco", scenes, {1: "a", 2: "b"})
    calibration, test = CocoDetection(tmp_path / "coco", "train"), CocoDetection(tmp_path / "coco", "val")
    assert len(overlap(calibration, test)) == 1

    for split, name, seed in (("val", "a", 0), ("val", "b", 1), ("train", "a", 2), ("train", "b", 0)):
        folder = tmp_path / "classes" / split / name
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "x.jpg"), photo(seed))
    train, val = (ImageFolder(tmp_path / "classes", split) for split in ("train", "val"))
    assert overlap(train, val) == {"train/b/x.jpg": "has the image file of 'val/a/x.jpg'"}


def test_a_dataset_that_hashes_by_itself_is_compared_by_its_pixels(tmp_path: Path) -> None:
    root = toy_data.write(tmp_path / "grid")
    again = read(root / "test_003.png")
    cv2.imwrite(str(root / "trainval_001.png"), again, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    found = overlap(GridDataset(root, "trainval"), GridDataset(root, "test"))
    assert found == {"trainval_001": "has the pixels of 'test_003'"}


def x_ray(seed: int) -> NDArray[np.uint8]:
    """Two dark lungs whose size and place differ a little from person to person, with noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:512, :512]
    dark = np.zeros((512, 512))
    for centre in (170, 342):
        across = (columns - centre - rng.normal(0, 6)) / (80 + rng.normal(0, 5))
        along = (rows - 256 - rng.normal(0, 6)) / (150 + rng.normal(0, 8))
        dark += 120 * np.exp(-(across**2) - along**2)
    return np.clip(220 - dark + rng.normal(0, 4, dark.shape), 0, 255).astype(np.uint8)


def test_pictures_of_one_kind_that_differ_in_detail_are_other_pictures(tmp_path: Path) -> None:
    """Their 64 x 64 grey levels agree as closely as those of copies: 30 of 40 were taken for copies."""
    pictures = [bytes(cv2.imencode(".jpg", x_ray(seed))[1]) for seed in range(40)]
    named = [(f"{index}.jpg", data) for index, data in enumerate(pictures)]
    train, val = in_folders(tmp_path, train=named[:20], val=named[20:])
    assert overlap(train, val) == {}


def test_a_png_of_thin_lines_is_found_though_opencv_skips_pixels_when_it_reduces_one(voc: Path) -> None:
    pixels = np.full((320, 320, 3), 255, np.uint8)
    for row in range(0, 320, 8):
        pixels[row : row + 2, : 320 - row] = 0
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    (voc / "JPEGImages" / "t0.jpg").write_bytes(bytes(data))
    (voc / "JPEGImages" / "c1.jpg").unlink()
    cv2.imwrite(str(voc / "JPEGImages" / "c1.png"), read(voc / "JPEGImages" / "t0.jpg"))
    assert overlap(*splits(voc)) == {"c1": "has the pixels of 't0'"}


def turned(data: bytes) -> bytes:
    """The JPEG with an EXIF orientation of 6: a quarter turn."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


def test_an_exif_orientation_counts_as_far_as_the_layout_applies_it(voc: Path, tmp_path: Path) -> None:
    stored = bytes(cv2.imencode(".jpg", photo(7))[1])
    upright = cv2.imdecode(np.frombuffer(turned(stored), np.uint8), cv2.IMREAD_COLOR)
    assert upright is not None
    assert upright.shape == (240, 180, 3)

    (voc / "JPEGImages" / "t1.jpg").write_bytes(turned(stored))
    cv2.imwrite(str(voc / "JPEGImages" / "c2.jpg"), upright)
    assert overlap(*splits(voc)) == {"c2": "shows the picture of 't1'"}

    unturned = read(voc / "JPEGImages" / "t1.jpg", cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    kept = bytes(cv2.imencode(".jpg", unturned, [cv2.IMWRITE_JPEG_QUALITY, 80])[1])
    train, val = in_folders(tmp_path / "classes", train=[("again.jpg", kept)], val=[("t.jpg", turned(stored))])
    assert overlap(train, val) == {"train/all/again.jpg": "shows the picture of 'val/all/t.jpg'"}


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("photos", "voc2007_images_26"):
        with tarfile.open(shared / "data" / f"{name}.tar") as archive:
            archive.extractall(folder / name, filter="data")
    return sorted(folder.rglob("*.jpg"))


def in_folders(root: Path, **splits: Iterable[tuple[str, bytes]]) -> list[ImageFolder]:
    for split, images in splits.items():
        (root / split / "all").mkdir(parents=True)
        for name, data in images:
            (root / split / "all" / name).write_bytes(data)
    return [ImageFolder(root, split) for split in splits]


def encoded(path: Path, quality: int | None, factor: float = 1.0, *, grey: bool = False) -> bytes:
    pixels = read(path, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    if factor != 1.0:
        kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        pixels = np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=kind), np.uint8)
    if quality is None:
        return bytes(cv2.imencode(".png", pixels)[1])
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


@pytest.mark.data
def test_no_two_of_the_shared_photographs_are_taken_for_one(photographs: list[Path], tmp_path: Path) -> None:
    assert len(photographs) == 319
    named = [(f"{index:03d}.jpg", path.read_bytes()) for index, path in enumerate(photographs)]
    dataset = in_folders(tmp_path, all=named)[0]
    evidence = {image_id: take_evidence(dataset, image_id, thumbnail=True) for image_id in dataset.ids}
    found = {
        image_id: twin.reason
        for image_id, own in evidence.items()
        for twin in same_pictures(
            dataset, {image_id: own}, dataset, {other: e for other, e in evidence.items() if other != image_id}
        ).values()
    }
    assert found == {}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("quality", "factor", "grey", "least"),
    [
        (95, 1.0, False, 317),
        (15, 1.0, False, 317),
        (None, 1.0, False, 317),
        (85, 1.0, True, 317),
        (85, 0.5, False, 315),
        (85, 0.75, False, 315),
        (85, 2.0, False, 315),
    ],
)
def test_copies_of_the_shared_photographs_are_found(
    photographs: list[Path], tmp_path: Path, quality: int | None, factor: float, grey: bool, least: int
) -> None:
    suffix = "png" if quality is None else "jpg"
    copies = [(f"{i:03d}.{suffix}", encoded(path, quality, factor, grey=grey)) for i, path in enumerate(photographs)]
    originals = [(f"{i:03d}.jpg", path.read_bytes()) for i, path in enumerate(photographs)]
    train, val = in_folders(tmp_path, train=copies, val=originals)
    found = overlap(train, val)
    right = [i for i, _ in copies if f"{Path(i).stem}.jpg'" in found.get(f"train/all/{i}", "")]
    assert len(right) >= least  # two photographs are nearly uniform and compared by their bytes only
    assert len(found) == len(right)


# --------------------------------------------------------------------------- images that change


def checked(dataset: EvalDataset) -> CheckedDataset:
    return CheckedDataset(
        dataset, {image_id: take_evidence(dataset, image_id, thumbnail=False) for image_id in dataset.ids}
    )


def test_an_image_that_was_exchanged_is_named_and_one_that_was_not_is_returned(voc: Path) -> None:
    dataset = VocDetection(voc, "test")
    watched = checked(dataset)
    shutil.copyfile(voc / "JPEGImages" / "c0.jpg", voc / "JPEGImages" / "t1.jpg")

    assert np.array_equal(watched.image("t0"), dataset.image("t0"))
    with pytest.raises(DataError, match="Image 't1' of VOC2007 test changed during the run"):
        watched.image("t1")


def test_one_flipped_bit_in_the_pixels_is_a_change(voc: Path) -> None:
    watched = checked(VocDetection(voc, "test"))
    path = voc / "JPEGImages" / "t1.jpg"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="'t1'"):
        watched.image("t1")


def test_an_image_written_again_with_the_same_bytes_has_not_changed(voc: Path) -> None:
    watched = checked(VocDetection(voc, "test"))
    path = voc / "JPEGImages" / "t1.jpg"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    watched.image("t1")


def test_each_image_is_read_once(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = checked(VocDetection(voc, "test"))
    opened: list[Path] = []
    original = os.open

    def counting(path: Path, flags: int) -> int:
        opened.append(path)
        return original(path, flags)

    monkeypatch.setattr(os, "open", counting)
    watched.image("t1")
    assert opened == [voc / "JPEGImages" / "t1.jpg"]


def test_a_dataset_that_hashes_by_itself_is_asked_for_its_hash_again(tmp_path: Path) -> None:
    root = toy_data.write(tmp_path / "grid")
    watched = checked(GridDataset(root, "test"))
    watched.image("test_001")
    shutil.copyfile(root / "test_002.png", root / "test_001.png")
    with pytest.raises(DataError, match="Image 'test_001' of grid test changed"):
        watched.image("test_001")
