"""A run made again from its record, and whether it gave the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.comparison.identity import ByteChanges, byte_changes
from zoo_core.errors import RunError
from zoo_core.evaluation.replay import INPUTS, recorded_request
from zoo_core.evaluation.resume import recorded_threads
from zoo_core.evaluation.run import evaluate_request
from zoo_core.results.stored import StoredRun, open_run
from zoo_core.results.verify import verify
from zoo_core.runs.directory import RunDirectory

if TYPE_CHECKING:
    from zoo_core.datatypes import Prediction
    from zoo_core.evaluation.request import EvaluationRequest, Reporter
    from zoo_core.plugins import PluginHost

_SETTLED_BY_THE_RUN = ("record", "scores", "recipe", "configuration")
"""Checks of a record that say nothing of another run: it has a record of its own, and the kept recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceRequest:
    """Which run to make again, and where; None means what the run was told.

    Attributes:
        run: A complete run directory.
        out: Directory of the new run; None for one below ``runs``.
        data: Root of the dataset, where it has moved.
        checkpoint: The original weights, where they have moved.
        workers: Threads that decode images; they never change a byte.
        batch_size: Images per forward pass, to see what that moves.
        offline: Download nothing.
    """

    run: Path
    out: Path | None = None
    data: Path | None = None
    checkpoint: Path | None = None
    workers: int | None = None
    batch_size: int | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproducedStage:
    """One stage of the two runs.

    Attributes:
        name: Of the stage.
        before: Its headline value in the run; None where undefined.
        after: In the new run.
        predictions: How they differ.
    """

    name: str
    before: float | None
    after: float | None
    predictions: ByteChanges

    @property
    def identical(self) -> bool:
        """Every prediction has the same bytes, and the headline value the same digits."""
        return self.predictions.identical and self.before == self.after

    @property
    def difference(self) -> float | None:
        """Headline value after minus before."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """A run and the one made again from its record.

    Attributes:
        run: The run directory.
        again: The new run's.
        headline: Protocol of the values.
        stages: Each once, whatever names it has.
        conditions: What was not as in the run, in sentences: libraries, machine, weights, data.
    """

    run: Path
    again: Path
    headline: str
    stages: Sequence[ReproducedStage]
    conditions: Sequence[str]

    @property
    def identical(self) -> bool:
        """Every stage gave the same bytes."""
        return all(stage.identical for stage in self.stages)


def reproduce(request: ReproduceRequest, host: PluginHost, reporter: Reporter) -> Reproduced:
    """Run a run again from its record and compare, stage by stage and image by image.

    The recipe and the labels are the run's own copies, and nothing comes from the cache of slow steps: every step is
    computed anew.

    Raises:
        RunError: The run is not complete, or its record does not say what was asked for.
        ZooError: As a run of its own: data or weights are not there any more.
    """
    run = open_run(request.run)
    if run.status != "complete" or run.metrics is None or not run.stages:
        raise RunError(
            f"The run in {run.path} cannot be reproduced: its status is {run.status!r} and it has "
            f"{len(run.stages)} stages with predictions.",
            fix="name a complete run of `zoo-eval run`.",
        )
    # Before the new run, which fails where what is said here is that the data are gone.
    conditions = [
        f"{check.what}: {check.words}"
        for check in verify(run, host, data=request.data)
        if check.state == "stale" and check.what not in _SETTLED_BY_THE_RUN
    ]
    for text in conditions:
        reporter.warn(text)
    with recorded_threads(RunDirectory(run.path).read_json("run.json")):
        result = evaluate_request(_request(request), host=host, reporter=reporter)
    again = open_run(result.run_dir)
    conditions += _machine(run, again)
    headline = run.needed("headline")
    return Reproduced(
        run=run.path,
        again=again.path,
        headline=headline,
        stages=[_stage(run, again, name, headline, host) for name, folder in run.stages.items() if name == folder],
        conditions=conditions,
    )


def _request(request: ReproduceRequest) -> EvaluationRequest:
    kept = (request.run / INPUTS).is_dir()  # runs of earlier versions have none
    found = recorded_request(request.run, kept=kept)
    return replace(
        found,
        out=request.out,
        data=request.data or found.data,
        checkpoint=request.checkpoint or found.checkpoint,
        workers=found.workers if request.workers is None else request.workers,
        batch_size=request.batch_size or found.batch_size,
        offline=request.offline or found.offline,
        cache=False,
        batch_sizes=(),
        command=("zoo-eval", "reproduce", str(request.run.absolute())),
    )


def _machine(run: StoredRun, again: StoredRun) -> list[str]:
    """What of machine and settings differs between the records."""
    found = []
    for key, what in (("processor", "processor"), ("torch_threads", "threads of torch"), ("device", "device")):
        before, after = (_shown(one, "environment", key) for one in (run, again))
        if before != after:
            found.append(f"{what}: {after} instead of {before}")
    before, after = (_shown(one, "settings", "batch_size") for one in (run, again))
    if before != after:
        found.append(f"batch size: {after} instead of {before}")
    for name, stage in run.record.objects("stages").items():
        restarted = stage.number("batch_size")
        if restarted is not None and f"{restarted:g}" != before:
            found.append(f"batch size of {name}: {after} instead of {restarted:g}, at which memory sufficed")
    return found


def _shown(run: StoredRun, part: str, key: str) -> str:
    facts = run.record.object(part)
    number = facts.number(key) if key in ("batch_size", "torch_threads") else None
    return f"{number:g}" if number is not None else facts.text(key) or "unknown"


def _stage(run: StoredRun, again: StoredRun, name: str, headline: str, host: PluginHost) -> ReproducedStage:
    task = host.task(host.model(run.needed("model")))
    before, after = (one.predictions(name, task.prediction_type) for one in (run, again))
    return ReproducedStage(
        name=name,
        before=_value(run, name, headline),
        after=_value(again, name, headline),
        predictions=byte_changes(_pairs(run, again, before, after), by_row=task.may_be_empty),
    )


def _pairs(
    run: StoredRun, again: StoredRun, before: Mapping[str, Prediction], after: Mapping[str, Prediction]
) -> Iterator[tuple[str, Prediction, Prediction]]:
    if run.image_ids != again.image_ids:
        raise RunError(
            f"The runs in {run.path} and {again.path} evaluated other images: {len(run.image_ids)} and "
            f"{len(again.image_ids)}.",
            fix="give the run's own data with --data.",
        )
    return ((image_id, before[image_id], after[image_id]) for image_id in run.image_ids)


def _value(run: StoredRun, stage: str, headline: str) -> float | None:
    if run.metrics is None:
        return None
    values = run.metrics.objects("stages")[stage].object("metrics").object(headline)
    key = next((name for name in values if name != "per_class"), None)
    return None if key is None else values.number(key)
