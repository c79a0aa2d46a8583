"""A run made again from its record: the same bytes, or what differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from results.conftest import edit_json
from toy_detector.model import untrained
from zoo_core import artifacts
from zoo_core.cli.main import run_command_line
from zoo_core.comparison.identity import byte_changes
from zoo_core.datatypes import Detections
from zoo_core.errors import RunError
from zoo_core.evaluation.request import SilentReporter
from zoo_core.evaluation.run import evaluate_request
from zoo_core.plugins import PluginHost
from zoo_core.results.reproduce import Reproduced, ReproduceRequest, reproduce
from zoo_core.results.stored import open_run
from zoo_core.runs.hashes import file_hashes
from zoo_core.runs.predictions import Chunk, PredictionStore
from zoo_core.runs.request import EvaluationRequest


def detections(scores: list[float]) -> Detections:
    num = len(scores)
    return Detections(
        boxes=np.ones((num, 4), np.float32), scores=np.array(scores, np.float32), labels=np.zeros(num, np.int64)
    )


def test_predictions_are_compared_byte_for_byte() -> None:
    same = detections([0.5, 0.25])
    last_bit = detections([float(np.nextafter(np.float32(0.5), np.float32(1))), 0.25])
    found = byte_changes(
        [("a", same, detections([0.5, 0.25])), ("b", same, last_bit), ("c", same, detections([0.5]))], by_row=True
    )
    assert (found.num_images, found.num_rows, found.num_rows_changed) == (3, 6, 2)
    assert found.changed == ("b", "c")
    assert found.first == "1 of 2 numbers in scores differ, by up to 5.96e-08"
    assert byte_changes([("a", same, detections([0.25]))], by_row=True).first.startswith(
        "1 boxes instead of 2; 1 labels instead"
    )
    assert byte_changes([("a", detections([]), detections([]))], by_row=True).identical


def test_no_more_predictions_change_than_there_are() -> None:
    changes = byte_changes([("a", detections([0.5]), detections([0.25, 0.125, 0.0625]))], by_row=True)
    assert (changes.num_rows_changed, changes.num_rows) == (3, 3)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "toy.safetensors"
    artifacts.save_state_dict(path, untrained(2).state_dict(), {})
    return path


@pytest.fixture
def run(host: PluginHost, grid: Path, weights: Path, tmp_path: Path) -> Path:
    request = EvaluationRequest(
        model="toy_squares", data=grid, checkpoint=weights, stages="fp32,w8a8", out=tmp_path / "run", batch_size=5
    )
    return evaluate_request(request, host=host).run_dir


def again(run: Path, host: PluginHost, **options: Any) -> Reproduced:
    return reproduce(ReproduceRequest(run=run, out=run.with_name("again"), **options), host, SilentReporter())


@pytest.mark.parametrize("workers", [0, 3])
def test_the_same_run_gives_the_same_bytes_whatever_the_workers(run: Path, host: PluginHost, workers: int) -> None:
    found = again(run, host, workers=workers)
    assert found.identical
    assert [stage.name for stage in found.stages] == ["fp32", "w8a8"]
    assert [stage.change for stage in found.stages] == [0.0, 0.0]
    assert found.conditions == []
    for stage in found.stages:
        chunks = [path / "predictions" / stage.name / "chunk-00000.parquet" for path in (run, found.again)]
        assert chunks[0].read_bytes() == chunks[1].read_bytes()
    assert open_run(found.again).record.settings.batch_size == 5
    assert [(row["stage"], row["change"], row["num_predictions_changed"]) for row in found.rows()] == [
        ("fp32", 0.0, 0),
        ("w8a8", 0.0, 0),
    ]
    assert repr(found).splitlines()[0].endswith(": identical")


@pytest.mark.parametrize("engine", ["aimet", "fast"])
def test_every_stage_of_a_recipe_is_reproduced_adaround_computed_anew(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path, engine: str
) -> None:
    request = EvaluationRequest(
        model="toy_squares",
        data=grid,
        checkpoint=weights,
        stages="all",
        settings=(f"adaround.engine={engine}",),
        out=tmp_path / "run",
    )
    run = evaluate_request(request, host=host).run_dir
    found = again(run, host)
    assert found.identical
    assert {"optimized_fp32", "optimized_w8a8"} <= {stage.name for stage in found.stages}
    assert not any("from the cache" in step.summary for step in open_run(found.again).record.steps)
    weights_of = [artifacts.load_state_dict(path / "quantized" / "network.safetensors") for path in (run, found.again)]
    assert all(tensor.equal(weights_of[1][name]) for name, tensor in weights_of[0].items())
    encodings = [(path / "quantized" / "encodings.json").read_bytes() for path in (run, found.again)]
    assert encodings[0] == encodings[1]


@pytest.fixture
def num_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_run_with_other_threads_than_the_one_before_takes_nothing_of_it_and_is_reproduced(
    host: PluginHost,
    grid: Path,
    weights: Path,
    tmp_path: Path,
    num_threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path / "cache"))
    runs, from_cache = [], []
    for index, number in enumerate((1, 2, 2)):
        num_threads(number)
        request = EvaluationRequest(
            model="toy_squares", data=grid, checkpoint=weights, stages="optimized_w8a8", out=tmp_path / f"run{index}"
        )
        runs.append(evaluate_request(request, host=host))
        (effect,) = [step.effect for step in runs[-1].record.steps if step.step == "adaround"]
        assert effect["arithmetic"]["torch_threads"] == number
        from_cache.append(effect["cache"]["parts_from_cache"] > 0)
    assert from_cache == [False, False, True]

    num_threads(1)
    found = again(runs[-1].run_dir, host)
    assert found.identical
    assert open_run(found.again).record.environment.torch_threads == 2
    assert found.conditions == []


def test_a_difference_is_located_and_measured(run: Path, host: PluginHost, tmp_path: Path) -> None:
    store = PredictionStore(run / "predictions" / "w8a8", Detections)
    (chunk,) = store
    first, second, *rest = chunk.predictions
    assert isinstance(second, Detections)
    fewer = Detections(boxes=second.boxes[1:], scores=second.scores[1:], labels=second.labels[1:])
    store.write(Chunk(index=0, image_ids=chunk.image_ids, predictions=(first, fewer, *rest)))
    found = again(run, host)
    assert not found.identical
    assert [stage.identical for stage in found.stages] == [True, False]
    changes = found.stages[1].predictions
    assert changes.changed == ("test_001",)
    assert changes.num_rows_changed == 1


def test_what_was_not_as_in_the_run_is_said(run: Path, host: PluginHost, weights: Path) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["environment"]["packages"]["torch"] = "1.0"
        record["environment"]["processor"] = "another"
        record["checkpoint"]["sha256"] = "0" * 64

    edit_json(run / "run.json", edit)
    found = again(run, host, batch_size=7)
    words = "\n".join(found.conditions)
    assert "checkpoint: " in words
    assert "libraries: torch " in words
    assert "instead of another" in words
    assert "batch size: 7 instead of 5" in words


def test_an_incomplete_run_is_not_reproduced(run: Path, host: PluginHost) -> None:
    edit_json(run / "run.json", lambda record: record.update(status="interrupted"))
    with pytest.raises(RunError, match="cannot be reproduced: its status is 'interrupted'"):
        again(run, host)


def test_the_command_exits_with_1_on_a_difference(
    run: Path, host: PluginHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["reproduce", str(run), "--out", str(tmp_path / "a"), "--json", "--workers", "0"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["identical"] is True
    assert [stage["name"] for stage in content["stages"]] == ["fp32", "w8a8"]
    assert content["again"] == str(tmp_path / "a")

    edit_json(
        run / "metrics.json", lambda metrics: metrics["stages"]["fp32"]["metrics"][content["headline"]].update(map=0)
    )
    hashes = file_hashes(run, ["metrics.json"])
    edit_json(run / "run.json", lambda record: record["files"].update(hashes))
    assert run_command_line(["reproduce", str(run), "--out", str(tmp_path / "b"), "--workers", "0"]) == 1
    printed = capsys.readouterr().out
    assert "fp32" in printed
    assert printed.splitlines()[-1] == "not identical"
