"""Draws one image with the detections of every stage, side by side in a PNG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from zoo_core.comparison import SCORE_THRESHOLD, image_changes
from zoo_core.datatypes import ImageSize
from zoo_core.report.drawing import DrawnBox, detection_boxes

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from zoo_core.datatypes import Detections

_SIDE_PX = 720
_TITLE_PX = 34
_GAP_PX = 10
_FONT_PX = 15.0
_DPI = 100


def side_by_side(
    pixels: NDArray[np.uint8],
    stages: Mapping[str, Detections],
    class_names: Sequence[str],
    *,
    score_threshold: float = SCORE_THRESHOLD,
) -> bytes:
    """Draw a PNG with one picture per stage; boxes lost, gained or moved against the first stage are marked.

    Lost detections are drawn dashed in the picture of the stage that lost them, where the first one had them.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        stages: At least one; the first is the baseline.
        class_names: Index is the label.
        score_threshold: Detections with ``score >=`` this are drawn.
    """
    size = ImageSize(pixels.shape[1], pixels.shape[0])
    scale = _SIDE_PX / max(size)
    width, height = max(1, round(size.width_px * scale)), max(1, round(size.height_px * scale))
    shown = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    total = (len(stages) * width + (len(stages) - 1) * _GAP_PX, height + _TITLE_PX)
    with mpl.rc_context({"text.parse_math": False, "font.family": "sans-serif"}):
        figure = Figure(figsize=(total[0] / _DPI, total[1] / _DPI), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        baseline = next(iter(stages.values()))
        for index, (name, preds) in enumerate(stages.items()):
            left = index * (width + _GAP_PX) / total[0]
            axes = figure.add_axes((left, 0.0, width / total[0], height / total[1]))
            axes.imshow(shown, extent=(0, width, height, 0), interpolation="nearest")
            boxes = _boxes(baseline, preds, class_names, size, scale, score_threshold)
            _draw(axes, boxes, (width, height))
            axes.set_title(f"{name}: {_count(preds, score_threshold)}", fontsize=_points(18), loc="left", pad=6)
        stream = io.BytesIO()
        with warnings.catch_warnings():
            # A name in a script that the font lacks is drawn as empty squares; the picture is still worth having.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _boxes(
    baseline: Detections,
    preds: Detections,
    class_names: Sequence[str],
    size: ImageSize,
    scale: float,
    score_threshold: float,
) -> list[DrawnBox]:
    if preds is baseline:
        return detection_boxes(preds, class_names, size, scale, _FONT_PX, score_threshold=score_threshold)
    changes = image_changes(baseline, preds, score_threshold=score_threshold)
    now = detection_boxes(
        preds, class_names, size, scale, _FONT_PX, changes=changes, side="after", score_threshold=score_threshold
    )
    then = detection_boxes(
        baseline, class_names, size, scale, _FONT_PX, changes=changes, side="before", score_threshold=score_threshold
    )
    return [*now, *(box for box in then if box.kind == "lost")]


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


def _count(preds: Detections, score_threshold: float) -> str:
    num = int((preds.scores >= score_threshold).sum())
    return f"{num} detection{'' if num == 1 else 's'}"
