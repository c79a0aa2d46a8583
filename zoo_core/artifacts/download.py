"""Downloads one file over https and resumes interrupted downloads.

requests is used directly because pooch 1.9, which wraps it, restarts every download from the first byte and follows
redirects from https to http.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from zoo_core.artifacts.cache import sha256_of
from zoo_core.errors import ArtifactError

if TYPE_CHECKING:
    import requests

Progress: TypeAlias = "Callable[[int, int | None], None]"
"""Called with the bytes received so far and the total bytes; the total is None if the server does not state it."""

_SCHEMES = ("https",)
_ATTEMPTS = 5
_FIRST_PAUSE_S = 1.0
_CHUNK_BYTES = 1 << 18
_MAX_BYTES = 1 << 38
# Too many requests, and the answers of a server or proxy that is overloaded or restarting.
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class _Interrupted(Exception):  # noqa: N818  # never leaves this module
    """An attempt ended early; another attempt may resume."""


class _UselessPart(_Interrupted):
    """The part cannot belong to the server's file; another attempt starts from the first byte."""


def download(
    url: str, part: Path, *, size_bytes: int | None, progress: Progress | None, resume: bool, hashed: bool = True
) -> bool:
    """Download ``url`` into ``part``, which is complete when this returns, but not verified.

    Nothing is decompressed. An interrupted attempt is resumed until five in a row make no progress; the next call then
    resumes from ``part``. The caller holds a lock on ``part``.

    Args:
        url: ``https://...``; a redirect to any other scheme is refused.
        part: Created or continued. ``<part>.json`` beside it identifies the version of the file it holds.
        size_bytes: Declared size; more is never written. None if unknown.
        progress: Called after each chunk.
        resume: False to start from the first byte.
        hashed: False where no hash verifies the file afterwards. An earlier call's part is then continued only
            if it has the size and the SHA-256 that this call recorded when it broke off.

    Returns:
        True if bytes from an earlier call are part of the file.

    Raises:
        ArtifactError: The server refuses, the size differs from the declared one, nothing states size or hash, or the
            attempts failed.
    """
    import requests

    validator_file = part.with_name(f"{part.name}.json")
    if not resume or not validator_file.exists() or not (hashed or _is_as_recorded(part, validator_file)):
        # Without a validator the server could not tell us that the file has changed since.
        part.unlink(missing_ok=True)
    resumed = part.exists() and part.stat().st_size > 0
    with requests.Session() as session:
        session.adapters.clear()
        for scheme in _SCHEMES:
            session.mount(f"{scheme}://", requests.adapters.HTTPAdapter())
        failures = best = 0
        while True:
            try:
                continued = _attempt(session, url, part, validator_file, size_bytes, progress, hashed=hashed)
            except _Interrupted as error:  # noqa: PERF203  # an attempt takes far longer than a try
                have = part.stat().st_size if part.exists() else 0
                # An attempt that got further than any before resets the count: large files get through poor lines.
                failures = 1 if have > best else failures + 1
                best = max(best, have)
                if failures == _ATTEMPTS:
                    raise ArtifactError(
                        f"{url} could not be downloaded, {_ATTEMPTS} attempts in a row failed; {have} bytes are kept: "
                        f"{error}.",
                        fix="check the connection and run the command again; it resumes where it stopped.",
                    ) from error
                time.sleep(_FIRST_PAUSE_S * 2 ** (failures - 1))
            else:
                validator_file.unlink(missing_ok=True)
                return resumed and continued


def _attempt(
    session: requests.Session,
    url: str,
    part: Path,
    validator_file: Path,
    size_bytes: int | None,
    progress: Progress | None,
    *,
    hashed: bool,
) -> bool:
    """Request the missing bytes and append them; return True if the server resumed, False if it started over."""
    import requests
    import urllib3

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # the bytes that were hashed, not compressed ones
    if have:
        validator = _read_validator(validator_file)
        if validator is None:
            part.unlink()
            have = 0
        else:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with session.get(url, headers=headers, stream=True, timeout=(15, 60)) as response:
            start, total = _check_response(response, url, have, size_bytes)
            if start == total and start:
                return True
            if total is None and size_bytes is None and not hashed and not _is_chunked(response):
                raise ArtifactError(
                    f"{url}: the server does not state the length of the file, so a connection that was cut would "
                    "leave a part of it unnoticed.",
                    fix="add the file's sha256 or size_bytes to the registry.",
                )
            _write_validator(validator_file, response)
            try:
                _copy(response, part, start, total, url, size_bytes, progress)
            finally:
                _record(part, validator_file)
    except _UselessPart:
        part.unlink(missing_ok=True)
        raise
    except requests.exceptions.InvalidSchema as error:
        raise ArtifactError(
            f"{url} redirects to an address that is not https: {error}.", fix="correct the URL in the registry."
        ) from error
    except (requests.exceptions.SSLError, requests.exceptions.TooManyRedirects) as error:
        raise ArtifactError(f"{url} cannot be trusted or reached: {error}.", fix="check the URL.") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise _Interrupted(str(error)) from error
    except OSError as error:
        raise ArtifactError(f"{part} cannot be written: {error}.", fix="check free space and rights.") from error
    return start > 0


