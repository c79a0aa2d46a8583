from __future__ import annotations

from pathlib import Path

import pytest

from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.model import untrained
from zoo_core import artifacts
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
