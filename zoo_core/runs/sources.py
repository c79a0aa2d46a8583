"""Hashes the sources of a package as they lie on disk, so that a changed program is noticed without a checkout."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from zoo_core.runs.part import SourceRecord

LARGE_BYTES = 64 * 1024**2
"""A larger file counts by its name and size only: a data set kept inside a package must not delay every run."""

_BLOCK_BYTES = 1024**2


def source_record(
    modules: Iterable[str], distribution: str | None, version: str | None, *, without: Collection[str] = ()
) -> SourceRecord:
    """Return the record of the packages that contain some imported modules.

    Args:
        modules: Full names.
        distribution: Name of the distribution that installed them; None if unknown.
        version: Of the distribution.
        without: See ``source_sha256``.
    """
    return SourceRecord(distribution=distribution, version=version, sha256=source_sha256(modules, without=without))


def source_sha256(modules: Iterable[str], *, without: Collection[str] = ()) -> str | None:
    """Hash names and contents of all files of the packages that contain ``modules``; the place on disk does not matter.

    A package is hashed from its outermost folder with an ``__init__.py``, a module of a namespace package with the
    folder it lies in, and a single module alone. Python sources, compiled modules and data count; hidden files,
    ``__pycache__``, documentation (``.md``, ``.rst``) and run directories do not. A package in a zip file has the hash
    of its unpacked files.

    Args:
        modules: Full names of imported modules; others are ignored.
        without: Files that do not count, e.g. ``package/data.yaml``.

    Returns:
        64 hexadecimal digits; None if no file can be read, for example for code typed into a notebook.
    """
    roots = {root for module in modules for root in _roots(module)}
    lines = sorted(
        f"{len(full)}:{full}:{content}\n"
        for package, place in roots
        for name, content in _files(place)
        for full in [f"{package}/{name}"]
        if full not in without
    )
    if not lines:
        return None
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _roots(module: str) -> set[tuple[str, Path]]:
    """Return name and place of what is hashed for a module; empty if it is not imported or has no file."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        found = sys.modules.get(name)
        file = getattr(found, "__file__", None)
        if file is None:
            continue  # a namespace package: other distributions may have modules in it
        folders = getattr(found, "__path__", None)
        if folders is not None:
            return {(name, Path(entry)) for entry in folders}
        return {(".".join(parts[: count - 1]), Path(file).parent)} if count > 1 else {(name, Path(file))}
    return set()


def _files(place: Path) -> Iterator[tuple[str, str]]:
    """Yield name and hash of each file of a folder, of a single file, or of a folder or file inside a zip file."""
    if place.is_dir():
        for path in _walk(place):
            yield path.relative_to(place).as_posix(), _content(path)
    elif place.is_file():
        yield place.name, _content(place)
    else:
        yield from _zipped(place)


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()
    for current, folders, names in os.walk(folder, followlinks=True):
        is_run = "run.json" in names and "__init__.py" not in names
        if os.path.realpath(current) in seen or is_run:  # a circle of links, or results written inside the package
            folders.clear()
            continue
        seen.add(os.path.realpath(current))
        folders[:] = sorted(name for name in folders if _counts(name))
        yield from (Path(current, name) for name in names if _counts(name))


def _counts(name: str) -> bool:
    return not (name.startswith(".") or name == "__pycache__" or name.endswith(("~", ".egg-info", ".md", ".rst")))


def _content(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "not a file"
        if status.st_size > LARGE_BYTES:
            return f"{status.st_size} bytes"
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return "not readable"
    return digest.hexdigest()


def _zipped(place: Path) -> Iterator[tuple[str, str]]:
    archive = next((parent for parent in place.parents if parent.is_file()), None)
    if archive is None:
        return
    inside = place.relative_to(archive).as_posix()
    try:
        with zipfile.ZipFile(archive) as file:
            for entry in file.infolist():
                if entry.is_dir() or not (entry.filename == inside or entry.filename.startswith(f"{inside}/")):
                    continue
                name = entry.filename[len(inside) + 1 :] or place.name
                if all(_counts(part) for part in name.split("/")):
                    large = entry.file_size > LARGE_BYTES
                    content = f"{entry.file_size} bytes" if large else hashlib.sha256(file.read(entry)).hexdigest()
                    yield name, content
    except (OSError, zipfile.BadZipFile, RuntimeError):  # RuntimeError: an encrypted entry
        return
