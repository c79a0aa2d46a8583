"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest
from hypothesis import settings

from skips import ALLOWED, USED, AllowedSkip, environment, read_allowed

Report = TypeVar("Report", pytest.CollectReport, pytest.TestReport)

# `tools` and `benchmarks` are not installed, and some libraries install packages of these names. The checkout itself
# must not be on the path: it would hide the installed wheel.
for _name in ("benchmarks", "tools"):
    _package = ModuleType(_name)
    _package.__path__ = [str(Path(__file__).parents[1] / _name)]
    sys.modules[_name] = _package

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


# --------------------------------------------------------------------------- skips, in continuous integration


def pytest_configure(config: pytest.Config) -> None:
    """With ``CI`` set, a skip that ``allowed_skips.txt`` does not list fails the session."""
    if os.environ.get("CI"):
        config.pluginmanager.register(SkipWatch(read_allowed(Path(__file__).with_name(ALLOWED))), "skip_watch")


class SkipWatch:
    """Turns skips that are not allowed into failures, and says which entries of the list were used."""

    def __init__(self, allowed: list[AllowedSkip]) -> None:
        self._allowed = allowed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        return self._judged((yield))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        return self._judged((yield))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        skipped = [report for kind in ("skipped", "xfailed") for report in terminalreporter.stats.get(kind, [])]
        for entry in sorted({str(entry) for report in skipped for entry in self._allowing(report)}):
            terminalreporter.write_line(f"{USED}{entry}")

    def _judged(self, report: Report) -> Report:
        if report.skipped and not self._allowing(report):
            text = f"{report.nodeid} was skipped in {environment()}, which tests/{ALLOWED} does not allow: "
            report.longrepr = text + reason_of(report)
            report.outcome = "failed"
        return report

    def _allowing(self, report: pytest.CollectReport | pytest.TestReport) -> list[AllowedSkip]:
        found = reason_of(report)
        return [entry for entry in self._allowed if entry.allows(report.nodeid, found, environment())]


def reason_of(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Why a test was skipped, or is expected to fail."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(getattr(report, "wasxfail", report.longrepr))
