from __future__ import annotations

import contextlib
import io
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coco_writing import CATEGORIES, edit, near, write_coco
from zoo_core.datasets.coco import CocoDetection
from zoo_core.datasets.coco_annotations import read_category_ids
from zoo_core.datasets.coco_results import read_coco_results
from zoo_core.datasets.comp4 import read_comp4, write_comp4
from zoo_core.datasets.shapes import draw_image
from zoo_core.datatypes import Detections, Prediction
from zoo_core.errors import DataError, PluginError
from zoo_core.metrics.detection import DetectionMetric

FIRST = "000000000139"
EMPTY = "000000001139"
NAMES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")
METRICS_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


def change(**values: Any) -> Callable[[list[Any]], list[Any]]:
    """Give the first entry of a list these values."""
    return lambda entries: [{**entries[0], **values}, *entries[1:]]


def drop(key: str) -> Callable[[list[Any]], list[Any]]:
    return lambda entries: [{name: value for name, value in entries[0].items() if name != key}, *entries[1:]]


def test_ids_are_the_numbers_of_the_file_and_classes_are_sorted_by_category_id(root: Path) -> None:
    dataset = CocoDetection(root, "val2017")

    assert dataset.ids == (FIRST, EMPTY, "000000002139", "000000003139")
    assert dataset.class_names == tuple(CATEGORIES.values())
    assert dataset.category_ids == tuple(CATEGORIES)


def test_a_target_has_labels_without_gaps_boxes_by_corners_areas_and_crowds(root: Path) -> None:
    drawn = draw_image("test", 0)
    target = CocoDetection(root, "val2017").target(FIRST)
    sides = drawn.boxes[:, 2:] - drawn.boxes[:, :2] + 1

    np.testing.assert_array_equal(target.labels, drawn.labels)
    np.testing.assert_array_equal(target.boxes, np.hstack([drawn.boxes[:, :2], drawn.boxes[:, 2:] + 1]))
    assert target.areas is not None
    assert target.crowds is not None
    np.testing.assert_allclose(target.areas, 0.7 * sides.prod(axis=1), atol=0.01)
    assert target.crowds.tolist() == target.difficult.tolist() == [True] + [False] * (len(drawn.labels) - 1)


def test_an_image_without_annotations_has_no_objects(root: Path) -> None:
    target = CocoDetection(root, "val2017").target(EMPTY)

    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == target.difficult.shape == (0,)


def test_annotations_belong_to_their_image_whatever_the_files_order(root: Path) -> None:
    before = CocoDetection(root, "val2017")
    edit(root, "val2017", annotations=lambda entries: entries[::2] + entries[1::2])
    after = CocoDetection(root, "val2017")

    for image_id in before.ids:
        rows = np.lexsort(before.target(image_id).boxes.T), np.lexsort(after.target(image_id).boxes.T)
        np.testing.assert_array_equal(before.target(image_id).boxes[rows[0]], after.target(image_id).boxes[rows[1]])


def test_an_image_is_read_as_rgb(root: Path) -> None:
    image = CocoDetection(root, "val2017").image(FIRST)

    assert np.abs(image.astype(int) - draw_image("test", 0).image).mean() < 12  # JPEG


def test_an_image_of_another_size_than_annotated_is_refused(root: Path) -> None:
    cv2.imwrite(str(root / "val2017" / f"{FIRST}.jpg"), np.zeros((50, 40, 3), np.uint8))

    with pytest.raises(DataError, match=r"000000000139.jpg has 40 x 50 pixels; .*instances_val2017.json says \d+ x"):
        CocoDetection(root, "val2017").image(FIRST)


def test_the_annotated_size_tells_whether_an_exif_orientation_is_applied(root: Path) -> None:
    path = root / "val2017" / f"{FIRST}.jpg"
    stored = CocoDetection(root, "val2017").image(FIRST)
    tag = struct.pack("<HHII", 0x112, 3, 1, 6) + struct.pack("<I", 0)  # a quarter turn
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + tag
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + data[2:])
    np.testing.assert_array_equal(CocoDetection(root, "val2017").image(FIRST), stored)

    height, width = stored.shape[:2]
    edit(root, "val2017", images=change(width=height, height=width))
    np.testing.assert_array_equal(CocoDetection(root, "val2017").image(FIRST), np.rot90(stored, k=-1))


