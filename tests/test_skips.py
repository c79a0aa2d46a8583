"""In continuous integration a test is skipped only where the list of allowed skips says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skips import ALLOWED, USED, AllowedSkip, read_allowed, unused

TESTS = Path(__file__).parent

SOME_TESTS = """
import pytest

@pytest.fixture
def device():
    pytest.skip("no GPU")

def test_by_fixture(device):
    pass

@pytest.mark.skipif(True, reason="too old")
def test_by_mark():
    pass

def test_imports():
    pytest.importorskip("no_such_module")

@pytest.mark.xfail(strict=True, reason="not yet")
def test_expected_to_fail():
    raise AssertionError

def test_that_runs():
    pass
"""
SKIPPED_MODULE = "import pytest\npytest.importorskip('no_such_module', reason='extra missing')\n"

LIST = """
# comment
test_some.py::test_by_fixture | no GPU | *
test_some.py::test_by_* | too old | py310-*, py311-*
test_some.py::test_imports | could not import 'no_such_module'* | py310-lowest
test_some.py::test_expected_to_fail | *not yet* | py31?-*
test_module.py | extra missing | py310-*
test_never.py | too new | *
"""


def session(folder: Path, *options: str, **variables: str) -> tuple[int, str]:
    """Run a project with our conftest.py; return its exit code and what it prints."""
    shutil.copy(TESTS / "conftest.py", folder)
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS}\n")
    (folder / "test_some.py").write_text(SOME_TESTS)
    (folder / ALLOWED).write_text(LIST)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TOX_", "CI"))}
    done = subprocess.run(  # noqa: S603  # our own interpreter
        [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=folder,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def used(text: str) -> list[str]:
    return [line.removeprefix(USED).partition(" | ")[0] for line in text.splitlines() if line.startswith(USED)]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_skips_on_the_list_are_allowed_and_said(workers: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text(SKIPPED_MODULE)
    code, text = session(tmp_path, *workers, CI="1", TOX_ENV_NAME="py310-lowest")

    assert code == 0, text
    assert "1 passed" in text
    assert used(text) == [
        "test_module.py",
        "test_some.py::test_by_*",
        "test_some.py::test_by_fixture",
        "test_some.py::test_expected_to_fail",
        "test_some.py::test_imports",
    ]
    assert list(map(str, unused(read_allowed(tmp_path / ALLOWED), [text]))) == ["test_never.py | too new"]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_any_other_skip_fails_the_session(workers: tuple[str, ...], tmp_path: Path) -> None:
    code, text = session(tmp_path, *workers, CI="1", TOX_ENV_NAME="py39-old")

    assert code == 1
    assert "1 passed, 1 skipped" in text
    for name, reason in (
        ("test_by_mark", "too old"),
        ("test_imports", "could not import 'no_such_module'"),
        ("test_expected_to_fail", "not yet"),
    ):
        assert f"{name} was skipped in py39-old, which tests/{ALLOWED} does not allow: {reason}" in text


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_module_skipped_as_a_whole_fails_the_session_too(workers: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text(SKIPPED_MODULE)
    code, text = session(tmp_path, *workers, CI="1", TOX_ENV_NAME="py313-new")

    assert code != 0
    assert f"test_module.py was skipped in py313-new, which tests/{ALLOWED} does not allow: extra missing" in text


def test_without_ci_nothing_is_checked(tmp_path: Path) -> None:
    code, text = session(tmp_path, TOX_ENV_NAME="py39-old")

    assert code == 0
    assert "1 passed, 3 skipped, 1 xfailed" in text


def test_a_log_that_only_quotes_an_entry_does_not_use_it() -> None:
    entry = AllowedSkip("a", "b", ("*",))
    assert unused([entry], ["SKIPPED [1] a | b"]) == [entry]
    assert unused([entry], [f"x\n{USED}a | b\n"]) == []


def test_the_list_names_tests_and_environments_that_exist() -> None:
    tox = (TESTS.parent / "tox.ini").read_text(encoding="utf-8")
    entries = read_allowed(TESTS / ALLOWED)
    assert entries
    for entry in entries:
        path, _, pattern = entry.tests.partition("::")
        assert list(TESTS.parent.glob(path)), path
        assert pattern != "" or entry.tests == path
        for environment in entry.environments:
            assert environment in ("*", "no tox") or environment.rstrip("*").rstrip("-") in tox, environment
