"""Stdout and stderr of the command line: no text controls the terminal, and no closed reader stops a run.

Everything that a command prints passes here, whoever prints it: a record, a plugin, a file name or a library. Only what
the bundled consoles draw themselves, colors and bars, reaches the terminal as control sequences.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from zoo_core.display import printable

if TYPE_CHECKING:
    from rich.console import Console


class TolerantStream(io.TextIOBase):
    """Stream that accepts every text and never raises; after a failed write it discards everything.

    Args:
        stream: Receives the text; None, if the process was started without it, discards everything.

    Attributes:
        failure: The error of the write that failed; None if there is none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        """Encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str, /) -> int:
        """Write a text; what the encoding lacks is written as an escape."""
        known = text.encode(self.encoding, "backslashreplace").decode(self.encoding, "replace")
        self._attempt(lambda stream: stream.write(known))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._attempt(lambda stream: stream.flush())

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return True for a terminal."""
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def _attempt(self, action: Callable[[TextIO], object]) -> None:
        if self._stream is None or self._stream.closed or self.failure is not None:
            return
        try:
            action(self._stream)
        except OSError as error:
            self.failure = error
            self._discard_buffer()

    def _discard_buffer(self) -> None:
        """Point the descriptor at nothing: Python would write its buffer again at exit, and fail again."""
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)


class SafeStream(TolerantStream):
    """Stream that shows control characters as escapes.

    Attributes:
        unfiltered: The same stream for a console, which filters its texts itself.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self.unfiltered = TolerantStream(stream)

    def write(self, text: str, /) -> int:
        """Write a text; a carriage return at its start, with which libraries redraw their bars, is kept."""
        num_kept = int(text.startswith("\r"))
        super().write(text[:num_kept] + printable(text[num_kept:]))
        return len(text)


@contextmanager
def safe_streams() -> Iterator[Callable[[], OSError | None]]:
    """Replace ``sys.stdout`` and ``sys.stderr`` inside the block.

    Yields:
        A function that flushes both and returns the error that kept stdout from being written, for example on a full
        disk; None if there was none, or only its reader has left.
    """
    before = sys.stdout, sys.stderr
    out, err = SafeStream(before[0]), SafeStream(before[1])

    def flush() -> OSError | None:
        for stream in (out, err):
            stream.flush()
        failures = [error for error in (out.failure, out.unfiltered.failure) if error is not None]
        return next((error for error in failures if error.errno != errno.EPIPE), None)

    sys.stdout, sys.stderr = out, err
    try:
        yield flush
    finally:
        sys.stdout, sys.stderr = before


def make_console(*, stderr: bool = False, **options: Any) -> Console:
    """Return a console of rich on stdout or stderr that shows control characters in texts as escapes.

    Args:
        stderr: Use stderr.
        options: Of ``rich.console.Console``.
    """
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
            for segment in super().render(*arguments, **options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    stream = sys.stderr if stderr else sys.stdout
    file = stream.unfiltered if isinstance(stream, SafeStream) else stream
    return SafeConsole(file=cast("TextIO", file), highlight=False, **options)


def open_missing_descriptors() -> None:
    """Open descriptors 0, 1 and 2 if the process was started without them; a file would get their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(descriptor)
