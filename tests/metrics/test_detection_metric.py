"""What must not matter does not, what is undefined is None, what cannot be scored is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from metrics.scenes import Scene, detections, target
from zoo_core.datatypes import Detections, DetectionTarget, Metric, Prediction, ProtocolScore, Target
from zoo_core.errors import DataError, PluginError, RegistryError
from zoo_core.metrics.detection import DETECTION_PROTOCOLS, DetectionMetric

NAMES = ("cat", "dog", "cow")
VOC_PROTOCOLS = tuple(protocol for protocol in DETECTION_PROTOCOLS if protocol != "coco")
OBJECT = target((0, 0, 0, 0, 10, 10))
HIT = detections((0, 0.9, 0, 0, 10, 10))

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)

corner = st.integers(0, 12)
side = st.integers(1, 8)
label = st.integers(0, len(NAMES) - 1)
score = st.integers(1, 4).map(lambda value: value / 5)


def box_row(*first: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[float, ...]]:
    return st.tuples(*first, corner, corner, side, side).map(
        lambda row: (*row[:-2], row[-4] + row[-2], row[-3] + row[-1])
    )


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Up to four small images on a coarse grid: ties, duplicates and difficult objects are common."""
    num_images = draw(st.integers(1, 4))
    preds = [detections(*draw(st.lists(box_row(label, score), max_size=6))) for _ in range(num_images)]
    truth = st.lists(box_row(label, st.integers(0, 3).map(lambda value: value == 0)), max_size=4)
    targets = [target(*draw(truth)) for _ in range(num_images)]
    return [f"{number}" for number in range(num_images)], preds, targets


def scored(scene: Scene, protocols: Sequence[str] | None = None, **options: Any) -> dict[str, ProtocolScore]:
    metric = DetectionMetric(NAMES, **options)
    metric.update(*scene)
    return dict(metric.compute(protocols))


def values(scores: dict[str, ProtocolScore]) -> list[Any]:
    return [(protocol, dict(score.values), dict(score.per_class)) for protocol, score in scores.items()]


def with_row(preds: Detections, row: tuple[float, ...]) -> Detections:
    more = detections(row)
    return Detections(
        boxes=np.vstack([preds.boxes, more.boxes]),
        scores=np.append(preds.scores, more.scores),
        labels=np.append(preds.labels, more.labels),
    )


@PROPERTY
@given(scene=scenes(), data=st.data())
def test_the_order_of_images_chunks_and_detections_does_not_matter(scene: Scene, data: st.DataObject) -> None:
    images = data.draw(st.permutations(range(len(scene[0]))))
    metric = DetectionMetric(NAMES)
    for number in images:
        pred = scene[1][number]
        order = np.array(data.draw(st.permutations(range(len(pred.scores)))), dtype=np.int64)
        shuffled = Detections(boxes=pred.boxes[order], scores=pred.scores[order], labels=pred.labels[order])
        metric.update([scene[0][number]], [shuffled], [scene[2][number]])
        metric.compute()  # a look in between changes nothing

    assert values(dict(metric.compute())) == values(scored(scene))


@PROPERTY
@given(scene=scenes(), names=st.permutations(range(len(NAMES))))
def test_the_order_of_classes_does_not_matter(scene: Scene, names: list[int]) -> None:
    new_label = np.array(names)
    ids, preds, targets = scene
    renamed = [Detections(boxes=pred.boxes, scores=pred.scores, labels=new_label[pred.labels]) for pred in preds]
    moved = [DetectionTarget(boxes=t.boxes, labels=new_label[t.labels], difficult=t.difficult) for t in targets]
    metric = DetectionMetric([NAMES[names.index(number)] for number in range(len(NAMES))])
    metric.update(ids, renamed, moved)
    before, after = scored(scene), metric.compute()

    for protocol in DETECTION_PROTOCOLS:
        assert dict(before[protocol].per_class) == dict(after[protocol].per_class)
        assert before[protocol].headline == pytest.approx(after[protocol].headline, abs=1e-12)


@PROPERTY
@given(scene=scenes())
def test_a_perfect_prediction_scores_one_under_every_protocol(scene: Scene) -> None:
    ids, _, targets = scene
    easy = []
    for t in targets:
        # The same object twice could be found only once.
        _, first = np.unique(np.column_stack([t.labels, t.boxes]), axis=0, return_index=True)
        easy.append(DetectionTarget(boxes=t.boxes[first], labels=t.labels[first], difficult=np.zeros(len(first), bool)))
    assume(sum(len(t.labels) for t in easy))
    perfect = [
        Detections(boxes=t.boxes, labels=t.labels, scores=np.linspace(0.3, 0.9, len(t.labels), dtype=np.float32))
        for t in easy
    ]

    for score in scored((ids, perfect, easy)).values():
        assert score.headline == pytest.approx(1.0, abs=1e-12)
        assert all(ap is None or ap > 1 - 1e-12 for ap in score.per_class.values())


