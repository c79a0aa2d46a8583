"""Compares the dataset with the pictures that were written: colours, boxes, labels, splits, submission."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.conformance.answers import empty_prediction, perfect_prediction
from zoo_core.conformance.checks import Check
from zoo_core.conformance.outcomes import CheckFailedError, NotCheckedError
from zoo_core.datatypes import DetectionTarget

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.conformance.subject import Subject
    from zoo_core.datatypes import Target

_MOST_GREY_LEVELS = 12.0
"""Mean difference to the drawn picture that lossy compression may cause."""
_MOST_PIXELS = 0.5
"""A box that is off by a whole pixel was read with corners that count from 1."""


def check_splits(subject: Subject) -> str:
    """Ids are those that were written, each once; no image is in both splits; hashes tell images apart."""
    entry = subject.entry
    hashes: dict[str, str] = {}
    for split in (entry.dataset.split, entry.dataset.calibration_split):
        dataset = subject.dataset(split)
        written = sorted(scene.image_id for scene in subject.kit.scenes[split])
        if sorted(dataset.ids) != written:
            raise CheckFailedError(
                f"The split {split!r} lists {len(dataset.ids)} ids, e.g. {dataset.ids[:1]}; written were "
                f"{len(written)}, e.g. {written[:1]}.",
                fix="list every image of the split once, under the id that the kit's scenes have.",
            )
        for image_id in dataset.ids:
            digest = dataset.content_hash(image_id)
            if digest != dataset.content_hash(image_id) or digest in hashes:
                other = hashes.get(digest, image_id)
                raise CheckFailedError(
                    f"content_hash does not tell {image_id!r} from {other!r}, or gives another value each time.",
                    fix="hash the bytes of the image and of its annotation, and nothing else.",
                )
            hashes[digest] = image_id
    return f"{entry.dataset.split} and {entry.dataset.calibration_split}, {len(hashes)} images"


def check_images(subject: Subject) -> str:
    """Images come back as drawn: ``(H, W, 3)`` uint8, red where red is."""
    dataset = subject.evaluated
    worst = 0.0
    for scene in subject.scenes:
        image = dataset.image(scene.image_id)
        if image.dtype != np.uint8 or image.shape != scene.image.shape:
            raise CheckFailedError(
                f"image({scene.image_id!r}) is {image.dtype} {image.shape}; written was uint8 {scene.image.shape}.",
                fix="return the stored picture as (H, W, 3) uint8, not resized.",
            )
        as_is, swapped = _difference(image, scene.image), _difference(image[..., ::-1], scene.image)
        if swapped < as_is:
            raise CheckFailedError(
                f"image({scene.image_id!r}) has blue where red was drawn: it comes in BGR, not in RGB.",
                fix="read with zoo_core.datasets.images.read_image, or convert what cv2.imread gives.",
            )
        if as_is > _MOST_GREY_LEVELS:
            raise CheckFailedError(
                f"image({scene.image_id!r}) differs from the drawn picture by {as_is:.0f} grey levels on average.",
                fix="return the stored picture itself, without normalization or change of colour.",
            )
        worst = max(worst, as_is)
    return f"{len(subject.scenes)} images in RGB, at most {worst:.1f} grey levels off"


def _difference(image: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> float:
    return float(np.abs(image.astype(np.int16) - drawn.astype(np.int16)).mean())


def check_targets(subject: Subject) -> str:
    """Targets come back as drawn: labels not shifted, boxes as ``xyxy`` in 0-based pixels."""
    dataset = subject.evaluated
    for scene in subject.scenes:
        read = dataset.target(scene.image_id)
        if type(read) is not type(scene.target):
            raise CheckFailedError(
                f"target({scene.image_id!r}) is a {type(read).__name__}; drawn was a {type(scene.target).__name__}.",
                fix="return the kind of target that the task's metric takes.",
            )
        if isinstance(read, DetectionTarget) and isinstance(scene.target, DetectionTarget):
            _compare_objects(scene.image_id, read, scene.target)
        else:
            _compare_fields(scene.image_id, read, scene.target)
    return f"{len(subject.scenes)} targets as drawn"


def _compare_objects(image_id: str, read: DetectionTarget, drawn: DetectionTarget) -> None:
    if len(read.labels) != len(drawn.labels):
        raise CheckFailedError(
            f"target({image_id!r}) has {len(read.labels)} objects; drawn were {len(drawn.labels)}.",
            fix="return every annotated object.",
        )
    read_order, drawn_order = _reading_order(read.boxes), _reading_order(drawn.boxes)
    boxes, due = read.boxes[read_order], drawn.boxes[drawn_order]
    off = float(np.abs(boxes - due).max(initial=0.0))
    if off > _MOST_PIXELS:
        raise CheckFailedError(
            f"target({image_id!r}) has the box {boxes[0].tolist()}; drawn was {due[0].tolist()}: off by up to {off:g}."
            f"{_box_hint(boxes, due)}",
            fix="return xyxy corners in pixels of the stored image that count from 0.",
        )
    labels, right = read.labels[read_order], drawn.labels[drawn_order]
    if not np.array_equal(labels, right):
        shifts = set((labels - right).tolist())
        hint = f": every label is shifted by {shifts.pop():+d}" if len(shifts) == 1 else ""
        raise CheckFailedError(
            f"target({image_id!r}) has the labels {labels.tolist()}; drawn were {right.tolist()}{hint}.",
            fix="count labels from 0 in the order of class_names; background is not a class.",
        )
    if not np.array_equal(read.difficult[read_order], drawn.difficult[drawn_order]):
        raise CheckFailedError(
            f"target({image_id!r}) marks {read.difficult.tolist()} as difficult; drawn was {drawn.difficult.tolist()}.",
            fix="mark exactly the objects that the annotation marks.",
        )


def _reading_order(boxes: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.lexsort((boxes[:, 0], boxes[:, 1]))


def _box_hint(boxes: NDArray[np.float32], due: NDArray[np.float32]) -> str:
    if boxes.max(initial=0.0) <= 2.0:
        return " They look normalized."
    if np.abs(boxes[:, 2:] - (due[:, 2:] - due[:, :2])).max() <= 1.0 + _MOST_PIXELS:
        return " They look like xywh."
    if np.allclose(boxes - due, 1.0):
        return " Corners look counted from 1."
    return ""


def _compare_fields(image_id: str, read: Target, drawn: Target) -> None:
    for field in dataclasses.fields(drawn):
        found, due = getattr(read, field.name), getattr(drawn, field.name)
        if not np.array_equal(np.asarray(found), np.asarray(due)):
            shift = ""
            if isinstance(found, int) and isinstance(due, int):
                shift = f": shifted by {found - due:+d}"
            raise CheckFailedError(
                f"target({image_id!r}).{field.name} is {found}; drawn was {due}{shift}.",
                fix="return what the data says; labels count from 0 in the order of class_names.",
            )


def check_submission(subject: Subject) -> str:
    """Perfect predictions can be written in the dataset's exchange format, and such that found nothing."""
    dataset = subject.evaluated
    pairs = [(scene.image_id, perfect_prediction(subject, scene.target)) for scene in subject.scenes]
    with contextlib.suppress(NotCheckedError):  # not every task has such a prediction
        pairs[-1] = (pairs[-1][0], empty_prediction(subject, pairs[-1][1]))
    folder = subject.folder("submission")
    dataset.write_submission(folder, iter(pairs))
    num_files = sum(1 for path in folder.rglob("*") if path.is_file())
    if not num_files:
        raise CheckFailedError(
            f"write_submission wrote no file for {len(pairs)} images.", fix="write into the directory that is given."
        )
    return f"{dataset.submission_format}: {num_files} files"


CHECKS = (
    Check(name="splits, ids and hashes are consistent", make=check_splits),
    Check(name="images come back as drawn, in RGB", make=check_images),
    Check(name="targets come back as drawn", make=check_targets),
    Check(name="predictions can be submitted", make=check_submission),
)
