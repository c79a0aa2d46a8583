"""VOC folders, splits, annotations and label files, sound and hostile."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zoo_core.datasets.labels import read_label_file
from zoo_core.datasets.voc import VOC_CLASSES, VocDetection, find_voc_folder
from zoo_core.datatypes import Detections, EvalDataset
from zoo_core.errors import DataError

WriteVoc = Callable[..., Path]


def box(x1: object = 11, y1: object = 12, x2: object = 31, y2: object = 32) -> str:
    return f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"


def opencv_rgb(path: Path) -> NDArray[Any]:
    image = cv2.imread(str(path))
    assert image is not None
    return image[:, :, ::-1]


def opened_with(root: Path, annotation: str | bytes) -> VocDetection:
    """The data set with this text as the annotation of image a1."""
    data = annotation if isinstance(annotation, bytes) else annotation.encode()
    (root / "Annotations" / "a1.xml").write_bytes(data)
    return VocDetection(root, "test")


# --------------------------------------------------------------------------- folders and splits


@pytest.mark.parametrize("up", [0, 1, 2])
def test_the_root_may_be_the_voc_folder_the_devkit_or_its_parent(write_voc: WriteVoc, up: int) -> None:
    folder = write_voc()
    given_root = [folder, *folder.parents][up]
    dataset: EvalDataset = VocDetection(given_root, "test")
    assert dataset.ids == ("a1", "b2")
    assert dataset.class_names == VOC_CLASSES
    assert (dataset.name, dataset.split, dataset.submission_format) == ("VOC2007", "test", "comp4")
    assert find_voc_folder(given_root) == folder


def test_among_several_voc_folders_the_named_one_is_taken_or_none(write_voc: WriteVoc) -> None:
    write_voc(("a1",), name="VOC2010")
    folder = write_voc(("x9",), name="VOC2012")
    assert VocDetection(folder.parent, "test", name="VOC2012").ids == ("x9",)
    with pytest.raises(DataError, match="several data sets and none is called VOC2007: VOC2010, VOC2012"):
        VocDetection(folder.parent, "test")


def test_the_only_folder_in_voc_layout_is_taken_whatever_its_name(write_voc: WriteVoc) -> None:
    folder = write_voc(name="my_cameras")
    assert find_voc_folder(folder.parent.parent) == folder


def test_a_missing_root_and_a_root_of_another_layout_give_different_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a directory"):
        VocDetection(tmp_path / "nowhere", "test")
    with pytest.raises(DataError, match=r"not a data set in VOC layout.*ImageSets/Main and Annotations"):
        VocDetection(tmp_path, "test")


def test_an_unknown_split_lists_those_there_are(write_voc: WriteVoc) -> None:
    write_voc(split="trainval")
    root = write_voc()
    (root / "ImageSets" / "Main" / "dog_test.txt").write_text("a1 -1\n")
    with pytest.raises(DataError, match=r"no split 'tets'; the closest is 'test'.\n.*use one of test, trainval\."):
        VocDetection(root, "tets")


@pytest.mark.parametrize("split", ["../../secret", "", "..", "/etc/passwd", "a\0b", "test/../test"])
def test_a_split_never_reaches_outside_the_folder(write_voc: WriteVoc, split: str) -> None:
    root = write_voc()
    (root.parent / "secret.txt").write_text("a1\n")
    with pytest.raises(DataError, match="no split"):
        VocDetection(root, split)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("../../../etc/passwd", "contains a path separator"),
        ("..", "starts with a dot or contains"),
        ("c:\\x", "contains a path separator"),
        ("a\x07b", "contains a control character"),
        ("a\x85b", "contains a control character"),
        ("a1\0", "contains a control character"),
        ("a\u202eb", "contains a control character"),
        ("c3 1", "contains white space"),
        ("", "is empty"),
        ("x" * 200, "is longer than 128 bytes"),
        ("a1", "is already on line 1"),
    ],
)
def test_an_id_that_could_harm_is_refused_with_its_line(write_voc: WriteVoc, line: str, problem: str) -> None:
    root = write_voc()
    (root / "ImageSets" / "Main" / "test.txt").write_text(f"a1\n{line}\nb2\n")
    with pytest.raises(DataError, match=rf"test\.txt:2: image id .* {problem}"):
        VocDetection(root, "test")


def test_an_id_outside_the_split_is_refused_by_every_method(write_voc: WriteVoc) -> None:
    dataset = VocDetection(write_voc(), "test")
    for method in (dataset.image, dataset.target, dataset.content_hash):
        with pytest.raises(DataError, match=r"Image id '\.\./a1' is not in split 'test'"):
            method("../a1")


def test_a_split_without_ids_and_one_that_is_no_text_are_refused(write_voc: WriteVoc) -> None:
    root = write_voc()
    path = root / "ImageSets" / "Main" / "test.txt"
    path.write_text("\n\n")
    with pytest.raises(DataError, match=r"test\.txt lists no image"):
        VocDetection(root, "test")
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(DataError, match=r"test\.txt is not UTF-8 text"):
        VocDetection(root, "test")


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(write_voc: WriteVoc) -> None:
    root = write_voc()
    (root / "ImageSets" / "Main" / "test.txt").write_bytes(b"\xef\xbb\xbfb2\r\na1\r\n\r\n")
    assert VocDetection(root, "test").ids == ("b2", "a1")


# --------------------------------------------------------------------------- annotations


def test_corners_become_0_based_and_difficult_defaults_to_no(write_voc: WriteVoc) -> None:
    dataset = opened_with(
        write_voc(),
        f"<annotation><object><name>person</name><difficult>1</difficult>{box(1, 1, 1, 1)}"
        f"<part><name>head</name>{box(2, 2, 3, 3)}</part></object>"
        f"<object><name> cat </name>{box('45.5', 2, '60.25', 40)}</object></annotation>",
    )
    target = dataset.target("a1")
    assert target.boxes.dtype == np.float32
    np.testing.assert_array_equal(target.boxes, [[0, 0, 0, 0], [44.5, 1, 59.25, 39]])
    assert target.labels.tolist() == [14, 7]
    assert target.difficult.tolist() == [True, False]


def test_an_image_without_objects_has_boxes_of_shape_0_4(write_voc: WriteVoc) -> None:
    target = opened_with(write_voc(), "<annotation/>").target("a1")
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == target.difficult.shape == (0,)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("<object/>", r"a1\.xml: object 0: <name> is missing"),
        (f"<object><name/>{box()}</object>", "object 0: <name> is empty"),
        ("<object><name>dog</name></object>", "object 0: <bndbox> is missing"),
        ("<object><name>dog</name><bndbox><xmin>1</xmin></bndbox></object>", "object 0: <ymin> is missing"),
        (f"<object><name>dog</name>{box()}</object><object><name>a</name>{box()}</object>", "object 1: name: class"),
        (f"<object><name>dog</name>{box('left')}</object>", "object 0: <xmin> is 'left'"),
        (f"<object><name>dog</name>{box(y2='nan')}</object>", "<ymax> is 'nan', not a pixel coordinate"),
        (f"<object><name>dog</name>{box(x2='1e999')}</object>", "<xmax> is '1e999'"),
        (f"<object><name>dog</name>{box(x2='3_1')}</object>", "<xmax> is '3_1'"),
        (f"<object><name>dog</name>{box(x1=40, x2=30)}</object>", "ends before it starts: xmin 40, xmax 30"),
        (f"<object><name>dog</name>{box(y1=40, y2=30)}</object>", "ends before it starts: .*ymin 40, ymax 30"),
        (f"<object><name>dgo</name>{box()}</object>", "class 'dgo' is not among the 20 classes; the closest is 'dog'"),
        (f"<object><name>dog</name><difficult>yes</difficult>{box()}</object>", "<difficult> is 'yes', neither 0"),
    ],
)  # fmt: skip
def test_a_wrong_element_is_named_with_file_object_and_value(write_voc: WriteVoc, objects: str, message: str) -> None:
    dataset = opened_with(write_voc(), f"<annotation>{objects}</annotation>")
    with pytest.raises(DataError, match=message):
        dataset.target("a1")


def test_an_annotation_that_is_missing_malformed_or_another_document_is_named(write_voc: WriteVoc) -> None:
    root = write_voc()
    with pytest.raises(DataError, match=r"a1\.xml is not well-formed XML: no element found"):
        opened_with(root, "<annotation><object>").target("a1")
    with pytest.raises(DataError, match="outermost element is <html>"):
        opened_with(root, "<html/>").target("a1")
    (root / "Annotations" / "a1.xml").unlink()
    with pytest.raises(DataError, match=r"a1\.xml does not exist"):
        VocDetection(root, "test").target("a1")


def test_an_unknown_class_points_to_the_labels_file_beside_the_data(write_voc: WriteVoc) -> None:
    root = write_voc()
    (root / "labels.txt").write_text("BACKGROUND\nsquare\n")
    dataset = opened_with(root, f"<annotation><object><name>square</name>{box()}</object></annotation>")
    with pytest.raises(DataError, match=rf"fix: name the classes with --labels {root}/labels\.txt"):
        dataset.target("a1")
    dataset = VocDetection(root, "test", label_file=root / "labels.txt")
    assert dataset.target("a1").labels.tolist() == [0]
    with pytest.raises(DataError, match=r"'dog' is not among the 1 classes.\n.*add the class to .*labels\.txt"):
        dataset.target("b2")


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><annotation>&b;</annotation>',
        '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation><folder>&f;</folder></annotation>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><annotation/>',
    ],
    ids=["expansion", "file", "remote"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_and_entities_are_refused(write_voc: WriteVoc, document: str, encoding: str) -> None:
    dataset = opened_with(write_voc(), document.encode(encoding))
    with pytest.raises(DataError, match=r"a1\.xml declares a document type or entities, which is refused"):
        dataset.target("a1")


_FRAGMENTS = [
    b"<annotation>", b"</annotation>", b"<object>", b"</object>", b"<name>dog</name>", b"<bndbox>", b"</bndbox>",
    b"<xmin>1</xmin>", b"<ymin>-9e9</ymin>", b"<xmax>5</xmax>", b"<ymax>1e400</ymax>", b"<difficult>", b"&amp;",
    b'<?xml version="1.0" encoding="utf-7"?>', b"<!--", b"-->", b"<![CDATA[", b"]]>", b"\xff\xfe", b"\0", b"&#0;",
    b"<!ENTITY",
]  # fmt: skip


@given(st.one_of(st.lists(st.sampled_from(_FRAGMENTS)).map(b"".join), st.binary(max_size=200)))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_annotation_raises_anything_but_a_data_error(write_voc: WriteVoc, document: bytes) -> None:
    dataset = opened_with(write_voc(), document)
    try:
        target = dataset.target("a1")
    except DataError as error:
        assert "a1.xml" in error.fact  # noqa: PT017  # what is tested is that nothing else is raised
    else:
        assert np.isfinite(target.boxes).all()


# --------------------------------------------------------------------------- label files and class names


@pytest.mark.parametrize(
    "text",
    [
        "BACKGROUND\ncat\nbig dog\n",
        "background\r\ncat\r\nbig dog",
        "cat\nbig dog\n\n\n",
        "cat, big dog\n",
        "Background,cat,big dog",
        "\ufeffcat\nbig dog",
    ],
)
def test_a_label_file_has_a_name_a_line_or_one_line_with_commas(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, newline="")
    assert read_label_file(path) == ("cat", "big dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\n\ndog\n", r"labels\.txt:2: class name '' is empty"),
        ("cat\ndog\ncat\n", r"labels\.txt:3: class name 'cat' is already on line 1"),
        ("cat,dog,,cow", r"labels\.txt:1: class name '' is empty"),
        (
            "cat\nBACKGROUND\n",
            r"labels\.txt:2: class name 'BACKGROUND' is not a class; it is allowed only",
        ),
        ("cat\n../../x\n", r"labels\.txt:2: class name '\.\./\.\./x' contains a path separator"),
        ("cat\nx\x1b[2J\n", r"labels\.txt:2: class name .* contains a control character"),
        ("cat,\ndog,\n", "contains a comma"),
        ("BACKGROUND\n", r"labels\.txt names no class"),
        ("", r"labels\.txt names no class"),
    ],
)
def test_a_wrong_label_file_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_label_file(path)


def test_every_problem_of_a_label_file_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("a\na\n/\n")
    with pytest.raises(DataError, match=r"(?s)labels\.txt:2: .*labels\.txt:3: "):
        read_label_file(path)


def test_class_names_given_by_a_program_are_checked_too(write_voc: WriteVoc) -> None:
    root = write_voc()
    assert VocDetection(root, "test", class_names=["cat", "dog"]).target("a1").labels.tolist() == [1]
    with pytest.raises(DataError, match=r"'a/b' \(index 1\) contains a path separator"):
        VocDetection(root, "test", class_names=["dog", "a/b"])
    with pytest.raises(DataError, match=r"'dog' \(index 1\) is repeated"):
        VocDetection(root, "test", class_names=["dog", "dog"])
    with pytest.raises(DataError, match="both given"):
        VocDetection(root, "test", class_names=["dog"], label_file=root / "labels.txt")


# --------------------------------------------------------------------------- images, hashes, submissions


def test_an_image_is_found_with_any_of_the_known_suffixes(write_voc: WriteVoc) -> None:
    root = write_voc()
    jpeg = root / "JPEGImages" / "a1.jpg"
    expected = opencv_rgb(jpeg)
    for suffix in (".JPEG", ".png"):
        jpeg = jpeg.rename(jpeg.with_suffix(suffix))
        np.testing.assert_array_equal(VocDetection(root, "test").image("a1"), expected)


def test_a_missing_image_is_named_with_its_split(write_voc: WriteVoc) -> None:
    root = write_voc()
    (root / "JPEGImages" / "b2.jpg").unlink()
    with pytest.raises(DataError, match=r"JPEGImages/b2\.jpg does not exist.*split 'test' lists 'b2'"):
        VocDetection(root, "test").image("b2")


def test_an_image_beyond_the_limit_of_the_data_set_is_refused(write_voc: WriteVoc) -> None:
    with pytest.raises(DataError, match=r"a1\.jpg claims 60 x 40 pixels; the limit is 2399"):
        VocDetection(write_voc(), "test", max_pixels=2399).image("a1")


def test_the_content_hash_sees_image_annotation_and_where_one_ends(write_voc: WriteVoc) -> None:
    root = write_voc()
    image, annotation = root / "JPEGImages" / "a1.jpg", root / "Annotations" / "a1.xml"
    dataset = VocDetection(root, "test")
    hashes = [dataset.content_hash("a1")]
    for image_bytes, annotation_bytes in ((b"ab", b"c"), (b"a", b"bc"), (b"ab", b"d"), (b"abc", b"")):
        image.write_bytes(image_bytes)
        annotation.write_bytes(annotation_bytes)
        hashes.append(dataset.content_hash("a1"))
    assert len(set(hashes)) == 5
    framed = b"\0\0\0\0\0\0\0\2ab" + b"\0\0\0\0\0\0\0\1c"
    assert hashes[1] == hashlib.sha256(framed).hexdigest()


def test_a_submission_has_a_file_for_every_class(write_voc: WriteVoc, tmp_path: Path) -> None:
    dataset = VocDetection(write_voc(), "test")
    out = tmp_path / "comp4"
    out.mkdir()
    detections = Detections(
        boxes=np.array([[10, 11, 30, 31]], np.float32), scores=np.array([0.5], np.float32), labels=np.array([11])
    )
    dataset.write_submission(out, iter([("a1", detections)]))
    assert sorted(path.name for path in out.iterdir()) == [f"comp4_det_test_{name}.txt" for name in VOC_CLASSES]
    assert (out / "comp4_det_test_dog.txt").read_text() == "a1 0.5 11 12 31 32\n"
    assert (out / "comp4_det_test_cat.txt").read_text() == ""


# --------------------------------------------------------------------------- the genuine data


@pytest.mark.data
def test_all_genuine_annotations_are_read_and_counted(voc2007: Path) -> None:
    test, trainval = VocDetection(voc2007, "test"), VocDetection(voc2007, "trainval")
    assert (len(test.ids), len(trainval.ids)) == (4952, 5011)
    assert not set(test.ids) & set(trainval.ids)
    targets = [test.target(image_id) for image_id in test.ids]
    assert sum(len(target.labels) for target in targets) == 14976
    assert sum(int(target.difficult.sum()) for target in targets) == 2944
    first = test.target("000001")
    np.testing.assert_array_equal(first.boxes, [[47, 239, 194, 370], [7, 11, 351, 497]])
    assert [VOC_CLASSES[label] for label in first.labels] == ["dog", "person"]


@pytest.mark.data
def test_all_genuine_images_at_hand_are_as_opencv_reads_them(voc2007: Path) -> None:
    paths = sorted((voc2007 / "JPEGImages").glob("*.jpg"))
    assert len(paths) == 26
    splits = [VocDetection(voc2007, "test"), VocDetection(voc2007, "trainval")]
    for path in paths:
        dataset = next(dataset for dataset in splits if path.stem in dataset.ids)
        expected = opencv_rgb(path)
        np.testing.assert_array_equal(dataset.image(path.stem), expected)
