"""Draws one image with the predictions of every stage, side by side in a PNG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import cv2
import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zoo_core.datatypes import Drawing, Prediction, Task, TaskContext

_SIDE_PX = 720
_TITLE_PX = 34
_GAP_PX = 10
_DPI = 100


def draw_stages(
    pixels: NDArray[np.uint8], stages: Mapping[str, Prediction], task: Task, context: TaskContext
) -> dict[str, Drawing]:
    """Draw the prediction of every stage; the task marks changes against the first one.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        stages: Predictions by stage; the first is the baseline.
        task: Draws.
        context: Class names and score threshold.
    """
    baseline = next(iter(stages.values()), None)
    return {
        name: task.draw(pixels, prediction, None if prediction is baseline else baseline, context)
        for name, prediction in stages.items()
    }


def side_by_side(pixels: NDArray[np.uint8], drawings: Mapping[str, Drawing]) -> bytes:
    """Return a PNG with one titled picture per stage.

    Args:
        pixels: The original image, ``(H, W, 3)`` uint8 RGB; gives the proportions.
        drawings: At least one, by stage.
    """
    scale = _SIDE_PX / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    total = (len(drawings) * width + (len(drawings) - 1) * _GAP_PX, height + _TITLE_PX)
    with mpl.rc_context({"text.parse_math": False, "font.family": "sans-serif"}), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as empty squares; the picture is still useful.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(total[0] / _DPI, total[1] / _DPI), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        for index, (stage, drawing) in enumerate(drawings.items()):
            left = index * (width + _GAP_PX) / total[0]
            axes = figure.add_axes((left, 0.0, width / total[0], height / total[1]))
            picture = cv2.resize(drawing.pixels, (width, height), interpolation=cv2.INTER_AREA)
            axes.imshow(picture, interpolation="nearest")
            axes.set_aspect("auto")
            axes.set_axis_off()
            title = f"{stage}: {drawing.caption}" if drawing.caption else stage
            axes.set_title(title, fontsize=18 * 72 / _DPI, loc="left", pad=6)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
