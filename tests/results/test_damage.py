"""Every file of a real run, damaged in every way: verify notices each, and no command prints an altered number."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from results.conftest import edit_json
from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.model import untrained
from zoo_core import api, artifacts
from zoo_core.errors import RunError
from zoo_core.plugins import PluginHost
from zoo_core.results.expected import differences, expected_metrics
from zoo_core.results.stored import open_changed_run
from zoo_core.results.verify import verify
from zoo_core.runs.hashes import file_hashes, file_problems
from zoo_core.runs.listing import read_listed
from zoo_core.runs.record import read_metrics, read_record

NUM_FLIPS_PER_FILE = 40
NUM_METRIC_FLIPS = 700


@pytest.fixture(scope="module")
def toy_host() -> PluginHost:
    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    return host


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, toy_host: PluginHost) -> Path:
    root = tmp_path_factory.mktemp("whole")
    artifacts.save_state_dict(root / "toy.safetensors", untrained(2).state_dict(), {})
    options: dict[str, Any] = {"data": data.write(root / "grid", num_test=30), "checkpoint": root / "toy.safetensors"}
    api.evaluate("toy_squares", host=toy_host, out=root / "run", report=False, **options)
    return root / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def stale(run: Path, host: PluginHost) -> dict[str, str]:
    return {check.what: check.message for check in verify(open_changed_run(run), host) if check.state == "stale"}


def test_a_fresh_run_holds(run: Path, toy_host: PluginHost) -> None:
    assert stale(run, toy_host) == {}
    recorded = read_record(run).files
    assert recorded is not None
    assert {name.partition("/")[0] for name in recorded} == {
        "image_ids.txt",
        "inputs",
        "lines",
        "metrics.json",
        "predictions",
        "quantized",
    }
    assert recorded == file_hashes(run, {name.partition("/")[0] for name in recorded})


def test_every_flipped_bit_changes_the_hash_of_a_file(run: Path) -> None:
    recorded = read_record(run).files or {}
    chance, num_noticed = random.Random(2007), 0  # noqa: S311 - the bits are to be the same every time
    for name in recorded:
        content = (run / name).read_bytes()
        for _ in range(min(NUM_FLIPS_PER_FILE, 8 * len(content))):
            position, bit = chance.randrange(len(content)), chance.randrange(8)
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            (run / name).write_bytes(damaged)
            assert [problem.name for problem in file_problems(run, recorded, all_recorded=True)] == [name]
            num_noticed += 1
        (run / name).write_bytes(content)
    assert num_noticed >= 30 * len(recorded)


def test_verify_names_each_file_that_is_flipped_cut_or_gone(run: Path, toy_host: PluginHost) -> None:
    for name in read_record(run).files or {}:
        content = (run / name).read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 3] ^= 4
        for damaged, words in ((flipped, "has changed"), (content[:-1], "has changed"), (None, "is missing")):
            (run / name).unlink()
            if damaged is not None:
                (run / name).write_bytes(damaged)
            assert stale(run, toy_host)["files"].startswith(f"{name} {words}"), name
            (run / name).write_bytes(content)
    assert stale(run, toy_host) == {}


def test_every_flipped_bit_of_metrics_is_noticed_without_its_hash(run: Path, toy_host: PluginHost) -> None:
    """The whole of the file follows from the record and the predictions; only last digits may differ."""
    opened = open_changed_run(run)
    entry = toy_host.model("toy_squares")
    expected = expected_metrics(opened, entry, opened.open_dataset(entry, toy_host), toy_host)
    path = run / "metrics.json"
    content = path.read_bytes()
    chance, unnoticed = random.Random(336), []  # noqa: S311 - likewise
    for _ in range(NUM_METRIC_FLIPS):
        damaged = bytearray(content)
        position = chance.randrange(len(content))
        damaged[position] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            metrics = read_metrics(run)
        except RunError:
            continue
        assert metrics is not None
        if not differences(metrics, expected, scores_only=False):
            unnoticed.append((content[position - 20 : position + 10], json.loads(damaged)))
    numbers = [json.loads(content, parse_float=lambda text: round(float(text), 8))]
    for place, altered in unnoticed:
        rounded = json.loads(json.dumps(altered), parse_float=lambda text: round(float(text), 8))
        assert rounded == numbers[0], place


def no_stages(metrics: dict[str, Any]) -> None:
    metrics["stages"] = {}


def other_order(metrics: dict[str, Any]) -> None:
    metrics["stages"] = dict(reversed(metrics["stages"].items()))


def other_drop(metrics: dict[str, Any]) -> None:
    metrics["stages"]["w8a8"]["drop_points"] += 0.01


def other_twin(metrics: dict[str, Any]) -> None:
    metrics["stages"]["w8a8"]["same_as"] = "fp32"


def other_class(metrics: dict[str, Any]) -> None:
    metrics["stages"]["w8a8"]["metrics"]["coco"]["per_class"]["red"] = 0.123


def other_change(metrics: dict[str, Any]) -> None:
    metrics["stages"]["w8a8"]["change"]["points"] = 1.0


def other_count(metrics: dict[str, Any]) -> None:
    metrics["protocols"]["coco"]["num_objects"]["red"] += 1


def other_definition(metrics: dict[str, Any]) -> None:
    metrics["protocols"]["coco"]["definition"] = "another rule"


def no_protocol(metrics: dict[str, Any]) -> None:
    del metrics["stages"]["w8a8"]["metrics"]["coco"]


def other_headline(metrics: dict[str, Any]) -> None:
    metrics["headline"] = "coco"


def limited(metrics: dict[str, Any]) -> None:
    metrics["limited"] = True


def other_images(metrics: dict[str, Any]) -> None:
    metrics["num_images"] = 31


def other_fingerprint(metrics: dict[str, Any]) -> None:
    metrics["fingerprint"] = "0" * 64


def another_warning(metrics: dict[str, Any]) -> None:
    metrics["warnings"] = ["All is well."]


EDITS = [
    (no_stages, "stages.keys is missing"),
    (other_order, "stages.keys is optimized_w8a8"),
    (other_drop, "stages.w8a8.drop_points is"),
    (other_twin, "stages.w8a8.same_as is fp32; none follows"),
    (other_class, "stages.w8a8.metrics.coco.per_class.red is 0.123; "),
    (other_change, "stages.w8a8.change.points is 1.0; "),
    (other_count, "protocols.coco.num_objects.red is"),
    (other_definition, "protocols.coco.definition is another rule; "),
    (no_protocol, "stages.w8a8.metrics.keys is"),
    (other_headline, "headline is coco; "),
    (limited, "limited is True; False follows"),
    (other_images, "num_images is 31; 30 follows"),
    (other_fingerprint, "fingerprint is 0000"),
    (another_warning, "All is well."),
]


@pytest.mark.parametrize(("edit", "words"), EDITS)
def test_metrics_that_do_not_follow_are_named_even_with_a_fitting_hash(
    edit: Callable[[dict[str, Any]], None], words: str, run: Path, toy_host: PluginHost
) -> None:
    edit_json(run / "metrics.json", edit)
    hashes = file_hashes(run, ["metrics.json"])
    edit_json(run / "run.json", lambda record: record["files"].update(hashes))

    found = stale(run, toy_host)

    assert found.keys() == {"scores"}
    assert words in found["scores"]


@pytest.mark.parametrize("alter", [other_class, no_stages])
def test_no_command_uses_altered_metrics(
    alter: Callable[[dict[str, Any]], None], run: Path, toy_host: PluginHost
) -> None:
    edit_json(run / "metrics.json", alter)
    words = r"metrics\.json has changed: its SHA-256 is [0-9a-f]{12}, and [0-9a-f]{12} was recorded"

    for command in (api.check, api.compare, api.rescore, api.reproduce):
        with pytest.raises(RunError, match=words):
            command(run, host=toy_host)
    assert read_listed(run).status == "altered"
    assert read_listed(run).values == {}
    assert "metrics.json has changed: its SHA-256 is" in api.write_report(run, host=toy_host).read_text()


@pytest.mark.parametrize("command", [api.compare, api.rescore])
def test_predictions_of_another_stage_are_refused(
    command: Callable[..., object], run: Path, toy_host: PluginHost
) -> None:
    chunks = run / "predictions"
    shutil.copy(chunks / "fp32" / "chunk-00000.parquet", chunks / "w8a8" / "chunk-00000.parquet")

    with pytest.raises(RunError, match=r"predictions/w8a8/chunk-00000\.parquet has changed: its SHA-256 is"):
        command(run, host=toy_host)


@pytest.mark.parametrize("name", ["network.safetensors", "encodings.json"])
def test_a_changed_network_is_not_exported(name: str, run: Path, toy_host: PluginHost, tmp_path: Path) -> None:
    content = bytearray((run / "quantized" / name).read_bytes())
    content[-9] ^= 1
    (run / "quantized" / name).write_bytes(content)

    with pytest.raises(RunError, match=rf"quantized/{name} has changed: its SHA-256 is"):
        api.export(run, out=tmp_path / "out", host=toy_host)
    assert not (tmp_path / "out").exists()


def test_a_list_of_images_that_is_a_pipe_is_refused(run: Path, toy_host: PluginHost) -> None:
    (run / "image_ids.txt").unlink()
    os.mkfifo(run / "image_ids.txt")

    with pytest.raises(RunError, match=r"image_ids\.txt cannot be read: .*it is not a regular file"):
        api.check(run, host=toy_host)
