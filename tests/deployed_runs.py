"""Runs of the toy detector on runtimes, for tests of deployed stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtimes.pretending import Brings
from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.model import untrained
from zoo_core import api, artifacts
from zoo_core.datatypes import Runtime
from zoo_core.evaluation.result import EvaluationResult
from zoo_core.plugins import PluginHost
from zoo_core.runs.deployment import DeploymentRecord

STAGES = ("fp32", "optimized_w8a8")
SIMULATED, DEPLOYED = "optimized_w8a8", "optimized_w8a8@emulator"
ONLY_QUANTIZED = """schema: 1
name: w8a8_only
description: Batch norms folded and simulated.
steps:
  - step: fold_batch_norms
  - step: quantsim
    param_bw: 8
    output_bw: 8
    config_file: per_tensor_asymmetric
"""


def write_place(root: Path) -> Path:
    """Write ``grid``, ``toy.safetensors`` and ``recipe.yaml`` into a folder and return it."""
    data.write(root / "grid")
    artifacts.save_state_dict(root / "toy.safetensors", untrained(2).state_dict(), {})
    (root / "recipe.yaml").write_text(ONLY_QUANTIZED)
    return root


def host_with(*runtimes: Runtime) -> PluginHost:
    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    host.register(Brings(*runtimes), "acme")
    return host


def evaluate_on(place: Path, out: Path, *runtimes: Runtime, **options: Any) -> EvaluationResult:
    """Run the toy on runtimes, in float and simulated."""
    given = {
        "data": place / "grid",
        "checkpoint": place / "toy.safetensors",
        "recipe": place / "recipe.yaml",
        "stages": STAGES,
        "report": False,
        "runtimes": [one.name for one in runtimes],
        **options,
    }
    return api.evaluate("toy_squares", host=given.pop("host", None) or host_with(*runtimes), out=out, **given)


def deploy(run: Path, out: Path, *runtimes: Runtime, **options: Any) -> EvaluationResult:
    names = [one.name for one in runtimes]
    return api.deploy(run, runtimes=names, out=out, report=False, host=host_with(*runtimes), **options)


def deployment_of(result: EvaluationResult, stage: str = DEPLOYED) -> DeploymentRecord:
    found = result.record.stages[stage].deployment
    assert found is not None
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def chunks(run: Path, stage: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(run.glob(f"predictions/{stage}/*"))]
