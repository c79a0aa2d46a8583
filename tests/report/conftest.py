from __future__ import annotations

from pathlib import Path

import pytest

from report.synthetic import write_run
from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.data import GridDataset
from zoo_core.plugins import PluginHost


@pytest.fixture(scope="session")
def host() -> PluginHost:
    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    return host


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return data.write(tmp_path / "grid", num_test=40)


@pytest.fixture
def run_dir(tmp_path: Path, grid: Path) -> Path:
    """A run whose data still lie in their place."""
    return write_run(tmp_path / "run", GridDataset(grid, "test"), grid, "toy_squares", noise=0.12)
