"""A file server on loopback that breaks off, lies and changes its mind on request."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What the server gives, and how.

    Attributes:
        content: The file, at every path.
        etag: Its version; None to send none.
        cut_after: Body bytes after which each of the next connections breaks, one entry a connection.
        statuses: Answers before the file is given.
        redirect: Where every request is sent instead.
        ranges: Whether parts may be asked for.
        length: Whether the length of the body is stated.
        requests: The Range header of each request.
    """

    content: bytes = b"0123456789" * 20_000
    etag: str | None = '"v1"'
    cut_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    redirect: str | None = None
    ranges: bool = True
    length: bool = True
    requests: list[str | None] = field(default_factory=list)
    url: str = ""


def handler_for(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            served.requests.append(asked)
            if served.statuses:
                self.send_error(served.statuses.pop(0))
                return
            if served.redirect is not None:
                self.send_response(302)
                self.send_header("Location", served.redirect)
                self.end_headers()
                return
            start = 0
            match = re.fullmatch(r"bytes=(\d+)-", asked or "")
            if served.ranges and match and self.headers.get("If-Range") == served.etag:
                start = int(match[1])
            if start and start >= len(served.content):
                self.send_error(416)
                return
            self._send(served.content[start:], start)

        def _send(self, body: bytes, start: int) -> None:
            self.send_response(206 if start else 200)
            if served.length:
                self.send_header("Content-Length", str(len(body)))
            if start:
                total = len(served.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if served.etag is not None:
                self.send_header("ETag", served.etag)
            self.end_headers()
            if served.cut_after:
                body = body[: served.cut_after.pop(0)]
                self.close_connection = True
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name in the base class
            pass

    return Handler


@contextmanager
def running(served: Served) -> Iterator[None]:
    """Serve until the block ends; sets ``served.url``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(served))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/models/weights.pth"
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
