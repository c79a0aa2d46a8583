"""Shows the progress of a recipe step as one task of the reporter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo_core.evaluation.request import Reporter


class StepProgress:
    """Turns a step's (done, total, what) into one task of the reporter."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._what = ""
        self._done: int | None = None

    def begin(self, what: str) -> None:
        """Start a step; its bar appears with the first progress that it reports."""
        self._what, self._done = what, None
        self._reporter.start(what, None)

    def __call__(self, done: int, total: int, _part: str) -> None:
        if self._done is None:
            self._reporter.finish()
            self._reporter.start(self._what, total)
            self._done = 0
        self._reporter.advance(max(done - self._done, 0))
        self._done = max(done, self._done)

    def end(self) -> None:
        """Finish the step."""
        self._reporter.finish()
