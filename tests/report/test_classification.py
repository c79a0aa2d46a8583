"""The page of a classifier's run: its own words, its classes, and the images whose answer changed."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from drawn_classes import CLASSES, write_classes
from report.synthetic import write_run
from zoo_core.comparison.classes import class_changes, surest_flips
from zoo_core.datasets.image_folder import ImageFolder
from zoo_core.datatypes import Classification, ClassTarget, Prediction
from zoo_core.plugins import PluginHost
from zoo_core.report.html import render_report
from zoo_core.runs.predictions import Chunk, PredictionStore
from zoo_torchvision_classification import hooks


@pytest.fixture(scope="module")
def plugins() -> PluginHost:
    host = PluginHost(installed=False)
    host.register(hooks, "torchvision_classification")
    return host


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "drawn", num_val=20, num_train=1)


@pytest.fixture
def class_run(folder: Path, tmp_path: Path) -> Path:
    """60 images of three classes; their data still lie in their place."""
    dataset = ImageFolder(folder, "val", class_split="train")
    return write_run(tmp_path / "run", dataset, folder, "torchvision_resnet18", noise=0.2)


def text_of(page: str) -> str:
    page = re.sub(r"<(style|script)>.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def flips(run: Path, folder: Path) -> tuple[int, int, int]:
    """Lost, gained and wrong both times, counted without the code that is tested."""
    best = {}
    for stage in ("fp32", "w8a8"):
        chunks = PredictionStore(run / "predictions" / stage, Classification)
        pairs = [pair for chunk in chunks for pair in zip(chunk.image_ids, chunk.predictions, strict=True)]
        best[stage] = {image_id: int(found.arrays()["labels"][0]) for image_id, found in pairs}
    changed = [image_id for image_id in best["fp32"] if best["fp32"][image_id] != best["w8a8"][image_id]]
    truth = {image_id: CLASSES.index(image_id.split("/")[1]) for image_id in changed}
    lost = sum(best["fp32"][image_id] == truth[image_id] for image_id in changed)
    gained = sum(best["w8a8"][image_id] == truth[image_id] for image_id in changed)
    return lost, gained, len(changed) - lost - gained


def test_the_page_speaks_of_accuracy_and_misses_nothing(class_run: Path, folder: Path, plugins: PluginHost) -> None:
    page = render_report(class_run, host=plugins)
    text = text_of(page)
    assert "Missing from this page" not in text
    assert "mAP" not in text
    assert "AP of" not in text
    for words in ("top-1, %", "top-1 under topk/first", "topk/expected class-balanced top-1", "Confusions"):
        assert words in text, words
    lost, gained, moved = flips(class_run, folder)
    assert lost > gained > 0
    assert f"{lost + gained + moved} of 60 images have another most probable class in w8a8 than in fp32." in text
    assert f"Of these {lost} were right and are wrong" in text
    assert f"{gained} were wrong and are right" in text
    assert len(re.findall(r'class="shot tile lost"', page)) == lost
    assert page.count("data:image/jpeg") == lost + gained + moved
    # One more lost than gained is one fewer right: the page must agree with its own table.
    metrics = json.loads((class_run / "metrics.json").read_text())
    values = [metrics["stages"][stage]["metrics"]["topk/first"]["top1"] for stage in ("fp32", "w8a8")]
    assert round(60 * (values[0] - values[1])) == lost - gained


def test_a_tile_says_the_truth_and_both_answers(class_run: Path, plugins: PluginHost) -> None:
    page = render_report(class_run, host=plugins)
    tile = text_of(re.findall(r'<figure class="shot tile lost".*?</figure>', page, flags=re.DOTALL)[0])
    match = re.fullmatch(
        r"(\w+) \N{MINUS SIGN} lost fp32 \N{CHECK MARK} (\w+) [\d.]+ % w8a8 \N{BALLOT X} (\w+) [\d.]+ % val/(\w+)/\S+",
        tile,
    )
    assert match, tile
    assert match[1] == match[2] == match[4] != match[3]


def test_classes_are_listed_by_their_drop(class_run: Path, plugins: PluginHost) -> None:
    page = render_report(class_run, host=plugins)
    table = page[page.index('<section id="classes">') :]
    named = re.findall(r'<th scope="row">(\w+)</th>', table)[:3]
    per_class = [
        json.loads((class_run / "metrics.json").read_text())["stages"][stage]["metrics"]["topk/first"]["per_class"]
        for stage in ("fp32", "w8a8")
    ]
    assert named == sorted(CLASSES, key=lambda name: (per_class[1][name] - per_class[0][name], name))


def test_without_the_data_the_answers_stand_and_the_truth_is_missed(
    class_run: Path, folder: Path, plugins: PluginHost
) -> None:
    shutil.rmtree(folder)
    page = render_report(class_run, host=plugins)
    text = text_of(page)
    assert "The data cannot be read, so pictures and ground truth are not shown:" in text
    assert "Which answers were right is not known, because the data cannot be read." in text
    assert "~ changed" in text
    assert "no picture" in text
    assert "data:image" not in page


def test_a_run_whose_plugin_is_not_installed_still_shows_what_changed(class_run: Path) -> None:
    text = text_of(render_report(class_run, host=PluginHost(installed=False)))
    assert "images have another most probable class in w8a8 than in fp32" in text
    assert "Which answers were right is not known" in text


def test_two_runs_of_a_classifier_lie_side_by_side(
    class_run: Path, folder: Path, tmp_path: Path, plugins: PluginHost
) -> None:
    dataset = ImageFolder(folder, "val", class_split="train")
    other = write_run(tmp_path / "other", dataset, folder, "torchvision_resnet18", noise=0.1)
    text = text_of(render_report(class_run, host=plugins, against=other))
    assert "top-1 under topk/first; the difference is this run minus the other." in text


# --------------------------------------------------------------------------- other tasks and predictions


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Depths(Prediction):
    metres: NDArray[np.float32]


def test_of_a_task_that_nobody_declares_everything_else_is_shown(class_run: Path, plugins: PluginHost) -> None:
    record = json.loads((class_run / "run.json").read_text())
    (class_run / "run.json").write_text(json.dumps(record | {"task": "depth"}))
    text = text_of(render_report(class_run, host=plugins))
    assert "No installed plugin declares the task 'depth'" in text
    assert "its predictions cannot be shown image by image; the scores above are not affected." in text
    for words in ("top1 under topk/first", "Quantization noise in w8a8", "Command that repeats the run"):
        assert words in text


def test_predictions_of_another_type_than_the_task_declares_are_a_gap(class_run: Path, plugins: PluginHost) -> None:
    for stage in ("fp32", "w8a8"):
        shutil.rmtree(class_run / "predictions" / stage)
        store = PredictionStore(class_run / "predictions" / stage, Depths)
        store.write(Chunk(index=0, image_ids=("a",), predictions=(Depths(metres=np.zeros(3, np.float32)),)))
    text = text_of(render_report(class_run, host=plugins))
    assert "The predictions of fp32 cannot be shown: " in text
    assert "top-1 under topk/first" in text


# --------------------------------------------------------------------------- the changes themselves


def answer(*labels: int, scores: tuple[float, ...] = (0.9, 0.1)) -> Classification:
    return Classification(labels=np.array(labels), scores=np.array(scores[: len(labels)]))


def test_each_way_to_change_has_its_name() -> None:
    before = {"kept": answer(0, 1), "lost": answer(0, 1), "gained": answer(1, 0), "moved": answer(1), "new": answer(1)}
    after = {"kept": answer(0, 1), "lost": answer(1, 0), "gained": answer(0, 1), "moved": answer(2), "new": answer(0)}
    targets = {image_id: ClassTarget(label=0) for image_id in before if image_id != "new"}
    changes = class_changes(before, after, targets)
    kinds = [changes.kind(row) for row in range(5)]
    assert dict(zip(changes.image_ids, kinds, strict=True)) == {
        "kept": "kept",
        "lost": "lost",
        "gained": "gained",
        "moved": "moved",
        "new": "flipped",
    }


def test_an_answer_that_ties_is_the_lower_class_and_an_empty_one_is_none() -> None:
    before = {"tied": answer(2, 1, scores=(0.5, 0.5)), "empty": answer()}
    after = {"tied": answer(1, 2, scores=(0.5, 0.5)), "empty": answer(0)}
    changes = class_changes(before, after, {"empty": ClassTarget(label=0)})
    assert changes.flipped.tolist() == [False, True]
    assert changes.kind(1) == "gained"


def test_the_surest_flips_that_mattered_come_first() -> None:
    before = {"a": answer(0, scores=(0.6,)), "b": answer(0, scores=(0.9,)), "c": answer(1, scores=(1.0,))}
    after = {"a": answer(1, scores=(0.6,)), "b": answer(1, scores=(0.9,)), "c": answer(2, scores=(1.0,))}
    targets = {image_id: ClassTarget(label=0) for image_id in before}
    changes = class_changes(before, after, targets)
    assert [changes.image_ids[row] for row in surest_flips(changes, 3)] == ["b", "a", "c"]
    assert len(surest_flips(changes, 1)) == 1
