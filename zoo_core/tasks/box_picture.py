"""Draws boxes with labels onto an image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from zoo_core.comparison.detections import image_changes
from zoo_core.datatypes import ImageSize
from zoo_core.tasks.drawing import DrawnBox, detection_boxes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from zoo_core.datatypes import Detections, TaskContext

SIDE_PX = 720
"""Longest side of the picture."""

_FONT_PX = 15.0
_DPI = 100


def draw_detections(
    pixels: NDArray[np.uint8], preds: Detections, baseline: Detections | None, context: TaskContext
) -> NDArray[np.uint8]:
    """Draw the detections from the score threshold on; mark what was lost, gained or moved against the baseline.

    Lost detections are drawn dashed, where the baseline had them.
    """
    size, scale = _size(pixels)
    names, threshold = context.class_names, context.score_threshold
    if baseline is None:
        return _render(pixels, detection_boxes(preds, names, size, scale, _FONT_PX, score_threshold=threshold))
    changes = image_changes(baseline, preds, score_threshold=threshold)
    after = detection_boxes(
        preds, names, size, scale, _FONT_PX, changes=changes, side="after", score_threshold=threshold
    )
    before = detection_boxes(
        baseline, names, size, scale, _FONT_PX, changes=changes, side="before", score_threshold=threshold
    )
    return _render(pixels, [*after, *(box for box in before if box.kind == "lost")])


def _size(pixels: NDArray[np.uint8]) -> tuple[ImageSize, float]:
    size = ImageSize(pixels.shape[1], pixels.shape[0])
    return size, SIDE_PX / max(size)


def _render(pixels: NDArray[np.uint8], boxes: Sequence[DrawnBox]) -> NDArray[np.uint8]:
    size, scale = _size(pixels)
    width, height = max(1, round(size.width_px * scale)), max(1, round(size.height_px * scale))
    picture = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    with mpl.rc_context({"text.parse_math": False, "font.family": "sans-serif"}):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
        _draw(axes, boxes, (width, height))
        with warnings.catch_warnings():
            # A name in a script that the font lacks is drawn as empty squares; the picture is still useful.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]


def _draw(axes: Axes, boxes: Sequence[DrawnBox], limits: tuple[int, int]) -> None:
    axes.set(xlim=(0, limits[0]), ylim=(limits[1], 0))
    axes.set_axis_off()
    for box in boxes:
        corner = (box.rect.x, box.rect.y)
        dashes = (0, (4, 2)) if box.kind == "lost" else (0, (1, 1)) if box.kind == "moved" else "solid"
        for colour, line_width, style in (("black", 3.6, "solid"), (box.colour, 2.2, dashes)):
            axes.add_patch(
                Rectangle(
                    corner,
                    box.rect.width,
                    box.rect.height,
                    fill=False,
                    edgecolor=colour,
                    linewidth=line_width,
                    linestyle=style,
                )
            )
    for box in boxes:
        label = box.label
        axes.add_patch(Rectangle((label.x, label.y), label.width, label.height, facecolor=box.colour, edgecolor="none"))
        axes.text(
            label.x + 3,
            label.y + label.height / 2,
            box.text,
            fontsize=_points(_FONT_PX - 1),
            color="black",
            va="center",
        )


def _points(pixels: float) -> float:
    return pixels * 72 / _DPI
