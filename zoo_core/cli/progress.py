"""Progress on stderr: bars with rate and time left in a terminal, one line per finished task elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from typing_extensions import Self

from zoo_core.cli.terminal import make_console

if TYPE_CHECKING:
    from rich.progress import Task, TaskID

_LOCKS = logging.getLogger("zoo_eval.locks")
"""Tells of another process that is waited for; without --verbose, too."""


class _Rate(ProgressColumn):
    """Units per second, once known."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


class _Notices(logging.Handler):
    """Prints the log records of one logger as lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


class TerminalReporter:
    """A ``Reporter`` for people at a terminal, and for logs.

    Args:
        quiet: Show nothing.
        verbose: Show the tool's log as well.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._console = make_console(stderr=True, quiet=quiet, soft_wrap=True)
        self._bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._what = ""
        self._done = 0
        self._started = 0.0
        self._handler: logging.Handler | None = None
        self._notices: logging.Handler | None = None

    def __enter__(self) -> Self:
        if self._verbose:
            self._handler = logging.StreamHandler()
            self._handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
            logging.getLogger("zoo_eval").addHandler(self._handler)
        else:
            self._handler = logging.NullHandler()  # without any handler Python prints warnings on stderr itself
            logging.getLogger("zoo_eval").addHandler(self._handler)
            self._notices = _Notices(self.say)
            _LOCKS.addHandler(self._notices)
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()
        if self._handler is not None:
            logging.getLogger("zoo_eval").removeHandler(self._handler)
        if self._notices is not None:
            _LOCKS.removeHandler(self._notices)

    def start(self, what: str, total: int | None) -> None:
        """Begin a bar."""
        self._what, self._done, self._started = what, 0, time.perf_counter()
        self._task = self._bars.add_task(what, total=total)

    def advance(self, num: int) -> None:
        """Move the bar."""
        self._done += num
        if self._task is not None:
            self._bars.advance(self._task, num)

    def finish(self) -> None:
        """End the bar; where there is no terminal, say in a line what was done."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        if self._done:
            seconds = time.perf_counter() - self._started
            rate = f", {self._done / seconds:.1f}/s" if seconds > 0 else ""
            self._console.print(f"{self._what}: {self._done} in {seconds:.1f} s{rate}", markup=False)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._console.print(f"warning: {text}", style="yellow", markup=False)
