"""Top-k accuracy against torchmetrics and by hand; ties, edges, and what a score near zero is blamed on."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from zoo_core.datatypes import Classification, ClassTarget, Metric, ProtocolScore
from zoo_core.errors import DataError, PluginError, RegistryError
from zoo_core.metrics.classification import CLASSIFICATION_PROTOCOLS, ClassificationMetric, rank_classes

NAMES = tuple(f"class {index}" for index in range(8))


def ranked(*logits: float) -> Classification:
    return rank_classes(np.array(logits, np.float32))


def scored(logits: NDArray[Any], truth: list[int], **options: str) -> dict[str, ProtocolScore]:
    return dict(filled(logits, truth, **options).compute())


def filled(logits: NDArray[Any], truth: list[int], **options: str) -> ClassificationMetric:
    names = tuple(f"class {index}" for index in range(logits.shape[1]))
    metric = ClassificationMetric(names, **options)
    ids = [f"{index:04d}" for index in range(len(truth))]
    metric.update(ids, [rank_classes(row) for row in logits], [ClassTarget(label=label) for label in truth])
    return metric


def random_logits(num: int, num_classes: int = 8, *, levels: int | None = None) -> NDArray[Any]:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(num, num_classes)).astype(np.float32)
    return logits if levels is None else np.round(logits * levels / 4).astype(np.float32)


# --------------------------------------------------------------------------- ranking


def test_classes_are_ranked_by_logit_and_equal_ones_by_index() -> None:
    found = ranked(1.0, 3.0, 3.0, -2.0)
    assert found.labels.tolist() == [1, 2, 0, 3]
    assert found.scores.tolist() == pytest.approx([0.4668, 0.4668, 0.0632, 0.0031], abs=5e-4)


def test_the_classes_kept_are_the_best_and_those_that_tie_with_the_last() -> None:
    found = rank_classes(np.array([5, 4, 3, 3, 3, 2], np.float32), num_kept=3)
    assert found.labels.tolist() == [0, 1, 2, 3, 4]
    assert found.scores.sum() < 1  # the share of what was left out is not given to what was kept


def test_logits_that_differ_by_the_last_bit_do_not_tie() -> None:
    low = np.float32(17.0)
    found = ranked(low, np.nextafter(low, np.float32(18)))
    assert found.labels.tolist() == [1, 0]
    assert found.scores[0] > found.scores[1]


def test_an_image_with_an_output_that_is_not_finite_has_no_class() -> None:
    for values in ((np.nan, 1.0), (np.inf, 1.0), (-np.inf, 1.0), (np.nan, np.inf)):
        assert ranked(*values).labels.shape == (0,)


# --------------------------------------------------------------------------- accuracy


def test_accuracy_agrees_with_torchmetrics_where_nothing_ties() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    logits, truth = random_logits(300, 12), np.random.default_rng(4).integers(0, 12, 300).tolist()
    scores = scored(logits, truth)
    for protocol in CLASSIFICATION_PROTOCOLS:
        for key, k, average in (("top1", 1, "micro"), ("top5", 5, "micro"), ("top1_balanced", 1, "macro")):
            expected = functional.multiclass_accuracy(
                torch.from_numpy(logits), torch.tensor(truth), num_classes=12, top_k=k, average=average
            )
            assert scores[protocol].values[key] == pytest.approx(float(expected), abs=1e-6)


def test_a_tie_goes_to_the_lower_index_or_is_shared() -> None:
    logits = np.array([[0, 2, 2, 1, 0, 0, 0], [0, 2, 2, 1, 0, 0, 0]], np.float32)
    first, expected = scored(logits, [1, 2]).values()
    assert first.values == {"top1": 0.5, "top5": 1.0, "top1_balanced": 0.5}
    assert first.per_class["class 1"] == 1.0
    assert first.per_class["class 2"] == 0.0
    assert expected.values["top1"] == 0.5
    assert expected.per_class["class 1"] == expected.per_class["class 2"] == 0.5


def test_a_tie_across_the_fifth_place_is_counted_by_its_odds() -> None:
    # Three classes ahead, four tie for places four and five: two of four.
    logits = np.array([[9, 8, 7, 1, 1, 1, 1, 0]], np.float32)
    assert scored(logits, [6])["topk/expected"].values["top5"] == 0.5
    assert scored(logits, [6])["topk/first"].values["top5"] == 0.0
    assert scored(logits, [4])["topk/first"].values["top5"] == 1.0


@given(st.lists(st.integers(0, 2), min_size=6, max_size=6), st.integers(0, 5))
def test_the_expected_accuracy_is_the_mean_over_every_order_of_the_classes(levels: list[int], truth: int) -> None:
    values = scored(np.array([levels], np.float32), [truth])["topk/expected"].values
    for key, k in (("top1", 1), ("top5", 5)):
        hits = [
            truth in sorted(range(6), key=lambda label: (-levels[label], order[label]))[:k]
            for order in permutations(range(6))
        ]
        assert values[key] == pytest.approx(np.mean(hits))


def test_the_order_of_images_and_chunks_does_not_matter() -> None:
    logits, truth = random_logits(40, levels=6), np.random.default_rng(5).integers(0, 8, 40).tolist()
    whole = filled(logits, truth)
    parts = ClassificationMetric(NAMES)
    for index in np.random.default_rng(6).permutation(40).tolist():
        parts.update([f"{index:04d}"], [rank_classes(logits[index])], [ClassTarget(label=truth[index])])
    assert parts.compute() == whole.compute()


def test_balanced_accuracy_gives_each_class_one_vote() -> None:
    logits = np.eye(8, dtype=np.float32)[[0, 0, 0, 0]]
    score = scored(logits, [0, 0, 0, 1])["topk/first"]
    assert score.values["top1"] == 0.75
    assert score.values["top1_balanced"] == 0.5
    assert score.num_objects["class 0"] == 3
    assert score.per_class["class 2"] is None
    assert "left out of top1_balanced: class 2" in score.notes[0]


def test_top5_of_five_classes_is_undefined_and_says_so() -> None:
    score = scored(np.eye(5, dtype=np.float32), [0, 1, 2, 3, 4])["topk/first"]
    assert score.values == {"top1": 1.0, "top5": None, "top1_balanced": 1.0}
    assert score.notes == ("top5 is meaningless with 5 classes, so it is undefined.",)


def test_nothing_scored_is_undefined_not_zero() -> None:
    score = ClassificationMetric(NAMES).compute()["topk/first"]
    assert score.headline is None
    assert score.notes == ("No image was scored, so accuracy is undefined.",)


def test_an_image_without_a_finite_output_is_wrong_and_counted() -> None:
    logits = np.full((2, 8), np.nan, np.float32)
    logits[0] = np.eye(8)[3]
    score = scored(logits, [3, 3])["topk/expected"]
    assert score.headline == 0.5
    assert "1 images have no predicted class, because outputs were not finite; they count as wrong." in score.notes


def test_the_headline_comes_first_and_the_metric_is_what_the_core_asks_for() -> None:
    metric: Metric = ClassificationMetric(NAMES, headline="topk/expected")
    assert metric.protocol_ids == ("topk/expected", "topk/first")
    assert list(metric.compute()) == ["topk/expected", "topk/first"]
    with pytest.raises(RegistryError, match="no classification protocol 'top/first'; the closest is 'topk/first'"):
        ClassificationMetric(NAMES, headline="top/first")


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([8], [0.5], "label 8; there are 8 classes"),
        ([-1], [0.5], "label -1; there are 8 classes"),
        ([1, 1], [0.5, 0.4], "names a class twice"),
        ([1, 2], [0.4, 0.5], "not finite and descending"),
        ([1], [np.nan], "not finite and descending"),
    ],
)
def test_a_prediction_that_cannot_be_scored_is_refused_and_nothing_is_added(
    labels: list[int], scores: list[float], message: str
) -> None:
    metric = ClassificationMetric(NAMES)
    preds = [ranked(1, 2), Classification(labels=np.array(labels), scores=np.array(scores))]
    targets = [ClassTarget(label=0), ClassTarget(label=0)]
    with pytest.raises(PluginError, match=message):
        metric.update(["a", "b"], preds, targets)
    metric.update(["a"], preds[:1], targets[:1])
    assert metric.compute()["topk/first"].num_images == 1


def test_an_image_twice_or_a_label_outside_the_classes_is_refused() -> None:
    metric = ClassificationMetric(NAMES)
    metric.update(["a"], [ranked(1, 2)], [ClassTarget(label=0)])
    with pytest.raises(PluginError, match="'a' is scored twice"):
        metric.update(["a"], [ranked(1, 2)], [ClassTarget(label=0)])
    with pytest.raises(DataError, match="'b' has label 8; there are 8 classes"):
        metric.update(["b"], [ranked(1, 2)], [ClassTarget(label=8)])


# --------------------------------------------------------------------------- suspects

TRUTH = np.arange(200) % 10


def suspects(best: NDArray[Any]) -> str:
    return " ".join(filled(np.eye(10, dtype=np.float32)[best], TRUTH.tolist()).suspects())


def test_right_labels_arouse_no_suspicion() -> None:
    assert suspects(TRUTH) == ""


def test_a_shift_by_one_is_named_with_its_figure() -> None:
    # As with a background class in front: label 0 never occurs, and the last class has nowhere to go.
    best = np.where(TRUTH < 9, TRUTH + 1, 0)
    assert (
        "Labels look shifted: 0.0% of 200 images are right; with -1 added to every predicted label 90.0%"
        in suspects(best)
    )


def test_a_permutation_is_found_on_one_half_and_confirmed_on_the_other() -> None:
    order = np.array([3, 7, 1, 9, 0, 2, 8, 4, 5, 6])
    text = suspects(order[TRUTH])
    assert "Labels look permuted: 0.0% of 200 images are right; with each label renamed" in text
    assert "100.0% would be" in text
    assert "'class 9' for 'class 3'" in text


def test_labels_at_chance_are_blamed_on_what_remains() -> None:
    best = np.random.default_rng(0).integers(0, 10, 200)
    text = suspects(best)
    assert "chance is 10.0%, and no shift or renaming of labels explains it" in text
    assert "BGR instead of RGB" in text


def test_one_answer_to_everything_is_named() -> None:
    assert "All images are predicted as 'class 4'" in suspects(np.full(200, 4))


def test_a_dead_network_and_one_that_overflows_are_named() -> None:
    flat = filled(np.zeros((20, 8), np.float32), [0] * 20)
    assert "20 of 20 images give every class the same score" in " ".join(flat.suspects())
    broken = filled(np.full((20, 8), np.nan, np.float32), [0] * 20)
    assert "20 of 20 images have no finite output" in " ".join(broken.suspects())
