"""What changed per class: detections kept, lost, gained and moved, and how many of them were right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.comparison import StageChanges, objects_found, stage_changes
from zoo_core.datatypes import Detections, DetectionTarget
from zoo_core.report.loading import predictions_of, targets_of
from zoo_core.report.sections import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.report.loading import LoadedRun


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changed:
    """The changes between the compared stages.

    Attributes:
        changes: Image by image.
        right_lost: ``(C,)`` int64, lost detections that lay on an object of their class; None without ground truth.
        right_gained: ``(C,)``, likewise for gained ones.
    """

    changes: StageChanges
    right_lost: NDArray[np.int64] | None
    right_gained: NDArray[np.int64] | None


def find_changes(run: LoadedRun) -> Changed | None:
    """Compare the two stages; None where the predictions of either are not there."""
    if run.pair is None or not all(stage in run.predictions for stage in run.pair):
        return None
    seen, targets = predictions_of(run, Detections), targets_of(run, DetectionTarget)
    before, after = (seen[stage] for stage in run.pair)
    num_classes = len(run.class_names)
    changes = stage_changes(before, after, num_classes)
    if run.dataset is None:
        return Changed(changes=changes, right_lost=None, right_gained=None)
    right = np.zeros((2, num_classes), dtype=np.int64)
    for image_id, found in changes.images.items():
        for side, preds, rows in ((0, before[image_id], found.lost), (1, after[image_id], found.gained)):
            target = targets.get(image_id)
            if target is None or not len(rows):
                continue
            labels = preds.labels[rows][objects_found(preds, rows, target)]
            right[side] += np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)
    return Changed(changes=changes, right_lost=right[0], right_gained=right[1])


def change_table(run: LoadedRun, changed: Changed) -> Table:
    """One row per class that changed, most changes first, then the sums of the others and of all."""
    changes = changed.changes
    columns = [changes.num_kept, changes.num_moved, changes.num_lost, changes.num_gained]
    heads = ["kept", "moved", "lost", "gained"]
    if changed.right_lost is not None and changed.right_gained is not None:
        columns[3:3], heads[3:3] = [changed.right_lost], ["lost, were right"]
        columns.append(changed.right_gained)
        heads.append("gained, are right")
    counts = np.stack(columns, axis=1)
    total = changes.num_lost + changes.num_gained + changes.num_moved
    names = run.class_names
    order = sorted(range(len(names)), key=lambda label: (-int(total[label]), names[label]))
    rows = [(names[label], *_texts(counts[label])) for label in order if total[label]]
    same = total == 0
    if same.any():
        rows.append((f"{int(same.sum())} unchanged classes", *_texts(counts[same].sum(axis=0))))
    rows.append(("all classes", *_texts(counts.sum(axis=0))))
    return Table(columns=("class", *heads), rows=tuple(rows), caption="Detections, most changed class first.")


def _texts(counts: NDArray[np.int64]) -> list[str]:
    return [str(count) for count in counts.tolist()]
