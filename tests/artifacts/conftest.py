"""A cache of its own for each test, and a server on loopback that misbehaves on request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from file_server import Served, running
from zoo_core.artifacts import download


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A running server; plain http is allowed to it in this test alone, and pauses are skipped."""
    monkeypatch.setattr(download, "_SCHEMES", ("https", "http"))
    monkeypatch.setattr(download, "_FIRST_PAUSE_S", 0)
    result = Served()
    with running(result):
        yield result


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache's folder, empty; proxies of the environment do not come between test and server."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(folder))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder
