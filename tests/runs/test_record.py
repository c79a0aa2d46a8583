"""The typed record: written, read back, refused where it is not valid, compared with another."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from typed_records import DEPLOYMENT, HEADLINE, STAGE, metrics_record, run_record
from zoo_core.errors import RunError
from zoo_core.runs.migration import SCHEMA
from zoo_core.runs.part import SourceRecord
from zoo_core.runs.parts import CheckpointRecord
from zoo_core.runs.record import Purpose, RunRecord, read_metrics, read_record, record_text
from zoo_core.runs.request import EvaluationRequest

Edit = Callable[[dict[str, Any]], object]


def write(folder: Path, edit: Edit = dict, *, name: str = "run.json") -> Path:
    """A record on disk after an edit."""
    content = json.loads(record_text(run_record() if name == "run.json" else metrics_record()))
    edit(content)
    (folder / name).write_text(json.dumps(content))
    return folder


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = run_record(
        request=EvaluationRequest(
            model="m",
            data=tmp_path / "data",
            settings=("quantsim.param_bw=4",),
            batch_sizes=(1, 8),
            limit=10,
            command=("zoo-eval", "run", "m"),
        ),
        error="it failed",
        calibration=None,
        git=None,
        seconds={"prepare": 0.1 + 0.2},
    )
    (tmp_path / "run.json").write_text(record_text(record))

    assert read_record(tmp_path) == record


def test_metrics_come_back_as_they_were_written_and_are_published_side_by_side(tmp_path: Path) -> None:
    metrics = metrics_record()
    (tmp_path / "metrics.json").write_text(record_text(metrics))

    assert read_metrics(tmp_path) == metrics
    published = json.loads((tmp_path / "metrics.json").read_text())["stages"]["fp32"]
    assert published["metrics"][HEADLINE] == {
        "map": 0.75,
        "map_small": None,
        "per_class": {"red": 0.75, "green": 0.75},
    }
    assert "scores" not in published


def test_a_run_without_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_lacks_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        record_text(run_record(seconds={"prepare": value}))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda record: record.pop("git"), r"git: Field required"),
        (lambda record: record["dataset"].pop("fingerprint"), r"dataset\.fingerprint: Field required"),
        (lambda record: record.update(colour="red"), r"colour: Unexpected"),
        (lambda record: record["stages"]["w8a8"].update(colour="red"), r"stages\.w8a8\.colour: Unexpected"),
        (lambda record: record["request"].update(colour="red"), r"request\.colour: Unexpected"),
        (lambda record: record["calibration"].update(overlap="test_000"), r"calibration\.overlap: .*valid array"),
        (lambda record: record.update(steps={"step": "adaround"}), r"steps: .*valid array"),
        (lambda record: record["steps"][0].update(short="no"), r"steps\.0\.short: .*valid boolean"),
        (lambda record: record["settings"].update(batch_size="8"), r"settings\.batch_size: .*valid integer"),
        (lambda record: record["settings"].update(batch_size=8.5), r"settings\.batch_size: .*fractional|integer"),
        (lambda record: record["request"].update(limit="10"), r"request\.limit: .*valid integer"),
        (lambda record: record.update(status="done"), r"status: "),
        (lambda record: record["seconds"].update(prepare=float("nan")), r"seconds\.prepare: .*finite"),
        (
            lambda record: record.update(schema=SCHEMA + 1),
            rf"run\.json has schema {SCHEMA + 1}; this version reads 1 to {SCHEMA}",
        ),
    ],
)
def test_a_record_that_is_not_valid_is_refused_with_the_name_of_the_field(
    tmp_path: Path, edit: Edit, message: str
) -> None:
    write(tmp_path, edit)

    with pytest.raises(RunError, match=message):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda metrics: metrics["stages"]["fp32"].pop("drop_points"), r"stages\.fp32\.drop_points: Field required"),
        (lambda metrics: metrics["stages"]["fp32"]["metrics"][HEADLINE].pop("per_class"), r"per_class: .*an object"),
        (lambda metrics: metrics["stages"]["fp32"]["metrics"][HEADLINE].update(map="0.5"), r"values\.map: .*number"),
        (lambda metrics: metrics["stages"].update(w8a8=3), r"stages\.w8a8: "),
        (lambda metrics: metrics.update(limited=0), r"limited: .*valid boolean"),
        (lambda metrics: metrics.update(schema=99), r"metrics\.json has schema 99"),
    ],
)
def test_metrics_that_are_not_valid_are_refused_with_the_name_of_the_field(
    tmp_path: Path, edit: Edit, message: str
) -> None:
    write(tmp_path, edit, name="metrics.json")

    with pytest.raises(RunError, match=message):
        read_metrics(tmp_path)


def test_every_wrong_field_is_named_at_once(tmp_path: Path) -> None:
    def spoil(record: dict[str, Any]) -> None:
        record["calibration"]["overlap"] = "test_000"
        record["steps"] = {}
        del record["git"]

    with pytest.raises(RunError) as caught:
        read_record(write(tmp_path, spoil))
    for field in ("calibration.overlap:", "steps:", "git:"):
        assert field in caught.value.fact


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"has no run\.json"),
        ("{", r"run\.json cannot be read"),
        ("[1]", r"run\.json is not a JSON object"),
        ("[" * 100_000, r"run\.json cannot be read"),
        ("\ufeff{}", r"run\.json cannot be read"),
        ('{"schema": true}', r"run\.json has schema True"),
        ("{}", r"run\.json has schema None"),
    ],
)
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text, encoding="utf-8")

    with pytest.raises(RunError, match=message):
        read_record(tmp_path)


def test_a_deployed_stage_is_read_as_it_was_written(tmp_path: Path) -> None:
    stage = dataclasses.replace(STAGE, quantized=True, runtime="onnxruntime", deployment=DEPLOYMENT)
    record = dataclasses.replace(run_record(), stages={"optimized_w8a8@onnxruntime": stage})
    (tmp_path / "run.json").write_text(record_text(record), encoding="utf-8")

    assert read_record(tmp_path) == record


# --------------------------------------------------------------------------- differences

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def part(name: str, /, **changes: Any) -> dict[str, Any]:
    """A change of one part of a record."""
    return {name: dataclasses.replace(getattr(run_record(), name), **changes)}


OTHER_WEIGHTS = CheckpointRecord(path="/elsewhere", sha256="9" * 64, optimized=False)

CONDITIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    # condition: change of the record, purposes that refuse it, purposes that mention it
    "zoo-eval": ({"zoo_eval": "9"}, "resume predict", "report"),
    "sources": ({"sources": {}}, "resume predict", "report"),
    "Python": (part("environment", python="3.99"), "resume predict", ""),
    "libraries": (part("environment", packages={"torch": "9"}), "resume predict", "report"),
    "model": ({"model": "other"}, "", "report"),
    "headline protocol": ({"headline": "coco"}, "resume compare", "report"),
    "stages": (part("settings", stages=("fp32",)), "resume", ""),
    "device": (part("settings", device="cuda"), "resume predict", "report reproduce"),
    "batch size": (part("settings", batch_size=9), "", "report reproduce"),
    "runtime of float stages": (part("settings", runtime="onnxruntime"), "", "report"),
    "seed": (part("settings", seed=9), "", "report"),
    "recipe": (part("recipe", name="other"), "", "report"),
    "recipe content": (part("recipe", sha256="9" * 64), "resume", "report"),
    "AIMET configuration": (part("recipe", config_sha256="9" * 64), "resume", "report"),
    "weights": ({"checkpoint": OTHER_WEIGHTS}, "resume", "report"),
    "optimized weights": ({"optimized_checkpoint": OTHER_WEIGHTS}, "resume", "compare report"),
    "data set": (part("dataset", name="other"), "compare report", ""),
    "split": (part("dataset", split="trainval"), "compare report", ""),
    "classes": (part("dataset", class_names=("green", "red")), "resume compare report predict", ""),
    "number of images": (part("dataset", num_images=9), "report", ""),
    "evaluated images": (part("dataset", image_ids_sha256="9" * 64), "resume report predict", ""),
    "content of images and annotations": (part("dataset", fingerprint="9" * 64), "resume compare report predict", ""),
    "number of images in the split": (part("dataset", num_images_in_split=99), "resume", ""),
    "images in the split": (part("dataset", split_ids_sha256="9" * 64), "resume", ""),
    "limit": (part("dataset", limited=True), "resume report", ""),
    "calibration split": (part("calibration", split="val"), "", "compare report"),
    "number of calibration images": (part("calibration", num_images=9), "", "compare report"),
    "calibration images": (part("calibration", ids=("a2", "a1")), "resume", ""),
    "content of calibration images and annotations": (part("calibration", fingerprint="9" * 64), "resume", ""),
    "versions of runtimes": (
        {"stages": {**run_record().stages, "w8a8": dataclasses.replace(STAGE, deployment=DEPLOYMENT)}},
        "",
        "compare report reproduce",
    ),
    "processor": (part("environment", processor="another"), "", "resume reproduce"),
    "instruction set of torch's kernels": (part("environment", cpu_capability="9"), "", "resume report reproduce"),
    "environment variables that select kernels": (
        part("environment", environment_variables={"MKL_CBWR": "AVX2"}),
        "resume predict",
        "report reproduce",
    ),
    "settings of torch": (
        part("environment", torch_settings={"mkldnn": "False"}),
        "resume predict",
        "report reproduce",
    ),
    "device name": (part("environment", device_name="a GPU"), "", "resume reproduce"),
    "threads of torch": (part("environment", torch_threads=9), "", "reproduce"),
}


@pytest.mark.parametrize("what", CONDITIONS)
def test_a_condition_that_differs_is_listed_for_the_purposes_that_need_it(what: str) -> None:
    change, refused, mentioned = CONDITIONS[what]
    record, other = run_record(), run_record(**change)

    listed = {purpose: record.differences(other, purpose) for purpose in PURPOSES}

    assert {purpose: [(one.what, one.refused) for one in found] for purpose, found in listed.items()} == {
        purpose: [(what, purpose in refused.split())] if purpose in (refused + " " + mentioned).split() else []
        for purpose in PURPOSES
    }


def test_every_condition_is_tested() -> None:
    from zoo_core.runs.record import _CONDITIONS

    assert [condition.what for condition in _CONDITIONS] == list(CONDITIONS)


def test_equal_records_differ_in_nothing_and_cost_is_not_a_condition() -> None:
    other = run_record(seconds={"prepare": 9.0}, started="2026-01-01T00:00:00+00:00", warnings=("a warning",))
    assert [run_record().differences(other, purpose) for purpose in PURPOSES] == [[]] * len(PURPOSES)


def test_threads_and_visible_devices_are_no_kernel_variables_because_a_run_sets_them_from_its_record() -> None:
    other = run_record(
        **part("environment", environment_variables={"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""})
    )
    assert [run_record().differences(other, purpose) for purpose in PURPOSES] == [[]] * len(PURPOSES)


def test_the_commit_is_no_condition() -> None:
    other = run_record(**part("git", commit="9" * 40, dirty=True))
    assert [run_record().differences(other, purpose) for purpose in PURPOSES] == [[]] * len(PURPOSES)


def test_changed_sources_are_named() -> None:
    before = {
        "zoo-eval": SourceRecord(distribution="zoo-eval", version="1", sha256="e" * 64),
        "toy": SourceRecord(distribution="toy", version="1.0", sha256="a" * 64),
        "notebook": SourceRecord(distribution=None, version=None, sha256="b" * 64),
    }
    after = {
        "zoo-eval": before["zoo-eval"],
        "toy": SourceRecord(distribution="toy", version="1.1", sha256="c" * 64),
        "notebook": SourceRecord(distribution=None, version=None, sha256=None),
    }
    (difference,) = run_record(sources=before).differences(run_record(sources=after), "resume")
    assert str(difference) == (
        "sources: toy 1.1 with sources cccccccccccc instead of 1.0 with sources aaaaaaaaaaaa, "
        "notebook unreadable sources instead of sources bbbbbbbbbbbb"
    )


def test_a_part_that_only_one_run_has_is_a_difference() -> None:
    listed = run_record().differences(run_record(calibration=None, git=None), "resume")
    assert [str(one) for one in listed] == [
        "calibration images: none instead of ('a1', 'a2')",
        "content of calibration images and annotations: none instead of 222222222222",
    ]


@pytest.mark.parametrize(
    ("what", "change", "text"),
    [
        ("split", part("dataset", split="val"), "split: val instead of test"),
        ("weights", {"checkpoint": OTHER_WEIGHTS}, "weights: 999999999999 instead of cccccccccccc"),
        ("weights", {"checkpoint": None}, "weights: none instead of cccccccccccc"),
        (
            "libraries",
            part("environment", packages={"torch": "9", "numpy": "2"}),
            "libraries: torch 9 instead of 2.15.0, aimet-torch none instead of 2.42.0, numpy 2 instead of none",
        ),
        ("classes", part("dataset", class_names=("green", "red")), "classes: in another order"),
        ("classes", part("dataset", class_names=("red", "b", "c")), "classes: 1 (green) gone, 2 (b, ...) new"),
    ],
)
def test_a_difference_reads_as_the_new_value_instead_of_the_old_one(
    what: str, change: dict[str, Any], text: str
) -> None:
    record: RunRecord = run_record()
    purpose: Purpose = "compare" if what == "split" else "resume"
    assert [str(one) for one in record.differences(run_record(**change), purpose) if one.what == what] == [text]
