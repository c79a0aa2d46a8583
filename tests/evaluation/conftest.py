from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation.interrupted import Begin, Interrupting
from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.model import untrained
from zoo_core import api, artifacts
from zoo_core.errors import RunInterruptedError
from zoo_core.plugins import PluginHost


@pytest.fixture
def host() -> PluginHost:
    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    return host


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return data.write(tmp_path / "grid")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "toy.safetensors"
    artifacts.save_state_dict(path, untrained(2).state_dict(), {})
    return path


@pytest.fixture
def begin(host: PluginHost, grid: Path, weights: Path, tmp_path: Path) -> Begin:
    """Begins a run, interrupts it, and gives its directory."""

    def run(task: str = "fp32", nth: int = 68, **options: Any) -> Path:
        given = {"data": grid, "checkpoint": weights, "out": tmp_path / "run", **options}
        with pytest.raises(RunInterruptedError):
            api.evaluate("toy_squares", host=host, reporter=Interrupting(task, nth), **given)
        return tmp_path / "run"

    return run
