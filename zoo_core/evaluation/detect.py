"""Runs a model's stages on user-supplied images."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.datasets.images import read_image
from zoo_core.datasets.labels import read_label_file
from zoo_core.datatypes import ImageSize, QuantNetwork
from zoo_core.display import nonfinite_text
from zoo_core.errors import RecipeError
from zoo_core.evaluation.prepare import Job, original_checkpoint, prepare, resolve_device, step_context
from zoo_core.evaluation.stages import ORIGINAL
from zoo_core.inference import Decoded, decode_finite, run_batch
from zoo_core.quantization import pipeline
from zoo_core.runs.coverage import coverage_warning

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from zoo_core.datatypes import ModelBundle, Prediction, Task
    from zoo_core.evaluation.request import Reporter
    from zoo_core.plugins import PluginHost
    from zoo_core.runs.request import EvaluationRequest

BASELINE = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImagePredictions:
    """Predictions of every stage for one image.

    Attributes:
        path: The image's file.
        pixels: ``(H, W, 3)`` uint8 RGB.
        stages: Predictions by stage, in the order of the recipe.
        class_names: Index is the label.
        task: Draws the predictions.
    """

    path: Path
    pixels: NDArray[np.uint8]
    stages: Mapping[str, Prediction]
    class_names: tuple[str, ...]
    task: Task


def detect(
    request: EvaluationRequest, images: Sequence[Path], host: PluginHost, reporter: Reporter
) -> list[ImagePredictions]:
    """Run the stages that ``request.stages`` names on image files, one image at a time.

    Needs a dataset to calibrate quantized stages, and for the class names if there is no label file.

    Raises:
        ZooError: A name, a file or an image cannot be used; images are read before anything is quantized.
    """
    pixels = [read_image(path) for path in images]
    task = host.task(host.model(request.model))
    with _networks(request, host, reporter) as (bundle, class_names, device, networks):
        predictions: list[dict[str, Prediction]] = [{} for _ in images]
        for stage, network in networks:
            reporter.start(stage, len(images))
            num_nonfinite = 0
            for image, stages in zip(pixels, predictions, strict=True):
                found = _detect_one(network, bundle, image, device)
                (stages[stage],) = found.predictions
                num_nonfinite += not all(found.finite)
                reporter.advance(1)
            reporter.finish()
            if num_nonfinite:
                reporter.warn(f"{stage}: {nonfinite_text(num_nonfinite, len(images))}")
    return [
        ImagePredictions(path=path, pixels=image, stages=stages, class_names=class_names, task=task)
        for path, image, stages in zip(images, pixels, predictions, strict=True)
    ]


def _detect_one(network: torch.nn.Module, bundle: ModelBundle, image: NDArray[np.uint8], device: str) -> Decoded:
    outputs = run_batch(network, [bundle.preprocess(image)], device)
    return decode_finite(bundle.decode, outputs, [ImageSize(width_px=image.shape[1], height_px=image.shape[0])])


@contextmanager
def _networks(
    request: EvaluationRequest, host: PluginHost, reporter: Reporter
) -> Iterator[tuple[ModelBundle, tuple[str, ...], str, Iterator[tuple[str, torch.nn.Module]]]]:
    """Yield the bundle, class names, device, and each stage's network as the recipe produces it."""
    if request.stages == BASELINE and request.labels is not None:
        bundle, class_names, device = _float_only(request, host, request.labels)
        yield bundle, class_names, device, iter([(BASELINE, bundle.network)])
        return
    with tempfile.TemporaryDirectory(prefix="zoo-eval-") as folder:
        # No run directory is written; the name only stops prepare() from checking for disk space where a run would go.
        job = prepare(replace(request, out=Path(folder) / "none"), host, reporter, evaluate=False, compare_splits=False)
        if job.optimized_bundle is not None:
            raise RecipeError("detect runs stages of one checkpoint.", fix="leave out --optimized-checkpoint.")
        networks = _walk(job, Path(folder), reporter)
        yield job.bundle, tuple(job.data.dataset.class_names), job.settings.device, networks


def _float_only(request: EvaluationRequest, host: PluginHost, labels: Path) -> tuple[ModelBundle, tuple[str, ...], str]:
    entry, class_names, device = host.model(request.model), read_label_file(labels), resolve_device(request.device)
    checkpoint = original_checkpoint(request, entry)
    return host.load_model(entry, checkpoint, class_names, device), class_names, device


def _walk(job: Job, work_dir: Path, reporter: Reporter) -> Iterator[tuple[str, torch.nn.Module]]:
    wanted = [stage for stage in job.stages if stage.same_as is None]
    context = functools.cache(lambda: step_context(job, work_dir, reporter, lambda _done, _total, _what: None))
    if any(stage.quantized or stage.point > ORIGINAL for stage in wanted):
        context()  # before the first stage, so that an image that cannot be read stops the run at once
    last = max(stage.point for stage in wanted)
    for point in pipeline.walk(job.plan, QuantNetwork(network=job.bundle.network), context, last=last):
        if point.step is not None:
            reporter.say(f"{point.step.name}: {point.step.summary} ({point.step.seconds:.1f} s)")
        for stage in wanted:
            if stage.point == point.index:
                network = point.network.network
                if stage.quantized:
                    simulation = pipeline.simulate(point.network, context())
                    network = simulation.network
                    text = coverage_warning(stage.name, simulation.coverage, simulation.coverage_error)
                    if text is not None:
                        reporter.warn(text)
                yield stage.name, network
