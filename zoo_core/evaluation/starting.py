"""Creates the initial record of a new run or of a resumed one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core import artifacts
from zoo_core.runs import provenance
from zoo_core.runs.migration import SCHEMA
from zoo_core.runs.parts import (
    CalibrationRecord,
    CheckpointRecord,
    DatasetRecord,
    RecipeRecord,
    ResumeRecord,
    SettingsRecord,
    Status,
)
from zoo_core.runs.provenance import utc_now
from zoo_core.runs.record import RunRecord
from zoo_core.version import __version__

if TYPE_CHECKING:
    from zoo_core.datatypes import Checkpoint
    from zoo_core.evaluation.prepare import Job


def new_record(job: Job, *, evaluate: bool, prepare_seconds: float) -> RunRecord:
    """Return the initial record of a run: request, inputs and machine."""
    return RunRecord(
        schema=SCHEMA,
        zoo_eval=__version__,
        model=job.entry.model_id,
        plugin=job.entry.plugin,
        task=job.entry.task,
        registry=str(job.entry.source),
        headline=job.entry.headline,
        request=job.request,
        settings=SettingsRecord(
            batch_size=job.settings.batch_size,
            workers=job.settings.workers,
            device=job.settings.device,
            runtime=job.request.runtime,
            seed=job.request.seed,
            recipe=job.request.recipe or job.entry.recipe,
            stages=tuple(stage.name for stage in job.stages),
        ),
        recipe=_recipe(job),
        checkpoint=_checkpoint(job.checkpoint),
        optimized_checkpoint=None if job.optimized_checkpoint is None else _checkpoint(job.optimized_checkpoint),
        dataset=_dataset(job),
        calibration=_calibration(job),
        environment=provenance.environment(job.settings.device, job.program.packages),
        sources=job.program.sources,
        git=provenance.git_state(Path(__file__)),
        evaluate=evaluate,
        status="running",
        started=utc_now(),
        finished=None,
        error=None,
        resumed=(),
        steps=(),
        simulations={},
        stages={},
        seconds={"prepare": prepare_seconds},
        warnings=(),
        files={},
        plugins_notified=False,
    )


def resumed_record(record: RunRecord, status: Status, *, warnings: Sequence[str], prepare_seconds: float) -> RunRecord:
    """Return the record with which an interrupted, failed or extended run continues.

    Args:
        record: As the run left it.
        status: How the run ended: ``interrupted``, ``failed``, or ``complete`` if it is extended.
        warnings: Effects of resuming on the scores.
        prepare_seconds: Time spent preparing the run again.
    """
    entry = ResumeRecord(
        at=utc_now(), after=status, stopped=record.finished, error=record.error, warnings=tuple(warnings)
    )
    return replace(
        record,
        status="running",
        finished=None,
        error=None,
        resumed=(*record.resumed, entry),
        seconds={**record.seconds, "prepare_again": prepare_seconds},
    )


def _recipe(job: Job) -> RecipeRecord:
    recipe, quant = job.plan.recipe, job.plan.quant
    return RecipeRecord(
        name=recipe.name,
        description=recipe.description,
        source=str(recipe.source.absolute()),
        sha256=recipe.sha256,
        overrides=job.request.settings,
        steps=tuple({"step": spec.step, **spec.params} for spec in recipe.steps),
        param_bw=quant.param_bw,
        output_bw=quant.output_bw,
        quant_scheme=quant.quant_scheme,
        config_sha256=artifacts.sha256_of(quant.config_file),
    )


def _checkpoint(checkpoint: Checkpoint) -> CheckpointRecord:
    return CheckpointRecord(path=str(checkpoint.path), sha256=checkpoint.sha256, optimized=checkpoint.optimized)


def _dataset(job: Job) -> DatasetRecord:
    data = job.data
    return DatasetRecord(
        name=data.dataset.name,
        root=str(data.dataset.root.absolute()),
        split=data.dataset.split,
        num_images=len(data.image_ids),
        num_images_in_split=len(data.dataset.ids),
        limited=data.limited,
        fingerprint=data.fingerprint,
        image_ids_sha256=hash_of_ids(data.image_ids),
        split_ids_sha256=hash_of_ids(data.dataset.ids),
        class_names=tuple(data.dataset.class_names),
    )


def hash_of_ids(image_ids: Sequence[str]) -> str:
    """Return the SHA-256 of image ids in their order."""
    return hashlib.sha256("\n".join(image_ids).encode(errors="surrogatepass")).hexdigest()


def _calibration(job: Job) -> CalibrationRecord | None:
    draw, dataset = job.calibration, job.calibration_dataset
    if draw is None or dataset is None:
        return None
    return CalibrationRecord(
        split=dataset.split,
        seed=job.request.seed,
        requested=draw.requested,
        num_images=len(draw.ids),
        num_available=draw.available,
        overlap=tuple(draw.overlap),
        alike=tuple(draw.alike),
        fingerprint=job.calibration_fingerprint,
        ids=tuple(draw.ids),
    )
