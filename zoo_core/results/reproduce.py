"""Repeats a run from its record and compares the predictions byte by byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.comparison.identity import ByteChanges, byte_changes
from zoo_core.errors import RunError
from zoo_core.evaluation.replay import recorded_request
from zoo_core.evaluation.run import evaluate_request
from zoo_core.results.stored import StoredRun, open_run
from zoo_core.results.verify import verify_inputs
from zoo_core.runs.hashes import INPUTS
from zoo_core.runs.provenance import fixed_threads
from zoo_core.runs.rows import Row, text_table

if TYPE_CHECKING:
    from zoo_core.datatypes import Prediction
    from zoo_core.evaluation.request import Reporter
    from zoo_core.plugins import PluginHost
    from zoo_core.runs.record import RunRecord
    from zoo_core.runs.request import EvaluationRequest

_SETTLED_BY_THE_RUN = ("recipe", "configuration")
"""Checks that do not matter to another run: it takes the kept copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceRequest:
    """A run to repeat; the fields are the parameters of ``zoo_core.api.reproduce``, which documents them."""

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
        after: Its headline value in the new run.
        predictions: Differences of the predictions, byte for byte.
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
    def change(self) -> float | None:
        """Headline value after minus before, so negative is worse; None where one is undefined."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Reproduced:
    """A run and its repetition.

    Attributes:
        run: The run directory.
        again: The new run's.
        headline: Protocol of the values.
        stages: Each once, whatever names it has.
        conditions: Conditions that differ from the run's, as text: libraries, machine, weights, data.
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

    def rows(self) -> list[Row]:
        """One row per stage, for ``pandas.DataFrame``."""
        return [
            {
                "stage": stage.name,
                "before": stage.before,
                "after": stage.after,
                "change": stage.change,
                "num_images": stage.predictions.num_images,
                "num_images_changed": len(stage.predictions.changed),
                "num_predictions": stage.predictions.num_rows,
                "num_predictions_changed": stage.predictions.num_rows_changed,
            }
            for stage in self.stages
        ]

    def __repr__(self) -> str:
        title = f"{self.run}, {self.headline}: {'identical' if self.identical else 'not identical'}"
        return "\n".join([text_table(title, self.rows()), *self.conditions])


def reproduce(request: ReproduceRequest, host: PluginHost, reporter: Reporter) -> Reproduced:
    """Repeat a run from its record and compare both, stage by stage and image by image.

    The recipe and the labels are the run's own copies, and every step is computed again: the cache of slow steps is
    not used.

    Raises:
        RunError: The run is not complete, or its record is not valid.
        ZooError: As any run: data or weights are missing.
    """
    run = open_run(request.run)
    if run.status != "complete" or run.metrics is None or not run.stages:
        raise RunError(
            f"The run in {run.path} cannot be reproduced: its status is {run.status!r} and it has "
            f"{len(run.stages)} stages with predictions.",
            fix="name a complete run of `zoo-eval run`.",
        )
    # Before the new run, which fails where the data are gone.
    conditions = [
        f"{check.what}: {check.message}"
        for check in verify_inputs(run, host, data=request.data)
        if check.state == "stale" and check.what not in _SETTLED_BY_THE_RUN
    ]
    for text in conditions:
        reporter.warn(text)
    host.recorded_model(run.record.model, run.record.registry)
    with fixed_threads(run.record.environment.torch_threads):
        result = evaluate_request(_request(request, run.record), host=host, reporter=reporter)
    again = open_run(result.run_dir)
    conditions += _changed_conditions(run.record, again.record)
    return Reproduced(
        run=run.path,
        again=again.path,
        headline=run.record.headline,
        stages=[_stage(run, again, name, host) for name, folder in run.stages.items() if name == folder],
        conditions=conditions,
    )


def _request(request: ReproduceRequest, record: RunRecord) -> EvaluationRequest:
    kept = (request.run / INPUTS).is_dir()  # runs of earlier versions have none
    recorded = recorded_request(request.run, kept=kept)
    return replace(
        recorded,
        out=request.out,
        data=request.data or recorded.data,
        checkpoint=request.checkpoint or recorded.checkpoint,
        workers=recorded.workers if request.workers is None else request.workers,
        batch_size=request.batch_size or recorded.batch_size,
        offline=request.offline or recorded.offline,
        runtime=record.float_runtime,
        cache=False,
        batch_sizes=(),
        command=("zoo-eval", "reproduce", str(request.run.absolute())),
    )


def _changed_conditions(record: RunRecord, again: RunRecord) -> list[str]:
    """Differences of machine and settings between two records."""
    conditions = [str(difference) for difference in record.differences(again, "reproduce")]
    # A stage has a batch size of its own where memory did not suffice for that of the run.
    for name, stage in record.stages.items():
        size = again.stages[name].batch_size if name in again.stages else again.settings.batch_size
        if stage.batch_size not in (record.settings.batch_size, size):
            conditions.append(f"batch size of {name}: {size} instead of {stage.batch_size}, at which memory sufficed")
    return conditions


def _stage(run: StoredRun, again: StoredRun, name: str, host: PluginHost) -> ReproducedStage:
    task = host.task(host.recorded_model(run.record.model, run.record.registry))
    before, after = (one.predictions(name, task.prediction_type) for one in (run, again))
    return ReproducedStage(
        name=name,
        before=_headline(run, name),
        after=_headline(again, name),
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


def _headline(run: StoredRun, stage: str) -> float | None:
    scores = run.complete_metrics.stages[stage].scores
    return scores[run.record.headline].headline if run.record.headline in scores else None
