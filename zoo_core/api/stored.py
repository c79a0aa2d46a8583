"""Functions that read finished runs and stored detections: report, compare, check, verify and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.api.arguments import fraction, names, optional_path, refuse_missing, texts, the_host, the_reporter

if TYPE_CHECKING:
    from zoo_core.evaluation.request import Reporter
    from zoo_core.plugins import PluginHost
    from zoo_core.quantization.export import Format
    from zoo_core.results.check import Verdict
    from zoo_core.results.compare import Compared
    from zoo_core.results.export import Exported
    from zoo_core.results.reproduce import Reproduced
    from zoo_core.results.rescore import Rescored
    from zoo_core.results.verify import Check
    from zoo_core.runs.listing import ListedRun


def write_report(
    run: Path | str,
    *,
    against: Path | str | None = None,
    out: Path | str | None = None,
    host: PluginHost | None = None,
) -> Path:
    """Write the page of a run and return its path; parts that are missing or damaged are named on the page.

    Args:
        run: Run directory, complete or not.
        against: Another run directory to show beside it.
        out: File to write; None for ``report.html`` in the run directory.
        host: Plugins to use.

    Raises:
        RunError: A directory has nothing that can be reported, or the file cannot be written.
    """
    from zoo_core.report.html import write_report as work

    return work(Path(run), host=the_host(host), against=optional_path(against), out=optional_path(out))


def rescore(
    source: Path | str,
    *,
    model: str | None = None,
    data: Path | str | None = None,
    labels: Path | str | None = None,
    split: str | None = None,
    ids_file: Path | str | None = None,
    stages: Sequence[str] = (),
    protocols: Sequence[str] = (),
    first_category: int = 1,
    offline: bool = False,
    host: PluginHost | None = None,
) -> Rescored:
    """Score stored detections again, without a model and without images.

    Args:
        source: A run directory, a folder of ``comp4_det_<split>_<class>.txt`` files, or a COCO results file.
        model: Model whose dataset and metric to use; None for the run's, and VOC layout for a submission.
        data: Root of the dataset with the annotations; None for the run's.
        labels: Label file, one class name per line.
        split: Split of a submission; None to take it from its file names.
        ids_file: The submission covers only the image ids in this file, one per line.
        stages: Stages of a run; empty for all.
        protocols: Protocol ids; empty for all.
        first_category: ``category_id`` of the first class in a COCO results file.
        offline: Download nothing.
        host: Plugins to use.

    Raises:
        ZooError: The source, the data or a name cannot be used.
    """
    from zoo_core.results.rescore import RescoreRequest
    from zoo_core.results.rescore import rescore as work

    request = RescoreRequest(
        source=Path(source),
        model=model,
        data=optional_path(data),
        labels=optional_path(labels),
        split=split,
        ids_file=optional_path(ids_file),
        stages=names(stages),
        protocols=texts(protocols),
        first_category=first_category,
        offline=offline,
    )
    return work(request, the_host(host))


def compare(
    run: Path | str,
    other: Path | str | None = None,
    *,
    stages: Sequence[str] = (),
    protocol: str | None = None,
    data: Path | str | None = None,
    labels: Path | str | None = None,
    num_resamples: int | None = None,
    seed: int = 0,
    score_threshold: float = 0.5,
    host: PluginHost | None = None,
) -> Compared:
    """Compare two runs, or stages of one run, paired by image; a difference is the other minus the baseline.

    Args:
        run: The baseline.
        other: Run to compare with it; None compares stages of ``run``.
        stages: With two runs the stages to compare, empty for all they share; with one the baseline and the stages to
            compare with it, empty for fp32 and its quantized stage.
        protocol: Protocol id; None for the runs' headline.
        data: Root of the dataset with the annotations; None for the run's.
        labels: Label file; None for the run's.
        num_resamples: Resamples of the images, for the 95 % intervals and p-values; None for 2000, or 200 for a task
            whose metric must run again on each.
        seed: Draws the resamples.
        score_threshold: Lost and gained detections are counted where ``score >=`` this.
        host: Plugins to use.

    Raises:
        RunError: A run is not complete, or the two differ in conditions that must agree; all of them are named.
        ZooError: The data or the protocol cannot be used.
    """
    from zoo_core.results.compare import CompareRequest
    from zoo_core.results.compare import compare as work

    request = CompareRequest(
        run=Path(run),
        other=optional_path(other),
        stages=names(stages),
        protocol=protocol,
        data=optional_path(data),
        labels=optional_path(labels),
        num_resamples=num_resamples,
        seed=seed,
        score_threshold=fraction("score_threshold", score_threshold),
    )
    return work(request, the_host(host))


def check(
    run: Path | str,
    *,
    stages: Sequence[str] = (),
    junit: Path | str | None = None,
    host: PluginHost | None = None,
) -> Verdict:
    """Compare a run with the registry's reference values; ``passed`` says if it satisfies them.

    Args:
        run: Run directory. A limited or incomplete run, or one calibrated on evaluated images, never passes.
        stages: Stages whose references count; empty for all. Each of them, or each stage of the run that has a
            reference, needs one that was measured under the run's conditions.
        junit: JUnit report to write, for continuous integration.
        host: Plugins to use.

    Raises:
        ZooError: The run cannot be read, a stage is unknown, or the report cannot be written.
    """
    from zoo_core.results.check import check_run, write_junit
    from zoo_core.results.stored import open_run

    opened, host = open_run(Path(run)), the_host(host)
    verdict = check_run(opened, host.recorded_model(opened.record.model, opened.record.registry), host, names(stages))
    if junit is not None:
        write_junit(Path(junit), verdict)
    return verdict


def verify(run: Path | str, *, data: Path | str | None = None, host: PluginHost | None = None) -> Sequence[Check]:
    """Compute every hash of a run's record again; each check ``holds``, is ``stale``, or is ``unchecked`` here.

    Args:
        run: Run directory.
        data: Root of the dataset; None for the run's.
        host: Plugins to use.

    Raises:
        RunError: The record lacks what is needed.
    """
    from zoo_core.results.stored import open_changed_run
    from zoo_core.results.verify import verify as work

    return work(open_changed_run(Path(run)), the_host(host), data=optional_path(data))


def reproduce(
    run: Path | str,
    *,
    data: Path | str | None = None,
    checkpoint: Path | str | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    out: Path | str | None = None,
    offline: bool = False,
    host: PluginHost | None = None,
    reporter: Reporter | None = None,
) -> Reproduced:
    """Repeat a run from its record without the cache, and compare every prediction byte by byte.

    Args:
        run: Complete run directory.
        data: Root of the dataset; None for the run's.
        checkpoint: Original weights; None for the run's.
        workers: Threads that decode images, which change no byte; None for the run's.
        batch_size: Images per forward pass, to see how they change predictions; None for the run's.
        out: Directory of the new run; None for ``runs/<model>/<UTC time>-<short id>``.
        offline: Download nothing.
        host: Plugins to use.
        reporter: Receives progress.

    Raises:
        ZooError: The run is not complete, or its data or weights are gone.
    """
    from zoo_core.results.reproduce import ReproduceRequest
    from zoo_core.results.reproduce import reproduce as work

    request = ReproduceRequest(
        run=Path(run),
        data=optional_path(data),
        checkpoint=optional_path(checkpoint),
        workers=workers,
        batch_size=batch_size,
        out=optional_path(out),
        offline=offline,
    )
    return work(request, the_host(host), the_reporter(reporter))


def export(
    source: Path | str,
    *,
    kind: Format = "onnx-qdq",
    batch_size: int | None = 1,
    int32_bias: bool = False,
    integer_clips: bool = False,
    out: Path | str | None = None,
    data: Path | str | None = None,
    recipe: Path | str | None = None,
    settings: Sequence[str] = (),
    host: PluginHost | None = None,
    reporter: Reporter | None = None,
) -> Exported:
    """Export the optimized quantized network of a run for a device, and compare it with the simulation.

    Args:
        source: Run directory with an optimized quantized stage, or a model, which is quantized first.
        kind: ``onnx-qdq``, a graph of Q/DQ pairs with integer weights, or ``encodings-1.0.0`` or ``encodings-2.0.0``, a
            float graph with a file of encodings in AIMET's format.
        batch_size: Images per pass; None for any number, with which some runtimes leave their integer device.
        int32_bias: Store biases as int32, as integer devices add them; only for ``onnx-qdq``.
        integer_clips: Let clips per channel behind a layer read its integers, which is fast on ONNX Runtime and refused
            by onnxruntime-qnn; only for ``onnx-qdq``.
        out: Folder for the files, new or empty; None for ``<run directory's name>-<kind>``.
        data: Root of the dataset; None for the run's.
        recipe: Of a model: name or path of a recipe; None for the model's.
        settings: Of a model: ``STEP.PARAM=VALUE`` overrides of the recipe.
        host: Plugins to use.
        reporter: Receives progress of quantizing a model.

    Raises:
        ZooError: The source has no such network, or it cannot be exported.
    """
    from zoo_core.api.running import quantize
    from zoo_core.errors import RunError
    from zoo_core.results.export import export_run
    from zoo_core.results.stored import is_run, open_run

    if int32_bias and kind != "onnx-qdq":
        raise RunError(f"{kind} has no integer biases.", fix="leave out --int32-bias, or use --format onnx-qdq.")
    if integer_clips and kind != "onnx-qdq":
        raise RunError(f"{kind} has no integer clips.", fix="leave out --integer-clips, or use --format onnx-qdq.")
    run, host = Path(source), the_host(host)
    refuse_missing(source)
    if not is_run(run) and not run.exists():
        made = quantize(str(source), data=data, recipe=recipe, settings=settings, host=host, reporter=reporter)
        run = made.run_dir
    folder = optional_path(out) or Path(f"{run.absolute().name}-{kind}")
    return export_run(
        open_run(run),
        folder,
        host,
        kind=kind,
        batch_size=batch_size,
        int32_bias=int32_bias,
        integer_clips=integer_clips,
        data=optional_path(data),
    )


def list_runs(folder: Path | str = "runs", *, model: str | None = None) -> Sequence[ListedRun]:
    """List the runs in a folder and three levels below it, newest first, with the headline value of every stage.

    Raises:
        RunError: The folder does not exist.
    """
    from zoo_core.runs.listing import list_runs as work

    return work(Path(folder), model)
