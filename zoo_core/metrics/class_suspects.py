"""Diagnoses an accuracy near zero: names the usual mistakes that fit the data, in sentences with figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Shares of fewer images than this say little.
_LEAST_IMAGES = 10
# Another reading of the labels must add this much to the share of right images to be believed.
_CLEAR_GAIN = 0.2
# A renaming must explain this much more than a shift to be preferred.
_FREEDOM = 0.15
# Above this share of right images nothing is diagnosed.
_SUSPICIOUS = 0.2


def classification_suspects(
    truth: NDArray[np.int64], best: NDArray[np.int64], class_names: Sequence[str], *, num_flat: int = 0
) -> tuple[str, ...]:
    """Explain an accuracy near zero as far as the data allows.

    Args:
        truth: ``(I,)``, the true labels.
        best: ``(I,)``, the most probable labels; -1 where there is none.
        class_names: Index is the label.
        num_flat: Images that give every class the same score.
    """
    return tuple(_suspects(truth, best, class_names, num_flat))


def _suspects(
    truth: NDArray[np.int64], best: NDArray[np.int64], class_names: Sequence[str], num_flat: int
) -> Iterator[str]:
    num_images = len(truth)
    silent = int((best < 0).sum())
    if silent:
        yield (
            f"{silent} of {num_images} images have no finite output: check the checkpoint and the encodings of "
            "quantized stages."
        )
    if num_flat > num_images / 2:
        yield f"{num_flat} of {num_images} images give every class the same score: the output ignores the image."
        return
    right = float((truth == best).mean()) if num_images else 0.0
    if num_images - silent < _LEAST_IMAGES or len(class_names) < 2 or right >= _SUSPICIOUS:
        return
    called = np.bincount(best[best >= 0], minlength=len(class_names))
    if called.max() == num_images - silent:
        yield (
            f"All images are predicted as {class_names[int(called.argmax())]!r}: check the classifier's weights, and "
            "the mean and scale of pre-processing."
        )
        return
    shifted, renamed = _shifted(truth, best, right), _renamed(truth, best, right, class_names)
    # A renaming has more freedom, so a shift that explains about as much is the better explanation.
    readings = sorted([(shifted[0] + _FREEDOM, shifted[1]), renamed], reverse=True)
    yield readings[0][1] or (
        f"{right:.1%} of {num_images} images are right, chance is {1 / len(class_names):.1%}, and no shift or renaming "
        "of labels explains it: check the checkpoint, pre-processing (BGR instead of RGB, mean and scale, size), and "
        "the order of the class names."
    )


def _shifted(truth: NDArray[np.int64], best: NDArray[np.int64], right: float) -> tuple[float, str]:
    """Return the share of images that the best shift makes right, and the sentence; 0 and "" if it gains too little."""
    shifts, counts = np.unique((truth - best)[best >= 0], return_counts=True)
    counts = counts[shifts != 0]
    shifts = shifts[shifts != 0]
    share = float(counts.max(initial=0)) / len(truth)
    if share < right + _CLEAR_GAIN:
        return 0.0, ""
    return share, (
        f"Labels look shifted: {right:.1%} of {len(truth)} images are right; with {shifts[counts.argmax()]:+d} added "
        f"to every predicted label {share:.1%} would be. Is background counted as a class, or is a class missing from "
        "the names?"
    )


def _renamed(
    truth: NDArray[np.int64], best: NDArray[np.int64], right: float, class_names: Sequence[str]
) -> tuple[float, str]:
    """Return the same for a renaming that is fitted on half of each class and measured on the other half."""
    fitted = _every_other(truth)
    names = _one_to_one(truth[fitted], best[fitted])
    held = best[~fitted]
    known = np.array([names.get(label, -1) for label in held.tolist()])
    share = float((known == truth[~fitted]).mean()) if len(held) else 0.0
    if share < right + _CLEAR_GAIN:
        return 0.0, ""
    common = np.bincount(held[held >= 0], minlength=len(class_names)).argsort(kind="stable")[::-1].tolist()
    examples = [
        f"{class_names[label]!r} for {class_names[names[label]]!r}"
        for label in common
        if names.get(label, label) != label
    ]
    return share, (
        f"Labels look permuted: {right:.1%} of {len(truth)} images are right; with each label renamed to what it "
        f"mostly means, {share:.1%} would be (fitted on one half of the images, measured on the other): "
        f"{', '.join(examples[:3])}. Are the class names in the order used for training?"
    )


def _every_other(truth: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Select the first, third ... image of each class, ``(I,)``."""
    order = np.argsort(truth, kind="stable")
    ordered = truth[order]
    rank = np.arange(len(truth)) - np.searchsorted(ordered, ordered)
    chosen = np.empty(len(truth), dtype=np.bool_)
    chosen[order] = rank % 2 == 0
    return chosen


def _one_to_one(truth: NDArray[np.int64], best: NDArray[np.int64]) -> dict[int, int]:
    """Map predicted labels to true labels, the most frequent pair first, each label used once."""
    pairs, counts = np.unique(np.stack([best, truth], axis=1)[best >= 0], axis=0, return_counts=True)
    names: dict[int, int] = {}
    used: set[int] = set()
    for row in np.argsort(-counts, kind="stable").tolist():
        label, name = pairs[row].tolist()
        if label not in names and name not in used:
            names[label] = name
            used.add(name)
    return names
