"""Runs of the toy detector that are interrupted, and what is compared after they are resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo_core import api
from zoo_core.evaluation.request import SilentReporter
from zoo_core.evaluation.result import EvaluationResult
from zoo_core.plugins import PluginHost

Begin = Callable[..., Path]


class Interrupting(SilentReporter):
    """Ctrl-C at the nth time that a task makes progress."""

    def __init__(self, task: str, nth: int) -> None:
        self._task, self._left, self._now = task, nth, ""

    def start(self, what: str, total: int | None) -> None:
        self._now = what

    def advance(self, num: int) -> None:
        self._left -= self._now == self._task
        if self._left == 0:
            self._left = -1
            raise KeyboardInterrupt


def record(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_text())
    return content


def files(run: Path) -> dict[str, bytes]:
    paths = [run / "metrics.json", *run.glob("predictions/*/*"), *run.glob("lines/*/*"), *run.glob("quantized/*")]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def resume(run: Path, host: PluginHost, reporter: SilentReporter | None = None) -> EvaluationResult:
    return api.resume(run, host=host, reporter=reporter, report=False)


def interrupt(run: Path) -> None:
    """Make a complete run one that was killed when only its end was missing."""
    content = record(run)
    content.update(status="running", finished=None)
    del content["files"]["metrics.json"]
    (run / "run.json").write_text(json.dumps(content))
    (run / "metrics.json").unlink()
