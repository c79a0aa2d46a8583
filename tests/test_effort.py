"""What the documentation says a new model takes, counted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "hooks.md"
TOLERANCE = 0.1
"""Lines are stated as about so many: a docstring more does not change what is said."""


def row(first_cell: str) -> list[str]:
    """The cells after the first of the table's row that begins so."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {first_cell}")]
    assert len(lines) == 1, f"docs/hooks.md has {len(lines)} rows that begin with {first_cell!r}"
    return [cell.strip() for cell in lines[0].strip("|").split("|")[1:]]


def text_files(plugin: str) -> list[Path]:
    """All that a plugin's author writes: code, recipes, configuration, model card; no weights."""
    folder = ROOT / "plugins" / plugin
    found = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path for path in found if path.suffix in (".py", ".yaml", ".json", ".md")]


def num_lines(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


@pytest.mark.parametrize("plugin", ["torchvision_detection", "ssd_mobilenetv2_lite"])
def test_files_and_lines_of_a_plugin_are_as_documented(plugin: str) -> None:
    files, lines, *_ = row(f"a plugin, `{plugin}`")
    found = text_files(plugin)

    assert int(files) == len(found), f"docs/hooks.md: {plugin} has {len(found)} files"
    assert num_lines(found) == pytest.approx(int(lines), rel=TOLERANCE), f"docs/hooks.md: {num_lines(found)} lines"


def test_lines_of_an_entry_are_as_documented() -> None:
    _, lines, *_ = row("a model of a known family, `torchvision_ssd300_vgg16`")
    text = (ROOT / "plugins" / "zoo_torchvision_detection" / "registry.yaml").read_text(encoding="utf-8")
    entry = re.search(r"^  torchvision_ssd300_vgg16:\n((?:    .*\n)+)", text, flags=re.MULTILINE)

    assert entry
    assert int(lines) == 1 + len(entry[1].splitlines())
