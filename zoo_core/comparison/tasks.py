"""What a paired comparison has to know of a task, by the kind of prediction: values in every resample, and changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from zoo_core.comparison import most_changed, stage_changes
from zoo_core.comparison.classes import class_changes, surest_flips
from zoo_core.datatypes import Classification, ClassTarget, Detections, DetectionTarget, Prediction, Target
from zoo_core.errors import RegistryError, RunError
from zoo_core.metrics.bootstrap import mean_over_classes
from zoo_core.metrics.classification import CLASSIFICATION_PROTOCOLS, ClassificationMetric
from zoo_core.metrics.gathering import ImageGatherer
from zoo_core.metrics.outcomes import protocol_outcomes

if TYPE_CHECKING:
    from numpy.typing import NDArray

P = TypeVar("P", bound=Prediction)
T = TypeVar("T", bound=Target)

# Products of images and resamples that are held at once: a few tens of MB.
_PRODUCTS_PER_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCounts:
    """What became of the detections of a class, matched one to one, or of the images of a class.

    Attributes:
        kept: Detections that stayed; images that are right in both stages.
        moved: Detections whose box moved; images that are wrong in both, with another class.
        lost: Detections without a partner after; images that were right and are wrong.
        gained: Detections without a partner before; images that were wrong and are right.
    """

    kept: int
    moved: int
    lost: int
    gained: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageValues:
    """A stage's values for each of R weightings of the images.

    Attributes:
        classes: ``(C, R)``, not-a-number where undefined.
        overall: ``(R,)``, likewise.
    """

    classes: NDArray[np.float64]
    overall: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changes:
    """Changes between two stages.

    Attributes:
        classes: One entry a class, in the order of the classes.
        most_changed: Ids of the images that changed most, most first.
    """

    classes: Sequence[ChangeCounts]
    most_changed: Sequence[str]


class PairedTask(Protocol):
    """One task's part of a comparison; made for fixed images and weightings."""

    def values(self, found: Mapping[str, Prediction]) -> StageValues:
        """The values of one stage."""
        ...

    def changes(self, before: Mapping[str, Prediction], after: Mapping[str, Prediction], num: int) -> Changes:
        """What changed from one stage to another, and the ``num`` images that changed most."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedImages:
    """What a task's part is made from.

    Attributes:
        class_names: Index is the label.
        image_ids: The images that are compared.
        targets: Theirs.
        weights: ``(I, R)``, how often each image counts.
        protocol: Protocol id.
        score_threshold: Detections from this score on are seen, when changes are counted.
    """

    class_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    targets: Sequence[Target]
    weights: NDArray[np.int32]
    protocol: str
    score_threshold: float


def paired_task(kind: type[Prediction], images: PairedImages) -> PairedTask:
    """The part for a kind of prediction.

    Raises:
        RunError: There is none for it, or the targets are of another kind.
        RegistryError: The task has no such protocol.
    """
    if issubclass(kind, Detections):
        return _DetectionTask(images)
    if issubclass(kind, Classification):
        return _ClassificationTask(images)
    raise RunError(
        f"The runs hold {kind.__name__}; only detections and classifications are compared.",
        fix="compare runs of a detector or a classifier.",
    )


def _targets(images: PairedImages, kind: type[T]) -> list[T]:
    found = [target for target in images.targets if isinstance(target, kind)]
    if len(found) != len(images.targets):
        raise RunError(
            f"{len(images.targets) - len(found)} of {len(images.targets)} targets are no {kind.__name__}.",
            fix="name the data of the run with --data.",
        )
    return found


def _of(found: Mapping[str, Prediction], kind: type[P]) -> dict[str, P]:
    return {image_id: pred for image_id, pred in found.items() if isinstance(pred, kind)}


class _DetectionTask:
    """The mean over classes of AP."""

    def __init__(self, images: PairedImages) -> None:
        self._images = images
        self._targets = _targets(images, DetectionTarget)

    def values(self, found: Mapping[str, Prediction]) -> StageValues:
        images = self._images
        gatherer = ImageGatherer(images.class_names)
        gatherer.add(images.image_ids, [found[image_id] for image_id in images.image_ids], self._targets)
        outcomes = protocol_outcomes(gatherer.gathered(), len(images.class_names), images.protocol)
        classes = outcomes.average_precisions(images.weights)
        return StageValues(classes=classes, overall=mean_over_classes(classes))

    def changes(self, before: Mapping[str, Prediction], after: Mapping[str, Prediction], num: int) -> Changes:
        images = self._images
        found = stage_changes(
            _of(before, Detections),
            _of(after, Detections),
            len(images.class_names),
            score_threshold=images.score_threshold,
        )
        counts = zip(found.num_kept, found.num_moved, found.num_lost, found.num_gained, strict=True)
        classes = [ChangeCounts(kept=int(k), moved=int(m), lost=int(low), gained=int(g)) for k, m, low, g in counts]
        return Changes(classes=classes, most_changed=most_changed(found, num))


class _ClassificationTask:
    """Top-1: the share of images that are right."""

    def __init__(self, images: PairedImages) -> None:
        if images.protocol not in CLASSIFICATION_PROTOCOLS:
            raise RegistryError(
                f"There is no classification protocol {images.protocol!r}.",
                fix=f"name one of: {', '.join(CLASSIFICATION_PROTOCOLS)}.",
            )
        self._images = images
        self._targets = dict(zip(images.image_ids, _targets(images, ClassTarget), strict=True))

    def values(self, found: Mapping[str, Prediction]) -> StageValues:
        images = self._images
        metric = ClassificationMetric(images.class_names)
        ids = images.image_ids
        metric.update(ids, [found[image_id] for image_id in ids], [self._targets[image_id] for image_id in ids])
        gathered = metric.gathered()
        rows = {image_id: row for row, image_id in enumerate(gathered.image_ids)}
        order = np.array([rows[image_id] for image_id in ids])
        right, truth = gathered.right(images.protocol, 1)[order], gathered.truth[order]
        return _shares(right, truth, len(images.class_names), images.weights)

    def changes(self, before: Mapping[str, Prediction], after: Mapping[str, Prediction], num: int) -> Changes:
        found = class_changes(_of(before, Classification), _of(after, Classification), self._targets)
        columns = [
            np.bincount(found.truth[rows], minlength=len(self._images.class_names)).tolist()
            for rows in (found.right, found.moved, found.lost, found.gained)
        ]
        return Changes(
            classes=[
                ChangeCounts(kept=kept, moved=moved, lost=lost, gained=gained)
                for kept, moved, lost, gained in zip(*columns, strict=True)
            ],
            most_changed=[found.image_ids[row] for row in surest_flips(found, num)],
        )


def _shares(
    right: NDArray[np.float64], truth: NDArray[np.int64], num_classes: int, weights: NDArray[np.int32]
) -> StageValues:
    """The weighted share of right images in each class and in all, for every column of ``weights``."""
    order = np.argsort(truth, kind="stable")
    present, starts = np.unique(truth[order], return_index=True)
    classes = np.full((num_classes, weights.shape[1]), np.nan)
    overall = np.empty(weights.shape[1])
    block = max(1, _PRODUCTS_PER_BLOCK // max(len(truth), 1))
    for low in range(0, weights.shape[1], block):
        part = weights[order, low : low + block].astype(np.float64)
        images = np.add.reduceat(part, starts, axis=0)
        found = np.add.reduceat(part * right[order, None], starts, axis=0)
        classes[present, low : low + block] = np.divide(
            found, images, out=np.full(images.shape, np.nan), where=images > 0
        )
        overall[low : low + block] = found.sum(axis=0) / images.sum(axis=0)
    return StageValues(classes=classes, overall=overall)
