"""Every program in ``benchmarks`` is a part of ``python -m benchmarks``."""

from __future__ import annotations

import ast
from pathlib import Path

from benchmarks.__main__ import _parts

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_every_program_is_a_part(tmp_path: Path) -> None:
    programs = {
        f"benchmarks.{path.stem}"
        for path in FOLDER.glob("*.py")
        if path.stem != "__main__"
        and any(
            isinstance(node, ast.FunctionDef) and node.name == "main"
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    }

    run = {part.args[0].__module__ for part in _parts(1, 1, tmp_path).values()}

    assert len(programs) > 8
    assert run == programs
