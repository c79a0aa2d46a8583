"""Take the README's picture of a terminal: ``python -m tools.terminal_picture RUN docs/images/terminal.svg``.

Prints a finished run's result as ``zoo-eval run`` does, and saves it as an SVG.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from zoo_core.cli.tables import print_result
from zoo_core.evaluation.result import EvaluationResult, headline_name
from zoo_core.plugins import PluginHost
from zoo_core.runs.record import read_metrics, read_record

WIDTH = 96


def main(run: Path, target: Path) -> None:
    """Write the picture.

    Args:
        run: A run directory.
        target: An SVG file.
    """
    record, metrics = read_record(run), read_metrics(run)
    if metrics is None:
        raise SystemExit(f"{run} holds no metrics.json: name a complete run.")
    name = headline_name(metrics, PluginHost().find_task(record.task))
    result = EvaluationResult(run_dir=run, record=record, metrics=metrics, headline_name=name)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    console.print(f"$ zoo-eval run {record.model}", markup=False)
    print_result(result, metrics, console)
    # Rich links to fonts on a public server; the picture must not load anything.
    svg = re.sub(r"@font-face \{[^}]*\}", "", console.export_svg(title="zoo-eval"))
    target.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
