"""The page's parts about boxes: precision-recall curves, what was lost and gained, and the images that changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.comparison.detections import MATCH_IOU, MOVED_IOU, SCORE_THRESHOLD
from zoo_core.datatypes import Detections, DetectionTarget, Prediction, Target
from zoo_core.report import plots
from zoo_core.report.changed import change_table, find_changes
from zoo_core.report.curves import Curves, compute_curves
from zoo_core.report.gallery import build_gallery, token_classes

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun
    from zoo_core.report.plots import Plot
    from zoo_core.report.sections import ClassScore

MAX_CLASS_PLOTS = 60
"""Classes with plots of their own; beyond them the page would take more than 5 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClassPlots:
    name: str
    plots: Sequence[Plot]


class DetectionView:
    """A ``View`` of ``Detections``."""

    prediction_type: type[Prediction] = Detections
    target_type: type[Target] = DetectionTarget
    classes_template: str | None = "detection_classes.html.j2"
    changed_template = "detection_changed.html.j2"

    def context(self, run: LoadedRun, scores: Sequence[ClassScore]) -> Mapping[str, Any]:
        """See ``View``."""
        curves = compute_curves(run, scores)
        changed = find_changes(run)
        gallery = build_gallery(run, changed.images) if changed is not None else []
        return {
            "class_plots": _class_plots(scores, curves),
            "num_classes": len(scores),
            "curve_protocol": curves.protocol,
            "changes": change_table(run, changed) if changed is not None else None,
            "num_changed": sum(found.any for found in changed.images.values()) if changed is not None else 0,
            "num_compared": len(changed.images) if changed is not None else 0,
            "gallery": gallery,
            "gallery_classes": token_classes((image.tokens for image in gallery), run.class_names),
            "score_threshold": SCORE_THRESHOLD,
            "match_iou": MATCH_IOU,
            "moved_iou": MOVED_IOU,
        }


def _class_plots(scores: Sequence[ClassScore], curves: Curves) -> list[_ClassPlots]:
    found = []
    for score in scores[:MAX_CLASS_PLOTS]:
        numbers = curves.classes.get(score.name)
        if numbers is None:
            continue
        drawn = []
        if any(len(points) for points in numbers.recall_precision.values()):
            drawn.append(plots.precision_recall(score.name, numbers, score.values))
        if any(counts.any() for counts in numbers.histograms.values()):
            drawn.append(plots.score_histogram(score.name, numbers))
        if drawn:
            found.append(_ClassPlots(name=score.name, plots=drawn))
    return found
