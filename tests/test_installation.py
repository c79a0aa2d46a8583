"""The tests, and the programs that they start, import the installed package; under tox this is the wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import pytest

PLACES = """
import importlib, json, sys

places = {name: importlib.import_module(name).__file__ for name in sys.argv[1:]}
places["registry"] = str(importlib.import_module("zoo_core.registry").builtin_registry())
print(json.dumps(places))
"""


def places() -> dict[str, str]:
    """The files that a program imports for the core, every bundled plugin, and the registry of both."""
    bundled = distribution("zoo-eval").entry_points.select(group="zoo_eval")
    names = ["zoo_core", *sorted(entry.value.partition(".")[0] for entry in bundled)]
    command = [sys.executable, "-c", PLACES, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_program_imports_what_the_tests_import() -> None:
    for name, file in places().items():
        if name != "registry":
            assert __import__(name).__file__ == file


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="only tox installs the wheel")
def test_under_tox_all_of_it_lies_in_the_installed_wheel() -> None:
    installed = Path(sysconfig.get_path("purelib"))

    found = places()

    assert {"zoo_core", "ssd_mobilenetv2_lite", "registry"} < found.keys()
    assert {name: file for name, file in found.items() if not Path(file).is_relative_to(installed)} == {}
    for name in found.keys() - {"registry"}:
        assert Path(__import__(name).__file__ or "").is_relative_to(installed)
