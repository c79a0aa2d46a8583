"""The tool from Python, for notebooks and scripts; the command line calls nothing else."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.plugins import PluginHost

if TYPE_CHECKING:
    from zoo_core.datatypes import ModelEntry
    from zoo_core.evaluation.request import Reporter
    from zoo_core.evaluation.run import EvaluationResult
    from zoo_core.results.check import Verdict
    from zoo_core.results.compare import Compared
    from zoo_core.results.reproduce import Reproduced
    from zoo_core.results.rescore import Rescored
    from zoo_core.results.verify import Check
    from zoo_core.runs.listing import RunList


def list_models(host: PluginHost | None = None) -> list[ModelEntry]:
    """Return every model of the catalogue, by name."""
    catalog = (host or PluginHost()).catalog()
    return [catalog[name] for name in sorted(catalog)]


def show(model: str, host: PluginHost | None = None) -> ModelEntry:
    """Return the entry of one model.

    Raises:
        RegistryError: No such model; the closest name is suggested.
    """
    return (host or PluginHost()).model(model)


def evaluate(
    model: str,
    *,
    host: PluginHost | None = None,
    reporter: Reporter | None = None,
    report: bool = True,
    **options: Any,
) -> EvaluationResult:
    """Quantize a model by its recipe, evaluate every stage, and leave a run directory with its report.

    Args:
        model: Registry name, or the name of a plugin that owns one model.
        host: Plugins to use; None for the installed ones.
        reporter: Told of progress; None is silent.
        report: Write ``report.html`` into the run directory. A report that fails is a warning: the number stands.
        options: Any field of ``zoo_core.runs.request.EvaluationRequest``, e.g. ``data="VOCdevkit"``,
            ``checkpoint="mb2.pth"``, ``stages="fp32,w8a8"``, ``limit=100``. Paths may be text.

    Returns:
        ``run_dir``, ``record`` and ``metrics``; ``metrics["stages"]["w8a8"]["metrics"]`` holds the scores.

    Raises:
        ZooError: Something the caller can mend.
        TypeError: An option that does not exist.
    """
    from zoo_core.evaluation.request import SilentReporter
    from zoo_core.evaluation.run import evaluate_request

    host, reporter = host or PluginHost(), reporter or SilentReporter()
    write_report = functools.partial(_report, host=host, reporter=reporter) if report else None
    return evaluate_request(_request(model, options), host=host, reporter=reporter, write_report=write_report)


def resume(
    run_dir: Path | str, *, host: PluginHost | None = None, reporter: Reporter | None = None, report: bool = True
) -> EvaluationResult:
    """Go on with a run that was interrupted, killed or failed, with the options that it was given.

    Complete predictions are kept, and the result has the bytes of an uninterrupted run. A complete run is returned as
    it is; only a report that it lacks is written.

    Args:
        run_dir: The run directory.
        host: Plugins to use; None for the installed ones.
        reporter: Told of progress; None is silent.
        report: As in ``evaluate``.

    Raises:
        RunError: No run, a run that another process is at, or one whose data, weights, recipe or libraries changed.
        ZooError: As ``evaluate``.
    """
    from zoo_core.evaluation.request import SilentReporter
    from zoo_core.evaluation.resume import resume_run

    host, reporter = host or PluginHost(), reporter or SilentReporter()
    write_report = functools.partial(_report, host=host, reporter=reporter) if report else None
    return resume_run(Path(run_dir), host=host, reporter=reporter, write_report=write_report)


def _report(run_dir: Path, host: PluginHost, reporter: Reporter) -> None:
    from zoo_core.report.html import write_report

    try:
        write_report(run_dir, host=host)
    except Exception as error:  # the evaluation is complete and recorded; its page can be made again
        logging.getLogger("zoo_eval").exception("The report failed.")
        reporter.warn(f"The report could not be written ({error}); try `zoo-eval report {run_dir}`.")


def quantize(
    model: str, *, host: PluginHost | None = None, reporter: Reporter | None = None, **options: Any
) -> EvaluationResult:
    """Run a model's recipe and save the optimized network with its encodings, without evaluating.

    Args and errors as ``evaluate``; the files lie in ``<run_dir>/quantized``.
    """
    from zoo_core.evaluation.run import quantize_request

    return quantize_request(_request(model, options), host=host, reporter=reporter)


def fetch(model: str, *, offline: bool = False, host: PluginHost | None = None) -> list[Path]:
    """Download what a model's entry names, checkpoints and dataset, into the cache; return where each part lies.

    Raises:
        ArtifactError: A download failed or is not what was declared.
    """
    from zoo_core import artifacts
    from zoo_core.evaluation.prepare import fetch_dataset

    entry = show(model, host)
    weights = [found for found in (entry.checkpoint, entry.optimized_checkpoint) if found is not None]
    places = [artifacts.fetch(artifact, offline=offline) for artifact in weights]
    if entry.dataset.archives:
        places.append(fetch_dataset(entry, offline=offline))
    return places


def rescore(source: Path | str, *, host: PluginHost | None = None, **options: Any) -> Rescored:
    """Score a run or somebody's detections again, without a model and without images.

    Args:
        source: A run directory, a folder of ``comp4_det_<split>_<class>.txt`` files, or a COCO results file.
        host: Plugins to use; None for the installed ones.
        options: Any other field of ``zoo_core.results.rescore.RescoreRequest``, e.g. ``data="VOCdevkit"``,
            ``model="ssd_mobilenetv2_lite"``, ``protocols=("voc07_11pt/devkit",)``. Paths may be text.

    Returns:
        Protocol scores by stage; a submission is one stage without a name.

    Raises:
        ZooError: The source, the data or a name cannot be used.
    """
    from zoo_core.results.rescore import RescoreRequest
    from zoo_core.results.rescore import rescore as work

    return work(RescoreRequest(source=Path(source), **_values(options)), host or PluginHost())


def compare(
    run: Path | str, other: Path | str | None = None, *, host: PluginHost | None = None, **options: Any
) -> Compared:
    """Compare two runs, or stages of one run, paired by image.

    Args:
        run: The baseline.
        other: Held against it; None compares stages of ``run``.
        host: Plugins to use; None for the installed ones.
        options: Any other field of ``zoo_core.results.compare.CompareRequest``, e.g. ``stages=("fp32", "w8a8")``,
            ``protocol="coco"``, ``num_resamples=1000``.

    Returns:
        For each pair of stages the difference of mAP with its 95 % interval, class by class, and the boxes.

    Raises:
        RunError: A run is not complete, or the two differ in what must agree; all of it is named.
        ZooError: The data or the protocol cannot be used.
    """
    from zoo_core.results.compare import CompareRequest
    from zoo_core.results.compare import compare as work

    values = _values(options)
    return work(
        CompareRequest(run=Path(run), other=None if other is None else Path(other), **values), host or PluginHost()
    )


def check(run: Path | str, *, stages: Sequence[str] = (), host: PluginHost | None = None) -> Verdict:
    """Hold a run against the references of its model; ``passed`` says whether the gate is satisfied.

    Args:
        run: A run directory; a limited, incomplete or stamped run satisfies no gate.
        stages: Only references of these stages count; empty for all.
        host: Plugins to use; None for the installed ones.

    Raises:
        ZooError: The run cannot be read, or a stage is unknown.
    """
    from zoo_core.results.check import check_run
    from zoo_core.results.stored import open_run

    opened, plugins = open_run(Path(run)), host or PluginHost()
    return check_run(opened, plugins.model(opened.record.model), plugins, stages)


def verify(run: Path | str, *, data: Path | str | None = None, host: PluginHost | None = None) -> Sequence[Check]:
    """Take every hash of a run's record again; each check ``holds``, is ``stale``, or is ``unchecked`` here.

    Args:
        run: A run directory.
        data: Root of the dataset; None for where the run found it.
        host: Plugins to use; None for the installed ones.

    Raises:
        RunError: The record does not say what is needed.
    """
    from zoo_core.results.stored import open_run
    from zoo_core.results.verify import verify as work

    return work(open_run(Path(run)), host or PluginHost(), data=None if data is None else Path(data))


def list_runs(folder: Path | str = "runs", *, model: str | None = None) -> RunList:
    """List the runs in a folder and three levels below it, newest first, with the headline value of every stage.

    Raises:
        RunError: The folder does not exist.
    """
    from zoo_core.runs.listing import list_runs as work

    return work(Path(folder), model)


def reproduce(
    run: Path | str, *, host: PluginHost | None = None, reporter: Reporter | None = None, **options: Any
) -> Reproduced:
    """Run a run again from its record, everything computed anew, and compare every prediction byte by byte.

    Args:
        run: A complete run directory.
        host: Plugins to use; None for the installed ones.
        reporter: Told of progress; None is silent.
        options: Any other field of ``zoo_core.results.reproduce.ReproduceRequest``, e.g. ``out="again"``,
            ``data="VOCdevkit"``, ``batch_size=8``.

    Returns:
        ``identical``, and for each stage what differs.

    Raises:
        ZooError: The run is not complete, or its data or weights are not there any more.
    """
    from zoo_core.evaluation.request import SilentReporter
    from zoo_core.results.reproduce import ReproduceRequest
    from zoo_core.results.reproduce import reproduce as work

    return work(ReproduceRequest(run=Path(run), **_values(options)), host or PluginHost(), reporter or SilentReporter())


_TUPLES = ("settings", "protocols", "command", "stages", "batch_sizes")
_PATHS = ("data", "checkpoint", "optimized_checkpoint", "labels", "ids_file", "out")


def _request(model: str, options: dict[str, Any]) -> Any:
    from zoo_core.runs.request import EvaluationRequest

    return EvaluationRequest(model=model, **_values(options))


def _values(options: dict[str, Any]) -> dict[str, Any]:
    """Options as the requests have them: paths made of text, tuples of other sequences."""
    values = {name: Path(value) if name in _PATHS and value is not None else value for name, value in options.items()}
    return {
        name: tuple(value) if name in _TUPLES and isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in values.items()
    }
