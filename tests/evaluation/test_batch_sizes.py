"""What another batch size moves is measured inside a run, and recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo_core import inference
from zoo_core.cli.main import run_command_line
from zoo_core.cli.tables import batch_size_lines
from zoo_core.errors import DataError
from zoo_core.evaluation.result import EvaluationResult
from zoo_core.evaluation.resume import resume_run
from zoo_core.evaluation.run import evaluate_request
from zoo_core.plugins import PluginHost
from zoo_core.runs.request import EvaluationRequest


def evaluate(host: PluginHost, grid: Path, weights: Path, out: Path, **options: Any) -> EvaluationResult:
    request = EvaluationRequest(model="toy_squares", data=grid, checkpoint=weights, out=out, workers=0, **options)
    return evaluate_request(request, host=host)


def test_a_batch_size_that_moves_nothing_is_recorded_as_that(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    result = evaluate(host, grid, weights, tmp_path / "run", stages="fp32,w8a8", batch_size=1, batch_sizes=(1, 5, 5))
    for name in ("fp32", "w8a8"):
        (found,) = result.record.stages[name].batch_sizes.values()  # 1 is the run's own
        assert found.num_images == 12
        assert found.num_images_changed == found.num_predictions_changed == 0
        assert found.change_points == 0.0
        assert found.changes is not None
        assert found.changes["kept"] > 10
        assert found.changes["lost"] == found.changes["gained"] == 0
    assert not list((tmp_path / "run").glob(".*"))  # the other predictions are not kept
    assert "fp32 at batch size 5 instead of 1: +0.000 points, 0 of" in batch_size_lines(result.record)[0]


def depends_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the network see pictures darker in batches of more than one, as if rounding went the other way."""
    plain = inference.run_batch

    def run_batch(network: torch.nn.Module, arrays: Sequence[Any], device: str) -> tuple[torch.Tensor, ...]:
        return plain(network, [array * 0.5 for array in arrays] if len(arrays) > 1 else arrays, device)

    monkeypatch.setattr(inference, "run_batch", run_batch)


def test_what_a_batch_size_moves_is_measured(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depends_on_the_batch(monkeypatch)
    result = evaluate(host, grid, weights, tmp_path / "run", stages="fp32", batch_size=1, batch_sizes=(4,))
    found = result.record.stages["fp32"].batch_sizes["4"]
    other = evaluate(host, grid, weights, tmp_path / "other", stages="fp32", batch_size=4)
    own, there = (run.stages["fp32"].scores[run.record.headline].headline for run in (result, other))
    assert own is not None
    assert there is not None
    assert found.headline == there
    assert found.change_points == pytest.approx(100 * (there - own))
    assert found.num_images_changed == 12
    assert found.num_predictions_changed is not None
    assert found.num_predictions_changed > 12


def test_a_resumed_run_measures_what_it_had_not_yet(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    result = evaluate(host, grid, weights, tmp_path / "run", stages="fp32", batch_size=1, batch_sizes=(3,))
    path = result.run_dir / "run.json"
    record = json.loads(path.read_text())
    record["status"] = "interrupted"
    record["stages"]["fp32"]["batch_sizes"] = {}
    path.write_text(json.dumps(record))
    resumed = resume_run(result.run_dir, host=host)
    assert resumed.record.stages["fp32"].batch_sizes["3"].num_images == 12
    assert resumed.metrics == result.metrics


def test_memory_that_does_not_suffice_for_a_larger_batch_does_not_end_the_run(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = inference.run_batch

    def run_batch(network: torch.nn.Module, arrays: Sequence[Any], device: str) -> tuple[torch.Tensor, ...]:
        if len(arrays) > 1:
            raise MemoryError("a batch of 8")
        return plain(network, arrays, device)

    monkeypatch.setattr(inference, "run_batch", run_batch)
    result = evaluate(host, grid, weights, tmp_path / "run", stages="fp32", batch_size=1, batch_sizes=(8,))
    assert result.record.status == "complete"
    assert "not enough memory" in str(result.record.stages["fp32"].batch_sizes["8"].error)
    assert "not enough memory" in batch_size_lines(result.record)[0]


def test_a_batch_size_below_1_is_refused(host: PluginHost, grid: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--batch-sizes is 0"):
        evaluate(host, grid, weights, tmp_path / "run", stages="fp32", batch_sizes=(8, 0))
    assert run_command_line(["run", "toy_squares", "--batch-sizes", "1,many"]) == 2
