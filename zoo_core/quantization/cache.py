"""Content-addressed cache for slow steps; interrupted work resumes.

An entry is a folder named by the hash of everything that the result depends on, with one file for each part of the
work. A part records the parts before it, so the parts of two processes with different results never mix. If a file is
damaged or follows other parts, the step ignores it and computes that part and all later ones.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from zoo_core import artifacts
from zoo_core.errors import ZooError
from zoo_core.files import replace_file

if TYPE_CHECKING:
    from zoo_core.datatypes import Json

logger = logging.getLogger("zoo_eval.quantization")

LIMIT_BYTES = 2 * 1024**3
"""Limit of all entries together; the least recently used are removed first. One of MobileNetV2-SSD takes 14 MB."""

_CONTENT_FILE = "content.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Result of one part of a step's work.

    Attributes:
        tensors: The result; later parts depend on it.
        facts: Reported about the part; JSON-able.
    """

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Json] = dataclasses.field(default_factory=dict)


class StepCache:
    """Entry of the cache, read and extended in the order of the work.

    Args:
        folder: Folder of all entries; need not exist. None stores nothing.
        content: Everything that the result depends on, JSON-able; its hash names the entry.

    Attributes:
        key: SHA-256 that names the entry.
        num_cached: Parts read from the entry.
        num_computed: Parts computed now.
        computed_on: Time at which the last cached part was computed, UTC, ISO 8601; None if no part was cached.
    """

    def __init__(self, folder: Path | None, content: Mapping[str, Json]) -> None:
        text = json.dumps(dict(content), sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.num_cached = 0
        self.num_computed = 0
        self.computed_on: str | None = None
        self._content = text
        self._entries = folder
        self._folder = None if folder is None else folder / self.key
        self._state = ""
        self._missed = False

    def take(self, name: str) -> Part | None:
        """Return the next part of the work if it is cached, else None; after the first None, always None.

        Args:
            name: Name of the part, the same in every run.
        """
        if self._folder is None or self._missed:
            return None
        path = self._folder / _file_name(self.num_cached)
        cached = _read(path, name, self._state)
        if cached is None:
            self._missed = True
            return None
        part, self._state, self.computed_on = cached
        self.num_cached += 1
        return part

    def put(self, name: str, part: Part) -> None:
        """Store the next part of the work; if that fails, log a warning and store nothing more."""
        self._missed = True
        index = self.num_cached + self.num_computed
        self.num_computed += 1
        if self._folder is None:
            return
        metadata = {
            "name": name,
            "follows": self._state,
            "facts": json.dumps(dict(part.facts), sort_keys=True),
            "computed_on": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        metadata["sha256"] = _sha256(metadata, part.tensors)
        self._state = _state(name, self._state, part.tensors)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if index == 0:
                replace_file(self._folder / _CONTENT_FILE, self._content.encode())
            artifacts.save_state_dict(self._folder / _file_name(index), part.tensors, metadata)
        except (OSError, ZooError) as error:
            logger.warning("Results are no longer cached in %s: %s", self._folder, error)
            self._folder = None

    def close(self) -> None:
        """Mark the entry as used, and remove the least recently used entries beyond the limit."""
        if self._folder is None or self._entries is None:
            return
        try:
            os.utime(self._folder)
            _prune(self._entries, keep=self._folder)
        except OSError as error:
            logger.warning("Old entries of %s could not be removed: %s", self._entries, error)

    def summary(self) -> str:
        """Return a note on cached parts to append to a step's summary; empty if there are none."""
        if self.computed_on is None:
            return ""
        when = datetime.fromisoformat(self.computed_on).strftime("%Y-%m-%d %H:%M UTC")
        if not self.num_computed:
            return f"; from the cache, computed on {when}"
        total = self.num_cached + self.num_computed
        return f"; the first {self.num_cached} of {total} parts from the cache, computed on {when}, the others now"

    def record(self) -> dict[str, Json] | None:
        """Return the counts of cached parts for the run's record; None if the cache is off."""
        if self._entries is None:
            return None
        return {
            "key": self.key,
            "parts_from_cache": self.num_cached,
            "parts_computed": self.num_computed,
            "computed_on": self.computed_on,
        }


@functools.cache
def engine_sha256() -> str:
    """Hash the source of every quantization module, so that another release does not reuse this one's results."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def tensor_sha256(*tensors: torch.Tensor) -> str:
    """Hash data types, shapes and values; layout and device do not matter."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype} {tuple(plain.shape)}:".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _file_name(index: int) -> str:
    return f"{index:04d}.safetensors"


def _read(path: Path, name: str, state: str) -> tuple[Part, str, str] | None:
    """Return the part in a file, the state after it and the time it was computed; None if it cannot be used."""
    try:
        if not path.exists():
            return None
        metadata = artifacts.load_metadata(path)
        tensors = artifacts.load_state_dict(path)
        expected = metadata.pop("sha256")
        part = Part(tensors=tensors, facts=json.loads(metadata["facts"]))
    except (OSError, ZooError, ValueError, KeyError) as error:
        logger.warning("%s is damaged and is computed again: %s", path, error)
        return None
    if _sha256(metadata, tensors) != expected:
        logger.warning("%s is damaged and is computed again: its content has changed since it was written.", path)
        return None
    if (metadata["name"], metadata["follows"]) != (name, state):
        logger.info("%s belongs to other work; computing again from there.", path)
        return None
    return part, _state(name, state, tensors), metadata["computed_on"]


def _sha256(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    return _text_sha256([dict(metadata), _hashes(tensors)])


def _state(name: str, before: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash everything that later parts depend on, without times and other facts about the work."""
    return _text_sha256([before, name, _hashes(tensors)])


def _hashes(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: tensor_sha256(tensor) for name, tensor in tensors.items()}


def _text_sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _prune(folder: Path, *, keep: Path) -> None:
    entries = sorted((path for path in folder.iterdir() if path.is_dir()), key=_last_use, reverse=True)
    entries.sort(key=lambda path: path != keep)
    total = 0
    for entry in entries:
        total += sum(_size(file) for file in entry.iterdir())
        if total > LIMIT_BYTES and entry != keep:
            logger.info("%s is removed: all entries together may take %d bytes.", entry, LIMIT_BYTES)
            shutil.rmtree(entry, ignore_errors=True)


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process has removed it
        return time.time()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
