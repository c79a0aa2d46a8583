"""A run that was interrupted goes on in its own directory, or says what has changed since."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo_core import provenance
from zoo_core.errors import RunError
from zoo_core.evaluation.prepare import prepare
from zoo_core.evaluation.record import Record, given_facts
from zoo_core.evaluation.replay import recorded_request
from zoo_core.evaluation.request import Reporter, SilentReporter
from zoo_core.evaluation.run import EvaluationResult, WriteReport, carry_out, tell_plugins
from zoo_core.plugins import PluginHost
from zoo_core.runs.directory import RunDirectory
from zoo_core.version import __version__

_COMPARED = (
    ("zoo-eval", "zoo_eval"),
    ("source code", "git.commit"),
    ("Python", "environment.python"),
    ("libraries", "environment.packages"),
    ("headline protocol", "headline"),
    ("stages", "settings.stages"),
    ("device", "settings.device"),
    ("recipe", "recipe.sha256"),
    ("AIMET configuration", "recipe.config_sha256"),
    ("weights", "checkpoint.sha256"),
    ("optimized weights", "optimized_checkpoint.sha256"),
    ("classes", "dataset.class_names"),
    ("images to evaluate", "dataset.image_ids_sha256"),
    ("evaluated images or annotations", "dataset.fingerprint"),
    ("images to calibrate on", "calibration.ids"),
    ("calibration images or annotations", "calibration.fingerprint"),
)
"""What must be as it was, for people and in ``run.json``."""

_HARDWARE = (("processor", "environment.processor"), ("device", "environment.device_name"))


def resume_run(
    path: Path,
    *,
    host: PluginHost | None = None,
    reporter: Reporter | None = None,
    write_report: WriteReport | None = None,
) -> EvaluationResult:
    """Go on with a run that was interrupted, killed or failed, as it was asked for then.

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
        content = _read(run_dir)
        if content.get("status") == "complete":
            return _complete(run_dir, content, host, reporter, write_report)
        return _go_on(run_dir, content, host, reporter, write_report)


def _read(run_dir: RunDirectory) -> dict[str, Any]:
    if run_dir.path.is_dir() and not (run_dir.path / "run.json").exists():
        raise RunError(
            f"{run_dir.path} holds no run.json: no run has begun there.",
            fix="name a run directory, or give the run's own command again.",
        )
    return run_dir.read_json("run.json")


def _complete(
    run_dir: RunDirectory,
    content: dict[str, Any],
    host: PluginHost,
    reporter: Reporter,
    write_report: WriteReport | None,
) -> EvaluationResult:
    reporter.say(f"{run_dir.path} is complete; there is nothing to go on with.")
    metrics = run_dir.read_json("metrics.json") if content.get("evaluate", True) else {}
    if write_report is not None and metrics and not (run_dir.path / "report.html").exists():
        write_report(run_dir.path)
    if content.get("plugins_told") is False:  # killed between its last record and them
        for text in tell_plugins(host, run_dir, content, metrics):
            reporter.warn(text)
        content["plugins_told"] = True
        run_dir.write_json("run.json", content)
    run_dir.forget_lock()
    return EvaluationResult(run_dir=run_dir.path, record=content, metrics=metrics)


def _go_on(
    run_dir: RunDirectory,
    content: dict[str, Any],
    host: PluginHost,
    reporter: Reporter,
    write_report: WriteReport | None,
) -> EvaluationResult:
    started = time.perf_counter()
    request = replace(recorded_request(run_dir.path), out=run_dir.path)
    _refuse(run_dir, _changed(content, _here(content)))  # before anything long: other libraries need no reading of data
    evaluate = content.get("evaluate") is not False
    with recorded_threads(content):
        job = prepare(request, host, reporter, evaluate=evaluate, resumes=True)
        found = given_facts(job)
        _refuse(run_dir, _changed(content, found))
        hardware = [
            f"The run was resumed on another {what}: {now} instead of {was}. On one machine its last digits may differ."
            for what, was, now in _differences(content, found, _HARDWARE)
        ]
        status = "failed" if content.get("status") == "failed" else "interrupted"
        going = Record.gone_on(content, status, warnings=hardware)
        going["seconds"] = {**content["seconds"], "prepare_again": time.perf_counter() - started}
        return carry_out(job, run_dir, going, host, reporter, write_report=write_report if evaluate else None)


def _here(content: Mapping[str, Any]) -> dict[str, Any]:
    """What can be said of this program and machine before data and weights are read; the rest as recorded."""
    here = provenance.environment("cpu")
    return {
        **content,
        "zoo_eval": __version__,
        "git": provenance.git_state(Path(__file__)),
        "environment": {**content.get("environment", {}), "python": here["python"], "packages": here["packages"]},
    }


def _refuse(run_dir: RunDirectory, changed: Sequence[str]) -> None:
    if changed:
        listing = "\n  ".join(changed)
        raise RunError(
            f"The run in {run_dir.path} cannot go on: what it was made with has changed.\n  {listing}",
            fix="put back what has changed, or start a new run.",
        )


def _changed(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return [f"{what}: {_words(was, now)}" for what, was, now in _differences(recorded, found, _COMPARED)]


def _differences(
    recorded: Mapping[str, Any], found: Mapping[str, Any], places: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, Any, Any]]:
    for what, place in places:
        was, now = _value(recorded, place), _value(found, place)
        if was != now:
            yield what, was, now


def _value(content: Mapping[str, Any], place: str) -> Any:
    value: Any = content
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _words(was: Any, now: Any) -> str:
    """What changed, short: entries of tables and lists that differ, the first digits of hashes."""
    if isinstance(was, dict) and isinstance(now, dict):
        names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        return ", ".join(f"{name} {now.get(name) or 'none'} instead of {was.get(name) or 'none'}" for name in names)
    if isinstance(was, list) and isinstance(now, list):
        gone, new = [item for item in was if item not in now], [item for item in now if item not in was]
        return f"{_some(gone)} gone, {_some(new)} new" if gone or new else "in another order"
    return f"{_short(now)} instead of {_short(was)}"


def _some(items: Sequence[Any]) -> str:
    return f"{len(items)} ({items[0]}{', ...' if len(items) > 1 else ''})" if items else "none"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) in {40, 64} else text


@contextmanager
def recorded_threads(content: Mapping[str, Any]) -> Iterator[None]:
    """Compute with as many threads as the run did: the order in which a sum is taken can depend on their number."""
    import torch

    before = torch.get_num_threads()
    recorded = _value(content, "environment.torch_threads")
    torch.set_num_threads(recorded if isinstance(recorded, int) and recorded > 0 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
