"""A proof that needs the reference data is skipped without it, and fails where it must not be skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOME_TESTS = """
import pytest

@pytest.mark.data
def test_marked():
    pytest.skip("nothing to read")

def test_by_fixture(shared):
    assert shared

def test_other():
    pytest.skip("no GPU")
"""


def outcomes(tmp_path: Path, **environment: str) -> str:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = data\n")
    (tmp_path / "test_some.py").write_text(SOME_TESTS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZOO_EVAL_", "PYTEST_"))}
    done = subprocess.run(  # noqa: S603  # our own interpreter
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_without_reference_data_its_tests_are_skipped(tmp_path: Path) -> None:
    assert "3 skipped" in outcomes(tmp_path)


def test_where_the_data_is_required_a_skip_is_a_failure(tmp_path: Path) -> None:
    text = outcomes(tmp_path, ZOO_EVAL_REQUIRE_DATA="1")
    assert "1 failed, 1 skipped, 1 error" in text
    assert "test_marked was skipped, but ZOO_EVAL_REQUIRE_DATA=1 wants it run" in text


def test_where_the_data_is_there_its_tests_run(tmp_path: Path) -> None:
    assert "1 passed, 2 skipped" in outcomes(tmp_path, ZOO_EVAL_SHARED=str(tmp_path))


@pytest.mark.data
def test_the_reference_data_is_complete(shared: Path) -> None:
    names = {"voc2007_annotations.tar.xz", "voc2007_detections.tar.xz", "shapes_voc.tar", "shapes_mb2_ssd_lite.pth"}
    assert names <= {path.name for path in (shared / "data").iterdir()}
