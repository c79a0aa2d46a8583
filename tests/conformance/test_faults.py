"""Each silent failure, put into a plugin that is otherwise healthy, is found by the check that is meant to find it."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from conformance.faulty_toy import FaultyToy
from toy_detector import hooks as toy
from toy_detector.model import ToyNetwork
from zoo_core.conformance import CHECKS, Outcome, Subject, run_checks
from zoo_core.datatypes import Detections, DetectionTarget, ImageSize, ModelBundle
from zoo_core.plugins import PluginHost

STEPS = "every step of the recipe runs"  # imports AIMET, which takes seconds: only its own tests make it
QUANTIZED = "everything is quantized"  # judges what STEPS simulated


def outcomes(plugin: object, *, names: Sequence[str] | None = None) -> dict[str, Outcome]:
    host = PluginHost(installed=False)
    host.register(plugin, "toy_detector")
    chosen = [check for check in CHECKS if (check.name in names if names else check.name not in {STEPS, QUANTIZED})]
    assert chosen
    with Subject(host, "toy_squares") as subject:
        return {outcome.name: outcome for outcome in run_checks(subject, chosen)}


# --------------------------------------------------------------------------- what is exchanged


def decoding(change: Callable[[Detections, ImageSize], Detections]) -> FaultyToy:
    def bundle(healthy: ModelBundle) -> ModelBundle:
        def decode(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Any]:
            found = healthy.decode(outputs, sizes)
            return [change(one, size) for one, size in zip(found, sizes, strict=True)]  # type: ignore[arg-type]

        return dataclasses.replace(healthy, decode=decode)

    return FaultyToy(bundle=bundle)


def relabelled(change: Callable[[Any], Any]) -> FaultyToy:
    return decoding(lambda found, _: dataclasses.replace(found, labels=change(found.labels)))


def normalized(found: Detections, size: ImageSize) -> Detections:
    scale = np.array([*size, *size], np.float32)
    return dataclasses.replace(found, boxes=found.boxes / scale)


def found_everywhere(found: Detections, size: ImageSize) -> Detections:
    whole = np.array([[0, 0, *size]], np.float32)
    return Detections(boxes=whole, scores=np.ones(1, np.float32), labels=np.zeros(1, np.int64))


class Wrapped:
    """A dataset or metric with some of its attributes exchanged."""

    def __init__(self, healthy: Any, **changes: Any) -> None:
        self._healthy = healthy
        self._changes = changes

    def __getattr__(self, name: str) -> Any:
        return self._changes[name] if name in self._changes else getattr(self._healthy, name)


def dataset_with(**changes: Callable[[Any], Callable[..., Any]]) -> FaultyToy:
    def dataset(healthy: Any) -> Any:
        return Wrapped(healthy, **{name: change(healthy) for name, change in changes.items()})

    return FaultyToy(dataset=dataset)


def target_with(change: Callable[[DetectionTarget], dict[str, Any]]) -> FaultyToy:
    def target(healthy: Any) -> Callable[[str], DetectionTarget]:
        def changed(image_id: str) -> DetectionTarget:
            made: DetectionTarget = healthy.target(image_id)
            return dataclasses.replace(made, **change(made))

        return changed

    return dataset_with(target=target)


def preprocessing(change: Callable[[Any], Any]) -> FaultyToy:
    return FaultyToy(
        bundle=lambda healthy: dataclasses.replace(healthy, preprocess=lambda image: change(healthy.preprocess(image)))
    )


def network_with(change: Callable[[torch.nn.Module], torch.nn.Module]) -> FaultyToy:
    return FaultyToy(bundle=lambda healthy: dataclasses.replace(healthy, network=change(healthy.network)))


class Around(torch.nn.Module):
    """The toy's network with something done to what it gives."""

    def __init__(self, network: torch.nn.Module, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.network = network
        self.change = change
        self.eval()

    def forward(self, x: torch.Tensor) -> Any:
        return self.change(self.network(x))


def around(change: Callable[[torch.Tensor], Any]) -> FaultyToy:
    return network_with(lambda network: Around(network, change))


def add_noise(scores: torch.Tensor) -> torch.Tensor:
    return scores + 1e-3 * torch.rand_like(scores)


def subtract_the_first_image(scores: torch.Tensor) -> torch.Tensor:
    return scores - scores[:1]


def branch_on_values(scores: torch.Tensor) -> torch.Tensor:
    return scores * 2 if scores.max() > 0.1 else scores


def wants_bgr(network: torch.nn.Module) -> torch.nn.Module:
    assert isinstance(network, ToyNetwork)
    swapped = copy.deepcopy(network)
    swapped.pool.weight = torch.nn.Parameter(network.pool.weight.detach().flip(1))
    return swapped


def metric_with(**changes: Callable[[Any], Callable[..., Any]]) -> FaultyToy:
    def metric(healthy: Any) -> Any:
        return Wrapped(healthy, **{name: change(healthy) for name, change in changes.items()})

    return FaultyToy(metric=metric)


def counts_background(healthy: Any) -> Callable[..., None]:
    def update(image_ids: Sequence[str], preds: Sequence[Detections], targets: Sequence[Any]) -> None:
        shifted = [dataclasses.replace(pred, labels=(pred.labels + 1) % 2) for pred in preds]
        healthy.update(image_ids, shifted, targets)

    return update


def divides_by_what_was_found(healthy: Any) -> Callable[[], Any]:
    def compute() -> Any:
        scores = healthy.compute()
        return {
            name: dataclasses.replace(score, values={key: value or float("nan") for key, value in score.values.items()})
            for name, score in scores.items()
        }

    return compute


# --------------------------------------------------------------------------- the silent failures


@pytest.mark.parametrize(
    ("plugin", "name", "words"),
    [
        pytest.param(
            relabelled(lambda labels: labels + 1),
            "labels run from 0 to the last class",
            "decode gives the label 2; 2 classes have the labels 0 to 1",
            id="decode counts background as a class",
        ),
        pytest.param(
            relabelled(np.zeros_like),
            "labels run from 0 to the last class",
            r"never gives the label 1 \('green'\).* shifted by one",
            id="decode drops the last class",
        ),
        pytest.param(
            relabelled(lambda labels: (labels + 1) % 2),
            "a perfect network scores as one",
            r"has voc07_11pt/pytorch-ssd 0\.000 \(required: 0\.9 or more\)\. .*Labels look permuted",
            id="labels shifted inside the range",
        ),
        pytest.param(
            target_with(lambda target: {"labels": target.labels + 1}),
            "targets come back as drawn",
            r"has the labels \[.*\]; drawn were \[.*\]: every label is shifted by \+1",
            id="dataset counts labels from 1",
        ),
        pytest.param(
            dataset_with(image=lambda healthy: lambda image_id: healthy.image(image_id)[..., ::-1]),
            "images come back as drawn, in RGB",
            "has blue where red was drawn: it comes in BGR",
            id="dataset reads BGR",
        ),
        pytest.param(
            preprocessing(lambda image: image[::-1].copy()),
            "colours arrive in the declared order",
            "follows blue: preprocess gives BGR, the kit declares RGB",
            id="preprocess swaps colours",
        ),
        pytest.param(
            network_with(wants_bgr),
            "the plugin's weights find what is drawn",
            r"and 0\.9\d\d with red and blue swapped: the network wants the other order",
            id="weights were trained on BGR",
        ),
        pytest.param(
            decoding(normalized),
            "boxes are in pixels of the original image",
            "they look normalized",
            id="decode gives normalized boxes",
        ),
        pytest.param(
            target_with(lambda target: {"boxes": target.boxes / 64}),
            "targets come back as drawn",
            "They look normalized",
            id="dataset gives normalized boxes",
        ),
        pytest.param(
            target_with(lambda target: {"boxes": np.hstack([target.boxes[:, :2], np.full((2, 2), 16, np.float32)])}),
            "targets come back as drawn",
            "They look like xywh",
            id="dataset gives xywh",
        ),
        pytest.param(
            target_with(lambda target: {"boxes": target.boxes + 1}),
            "targets come back as drawn",
            "Corners look counted from 1",
            id="dataset counts pixels from 1",
        ),
        pytest.param(
            metric_with(update=counts_background),
            "perfect predictions score 1",
            r"A perfect prediction has voc07_11pt/pytorch-ssd 0\.000",
            id="near zero on perfect predictions",
        ),
        pytest.param(
            metric_with(compute=divides_by_what_was_found),
            "empty predictions score 0",
            "gives map = nan",
            id="not a number on empty predictions",
        ),
        pytest.param(
            decoding(lambda found, _: dataclasses.replace(found, boxes=found.boxes.astype(">f4"))),
            "predictions survive the run directory",
            r"The field 'boxes' of image 'image 0' \(>f4 array of shape \(\d+, 4\)\) cannot be stored",
            id="decode gives what cannot be stored",
        ),
    ],
)
def test_a_silent_failure_is_found(plugin: FaultyToy, name: str, words: str) -> None:
    found = outcomes(plugin)

    assert found[name].status == "failed", found[name]
    assert found[name].fix
    assert re.search(words, found[name].found), found[name].found


@pytest.mark.parametrize(
    ("plugin", "name", "words"),
    [
        (network_with(lambda network: network.train()), "the network is in eval mode", "5 modules are in training"),
        (around(add_noise), "the network is deterministic", "other outputs for the same inputs"),
        (around(subtract_the_first_image), "a batch gives what its images give alone", "with the images beside it"),
        (around(lambda scores: scores), "the network copies and pickles", "does not pickle"),
        (around(branch_on_values), "the network traces for AIMET", "traced network gives other outputs"),
        (around(torch.Tensor.double), "outputs are float32 with the batch first", "Output 0 is torch.float64"),
        (around(lambda scores: {"scores": scores}), "outputs are float32 with the batch first", "returns a dict"),
        (preprocessing(lambda image: image[:, :32]), "preprocessing is stable", r"float32 \(3, 32, 64\)"),
        (decoding(found_everywhere), "decode of nothing is empty", "finds 1 objects in the outputs"),
        (
            dataset_with(content_hash=lambda _healthy: lambda _image_id: "0" * 64),
            "splits, ids and hashes are consistent",
            "does not tell 'test_001' from 'test_000'",
        ),
        (
            dataset_with(write_submission=lambda _healthy: lambda _directory, _predictions: None),
            "predictions can be submitted",
            "wrote no file",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_contract_is_found(plugin: FaultyToy, name: str, words: str) -> None:
    found = outcomes(plugin)

    assert found[name].status == "failed", found[name]
    assert re.search(words, found[name].found), found[name].found


def test_the_healthy_toy_has_no_fault() -> None:
    assert {outcome.status for outcome in outcomes(FaultyToy()).values()} == {"passed"}


def test_what_crashes_fails_its_own_check_and_blames_nobody_else() -> None:
    def explode(healthy: ModelBundle) -> ModelBundle:
        raise KeyError("weights")

    found = outcomes(FaultyToy(bundle=explode))

    failed = [outcome for outcome in found.values() if outcome.status == "failed"]
    assert [outcome.name for outcome in failed] == ["preprocessing is stable"]
    assert "'toy_detector' failed in zoo_load_model: KeyError: 'weights'" in failed[0].found
    assert "KeyError" in failed[0].details
    assert found["the network is in eval mode"].status == "not checked"
    assert found["the network is in eval mode"].found == "zoo_load_model failed, see the check above"


def test_a_model_that_does_not_exist_fails_one_check_and_makes_no_other() -> None:
    with Subject(PluginHost(installed=False), "toy_squares") as subject:
        found = list(run_checks(subject, [check for check in CHECKS if check.name != STEPS]))

    assert [outcome.name for outcome in found if outcome.status != "not checked"] == ["the plugin loads"]
    assert "There is no model 'toy_squares'" in found[0].found


def test_what_cannot_be_checked_is_never_passed() -> None:
    plugin = ModuleType("plain_toy")
    hooks = {name: hook for name, hook in vars(toy).items() if name.startswith("zoo_") and name != "zoo_conformance"}
    vars(plugin).update(hooks)
    found = outcomes(plugin)

    not_checked = {name for name, outcome in found.items() if outcome.status == "not checked"}
    assert [outcome for outcome in found.values() if outcome.status == "failed"] == []
    assert {
        "images come back as drawn, in RGB",
        "targets come back as drawn",
        "colours arrive in the declared order",
        "perfect predictions score 1",
        "a perfect network scores as one",
        "the plugin's weights find what is drawn",
    } <= not_checked
    assert "or implement zoo_conformance" in found["targets come back as drawn"].found


def test_what_crashes_in_the_kit_is_named() -> None:
    def encode(targets: Sequence[Any], sizes: Sequence[ImageSize]) -> Any:
        raise KeyError("anchors")

    found = outcomes(FaultyToy(kit=lambda kit: dataclasses.replace(kit, encode=encode)))

    assert found["a perfect network scores as one"].status == "failed"
    words = "'toy_detector' failed in encode of zoo_conformance: KeyError: 'anchors'"
    assert words in found["a perfect network scores as one"].found


def test_a_kit_without_encode_leaves_out_what_needs_it() -> None:
    plugin = FaultyToy(kit=lambda kit: dataclasses.replace(kit, encode=None, least_headline=None))

    found = outcomes(plugin)

    not_checked = {name for name, outcome in found.items() if outcome.status == "not checked"}
    assert not_checked == {"a perfect network scores as one", "the plugin's weights find what is drawn"}


def test_a_kit_without_pictures_of_a_split_is_a_fault() -> None:
    found = outcomes(FaultyToy(kit=lambda kit: dataclasses.replace(kit, scenes={"test": kit.scenes["test"]})))

    failed = [outcome for outcome in found.values() if outcome.status == "failed"]
    assert "no scenes for the split 'trainval' of 'grid'" in failed[0].found


def registry_with(old: str, new: str, folder: Path) -> FaultyToy:
    def registry(path: Path) -> Path:
        text = path.read_text()
        assert old in text
        changed = folder / "registry.yaml"
        changed.write_text(text.replace(old, new))
        return changed

    return FaultyToy(registry=registry)


REFERENCE = """headline: coco
    references:
      - {{stage: {stage}, protocol: {protocol}, value: 0.5, tolerance: 0.1, source: nowhere, {more}}}"""


@pytest.mark.parametrize(
    ("stage", "more"),
    [("w8a8", ""), ("w4a8", "settings: [quantsim.param_bw=4]"), ("anything", "recipe: any"), ("optimized_fp32", "")],
)
def test_a_reference_may_name_a_stage_of_its_own_recipe(stage: str, more: str, tmp_path: Path) -> None:
    line = REFERENCE.format(stage=stage, protocol="coco", more=more)
    found = outcomes(registry_with("headline: voc07_11pt/pytorch-ssd", line, tmp_path))

    assert found["headline and references name what exists"].status == "passed", found


@pytest.mark.parametrize(
    ("old", "new", "name", "words"),
    [
        (
            "calibration_split: trainval",
            "calibration_split: test",
            "the registry entry is valid",
            "calibrates on the same split 'test'",
        ),
        (
            "recipe: w8a8_toy",
            "recipe: w8a8_tooy",
            "the recipe is valid",
            "has no recipe 'w8a8_tooy'; the closest is 'w8a8_toy'",
        ),
        ("headline: voc07_11pt/pytorch-ssd", "headline: top1", "headline and references name what exists", "'top1'"),
        (
            "headline: voc07_11pt/pytorch-ssd",
            REFERENCE.format(stage="int8", protocol="coco", more=""),
            "headline and references name what exists",
            "names the stage 'int8'; the recipe 'w8a8_toy' has",
        ),
        (
            "headline: voc07_11pt/pytorch-ssd",
            REFERENCE.format(stage="fp32", protocol="mAP", more=""),
            "headline and references name what exists",
            "references names the protocol 'mAP'",
        ),
        (
            "recipe: w8a8_toy",
            "recipe: w8a8_toy\n    checkpoint: {url: 'package:toy_detector/gone.pth'}",
            "the registry entry is valid",
            "gone.pth",
        ),
    ],
)
def test_a_wrong_registry_entry_is_found(old: str, new: str, name: str, words: str, tmp_path: Path) -> None:
    found = outcomes(registry_with(old, new, tmp_path))

    assert found[name].status == "failed", found[name]
    assert words in found[name].found


# --------------------------------------------------------------------------- the recipe, with AIMET


@pytest.fixture(scope="module")
def aimet() -> None:
    """AIMET takes seconds to import; what a test's own time says is then the test's."""
    from zoo_core.quantization.aimet import library

    library.load()


def test_a_step_that_finds_less_than_the_recipe_expects_is_named(aimet: None) -> None:
    def recipe(healthy: Any) -> Any:
        steps = [
            dataclasses.replace(spec, params={"min_layer_sets": 99}) if "equalization" in spec.step else spec
            for spec in healthy.steps
        ]
        return dataclasses.replace(healthy, steps=tuple(steps))

    found = outcomes(FaultyToy(recipe=recipe), names=[STEPS])

    assert found[STEPS].status == "failed"
    assert "The step 'cross_layer_equalization' failed: " in found[STEPS].found


def test_every_step_of_the_healthy_toys_recipe_runs(aimet: None) -> None:
    found = outcomes(FaultyToy(), names=[STEPS])

    assert found[STEPS].status == "passed", found[STEPS]
    for step in ("fold_batch_norms", "relu6", "cross_layer_equalization", "round_weights", "adaround", "quantsim"):
        assert step in found[STEPS].found
