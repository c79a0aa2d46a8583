"""Resolves an ``Artifact`` to a verified file in the cache or inside an installed package."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
import shlex
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from zoo_core.artifacts import download as downloads
from zoo_core.artifacts.cache import cache_dir, file_hash, record_sha256, recorded_sha256
from zoo_core.errors import ArtifactError
from zoo_core.locks import file_lock

if TYPE_CHECKING:
    from zoo_core.artifacts.download import Progress
    from zoo_core.datatypes import Artifact

_PACKAGE_PREFIX = "package:"


def fetch(artifact: Artifact, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """Return the artifact's path, after checking size, SHA-256 (or its first digits) and MD5 as declared.

    A file over https is downloaded once into the cache; an interrupted download resumes, several processes may fetch
    at once, and the file appears only when it is complete and verified. If no SHA-256 is declared, that of the first
    download is recorded in the cache's ``artifacts.lock.json`` and checked from then on. A cached file that no
    longer verifies is downloaded again.

    Args:
        artifact: URL, size and hashes. ``package:<import name>/<path>`` is a file inside an installed package, which
            is located without importing the package.
        offline: Never use the network.
        progress: Called during a download with the bytes received so far and the total bytes.

    Returns:
        The file; do not modify it.

    Raises:
        ArtifactError: The URL is not https, the download failed, the file differs from the declared or recorded one,
            or it is not in the cache while ``offline``.
    """
    if artifact.url.startswith(_PACKAGE_PREFIX):
        return _package_file(artifact)
    name = _cached_name(artifact.url)
    folder = cache_dir()
    target = folder / "artifacts" / name
    try:
        # Files appear complete, so looking needs no lock, and a read-only cache works too.
        if _is_cached(target, artifact, folder):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(Path(f"{target}.lock")):
            if not _is_cached(target, artifact, folder):
                if offline:
                    raise _not_cached(artifact, target)
                _download_verified(artifact, target, folder, progress)
    except OSError as error:
        raise ArtifactError(
            f"The cache {folder} cannot be written: {error}.",
            fix="free space, or set ZOO_EVAL_CACHE to a writable folder.",
        ) from error
    return target


def _package_file(artifact: Artifact) -> Path:
    try:
        path = package_path(artifact.url, kind="file")
        _verify(path, artifact, artifact.sha256, origin=artifact.url)
    except ArtifactError as error:
        if artifact.requirement is None:
            raise
        expected = f", SHA256 {artifact.sha256}" if artifact.sha256 and artifact.sha256 not in error.fact else ""
        raise ArtifactError(
            f"{error.fact} The file belongs to {artifact.requirement}{expected}; "
            f"{_installed_version(artifact.requirement)} is installed.",
            fix=f"run pip install --force-reinstall --no-deps {shlex.quote(artifact.requirement)}",
        ) from error
    return path


def _installed_version(requirement: str) -> str:
    from packaging.requirements import Requirement

    try:
        return f"version {importlib.metadata.version(Requirement(requirement).name)}"
    except importlib.metadata.PackageNotFoundError:
        return "no version"


def _is_cached(target: Path, artifact: Artifact, folder: Path) -> bool:
    """Return True if the cached file can be used; without a declared or recorded SHA-256 it cannot."""
    sha256 = artifact.sha256 or recorded_sha256(folder, artifact.url)
    if sha256 is None or not target.is_file():
        return False
    try:
        _verify(target, artifact, sha256, origin=str(target))
    except ArtifactError:
        return False
    return True


def _download_verified(artifact: Artifact, target: Path, folder: Path, progress: Progress | None) -> None:
    recorded = recorded_sha256(folder, artifact.url)
    part = target.with_name(f"{target.name}.part")
    hashed = bool(artifact.sha256 or recorded or artifact.sha256_prefix or artifact.md5)
    for resume in (True, False):
        resumed = downloads.download(
            artifact.url, part, size_bytes=artifact.size_bytes, progress=progress, resume=resume, hashed=hashed
        )
        try:
            _verify(part, artifact, artifact.sha256 or recorded, origin=artifact.url, recorded=artifact.sha256 is None)
            break
        except ArtifactError:
            part.unlink()
            # The first part may come from another version of the file: only a fresh download can tell.
            if not resumed:
                raise
    if artifact.sha256 is None and recorded is None:
        # Recorded before the file appears: a crash in between costs a download, not the guarantee.
        record_sha256(folder, artifact.url, file_hash(part, "sha256"), part.stat().st_size)
    part.replace(target)


def _verify(path: Path, artifact: Artifact, sha256: str | None, *, origin: str, recorded: bool = False) -> None:
    size = path.stat().st_size
    if artifact.size_bytes is not None and size != artifact.size_bytes:
        raise ArtifactError(
            f"{origin} has {size} bytes; the registry declares {artifact.size_bytes}.",
            fix="do not use the file; find out why it changed and correct the registry.",
        )
    for algorithm, expected in (("sha256", sha256 or artifact.sha256_prefix), ("md5", artifact.md5)):
        if expected is None:
            continue
        actual = file_hash(path, algorithm)
        prefix = artifact.sha256_prefix if algorithm == "sha256" else None
        if prefix is not None and not actual.startswith(prefix):
            raise ArtifactError(
                f"{origin} has SHA256 {actual}; {prefix}... is declared.",
                fix="do not use the file before you know why it changed; then correct the registry.",
            )
        if actual != expected.lower() and expected != prefix:
            source = "was recorded at the first download" if recorded and algorithm == "sha256" else "is declared"
            raise ArtifactError(
                f"{origin} has {algorithm.upper()} {actual}; {expected.lower()} {source}.",
                fix="do not use the file before you know why it changed; then correct the registry"
                + (" or remove the URL from the cache's artifacts.lock.json." if recorded else "."),
            )


def _not_cached(artifact: Artifact, target: Path) -> ArtifactError:
    state = "fails its checks in the cache" if target.exists() else "is not in the cache"
    return ArtifactError(
        f"{artifact.url} {state}, and --offline forbids downloading it.",
        fix=f"run `zoo-eval fetch MODEL` with a network, or copy the file to {target}"
        + ("." if artifact.sha256 else " together with the cache's artifacts.lock.json."),
    )


def _cached_name(url: str) -> str:
    """Return a safe and readable file name, unique for each URL."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in downloads._SCHEMES and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid or not url.isprintable() or " " in url:
        raise ArtifactError(
            f"{url[:200]!r} is not a supported address.",
            fix="use https://HOST/PATH, or package:<import name>/<path> for a file of an installed package.",
        )
    last = unquote(PurePosixPath(parts.path).name, errors="replace")
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", last)[-80:].lstrip(".-") or "file"
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{readable}"


def package_path(url: str, *, kind: Literal["file", "file or folder"] = "file or folder") -> Path:
    """Return what ``package:<import name>/<path>`` names, without importing the package.

    Raises:
        ArtifactError: The text has another form, or there is no such package or nothing of this kind in it.
    """
    package, _, relative = url.removeprefix(_PACKAGE_PREFIX).partition("/")
    inside = PurePosixPath(relative)
    if not package.isidentifier() or not relative or inside.is_absolute() or ".." in inside.parts or "\0" in relative:
        raise ArtifactError(
            f"{url[:200]!r} does not name a file inside a package.",
            fix="write package:<import name>/<path>, the path without '..'.",
        )
    # For a name without dots find_spec() imports nothing, so locating a plugin's file does not run its code.
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []
    if not folders:
        raise ArtifactError(f"{url}: no package {package!r} is installed.", fix=f"install the package {package}.")
    for folder in folders:
        path = folder / inside
        there = path.is_file() or (kind != "file" and path.is_dir())
        if there and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise ArtifactError(
        f"{url}: the package {package!r} in {folders[0]} has no such {kind}.", fix="reinstall the package."
    )