@pytest.mark.parametrize("folder", ["images/val2017", "images"])
def test_images_may_lie_in_a_folder_called_images(root: Path, folder: str) -> None:
    expected = CocoDetection(root, "val2017").image(FIRST)
    (root / folder).parent.mkdir(exist_ok=True)
    (root / "val2017").rename(root / folder)

    np.testing.assert_array_equal(CocoDetection(root, "val2017").image(FIRST), expected)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../../secret.jpg", "'..'"),
        ("/etc/passwd", "starts or ends with '/'"),
        ("a/../b.jpg", "'..'"),
        ("a\\b.jpg", "path separator"),
        (".hidden.jpg", "starts with a dot"),
        ("a\nb.jpg", "control character"),
        ("", "is empty"),
        (7, "is not text"),
    ],
)
def test_a_file_name_cannot_leave_the_folder_of_images(root: Path, name: Any, problem: str) -> None:
    edit(root, "val2017", images=change(file_name=name))

    with pytest.raises(DataError, match=r"images\[0\]: file_name .*" + problem):
        CocoDetection(root, "val2017")


def test_a_file_name_may_have_folders(root: Path) -> None:
    edit(root, "val2017", images=change(file_name="part 1/first.jpg"))

    assert CocoDetection(root, "val2017").image_path(FIRST) == root / "val2017" / "part 1" / "first.jpg"


@pytest.mark.parametrize(
    ("edits", "problem"),
    [
        ({"annotations": change(category_id=12)}, r"annotations\[0\]: category_id is 12, but no category has this id"),
        ({"annotations": change(category_id=True)}, "category_id is True"),
        ({"annotations": change(image_id=140)}, r"annotations\[0\]: image_id is 140, but no image has this id"),
        ({"annotations": change(image_id="139")}, "image_id is '139'"),
        ({"annotations": change(bbox=[1, 2, 3])}, r"bbox is \[1, 2, 3\], not"),
        ({"annotations": change(bbox=[1, 2, -3, 4])}, "width or height is negative"),
        ({"annotations": change(bbox=[4000, 2, 3, 4])}, r"\[4000, 2, 3, 4\], wholly outside the image of \d+ x \d+"),
        ({"annotations": change(bbox=[1, -9, 3, 4])}, r"bbox is \[1, -9, 3, 4\], wholly outside"),
        ({"annotations": lambda entries: [*entries, entries[1]]}, r"\]: id \d+ is that of annotations\[1\] already"),
        ({"annotations": change(bbox=[1, 2, float("nan"), 4])}, "bbox is .1, 2, nan, 4., not"),
        ({"annotations": change(bbox=[1, 2, 1e7, 4])}, "bbox is"),
        ({"annotations": change(bbox=[True, 2, 3, 4])}, "bbox is"),
        ({"annotations": change(iscrowd=2)}, "iscrowd is 2, neither 0 nor 1"),
        ({"annotations": change(area=-1)}, "area is -1, not"),
        ({"annotations": change(area="1")}, "area is '1', not"),
        ({"annotations": [7]}, "image_id is None"),
        ({"images": change(width=0)}, r"images\[0\]: the size is 0 x"),
        ({"images": change(height=10.5)}, r"10.5, not whole numbers"),
        ({"images": change(id=-1)}, r"images\[0\]: id is -1"),
        ({"images": change(id=1139)}, r"images\[1\]: id 1139 is already used by another image"),
        ({"images": change(file_name="000000001139.jpg")}, r"images\[1\]: file_name .* is already used"),
        ({"images": [], "annotations": []}, "images: the list is empty"),
        ({"categories": change(id=2)}, r"categories\[1\]: id 2 is already used by 'person'"),
        ({"categories": change(name="car")}, r"categories\[2\]: name is 'car', which"),
        ({"categories": change(name="a/b")}, "Class name 'a/b' .* path separator"),
        ({"categories": change(id="1")}, r"categories\[0\]: id is '1', not a whole number"),
        ({"images": {}}, "has no list 'images'"),
    ],
)
def test_what_is_wrong_in_an_annotation_file_is_named(root: Path, edits: dict[str, Any], problem: str) -> None:
    edit(root, "val2017", **edits)

    with pytest.raises(DataError, match=problem):
        CocoDetection(root, "val2017")


def test_all_problems_stand_in_one_error_and_a_flood_is_counted(root: Path) -> None:
    edit(root, "val2017", annotations=lambda entries: [{**entry, "iscrowd": 5} for entry in 5 * entries])
    num = len(json.loads((root / "annotations" / "instances_val2017.json").read_text())["annotations"])

    with pytest.raises(DataError, match=rf"(?s)annotations\[0\].*annotations\[9\].*and {num - 10} more"):
        CocoDetection(root, "val2017")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"images": []}', b"null"])
def test_a_file_that_is_no_annotation_file_is_refused(root: Path, content: bytes) -> None:
    (root / "annotations" / "instances_val2017.json").write_bytes(content)

    with pytest.raises(DataError, match=r"instances_val2017.json (is not readable JSON|has no list)"):
        CocoDetection(root, "val2017")


