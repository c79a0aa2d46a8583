"""Boxes with labels that do not cover each other, ready to be drawn over an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from zoo_core.comparison.detections import SCORE_THRESHOLD, ImageChanges
from zoo_core.display import MINUS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import Detections, DetectionTarget, ImageSize

Kind: TypeAlias = Literal["object", "difficult", "kept", "moved", "lost", "gained"]

COLOURS: dict[Kind, str] = {
    "object": "#009E73",
    "difficult": "#009E73",
    "kept": "#56B4E9",
    "moved": "#F0E442",
    "lost": "#D55E00",
    "gained": "#CC79A7",
}
"""Okabe and Ito's palette (Color Universal Design, 2008), which colour-blind readers tell apart."""

SIGNS: dict[Kind, str] = {"object": "", "difficult": "", "kept": "", "moved": "~ ", "lost": f"{MINUS} ", "gained": "+ "}
"""Stands before a label, so that nothing depends on colour alone."""

CHAR_WIDTH = 0.56
"""Width of an average character of a sans-serif face over its font size."""

_MAX_LABEL = 24


class Rect(NamedTuple):
    """A rectangle by its top left corner, in pixels of the drawing."""

    x: float
    y: float
    width: float
    height: float

    def overlaps(self, other: Rect) -> bool:
        """True if the two overlap."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnBox:
    """A box and its label, in pixels of the drawing.

    Attributes:
        kind: What the box is.
        rect: The box, clipped to the drawing.
        text: The label, shortened.
        title: The label in full, with what became of the detection.
        label: Position of the label.
    """

    kind: Kind
    rect: Rect
    text: str
    title: str
    label: Rect

    @property
    def colour(self) -> str:
        """Of the outline and behind the label."""
        return COLOURS[self.kind]

    @property
    def ink(self) -> str:
        """Of the label's text: black or white, whichever reads better on ``colour``."""
        return "#000000"


class _Wanted(NamedTuple):
    kind: Kind
    box: NDArray[np.float32]
    text: str
    title: str


def object_boxes(
    target: DetectionTarget, class_names: Sequence[str], size: ImageSize, scale: float, font_px: float
) -> list[DrawnBox]:
    """The ground truth of an image.

    Args:
        target: In pixels of the image.
        class_names: Index is the label.
        size: Of the image.
        scale: Pixels of the drawing per pixel of the image.
        font_px: Font size of labels, in pixels of the drawing.
    """
    wanted = []
    for box, label, difficult in zip(target.boxes, target.labels, target.difficult, strict=True):
        name = class_name(int(label), class_names)
        note = " (difficult)" if difficult else ""
        wanted.append(_Wanted("difficult" if difficult else "object", box, name + note, f"object: {name}{note}"))
    return _placed(wanted, size, scale, font_px)


def detection_boxes(
    preds: Detections,
    class_names: Sequence[str],
    size: ImageSize,
    scale: float,
    font_px: float,
    *,
    changes: ImageChanges | None = None,
    side: Literal["before", "after"] = "before",
    score_threshold: float = SCORE_THRESHOLD,
) -> list[DrawnBox]:
    """The detections of an image with ``score >= score_threshold``; arguments as for ``object_boxes``.

    Args:
        preds: In pixels of the image.
        class_names: Index is the label.
        size: Of the image.
        scale: Pixels of the drawing per pixel of the image.
        font_px: Font size of labels.
        changes: Against the other stage; None draws every detection as kept.
        side: Whether ``preds`` are those before or after.
        score_threshold: As ``changes`` was made with.
    """
    kinds, notes = _kinds(changes, side) if changes is not None else ({}, {})
    wanted = []
    for row in np.flatnonzero(preds.scores >= score_threshold).tolist():
        if not np.isfinite(preds.boxes[row]).all():
            continue
        name, score = class_name(int(preds.labels[row]), class_names), float(preds.scores[row])
        kind = kinds.get(row, "kept")
        wanted.append(
            _Wanted(kind, preds.boxes[row], f"{name} {score:.2f}", f"{kind}: {name} {score:.3f}{notes.get(row, '')}")
        )
    # Unchanged ones first: what changed is drawn on top of them.
    wanted.sort(key=lambda item: item.kind != "kept")
    return _placed(wanted, size, scale, font_px)


def _kinds(changes: ImageChanges, side: Literal["before", "after"]) -> tuple[dict[int, Kind], dict[int, str]]:
    column = 0 if side == "before" else 1
    kinds: dict[int, Kind] = dict.fromkeys(changes.moved[:, column].tolist(), "moved")
    rows, rest, kind = (
        (changes.lost, changes.faded, "lost") if side == "before" else (changes.gained, changes.risen, "gained")
    )
    other = "afterwards" if side == "before" else "before"
    notes = {}
    for row, score in zip(rows.tolist(), rest.tolist(), strict=True):
        kinds[row] = "lost" if kind == "lost" else "gained"
        notes[row] = f"; {other} {score:.3f}" if score > 0 else f"; {other} nothing of this class there"
    return kinds, notes


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a label, also of one that no class has."""
    return class_names[label] if 0 <= label < len(class_names) else f"class {label}"


def _placed(wanted: Sequence[_Wanted], size: ImageSize, scale: float, font_px: float) -> list[DrawnBox]:
    width, height = size.width_px * scale, size.height_px * scale
    placed: list[DrawnBox] = []
    taken: list[Rect] = []
    for item in reversed(wanted):  # what changed chooses its label's place first
        low = np.clip(item.box[:2] * scale, 0.0, (width, height)).tolist()
        high = np.clip(item.box[2:] * scale, low, (width, height)).tolist()
        rect = Rect(low[0], low[1], high[0] - low[0], high[1] - low[1])
        text = SIGNS[item.kind] + item.text
        if len(text) > _MAX_LABEL:
            # The score at the end must stay; the name in the middle can be cut.
            text = f"{text[: _MAX_LABEL - 6]}…{text[-5:]}"
        label = _free_place(
            rect, min(width, CHAR_WIDTH * font_px * len(text) + 6), 1.3 * font_px, (width, height), taken
        )
        taken.append(label)
        placed.append(DrawnBox(kind=item.kind, rect=rect, text=text, title=item.title, label=label))
    return placed[::-1]


def _free_place(box: Rect, width: float, height: float, limits: tuple[float, float], taken: Sequence[Rect]) -> Rect:
    """Above, inside or below the box, left or right, the first that covers no label; else as far down as it takes."""
    right = box.x + box.width - width
    bottom = box.y + box.height
    places = [
        (x, y)
        for y in (box.y - height, box.y, bottom - height, bottom)
        for x in (box.x, right)
        if 0 <= y <= limits[1] - height
    ]
    places += [(box.x, box.y + step * height) for step in range(1, 12)]
    candidates = [
        Rect(min(max(x, 0.0), limits[0] - width), min(max(y, 0.0), limits[1] - height), width, height)
        for x, y in places
    ]
    free = (place for place in candidates if not any(place.overlaps(other) for other in taken))
    return next(free, candidates[0])
