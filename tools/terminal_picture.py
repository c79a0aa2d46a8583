"""Take the README's picture of a terminal: ``python -m tools.terminal_picture RUN docs/images/terminal.svg``.

Prints a finished run's result as ``zoo-eval run`` does, and saves it as an SVG.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console

from zoo_core.cli.tables import print_result

WIDTH = 96


def main(run: Path, target: Path) -> None:
    """Write the picture.

    Args:
        run: A run directory.
        target: An SVG file.
    """
    record, metrics = (json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in ("run", "metrics"))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    console.print(f"$ zoo-eval run {record['model']}", markup=False)
    print_result(record, metrics, run, console)
    # Rich links to fonts on a public server; the picture must not load anything.
    svg = re.sub(r"@font-face \{[^}]*\}", "", console.export_svg(title="zoo-eval"))
    target.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
