"""Unpacks untrusted tar and zip archives.

Only plain files and folders are created, only inside the target, and no more than the limits allow. Owner, mode and
time in the archive are ignored.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from zoo_core.errors import ArtifactError
from zoo_core.locks import file_lock

_CHUNK_BYTES = 1 << 18
_MAX_READ_BYTES = 1 << 24
_MAX_DEPTH = 32
_GIB = 1 << 30
_MAX_RATIO = 20
"""Images hardly shrink in an archive; annotations in text do, tenfold."""


def unpack(archive: Path, into: Path, *, max_files: int = 500_000, max_bytes: int | None = None) -> None:
    """Unpack a tar (plain, gzip, bzip2, xz) or zip archive into a folder, completely or not at all.

    The archive is unpacked beside ``into`` first. If ``into`` does not exist, it then appears in one rename; if it
    does, the files are moved into it one by one and replace those of the same name, so that several archives can share
    a folder and an interrupted call can be repeated. Processes that unpack into the same folder wait for each other.

    Args:
        archive: The format is detected from the content, not from the name.
        into: The folder; its parent is created.
        max_files: Highest number of entries; archives with more are refused.
        max_bytes: Highest total size when unpacked; larger archives are refused. None: 20 times the archive, or 1 GiB
            if that is more. What the disk has free, less a tenth of it or 1 GiB, is a limit in any case.

    Raises:
        ArtifactError: The archive is damaged, or holds a path that leaves ``into``, a link, a device or another special
            entry, or exceeds a limit; ``into`` is then unchanged.
    """
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        budget = _Budget(archive, max_files, _limit(archive, max_bytes), _unreserved(into.parent))
        with file_lock(into.parent / f".{into.name}.lock"):
            prefix = f".{into.name}.unpacking-"
            # Left by a process that was killed; no running process can own them, since we hold the lock.
            for stale in into.parent.glob(f"{prefix}*"):
                shutil.rmtree(stale, ignore_errors=True)
            beside = Path(tempfile.mkdtemp(prefix=prefix, dir=into.parent))
            try:
                _unpack_all(archive, beside, budget)
                beside.chmod(0o755)
                if into.exists():
                    _merge(beside, into)
                else:
                    beside.replace(into)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise ArtifactError(
            f"{archive} cannot be unpacked into {into}: {error}.", fix="check free space, rights and the archive."
        ) from error


def _limit(archive: Path, max_bytes: int | None) -> int:
    return max(_GIB, _MAX_RATIO * archive.stat().st_size) if max_bytes is None else max_bytes


def _unreserved(folder: Path) -> int:
    free = shutil.disk_usage(folder).free
    return free - min(_GIB, free // 10)


class _Budget:
    """Counts entries and bytes, and refuses the archive when a limit is exceeded."""

    def __init__(self, archive: Path, max_files: int, max_bytes: int, free_bytes: int) -> None:
        self.archive = archive
        self.free_bytes = free_bytes
        self.max_files = max_files
        self.max_bytes = max_bytes
        self._num_files = 0
        self._num_bytes = 0

    def add_entry(self) -> None:
        self._num_files += 1
        if self._num_files > self.max_files:
            raise self.refusal(f"more than {self.max_files} entries")

    def add_bytes(self, count: int) -> None:
        self._num_bytes += count
        if self._num_bytes > self.max_bytes:
            raise self.refusal(f"more than {self.max_bytes} bytes")
        if self._num_bytes > self.free_bytes:
            raise ArtifactError(
                f"{self.archive} contains more than the {self.free_bytes} bytes that the disk can spare.",
                fix="free disk space, or set ZOO_EVAL_CACHE to a folder on a larger disk.",
            )

    def refusal(self, what: str) -> ArtifactError:
        return ArtifactError(
            f"{self.archive} contains {what}, which is refused.",
            fix="do not use the archive, or unpack it yourself in a safe place and give --data.",
        )


def _unpack_all(archive: Path, folder: Path, budget: _Budget) -> None:
    try:
        if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
            _unpack_zip(archive, folder, budget)
        else:
            _unpack_tar(archive, folder, budget)
    # EOFError and zlib.error: cut or damaged gzip; RuntimeError and NotImplementedError: an encrypted zip or a
    # compression method that this Python lacks; the rest comes from headers that make no sense.
    except (
        tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError,
        EOFError, ValueError, RuntimeError, OverflowError, IndexError,
    ) as error:  # fmt: skip
        raise ArtifactError(
            f"{archive} is not a valid tar or zip archive: {error or type(error).__name__}.",
            fix="delete the file and fetch it again.",
        ) from error


def _unpack_tar(archive: Path, folder: Path, budget: _Budget) -> None:
    with _opened(archive) as file:
        guarded = cast("IO[bytes]", _GuardedReader(file, budget))
        with tarfile.open(fileobj=guarded, mode="r:") as tar:
            for member in tar:
                budget.add_entry()
                # Drop it: the list would grow by every header of a hostile archive.
                tar.members = []  # type: ignore[attr-defined]  # typeshed lacks it
                path = _safe_path(folder, member.name, budget)
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                elif member.isreg() and not member.issparse():
                    source = tar.extractfile(member)
                    if source is None:
                        raise budget.refusal(f"an entry without content, {member.name[:80]!r}")
                    with source:
                        _write(source, path, budget)
                else:
                    raise budget.refusal(f"a link or special file, {member.name[:80]!r}")
            _check_end(file, tar.offset, budget)


def _check_end(file: IO[bytes], position: int, budget: _Budget) -> None:
    """Refuse an archive that was truncated between two entries, which tarfile accepts as its end.

    Reading on to the end of the file also makes the decompressor verify its checksum.
    """
    file.seek(position)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end mark is missing")
    num_trailing = 0
    while chunk := file.read(_CHUNK_BYTES):
        num_trailing += len(chunk)
        if num_trailing > _MAX_READ_BYTES:
            raise budget.refusal(f"more than {_MAX_READ_BYTES} bytes after its end mark")


def _unpack_zip(archive: Path, folder: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as container:
        for info in container.infolist():
            budget.add_entry()
            path = _safe_path(folder, info.filename, budget)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                path.mkdir(parents=True, exist_ok=True)
            elif kind in (0, stat.S_IFREG):
                with container.open(info) as source:
                    _write(source, path, budget)
            else:
                raise budget.refusal(f"a link or special file, {info.filename[:80]!r}")


def _safe_path(folder: Path, name: str, budget: _Budget) -> Path:
    path = PurePosixPath(name)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in name or len(path.parts) > _MAX_DEPTH
    if unsafe or not name.isprintable() or not name.strip():
        raise budget.refusal(f"the path {name[:80]!r}")
    return folder / path


def _write(source: IO[bytes], path: Path, budget: _Budget) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        # Counted while reading: the size in a header cannot be trusted.
        while chunk := source.read(_CHUNK_BYTES):
            budget.add_bytes(len(chunk))
            file.write(chunk)


def _merge(source: Path, target: Path) -> None:
    """Move every file below ``source`` to the same path below ``target``, without following a link there."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if place.is_symlink() or (place.exists() and place.is_dir() != path.is_dir()):
            raise ArtifactError(
                f"{place} is in the way of an unpacked file.", fix=f"move {place} elsewhere, or delete it."
            )
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.replace(place)


@contextmanager
def _opened(archive: Path) -> Iterator[IO[bytes]]:
    with archive.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"\x1f\x8b"):
            with gzip.open(file) as unzipped:
                yield cast("IO[bytes]", unzipped)
        elif magic.startswith(b"BZh"):
            with bz2.open(file) as unzipped:
                yield cast("IO[bytes]", unzipped)
        elif magic == b"\xfd7zXZ\0":
            with lzma.open(file) as unzipped:
                yield cast("IO[bytes]", unzipped)
        else:
            yield file


class _GuardedReader(io.RawIOBase):
    """Refuses the huge single reads with which tarfile would load an extended header into memory."""

    def __init__(self, file: IO[bytes], budget: _Budget) -> None:
        self._file = file
        self._budget = budget

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_READ_BYTES:
            raise self._budget.refusal("an entry header of enormous size")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # Seeking forward in a compressed file decompresses; tarfile only seeks past the data of one entry at a time.
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
