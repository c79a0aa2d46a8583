"""What the package asks for: its lower bounds are those that are tested."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")

ROOT = Path(__file__).parents[1]


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def bounds() -> dict[str, str]:
    """The lower bound of every package that pyproject.toml names, extras included."""
    content = project()
    listed = [
        *content["dependencies"],
        *(line for lines in content["optional-dependencies"].values() for line in lines),
    ]
    found: dict[str, str] = {}
    for requirement in map(Requirement, listed):
        (least,) = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        found[canonicalize_name(requirement.name)] = least
    return found


def pins() -> dict[str, str]:
    text = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)==([\w.]+)$", text, flags=re.MULTILINE))


def test_every_lower_bound_is_installed_in_the_lowest_environment() -> None:
    least, pinned = bounds(), pins()
    assert sorted(pinned) == sorted(least)
    # 4.10 allows 4.10.0.82 first, and 2.32 allows 2.32.2: 2.32.0 and 2.32.1 were withdrawn.
    wrong = {name: pinned[name] for name in least if f"{pinned[name]}.".find(f"{least[name]}.") != 0}
    assert not wrong, "tests/lowest.txt has other versions than pyproject.toml's lower bounds"


def test_the_lowest_environment_is_part_of_the_matrix_with_the_oldest_python() -> None:
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    matrix = re.search(r"^    matrix = (.*)$", tox, flags=re.MULTILINE)
    assert matrix
    environments = matrix[1].split(", ")
    oldest = re.search(r">=3\.(\d+)", project()["requires-python"])
    assert oldest
    assert f"py3{oldest[1]}-torch28-lowest" in environments
    assert {name.split("-")[1] for name in environments} == {"torch28", "torch212", "torch215"}
    assert {name.split("-")[0] for name in environments} >= {"py310", "py311", "py313"}
