"""One split of a dataset, and the request for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zoo_core.datatypes.predictions import Prediction, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRequest:
    """Requested split and location of a dataset.

    Attributes:
        root: Folder given as ``--data``, or the unpacked archives. None if there is neither: the plugin then uses its
            own location, or raises an error that describes the required data.
        split: For example ``test`` or ``trainval``.
        label_file: One class name a line; None for the dataset's own classes.
    """

    root: Path | None
    split: str
    label_file: Path | None = None


class EvalDataset(Protocol):
    """One split of a dataset.

    ``image`` is called from several threads at once and must be thread-safe. ``numpy.load`` is not: it parses the
    header with ``ast``, which occasionally fails in threads on Python 3.11 (python/cpython issue 106905).

    Attributes:
        name: Display name, e.g. ``VOC2007``.
        split: As requested.
        root: Folder of the data.
        class_names: Index is the label; background is not a class.
        ids: Every image id of the split, in the split's own order.
        submission_format: Folder name for ``write_submission``, e.g. ``comp4``.
    """

    name: str
    split: str
    root: Path
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    submission_format: str

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Return ``(H, W, 3)`` uint8 RGB. Raises DataError naming the file when it is missing or damaged."""
        ...

    def target(self, image_id: str) -> Target:
        """Return the image's ground truth. Raises DataError naming file and element."""
        ...

    def content_hash(self, image_id: str) -> str:
        """Return the SHA-256 of the image's and its annotation's bytes. Raises DataError."""
        ...

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        """Write predictions in the dataset's published exchange format into an existing empty directory."""
        ...
