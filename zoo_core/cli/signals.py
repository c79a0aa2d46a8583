"""SIGTERM ends a run as Ctrl-C does: clusters and containers send it before they kill."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived."""


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Raise ``TerminatedError`` in the main thread when SIGTERM arrives; where it was ignored, it stays ignored."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is not signal.SIG_DFL:
        yield
        return

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise TerminatedError("SIGTERM")

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
