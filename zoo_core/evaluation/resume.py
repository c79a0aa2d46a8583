"""Resumes an interrupted run in its own directory, or reports what has changed since."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from zoo_core.errors import RunError
from zoo_core.evaluation.notifying import notify_plugins
from zoo_core.evaluation.prepare import prepare
from zoo_core.evaluation.replay import recorded_request
from zoo_core.evaluation.request import Reporter, SilentReporter
from zoo_core.evaluation.result import EvaluationResult, headline_name
from zoo_core.evaluation.run import WriteReport, execute
from zoo_core.evaluation.sources import REGISTRY_ENTRY, sources_here
from zoo_core.evaluation.starting import new_record, resumed_record
from zoo_core.files import hash_regular_file
from zoo_core.plugins import PluginHost
from zoo_core.runs import provenance
from zoo_core.runs.directory import PENDING_METRICS, RunDirectory
from zoo_core.runs.hashes import METRICS, metrics_problem
from zoo_core.runs.record import RunRecord, read_metrics, read_record, record_text
from zoo_core.version import __version__


def resume_run(
    path: Path,
    *,
    host: PluginHost | None = None,
    reporter: Reporter | None = None,
    write_report: WriteReport | None = None,
) -> EvaluationResult:
    """Resume a run that was interrupted, killed or failed, with the options that it was given.

    What is complete is kept: no image of a complete chunk is run again, and no step of the recipe that only complete
    stages need. The result has the bytes of an uninterrupted run. A complete run is returned as it is.

    Args:
        path: The run directory.
        host: Plugins to use; None for the installed ones.
        reporter: Told of progress; None is silent.
        write_report: See ``evaluate_request``; also called for a complete run that lacks its report.

    Raises:
        RunError: There is no run, another process runs it, or what it was made with has changed, and what.
        ZooError: As ``evaluate_request``.
    """
    host, reporter = host or PluginHost(), reporter or SilentReporter()
    run_dir = RunDirectory(path.absolute())
    _read(run_dir)  # before a lock is left in a directory that is no run
    with run_dir.locked():
        record = _read(run_dir)
        if record.status == "complete" and _has_metrics(run_dir, record):
            return _complete(run_dir, record, host, reporter, write_report)
        return continue_run(run_dir, record, host, reporter, write_report)


def _read(run_dir: RunDirectory) -> RunRecord:
    if run_dir.path.is_dir() and not (run_dir.path / "run.json").exists():
        raise RunError(
            f"{run_dir.path} has no run.json: no run was started there.",
            fix="name a run directory, or give the run's own command again.",
        )
    return read_record(run_dir.path)


def _has_metrics(run_dir: RunDirectory, record: RunRecord) -> bool:
    """Return True if a complete run has its metrics; gives them their name if the process was killed before it could.

    Raises:
        RunError: ``metrics.json`` is not the file that the run wrote.
    """
    pending = run_dir.path / PENDING_METRICS
    if pending.exists() and hash_regular_file(pending) == (record.files or {}).get(METRICS):
        run_dir.publish_metrics()
    if not record.evaluate:
        return True
    if not (run_dir.path / METRICS).exists():
        return False  # computed again from the predictions
    problem = metrics_problem(run_dir.path, record.files)
    if problem is not None:
        raise RunError(
            f"{run_dir.path}: {problem}.",
            fix="restore the file, or remove it and resume the run, which computes it again from the predictions.",
        )
    return True


def _complete(
    run_dir: RunDirectory,
    record: RunRecord,
    host: PluginHost,
    reporter: Reporter,
    write_report: WriteReport | None,
) -> EvaluationResult:
    reporter.say(f"{run_dir.path} is complete; there is nothing to resume.")
    metrics = read_metrics(run_dir.path) if record.evaluate else None
    if write_report is not None and metrics is not None and not (run_dir.path / "report.html").exists():
        write_report(run_dir.path)
    if not record.plugins_notified:  # killed after its last record, before they were called
        for text in notify_plugins(host, run_dir, record, metrics):
            reporter.warn(text)
        record = replace(record, plugins_notified=True)
        run_dir.write_text("run.json", record_text(record))
    run_dir.remove_lock()
    name = headline_name(metrics, host.find_task(record.task))
    return EvaluationResult(run_dir=run_dir.path, record=record, metrics=metrics, headline_name=name)


def continue_run(
    run_dir: RunDirectory,
    record: RunRecord,
    host: PluginHost,
    reporter: Reporter,
    write_report: WriteReport | None,
) -> EvaluationResult:
    """Run what a record requests and its directory does not have.

    Args:
        run_dir: Directory of the run, locked.
        record: As in the directory; of a run that was interrupted, or that is to be extended.
        host: The plugins.
        reporter: Receives progress.
        write_report: See ``evaluate_request``.

    Raises:
        RunError: What the run was made with has changed, and what.
        ZooError: As ``evaluate_request``.
    """
    started = time.perf_counter()
    request = replace(recorded_request(run_dir.path), out=run_dir.path)
    _refuse(run_dir, record, _program_here(record, host))  # before data are read, which takes long
    host.recorded_model(record.model, record.registry)  # of a registry file that was given for the run's own call
    with provenance.fixed_threads(record.environment.torch_threads):
        job = prepare(
            request, host, reporter, evaluate=record.evaluate, resumes=True, measured=record.measured_runtimes
        )
        here = new_record(job, evaluate=record.evaluate, prepare_seconds=0.0)
        _refuse(run_dir, record, here)
        warnings = [
            f"The run was resumed on another {difference.what}: {difference.theirs} instead of {difference.mine}. On "
            "one machine its last digits may differ."
            for difference in record.differences(here, "resume")
        ]
        resumed = resumed_record(
            record,
            "interrupted" if record.status == "running" else record.status,
            warnings=warnings,
            prepare_seconds=time.perf_counter() - started,
        )
        return execute(job, run_dir, resumed, host, reporter, write_report=write_report if record.evaluate else None)


def program_changes(record: RunRecord, host: PluginHost) -> list[str]:
    """List what has changed in the program since a run, so that its predictions cannot be completed any more."""
    here = _program_here(record, host)
    return [str(difference) for difference in record.differences(here, "resume") if difference.refused]


def _program_here(record: RunRecord, host: PluginHost) -> RunRecord:
    """Return the record with this program's sources, the versions of its libraries, and its kernel variables."""
    here = provenance.environment("cpu", record.environment.packages)
    sources = sources_here(host, record.sources, None)
    if REGISTRY_ENTRY in record.sources:  # compared with the whole of the new record
        sources[REGISTRY_ENTRY] = record.sources[REGISTRY_ENTRY]
    return replace(
        record,
        zoo_eval=__version__,
        sources=sources,
        environment=replace(
            record.environment,
            python=here.python,
            packages=here.packages,
            environment_variables=here.environment_variables,
        ),
    )


def _refuse(run_dir: RunDirectory, record: RunRecord, here: RunRecord) -> None:
    changed = [str(difference) for difference in record.differences(here, "resume") if difference.refused]
    if changed:
        listing = "\n  ".join(changed)
        raise RunError(
            f"The run in {run_dir.path} cannot be resumed: what it was made with has changed.\n  {listing}",
            fix="restore what has changed, or start a new run.",
        )
