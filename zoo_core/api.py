"""The tool from Python, for notebooks and scripts; the command line calls nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.plugins import PluginHost

if TYPE_CHECKING:
    from zoo_core.datatypes import ModelEntry
    from zoo_core.evaluation.request import Reporter
    from zoo_core.evaluation.run import EvaluationResult


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
        options: Any field of ``zoo_core.evaluation.request.EvaluationRequest``, e.g. ``data="VOCdevkit"``,
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
    result = evaluate_request(_request(model, options), host=host, reporter=reporter)
    if report:
        _report(result.run_dir, host, reporter)
    return result


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
    from zoo_core.evaluation.resuming import resume_run

    host, reporter = host or PluginHost(), reporter or SilentReporter()
    result = resume_run(Path(run_dir), host=host, reporter=reporter)
    if report and result.metrics and not (result.run_dir / "report.html").exists():
        _report(result.run_dir, host, reporter)
    return result


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


_PATHS = ("data", "checkpoint", "optimized_checkpoint", "labels", "ids_file", "out")


def _request(model: str, options: dict[str, Any]) -> Any:
    from zoo_core.evaluation.request import EvaluationRequest

    values: dict[str, Any] = {
        name: Path(value) if name in _PATHS and value is not None else value for name, value in options.items()
    }
    if isinstance(values.get("settings"), Sequence) and not isinstance(values["settings"], str):
        values["settings"] = tuple(values["settings"])
    return EvaluationRequest(model=model, **values)
