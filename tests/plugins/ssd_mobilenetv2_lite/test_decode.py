from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ssd_mobilenetv2_lite.decode import decode, decode_boxes
from ssd_mobilenetv2_lite.priors import make_priors
from zoo_core.datatypes import Detections, ImageSize
from zoo_core.errors import PluginError
from zoo_core.inference import decode_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ssd_mobilenetv2_lite.network import MobileNetV2SSDLite

SIZE = ImageSize(width_px=500, height_px=375)


def outputs_of(probabilities: dict[int, list[float]], num_classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs for one image whose priors have the given class probabilities, all others being background."""
    scores = torch.full((1, 3000, num_classes), -40.0)
    scores[..., 0] = 40.0
    for prior, values in probabilities.items():
        scores[0, prior] = torch.tensor(values, dtype=torch.float64).log().float()
    return scores, torch.zeros(1, 3000, 4)


@pytest.mark.data
def test_boxes_and_detections_equal_those_of_the_published_predictor(
    seeded_network: MobileNetV2SSDLite,
    golden: dict[str, NDArray[Any]],
    golden_input: torch.Tensor,
    image_id: str,
    voc_images: dict[str, NDArray[np.uint8]],
) -> None:
    with torch.inference_mode():
        outputs = seeded_network(golden_input)
    boxes = golden[f"{image_id}_boxes_xyxy_normalized"]
    np.testing.assert_allclose(decode_boxes(outputs[1])[0].numpy(), boxes, rtol=0, atol=1e-4)
    height, width, _ = voc_images[image_id].shape
    size = ImageSize(width_px=width, height_px=height)
    (found,) = decode(outputs, [size])
    expected = Detections(
        boxes=golden[f"{image_id}_det_boxes_px"],
        scores=golden[f"{image_id}_det_scores"],
        labels=golden[f"{image_id}_det_labels"],
    )
    assert abs(len(found.scores) - len(expected.scores)) <= 2
    assert_all_found(expected, found, size, all_boxes=boxes, all_scores=golden[f"{image_id}_scores"])
    assert_all_found(found, expected, size, all_boxes=boxes, all_scores=golden[f"{image_id}_scores"])


def assert_all_found(
    wanted: Detections, among: Detections, size: ImageSize, *, all_boxes: NDArray[Any], all_scores: NDArray[Any]
) -> None:
    """Each wanted detection is among the others within 1e-4, unless one of its decisions hung on a tie."""
    scale = np.array([*size, *size], dtype=np.float32)
    for box, score, label in zip(wanted.boxes / scale, wanted.scores, wanted.labels, strict=True):
        near = (among.labels == label) & (abs(among.scores - score) < 1e-4)
        if (abs(among.boxes[near] / scale - box) < 1e-4).all(axis=1).any():
            continue
        class_scores = all_scores[:, label + 1]
        last_candidate = np.sort(class_scores)[-200]
        rivals = all_boxes[class_scores >= score - 1e-4]
        assert abs(score - last_candidate) < 1e-4 or (abs(iou(rivals, box) - 0.45) < 1e-3).any(), (box, score, label)


def iou(boxes: NDArray[Any], box: NDArray[Any]) -> NDArray[Any]:
    overlap = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    inter = overlap.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - inter
    return np.asarray(inter / (union + 1e-5))


def test_a_score_equal_to_the_threshold_is_dropped() -> None:
    threshold = np.float32(0.01)
    equal_logit = next(
        logit
        for logit in np.linspace(-4.5952, -4.5950, 20001, dtype=np.float32)
        if torch.softmax(torch.tensor([[0.0, float(logit), -90.0]]), dim=1)[0, 1].item() == float(threshold)
    )
    above_logit = next(
        logit
        for logit in np.linspace(equal_logit, -4.59, 20001, dtype=np.float32)
        if torch.softmax(torch.tensor([[0.0, float(logit), -90.0]]), dim=1)[0, 1].item() > float(threshold)
    )
    found = []
    for logit in (equal_logit, above_logit):
        scores, locations = outputs_of({})
        scores[0, 7] = torch.tensor([0.0, float(logit), -90.0])
        found.append(len(decode((scores, locations), [SIZE])[0].scores))
    assert found == [0, 1]


def test_a_prior_decodes_to_itself_and_is_scaled_to_the_image() -> None:
    (found,) = decode(outputs_of({3: [0.1, 0.2, 0.7]}), [SIZE])
    cx, cy, width, height = make_priors()[3].tolist()
    corners = np.array([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    assert found.labels.tolist() == [1, 0]  # 0-based without background
    np.testing.assert_allclose(found.scores, [0.7, 0.2], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, np.stack([corners * [500, 375, 500, 375]] * 2), rtol=1e-5)
    assert found.boxes[0, 0] < 0  # reaches over the left edge: not clipped
    assert [found.boxes.dtype, found.scores.dtype, found.labels.dtype] == [np.float32, np.float32, np.int64]


def test_locations_are_scaled_by_their_variances() -> None:
    locations = torch.zeros(3000, 4)
    locations[100] = torch.tensor([2.0, -1.0, 0.5, 5.0])
    cx, cy, width, height = make_priors()[100].tolist()
    x1, y1, x2, y2 = decode_boxes(locations)[100].tolist()
    assert (x1 + x2) / 2 == pytest.approx(cx + 0.2 * width)
    assert (y1 + y2) / 2 == pytest.approx(cy - 0.1 * height)
    assert x2 - x1 == pytest.approx(width * np.exp(0.1))
    assert y2 - y1 == pytest.approx(height * np.exp(1.0))


def test_detections_fall_by_score_and_ties_keep_the_order_of_classes() -> None:
    far_apart = (0, 18 * 6, 18 * 19 * 6)
    outputs = outputs_of({far_apart[0]: [0.4, 0.1, 0.5], far_apart[1]: [0.3, 0.5, 0.2], far_apart[2]: [0.0, 0.5, 0.5]})
    (found,) = decode(outputs, [SIZE])
    assert list(found.scores) == sorted(found.scores, reverse=True)
    tied = found.scores == found.scores[0]
    assert found.labels[tied].tolist() == sorted(found.labels[tied].tolist())
    assert len(found.scores) == 6


def test_an_image_without_detections_has_boxes_of_shape_0_4() -> None:
    (found,) = decode(outputs_of({}), [SIZE])
    assert found.boxes.shape == (0, 4)
    assert found.labels.dtype == np.int64


def test_a_batch_gives_what_its_images_give_alone() -> None:
    scores = torch.randn(3, 3000, 4, generator=torch.Generator().manual_seed(0)) * 3
    locations = torch.randn(3, 3000, 4, generator=torch.Generator().manual_seed(1))
    sizes = [ImageSize(width_px=100 * (i + 1), height_px=50) for i in range(3)]
    together = decode((scores, locations), sizes)
    for i, found in enumerate(together):
        (alone,) = decode((scores[i : i + 1], locations[i : i + 1]), sizes[i : i + 1])
        for name, array in found.arrays().items():
            assert np.array_equal(array, alone.arrays()[name])
        assert np.bincount(found.labels).max() <= 200


@pytest.mark.parametrize(("which", "value"), [(0, float("nan")), (0, float("inf")), (1, float("nan"))])
def test_outputs_that_are_not_finite_are_an_error(which: int, value: float) -> None:
    outputs = outputs_of({5: [0.5, 0.4, 0.1]})
    outputs[which][0, 5, 1 + which] = value
    with pytest.raises(PluginError, match="outputs are not finite"):
        decode(outputs, [SIZE])


def test_a_box_that_overflows_is_handed_on_so_that_the_image_counts_as_wrong() -> None:
    outputs = outputs_of({5: [0.5, 0.4, 0.1]})
    outputs[1][0, 5, 2] = 1e5
    assert decode_finite(decode, outputs, [SIZE]).finite == (False,)
    assert not np.isfinite(decode(outputs, [SIZE])[0].boxes).all()


def test_decode_pickles_for_worker_processes() -> None:
    assert pickle.loads(pickle.dumps(decode)) is decode  # noqa: S301
