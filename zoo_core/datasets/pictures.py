"""Finds the same picture in two splits, and notices that an image changed after it was hashed.

Both use the bytes that the dataset itself reads, so no file is read twice. A dataset that reads its files without
``zoo_core.datasets.reading`` is served through ``content_hash`` and ``image``.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zoo_core.datasets.images import MAX_PIXELS, image_size, is_image
from zoo_core.datasets.reading import observed_reads
from zoo_core.errors import DataError, ZooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import EvalDataset, ImageSize, Prediction, Target

_SIDE, _FINE_SIDE, _DETAIL_SIDE = 16, 64, 96
MAX_RMS, MAX_FINE_RMS = 16.0, 4.0
"""Largest root mean square difference of one picture's copies, in grey levels: 16 x 16 to find, 64 x 64 to confirm."""

MIN_DETAIL_CORRELATION = 0.8
"""Least correlation of the detail at 96 x 96 grey levels: X-rays of two people differ in nothing else."""

_DETAIL_SIGMA = 2.0
"""Standard deviation of the Gaussian blur that is subtracted to leave the detail, in pixels."""

MIN_CONTRAST = 8.0
"""Least standard deviation of the 64 x 64 grey levels: nearly uniform pictures all look alike."""

_EXIF = re.compile(b"Exif|eXIf")  # of a JPEG, of a PNG
_MAX_STRETCH = 1.03
_BLOCK = 512
_MAX_CANDIDATES = 3  # where all images look alike, millions of pairs would have to be decoded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageEvidence:
    """What identifies an image.

    Attributes:
        content_hash: Of the dataset, image and annotation.
        files: SHA-256 of each JPEG or PNG file that was read for it; empty if the dataset reads files by itself.
        thumbnail: ``(16, 16)`` uint8 grey levels; None if not requested, or if the image cannot be decoded.
    """

    content_hash: str
    files: frozenset[str]
    thumbnail: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """An image that is in another split too.

    Attributes:
        reason: For a message, after the image's id.
        certain: Content, file or pixels are the same. False if the pictures only look the same: almost always a copy
            that was encoded again or scaled, but two shots of a fixed camera can be as close.
    """

    reason: str
    certain: bool


def take_evidence(dataset: EvalDataset, image_id: str, *, thumbnail: bool) -> ImageEvidence:
    """Hash an image and, if ``thumbnail``, reduce its pixels.

    Raises:
        DataError: A file is missing or cannot be read. An image that cannot be decoded is no error here.
    """
    files: set[str] = set()
    small: list[NDArray[np.uint8] | None] = []

    def look(data: bytes) -> None:
        if is_image(data):
            files.add(hashlib.sha256(data).hexdigest())
            if thumbnail:
                small.append(_thumbnail(data))

    with observed_reads(look):
        content_hash = dataset.content_hash(image_id)
        if thumbnail and not any(found is not None for found in small):
            with contextlib.suppress(ZooError):  # the run itself says what is wrong, when it needs the pixels
                small.append(_reduced(_grey(dataset.image(image_id)), _SIDE))
    own = next((found for found in reversed(small) if found is not None), None)
    return ImageEvidence(content_hash=content_hash, files=frozenset(files), thumbnail=own)


def same_pictures(
    dataset: EvalDataset,
    evidence: Mapping[str, ImageEvidence],
    others: EvalDataset,
    other_evidence: Mapping[str, ImageEvidence],
) -> dict[str, Twin]:
    """Return the images of ``dataset`` whose picture is in ``others`` too.

    An image is found if its content hash, the bytes of its file or its pixels are the same, and if it was only renamed,
    encoded again or scaled: then the two thumbnails agree, and so do both images at 64 x 64 grey levels and their
    detail. A picture that is cropped, mirrored or rotated is not found, nor a changed one that is nearly uniform.
    """
    by_hash = {own.content_hash: image_id for image_id, own in other_evidence.items()}
    by_file = {file: image_id for image_id, own in other_evidence.items() for file in own.files}
    found: dict[str, Twin] = {}
    for image_id, own in evidence.items():
        if own.content_hash in by_hash:
            found[image_id] = Twin(reason=f"has the content of {by_hash[own.content_hash]!r}", certain=True)
        elif twin := next((by_file[file] for file in sorted(own.files) if file in by_file), None):
            found[image_id] = Twin(reason=f"has the image file of {twin!r}", certain=True)
    for image_id, other_id in _alike(evidence, other_evidence):
        known = found.get(image_id)
        if known is None or not known.certain:
            twin_here = _compare(dataset, image_id, others, other_id)
            if twin_here is not None and (known is None or twin_here.certain):
                found[image_id] = twin_here
    return found


def _alike(
    evidence: Mapping[str, ImageEvidence], other_evidence: Mapping[str, ImageEvidence]
) -> Iterator[tuple[str, str]]:
    """Yield pairs of ids whose thumbnails agree; for each image at most the nearest ``_MAX_CANDIDATES``."""
    ids, rows = _table(evidence)
    other_ids, other_rows = _table(other_evidence)
    other_squares = (other_rows**2).sum(1)
    for start in range(0, len(ids), _BLOCK):
        block = rows[start : start + _BLOCK]
        squares = (block**2).sum(1)[:, None] + other_squares - 2 * block @ other_rows.T
        nearest = np.argsort(squares, axis=1, kind="stable")[:, :_MAX_CANDIDATES]
        for row, columns in enumerate(nearest.tolist()):
            for column in columns:
                if squares[row, column] <= MAX_RMS**2 * _SIDE**2:
                    yield ids[start + row], other_ids[column]


