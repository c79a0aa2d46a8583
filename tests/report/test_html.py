from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from report.synthetic import write_run
from toy_detector.data import GridDataset
from zoo_core.datatypes import Detections
from zoo_core.errors import RunError
from zoo_core.plugins import PluginHost
from zoo_core.report.html import render_report, write_report
from zoo_core.runs.migration import SCHEMA
from zoo_core.runs.predictions import Chunk, PredictionStore
from zoo_core.runs.record import read_metrics

VOID = {"meta", "br", "hr", "img", "input", "link", "image", "use"}


class Page(HTMLParser):
    """What a page holds; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.scripts = 0
        self.shots: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(values["id"] or "")
        self.references += [value or "" for name, value in attrs if name in {"href", "src", "xlink:href", "action"}]
        self.scripts += tag == "script"
        if tag == "figure" and values.get("class") == "shot":
            self.shots.append(values["data-changes"] or "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in {"script", "style"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_report_of_a_complete_run_misses_nothing(run_dir: Path, host: PluginHost) -> None:
    path = write_report(run_dir, host=host)

    assert path == run_dir / "report.html"
    page = Page(path.read_text())
    assert "Missing from this page" not in page.text
    for words in (
        "toy_squares on grid test",
        "Limited run: a warning of the test.",
        "adaround: 100 iterations, a short run",
        "Recipe recipe_of_the_test (tf_enhanced), calibrated on 64 images of trainval.",
        "optimized_fp32 (= fp32)",
        "voc_area/devkit",
        "Weight ranges around cross_layer_equalization",
        "Quantization noise in w8a8",
        "c" * 64,
        "2.42.0",
    ):
        assert words in page.text
    assert page.shots


def test_the_page_and_its_paragraph_start_with_the_verdict(run_dir: Path, host: PluginHost) -> None:
    metrics = read_metrics(run_dir)
    assert metrics is not None
    changed = metrics.stages["w8a8"].change
    assert changed is not None
    assert changed.low is not None
    assert changed.high is not None
    low, high = (f"{value:+.2f}".replace("-", "\N{MINUS SIGN}") for value in (changed.low, changed.high))
    assert changed.high < 0

    text = render_report(run_dir, host=host)

    sentence = f"w8a8 loses {-changed.points:.2f} points (95 % interval {low} to {high}) on 40 images."
    assert Page(text).text.index(sentence) < Page(text).text.index("Stages")
    paragraph = re.search(r'<p class="paste" id="paste">([^<]+)', text)
    assert paragraph is not None
    assert paragraph[1].startswith(sentence)
    assert f"({low}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high})" in text


def test_a_run_of_an_earlier_version_has_no_interval_and_the_page_says_so(run_dir: Path, host: PluginHost) -> None:
    def age(metrics: dict[str, Any]) -> None:
        metrics["schema"] = 1
        for stage in metrics["stages"].values():
            del stage["change"]

    edit(run_dir / "metrics.json", age)

    page = Page(render_report(run_dir, host=host))

    assert "points against fp32 on 40 images; the run recorded no interval." in page.text
    assert "Missing from this page" not in page.text


def test_a_record_that_is_not_valid_cannot_be_compared_by_its_conditions(
    run_dir: Path, host: PluginHost, tmp_path: Path
) -> None:
    other = shutil.copytree(run_dir, tmp_path / "other")
    edit(other / "run.json", lambda record: record.pop("settings"))

    page = Page(render_report(run_dir, host=host, against=other))

    assert "The conditions of the runs cannot be compared:" in page.text
    assert "settings: Field required" in page.text
    assert "the difference is this run minus the other." in page.text


def test_the_page_is_one_file_that_asks_for_nothing(run_dir: Path, host: PluginHost) -> None:
    text = render_report(run_dir, host=host)

    page = Page(text)
    assert all(value.startswith(("#", "data:image/jpeg;base64,")) for value in page.references)
    assert not re.search(r"@import|url\((?!#)", text)
    assert page.scripts == 1
    assert len(text) < 5_000_000


def test_ids_are_unique_and_every_reference_inside_the_page_has_its_target(run_dir: Path, host: PluginHost) -> None:
    text = render_report(run_dir, host=host)

    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    inside = {value[1:] for value in page.references if value.startswith("#")}
    inside |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert inside <= set(page.ids)


def test_a_class_whose_name_is_a_script_is_printed_and_not_run(run_dir: Path, host: PluginHost, grid: Path) -> None:
    name = "<script>alert(1)</script>"
    for file in ("run.json", "metrics.json"):
        path = run_dir / file
        path.write_text(path.read_text().replace('"red"', json.dumps(name)))
    shutil.rmtree(grid)  # else the class names differ from the data set's, and nothing is drawn of them

    text = render_report(run_dir, host=host)

    page = Page(text)
    assert page.scripts == 1
    assert "<script>alert" not in text
    assert html.escape(name) in text
    assert name in page.text


@pytest.mark.parametrize(
    "value", ["'\"><img src=x onerror=alert(1)>", "</style></script><b>bold</b>", "{{ 7 * 7 }} $x_1$"]
)
def test_text_from_the_record_cannot_become_markup(run_dir: Path, host: PluginHost, value: str) -> None:
    def change(record: dict[str, Any]) -> None:
        record["model"] = record["dataset"]["name"] = record["recipe"]["name"] = value
        record["steps"][1]["step"] = record["simulations"]["w8a8"]["layers"][0]["layer"] = value
        record["warnings"].append(value)
        record["environment"][value] = value

    edit(run_dir / "run.json", change)
    edit(run_dir / "metrics.json", lambda metrics: metrics["stages"].update({value: metrics["stages"]["fp32"]}))

    text = render_report(run_dir, host=host)

    page = Page(text)
    assert page.scripts == 1
    assert "<img" not in text
    assert "<b>bold" not in text
    assert value in html.unescape(text)


def test_the_same_run_gives_the_same_bytes(run_dir: Path, host: PluginHost) -> None:
    assert render_report(run_dir, host=host) == render_report(run_dir, host=host)


def test_without_the_data_the_page_says_so_and_shows_the_rest(run_dir: Path, host: PluginHost, grid: Path) -> None:
    shutil.rmtree(grid)

    text = render_report(run_dir, host=host)

    page = Page(text)
    assert "The data cannot be read, so pictures and ground truth are not shown:" in page.text
    assert "Precision over recall needs the annotations, which are missing" in page.text
    assert "data:image" not in text
    assert page.shots
    assert "lost, were right" not in page.text


def test_a_missing_picture_leaves_the_others(run_dir: Path, host: PluginHost, grid: Path) -> None:
    whole = render_report(run_dir, host=host)
    first = re.search(r"<figcaption><b>(\w+)</b>", whole)
    assert first is not None
    (grid / f"{first[1]}.png").unlink()

    text = render_report(run_dir, host=host)

    assert "The gallery lacks a picture" in text
    assert text.count("data:image") == whole.count("data:image") - 1


def test_a_plugin_that_is_not_there_costs_the_pictures_alone(run_dir: Path) -> None:
    text = render_report(run_dir, host=PluginHost(installed=False))

    assert "No plugin has the model" in text
    assert "Quantization noise in w8a8" in text


@pytest.mark.parametrize("missing", ["run.json", "metrics.json"])
def test_one_missing_file_is_named_and_the_other_shown(run_dir: Path, host: PluginHost, missing: str) -> None:
    (run_dir / missing).unlink()

    page = Page(render_report(run_dir, host=host))

    assert f"{missing} is missing." in page.text
    assert "toy_squares" in page.text
    if missing == "run.json":
        assert "voc07_11pt/devkit" in page.text
    else:
        assert "recipe_of_the_test" in page.text
        assert "Changes from fp32 to w8a8" in page.text


def test_a_directory_without_either_file_is_an_error_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run.json is missing. metrics.json is missing") as caught:
        write_report(tmp_path)

    assert caught.value.exit_code == 2
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", '"text"', "\ufeff{}", "[" * 100_000])
def test_files_that_hold_no_object_are_an_error(tmp_path: Path, content: str) -> None:
    for name in ("run.json", "metrics.json"):
        (tmp_path / name).write_text(content)

    with pytest.raises(RunError, match="has nothing that can be reported"):
        write_report(tmp_path)


def test_what_is_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a directory"):
        write_report(tmp_path / "nowhere")


def test_empty_objects_give_a_page_that_says_what_is_missing(tmp_path: Path, host: PluginHost) -> None:
    for name in ("run.json", "metrics.json"):
        (tmp_path / name).write_text("{}")

    page = Page(render_report(tmp_path, host=host))

    assert "run.json has schema None" in page.text
    assert "run.json: status is missing." in page.text
    assert "No stage has a score." in page.text


def test_a_newer_schema_is_named_and_what_is_known_is_shown(run_dir: Path, host: PluginHost) -> None:
    edit(run_dir / "metrics.json", lambda metrics: metrics.update(schema=99))

    page = Page(render_report(run_dir, host=host))

    assert f"metrics.json has schema 99; this version writes {SCHEMA} and shows what it knows." in page.text
    assert "voc07_11pt/devkit" in page.text


def test_a_run_that_failed_says_so(run_dir: Path, host: PluginHost) -> None:
    (run_dir / "metrics.json").unlink()
    edit(run_dir / "run.json", lambda record: record.update(status="failed", error="the disk was full"))

    page = Page(render_report(run_dir, host=host))

    assert "The run is not complete: its status is 'failed'. It says: the disk was full" in page.text


WRONG: tuple[Any, ...] = (None, [], "text", -1, 1e400, True, [None, 3], {"a": [1]})


def bare(run_dir: Path) -> None:
    """Leave nothing of a run that takes long to draw."""
    shutil.rmtree(run_dir / "predictions")
    edit(run_dir / "run.json", lambda record: record.update(steps=record["steps"][:1], simulations={"w8a8": {}}))
    edit(run_dir / "metrics.json", lambda metrics: metrics["stages"].pop("w8a8"))


@pytest.mark.parametrize("file", ["run.json", "metrics.json"])
def test_any_value_may_be_of_the_wrong_kind(run_dir: Path, host: PluginHost, file: str) -> None:
    bare(run_dir)
    original = json.loads((run_dir / file).read_text())
    for index, key in enumerate(original):
        for wrong in (WRONG[index % len(WRONG)], WRONG[(index + 3) % len(WRONG)]):
            (run_dir / file).write_text(json.dumps({**original, key: wrong}))
            Page(render_report(run_dir, host=host))


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_any_value_one_level_down_may_be_of_the_wrong_kind(run_dir: Path, host: PluginHost, wrong: Any) -> None:
    bare(run_dir)
    original = json.loads((run_dir / "run.json").read_text())
    broken = {
        key: dict.fromkeys(value, wrong) if isinstance(value, dict) else [wrong] if isinstance(value, list) else value
        for key, value in original.items()
    }
    (run_dir / "run.json").write_text(json.dumps(broken))

    Page(render_report(run_dir, host=host))


def test_a_stage_without_predictions_is_named(run_dir: Path, host: PluginHost) -> None:
    shutil.rmtree(run_dir / "predictions" / "w8a8")

    page = Page(render_report(run_dir, host=host))

    assert "predictions/w8a8 is missing: its predictions cannot be shown." in page.text
    assert "This section needs the detections of two stages" in page.text


def test_a_damaged_chunk_is_named(run_dir: Path, host: PluginHost) -> None:
    chunk = run_dir / "predictions" / "w8a8" / "chunk-00000.parquet"
    chunk.write_bytes(b"no parquet")

    page = Page(render_report(run_dir, host=host))

    assert "The predictions of w8a8 cannot be shown:" in page.text
    assert str(chunk) in page.text


def test_labels_without_a_class_are_named_and_drawn_as_numbers(run_dir: Path, host: PluginHost) -> None:
    store = PredictionStore(run_dir / "predictions" / "w8a8", Detections)
    chunk = next(iter(store))
    odd = tuple(
        Detections(boxes=found.boxes, scores=found.scores, labels=found.labels + 90)
        for found in chunk.predictions
        if isinstance(found, Detections)
    )
    store.write(Chunk(index=0, image_ids=chunk.image_ids, predictions=odd))

    page = Page(render_report(run_dir, host=host))

    assert "The detections of w8a8 cannot be matched to the ground truth:" in page.text
    assert "class 9" in page.text


def test_scores_edited_by_hand_are_found_out(run_dir: Path, host: PluginHost) -> None:
    def flatter(metrics: dict[str, Any]) -> None:
        metrics["stages"]["w8a8"]["metrics"]["voc07_11pt/pytorch-ssd"]["per_class"]["green"] = 0.99

    edit(run_dir / "metrics.json", flatter)

    page = Page(render_report(run_dir, host=host))

    assert "1 AP values in metrics.json differ from those of the stored predictions" in page.text
    assert "green w8a8: 99.00 recorded" in page.text


def test_a_stage_name_that_leaves_the_directory_reads_nothing(run_dir: Path, host: PluginHost) -> None:
    def rename(metrics: dict[str, Any]) -> None:
        metrics["stages"]["../../w8a8"] = metrics["stages"].pop("w8a8")
        metrics["stages"]["../predictions_w8a8"] = metrics["stages"]["../../w8a8"]

    edit(run_dir / "metrics.json", rename)

    assert "predictions/../predictions_w8a8 is missing" in render_report(run_dir, host=host)


def test_against_itself_every_difference_is_zero(run_dir: Path, host: PluginHost) -> None:
    page = Page(render_report(run_dir, host=host, against=run_dir))

    assert "Both evaluated the same images under the same protocol." in page.text
    assert "Conditions that differ." not in page.text


def test_against_another_run_the_differing_conditions_are_said(
    run_dir: Path, host: PluginHost, grid: Path, tmp_path: Path
) -> None:
    other = write_run(tmp_path / "other", GridDataset(grid, "trainval"), grid, "toy_squares", seed=3, limit=5)
    edit(other / "run.json", lambda record: record["dataset"].update(image_ids_sha256="2" * 64))
    edit(other / "metrics.json", lambda metrics: metrics.update(headline="coco"))

    page = Page(render_report(run_dir, host=host, against=other))

    assert "The runs differ in split: test here, trainval there." in page.text
    assert "The runs differ in evaluated images" in page.text
    assert "The runs show different protocols first: voc07_11pt/pytorch-ssd here, coco there." in page.text
    assert "The runs differ in limit: no here, yes there." in page.text


def test_against_a_run_without_metrics_shows_what_there_is(run_dir: Path, host: PluginHost, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(run_dir / "run.json", other)

    page = Page(render_report(run_dir, host=host, against=other))

    assert "Missing from the other run: metrics.json is missing." in page.text


def test_a_report_that_cannot_be_written_is_an_error(run_dir: Path, host: PluginHost, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is a directory"):
        write_report(run_dir, host=host, out=tmp_path)
    with pytest.raises(RunError, match="cannot be written"):
        write_report(run_dir, host=host, out=tmp_path / "nowhere" / "report.html")


def test_the_reproducing_command_writes_every_default_out(run_dir: Path, host: PluginHost, grid: Path) -> None:
    page = Page(render_report(run_dir, host=host))

    assert (
        f"zoo-eval run toy_squares \\ --data {grid} \\ --checkpoint /somewhere/weights.safetensors "
        "\\ --stages fp32,w8a8 \\ --calibration-size 64 \\ --workers 2 \\ --seed 0 "
        "\\ --batch-size 8 \\ --device cpu \\ --runtime auto \\ --set quantsim.param_bw=8"
    ) in page.text
    assert "zoo-eval run toy_squares \\ --data 'a folder'" in page.text


def test_every_class_of_a_run_without_any_detection_is_listed(tmp_path: Path, host: PluginHost, grid: Path) -> None:
    path = write_run(tmp_path / "run", GridDataset(grid, "test"), grid, "toy_squares")
    for stage in ("fp32", "w8a8"):
        store = PredictionStore(path / "predictions" / stage, Detections)
        chunk = next(iter(store))
        nothing = Detections(
            boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64)
        )
        store.write(Chunk(index=0, image_ids=chunk.image_ids, predictions=(nothing,) * len(chunk.image_ids)))

    page = Page(render_report(path, host=host))

    assert "No image changed." in page.text
    assert "green" in page.text
