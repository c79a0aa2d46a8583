"""Compares two sets of predictions byte for byte and measures how far apart they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from zoo_core.datatypes import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteChanges:
    """Differences of a stage's predictions between two runs of it, byte for byte.

    Attributes:
        num_images: Compared.
        rows, others = (_rows(before), _rows(after)) if by_row else ([b""], [b""])
        num_rows += max(len(rows), len(others))
        changed: Ids of the images whose predictions differ, in order.
        first: What differs in the first of them, in words; empty where nothing does.
    """

    num_images: int
    num_rows: int
    num_rows_changed: int
    changed: tuple[str, ...] = field(default=())
    first: str = ""

    @property
    def identical(self) -> bool:
        """No byte differs."""
        return not self.changed


def byte_changes(pairs: Iterable[tuple[str, Prediction, Prediction]], *, by_row: bool) -> ByteChanges:
    """Compare predictions of the same images.

    Args:
        pairs: Image id, prediction before, prediction after; consumed one by one.
        by_row: Count the rows along the first axis of the arrays; False counts one prediction per image.
    """
    num_images = num_rows = num_rows_changed = 0
    changed: list[str] = []
    first = ""
    for image_id, before, after in pairs:
        num_images += 1
        rows, others = (_rows(before), _rows(after)) if by_row else ([b""], [b""])
        num_rows += max(len(rows), len(others))
        if _bytes(before) == _bytes(after):
            continue
        first = first or _difference(before, after)
        changed.append(image_id)
        old, new = Counter(rows), Counter(others)
        num_rows_changed += max((old - new).total(), (new - old).total()) if by_row else 1
    return ByteChanges(
        num_images=num_images,
        num_rows=num_rows,
        num_rows_changed=num_rows_changed,
        changed=tuple(changed),
        first=first,
    )


def _bytes(prediction: Prediction) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    arrays = prediction.arrays()
    return [(name, array.dtype.str, array.shape, array.tobytes()) for name, array in sorted(arrays.items())]


def _rows(prediction: Prediction) -> list[bytes]:
    arrays = [array for _, array in sorted(prediction.arrays().items())]
    num = min((len(array) for array in arrays), default=0)
    return [b"|".join(np.ascontiguousarray(array[row]).tobytes() for array in arrays) for row in range(num)]


def _difference(before: Prediction, after: Prediction) -> str:
    parts = []
    for name, old in sorted(before.arrays().items()):
        new = after.arrays()[name]
        if old.shape != new.shape:
            parts.append(f"{len(new)} {name} instead of {len(old)}")
        elif old.tobytes() != new.tobytes():
            apart = np.abs(old.astype(np.float64) - new.astype(np.float64))
            parts.append(
                f"{int((apart > 0).sum())} of {apart.size} numbers in {name} differ, by up to {apart.max():.3g}"
            )
    return "; ".join(parts) or "other types of arrays"
