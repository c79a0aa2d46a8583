"""Archives: sound ones, hostile ones, and calls that were interrupted."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo_core.artifacts import archives, unpack
from zoo_core.errors import ArtifactError

CONTENT = {"VOCdevkit/VOC2007/Annotations/1.xml": b"<annotation/>", "VOCdevkit/VOC2007/a.txt": b"a" * 70_000}


def tar_bytes(content: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o4777
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_bytes(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as container:
        for name, data in content.items():
            container.writestr(name, data)
    return buffer.getvalue()


def special_tar(kind: bytes, target: str = "/etc/passwd") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("entry")
        info.type, info.linkname = kind, target
        tar.addfile(info)
    return buffer.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def unpacked(tmp_path: Path) -> Callable[[bytes], Path]:
    """Unpacks these bytes into the folder ``out/data``, the only thing that may appear in ``out`` but for a lock."""

    def call(data: bytes, **limits: int) -> Path:
        archive, into = tmp_path / "archive.bin", tmp_path / "out" / "data"
        archive.write_bytes(data)
        try:
            unpack(archive, into, **limits)
        finally:
            others = {path.name for path in into.parent.iterdir()} - {"data", ".data.lock"}
            assert not others
            assert {path.name for path in tmp_path.iterdir()} <= {"archive.bin", "out"}
        return into

    return call


# --------------------------------------------------------------------------- sound archives


@pytest.mark.parametrize(
    "data",
    [*(tar_bytes(CONTENT, mode) for mode in ("w", "w:gz", "w:bz2", "w:xz")), zip_bytes(CONTENT)],
    ids=["tar", "gz", "bz2", "xz", "zip"],
)
def test_every_format_gives_the_same_files(unpacked: Callable[..., Path], data: bytes) -> None:
    into = unpacked(data)
    assert tree(into) == CONTENT
    assert not stat.S_IMODE((into / "VOCdevkit/VOC2007/a.txt").stat().st_mode) & 0o7111


def test_folders_and_paths_that_begin_with_a_dot_segment_are_made(unpacked: Callable[..., Path]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("./", "./empty", "./empty/deeper"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
    into = unpacked(buffer.getvalue())
    assert (into / "empty" / "deeper").is_dir()


def test_two_archives_share_a_folder_and_a_call_can_be_repeated(unpacked: Callable[..., Path]) -> None:
    other = {"VOCdevkit/VOC2007/a.txt": b"newer", "VOCdevkit/VOC2007/JPEGImages/1.jpg": b"jpeg"}
    unpacked(tar_bytes(CONTENT))
    unpacked(tar_bytes(other))
    into = unpacked(tar_bytes(other))
    assert tree(into) == CONTENT | other


def test_threads_that_unpack_into_one_folder_wait_for_each_other(tmp_path: Path) -> None:
    archives_ = []
    for number in range(4):
        archives_.append(tmp_path / f"{number}.tar")
        archives_[-1].write_bytes(tar_bytes({f"{number}/{index}.txt": b"x" for index in range(50)}))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda archive: unpack(archive, tmp_path / "into"), archives_))
    assert len(tree(tmp_path / "into")) == 200


def test_what_a_killed_process_left_is_removed(unpacked: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out" / ".data.unpacking-abc123").mkdir(parents=True)
    unpacked(tar_bytes(CONTENT))


# --------------------------------------------------------------------------- hostile archives


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", "..", "a\x1b[2J", "x/" * 40 + "x", " "],
)  # fmt: skip
@pytest.mark.parametrize("packed", [tar_bytes, zip_bytes], ids=["tar", "zip"])
def test_a_path_that_leaves_the_folder_is_refused(
    unpacked: Callable[..., Path], packed: Callable[[dict[str, bytes]], bytes], name: str, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=r"archive\.bin contains the path '.*', which is refused"):
        unpacked(packed({"fine": b"1", name: b"evil"}))
    assert not (tmp_path / "out" / "data").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"S"],
    ids=["symlink", "hardlink", "character device", "block device", "fifo", "sparse"],
)  # fmt: skip
def test_links_devices_and_other_special_entries_are_refused(unpacked: Callable[..., Path], kind: bytes) -> None:
    with pytest.raises(ArtifactError, match="contains a link or special file, 'entry'"):
        unpacked(special_tar(kind))


def test_a_file_is_not_written_through_a_link_before_it(unpacked: Callable[..., Path], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("up")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        evil = tarfile.TarInfo("up/evil")
        evil.size = 1
        tar.addfile(evil, io.BytesIO(b"x"))
    with pytest.raises(ArtifactError, match="link or special file, 'up'"):
        unpacked(buffer.getvalue())


def test_a_link_in_a_zip_is_refused(unpacked: Callable[..., Path]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as container:
        info = zipfile.ZipInfo("entry")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        container.writestr(info, "/etc/passwd")
    with pytest.raises(ArtifactError, match="contains a link or special file, 'entry'"):
        unpacked(buffer.getvalue())


def test_nothing_is_moved_through_a_link_in_the_target(unpacked: Callable[..., Path], tmp_path: Path) -> None:
    outside = tmp_path / "out" / "data" / "outside"
    (tmp_path / "out" / "data").mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "out" / "data" / "VOCdevkit").symlink_to(outside)
    with pytest.raises(ArtifactError, match=r"data/VOCdevkit is in the way"):
        unpacked(tar_bytes(CONTENT))
    assert not list(outside.iterdir())


def test_more_entries_than_allowed_are_refused(unpacked: Callable[..., Path]) -> None:
    content = {str(number): b"" for number in range(5)}
    assert len(tree(unpacked(tar_bytes(content), max_files=5))) == 5
    for data in (tar_bytes(content), zip_bytes(content)):
        with pytest.raises(ArtifactError, match="contains more than 4 entries"):
            unpacked(data, max_files=4)


@pytest.mark.parametrize("packed", [lambda content: tar_bytes(content, "w:gz"), zip_bytes], ids=["tar.gz", "zip"])
def test_a_bomb_is_refused_while_it_unpacks(
    unpacked: Callable[..., Path], packed: Callable[[dict[str, bytes]], bytes]
) -> None:
    data = packed({"bomb": bytes(1 << 24)})
    assert len(data) < 1 << 16
    with pytest.raises(ArtifactError, match="contains more than 16777215 bytes"):
        unpacked(data, max_bytes=(1 << 24) - 1)
    assert len(tree(unpacked(data, max_bytes=1 << 24))["bomb"]) == 1 << 24


@pytest.mark.parametrize("packed", [lambda content: tar_bytes(content, "w:gz"), zip_bytes], ids=["tar.gz", "zip"])
def test_an_archive_is_refused_before_it_fills_the_disk(
    unpacked: Callable[..., Path], packed: Callable[[dict[str, bytes]], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert len(tree(unpacked(packed({"fits": bytes(900_000)})))["fits"]) == 900_000
    with pytest.raises(ArtifactError, match="contains more than the 900000 bytes that the disk can spare"):
        unpacked(packed({"large": bytes(900_001)}))


def test_an_archive_may_not_grow_more_than_twentyfold(
    unpacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo_core.artifacts.archives._GIB", 1 << 20)
    with pytest.raises(ArtifactError, match="contains more than 1048576 bytes"):
        unpacked(zip_bytes({"bomb": bytes((1 << 20) + 1)}))


def test_a_zip_that_understates_a_size_is_refused(unpacked: Callable[..., Path]) -> None:
    data = zip_bytes({"bomb": bytes(1 << 20)})
    lying = data.replace((1 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != data
    with pytest.raises(ArtifactError, match="not a valid tar or zip archive"):
        unpacked(lying)


def test_an_extended_header_of_enormous_size_is_not_read_into_memory(unpacked: Callable[..., Path]) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    with pytest.raises(ArtifactError, match="an entry header of enormous size"):
        unpacked(gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 26)))


# --------------------------------------------------------------------------- damage and disks


@pytest.mark.parametrize(
    "data",
    [
        b"", b"no archive at all" * 100, tar_bytes(CONTENT)[:3000], tar_bytes(CONTENT)[:1024],
        tar_bytes(CONTENT)[:1024] + b"x" * 512, tar_bytes(CONTENT, "w:gz")[:-20], tar_bytes(CONTENT, "w:gz")[:-2],
        tar_bytes(CONTENT, "w:xz")[:-40], tar_bytes(CONTENT, "w:bz2")[:-20], zip_bytes(CONTENT)[:-10],
        b"\x1f\x8b" + b"x" * 100,
    ],
)  # fmt: skip
def test_a_truncated_or_foreign_file_is_refused_and_leaves_nothing(unpacked: Callable[..., Path], data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"archive\.bin is not a valid tar or zip archive"):
        unpacked(data)


def test_a_bomb_behind_the_end_of_an_archive_is_refused(unpacked: Callable[..., Path]) -> None:
    with pytest.raises(ArtifactError, match="contains more than 16777216 bytes after its end mark"):
        unpacked(gzip.compress(tar_bytes(CONTENT) + bytes(1 << 25)))


def test_an_encrypted_zip_is_refused(unpacked: Callable[..., Path]) -> None:
    data = bytearray(zip_bytes({"x": b"x" * 100}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ArtifactError, match="encrypted"):
        unpacked(bytes(data))


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nothing\.tar cannot be unpacked into .*No such file"):
        unpack(tmp_path / "nothing.tar", tmp_path / "into")


def test_a_full_disk_leaves_the_folder_as_it_was(
    unpacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(unpacked(tar_bytes({"old": b"old"})))

    def no_space(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(archives, "_write", no_space)
    with pytest.raises(ArtifactError, match="No space left on device"):
        unpacked(tar_bytes(CONTENT))
    monkeypatch.undo()
    assert tree(unpacked(tar_bytes({"old": b"old"}))) == before


SEEDS = st.sampled_from([tar_bytes(CONTENT)[:2048], tar_bytes(CONTENT, "w:gz"), zip_bytes(CONTENT)])


@given(SEEDS, st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_archive_raises_anything_but_an_artifact_error(
    unpacked: Callable[..., Path], data: bytes, edits: list[tuple[int, int]]
) -> None:
    damaged = bytearray(data)
    for position, value in edits:
        damaged[position % len(damaged)] = value
    try:
        unpacked(bytes(damaged), max_bytes=1 << 20)
    except ArtifactError as error:
        assert "archive.bin" in error.fact or "in the way" in error.fact  # noqa: PT017  # nothing else is raised
