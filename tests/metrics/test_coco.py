"""The COCO protocol against pycocotools, and its edges by hand."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from metrics.scenes import RealScene, Scene, detections, drawn_scene, target
from zoo_core.datasets.voc import VOC_CLASSES
from zoo_core.datatypes import DetectionTarget, ProtocolScore
from zoo_core.errors import DataError
from zoo_core.metrics.detection import DetectionMetric
from zoo_core.metrics.gathering import ImageGatherer

STATS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")


class EvalWithIgnore(COCOeval):  # type: ignore[misc]  # pycocotools has no types
    """pycocotools 2.0.11 overwrites ``ignore`` by ``iscrowd`` in ``_prepare``; a crowd would be matched otherwise.

    Where no object is difficult without being a crowd, this changes nothing.
    """

    def _prepare(self) -> None:
        super()._prepare()
        for objects in self._gts.values():
            for item in objects:
                item["ignore"] = item["difficult"]


def as_coco(scene: Scene, num_classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An instances file's content and a results file's."""
    gatherer = ImageGatherer([str(label) for label in range(num_classes)])
    gatherer.add(*scene)
    images = gatherer.gathered()  # pycocotools keeps the order of equal scores; this is ours
    objects, found = images.objects, images.detections
    truth: dict[str, Any] = {
        "images": [{"id": number} for number in range(len(images.image_ids))],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": [
            {
                "id": row + 1,
                "image_id": int(objects.images[row]),
                "category_id": int(objects.labels[row]),
                "bbox": xywh(objects.boxes[row]),
                "area": float(objects.areas[row]),
                "iscrowd": int(objects.crowds[row]),
                "difficult": int(objects.difficult[row]),
            }
            for row in range(len(objects))
        ],
    }
    results = [
        {
            "image_id": int(found.images[row]),
            "category_id": int(found.labels[row]),
            "bbox": xywh(found.boxes[row]),
            "score": float(found.scores[row]),
        }
        for row in range(len(found))
    ]
    return truth, results


