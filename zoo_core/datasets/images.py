"""Reads image files as OpenCV does, but refuses files that OpenCV would silently repair or run out of memory on.

OpenCV decodes a truncated JPEG to a full-size image and only prints a warning, so this module checks the end of the
file; and it allocates any size a header claims, so this module reads the header first. Neither check decodes
anything. Damage inside otherwise complete JPEG data is not detectable: the format has no checksum.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from zoo_core.datasets.reading import read_file
from zoo_core.datatypes import ImageSize
from zoo_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_PIXELS = 50_000_000
"""Largest image that is decoded by default; it takes 150 MB as RGB."""

MAX_FILE_BYTES = 1 << 29
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers, ITU-T T.81 table B.1: C0 to CF without DHT (C4), JPG (C8) and DAC (CC).
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM and RST0 to RST7.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS, orient: bool = True) -> NDArray[np.uint8]:
    """Return the image in a JPEG or PNG file as ``(H, W, 3)`` uint8 RGB.

    Decoded by ``cv2.imdecode`` with ``IMREAD_COLOR``, as pytorch-ssd's ``cv2.imread`` does: an EXIF orientation is
    applied, grey images become three equal channels, transparency is dropped. Safe to call from several threads.

    Args:
        path: The file; the format is detected from the content.
        max_pixels: Refuse an image whose header claims more, before anything is decoded.
        orient: Apply an EXIF orientation; False leaves the pixels as stored, like PIL and torchvision.

    Raises:
        DataError: The file is missing, truncated, damaged, larger than ``max_pixels``, or neither JPEG nor PNG.
    """
    data = read_file(path, max_bytes=MAX_FILE_BYTES)
    return decode_image(data, source=path, max_pixels=max_pixels, orient=orient)


def decode_image(data: bytes, *, source: Path, max_pixels: int = MAX_PIXELS, orient: bool = True) -> NDArray[np.uint8]:
    """Return the image in ``data``; like ``read_image``, ``source`` is only used in errors."""
    size = image_size(data, source=source)
    if size.width_px * size.height_px > max_pixels:
        raise DataError(
            f"{source} claims {size.width_px} x {size.height_px} pixels; the limit is {max_pixels}.",
            fix="replace or shrink the image.",
        )
    flags = cv2.IMREAD_COLOR if orient else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise _damaged(source, f"OpenCV: {error.err}") from error
    if image is None:
        raise _damaged(source, "OpenCV cannot decode it")
    return cast("NDArray[np.uint8]", cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def is_image(data: bytes) -> bool:
    """Return True if the data start like a JPEG or PNG file."""
    return data.startswith((b"\xff\xd8", _PNG_SIGNATURE))


def image_size(data: bytes, *, source: Path) -> ImageSize:
    """Return the stored size from the header, before any EXIF rotation, after checking that the file is complete.

    Raises:
        DataError: The data are not a complete JPEG or PNG file.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data, source)
    if data.startswith(_PNG_SIGNATURE):
        return _png_size(data, source)
    if not data:
        raise _damaged(source, "it is empty")
    raise _damaged(source, f"it is neither JPEG nor PNG (it starts with {data[:4]!r})")


def _jpeg_size(data: bytes, source: Path) -> ImageSize:
    """Walk the segments up to the image data; that skips the markers of a thumbnail inside a segment."""
    size = None
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise _damaged(source, f"no JPEG marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _BARE_MARKERS:
            position += 2
            continue
        length = struct.unpack_from(">H", data, position + 2)[0]
        if marker in _SOF_MARKERS and position + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = ImageSize(width, height)
        if marker == 0xDA:
            break
        position += 2 + length
    if size is None or 0 in size:
        raise _damaged(source, "its JPEG header is incomplete")
    # Inside image data FF is always followed by 00 or a restart marker, so FF D9 can only be the end marker.
    if data.find(b"\xff\xd9", position) < 0:
        raise _damaged(source, "the JPEG end marker (FF D9) is missing: the file is truncated")
    return size


def _png_size(data: bytes, source: Path) -> ImageSize:
    """Walk all chunks and check their CRC; OpenCV silently fills the missing part of a PNG, as it does for a JPEG."""
    size = None
    position = len(_PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise _damaged(source, f"the checksum of its PNG chunk {kind!r} is wrong")
        if size is None:
            if kind != b"IHDR" or length < 8:
                break
            size = ImageSize(*struct.unpack_from(">II", data, position + 8))
        if kind == b"IEND":
            return size
        position = end + 4
    raise _damaged(source, "its PNG chunks do not end with IEND: the file is truncated")


def _damaged(source: Path, reason: str) -> DataError:
    return DataError(f"{source} is not a complete image: {reason}.", fix="restore the file from its archive.")
