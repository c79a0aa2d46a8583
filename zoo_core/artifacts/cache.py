"""Locates the cache folder, hashes files, and records the SHA-256 of first downloads."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import platformdirs

from zoo_core.errors import ArtifactError
from zoo_core.files import open_regular_file, path_problem, replace_file, update_hash
from zoo_core.locks import file_lock

LOCK_FILE = "artifacts.lock.json"
"""Name of the file in the cache that records the first SHA-256 of each URL without a published one."""


def cache_dir() -> Path:
    """Return the cache folder, which may not exist yet: ``ZOO_EVAL_CACHE`` if set, else the user's zoo-eval cache.

    Raises:
        ArtifactError: The path cannot be used.
    """
    override = os.environ.get("ZOO_EVAL_CACHE")
    path = Path(override).expanduser() if override else platformdirs.user_cache_path("zoo-eval", appauthor=False)
    problem = path_problem(path)
    if problem is not None:
        raise ArtifactError(f"The cache cannot be used: {problem}.", fix="set ZOO_EVAL_CACHE to another folder.")
    return path.absolute()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 lower-case hexadecimal digits.

    Raises:
        ArtifactError: The file is missing, a directory, or cannot be read.
    """
    return file_hash(path, "sha256")


def file_hash(path: Path, algorithm: str) -> str:
    """Return a hash of a file's bytes; ``algorithm`` is ``sha256`` or ``md5``. Raises as ``sha256_of``."""
    digest = hashlib.new(algorithm, usedforsecurity=algorithm == "sha256")
    try:
        with open_regular_file(path) as file:
            return update_hash(digest, file)
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read: {error}.", fix="check the path and the right to read it."
        ) from error


def recorded_sha256(folder: Path, url: str) -> str | None:
    """Return the SHA-256 of the first download of ``url``, or None.

    Raises:
        ArtifactError: The lock file is damaged.
    """
    entry = _read_records(folder / LOCK_FILE).get(url)
    return None if entry is None else str(entry["sha256"])


def record_sha256(folder: Path, url: str, sha256: str, size_bytes: int) -> None:
    """Record the hash of a first download; safe when several processes do so at once."""
    path = folder / LOCK_FILE
    with file_lock(Path(f"{path}.lock")):
        records = _read_records(path)
        first_seen = datetime.now(timezone.utc).isoformat(timespec="seconds")
        records[url] = {"sha256": sha256, "size_bytes": size_bytes, "first_seen": first_seen}
        text = json.dumps({"version": 1, "artifacts": dict(sorted(records.items()))}, indent=2)
        replace_file(path, text.encode() + b"\n")


def _read_records(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        records = content["artifacts"]
        valid = all(_is_sha256(entry["sha256"]) for entry in records.values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, repr(error)[:200]) from error
    if not valid:
        raise _damaged(path, "an entry has no SHA-256")
    return dict(records)


def _damaged(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged: {reason}.",
        fix=f"delete {path} to trust the servers' current files, or restore it to keep the recorded hashes.",
    )


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
