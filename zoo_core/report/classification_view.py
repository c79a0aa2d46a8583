"""The page's parts about classes: what is taken for what, whose answer changed, and how sure the network was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_core.comparison.classes import NO_CLASS, ClassChanges, Flip, class_changes, surest_flips
from zoo_core.datatypes import Classification, ClassTarget, Prediction, Target
from zoo_core.display import page_percent
from zoo_core.report import plots
from zoo_core.report.changed import count_table
from zoo_core.report.gallery import BYTES_BUDGET, data_uri, read_pixels, token_classes
from zoo_core.report.loading import predictions_of, targets_of
from zoo_core.report.sections import Table
from zoo_core.tasks.drawing import class_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.report.loading import LoadedRun
    from zoo_core.report.plots import Plot
    from zoo_core.report.sections import ClassScore

NUM_IMAGES = 48
SIDE_PX = 200
"""Longest side of a picture in the gallery: one picture an image, where detection shows three."""

NUM_CONFUSIONS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer of a stage for an image.

    Attributes:
        stage: Its name.
        words: Class and probability.
        right: Whether it is the true class; None where that is not known.
    """

    stage: str
    words: str
    right: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassImage:
    """An image whose answer changed.

    Attributes:
        image_id: Its id.
        picture: The image as a data URI; empty where the data is gone.
        width: Of the picture, in pixels.
        height: Of the picture.
        truth: Name of the true class; empty where it is not known.
        kind: What became of the answer.
        answers: Of the two stages.
        tokens: ``<kind>:<true label>``, what the filters look at.
    """

    image_id: str
    picture: str
    width: int
    height: int
    truth: str
    kind: Flip
    answers: Sequence[Answer]
    tokens: Sequence[str]


class ClassificationView:
    """A ``View`` of ``Classification``."""

    prediction_type: type[Prediction] = Classification
    target_type: type[Target] = ClassTarget
    classes_template: str | None = "classification_classes.html.j2"
    changed_template = "classification_changed.html.j2"

    def context(self, run: LoadedRun, scores: Sequence[ClassScore]) -> Mapping[str, Any]:  # noqa: ARG002  # View's
        """See ``View``."""
        changes = _changes(run)
        if changes is None or run.pair is None:
            return {"confusions": None, "flips": None}
        images = _gallery(run, changes)
        return {
            "confusions": _confusions(changes, run.class_names, run.pair) if run.targets else None,
            "flips": _flip_table(changes, run.class_names) if run.targets else None,
            "facts": _facts(changes),
            "confidence": _confidence(changes, run.pair),
            "truth_known": bool(run.targets),
            "class_gallery": images,
            "gallery_classes": token_classes((image.tokens for image in images), run.class_names),
        }


def _changes(run: LoadedRun) -> ClassChanges | None:
    if run.pair is None or not all(stage in run.predictions for stage in run.pair):
        return None
    seen = predictions_of(run, Classification)
    before, after = (seen[stage] for stage in run.pair)
    return class_changes(before, after, targets_of(run, ClassTarget))


def _facts(changes: ClassChanges) -> dict[str, int]:
    return {
        "num_images": len(changes.image_ids),
        "num_flipped": int(changes.flipped.sum()),
        "num_lost": int(changes.lost.sum()),
        "num_gained": int(changes.gained.sum()),
        "num_moved": int(changes.moved.sum()),
    }


def _flip_table(changes: ClassChanges, names: Sequence[str]) -> Table:
    known = (changes.truth >= 0) & (changes.truth < len(names))

    def count(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(changes.truth[known & rows], minlength=len(names))

    lost, gained, moved = count(changes.lost), count(changes.gained), count(changes.moved)
    columns = {
        "images": count(known),
        "right in both": count(changes.right),
        "lost": lost,
        "gained": gained,
        "wrong in both, another class": moved,
    }
    caption = "Images by their true class, most changed class first."
    return count_table("true class", columns, lost + gained + moved, names, caption)


def _confusions(changes: ClassChanges, names: Sequence[str], pair: tuple[str, str]) -> Table | None:
    """The most frequent mistakes of either stage, the largest change first."""
    before, after = (
        Counter(
            (int(truth), int(label))
            for truth, label in zip(changes.truth, labels, strict=True)
            if truth not in (label, NO_CLASS)
        )
        for labels in (changes.before, changes.after)
    )
    order = sorted({*before, *after}, key=lambda key: (-abs(after[key] - before[key]), -after[key], key))
    if not order:
        return None
    rows = tuple(
        (
            f"{class_name(truth, names)} as {_named(label, names)}",
            str(before[truth, label]),
            str(after[truth, label]),
        )
        for truth, label in order[:NUM_CONFUSIONS]
    )
    part = f", {len(rows)} of {len(order)}" if len(order) > len(rows) else ""
    return Table(columns=("mistake", *pair), rows=rows, caption=f"Images, the largest change first{part}.")


def _confidence(changes: ClassChanges, pair: tuple[str, str]) -> Plot | None:
    """Compare the baseline's confidence in the answers that changed with that in all answers."""
    if not changes.flipped.any():
        return None
    counts = {
        "all images": plots.score_counts(changes.score_before),
        "answer changed": plots.score_counts(changes.score_before[changes.flipped]),
    }
    return plots.count_histogram(
        "confidence",
        counts,
        xlabel=f"probability of the answer in {pair[0]}",
        ylabel="images",
        alt=f"How sure {pair[0]} was of its answer: all images, and those to which {pair[1]} gives another.",
        caption="Images per probability of the baseline's answer.",
        width_px=460,
    )


# --------------------------------------------------------------------------- gallery


def _gallery(run: LoadedRun, changes: ClassChanges) -> list[ClassImage]:
    images: list[ClassImage] = []
    weight = 0
    for row in surest_flips(changes, NUM_IMAGES):
        image = _image(run, changes, row)
        weight += len(image.picture)
        if weight > BYTES_BUDGET:
            run.gaps.append(f"The gallery stops at {len(images)} images: more would make the page too large.")
            break
        images.append(image)
    return images


def _image(run: LoadedRun, changes: ClassChanges, row: int) -> ClassImage:
    image_id, truth = changes.image_ids[row], int(changes.truth[row])
    pixels = read_pixels(run, image_id)
    height, width = pixels.shape[:2] if pixels is not None else (SIDE_PX * 3 // 4, SIDE_PX)
    scale = min(1.0, SIDE_PX / max(height, width))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    kind = changes.kind(row)
    answers = [
        Answer(
            stage=stage,
            words=_words(int(label), float(score), run.class_names),
            right=None if truth == NO_CLASS else bool(label == truth),
        )
        for stage, label, score in zip(
            run.pair or (),
            (changes.before[row], changes.after[row]),
            (changes.score_before[row], changes.score_after[row]),
            strict=True,
        )
    ]
    return ClassImage(
        image_id=image_id,
        picture="" if pixels is None else data_uri(pixels, width, height),
        width=width,
        height=height,
        truth="" if truth == NO_CLASS else class_name(truth, run.class_names),
        kind=kind,
        answers=answers,
        tokens=[f"{kind}:{truth}"],
    )


def _words(label: int, score: float, names: Sequence[str]) -> str:
    return _named(label, names) + (f" {page_percent(score)} %" if label != NO_CLASS else "")


def _named(label: int, names: Sequence[str]) -> str:
    return "nothing" if label == NO_CLASS else class_name(label, names)
