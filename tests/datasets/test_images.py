"""Images: what OpenCV repairs in silence, what it would blow up on, and what must come out unchanged."""

from __future__ import annotations

import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_core.datasets.images import decode_image, image_size, read_image
from zoo_core.errors import DataError

SOURCE = Path("somewhere/x.jpg")


def encoded(suffix: str, *parameters: int) -> bytes:
    """A 60 x 40 image, left half red, with noise so that truncation cannot hide in a flat area."""
    image = np.random.default_rng(0).integers(0, 60, (40, 60, 3), np.uint8)
    image[:, :30, 2] += 190
    ok, data = cv2.imencode(suffix, image, list(parameters))
    assert ok
    return data.tobytes()


JPEG = encoded(".jpg")
PROGRESSIVE = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
PNG = encoded(".png")


def app1(payload: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload


def with_segment(jpeg: bytes, segment: bytes) -> bytes:
    return jpeg[:2] + segment + jpeg[2:]


def exif_orientation(value: int) -> bytes:
    tag = struct.pack("<HHII", 0x112, 3, 1, value)
    return app1(b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + tag + struct.pack("<I", 0))


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, PNG], ids=["jpeg", "progressive", "png"])
def test_a_sound_image_is_what_opencv_reads_in_rgb(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    image = read_image(path)
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8
    expected = cv2.imread(str(path))
    assert expected is not None
    np.testing.assert_array_equal(image, expected[:, :, ::-1])
    assert image[20, 10, 0] > 150 > image[20, 10, 2]  # red is the first channel


def test_grey_and_transparent_images_become_three_channels() -> None:
    ok, grey = cv2.imencode(".jpg", np.full((8, 9), 77, np.uint8))
    assert ok
    image = decode_image(grey.tobytes(), source=SOURCE)
    assert image.shape == (8, 9, 3)
    assert (image == image[:, :, :1]).all()
    ok, transparent = cv2.imencode(".png", np.full((8, 9, 4), 77, np.uint8))
    assert ok
    assert decode_image(transparent.tobytes(), source=SOURCE).shape == (8, 9, 3)


def test_an_exif_orientation_is_applied_as_by_imread() -> None:
    turned = with_segment(JPEG, exif_orientation(6))
    image = decode_image(turned, source=SOURCE)
    assert image.shape == (60, 40, 3)
    np.testing.assert_array_equal(image, np.rot90(decode_image(JPEG, source=SOURCE), k=-1))
    stored = decode_image(turned, source=SOURCE, orient=False)  # as PIL and torchvision read it
    np.testing.assert_array_equal(stored, decode_image(JPEG, source=SOURCE))
    assert image_size(turned, source=SOURCE) == (60, 40)


@pytest.mark.parametrize("cut", [1, 2, 100, 900, len(JPEG) - 3, len(JPEG) - 30])
def test_a_truncated_jpeg_is_refused(cut: int) -> None:
    with pytest.raises(DataError, match=r"somewhere/x\.jpg is not a complete image: .*(truncated|incomplete)"):
        decode_image(JPEG[:-cut], source=SOURCE)


def test_the_end_marker_of_a_thumbnail_does_not_hide_a_truncation() -> None:
    with_thumbnail = with_segment(JPEG, app1(b"Exif\0\0" + JPEG))
    assert decode_image(with_thumbnail, source=SOURCE).shape == (40, 60, 3)
    with pytest.raises(DataError, match="end marker"):
        decode_image(with_thumbnail[:-200], source=SOURCE)


def test_padding_after_the_end_marker_is_legal() -> None:
    np.testing.assert_array_equal(decode_image(JPEG + b"\0" * 1000, source=SOURCE), decode_image(JPEG, source=SOURCE))


@pytest.mark.parametrize("cut", [1, 4, 12, 13, 500, len(PNG) - 10])
def test_a_truncated_png_is_refused(cut: int) -> None:
    with pytest.raises(DataError, match=r"do not end with IEND: the file is truncated"):
        decode_image(PNG[:-cut], source=SOURCE)


def test_a_png_with_one_flipped_bit_is_refused() -> None:
    damaged = bytearray(PNG)
    damaged[len(PNG) // 2] ^= 1
    with pytest.raises(DataError, match="checksum of its PNG chunk b'IDAT' is wrong"):
        decode_image(bytes(damaged), source=SOURCE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "it is empty"), (b"GIF89a" + b"\0" * 50, "neither JPEG nor PNG"), (b"\xff\xd8abcdef", "no JPEG marker")],
)
def test_other_content_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode_image(data, source=SOURCE)


def test_a_jpeg_bomb_is_refused_by_its_header() -> None:
    position = JPEG.index(b"\xff\xc0") + 5
    bomb = JPEG[:position] + struct.pack(">HH", 65000, 65000) + JPEG[position + 4 :]
    with pytest.raises(DataError, match="claims 65000 x 65000 pixels; the limit is 50000000"):
        decode_image(bomb, source=SOURCE)


def test_a_png_bomb_is_refused_by_its_header() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"\0" * 1000), b"IEND"]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    with pytest.raises(DataError, match="claims 100000 x 100000 pixels"):
        decode_image(bomb, source=SOURCE)


def test_an_image_of_exactly_the_limit_is_decoded() -> None:
    assert decode_image(JPEG, source=SOURCE, max_pixels=2400).shape == (40, 60, 3)
    with pytest.raises(DataError, match="claims 60 x 40 pixels; the limit is 2399"):
        decode_image(JPEG, source=SOURCE, max_pixels=2399)


def test_a_directory_or_a_device_in_place_of_an_image_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(DataError, match=f"{path} cannot be read: it is .*not a regular file"):
            read_image(path)


def test_eight_threads_read_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(JPEG)
    expected = read_image(path)
    barrier = threading.Barrier(8)

    def read(_: int) -> bool:
        barrier.wait(timeout=30)
        return bool((read_image(path) == expected).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


@given(
    st.sampled_from([JPEG[:700], PROGRESSIVE[:700], PNG[:200]]),
    st.lists(st.tuples(st.integers(0, 699), st.integers(0, 255)), max_size=8),
    st.binary(max_size=40),
)
@settings(max_examples=300, deadline=None)
def test_no_header_raises_anything_but_a_data_error(data: bytes, edits: list[tuple[int, int]], tail: bytes) -> None:
    damaged = bytearray(data)
    for position, value in edits:
        damaged[position % len(damaged)] = value
    try:
        size = image_size(bytes(damaged) + tail, source=SOURCE)
    except DataError as error:
        assert "x.jpg" in error.fact  # noqa: PT017  # what is tested is that nothing else is raised
    else:
        assert min(size) > 0
