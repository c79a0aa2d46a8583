"""The run directory: everything one evaluation leaves on disk, each file written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zoo_core.errors import RunError

SCHEMA = 1
"""Version of ``run.json`` and ``metrics.json``; raised when a reader of the old form would misread the new one."""

MIN_FREE_BYTES = 200_000_000
"""What four stages of 5,000 images with 100 detections each, the quantized network and the report take, rounded up."""


class RunDirectory:
    """A directory that holds one run.

    Layout: ``run.json`` (what was done, how, with what), ``metrics.json`` (only when the run is complete),
    ``predictions/<stage>/chunk-*.parquet``, ``<submission format>/<stage>/``, ``quantized/``, ``image_ids.txt``,
    ``log.txt``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, out: Path | None, model_id: str) -> RunDirectory:
        """Make the directory, at ``out`` or at ``runs/<model>/<UTC time>-<short id>``.

        Raises:
            RunError: It exists and is not empty, or cannot be written.
        """
        path = cls.check(out, model_id)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(path, error) from error
        return cls(path)

    @staticmethod
    def check(out: Path | None, model_id: str) -> Path:
        """Say where a run would go, or why it cannot, without leaving anything behind.

        Raises:
            RunError: It exists and is not empty, or its nearest existing parent cannot be written or is all but full.
        """
        if out is None:
            stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
            out = Path("runs") / model_id / f"{stamp}-{secrets.token_hex(3)}"
        path = out.absolute()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"The run directory {path} exists and is not empty.",
                fix="name another with --out, or remove it; a run never writes over another.",
            )
        parent = path
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise _not_writable(path, f"{parent} is not a directory that may be written")
        free = shutil.disk_usage(parent).free
        if free < MIN_FREE_BYTES:
            raise _not_writable(
                path, f"{free / 1e6:.0f} MB are free there, and a run may take {MIN_FREE_BYTES / 1e6:.0f}"
            )
        return path

    def write_json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write ``name`` atomically as JSON; floats keep every digit, NaN is refused."""
        text = json.dumps(content, indent=1, allow_nan=False, default=str, ensure_ascii=False) + "\n"
        return self.write_text(name, text)

    def write_text(self, name: str, text: str) -> Path:
        """Write ``name`` atomically as UTF-8 text.

        Raises:
            RunError: The file cannot be written, for example because the disk is full.
        """
        target = self.path / name
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)  # noqa: PTH105 - names the guarantee: readers see the old file or the new one
        except OSError as error:
            raise _not_writable(target, error) from error
        return target

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises:
            RunError: It is missing, damaged, or of a newer form than this version knows.
        """
        path = self.path / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path} holds no {name}.", fix="name a run directory, as `zoo-eval run` prints it at the end."
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}", fix="restore the file, or run again.") from error
        if not isinstance(content, dict) or not isinstance(content.get("schema"), int) or content["schema"] > SCHEMA:
            raise RunError(
                f"{path} has schema {content.get('schema') if isinstance(content, dict) else None!r}; "
                f"this version reads up to {SCHEMA}.",
                fix="read it with the zoo-eval version that wrote it, or a newer one.",
            )
        return content

    def folder(self, *parts: str) -> Path:
        """A folder inside the run, created when missing; parts are names, never paths."""
        for part in parts:
            if part in {"", ".", ".."} or "/" in part or "\\" in part or "\0" in part:
                raise RunError(f"{part!r} cannot name a folder of a run.", fix="use a plain name.")
        path = self.path.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path


def _not_writable(path: Path, cause: object) -> RunError:
    return RunError(f"{path} cannot be written: {cause}", fix="make room or name another place with --out.")
