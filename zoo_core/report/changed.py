"""Counts changes per class: detections kept, lost, gained and moved, and how many of them were right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.comparison.detections import ImageChanges, count_by_class, image_changes, objects_found
from zoo_core.datatypes import Detections, DetectionTarget
from zoo_core.report.loading import predictions_of, targets_of
from zoo_core.report.sections import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.report.loading import LoadedRun


MAX_CLASS_ROWS = 60
"""Rows of a table of changes; ImageNet's thousand classes would be many screens of small changes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changed:
    """The changes between the compared stages.

    Attributes:
        images: By image id, in the order of the run; only images that both stages have.
        counts: ``(C,)`` int64 for each of kept, moved, lost and gained.
        right_lost: ``(C,)`` int64, lost detections that lay on an object of their class; None without ground truth.
        right_gained: ``(C,)``, likewise for gained ones.
    """

    images: Mapping[str, ImageChanges]
    counts: Mapping[str, NDArray[np.int64]]
    right_lost: NDArray[np.int64] | None
    right_gained: NDArray[np.int64] | None


def find_changes(run: LoadedRun) -> Changed | None:
    """Compare the two stages; None where the predictions of either are not there."""
    if run.pair is None or not all(stage in run.predictions for stage in run.pair):
        return None
    seen, targets = predictions_of(run, Detections), targets_of(run, DetectionTarget)
    before, after = (seen[stage] for stage in run.pair)
    num_classes = len(run.class_names)
    images: dict[str, ImageChanges] = {}
    counts = {kind: np.zeros(num_classes, np.int64) for kind in ("kept", "moved", "lost", "gained")}
    right = np.zeros((2, num_classes), dtype=np.int64)
    for image_id in (image_id for image_id in before if image_id in after):
        old, new = before[image_id], after[image_id]
        found = images[image_id] = image_changes(old, new)
        for kind, num in count_by_class(found, old, new, num_classes).items():
            counts[kind] += num
        for side, preds, rows in ((0, old, found.lost), (1, new, found.gained)):
            target = targets.get(image_id)
            if target is None or not len(rows):
                continue
            labels = preds.labels[rows][objects_found(preds, rows, target)]
            right[side] += np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)
    right_lost, right_gained = right if run.dataset is not None else (None, None)
    return Changed(images=images, counts=counts, right_lost=right_lost, right_gained=right_gained)


def change_table(run: LoadedRun, changed: Changed) -> Table:
    """Return the detections of each class by what became of them."""
    kept, moved, lost, gained = changed.counts.values()
    columns = {"kept": kept, "moved": moved, "lost": lost}
    if changed.right_lost is not None:
        columns["lost, were right"] = changed.right_lost
    columns["gained"] = gained
    if changed.right_gained is not None:
        columns["gained, are right"] = changed.right_gained
    caption = "Detections, most changed class first."
    return count_table("class", columns, lost + gained + moved, run.class_names, caption)


def count_table(
    first: str, columns: Mapping[str, NDArray[np.int64]], changed: NDArray[np.int64], names: Sequence[str], caption: str
) -> Table:
    """Return a row for each class that changed, most changes first, then the sums of the others and of all.

    Args:
        first: Heading of the column of names.
        columns: ``(C,)`` counts by heading.
        changed: ``(C,)``, number of changes, which orders the rows.
        names: Of the C classes.
        caption: Of the table.
    """
    counts = np.stack(list(columns.values()), axis=1)
    order = sorted(np.flatnonzero(changed).tolist(), key=lambda label: (-int(changed[label]), names[label]))
    rest, same = order[MAX_CLASS_ROWS:], changed == 0
    rows = [(names[label], counts[label]) for label in order[:MAX_CLASS_ROWS]]
    if rest:
        rows.append((f"{len(rest)} more classes with changes", counts[rest].sum(axis=0)))
    if same.any():
        rows.append((f"{int(same.sum())} unchanged classes", counts[same].sum(axis=0)))
    rows.append(("all classes", counts.sum(axis=0)))
    texts = tuple((name, *map(str, row.tolist())) for name, row in rows)
    return Table(columns=(first, *columns), rows=texts, caption=caption)
