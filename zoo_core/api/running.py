"""Functions that run a network: evaluate, resume, deploy, quantize, detect."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.api.arguments import (
    fraction,
    joined,
    names,
    optional_path,
    refuse_missing,
    renamed,
    texts,
    the_host,
    the_reporter,
)
from zoo_core.errors import RecipeError, RuntimeUnsupportedError
from zoo_core.runs.request import AUTO, DEFAULT_CALIBRATION_SIZE, DEFAULT_WORKERS, EvaluationRequest

if TYPE_CHECKING:
    from zoo_core.evaluation.request import Reporter
    from zoo_core.evaluation.result import EvaluationResult
    from zoo_core.evaluation.run import WriteReport
    from zoo_core.plugins import PluginHost
    from zoo_core.results.detect import DetectedImage


def evaluate(
    model: str,
    *,
    data: Path | str | None = None,
    checkpoint: Path | str | None = None,
    optimized_checkpoint: Path | str | None = None,
    labels: Path | str | None = None,
    recipe: Path | str | None = None,
    settings: Sequence[str] = (),
    stages: Sequence[str] | None = None,
    split: str | None = None,
    ids_file: Path | str | None = None,
    limit: int | None = None,
    calibration_size: int = DEFAULT_CALIBRATION_SIZE,
    calibration_split: str | None = None,
    allow_calibration_overlap: bool = False,
    require_full_quantization: bool = False,
    batch_size: int | None = None,
    batch_sizes: Sequence[int] = (),
    workers: int = DEFAULT_WORKERS,
    device: str = "auto",
    runtime: str = AUTO,
    runtimes: Sequence[str] = (),
    allow_fallback: bool = False,
    backend: str | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    cache: bool = True,
    offline: bool = False,
    report: bool = True,
    command: Sequence[str] = (),
    host: PluginHost | None = None,
    reporter: Reporter | None = None,
) -> EvaluationResult:
    """Quantize a model by its recipe, evaluate every stage, and leave a run directory with its report.

    Args:
        model: Registry name, or the name of a plugin that owns one model.
        data: Root of the dataset; None uses the downloaded archives in the cache.
        checkpoint: Original weights instead of the registry's.
        optimized_checkpoint: Weights that a published recipe already optimized; equalization and AdaRound are skipped.
        labels: Label file, one class name per line, background first or absent; it sets the number of classes.
        recipe: Name of one of the plugin's recipes, or path of a recipe file; None for the model's.
        settings: ``STEP.PARAM=VALUE`` overrides of the recipe.
        stages: Stages to evaluate, or ``all``; None for fp32, quantized, and both after the recipe.
        split: Evaluated split; None for the model's.
        ids_file: Evaluate the image ids in this file, one per line.
        limit: Evaluate the first ``limit`` images.
        calibration_size: Images to calibrate on; fewer where the split has fewer.
        calibration_split: Split to draw calibration images from; None for the model's.
        allow_calibration_overlap: Calibrate on images that are evaluated too, or look like it; the result is marked.
        require_full_quantization: Stop at a quantized stage that computes in float what the configuration quantizes;
            otherwise this is a warning.
        batch_size: Images per forward pass; None for the device's default.
        batch_sizes: Further batch sizes to run every stage at, to measure how they change its predictions.
        workers: Threads that decode images.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        runtime: Runtime of float stages: ``torch``, ``onnxruntime``, or ``auto``, which is ONNX Runtime where it agrees
            with torch on the first images. Simulations run in torch.
        runtimes: Runtimes that execute the optimized quantized network as exported; each adds a stage, such as
            ``optimized_w8a8@onnxruntime``.
        allow_fallback: These runtimes may compute nodes elsewhere than on their own device; the record lists them.
        backend: Deprecated name of ``runtime``.
        seed: Draws the calibration set and seeds every step.
        out: Run directory; None for ``runs/<model>/<UTC time>-<short id>``.
        cache: Reuse results of slow steps from the user's cache, and keep new ones there.
        offline: Download nothing.
        report: Write ``report.html`` into the run directory. A report that fails is only a warning.
        command: Command line to record.
        host: Plugins to use.
        reporter: Receives progress.

    Raises:
        ZooError: Something the caller can correct; ``fix`` says how.
        RunInterruptedError: Ctrl-C; ``resume`` continues the run.
    """
    from zoo_core.evaluation.run import evaluate_request

    request = EvaluationRequest(
        model=model,
        data=optional_path(data),
        checkpoint=optional_path(checkpoint),
        optimized_checkpoint=optional_path(optimized_checkpoint),
        labels=optional_path(labels),
        recipe=None if recipe is None else str(recipe),
        settings=texts(settings),
        stages=joined(stages),
        split=split,
        ids_file=optional_path(ids_file),
        limit=limit,
        calibration_size=calibration_size,
        calibration_split=calibration_split,
        allow_calibration_overlap=allow_calibration_overlap,
        require_full_quantization=require_full_quantization,
        batch_size=batch_size,
        batch_sizes=tuple(batch_sizes),
        workers=workers,
        device=device,
        runtime=renamed(runtime, backend),
        runtimes=names(runtimes),
        allow_fallback=allow_fallback,
        seed=seed,
        out=optional_path(out),
        cache=cache,
        offline=offline,
        command=tuple(command),
    )
    host, reporter = the_host(host), the_reporter(reporter)
    return evaluate_request(request, host=host, reporter=reporter, write_report=_reporting(report, host, reporter))


def resume(
    run: Path | str, *, report: bool = True, host: PluginHost | None = None, reporter: Reporter | None = None
) -> EvaluationResult:
    """Continue a run that was interrupted, killed or failed, with its own options.

    Complete predictions are kept, and the result has the bytes of an uninterrupted run. A complete run is returned
    unchanged; only a missing report is written.

    Raises:
        RunError: Not a run, a run that another process holds, or one whose data, weights, recipe or libraries changed.
        ZooError: As ``evaluate``.
    """
    from zoo_core.evaluation.resume import resume_run

    host, reporter = the_host(host), the_reporter(reporter)
    return resume_run(Path(run), host=host, reporter=reporter, write_report=_reporting(report, host, reporter))


def deploy(
    source: Path | str,
    *,
    runtimes: Sequence[str] = ("onnxruntime",),
    allow_fallback: bool = False,
    limit: int | None = None,
    recipe: Path | str | None = None,
    settings: Sequence[str] = (),
    calibration_size: int = DEFAULT_CALIBRATION_SIZE,
    data: Path | str | None = None,
    out: Path | str | None = None,
    offline: bool = False,
    report: bool = True,
    command: Sequence[str] = (),
    host: PluginHost | None = None,
    reporter: Reporter | None = None,
) -> EvaluationResult:
    """Evaluate the quantized network of a run on runtimes, and compare it with the simulation layer by layer.

    The result is a run directory with a stage per runtime, beside those of the run. ``EvaluationResult.runtimes`` has
    what was measured.

    Args:
        source: Complete run directory, which stays as it is, or a model, which is quantized first.
        runtimes: Names; ``zoo-eval doctor`` lists them.
        allow_fallback: A runtime may compute nodes elsewhere than on its own device; the record lists them.
        limit: Evaluate the first ``limit`` images.
        recipe: Of a model: name or path of a recipe; None for the model's.
        settings: Of a model: ``STEP.PARAM=VALUE`` overrides of the recipe.
        calibration_size: Of a model: images to calibrate on.
        data: Root of the dataset; None for the run's.
        out: Run directory; None for ``runs/<model>/<UTC time>-<short id>``.
        offline: Download nothing.
        report: Write ``report.html`` into the run directory.
        command: Command line to record.
        host: Plugins to use.
        reporter: Receives progress.

    Raises:
        RuntimeUnsupportedError: A runtime is not installed, cannot execute the network, or only with a fallback.
        RecipeError: The source is a run, and options of a model are given.
        ZooError: As ``evaluate``.
    """
    from zoo_core.evaluation.extending import SIMULATED, DeployRequest, deploy_run
    from zoo_core.results.stored import is_run

    if not names(runtimes):
        raise RuntimeUnsupportedError("No runtime was named.", fix="name one or more with --runtimes.")
    host, reporter = the_host(host), the_reporter(reporter)
    refuse_missing(source)
    run = Path(source)
    if not is_run(run) and not run.exists():
        return evaluate(
            str(source),
            data=data,
            recipe=recipe,
            settings=settings,
            stages=SIMULATED,
            limit=limit,
            calibration_size=calibration_size,
            runtimes=runtimes,
            allow_fallback=allow_fallback,
            out=out,
            offline=offline,
            report=report,
            command=command,
            host=host,
            reporter=reporter,
        )
    given = {"--recipe": recipe, "--set": settings, "--calibration-size": calibration_size != DEFAULT_CALIBRATION_SIZE}
    for_models = [flag for flag, value in given.items() if value]
    if for_models:
        raise RecipeError(
            f"{run} is a run, whose network is quantized already; {', '.join(for_models)} would have no effect.",
            fix="leave it out, or deploy the model instead of the run.",
        )
    request = DeployRequest(
        run=run,
        runtimes=names(runtimes),
        allow_fallback=allow_fallback,
        limit=limit,
        data=optional_path(data),
        out=optional_path(out),
        offline=offline,
        command=tuple(command),
    )
    return deploy_run(request, host=host, reporter=reporter, write_report=_reporting(report, host, reporter))


def quantize(
    model: str,
    *,
    data: Path | str | None = None,
    checkpoint: Path | str | None = None,
    labels: Path | str | None = None,
    recipe: Path | str | None = None,
    settings: Sequence[str] = (),
    calibration_size: int = DEFAULT_CALIBRATION_SIZE,
    calibration_split: str | None = None,
    allow_calibration_overlap: bool = False,
    require_full_quantization: bool = False,
    batch_size: int | None = None,
    workers: int = DEFAULT_WORKERS,
    device: str = "auto",
    seed: int = 0,
    out: Path | str | None = None,
    cache: bool = True,
    offline: bool = False,
    command: Sequence[str] = (),
    host: PluginHost | None = None,
    reporter: Reporter | None = None,
) -> EvaluationResult:
    """Run a model's recipe and save the optimized network with its encodings in ``<run_dir>/quantized``.

    Nothing is evaluated. Parameters and errors are those of ``evaluate``.
    """
    from zoo_core.evaluation.run import quantize_request

    request = EvaluationRequest(
        model=model,
        data=optional_path(data),
        checkpoint=optional_path(checkpoint),
        labels=optional_path(labels),
        recipe=None if recipe is None else str(recipe),
        settings=texts(settings),
        calibration_size=calibration_size,
        calibration_split=calibration_split,
        allow_calibration_overlap=allow_calibration_overlap,
        require_full_quantization=require_full_quantization,
        batch_size=batch_size,
        workers=workers,
        device=device,
        seed=seed,
        out=optional_path(out),
        cache=cache,
        offline=offline,
        command=tuple(command),
    )
    return quantize_request(request, host=host, reporter=reporter)


def detect(
    model: str,
    images: Sequence[Path | str],
    *,
    stages: Sequence[str] = ("fp32", "w8a8"),
    out: Path | str = "detections",
    score_threshold: float = 0.5,
    data: Path | str | None = None,
    checkpoint: Path | str | None = None,
    labels: Path | str | None = None,
    recipe: Path | str | None = None,
    settings: Sequence[str] = (),
    calibration_size: int = 100,
    batch_size: int | None = None,
    device: str = "auto",
    seed: int = 0,
    offline: bool = False,
    host: PluginHost | None = None,
    reporter: Reporter | None = None,
) -> Sequence[DetectedImage]:
    """Draw the predictions of a model's stages for image files, side by side, one PNG per image.

    ``stages`` starts with the baseline; changes against it are marked. Predictions with ``score >= score_threshold``
    are drawn into files in ``out``. Quantized stages are calibrated on images of the model's dataset; ``fp32`` alone
    needs no data where ``labels`` are given. The other parameters are those of ``evaluate``.

    Raises:
        ZooError: A name, a file or an image cannot be used.
    """
    from zoo_core.results.detect import detect as work

    request = EvaluationRequest(
        model=model,
        stages=joined(stages),
        data=optional_path(data),
        checkpoint=optional_path(checkpoint),
        labels=optional_path(labels),
        recipe=None if recipe is None else str(recipe),
        settings=texts(settings),
        calibration_size=calibration_size,
        batch_size=batch_size,
        device=device,
        seed=seed,
        offline=offline,
    )
    paths = [Path(image) for image in images]
    host, reporter = the_host(host), the_reporter(reporter)
    return work(
        request,
        paths,
        Path(out),
        score_threshold=fraction("score_threshold", score_threshold),
        host=host,
        reporter=reporter,
    )


def _reporting(wanted: bool, host: PluginHost, reporter: Reporter) -> WriteReport | None:
    return functools.partial(_report, host=host, reporter=reporter) if wanted else None


def _report(run_dir: Path, host: PluginHost, reporter: Reporter) -> None:
    from zoo_core.report.html import write_report

    try:
        write_report(run_dir, host=host)
    except Exception as error:  # the evaluation is complete and recorded; its page can be written again
        logging.getLogger("zoo_eval").exception("The report failed.")
        reporter.warn(f"The report could not be written ({error}); try `zoo-eval report {run_dir}`.")