def _is_chunked(response: requests.Response) -> bool:
    """True if the end of the body is marked, so that urllib3 notices a missing one."""
    return response.headers.get("Transfer-Encoding", "").lower() == "chunked"


def _check_response(response: requests.Response, url: str, have: int, size_bytes: int | None) -> tuple[int, int | None]:
    """Return the position of the first byte that follows, and the file's size if the server states it."""
    status = response.status_code
    length = _number(response.headers.get("Content-Length"))
    if status == 206 and have:
        unit_range, _, total_text = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if _number(unit_range.partition("-")[0]) != have:
            raise ArtifactError(
                f"{url}: requested bytes from {have} on, the server sent {unit_range!r}.", fix="run the command again."
            )
        start, total = have, _number(total_text)
    elif status == 416 and have:
        # Nothing follows: the part is complete, unless it is too long.
        total = _number(response.headers.get("Content-Range", "").rpartition("/")[2])
        if have not in (size_bytes, total):
            raise _UselessPart("the server has no bytes after those that are kept")
        return have, have
    elif status == 200:
        start, total = 0, length
    elif status in _PASSING_STATUS:
        raise _Interrupted(f"the server answered {status} {response.reason}")
    else:
        raise ArtifactError(
            f"{url}: the server answered {status} {response.reason}.",
            fix="check the URL in the registry, or provide the file yourself.",
        )
    if size_bytes is not None and total is not None and total != size_bytes:
        raise ArtifactError(
            f"{url} has {total} bytes on the server; the registry declares {size_bytes}.",
            fix="do not use the file; find out why it changed and correct the registry.",
        )
    return start, total


def _copy(
    response: requests.Response,
    part: Path,
    start: int,
    total: int | None,
    url: str,
    size_bytes: int | None,
    progress: Progress | None,
) -> None:
    done = start
    limit = size_bytes if size_bytes is not None else _MAX_BYTES
    with part.open("ab" if start else "wb") as file:
        for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
            done += len(chunk)
            if done > limit:
                raise ArtifactError(
                    f"{url} is longer than the declared or allowed {limit} bytes.",
                    fix="do not use the file; find out why it changed and correct the registry.",
                )
            file.write(chunk)
            if progress is not None:
                progress(done, total)
    if total is not None and done < total:
        raise _Interrupted(f"the connection ended after {done} of {total} bytes")


def _write_validator(validator_file: Path, response: requests.Response) -> None:
    """Store the validator of this version of the file; RFC 9110, section 13.1.5 allows no weak ETag in If-Range."""
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    if validator:
        validator_file.write_text(json.dumps({"validator": validator}), encoding="utf-8")
    else:
        validator_file.unlink(missing_ok=True)


def _record(part: Path, validator_file: Path) -> None:
    """Note size and hash of the part when an attempt ends, so that bytes which change afterwards are not continued."""
    validator = _read_validator(validator_file)
    if validator is not None:
        content = {"validator": validator, "size_bytes": part.stat().st_size, "sha256": sha256_of(part)}
        validator_file.write_text(json.dumps(content), encoding="utf-8")


def _is_as_recorded(part: Path, validator_file: Path) -> bool:
    content = _read(validator_file)
    # A process that was killed leaves no hash, since nothing tells which of its bytes reached the disk.
    return (
        part.exists() and content.get("size_bytes") == part.stat().st_size and content.get("sha256") == sha256_of(part)
    )


def _read(validator_file: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(validator_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_validator(validator_file: Path) -> str | None:
    validator = _read(validator_file).get("validator")
    # A line break here would be a header of its own.
    return validator if isinstance(validator, str) and validator.isprintable() else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
