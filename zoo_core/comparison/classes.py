"""Changes between two stages of a classifier: images whose most probable class differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import Classification, ClassTarget

Flip: TypeAlias = Literal["kept", "lost", "gained", "moved", "flipped"]
"""Change of an image's most probable class: the same; right before and wrong after; wrong before and right after;
another one and wrong both times; another one where the truth is not known."""

NO_CLASS = -1
"""Label of an image whose prediction is empty."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassChanges:
    """The most probable class of every image that two stages share, row by row.

    Attributes:
        image_ids: In the order of the run.
        truth: ``(I,)`` int64, the true label; NO_CLASS where it is not known.
        before: ``(I,)`` int64, of the baseline stage.
        after: ``(I,)`` int64, of the other stage.
        score_before: ``(I,)`` float64, the score of ``before``; 0.0 where there is no class.
        score_after: ``(I,)`` float64, likewise.
    """

    image_ids: tuple[str, ...]
    truth: NDArray[np.int64]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    score_before: NDArray[np.float64]
    score_after: NDArray[np.float64]

    @property
    def flipped(self) -> NDArray[np.bool_]:
        """``(I,)``, whether the class is another one."""
        rows: NDArray[np.bool_] = self.before != self.after
        return rows

    @property
    def lost(self) -> NDArray[np.bool_]:
        """``(I,)``, right before and wrong after."""
        rows: NDArray[np.bool_] = self.flipped & (self.before == self.truth) & (self.truth != NO_CLASS)
        return rows

    @property
    def gained(self) -> NDArray[np.bool_]:
        """``(I,)``, wrong before and right after."""
        rows: NDArray[np.bool_] = self.flipped & (self.after == self.truth) & (self.truth != NO_CLASS)
        return rows

    @property
    def moved(self) -> NDArray[np.bool_]:
        """``(I,)``, another class and wrong both times; the truth is known."""
        rows: NDArray[np.bool_] = self.flipped & ~self.lost & ~self.gained & (self.truth != NO_CLASS)
        return rows

    @property
    def right(self) -> NDArray[np.bool_]:
        """``(I,)``, right in both stages."""
        rows: NDArray[np.bool_] = ~self.flipped & (self.before == self.truth) & (self.truth != NO_CLASS)
        return rows

    def kind(self, row: int) -> Flip:
        """Change of one image."""
        for name, rows in (("lost", self.lost), ("gained", self.gained), ("moved", self.moved)):
            if rows[row]:
                return name  # type: ignore[return-value]  # one of the literals above
        return "flipped" if self.flipped[row] else "kept"


def class_changes(
    before: Mapping[str, Classification], after: Mapping[str, Classification], targets: Mapping[str, ClassTarget]
) -> ClassChanges:
    """Hold the most probable classes of two stages against each other; of equal scores the lower index counts.

    Args:
        before: By image id, of the baseline stage.
        after: By image id, of the other stage.
        targets: By image id, as far as they are known.
    """
    image_ids = tuple(image_id for image_id in before if image_id in after)
    sides = [[_best(found[image_id]) for image_id in image_ids] for found in (before, after)]
    truth = [targets[image_id].label if image_id in targets else NO_CLASS for image_id in image_ids]
    (labels_before, scores_before), (labels_after, scores_after) = (
        (np.array([label for label, _ in side], np.int64), np.array([score for _, score in side], np.float64))
        for side in sides
    )
    return ClassChanges(
        image_ids=image_ids,
        truth=np.array(truth, np.int64),
        before=labels_before,
        after=labels_after,
        score_before=scores_before,
        score_after=scores_after,
    )


def _best(found: Classification) -> tuple[int, float]:
    if not len(found.labels):
        return NO_CLASS, 0.0
    return int(found.labels[found.scores == found.scores[0]].min()), float(found.scores[0])


def surest_flips(changes: ClassChanges, num: int) -> Sequence[int]:
    """Rows of ``num`` images whose class is another one, the surest first: by the sum of the two best scores.

    Images that were right in one of the stages come before those that were wrong in both; equal ones by id.
    """
    rows = np.flatnonzero(changes.flipped).tolist()
    sure = changes.score_before + changes.score_after
    mattered = changes.lost | changes.gained
    return sorted(rows, key=lambda row: (not mattered[row], -sure[row], changes.image_ids[row]))[:num]
