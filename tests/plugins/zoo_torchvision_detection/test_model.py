"""The detector taken apart is torchvision's detector."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from coco_writing import CATEGORIES
from strong_detectors import NUM_COLUMNS, strong_detector
from zoo_core import artifacts
from zoo_core.datasets.shapes import draw_image
from zoo_core.datatypes import Checkpoint, ImageSize, ModelBundle, ModelEntry
from zoo_core.errors import CheckpointError, DataError, PluginError, RegistryError
from zoo_core.plugins import PluginHost
from zoo_torchvision_detection.model import load_model, take_apart

ENTRIES = [entry for entry in PluginHost().catalog().values() if entry.plugin == "torchvision_detection"]
NAMES = tuple(CATEGORIES.values())


def checkpoint(path: Path, *, optimized: bool = False) -> Checkpoint:
    return artifacts.local_checkpoint(path, optimized)


def saved(tmp_path: Path, state: dict[str, torch.Tensor]) -> Checkpoint:
    torch.save(state, tmp_path / "weights.pth")
    return checkpoint(tmp_path / "weights.pth")


def detect(bundle: ModelBundle, images: list[Any]) -> Any:
    inputs = torch.from_numpy(np.stack([bundle.preprocess(image) for image in images]))
    with torch.no_grad():
        outputs = bundle.network(inputs)
    return bundle.decode(outputs, [ImageSize(image.shape[1], image.shape[0]) for image in images])


@pytest.mark.parametrize(("builder", "num_images"), [("ssdlite320_mobilenet_v3_large", 3), ("ssd300_vgg16", 1)])
def test_detections_are_those_of_torchvisions_own_model(builder: str, num_images: int) -> None:
    images = [draw_image("test", index).image for index in range(num_images)]
    detector = strong_detector(builder)
    with torch.no_grad():
        expected = detector([torch.from_numpy(image.transpose(2, 0, 1).copy()) / 255 for image in images])
    found = detect(take_apart(detector, np.arange(NUM_COLUMNS) - 1, "cpu"), images)

    for theirs, ours in zip(expected, found, strict=True):
        assert len(ours.scores) > 50
        assert len(set(ours.labels.tolist())) > 5
        np.testing.assert_array_equal(ours.labels, theirs["labels"].numpy() - 1)
        np.testing.assert_allclose(ours.scores, theirs["scores"].numpy(), atol=1e-6)
        np.testing.assert_allclose(ours.boxes, theirs["boxes"].numpy(), atol=1e-3)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry.model_id))
def test_an_entry_says_what_torchvisions_metadata_say(entry: ModelEntry) -> None:
    weights: Any = torchvision.models.get_weight(entry.options["weights"])
    (reference,) = entry.references

    assert entry.checkpoint is not None
    assert entry.checkpoint.url == weights.url
    assert entry.checkpoint.sha256_prefix == weights.url.removesuffix(".pth").rpartition("-")[2]
    assert reference.value == pytest.approx(weights.meta["_metrics"]["COCO-val2017"]["box_map"] / 100)
    assert f"{type(weights).__name__}.{weights.name}" in reference.source
    assert [weights.meta["categories"][number] for number in CATEGORIES] == list(NAMES)


def test_columns_of_the_published_head_find_their_classes_by_name(entry: ModelEntry, weights: Path) -> None:
    bundle = load_model(entry, checkpoint(weights), ("toothbrush", "stop sign", "person"), "cpu")
    everything = take_apart(strong_detector("ssdlite320_mobilenet_v3_large"), np.arange(NUM_COLUMNS), "cpu")
    images = [draw_image("test", index).image for index in range(2)]

    for chosen, whole in zip(detect(bundle, images), detect(everything, images), strict=True):
        wanted = {90: 0, 13: 1, 1: 2}
        expected = [
            (wanted[label], score) for label, score in zip(whole.labels, whole.scores, strict=True) if label in wanted
        ]
        assert [(label, score) for label, score in zip(chosen.labels, chosen.scores, strict=True)] == expected


def test_a_head_of_your_own_has_a_column_for_each_class_in_the_data_sets_order(
    entry: ModelEntry, tmp_path: Path
) -> None:
    detector = strong_detector("ssdlite320_mobilenet_v3_large", 4)
    given = saved(tmp_path, detector.state_dict())
    bundle = load_model(entry, given, ("person", "car", "dog"), "cpu")

    assert bundle.network(bundle.example_input)[0].shape == (1, 3234, 4)
    assert bundle.decode.labels.tolist() == [-1, 0, 1, 2]  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="head has 4 columns; 2 classes and background are 3"):
        load_model(entry, given, ("person", "car"), "cpu")


def test_a_class_that_the_published_head_does_not_know_is_named(entry: ModelEntry, weights: Path) -> None:
    with pytest.raises(DataError, match="has the class 'unicorn', which the published weights do not know"):
        load_model(entry, checkpoint(weights), ("person", "unicorn"), "cpu")


def test_an_untrained_network_is_the_same_every_time_and_says_so(entry: ModelEntry) -> None:
    before = torch.random.get_rng_state()
    first, second = (load_model(entry, None, NAMES, "cpu") for _ in range(2))

    assert "untrained" in first.notes[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not first.network.training
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name


def test_a_bundle_copies_and_pickles(entry: ModelEntry, weights: Path) -> None:
    bundle = load_model(entry, checkpoint(weights), NAMES, "cpu")
    image = draw_image("test", 0).image
    again = pickle.loads(pickle.dumps((bundle.network, bundle.preprocess, bundle.decode)))  # noqa: S301  # our own
    other = replace(bundle, network=copy.deepcopy(again[0]), preprocess=again[1], decode=again[2])

    np.testing.assert_array_equal(detect(bundle, [image])[0].boxes, detect(other, [image])[0].boxes)


def test_folded_weights_of_a_run_load_as_an_optimized_checkpoint(
    entry: ModelEntry, weights: Path, tmp_path: Path
) -> None:
    bundle = load_model(entry, checkpoint(weights), NAMES, "cpu")
    folded = copy.deepcopy(bundle.network)
    for name, module in list(folded.named_modules()):
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            assert isinstance(module[0], nn.Conv2d), name
            module[0] = torch.nn.utils.fuse_conv_bn_eval(module[0], module[1])
            module[1] = nn.Identity()
    path = tmp_path / "network.safetensors"
    artifacts.save_state_dict(path, folded.state_dict(), {"relu6_policy": "keep"})
    again = load_model(entry, checkpoint(path, optimized=True), NAMES, "cpu")

    with torch.no_grad():
        for ours, theirs in zip(again.network(bundle.example_input), bundle.network(bundle.example_input), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert "batch norms are folded" in again.notes[0]
    artifacts.save_state_dict(path, folded.state_dict(), {"relu6_policy": "replace"})
    with pytest.raises(CheckpointError, match="ReLU6 were changed"):
        load_model(entry, checkpoint(path, optimized=True), NAMES, "cpu")


def test_weights_that_do_not_fit_are_named(entry: ModelEntry, weights: Path, tmp_path: Path) -> None:
    state = artifacts.load_state_dict(weights)
    without = {name: value for name, value in state.items() if not name.startswith("backbone.extra.0")}
    with pytest.raises(CheckpointError, match=r"does not fit .*Missing key.*backbone\.extra\.0"):
        load_model(entry, saved(tmp_path, without), NAMES, "cpu")
    with pytest.raises(CheckpointError, match=r"not of this detector: head\.classification_head\.\S+ is missing"):
        load_model(entry, saved(tmp_path, {"x": torch.zeros(1)}), NAMES, "cpu")
    broken = {**state, "backbone.extra.0.0.0.weight": state["backbone.extra.0.0.0.weight"] * float("nan")}
    with pytest.raises(CheckpointError, match="NaN or infinite values in 1 tensors, first backbone"):
        load_model(entry, saved(tmp_path, broken), NAMES, "cpu")


def test_outputs_that_are_not_finite_are_no_image_without_detections(entry: ModelEntry) -> None:
    bundle = load_model(entry, None, NAMES, "cpu")
    scores, codes = torch.zeros(1, 3234, 91), torch.zeros(1, 3234, 4)
    scores[0, 5, 5] = torch.nan

    with pytest.raises(PluginError, match="outputs are not finite"):
        bundle.decode((scores, codes), [ImageSize(320, 320)])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"builder": "ssd300_vgg16"}, "lacks 'weights'"),
        ({"builder": "ssd300_vgg16", "weights": "SSD300_VGG16_Weights.COCO_V1", "width": 1}, "has 'width', which"),
        ({"builder": "ssd300_vgg61", "weights": "SSD300_VGG16_Weights.COCO_V1"}, "has no weights .* of 'ssd300_vgg61'"),
        ({"builder": "ssd300_vgg16", "weights": "COCO_V1"}, "has no weights 'COCO_V1' of 'ssd300_vgg16'"),
        (
            {"builder": "ssd300_vgg16", "weights": "SSDLite320_MobileNet_V3_Large_Weights.COCO_V1"},
            "has no weights .* of 'ssd300_vgg16'",
        ),
        (
            {"builder": "retinanet_resnet50_fpn", "weights": "RetinaNet_ResNet50_FPN_Weights.COCO_V1"},
            "gives a RetinaNet, which is no single-shot",
        ),
    ],
)
def test_options_that_name_no_detector_are_refused(entry: ModelEntry, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(RegistryError, match=problem):
        load_model(replace(entry, options=options), None, NAMES, "cpu")


def test_a_recipe_or_data_that_are_not_there_say_what_is(entry: ModelEntry) -> None:
    from zoo_core.datatypes import DatasetRequest
    from zoo_core.errors import RecipeError

    host = PluginHost()
    with pytest.raises(RecipeError, match="no recipe 'w4a4'"):
        host.recipe(entry, "w4a4")
    with pytest.raises(DataError, match="evaluates on 'COCO', for which no download is known"):
        host.dataset(entry, DatasetRequest(root=None, split="val2017"))
