"""The declaration of a task: its names, comparisons and drawings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zoo_core.datatypes.predictions import Prediction, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Display names of one value of a ``ProtocolScore``.

    Attributes:
        overall: Name of the value over all images, e.g. ``mAP``.
        per_class: Name of the value of one class, e.g. ``AP``.
        counted: Plural noun for the things that ``ProtocolScore.num_objects`` counts, e.g. ``objects``.
        class_mean: The overall value is the mean of the classes' values.
        valid_range: Least and greatest value; tables show values in percent.
    """

    overall: str
    per_class: str
    counted: str
    class_mean: bool = False
    valid_range: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """Settings for comparing and drawing predictions.

    Attributes:
        class_names: Index is the label.
        score_threshold: Rows with ``score >=`` this count; tasks without scores ignore it.
    """

    class_names: tuple[str, ...]
    score_threshold: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageChange:
    """Difference between two predictions of one image.

    Attributes:
        counts: By kind of change, in the order and with the names of ``Task.change_kinds``: ``(C,)`` int64 per class.
        magnitude: Size of the change, at least 0.0; images are sorted by it, and those with 0.0 are not displayed.
        summary: Short description of the change, e.g. ``1 lost, 0 gained, 2 moved``.
    """

    counts: Mapping[str, NDArray[np.int64]]
    magnitude: float
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing:
    """Image with a prediction or a target drawn onto it.

    Attributes:
        pixels: ``(H, W, 3)`` uint8 RGB, any size with the image's proportions.
        caption: Short text, e.g. ``3 detections``; may be empty.
    """

    pixels: NDArray[np.uint8]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResampledImages:
    """Images of a comparison with R weightings of them, for bootstrap intervals.

    Attributes:
        class_names: Index is the label; C in all.
        image_ids: Ids of the I images.
        targets: In the order of ``image_ids``.
        weights: ``(I, R)`` uint8, how often each image counts; in the first column each counts once.
            Convert before arithmetic.
        protocol: Protocol id whose first value is compared.
    """

    class_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    targets: Sequence[Target]
    weights: NDArray[np.uint8]
    protocol: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResampledValues:
    """Values of one stage under each of R weightings of the images.

    Attributes:
        classes: ``(C, R)`` float64, not-a-number where undefined.
        overall: ``(R,)`` float64, likewise.
    """

    classes: NDArray[np.float64]
    overall: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictionChecks:
    """Functions with which ``zoo-eval validate`` examines predictions; a check without its function is not applicable.

    Attributes:
        problems: Returns the problems of a prediction, e.g. ``scores do not descend``; empty if it is valid.
        labels: Returns the class indices in a prediction, ``(N,)`` int64.
        positions_px: Returns the coordinates in a prediction, in pixels of the original image; any shape.
        perfect: Returns the best prediction for a target.
    """

    problems: Callable[[Prediction], Sequence[str]] | None = None
    labels: Callable[[Prediction], NDArray[np.int64]] | None = None
    positions_px: Callable[[Prediction], NDArray[np.floating[Any]]] | None = None
    perfect: Callable[[Target], Prediction] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """Properties and functions of a task that reports, comparisons and checks need.

    Attributes:
        task_id: As registry entries name it, e.g. ``detection``.
        prediction_type: Type that ``decode`` returns and the metric takes.
        target_type: Type of the dataset's targets.
        measures: Display names by key of ``ProtocolScore.values``.
        change_kinds: Names of the counts of ``compare``: unchanged predictions first, then the kinds of change.
        change_definition: Explains these kinds in one or two sentences.
        compare: Returns the change from a first prediction of an image to a second one, given the target, or None where
            the data is not available, and the context.
        draw: Returns a new picture of an image, ``(H, W, 3)`` uint8 RGB, with a prediction; changes against a baseline,
            the first stage's prediction or None, can be marked. Must not write into the pixels.
        draw_target: The same for the ground truth; None leaves it out.
        may_be_empty: A prediction is a list of rows along the first axis of its arrays, and the list may be empty.
            False for a prediction that covers the whole image, such as a mask; it counts as one.
        uses_scores: ``compare`` and ``draw`` apply ``TaskContext.score_threshold``.
        resample: Scores one stage, whose predictions it gets by image id, under many weightings of the images at once.
        resample_protocols: Protocols that ``resample`` knows; for others the metric is computed for each weighting.
        target_labels: Returns the classes that count in an image, as labels in any order; repeats are allowed. A class
            that too few images show has no interval. None: every image counts for every class.
        checks: Functions for ``zoo-eval validate``.
    """

    task_id: str
    prediction_type: type[Prediction]
    target_type: type[Target]
    measures: Mapping[str, Measure]
    change_kinds: tuple[str, ...]
    change_definition: str
    compare: Callable[[Prediction, Prediction, Target | None, TaskContext], ImageChange]
    draw: Callable[[NDArray[np.uint8], Prediction, Prediction | None, TaskContext], Drawing]
    draw_target: Callable[[NDArray[np.uint8], Target, TaskContext], Drawing] | None = None
    may_be_empty: bool = True
    uses_scores: bool = False
    resample: Callable[[Mapping[str, Prediction], ResampledImages], ResampledValues] | None = None
    resample_protocols: tuple[str, ...] = ()
    target_labels: Callable[[Target], Sequence[int]] | None = None
    checks: PredictionChecks = PredictionChecks()


def measure(task: Task | None, key: str) -> Measure:
    """Return the task's display names of a value, or the key itself where the task or the value is unknown."""
    known = {} if task is None else task.measures
    return known.get(key, Measure(overall=key, per_class=key, counted="count"))
