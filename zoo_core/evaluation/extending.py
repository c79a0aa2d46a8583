"""Adds runtimes to a finished run: in a copy of it, or, for other images or another program, in a new run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from zoo_core.comparison.stages import deployed_name, is_optimized
from zoo_core.errors import DataError, RunError
from zoo_core.evaluation.replay import recorded_request
from zoo_core.evaluation.resume import continue_run, program_changes
from zoo_core.evaluation.run import evaluate_request
from zoo_core.evaluation.runtimes import usable_runtimes
from zoo_core.quantization import pipeline
from zoo_core.recipes import load_recipe
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.hashes import INPUTS, METRICS, MODEL, QUANTIZED, is_inside
from zoo_core.runs.record import read_record, record_text

if TYPE_CHECKING:
    from zoo_core.evaluation.request import Reporter
    from zoo_core.evaluation.result import EvaluationResult
    from zoo_core.evaluation.run import WriteReport
    from zoo_core.plugins import PluginHost
    from zoo_core.runs.record import RunRecord
    from zoo_core.runs.request import EvaluationRequest

SIMULATED = "fp32,optimized_w*"
"""Stages that a deployed one is compared with; the second is the recipe's network, whatever its bit widths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployRequest:
    """Options of ``zoo_core.api.deploy`` for a run."""

    run: Path
    runtimes: tuple[str, ...]
    allow_fallback: bool = False
    limit: int | None = None
    data: Path | None = None
    out: Path | None = None
    offline: bool = False
    command: tuple[str, ...] = ()


def deploy_run(
    request: DeployRequest, *, host: PluginHost, reporter: Reporter, write_report: WriteReport | None
) -> EvaluationResult:
    """Evaluate the quantized network of a finished run on runtimes, in a run directory of its own.

    The new directory starts as a copy of the run, so that only the named runtimes are computed, again if the run has
    them. With a limit, other data or another version of the program it is a new run with the options of the old one.

    Raises:
        RunError: The run is not complete.
        DataError: Its data are gone.
        RuntimeUnsupportedError: A runtime cannot be used here, or cannot execute the network.
        ZooError: As ``evaluate_request``.
    """
    record = read_record(request.run)
    status = RunDirectory(request.run.absolute()).true_status(record.status)
    if status != "complete":
        raise RunError(
            f"The run in {request.run} is not complete: its status is {status!r}.",
            fix=f"finish it first: {RunDirectory(request.run).resume_command}",
        )
    plan = pipeline.plan(load_recipe(request.run / INPUTS / "recipe.yaml"), host.recipe_steps())
    usable_runtimes(host, request.runtimes, plan)  # before anything is copied
    host.recorded_model(record.model, record.registry)
    data = record.request.data
    if request.data is None and data is not None and not data.exists():
        raise DataError(f"The data of {request.run} are no longer at {data}.", fix="name their place with --data.")
    reason = _reason_to_run_again(request, record, host)
    if reason is not None:
        reporter.say(f"The network of {request.run} is quantized and simulated again: {reason}.")
        return evaluate_request(_new_request(request, record), host=host, reporter=reporter, write_report=write_report)
    run_dir = RunDirectory.create(request.out, record.model)
    with run_dir.locked():
        run_dir.refuse_a_record()
        extended = _extended(request, record)
        _copy(request.run, run_dir.path, extended)
        run_dir.write_text("run.json", record_text(extended))
        return continue_run(run_dir, extended, host, reporter, write_report)


def _reason_to_run_again(request: DeployRequest, record: RunRecord, host: PluginHost) -> str | None:
    if not record.evaluate:
        return "the run has not evaluated anything"
    if request.limit is not None and request.limit < record.dataset.num_images:
        return f"the run has {record.dataset.num_images} images, and {request.limit} are asked for"
    if request.data is not None:
        return "other data are given"
    if not any(is_optimized(stage) for stage in record.settings.stages):
        return "the run has no optimized quantized stage"
    if f"{QUANTIZED}/{MODEL}" not in (record.files or {}):
        return "the run has no exported network"
    changes = program_changes(record, host)
    return f"the program has changed since ({'; '.join(changes)})" if changes else None


def _new_request(request: DeployRequest, record: RunRecord) -> EvaluationRequest:
    recorded = recorded_request(request.run, kept=True)
    return replace(
        recorded,
        runtime=record.float_runtime,
        runtimes=request.runtimes,
        allow_fallback=request.allow_fallback,
        stages=SIMULATED,
        batch_sizes=(),
        limit=request.limit if request.limit is not None else recorded.limit,
        data=request.data or recorded.data,
        out=request.out,
        offline=request.offline or recorded.offline,
        command=request.command,
    )


def _extended(request: DeployRequest, record: RunRecord) -> RunRecord:
    """Return the record of the copy: that of the run, with the stages of the named runtimes still to be computed."""
    runtimes = tuple(dict.fromkeys([*record.request.runtimes, *request.runtimes]))
    kept = {
        name: stage
        for name, stage in record.stages.items()
        if stage.deployment is None or stage.deployment.runtime not in request.runtimes
    }
    again = record.stages.keys() - kept.keys()
    simulated = next(filter(is_optimized, record.settings.stages))
    stages = dict.fromkeys([*record.settings.stages, *(deployed_name(simulated, name) for name in runtimes)])
    files = {
        name: digest
        for name, digest in (record.files or {}).items()
        if name != METRICS and is_inside(name) and not set(PurePosixPath(name).parts) & again
    }
    return replace(
        record,
        request=replace(
            record.request,
            runtimes=runtimes,
            allow_fallback=request.allow_fallback
            or any(stage.deployment is not None and stage.deployment.allow_fallback for stage in kept.values()),
            command=request.command,
        ),
        settings=replace(record.settings, stages=tuple(stages)),
        stages=kept,
        files=files,
        plugins_notified=False,
    )


def _copy(source: Path, target: Path, record: RunRecord) -> None:
    """Copy the files of the extended record; the copy is checked against their hashes when the run goes on."""
    try:
        for name in record.files or {}:
            if not (source / name).is_file():
                continue
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    except OSError as error:
        raise RunError(
            f"{source} cannot be copied to {target}: {error}", fix="make room, or name another directory with --out."
        ) from error
