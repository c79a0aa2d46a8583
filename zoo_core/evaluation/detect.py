"""Runs a model's stages on user-supplied images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.datasets.images import read_image
from zoo_core.datasets.labels import read_label_file
from zoo_core.datatypes import ImageSize, QuantNetwork, StepContext
from zoo_core.errors import RecipeError
from zoo_core.evaluation.prepare import Job, original_checkpoint, prepare, resolve_device, step_context
from zoo_core.evaluation.stages import ORIGINAL
from zoo_core.inference import run_batch
from zoo_core.quantization import pipeline

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from zoo_core.datatypes import ModelBundle, Prediction, Task
    from zoo_core.evaluation.request import EvaluationRequest, Reporter
    from zoo_core.plugins import PluginHost

BASELINE = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """Predictions of every stage for one image.

    Attributes:
        path: The image's file.
        pixels: ``(H, W, 3)`` uint8 RGB.
        stages: Predictions by stage, in the order in which the recipe makes them.
        class_names: Index is the label.
        task: Draws the predictions.
    """

    path: Path
    pixels: NDArray[np.uint8]
    stages: Mapping[str, Prediction]
    class_names: tuple[str, ...]
    task: Task


def detect(request: EvaluationRequest, images: Sequence[Path], host: PluginHost, reporter: Reporter) -> list[Seen]:
    """Run the stages that ``request.stages`` names over image files, one image at a time.

    Data are needed to calibrate quantized stages, and where no label file says what the classes are.

    Raises:
        ZooError: A name, a file or an image cannot be used; images are read before anything is quantized.
    """
    pixels = [read_image(path) for path in images]
    task = host.task(host.model(request.model))
    with _networks(request, host, reporter) as (bundle, class_names, device, networks):
        found: list[dict[str, Prediction]] = [{} for _ in images]
        for stage, network in networks:
            reporter.start(stage, len(images))
            for image, stages in zip(pixels, found, strict=True):
                stages[stage] = _detect_one(network, bundle, image, device)
                reporter.advance(1)
            reporter.finish()
    return [
        Seen(path=path, pixels=image, stages=stages, class_names=class_names, task=task)
        for path, image, stages in zip(images, pixels, found, strict=True)
    ]


def _detect_one(network: torch.nn.Module, bundle: ModelBundle, image: NDArray[np.uint8], device: str) -> Prediction:
    outputs = run_batch(network, [bundle.preprocess(image)], device)
    (prediction,) = bundle.decode(outputs, [ImageSize(width_px=image.shape[1], height_px=image.shape[0])])
    return prediction


@contextmanager
def _networks(
    request: EvaluationRequest, host: PluginHost, reporter: Reporter
) -> Iterator[tuple[ModelBundle, tuple[str, ...], str, Iterator[tuple[str, torch.nn.Module]]]]:
    """Bundle, class names, device, and the stages' networks as they come to be."""
    if request.stages == BASELINE and request.labels is not None:
        bundle, class_names, device = _float_alone(request, host, request.labels)
        yield bundle, class_names, device, iter([(BASELINE, bundle.network)])
        return
    with tempfile.TemporaryDirectory(prefix="zoo-eval-") as folder:
        # No run directory is written; the name only keeps prepare() from looking for room where a run would go.
        job = prepare(replace(request, out=Path(folder) / "none"), host, reporter, evaluate=False)
        if job.optimized_bundle is not None:
            raise RecipeError("detect makes its stages from one checkpoint.", fix="leave out --optimized-checkpoint.")
        networks = _walk(job, Path(folder), reporter)
        yield job.bundle, tuple(job.data.dataset.class_names), job.settings.device, networks


def _float_alone(
    request: EvaluationRequest, host: PluginHost, labels: Path
) -> tuple[ModelBundle, tuple[str, ...], str]:
    entry, class_names, device = host.model(request.model), read_label_file(labels), resolve_device(request.device)
    checkpoint = original_checkpoint(request, entry)
    return host.load_model(entry, checkpoint, class_names, device), class_names, device


def _walk(job: Job, work_dir: Path, reporter: Reporter) -> Iterator[tuple[str, torch.nn.Module]]:
    network = QuantNetwork(network=job.bundle.network)
    wanted = [stage for stage in job.stages if stage.same_as is None]
    context: StepContext | None = None
    if any(stage.quantized or stage.point > ORIGINAL for stage in wanted):
        context = step_context(job, work_dir, reporter, lambda _done, _total, _what: None)
    for point in range(ORIGINAL, max(stage.point for stage in wanted) + 1):
        if point > ORIGINAL and context is not None:
            outcome = pipeline.run_step(job.plan.steps[point], network, context)
            reporter.say(f"{outcome.name}: {outcome.summary} ({outcome.seconds:.1f} s)")
            network = outcome.result
        for stage in wanted:
            if stage.point == point and not stage.quantized:
                yield stage.name, network.network
            elif stage.point == point and context is not None:
                yield stage.name, pipeline.simulate(network, context).network
