"""docs/tutorial-plugin.md is true: its blocks are run in their order, and what it shows is what is printed."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from environments import Environment

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial-plugin.md"
CONTINUED = " (continued)"


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    text: str


def read_blocks() -> list[Block]:
    found = re.findall(
        r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return [Block(*parts) for parts in found]


def write_file(block: Block, folder: Path) -> None:
    path = folder / block.title.removesuffix(CONTINUED)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert path.exists() == block.title.endswith(CONTINUED), block.title
    with path.open("a", encoding="utf-8") as file:
        file.write(block.text)


def plain(text: str) -> str:
    """Words with single spaces, without the lines of tables."""
    return " ".join(re.sub("[\u2500-\u257f]", " ", text).split())


def test_every_block_is_a_file_a_command_or_what_it_prints() -> None:
    for block in read_blocks():
        assert block.title or block.language in ("bash", "text"), block.text


def test_the_number_of_files_and_lines_is_as_stated(tmp_path: Path) -> None:
    for block in read_blocks():
        if block.title:
            write_file(block, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    num_lines = sum(len(path.read_text().splitlines()) for path in files)
    stated = re.search(r"with its tests, drawing and packaging \| (\d+) \| (\d+) \|", PAGE.read_text())
    assert stated
    assert (int(stated[1]), int(stated[2])) == (len(files), num_lines)

    registry = (ROOT / "plugins" / "zoo_torchvision_classification" / "registry.yaml").read_text()
    entry = re.split(r"^  (?=\w)", registry, flags=re.MULTILINE)[1]
    entry = re.sub(r"^    references:\n(?:      .*\n)+", "", entry, flags=re.MULTILINE)
    stated = re.search(r"in the bundled plugin \| 1 \| (\d+) \|", PAGE.read_text())
    assert stated
    assert int(stated[1]) == len(entry.strip().splitlines())


@pytest.mark.slow
def test_following_the_tutorial_ends_with_a_complete_run(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    work = tmp_path / "work"
    work.mkdir()
    printed = ""
    for block in read_blocks():
        if block.title:
            write_file(block, work)
        elif block.language == "bash":
            printed = "\n".join(execute(line, environment, work) for line in block.text.splitlines())
        else:
            for line in block.text.splitlines():
                assert plain(line) in plain(printed), printed
    assert (work / "RUN" / "report.html").exists()
    assert (work / "RUN" / "run.json").exists()


def execute(line: str, environment: Environment, work: Path) -> str:
    if line.startswith("pip install"):  # what it depends on is visible already
        line = "python -m " + line.replace('-e ".[test]"', "-q --no-deps --no-build-isolation -e .")
    if line.startswith("zoo-eval "):  # the command itself may be installed elsewhere
        line = line.replace("zoo-eval", "python -m zoo_core.cli.main", 1)
    return environment(*shlex.split(line), cwd=work)
