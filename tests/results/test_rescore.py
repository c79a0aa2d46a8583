"""Stored detections scored again, through the command line: runs, comp4 folders, COCO results."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from results.conftest import MakeRun
from zoo_core.cli.main import run_command_line
from zoo_core.datasets.comp4 import read_comp4
from zoo_core.datasets.voc import VOC_CLASSES
from zoo_core.plugins import PluginHost

PROTOCOLS = {
    "devkit_11pt": "voc07_11pt/devkit",
    "devkit_area": "voc_area/devkit",
    "pytorch_ssd_11pt": "voc07_11pt/pytorch-ssd",
    "pytorch_ssd_area": "voc_area/pytorch-ssd",
}

Rescore = Callable[..., dict[str, Any]]


@pytest.fixture
def rescore(capsys: pytest.CaptureFixture[str]) -> Rescore:
    def run(*arguments: object) -> dict[str, Any]:
        assert run_command_line(["rescore", *map(str, arguments), "--json"]) == 0
        content: dict[str, Any] = json.loads(capsys.readouterr().out)
        return content

    return run


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        assert run_command_line(["rescore", *map(str, arguments), "--json"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "\n  fix: " in captured.err
        return captured.err

    return run


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Two images in VOC layout: a cat of 20 x 20 pixels in each; the first has a dog, too."""
    root = tmp_path / "data"
    for folder in ("ImageSets/Main", "Annotations"):
        (root / folder).mkdir(parents=True)
    one = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>20</ymax></bndbox></object>"
    cat, dog = one.format("cat", 1, 20), one.format("dog", 51, 70)
    (root / "Annotations" / "000001.xml").write_text(f"<annotation>{cat}{dog}</annotation>")
    (root / "Annotations" / "000042.xml").write_text(f"<annotation>{cat}</annotation>")
    (root / "ImageSets" / "Main" / "test.txt").write_text("000001\n000042\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("000042\n")
    (root / "labels.txt").write_text("cat\ndog\n")
    return root


def test_a_run_gives_the_scores_that_it_recorded(rescore: Rescore, make_run: MakeRun, host: PluginHost) -> None:
    run = make_run()
    recorded = json.loads((run / "metrics.json").read_text())["stages"]

    found = rescore(run)

    assert found["stage"] == "fp32"
    assert {name: stage["metrics"] for name, stage in recorded.items()} == {
        name: stage["metrics"] for name, stage in found["stages"].items()
    }
    assert found["metrics"] == recorded["fp32"]["metrics"]
    assert found["num_images"] == 12


def test_stages_and_protocols_of_a_run_can_be_chosen(rescore: Rescore, make_run: MakeRun, host: PluginHost) -> None:
    found = rescore(make_run(), "--stages", "w8a8", "--protocol", "coco", "--protocol", "voc_area/devkit")

    assert list(found["stages"]) == ["w8a8"]
    assert list(found["metrics"]) == ["coco", "voc_area/devkit"]


def test_a_limited_run_is_scored_on_its_own_images(rescore: Rescore, make_run: MakeRun, host: PluginHost) -> None:
    found = rescore(make_run(limit=5))

    assert found["num_images"] == 5
    assert "Limited run: scored on its 5 images only." in found["notes"]


def test_a_run_without_metrics_is_scored_on_what_is_there_and_says_so(
    rescore: Rescore, make_run: MakeRun, host: PluginHost
) -> None:
    run = make_run()
    (run / "metrics.json").unlink()
    (run / "run.json").write_text((run / "run.json").read_text().replace('"complete"', '"interrupted"'))

    found = rescore(run)

    assert set(found["stages"]) == {"fp32", "w8a8"}
    assert "The run is not complete: its status is 'interrupted'." in found["notes"]


def test_predictions_that_lack_an_image_are_not_scored(
    fails: Callable[..., str], make_run: MakeRun, host: PluginHost
) -> None:
    run = make_run()
    with (run / "image_ids.txt").open("a") as file:
        file.write("trainval_000\n")
    assert "lacks 1 of the 13 images" in fails(run)  # the split does not hold it either

    (run / "image_ids.txt").write_text("test_000\n")
    assert "lacks 0 of the run's 1 images and holds 11 others" in fails(run)


def test_a_stage_and_a_protocol_that_do_not_exist_are_named(
    fails: Callable[..., str], make_run: MakeRun, host: PluginHost
) -> None:
    assert "no predictions of a stage 'w4a8'" in fails(make_run(), "--stages", "w4a8")
    assert "There is no protocol 'voc07_11pt/devkt'; the closest is 'voc07_11pt/devkit'" in fails(
        make_run("other"), "--protocol", "voc07_11pt/devkt"
    )


def test_a_class_without_a_comp4_file_is_left_out_of_the_mean_and_an_empty_file_is_not(
    rescore: Rescore, squares: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "comp4"
    folder.mkdir()
    (folder / "comp4_det_test_cat.txt").write_text("000001 0.9 1 1 20 20\n000042 0.8 1 1 20 20\n")
    options = ("--data", squares, "--labels", squares / "labels.txt")

    left_out = rescore(folder, *options)
    assert left_out["metrics"]["voc_area/devkit"]["map"] == 1.0
    assert left_out["metrics"]["voc_area/devkit"]["per_class"] == {"cat": 1.0, "dog": None}
    assert left_out["num_classes"] == {"scored": 1, "all": 2}
    assert "Not submitted, so left out of the mean: dog." in left_out["notes"]

    (folder / "comp4_det_test_dog.txt").write_text("")
    empty = rescore(folder, *options)
    assert empty["metrics"]["voc_area/devkit"] == {"map": 0.5, "per_class": {"cat": 1.0, "dog": 0.0}}


def test_the_table_says_over_how_many_classes_the_mean_is(
    capsys: pytest.CaptureFixture[str], squares: Path, tmp_path: Path
) -> None:
    (tmp_path / "comp4_det_test_cat.txt").write_text("000001 0.9 1 1 20 20\n")

    assert (
        run_command_line(["rescore", str(tmp_path), "--data", str(squares), "--labels", f"{squares}/labels.txt"]) == 0
    )

    assert "mAP is the mean over 1 of 2 classes." in capsys.readouterr().out


def test_the_split_is_that_of_the_file_names(rescore: Rescore, squares: Path, tmp_path: Path) -> None:
    (tmp_path / "comp4_det_val_cat.txt").write_text("000042 0.8 1 1 20 20\n")

    found = rescore(tmp_path, "--data", squares, "--labels", squares / "labels.txt")

    assert found["dataset"] == "VOC2007 val"
    assert found["num_images"] == 1


def test_an_id_file_limits_what_a_submission_is_scored_on(rescore: Rescore, squares: Path, tmp_path: Path) -> None:
    (tmp_path / "comp4_det_test_cat.txt").write_text("000042 0.8 1 1 20 20\n")
    (tmp_path / "ids.txt").write_text("000042\n")
    options = ("--data", squares, "--labels", squares / "labels.txt", "--protocol", "voc_area/devkit")

    assert rescore(tmp_path, *options)["metrics"]["voc_area/devkit"]["map"] == 0.5
    assert rescore(tmp_path, *options, "--ids", tmp_path / "ids.txt")["metrics"]["voc_area/devkit"]["map"] == 1.0


def test_coco_results_score_as_the_comp4_files_of_the_same_detections(
    rescore: Rescore, squares: Path, tmp_path: Path
) -> None:
    rows = [
        ("cat", "000001", 0.9, 1, 1, 20, 20),
        ("cat", "000042", 0.8, 5, 1, 30, 25),
        ("dog", "000001", 0.7, 51, 1, 69, 20),
    ]
    for name in ("cat", "dog"):
        lines = [" ".join(map(str, row[1:])) for row in rows if row[0] == name]
        (tmp_path / f"comp4_det_test_{name}.txt").write_text("\n".join(lines))
    results = tmp_path / "results.json"
    results.write_text(
        json.dumps(
            [
                {
                    "image_id": int(image_id) if index else image_id,
                    "category_id": 1 + ("cat", "dog").index(name),
                    "bbox": [x1 - 1, y1 - 1, x2 - x1, y2 - y1],
                    "score": score,
                }
                for index, (name, image_id, score, x1, y1, x2, y2) in enumerate(rows)
            ]
        )
    )
    options = ("--data", squares, "--labels", squares / "labels.txt")

    assert rescore(results, *options)["metrics"] == rescore(tmp_path, *options)["metrics"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not readable JSON"),
        ("[" * 100_000, "is not readable JSON"),
        ('{"annotations": []}', "is an annotation file, not a list of detections"),
        ("[3]", "entry 0 is not a JSON object"),
        ('[{"image_id": 7}]', "entry 0: image_id '7' is not an image of the split"),
        ('[{"image_id": "00042"}]', "image_id '00042' is not an image of the split; the closest is '000042'"),
        ('[{"image_id": 42, "category_id": 0}]', "category_id is '0'; the 2 classes are 1 to 2"),
        ('[{"image_id": 42, "category_id": true}]', "category_id is 'True'"),
        ('[{"image_id": 42, "category_id": 1, "bbox": [1, 2, 3]}]', "bbox is '[1, 2, 3]', not four numbers"),
        ('[{"image_id": 42, "category_id": 1, "bbox": [1, 2, 3, -4], "score": 1}]', "height is '-4', not 0 or more"),
        ('[{"image_id": 42, "category_id": 1, "bbox": [1, 2, 3, 4], "score": NaN}]', "score is 'nan'"),
        ('[{"image_id": 42, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1' + 400 * "0" + "}]", "score is '1000"),
        (
            '[{"image_id": 42, "category_id": 1, "bbox": [2e38, 2, 2e38, 4], "score": 1}]',
            "end of the box is not a finite",
        ),
    ],
)
def test_a_coco_file_that_cannot_be_scored_is_refused_by_entry(
    fails: Callable[..., str], squares: Path, tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)

    assert words in fails(path, "--data", squares, "--labels", squares / "labels.txt")


def test_what_cannot_be_a_source_is_refused(fails: Callable[..., str], squares: Path, tmp_path: Path) -> None:
    (tmp_path / "comp4_det_test_cat.txt").write_text("000007 0.8 1 1 20 20\n")
    options = ("--data", squares, "--labels", squares / "labels.txt")

    assert "nowhere does not exist" in fails(tmp_path / "nowhere")
    assert "Nothing says which annotations" in fails(tmp_path)
    assert "detections on 1 images that are not among the 2 of 'test'" in fails(tmp_path, *options)
    assert "is not a run directory, so it has no stages" in fails(tmp_path, *options, "--stages", "fp32")
    assert "holds no file comp4_det_<split>_<class>.txt" in fails(squares, *options)


@pytest.mark.data
@pytest.mark.slow
def test_published_detections_have_the_ap_of_two_public_evaluators_under_four_protocols(
    rescore: Rescore, shared: Path, voc2007: Path, tmp_path: Path
) -> None:
    expected = json.loads((shared / "data" / "voc2007_detections_expected_ap.json").read_text())
    with tarfile.open(shared / "data" / "voc2007_detections.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")

    for name, num_classes in (("yolo2_a", 19), ("yolo2_b", 20)):
        found = rescore(tmp_path / "voc2007_detections" / name, "--model", "ssd_mobilenetv2_lite", "--data", voc2007)

        assert found["num_classes"] == {"scored": num_classes, "all": 20}
        assert ("person" in " ".join(found["notes"])) is (name == "yolo2_a")
        for published, protocol in PROTOCOLS.items():
            values = found["metrics"][protocol]
            scored = {label: ap for label, ap in values["per_class"].items() if ap is not None}
            assert scored == pytest.approx(expected[name][published]["per_class"], abs=1e-4)
            assert values["map"] == pytest.approx(expected[name][published]["mean"], abs=1e-4)


@pytest.mark.data
def test_real_detections_as_coco_results_score_as_they_do_as_comp4(
    rescore: Rescore, shared: Path, voc2007: Path, tmp_path: Path
) -> None:
    with tarfile.open(shared / "data" / "voc2007_detections.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    folder = tmp_path / "voc2007_detections" / "yolo2_a"
    found = read_comp4(folder, VOC_CLASSES)
    path = tmp_path / "results.json"
    x1, y1, x2, y2 = found.boxes.astype(float).T
    columns = (found.image_ids.tolist(), found.labels.tolist(), found.scores.astype(float).tolist())
    boxes = zip(x1.tolist(), y1.tolist(), (x2 - x1).tolist(), (y2 - y1).tolist(), strict=True)
    path.write_text(
        json.dumps(
            [
                {"image_id": int(image_id), "category_id": 1 + label, "score": score, "bbox": list(box)}
                for image_id, label, score, box in zip(*columns, boxes, strict=True)
            ]
        )
    )

    a = rescore(folder, "--data", voc2007, "--protocol", "voc07_11pt/devkit")["metrics"]["voc07_11pt/devkit"]
    b = rescore(path, "--data", voc2007, "--protocol", "voc07_11pt/devkit")["metrics"]["voc07_11pt/devkit"]
    assert b["map"] == pytest.approx(a["map"], abs=1e-6)
