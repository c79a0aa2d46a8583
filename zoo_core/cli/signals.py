"""Ctrl-C and SIGTERM end a command once; clusters and containers send SIGTERM before they kill."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM, as shells count signals."""

RAPID_S = 1.0
"""A signal this soon after another one is ignored: it would break the cleanup that the first one has caused."""

_AGAIN_S = 0.05


class TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived."""


class Interrupts:
    """Turns SIGINT and SIGTERM into exceptions in the main thread.

    Attributes:
        arrived: True once a signal has been turned into an exception.
        closed: True ignores every further signal: the command ends already.
    """

    def __init__(self) -> None:
        self.arrived = False
        self.closed = False
        self._last = -RAPID_S
        self._before: dict[int, object] = {}
        self._hook = sys.unraisablehook

    def install(self) -> None:
        """Take over the signals in the main thread; one that is ignored or has another handler stays as it is."""
        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        if threading.current_thread() is not threading.main_thread():
            return
        self._before = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
        for number in self._before:
            signal.signal(number, self._handle)
        sys.unraisablehook = self._unraisable

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, cast("signal.Handlers", handler))
        sys.unraisablehook = self._hook

    def ignore(self) -> None:
        """Ignore the signals from now on, also while Python exits."""
        self.closed = True
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.closed or now - self._last < RAPID_S:
            return
        self.arrived, self._last = True, now
        raise TerminatedError("SIGTERM") if number == signal.SIGTERM else KeyboardInterrupt

    def _unraisable(self, ignored: UnraisableHookArgs) -> None:
        """Send a signal again whose exception Python could not raise, e.g. inside of a destructor."""
        if ignored.exc_type is None or not issubclass(ignored.exc_type, KeyboardInterrupt):
            self._hook(ignored)
            return
        self._last = -RAPID_S
        number = signal.SIGTERM if issubclass(ignored.exc_type, TerminatedError) else signal.SIGINT
        threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number)).start()


@contextmanager
def termination_interrupts() -> Iterator[Interrupts]:
    """Raise ``KeyboardInterrupt`` for SIGINT and ``TerminatedError`` for SIGTERM, once for several in a row."""
    interrupts = Interrupts()
    interrupts.install()
    try:
        yield interrupts
    finally:
        interrupts.restore()
