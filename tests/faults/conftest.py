from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.harness import FaultStage, Toy
from toy_detector import data
from toy_detector.model import untrained
from zoo_core import artifacts

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultStage]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS, *sys.path)))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment["ZOO_EVAL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    with subprocess.Popen(  # noqa: S603 - our own interpreter and program
        [sys.executable, str(Path(__file__).with_name("stage.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield FaultStage(process)
        process.kill()  # to unload all that it has loaded would take seconds


@pytest.fixture
def toy(stage: FaultStage, tmp_path: Path) -> Toy:
    weights = tmp_path / "toy.safetensors"
    artifacts.save_state_dict(weights, untrained(2).state_dict(), {})
    return Toy(stage, data.write(tmp_path / "grid", num_test=150), weights, tmp_path)