@PROPERTY
@given(scene=scenes(), wrong=label)
def test_a_false_detection_below_all_others_never_raises_ap_under_voc_rules(scene: Scene, wrong: int) -> None:
    ids, preds, targets = scene
    more = [with_row(preds[0], (wrong, 0.1, 500, 500, 600, 600)), *preds[1:]]
    before, after = scored(scene, VOC_PROTOCOLS), scored((ids, more, targets), VOC_PROTOCOLS)

    for protocol in VOC_PROTOCOLS:
        for name, ap in after[protocol].per_class.items():
            assert (ap is None) == (before[protocol].per_class[name] is None)
            assert (ap or 0.0) <= (before[protocol].per_class[name] or 0.0) + 1e-12


@PROPERTY
@given(scene=scenes(), data=st.data())
def test_a_duplicate_never_helps_under_voc_rules(scene: Scene, data: st.DataObject) -> None:
    ids, preds, targets = scene
    assume(len(preds[0].scores))
    row = data.draw(st.integers(0, len(preds[0].scores) - 1))
    score_of_copy = float(preds[0].scores[row]) * data.draw(st.sampled_from([1.0, 0.5]))
    copy = (float(preds[0].labels[row]), score_of_copy, *preds[0].boxes[row].tolist())
    more = [with_row(preds[0], copy), *preds[1:]]
    before, after = scored(scene, VOC_PROTOCOLS), scored((ids, more, targets), VOC_PROTOCOLS)

    for protocol in VOC_PROTOCOLS:
        for name, ap in after[protocol].per_class.items():
            assert (ap or 0.0) <= (before[protocol].per_class[name] or 0.0) + 1e-12


def test_no_detection_is_zero_for_classes_with_objects_and_none_for_others() -> None:
    for score in scored((["a"], [detections()], [OBJECT])).values():
        assert dict(score.per_class) == {"cat": 0.0, "dog": None, "cow": None}
        assert score.headline == 0.0
        assert dict(score.num_objects) == {"cat": 1, "dog": 0, "cow": 0}
        assert score.notes == ("No object that counts in these images, so AP is undefined and left out: dog, cow.",)


@pytest.mark.parametrize("preds", [HIT, detections()], ids=["detections", "neither"])
def test_without_ground_truth_map_is_none_with_a_reason(preds: Detections) -> None:
    for score in scored((["a"], [preds], [target()])).values():
        assert score.headline is None
        assert set(score.values.values()) == {None}
        assert score.notes[-1] == "No class can be scored, so mAP is undefined."


def test_before_any_image_every_value_is_none() -> None:
    metric = DetectionMetric(NAMES)

    assert [score.headline for score in metric.compute().values()] == [None] * 5
    assert metric.compute()["coco"].num_images == 0


def test_a_class_with_only_difficult_objects_has_no_ap() -> None:
    for score in scored((["a"], [HIT], [target((0, 1, 0, 0, 10, 10), (1, 0, 0, 0, 9, 9))])).values():
        assert dict(score.per_class) == {"cat": None, "dog": 0.0, "cow": None}
        assert score.num_objects["cat"] == 0


def test_a_class_that_is_not_submitted_is_left_out_of_the_mean() -> None:
    objects = target((0, 0, 0, 0, 10, 10), (1, 0, 0, 0, 10, 10))
    for score in scored((["a"], [HIT], [objects]), submitted=["cat"]).values():
        assert score.per_class["dog"] is None
        assert score.headline == pytest.approx(1.0)
        assert "Not submitted, so left out of the mean: dog, cow." in score.notes


def test_equal_scores_are_ordered_by_image_id_whatever_came_first() -> None:
    miss = detections((0, 0.9, 50, 50, 60, 60))
    found_first = scored((["b", "a"], [miss, HIT], [target(), OBJECT]))
    found_last = scored((["a", "b"], [miss, HIT], [target(), OBJECT]))

    assert found_first["voc_area/devkit"].headline == pytest.approx(1.0)
    assert found_last["voc_area/devkit"].headline == pytest.approx(0.5)


def test_equal_scores_in_one_image_are_ordered_by_box() -> None:
    left, right = (0, 0.9, 0, 0, 10, 10), (0, 0.9, 50, 50, 60, 60)
    right_is_true = target((0, 0, 50, 50, 60, 60))

    for rows in ([left, right], [right, left]):
        assert scored((["a"], [detections(*rows)], [OBJECT]))["voc_area/devkit"].headline == pytest.approx(1.0)
        assert scored((["a"], [detections(*rows)], [right_is_true]))["voc_area/devkit"].headline == pytest.approx(0.5)


def test_a_box_that_is_not_finite_is_false_and_noted() -> None:
    preds = detections((0, 0.9, np.nan, 0, 10, 10), (0, 0.8, 0, 0, np.inf, 10), (0, 0.7, 0, 0, 10, 10))
    score = scored((["a"], [preds], [OBJECT]))["voc_area/devkit"]

    assert score.headline == pytest.approx(1 / 3)
    assert "2 of 3 detections have a box that is not finite; they overlap nothing." in score.notes
    assert np.isnan(preds.boxes[0, 0]), "the caller's array was changed"


