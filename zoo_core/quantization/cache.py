"""What a slow step has found, kept by content and part by part: asked again it is read, interrupted it goes on.

An entry is a folder named by the hash of everything that the result depends on; each part of the work is a file in it.
A part states which parts came before it, so parts of two processes that found different things never mix. A file that
is damaged, or follows another, is not used: the step works from there on as if nothing had been kept.
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
"""All entries together take at most this; those not used for longest go first. One of MobileNetV2-SSD takes 14 MB."""

_CONTENT_FILE = "content.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """One part of a step's work.

    Attributes:
        tensors: What later parts depend on.
        facts: JSON-able; what is to be reported of it.
    """

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Json] = dataclasses.field(default_factory=dict)


class StepCache:
    """One entry of the cache, taken from and added to in the order of the work.

    Args:
        folder: Of all entries; None keeps nothing. It need not exist.
        content: Everything that the result depends on, JSON-able; its hash names the entry.

    Attributes:
        key: Of the entry, SHA-256.
        num_taken: Parts that were found.
        num_made: Parts that were not.
        computed_on: When the last part taken was computed, UTC, ISO 8601; None if none was.
    """

    def __init__(self, folder: Path | None, content: Mapping[str, Json]) -> None:
        text = json.dumps(dict(content), sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.num_taken = 0
        self.num_made = 0
        self.computed_on: str | None = None
        self._content = text
        self._all = folder
        self._folder = None if folder is None else folder / self.key
        self._state = ""
        self._missed = False

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self._folder is not None

    def take(self, name: str) -> Part | None:
        """The next part of the work if it is kept, else None; after the first None, always None.

        Args:
            name: Of the part, the same in every run.
        """
        if self._folder is None or self._missed:
            return None
        path = self._folder / _file_name(self.num_taken)
        found = _read(path, name, self._state)
        if found is None:
            self._missed = True
            return None
        part, self._state, self.computed_on = found
        self.num_taken += 1
        return part

    def put(self, name: str, part: Part) -> None:
        """Keep the next part of the work; where that fails, the log says so and nothing more is kept."""
        self._missed = True
        index = self.num_taken + self.num_made
        self.num_made += 1
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
            logger.warning("Results are not kept in %s: %s", self._folder, error)
            self._folder = None

    def close(self) -> None:
        """The work is done: note that the entry was used, and remove the entries not used for longest."""
        if self._folder is None or self._all is None:
            return
        try:
            os.utime(self._folder)
            _prune(self._all, keep=self._folder)
        except OSError as error:
            logger.warning("%s could not be tidied: %s", self._all, error)

    def said(self) -> str:
        """What a reader of the result must know of the cache, to be added to a summary; empty when nothing."""
        if self.computed_on is None:
            return ""
        when = datetime.fromisoformat(self.computed_on).strftime("%Y-%m-%d %H:%M UTC")
        if not self.num_made:
            return f"; from the cache, computed on {when}"
        total = self.num_taken + self.num_made
        return f"; the first {self.num_taken} of {total} parts from the cache, computed on {when}, the others now"

    def record(self) -> dict[str, Json] | None:
        """The same for the run's record; None when nothing is kept."""
        if self._all is None:
            return None
        return {
            "key": self.key,
            "parts_from_cache": self.num_taken,
            "parts_computed": self.num_made,
            "computed_on": self.computed_on,
        }


@functools.cache
def engine_sha256() -> str:
    """A hash of the source of every quantization module: what another release has kept is not taken for this one's."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def tensor_sha256(*tensors: torch.Tensor) -> str:
    """A hash of data types, shapes and values; layout and device do not matter."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype} {tuple(plain.shape)}:".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _file_name(index: int) -> str:
    return f"{index:04d}.safetensors"


def _read(path: Path, name: str, state: str) -> tuple[Part, str, str] | None:
    """The part in a file, the state after it, and when it was computed; None if it is not what it should be."""
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
        logger.warning("%s is damaged and is computed again: its content is not what was written.", path)
        return None
    if (metadata["name"], metadata["follows"]) != (name, state):
        logger.info("%s is of other work; computing again from there.", path)
        return None
    return part, _state(name, state, tensors), metadata["computed_on"]


def _sha256(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    return _text_sha256([dict(metadata), _hashes(tensors)])


def _state(name: str, before: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """What later parts depend on; times and other facts of the work are not in it."""
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
            logger.info("%s is removed: entries together may take %d bytes.", entry, LIMIT_BYTES)
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