def pycocotools_score(scene: Scene, num_classes: int) -> tuple[dict[str, float], dict[int, float]]:
    """The summary's values and each class's AP."""
    truth, results = as_coco(scene, num_classes)
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = truth
        ground_truth.createIndex()
        evaluator = EvalWithIgnore(ground_truth, ground_truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # (T, 101, C)
    per_class = {label: float(precision[:, :, label].mean()) for label in range(num_classes)}
    return dict(zip(STATS, evaluator.stats.tolist(), strict=False)), per_class


def xywh(box: Any) -> list[float]:
    x1, y1, x2, y2 = box.astype(float).tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def coco_score(scene: Scene, num_classes: int) -> ProtocolScore:
    metric = DetectionMetric([str(label) for label in range(num_classes)])
    metric.update(*scene)
    return metric.compute()["coco"]


def assert_equal_to_pycocotools(scene: Scene, num_classes: int) -> None:
    stats, per_class = pycocotools_score(scene, num_classes)
    score = coco_score(scene, num_classes)
    undefined = -1.0
    ours = {name: undefined if value is None else value for name, value in score.values.items()}
    classes = {int(name): undefined if ap is None else ap for name, ap in score.per_class.items()}

    assert ours == pytest.approx(stats, abs=1e-9)
    assert classes == pytest.approx(per_class, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_random_scenes_score_as_in_pycocotools(seed: int) -> None:
    assert_equal_to_pycocotools(drawn_scene(seed, num_images=15, num_classes=4, crowded=seed % 2 == 0), 4)


def test_the_hundred_best_detections_of_an_image_and_class_count_as_in_pycocotools() -> None:
    rng = np.random.default_rng(5)
    corners = rng.uniform(0, 100, (150, 2))
    rows = np.column_stack([np.zeros(150), rng.random(150), corners, corners + rng.uniform(20, 60, (150, 2))])
    objects = np.column_stack([np.zeros(120), rng.random(120) < 0.1, rows[30:, 2:]])

    assert_equal_to_pycocotools((["a"], [detections(*rows)], [target(*objects)]), 1)


def test_whole_number_boxes_with_many_equal_overlaps_score_as_in_pycocotools() -> None:
    rng = np.random.default_rng(11)
    preds, targets = [], []
    for _ in range(30):
        corners = rng.integers(0, 4, (14, 2))
        boxes = np.hstack([corners, corners + rng.integers(2, 6, (14, 2))])
        labels = rng.integers(0, 2, 14)
        preds.append(detections(*np.column_stack([labels[:8], rng.integers(1, 4, 8) / 4, boxes[:8]])))
        targets.append(target(*np.column_stack([labels[8:], rng.random(6) < 0.3, boxes[8:]])))

    assert_equal_to_pycocotools(([f"{number:02d}" for number in range(30)], preds, targets), 2)


def with_crowds_and_areas(scene: Scene, seed: int) -> Scene:
    """Every fifth object or so becomes a large crowd; objects cover a part of their box alone."""
    rng = np.random.default_rng(seed)
    image_ids, preds, targets = scene
    changed = []
    for found in targets:
        num = len(found.labels)
        crowds = rng.random(num) < 0.2
        grown = found.boxes + np.float32(25) * np.array([-1, -1, 1, 1], np.float32)
        boxes = np.where(crowds[:, None], grown, found.boxes)
        areas = np.prod((boxes[:, 2:] - boxes[:, :2]).astype(np.float64), axis=1) * rng.uniform(0.3, 0.9, num)
        changed.append(DetectionTarget(boxes=boxes, labels=found.labels, difficult=crowds, crowds=crowds, areas=areas))
    return image_ids, preds, changed


@pytest.mark.parametrize("seed", range(8))
def test_crowds_and_annotated_areas_score_as_in_pycocotools(seed: int) -> None:
    scene = with_crowds_and_areas(drawn_scene(seed, num_images=15, num_classes=4, crowded=seed % 2 == 0), seed)
    plain = [DetectionTarget(boxes=t.boxes, labels=t.labels, difficult=t.difficult, areas=t.areas) for t in scene[2]]

    assert_equal_to_pycocotools(scene, 4)
    assert coco_score(scene, 4).values != coco_score((scene[0], scene[1], plain), 4).values  # crowds matter here


@pytest.mark.parametrize("seed", range(3))
def test_crowds_and_annotated_areas_score_as_in_faster_coco_eval(seed: int) -> None:
    faster = pytest.importorskip("faster_coco_eval")
    scene = with_crowds_and_areas(drawn_scene(seed, num_images=25, num_classes=3, crowded=True), seed)
    truth, results = as_coco(scene, 3)
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = faster.COCO(truth)
        evaluator = faster.COCOeval_faster(ground_truth, ground_truth.loadRes(results), "bbox", print_function=print)
        evaluator.run()
    values = {name: -1.0 if value is None else value for name, value in coco_score(scene, 3).values.items()}

    assert values == pytest.approx(dict(zip(STATS, evaluator.stats, strict=False)), abs=1e-9)


def test_a_crowd_takes_any_number_of_detections_that_lie_in_it() -> None:
    crowd = target((0, 1, 0, 0, 100, 100), (0, 0, 200, 0, 210, 10))
    crowd = DetectionTarget(
        boxes=crowd.boxes, labels=crowd.labels, difficult=crowd.difficult, crowds=np.array([True, False])
    )
    inside = [(0, 0.9, 10 * step, 0, 10 * step + 10, 10) for step in range(5)]
    score = coco_score((["a"], [detections(*inside, (0, 0.5, 200, 0, 210, 10))], [crowd]), 1)

    assert score.values["map"] == pytest.approx(1.0)
    assert score.num_objects == {"0": 1}


def test_a_crowd_that_would_count_is_refused() -> None:
    wrong = DetectionTarget(
        boxes=np.zeros((1, 4), np.float32),
        labels=np.zeros(1, np.int64),
        difficult=np.array([False]),
        crowds=np.array([True]),
    )

    with pytest.raises(DataError, match=r"image 'a' has an object .* crowd True and difficult False"):
        coco_score((["a"], [detections()], [wrong]), 1)


@pytest.mark.data
@pytest.mark.slow
def test_real_detections_score_as_in_pycocotools(real_scenes: dict[str, RealScene]) -> None:
    scene = real_scenes["yolo2_b"].scene

    assert_equal_to_pycocotools(scene, len(VOC_CLASSES))


def test_an_iou_equal_to_the_threshold_is_a_match() -> None:
    # 1/2 is reached, 0.55 is not.
    score = coco_score((["a"], [detections((0, 0.9, 0, 0, 1, 1))], [target((0, 0, 0, 0, 2, 1))]), 1)

    assert score.values["map_50"] == pytest.approx(1.0)
    assert score.values["map"] == pytest.approx(0.1)


def test_a_detection_turns_to_its_second_best_object_when_the_best_is_taken() -> None:
    objects = target((0, 0, 0, 0, 10, 10), (0, 0, 1, 0, 11, 10))
    preds = detections((0, 0.9, 0, 0, 10, 10), (0, 0.8, 0, 0, 10, 10))
    score = coco_score((["a"], [preds], [objects]), 1)

    assert score.values["map_50"] == pytest.approx(1.0)


def test_a_difficult_object_is_taken_once_and_then_a_detection_on_it_is_false() -> None:
    objects = target((0, 1, 0, 0, 10, 10), (0, 0, 50, 50, 60, 60))
    preds = detections((0, 0.9, 0, 0, 10, 10), (0, 0.8, 0, 0, 10, 10), (0, 0.7, 50, 50, 60, 60))
    score = coco_score((["a"], [preds], [objects]), 1)

    assert score.values["map_50"] == pytest.approx(0.5)  # ignored, false, found


def test_an_easy_object_is_preferred_to_a_difficult_one_that_overlaps_more() -> None:
    objects = target((0, 1, 0, 0, 10, 10), (0, 0, 2, 0, 12, 10))
    score = coco_score((["a"], [detections((0, 0.9, 0, 0, 10, 10))], [objects]), 1)

    assert score.values["map_50"] == pytest.approx(1.0)


def test_object_sizes_without_objects_have_no_value() -> None:
    score = coco_score((["a"], [detections((0, 0.9, 0, 0, 10, 10))], [target((0, 0, 0, 0, 10, 10))]), 1)

    assert score.values["map_small"] == pytest.approx(1.0)
    assert score.values["map_medium"] is None
    assert score.values["map_large"] is None