@pytest.mark.parametrize("key", ["area", "iscrowd", "segmentation"])
def test_what_detection_can_do_without_may_be_left_out(root: Path, key: str) -> None:
    edit(root, "val2017", annotations=drop(key))
    target = CocoDetection(root, "val2017").target(FIRST)

    assert target.crowds is not None
    assert target.areas is not None
    assert bool(target.crowds[0]) == (key != "iscrowd")
    width, height = target.boxes[0, 2:] - target.boxes[0, :2]
    assert target.areas[0] == pytest.approx((1.0 if key == "area" else 0.7) * width * height, rel=1e-3)


def test_an_unknown_split_suggests_those_there_are(root: Path) -> None:
    with pytest.raises(DataError, match=r"no instances_val2014.json; the closest is 'val2017'"):
        CocoDetection(root, "val2014")


def test_a_split_cannot_leave_the_folder_of_annotations(root: Path) -> None:
    (root / "instances_x.json").write_text("{}")

    with pytest.raises(DataError, match="has no instances_"):
        CocoDetection(root, "/../../instances_x")


def test_a_folder_without_annotations_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a data set in COCO layout") as caught:
        CocoDetection(tmp_path, "val2017")
    assert "annotations/instances_val2017.json" in str(caught.value.fix)


def test_a_label_file_gives_the_order_of_the_classes(root: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{name}\n" for name in reversed(CATEGORIES.values())))
    dataset = CocoDetection(root, "val2017", label_file=labels)

    np.testing.assert_array_equal(dataset.target(FIRST).labels, 19 - draw_image("test", 0).labels)
    assert dataset.category_ids == tuple(reversed(CATEGORIES))


def test_a_label_file_must_name_the_categories_in_use_and_no_others(root: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("persn\n")
    with pytest.raises(DataError, match=r"names the class 'persn', but .* no such category; the closest is 'person'"):
        CocoDetection(root, "val2017", label_file=labels)

    labels.write_text("person\n")
    with pytest.raises(DataError, match=r"category_id is .*, which is not in the label file"):
        CocoDetection(root, "val2017", label_file=labels)


def test_an_unknown_id_suggests_the_closest(root: Path) -> None:
    with pytest.raises(DataError, match=r"'139' is not in .*instances_val2017.json"):
        CocoDetection(root, "val2017").target("139")


def test_a_content_hash_follows_image_and_annotation_but_no_polygon(root: Path) -> None:
    def hashed() -> str:
        return CocoDetection(root, "val2017").content_hash(FIRST)

    first = hashed()
    edit(root, "val2017", annotations=change(segmentation=[]))
    assert hashed() == first
    found = {first}
    for values in ({"area": 5.0}, {"iscrowd": 0}, {"bbox": [1, 2, 3, 4]}, {"category_id": 90}):
        edit(root, "val2017", annotations=change(**values))
        found.add(hashed())
    (root / "val2017" / f"{FIRST}.jpg").write_bytes(b"other")
    found.add(hashed())

    assert len(found) == 6


def imagined(dataset: CocoDetection, seed: int = 0) -> dict[str, Detections]:
    """Detections near the objects, some of them inside crowds, some of another class, with many equal scores."""
    rng = np.random.default_rng(seed)
    found = {}
    for image_id in dataset.ids:
        target = dataset.target(image_id)
        rows = np.repeat(np.arange(len(target.labels)), 4)
        labels = np.where(rng.random(len(rows)) < 0.2, 7, target.labels[rows])
        boxes = near(target.boxes[rows], rng)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = np.sort(rng.integers(1, 6, len(rows)) / 8)[::-1].astype(np.float32)
        found[image_id] = Detections(boxes=boxes, scores=scores, labels=labels)
    return found


@pytest.mark.parametrize("form", ["coco", "comp4"])
def test_scores_that_differ_beyond_float32_rank_as_in_pycocotools(tmp_path: Path, form: str) -> None:
    dataset = CocoDetection(write_coco(tmp_path / "coco", num_val=12), "val2017")
    found = {}
    for image_id in dataset.ids:
        target = dataset.target(image_id)
        boxes = np.concatenate([target.boxes - np.float32(40), target.boxes])  # the wrong ones win a tie: x1 is smaller
        scores = np.repeat([0.5, 0.5 + 1e-12], len(target.labels))
        best_first = np.argsort(-scores, kind="stable")
        found[image_id] = Detections(
            boxes=boxes[best_first], scores=scores[best_first], labels=np.tile(target.labels, 2)
        )
    dataset.write_submission(tmp_path, iter(found.items()))
    if form == "coco":
        path, numbers = tmp_path / "detections.json", dataset.category_ids
        read = read_coco_results(path, dataset.class_names, dataset.ids, category_ids=numbers)
    else:
        (tmp_path / "comp4").mkdir()
        write_comp4(tmp_path / "comp4", found.items(), class_names=dataset.class_names, split="val2017")
        read = read_comp4(tmp_path / "comp4", dataset.class_names).by_image()

    metric = DetectionMetric(dataset.class_names)
    for image_id in reversed(dataset.ids):  # in parts, as a run is scored
        nothing = Detections(
            boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, int)
        )
        metric.update([image_id], [read.get(image_id, nothing)], [dataset.target(image_id)])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotation_path))
        evaluator = COCOeval(truth, truth.loadRes(str(tmp_path / "detections.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = metric.compute(["coco"])["coco"].values

    assert evaluator.stats[0] > 0.99
    assert values["map"] == pytest.approx(evaluator.stats[0], abs=1e-9)


def test_the_files_of_a_submission_score_in_pycocotools_as_here(tmp_path: Path) -> None:
    dataset = CocoDetection(write_coco(tmp_path / "coco", num_val=12), "val2017")
    found = imagined(dataset)
    dataset.write_submission(tmp_path, iter(found.items()))
    metric = DetectionMetric(dataset.class_names)
    metric.update(list(found), list(found.values()), [dataset.target(image_id) for image_id in found])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotation_path))
        evaluator = COCOeval(truth, truth.loadRes(str(tmp_path / "detections.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = metric.compute(["coco"])["coco"].values

    assert 0.1 < values["map"] < 0.9  # type: ignore[operator]
    assert {name: values[name] for name in NAMES} == pytest.approx(
        dict(zip(NAMES, evaluator.stats.tolist(), strict=False)), abs=1e-9
    )

    # The program in docs/metrics.md says the same.
    pytest.importorskip("faster_coco_eval")
    (program,) = re.findall(r"```python\n(from faster_coco_eval .*?)```", METRICS_PAGE.read_text(), flags=re.DOTALL)
    for there, here in (
        ("coco/annotations/instances_val2017.json", str(dataset.annotation_path)),
        ("runs/my-run/coco/w8a8/detections.json", str(tmp_path / "detections.json")),
    ):
        assert there in program
        program = program.replace(there, here)
    variables: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(program, variables)  # noqa: S102  # our own page
    assert {name: values[name] for name in NAMES} == pytest.approx(
        dict(zip(NAMES, list(variables["evaluator"].stats), strict=False)), abs=1e-9
    )


def test_a_submission_is_read_back(root: Path, tmp_path: Path) -> None:
    dataset = CocoDetection(root, "val2017")
    found = imagined(dataset)
    dataset.write_submission(tmp_path, iter(found.items()))
    ids = read_category_ids(root, "val2017", dataset.class_names)
    back = read_coco_results(tmp_path / "detections.json", dataset.class_names, dataset.ids, category_ids=ids)

    assert sorted(back) == [image_id for image_id in dataset.ids if image_id != EMPTY]
    for image_id, detections in back.items():
        np.testing.assert_array_equal(detections.scores, found[image_id].scores)
        assert sorted(map(tuple, detections.boxes.tolist())) == sorted(map(tuple, found[image_id].boxes.tolist()))


def test_category_ids_are_those_of_the_file_in_the_order_asked_for(root: Path) -> None:
    assert read_category_ids(root, "val2017", ("toothbrush", "person")) == (90, 1)
    assert read_category_ids(root, "test", ("person",)) is None
    with pytest.raises(DataError, match="has no category 'unicorn'"):
        read_category_ids(root, "val2017", ("unicorn",))


def test_a_category_that_no_class_has_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('[{"image_id": 139, "category_id": 12, "bbox": [0, 0, 1, 1], "score": 1}]')

    with pytest.raises(DataError, match="category_id is '12'; the 20 classes are 1 to 90, with gaps"):
        read_coco_results(tmp_path / "r.json", tuple(CATEGORIES.values()), (FIRST,), category_ids=tuple(CATEGORIES))


def test_a_submission_without_detections_is_an_empty_list(root: Path, tmp_path: Path) -> None:
    CocoDetection(root, "val2017").write_submission(tmp_path, iter([]))

    assert json.loads((tmp_path / "detections.json").read_text()) == []


def test_a_submission_refuses_what_it_cannot_hold(root: Path, tmp_path: Path) -> None:
    dataset = CocoDetection(root, "val2017")
    broken = Detections(
        boxes=np.array([[0, 0, np.inf, 1]], np.float32), scores=np.ones(1, np.float32), labels=np.zeros(1, np.int64)
    )

    with pytest.raises(PluginError, match=f"Image '{FIRST}' has a score or a box that is not finite"):
        dataset.write_submission(tmp_path, iter([(FIRST, broken)]))
    with pytest.raises(PluginError, match="is a Prediction, not a Detections"):
        dataset.write_submission(tmp_path, iter([(FIRST, Prediction())]))
