"""What a run leaves on disk holds no secret of the environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo_core.evaluation.run import evaluate_request
from zoo_core.plugins import PluginHost
from zoo_core.runs import provenance
from zoo_core.runs.request import EvaluationRequest

SECRET = "tk-5f1e-planted-9c0d"  # noqa: S105 - it is there to be looked for


def test_no_variable_of_the_environment_is_recorded_but_those_that_can_move_a_number(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "OMP_SECRET", "zoo_eval_password"):
        monkeypatch.setenv(name, f"https://user:{SECRET}@host/")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    request = EvaluationRequest(
        model="toy_squares", data=grid, checkpoint=weights, stages="fp32,w8a8", out=tmp_path / "run", workers=0
    )

    result = evaluate_request(request, host=host)

    recorded = json.loads((result.run_dir / "run.json").read_text())["environment"]["environment_variables"]
    assert set(recorded) <= set(provenance.ENVIRONMENT_VARIABLES)
    assert recorded["CUDA_VISIBLE_DEVICES"] == ""  # those on the list are recorded
    files = [path for path in result.run_dir.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
