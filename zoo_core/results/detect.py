"""Draws the predictions of a model's stages for image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.datatypes import TaskContext
from zoo_core.errors import RunError
from zoo_core.evaluation.detect import detect as detect_images
from zoo_core.report.side_by_side import draw_stages, side_by_side

if TYPE_CHECKING:
    from zoo_core.evaluation.request import Reporter
    from zoo_core.plugins import PluginHost
    from zoo_core.runs.request import EvaluationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedImage:
    """One image with its picture.

    Attributes:
        image: The image file.
        picture: PNG with one view per stage.
        captions: What the task says of each stage's prediction.
    """

    image: Path
    picture: Path
    captions: Mapping[str, str]


def detect(
    request: EvaluationRequest,
    images: Sequence[Path],
    out: Path,
    *,
    score_threshold: float,
    host: PluginHost,
    reporter: Reporter,
) -> Sequence[DetectedImage]:
    """Write one PNG per image into ``out``, which is created; predictions with ``score >= score_threshold`` are drawn.

    Raises:
        RunError: The folder or a picture cannot be written.
        ZooError: A name, a file or an image cannot be used.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)  # before the work, which takes minutes
    except OSError as error:
        raise RunError(f"{out} cannot be a folder: {error}", fix="name another place with --out.") from error
    detected = []
    for name, image in zip(_file_names(images), detect_images(request, images, host, reporter), strict=True):
        path = out / name
        context = TaskContext(class_names=image.class_names, score_threshold=score_threshold)
        drawings = draw_stages(image.pixels, image.stages, image.task, context)
        try:
            path.write_bytes(side_by_side(image.pixels, drawings))
        except OSError as error:
            fix = "make room or name another place with --out."
            raise RunError(f"{path} cannot be written: {error}", fix=fix) from error
        captions = {stage: drawing.caption for stage, drawing in drawings.items()}
        detected.append(DetectedImage(image=image.path, picture=path, captions=captions))
    return detected


def _file_names(images: Sequence[Path]) -> list[str]:
    """A file name per image; images of the same name from several folders are numbered."""
    names: list[str] = []
    for image in images:
        name, number = f"{image.stem}.png", 1
        while name in names:
            number += 1
            name = f"{image.stem}-{number}.png"
        names.append(name)
    return names
