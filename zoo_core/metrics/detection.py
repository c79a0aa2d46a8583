"""Detection quality under every protocol of VOC and COCO, from one pass over the detections.

The rules are in ``voc.py`` and ``coco.py``; this module gathers chunks of images and turns the outcome of each
detection into scores with their conditions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.datatypes import Detections, Prediction, ProtocolScore, Target
from zoo_core.errors import DataError, RegistryError, ZooError, closest_hint
from zoo_core.metrics.average_precision import (
    PrecisionRecall,
    average_precision_11pt,
    average_precision_area,
    precision_recall_curve,
)
from zoo_core.metrics.coco import (
    AREA_RANGES,
    COCO_TEXT,
    IOU_THRESHOLDS,
    CocoCandidates,
    coco_candidates,
    coco_curve,
    evaluate_coco,
)
from zoo_core.metrics.flat import class_slices, overlapping_pairs
from zoo_core.metrics.gathering import GatheredImages, ImageGatherer
from zoo_core.metrics.suspects import detection_suspects
from zoo_core.metrics.voc import FOUND, IGNORED, VOC_RULES, VocRuleName, match_voc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.metrics.flat import Pairs

__all__ = [
    "DETECTION_PROTOCOLS",
    "DetectionMetric",
    "PrecisionRecall",
    "average_precision_11pt",
    "average_precision_area",
]

_AVERAGES = {"voc07_11pt": average_precision_11pt, "voc_area": average_precision_area}
_VOC_PROTOCOLS: dict[str, tuple[str, VocRuleName]] = {
    f"{average}/{rule}": (average, rule) for average in _AVERAGES for rule in VOC_RULES
}
DETECTION_PROTOCOLS = (*_VOC_PROTOCOLS, "coco")

_AVERAGE_TEXT = {
    "voc07_11pt": "AP is the mean of the best precision at recall >= 0, 0.1 ... 1 (11 points, VOC2007).",
    "voc_area": "AP is the area under the monotone precision-recall curve, at every change of recall (VOC2010).",
}
_MATCH_TEXT = (
    "A detection belongs to the object of its class that it overlaps most and has found it when IoU > 0.5; every "
    "further detection of that object is false, and one on a difficult object counts neither way."
)
_COMMON_TEXT = (
    "Equal scores are ordered by image id, then by x1, y1, x2, y2. mAP is the mean over classes that have objects "
    "which count and were submitted."
)


class DetectionMetric:
    """Computes VOC's four protocols and COCO's together; implements ``datatypes.Metric``.

    Args:
        class_names: Index is the label; background is not a class.
        submitted: Names of the classes whose detections are scored, for submissions that leave some out; a class that
            is not submitted has AP None and is left out of the mean. None means all classes.
        headline: Protocol id that is moved to the front.

    Raises:
        DataError: ``submitted`` holds an unknown class.
        RegistryError: ``headline`` is not a protocol id.
    """

    prediction_type: type[Prediction] = Detections

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        submitted: Collection[str] | None = None,
        headline: str = DETECTION_PROTOCOLS[0],
    ) -> None:
        self.class_names = tuple(class_names)
        if submitted is not None:
            for name in submitted:
                _require_known(name, self.class_names, "class", DataError)
        _require_known(headline, DETECTION_PROTOCOLS, "detection protocol", RegistryError)
        self.submitted = frozenset(self.class_names if submitted is None else submitted)
        self.protocol_ids: tuple[str, ...] = (headline, *(name for name in DETECTION_PROTOCOLS if name != headline))
        self._gatherer = ImageGatherer(self.class_names)
        self._cached: _Scorer | None = None

    def update(self, image_ids: Sequence[str], preds: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Add a chunk of images; neither the order of images nor that of an image's detections matters.

        Raises:
            PluginError: An image was added before, or a prediction cannot be scored; nothing is added then.
            DataError: A target cannot be scored against; nothing is added then.
        """
        self._gatherer.add(image_ids, preds, targets)
        self._cached = None

    def compute(self, protocols: Sequence[str] | None = None) -> Mapping[str, ProtocolScore]:
        """Return the score under each of ``protocols``, in that order; by default under all ``protocol_ids``.

        Raises:
            RegistryError: A protocol is unknown.
        """
        chosen = self.protocol_ids if protocols is None else tuple(protocols)
        for protocol in chosen:
            _require_known(protocol, DETECTION_PROTOCOLS, "detection protocol", RegistryError)
        scorer = self._scorer()
        return {protocol: scorer.score(protocol) for protocol in chosen}

    def suspects(self) -> Sequence[str]:
        """Name the usual mistakes that the data points to, in sentences with figures; empty if there are none."""
        scorer = self._scorer()
        gathered = scorer.gathered
        findings = detection_suspects(gathered.detections, gathered.objects, self.class_names, scorer.map_with_labels)
        if gathered.num_not_finite:
            findings = (f"{scorer.not_finite_note} Check the box decoding and the encodings.", *findings)
        return findings

    def precision_recall(self, class_name: str, protocol: str) -> PrecisionRecall:
        """Return the curve behind one class's AP; for ``coco`` the one at IoU 0.50.

        Returns:
            Arrays of length 0 where no detection counts or the class has no object that counts.

        Raises:
            DataError: The class is unknown.
            RegistryError: The protocol is unknown.
        """
        _require_known(class_name, self.class_names, "class", DataError)
        _require_known(protocol, DETECTION_PROTOCOLS, "detection protocol", RegistryError)
        return self._scorer().curve(self.class_names.index(class_name), protocol)

    def _scorer(self) -> _Scorer:
        if self._cached is None:
            self._cached = _Scorer(self._gatherer.gathered(), self.class_names, self.submitted)
        return self._cached