def _table(evidence: Mapping[str, ImageEvidence]) -> tuple[list[str], NDArray[np.float32]]:
    there = {image_id: own.thumbnail for image_id, own in evidence.items() if own.thumbnail is not None}
    rows = np.array([small.reshape(-1) for small in there.values()], np.float32).reshape(-1, _SIDE**2)
    return list(there), rows


def _compare(dataset: EvalDataset, image_id: str, others: EvalDataset, other_id: str) -> Twin | None:
    try:
        one, other = dataset.image(image_id), others.image(other_id)
    except ZooError:  # the run itself says what is wrong, when it needs the pixels
        return None
    stretch = one.shape[0] * other.shape[1] / (one.shape[1] * other.shape[0])
    if not 1 / _MAX_STRETCH <= stretch <= _MAX_STRETCH:
        return None
    a, b = _grey(one), _grey(other)
    fine_a, fine_b = (_reduced(grey, _FINE_SIDE).astype(np.float32) for grey in (a, b))
    if min(fine_a.std(), fine_b.std()) < MIN_CONTRAST:
        return None
    if np.array_equal(one, other):
        return Twin(reason=f"has the pixels of {other_id!r}", certain=True)
    if np.sqrt(((fine_a - fine_b) ** 2).mean()) > MAX_FINE_RMS or _detail_correlation(a, b) < MIN_DETAIL_CORRELATION:
        return None
    return Twin(reason=f"shows the picture of {other_id!r}", certain=False)


def _detail_correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Correlate what is left of two grey images without their blurred copies; 1 for equal ones."""
    a, b = (
        small - cv2.GaussianBlur(small, (0, 0), _DETAIL_SIGMA)
        for small in (_reduced(grey, _DETAIL_SIDE).astype(np.float32) for grey in (one, other))
    )
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 1.0


def _thumbnail(data: bytes) -> NDArray[np.uint8] | None:
    """Return the reduced grey image; None if it cannot be decoded, or if only the dataset knows which side is up."""
    try:
        size = image_size(data, source=Path("image"))
    except DataError:
        return None
    if size.width_px * size.height_px > MAX_PIXELS:
        return None
    flags = _jpeg_flag(size) if data.startswith(b"\xff\xd8") else cv2.IMREAD_GRAYSCALE
    grey = _decoded(data, flags)
    if grey is None:
        return None
    if _EXIF.search(data):
        stored = _decoded(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored is None or not np.array_equal(stored, grey):
            return None
    return _reduced(grey, _SIDE)


def _jpeg_flag(size: ImageSize) -> int:
    """Choose how far libjpeg reduces a JPEG while it decodes: from the mean of each block, several times as fast.

    OpenCV reduces a PNG after decoding it whole and skips most of its pixels, which fine outlines do not survive.
    """
    flags = (
        (cv2.IMREAD_REDUCED_GRAYSCALE_8, 8),
        (cv2.IMREAD_REDUCED_GRAYSCALE_4, 4),
        (cv2.IMREAD_REDUCED_GRAYSCALE_2, 2),
    )
    return next((flag for flag, factor in flags if min(size) >= 2 * _SIDE * factor), cv2.IMREAD_GRAYSCALE)


def _decoded(data: bytes, flags: int) -> NDArray[np.uint8] | None:
    try:
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if grey is None else np.asarray(grey, np.uint8)


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), np.uint8)


def _reduced(grey: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


class CheckedDataset:
    """Wraps an ``EvalDataset``; an image that changed since its evidence was taken is an error.

    The bytes that are decoded are hashed. A dataset that reads files by itself is asked for its ``content_hash`` after
    each image instead, which misses a file that is exchanged and restored between the two.

    Args:
        dataset: The split.
        evidence: By image id; other images are not checked.
    """

    def __init__(self, dataset: EvalDataset, evidence: Mapping[str, ImageEvidence]) -> None:
        self._dataset = dataset
        self._evidence = evidence
        self._hashing = threading.Lock()  # only image() is required to be thread-safe
        self.name = dataset.name
        self.split = dataset.split
        self.root = dataset.root
        self.class_names = dataset.class_names
        self.ids = dataset.ids
        self.submission_format = dataset.submission_format

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """See ``EvalDataset``. Raises DataError if the image is not the one that was checked."""
        expected = self._evidence.get(image_id)
        if expected is None:
            return self._dataset.image(image_id)
        files: set[str] = set()

        def look(data: bytes) -> None:
            if is_image(data):
                files.add(hashlib.sha256(data).hexdigest())

        with observed_reads(look):
            pixels = self._dataset.image(image_id)
        if files and expected.files:
            same = files <= expected.files
        else:
            with self._hashing:
                same = self._dataset.content_hash(image_id) == expected.content_hash
        if not same:
            raise DataError(
                f"Image {image_id!r} of {self.name} {self.split} changed during the run: its content is not what was "
                "hashed when the run started.",
                fix="restore the image and resume the run, or start a new run with images that nothing writes to.",
            )
        return pixels

    def target(self, image_id: str) -> Target:
        """See ``EvalDataset``."""
        return self._dataset.target(image_id)

    def content_hash(self, image_id: str) -> str:
        """See ``EvalDataset``."""
        with self._hashing:
            return self._dataset.content_hash(image_id)

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        """See ``EvalDataset``."""
        self._dataset.write_submission(directory, predictions)