def test_the_headline_comes_first_and_the_others_keep_their_order() -> None:
    metric: Metric = DetectionMetric(NAMES, headline="coco")

    assert metric.protocol_ids == ("coco", *VOC_PROTOCOLS)
    assert tuple(metric.compute()) == metric.protocol_ids
    assert DetectionMetric(NAMES).protocol_ids[0] == "voc07_11pt/pytorch-ssd"


def test_only_the_chosen_protocols_are_computed() -> None:
    metric = DetectionMetric(NAMES)
    metric.update(["a"], [HIT], [OBJECT])

    assert list(metric.compute(["coco", "voc_area/devkit"])) == ["coco", "voc_area/devkit"]
    with pytest.raises(RegistryError, match="no detection protocol 'voc'"):
        metric.compute(["voc"])


def test_every_protocol_states_its_rule() -> None:
    definitions = {protocol: score.definition for protocol, score in scored((["a"], [HIT], [OBJECT])).items()}

    assert len(set(definitions.values())) == 5
    assert "11 points" in definitions["voc07_11pt/devkit"]
    assert "x2 - x1 + 1" in definitions["voc_area/devkit"]
    assert "1e-5" in definitions["voc_area/pytorch-ssd"]
    assert "101 recall points" in definitions["coco"]


@pytest.mark.parametrize("protocol", DETECTION_PROTOCOLS)
def test_the_curve_is_the_one_behind_the_score(protocol: str) -> None:
    metric = DetectionMetric(NAMES)
    metric.update(["a"], [detections((0, 0.9, 50, 50, 60, 60), (0, 0.8, 0, 0, 10, 10))], [OBJECT])
    curve = metric.precision_recall("cat", protocol)

    assert curve.recall.tolist() == [0.0, 1.0]
    assert curve.precision.tolist() == [0.0, 0.5]
    assert curve.scores.tolist() == pytest.approx([0.9, 0.8])
    assert len(metric.precision_recall("dog", protocol).recall) == 0


def test_an_unknown_headline_class_or_protocol_names_the_closest() -> None:
    with pytest.raises(RegistryError, match="no detection protocol 'voc07_11pt/devkitt'; the closest is 'voc07_11pt/d"):
        DetectionMetric(NAMES, headline="voc07_11pt/devkitt")
    with pytest.raises(DataError, match="no class 'catt'; the closest is 'cat'"):
        DetectionMetric(NAMES, submitted=["catt"])
    with pytest.raises(DataError, match="no class 'zebra'; known are cat, dog, cow"):
        DetectionMetric(NAMES).precision_recall("zebra", "coco")
    with pytest.raises(RegistryError, match="no detection protocol 'cocoa'; the closest is 'coco'"):
        DetectionMetric(NAMES).precision_recall("cat", "cocoa")


class Mask(Prediction):
    pass


class Caption(Target):
    pass


@pytest.mark.parametrize(
    ("preds", "targets", "kind", "words"),
    [
        ([HIT, HIT], [OBJECT], PluginError, "1 image ids, 2 predictions and 1 targets"),
        ([Mask()], [OBJECT], PluginError, "prediction of image 'a' is a Mask"),
        ([HIT], [Caption()], DataError, "target of image 'a' is a Caption"),
        ([detections((3, 0.5, 0, 0, 1, 1))], [OBJECT], PluginError, "prediction of image 'a' has label 3, but .* 3 cl"),
        ([HIT], [target((-1, 0, 0, 0, 1, 1))], DataError, "target of image 'a' has label -1"),
        ([detections((0, np.nan, 0, 0, 1, 1))], [OBJECT], PluginError, "image 'a' has a detection with the score nan"),
        ([HIT], [target((0, 0, 0, 0, np.inf, 1))], DataError, "annotation of image 'a' has the box .*inf"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name_and_leaves_nothing_behind(
    preds: list[Prediction], targets: list[Target], kind: type[Exception], words: str
) -> None:
    metric = DetectionMetric(NAMES)
    with pytest.raises(kind, match=f"(?i){words}"):
        metric.update(["a"], preds, targets)

    metric.update(["a"], [HIT], [OBJECT])
    assert metric.compute()["coco"].num_images == 1
    assert metric.compute()["coco"].headline == pytest.approx(1.0)


def test_the_image_at_fault_is_found_inside_a_chunk() -> None:
    metric = DetectionMetric(NAMES)
    with pytest.raises(PluginError, match="image 'c' has label 7"):
        metric.update(["a", "b", "c"], [HIT, detections(), detections((7, 0.5, 0, 0, 1, 1))], [OBJECT] * 3)


def test_an_image_given_twice_is_refused() -> None:
    metric = DetectionMetric(NAMES)
    metric.update(["a"], [HIT], [OBJECT])

    with pytest.raises(PluginError, match="Image 'a' was given to the metric twice"):
        metric.update(["a"], [HIT], [OBJECT])
    with pytest.raises(PluginError, match="Image 'b' was given to the metric twice"):
        metric.update(["b", "b"], [HIT, HIT], [OBJECT, OBJECT])
