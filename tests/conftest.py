"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# `tools` and `benchmarks` are not installed. At the end of the path, the checkout hides no installed package.
sys.path.append(str(Path(__file__).parents[1]))

# No wall-clock limits in tests; in CI the same examples every time, so that a failure is the change's.
settings.register_profile("zoo_eval", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("zoo_eval")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the session's own: no test takes what the user's holds, and none adds to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _outside_of_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty current folder: a program that a test starts would import from the checkout, not what is installed."""
    with pytest.MonkeyPatch.context() as patch:
        if shared := os.environ.get("ZOO_EVAL_SHARED"):
            patch.setenv("ZOO_EVAL_SHARED", str(Path(shared).absolute()))
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data; skips where ZOO_EVAL_SHARED does not name one."""
    value = os.environ.get("ZOO_EVAL_SHARED")
    if not value:
        pytest.skip("ZOO_EVAL_SHARED is unset: reference data is not available")
    return Path(value)


@pytest.fixture(scope="session")
def voc2007(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder VOC2007 with every genuine annotation, the splits, and 26 of the images; do not write into it."""
    root = tmp_path_factory.mktemp("voc2007")
    for archive in ("voc2007_annotations.tar.xz", "voc2007_images_26.tar"):
        with tarfile.open(shared / "data" / archive) as tar:
            tar.extractall(root, filter="data")
    return root / "VOC2007"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where the reference data must be there (``ZOO_EVAL_REQUIRE_DATA=1``)."""
    report = yield
    needs_data = item.get_closest_marker("data") or "shared" in getattr(item, "fixturenames", ())
    if report.skipped and needs_data and os.environ.get("ZOO_EVAL_REQUIRE_DATA") == "1":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, but ZOO_EVAL_REQUIRE_DATA=1 wants it run: {report.longrepr}"
    return report
