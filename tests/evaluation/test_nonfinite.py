"""Infinity and not-a-number in a network's outputs: counted, scored as wrong, and said."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drawn_classes import write_classes
from toy_detector import hooks as toy
from zoo_core import api
from zoo_core.datatypes import Checkpoint, Classification, Detections, ImageSize, ModelBundle, ModelEntry, Prediction
from zoo_core.evaluation.float_runtime import _difference
from zoo_core.hookspecs import hookimpl
from zoo_core.inference import decode_finite
from zoo_core.metrics.classification import rank_classes
from zoo_core.plugins import PluginHost
from zoo_core.runs.predictions import Chunk, PredictionStore

INF, NAN = float("inf"), float("nan")


class Overflowing(torch.nn.Module):
    """Answers as ``network``, but with ``value`` at the first output of the images that ``chosen`` selects."""

    def __init__(self, network: torch.nn.Module, value: float, chosen: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.value, self.chosen = network, value, chosen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.network(x).clone(memory_format=torch.contiguous_format)
        scores.view(len(scores), -1)[self.chosen(x), 0] = self.value
        return scores


def every_image(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(x), dtype=torch.bool)


class Toy:
    """The toy detector with another network."""

    def __init__(self, value: float, chosen: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.value, self.chosen = value, chosen

    zoo_registry = staticmethod(toy.zoo_registry)
    zoo_dataset = staticmethod(toy.zoo_dataset)
    zoo_recipe_steps = staticmethod(toy.zoo_recipe_steps)

    @hookimpl
    def zoo_load_model(
        self, entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
    ) -> ModelBundle:
        bundle = toy.zoo_load_model(entry, checkpoint, class_names, device)
        return replace(bundle, network=Overflowing(bundle.network, self.value, self.chosen))


class Classifier:
    """Ranks three classes by the mean of a colour; a white image's logits overflow."""

    def __init__(self, folder: Path, value: float, chosen: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.registry = folder / "registry.yaml"
        self.registry.write_text(
            "schema: 1\nmodels:\n  colours:\n    plugin: colours\n    task: classification\n    description: x\n"
            "    recipe: w8a8_per_channel\n    headline: topk/first\n"
            "    dataset: {name: drawn, split: val, calibration_split: train, layout: image_folder}\n"
        )
        self.value, self.chosen = value, chosen

    @hookimpl
    def zoo_registry(self) -> Path:
        return self.registry

    @hookimpl
    def zoo_load_model(
        self, entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
    ) -> ModelBundle:
        pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        return ModelBundle(
            network=Overflowing(pool, self.value, self.chosen).eval(),
            example_input=torch.zeros(1, 3, 48, 60),
            preprocess=lambda image: image.transpose(2, 0, 1).astype(np.float32),
            decode=rank,
        )


def rank(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Classification]:
    return [rank_classes(logits) for logits in outputs[0].numpy()]


def classify(tmp_path: Path, value: float, chosen: Callable[[torch.Tensor], torch.Tensor], **options: Any) -> Any:
    host = PluginHost(installed=False)
    host.register(Classifier(tmp_path, value, chosen), "colours")
    data = write_classes(tmp_path / "data")
    weights = tmp_path / "none.pth"
    torch.save({"x": torch.zeros(1)}, weights)
    return api.evaluate(
        "colours", data=data, checkpoint=weights, stages="fp32", out=tmp_path / "run", host=host, **options
    )


@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_a_classifier_whose_logits_are_never_finite_has_accuracy_0_not_none(tmp_path: Path, value: float) -> None:
    result = classify(tmp_path, value, every_image)

    assert result.stages["fp32"].scores["topk/first"].values["top1"] == 0.0
    assert result.stages["fp32"].scores["topk/expected"].values["top1_balanced"] == 0.0
    assert result.record.stages["fp32"].num_nonfinite_images == 12
    said = "fp32: the network returned infinity or not-a-number for 12 of 12 images; they count as wrong."
    assert said in result.record.warnings
    assert said in json.loads((tmp_path / "run" / "metrics.json").read_text())["warnings"]
    assert said in (tmp_path / "run" / "report.html").read_text()


def test_an_infinite_logit_does_not_leave_the_ranking_to_the_other_classes(tmp_path: Path) -> None:
    sound = classify(tmp_path, 0.0, lambda x: torch.zeros(len(x), dtype=torch.bool))
    right = sound.stages["fp32"].scores["topk/first"].values["top1"]
    (tmp_path / "broken").mkdir()
    # Class 0 overflows to -inf: what is left would rank classes 1 and 2 among themselves.
    broken = classify(tmp_path / "broken", -INF, every_image)

    assert right > 0
    assert broken.stages["fp32"].scores["topk/first"].values["top1"] == 0.0


def test_rescore_and_a_resumed_run_say_the_same_number(tmp_path: Path) -> None:
    bright = Classifier(tmp_path, INF, lambda x: x.mean((1, 2, 3)) > 60)
    host = PluginHost(installed=False)
    host.register(bright, "colours")
    result = classify(tmp_path, INF, bright.chosen, report=False)
    num = result.record.stages["fp32"].num_nonfinite_images
    assert num is not None
    assert 0 < num < 12

    again = api.rescore(tmp_path / "run", host=host)

    assert again.stages["fp32"]["topk/first"].headline == result.stages["fp32"].scores["topk/first"].headline
    text = f"fp32: the network returned infinity or not-a-number for {num} of 12 images; they count as wrong."
    assert text in again.notes

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["status"], record["finished"] = "interrupted", None
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    (tmp_path / "run" / "metrics.json").unlink()
    resumed = api.resume(tmp_path / "run", report=False, host=host)
    assert resumed.record.stages["fp32"].num_nonfinite_images == num
    assert text in resumed.record.warnings


@pytest.mark.parametrize("value", [INF, NAN])
def test_a_detector_whose_scores_are_not_finite_detects_nothing_in_those_images(
    grid: Path, weights: Path, tmp_path: Path, value: float
) -> None:
    host = PluginHost(installed=False)
    host.register(Toy(value, every_image), "toy_detector")

    result = api.evaluate(
        "toy_squares", data=grid, checkpoint=weights, stages="fp32", out=tmp_path / "run", host=host, batch_size=5
    )

    assert result.stages["fp32"].scores["voc07_11pt/pytorch-ssd"].values["map"] == 0.0
    assert result.record.stages["fp32"].num_nonfinite_images == 12


def test_an_ordinary_run_counts_0_and_its_chunks_have_no_further_column(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    result = api.evaluate("toy_squares", data=grid, checkpoint=weights, stages="fp32", out=tmp_path / "run", host=host)

    assert result.record.stages["fp32"].num_nonfinite_images == 0
    assert not any("infinity" in text for text in result.record.warnings)
    import pyarrow.parquet as pq

    (chunk,) = (tmp_path / "run" / "predictions" / "fp32").iterdir()
    assert pq.read_schema(chunk).names == ["image_id", "boxes", "scores", "labels"]


# --------------------------------------------------------------------------- one batch

SIZES = [ImageSize(10, 10)] * 3


def test_decode_never_sees_a_value_that_is_not_finite() -> None:
    seen: list[torch.Tensor] = []

    def decode(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Classification]:
        seen.extend(outputs)
        return rank(outputs, sizes)

    outputs = (torch.tensor([[1.0, 2.0], [INF, 0.0], [3.0, 2.0]]), torch.tensor([[0.0], [0.0], [NAN]]))
    found = decode_finite(decode, outputs, SIZES)

    assert found.finite == (True, False, False)
    assert [len(prediction.arrays()["labels"]) for prediction in found.predictions] == [2, 0, 0]
    assert all(torch.isfinite(output).all() for output in seen)
    assert seen[0][0].tolist() == [1.0, 2.0]


def test_an_output_without_the_batch_axis_speaks_for_all_images() -> None:
    outputs = (torch.tensor([[1.0, 2.0]] * 3), torch.tensor(NAN))
    assert decode_finite(rank, outputs, SIZES).finite == (False, False, False)


@pytest.mark.parametrize(("field", "value"), [("boxes", NAN), ("boxes", INF), ("scores", NAN)])
def test_a_prediction_that_is_not_finite_is_emptied_too(field: str, value: float) -> None:
    arrays: dict[str, Any] = {
        "boxes": np.zeros((2, 4), np.float32),
        "scores": np.ones(2, np.float32),
        "labels": np.zeros(2, np.int64),
    }
    arrays[field].reshape(-1)[1] = value
    found = decode_finite(lambda _outputs, _sizes: [Detections(**arrays)], (torch.zeros(1, 2),), SIZES[:1])
    assert found.finite == (False,)
    assert [array.shape for array in found.predictions[0].arrays().values()] == [(0, 4), (0,), (0,)]


def test_a_prediction_of_a_whole_image_may_hold_not_a_number() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True, slots=True, kw_only=True, eq=False)
    class Depths(Prediction):
        metres: Any

    own = Depths(metres=np.array([1.0, NAN], np.float32))
    found = decode_finite(lambda _outputs, _sizes: [own], (torch.zeros(1, 2),), SIZES[:1])
    assert found.finite == (True,)
    assert found.predictions == (own,)


def test_the_store_keeps_which_images_were_not_finite(tmp_path: Path) -> None:
    nothing = rank_classes(np.array([NAN], np.float32))
    some = rank_classes(np.array([1, 2], np.float32))
    store = PredictionStore(tmp_path / "fp32", Classification)
    store.write(Chunk(index=0, image_ids=("a", "b"), predictions=(some, nothing), nonfinite_ids=("b",)))

    assert next(iter(store)).nonfinite_ids == ("b",)
    assert store.missing([("a", "b")]) == []


def test_another_runtime_that_alone_returns_not_a_number_does_not_agree() -> None:
    sound = torch.tensor([1.0, 2.0])
    assert _difference(sound, torch.tensor([1.0, NAN])) == INF
    assert _difference(torch.tensor([1.0, INF]), torch.tensor([1.0, -INF])) == INF
    assert _difference(torch.tensor([1.0, INF]), torch.tensor([1.0, INF])) == 0.0
    assert _difference(torch.tensor([1.0, NAN]), torch.tensor([1.5, NAN])) == 0.5
