"""Classification accuracy: top-1 and top-5 under two rules for ties, from one pass over the predictions.

A network whose output is quantized to 8 bits gives one of 256 values to each of 1000 classes, so equal scores are
common and the rule for them is part of the number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.datatypes import Classification, ClassTarget, Prediction, ProtocolScore, Target
from zoo_core.errors import DataError, PluginError, RegistryError, closest_hint
from zoo_core.metrics.class_suspects import classification_suspects

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CLASSIFICATION_PROTOCOLS", "ClassificationMetric", "GatheredClasses", "rank_classes"]

CLASSIFICATION_PROTOCOLS = ("topk/first", "topk/expected")

NUM_KEPT = 10
"""Number of classes that ``rank_classes`` keeps of an image: top-5 needs five, the others are for human readers."""

_COMMON_TEXT = (
    "An image counts as right when its class is among the k most probable ones, k being 1 and 5; accuracy is the share "
    "of right images. top1_balanced is the mean over classes of the share within each."
)
_TIE_TEXT = {
    "topk/first": "Of classes with equal scores the one with the lower index comes first, as argmax has it.",
    "topk/expected": (
        "Of classes with equal scores each order is as likely, and an image counts by the probability of being right."
    ),
}


def rank_classes(logits: NDArray[np.float32], num_kept: int = NUM_KEPT) -> Classification:
    """Turn one image's raw outputs into its most probable classes; softmax is computed in float64.

    Args:
        logits: ``(C,)``.
        num_kept: Number of classes to keep; those that tie with the last one are kept too.

    Returns:
        Most probable first, equal ones by index; empty if a logit is not finite or there are none, so that the image
        counts as wrong: the classes that are left would give another answer than an argmax over all of them.
    """
    if not len(logits) or not np.isfinite(logits).all():
        return Classification(labels=np.zeros(0, np.int64), scores=np.zeros(0, np.float64))
    values = logits.astype(np.float64)
    powers = np.exp(values - values.max())
    order = np.argsort(-values, kind="stable")
    kept = int((values >= values[order[min(num_kept, len(order)) - 1]]).sum())
    order = order[:kept]
    return Classification(labels=order.astype(np.int64), scores=powers[order] / powers.sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GatheredClasses:
    """All images added so far, one row each.

    Attributes:
        image_ids: Ascending.
        truth: ``(I,)`` int64, the true label.
        best: ``(I,)`` int64, the most probable label, the lower index of equal ones; -1 where there is none.
        ahead: ``(I,)`` int64, classes with a higher score than the true one; -1 where the true one was not predicted.
        tied: ``(I,)`` int64, other classes with the same score as the true one.
        tied_before: ``(I,)`` int64, those of them with a lower index.
    """

    image_ids: tuple[str, ...]
    truth: NDArray[np.int64]
    best: NDArray[np.int64]
    ahead: NDArray[np.int64]
    tied: NDArray[np.int64]
    tied_before: NDArray[np.int64]

    def right(self, protocol: str, k: int) -> NDArray[np.float64]:
        """Return the probability that each image is right in its k best classes, ``(I,)``; ``protocol`` breaks ties."""
        known = self.ahead >= 0
        if protocol == "topk/first":
            return (known & (self.ahead + self.tied_before < k)).astype(np.float64)
        places = np.clip(k - self.ahead, 0, self.tied + 1)
        return np.where(known, places / (self.tied + 1), 0.0)


class ClassificationMetric:
    """Computes top-1 and top-5 accuracy under both rules for ties; implements ``datatypes.Metric``.

    Args:
        class_names: Index is the label.
        headline: Protocol id that is moved to the front.

    Raises:
        RegistryError: ``headline`` is not a protocol id.
    """

    prediction_type: type[Prediction] = Classification

    def __init__(self, class_names: Sequence[str], *, headline: str = CLASSIFICATION_PROTOCOLS[0]) -> None:
        _require_known(headline)
        self.class_names = tuple(class_names)
        others = (name for name in CLASSIFICATION_PROTOCOLS if name != headline)
        self.protocol_ids: tuple[str, ...] = (headline, *others)
        self._rows: dict[str, tuple[int, int, int, int, int]] = {}
        self._num_flat = 0

    def update(self, image_ids: Sequence[str], preds: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Add a chunk of images; the order of chunks and of images does not change the result.

        Raises:
            PluginError: The three differ in length, an image was added before, or a prediction cannot be scored;
                nothing is added then.
            DataError: A target cannot be scored against; nothing is added then.
        """
        if not len(image_ids) == len(preds) == len(targets):
            raise PluginError(
                f"The metric got {len(image_ids)} image ids, {len(preds)} predictions and {len(targets)} targets.",
                fix="give one prediction and one target for each image id.",
            )
        rows: dict[str, tuple[int, int, int, int, int]] = {}
        num_flat = 0
        for image_id, pred, target in zip(image_ids, preds, targets, strict=True):
            if image_id in self._rows or image_id in rows:
                raise PluginError(f"Image {image_id!r} is scored twice.", fix="give each image id once.")
            ranking = self._checked(image_id, pred)
            rows[image_id] = _row(ranking, self._label(image_id, target))
            num_flat += len(ranking.scores) > 1 and ranking.scores[0] == ranking.scores[-1]
        self._rows.update(rows)
        self._num_flat += num_flat

    def gathered(self) -> GatheredClasses:
        """Return all images added so far."""
        image_ids = tuple(sorted(self._rows))
        table = np.array([self._rows[image_id] for image_id in image_ids], np.int64).reshape(-1, 5)
        truth, best, ahead, tied, tied_before = table.T
        return GatheredClasses(
            image_ids=image_ids, truth=truth, best=best, ahead=ahead, tied=tied, tied_before=tied_before
        )

    def compute(self, protocols: Sequence[str] | None = None) -> Mapping[str, ProtocolScore]:
        """Return the score under each of ``protocols``, in that order; by default under all ``protocol_ids``.

        Raises:
            RegistryError: A protocol is unknown.
        """
        chosen = self.protocol_ids if protocols is None else tuple(protocols)
        for protocol in chosen:
            _require_known(protocol)
        gathered = self.gathered()
        return {protocol: self._score(protocol, gathered) for protocol in chosen}

    def suspects(self) -> Sequence[str]:
        """Name the usual mistakes that the data points to, in sentences with figures; empty if there are none."""
        gathered = self.gathered()
        return classification_suspects(gathered.truth, gathered.best, self.class_names, num_flat=self._num_flat)

    # ------------------------------------------------------------------ private

    def _score(self, protocol: str, gathered: GatheredClasses) -> ProtocolScore:
        counts = np.bincount(gathered.truth, minlength=len(self.class_names))
        right = gathered.right(protocol, 1)
        sums = np.bincount(gathered.truth, weights=right, minlength=len(self.class_names))
        shares = {label: float(sums[label] / counts[label]) for label in np.flatnonzero(counts).tolist()}
        all_in_five = len(self.class_names) <= 5
        values = {
            "top1": _mean(right),
            "top5": None if all_in_five else _mean(gathered.right(protocol, 5)),
            "top1_balanced": _mean(np.array(list(shares.values()))),
        }
        return ProtocolScore(
            values=values,
            per_class={name: shares.get(label) for label, name in enumerate(self.class_names)},
            num_images=len(gathered.image_ids),
            num_objects=dict(zip(self.class_names, counts.tolist(), strict=True)),
            definition=f"{_COMMON_TEXT} {_TIE_TEXT[protocol]}",
            notes=self._notes(counts, gathered),
        )

    def _notes(self, counts: NDArray[np.int64], gathered: GatheredClasses) -> tuple[str, ...]:
        notes = []
        if not len(gathered.image_ids):
            notes.append("No image was scored, so accuracy is undefined.")
        elif len(empty := np.flatnonzero(counts == 0)):
            shown = ", ".join(self.class_names[label] for label in empty[:10])
            more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
            notes.append(f"No image in this selection, so left out of top1_balanced: {shown}{more}.")
        if len(self.class_names) <= 5:
            notes.append(f"top5 is meaningless with {len(self.class_names)} classes, so it is undefined.")
        num_silent = int((gathered.best < 0).sum())
        if num_silent:
            notes.append(
                f"{num_silent} images have no predicted class, because outputs were not finite; they count as wrong."
            )
        return tuple(notes)

    def _checked(self, image_id: str, pred: Prediction) -> Classification:
        if not isinstance(pred, Classification):
            raise PluginError(
                f"The prediction for {image_id!r} is a {type(pred).__name__}, not a Classification.",
                fix="return Classification from decode.",
            )
        labels, scores = pred.labels, pred.scores
        outside = labels[(labels < 0) | (labels >= len(self.class_names))]
        if len(outside):
            raise PluginError(
                f"The prediction for {image_id!r} has label {outside[0]}; there are {len(self.class_names)} classes.",
                fix="give the network as many outputs as the data has classes, and labels from 0.",
            )
        if len(np.unique(labels)) != len(labels):
            raise PluginError(f"The prediction for {image_id!r} names a class twice.", fix="give each class once.")
        if not np.isfinite(scores).all() or (np.diff(scores) > 0).any():
            raise PluginError(
                f"The scores of {image_id!r} are not finite and descending.", fix="rank them with rank_classes."
            )
        return pred

    def _label(self, image_id: str, target: Target) -> int:
        if not isinstance(target, ClassTarget):
            raise DataError(
                f"The target of {image_id!r} is a {type(target).__name__}, not a ClassTarget.",
                fix="open a classification data set.",
            )
        if not 0 <= target.label < len(self.class_names):
            raise DataError(
                f"The target of {image_id!r} has label {target.label}; there are {len(self.class_names)} classes.",
                fix="correct the data set's class names or its labels.",
            )
        return target.label


def _row(ranking: Classification, truth: int) -> tuple[int, int, int, int, int]:
    """Return ``truth, best, ahead, tied, tied_before`` of ``GatheredClasses``."""
    if not len(ranking.labels):
        return truth, -1, -1, 0, 0
    best = int(ranking.labels[ranking.scores == ranking.scores[0]].min())
    at = np.flatnonzero(ranking.labels == truth)
    if not len(at):
        return truth, best, -1, 0, 0
    same = ranking.labels[ranking.scores == ranking.scores[at[0]]]
    ahead = int((ranking.scores > ranking.scores[at[0]]).sum())
    return truth, best, ahead, len(same) - 1, int((same < truth).sum())


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _require_known(protocol: str) -> None:
    if protocol in CLASSIFICATION_PROTOCOLS:
        return
    hint = closest_hint(protocol, CLASSIFICATION_PROTOCOLS)
    raise RegistryError(
        f"There is no classification protocol {protocol!r}{hint}.",
        fix=f"name one of: {', '.join(CLASSIFICATION_PROTOCOLS)}.",
    )