class _Scorer:
    """Scores one state of the accumulator; results that several protocols share are computed once."""

    def __init__(self, gathered: GatheredImages, class_names: tuple[str, ...], submitted: frozenset[str]) -> None:
        self.gathered = gathered
        self._class_names = class_names
        self._submitted = np.array([name in submitted for name in class_names], dtype=bool)
        self._num_objects = gathered.objects.count_per_class(len(class_names))
        self._scored = np.flatnonzero((self._num_objects > 0) & self._submitted).tolist()
        self._pairs: Pairs = overlapping_pairs(gathered.detections, gathered.objects)
        self._slices = class_slices(gathered.detections.labels, len(class_names))
        self._outcomes: dict[VocRuleName, NDArray[np.int8]] = {}
        self._scores: dict[str, ProtocolScore] = {}

    @cached_property
    def _coco_candidates(self) -> CocoCandidates:
        return coco_candidates(self.gathered.detections, self.gathered.objects, pairs=self._pairs)

    @property
    def not_finite_note(self) -> str:
        return (
            f"{self.gathered.num_not_finite} of {len(self.gathered.detections)} detections have a box that is not "
            "finite; they overlap nothing."
        )

    def score(self, protocol: str) -> ProtocolScore:
        if protocol not in self._scores:
            self._scores[protocol] = self._compute(protocol)
        return self._scores[protocol]

    def _compute(self, protocol: str) -> ProtocolScore:
        values, per_class = self._coco() if protocol == "coco" else self._voc(protocol)
        return ProtocolScore(
            values=values,
            per_class={name: per_class.get(label) for label, name in enumerate(self._class_names)},
            num_images=len(self.gathered.image_ids),
            num_objects=dict(zip(self._class_names, self._num_objects.tolist(), strict=True)),
            definition=_definition(protocol),
            notes=self._notes(),
        )

    def curve(self, label: int, protocol: str) -> PrecisionRecall:
        detections = self.gathered.detections
        num_objects = int(self._num_objects[label])
        if not num_objects:
            none = np.zeros(0)
            return PrecisionRecall(recall=none, precision=none, scores=none.astype(np.float32))
        if protocol == "coco":
            return coco_curve(self._coco_candidates, label)
        rows = self._slices[label]
        outcome = self._outcome(_VOC_PROTOCOLS[protocol][1])[rows]
        counts = outcome != IGNORED
        return precision_recall_curve(outcome[counts] == FOUND, detections.scores[rows][counts], num_objects)

    def map_with_labels(self, labels: NDArray[np.int32]) -> float | None:
        """Compute the first protocol's mAP with these labels instead; detections labelled outside the classes drop."""
        inside = (labels >= 0) & (labels < len(self._class_names))
        relabelled = replace(self.gathered.detections, labels=labels.astype(np.int32)).take(inside).ranked()
        names = frozenset(self._class_names)
        other = _Scorer(replace(self.gathered, detections=relabelled), self._class_names, names)
        return other.score(DETECTION_PROTOCOLS[0]).headline

    def _outcome(self, rule: VocRuleName) -> NDArray[np.int8]:
        if rule not in self._outcomes:
            self._outcomes[rule] = match_voc(
                self.gathered.detections, self.gathered.objects, VOC_RULES[rule], pairs=self._pairs
            )
        return self._outcomes[rule]

    def _voc(self, protocol: str) -> tuple[dict[str, float | None], dict[int, float]]:
        average = _AVERAGES[_VOC_PROTOCOLS[protocol][0]]
        per_class: dict[int, float] = {}
        for label in self._scored:
            curve = self.curve(label, protocol)
            per_class[label] = average(curve.recall, curve.precision)
        return {"map": _mean(list(per_class.values()))}, per_class

    def _coco(self) -> tuple[dict[str, float | None], dict[int, float]]:
        num_classes = len(self._class_names)
        values: dict[str, float | None] = {}
        per_class: dict[int, float] = {}
        for area, area_range in AREA_RANGES.items():
            result = evaluate_coco(self._coco_candidates, num_classes, area_range=area_range)
            labels = np.flatnonzero((result.num_objects > 0) & self._submitted)
            precision = result.average_precision[:, labels]  # (T, classes that are scored)
            if area == "all":
                values = {
                    "map": _mean(precision),
                    "map_50": _mean(precision[np.isclose(IOU_THRESHOLDS, 0.5)]),
                    "map_75": _mean(precision[np.isclose(IOU_THRESHOLDS, 0.75)]),
                }
                values |= {f"mar_{most}": _mean(recall[:, labels]) for most, recall in result.recall.items()}
                per_class = dict(zip(labels.tolist(), precision.mean(axis=0).tolist(), strict=True))
            else:
                values[f"map_{area}"] = _mean(precision)
        return values, per_class

    def _notes(self) -> tuple[str, ...]:
        notes = []
        missing = [name for name, submitted in zip(self._class_names, self._submitted, strict=True) if not submitted]
        if missing:
            notes.append(f"Not submitted, so left out of the mean: {', '.join(missing)}.")
        empty = [self._class_names[label] for label in np.flatnonzero((self._num_objects == 0) & self._submitted)]
        if empty:
            notes.append(f"No object that counts in these images, so AP is undefined and left out: {', '.join(empty)}.")
        if not self._scored:
            notes.append("No class can be scored, so mAP is undefined.")
        if self.gathered.num_not_finite:
            notes.append(self.not_finite_note)
        return tuple(notes)


def _definition(protocol: str) -> str:
    if protocol == "coco":
        return f"{COCO_TEXT} {_COMMON_TEXT}"
    average, rule = _VOC_PROTOCOLS[protocol]
    return f"{_AVERAGE_TEXT[average]} {_MATCH_TEXT} {VOC_RULES[rule].text} {_COMMON_TEXT}"


def _mean(values: NDArray[np.float64] | Sequence[float]) -> float | None:
    return float(np.mean(values)) if np.size(values) else None


def _require_known(name: str, known: Sequence[str], what: str, kind: type[ZooError]) -> None:
    if name in known:
        return
    hint = closest_hint(name, known) or f"; known are {', '.join(known)}"
    raise kind(f"There is no {what} {name!r}{hint}.", fix=f"name one of: {', '.join(known)}.")
