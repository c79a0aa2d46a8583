"""Decides if a run can be compared with any reference of its model, and names its unusual conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.evaluation.request import DEFAULT_BATCH_SIZE
from zoo_core.runs.request import AUTO
from zoo_core.runtimes import TORCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo_core.datatypes import ModelEntry
    from zoo_core.results.stored import StoredRun
    from zoo_core.runs.parts import DatasetRecord
    from zoo_core.runs.record import RunRecord

_DIGITS = 12
"""Digits of a hash that sentences show."""


def obstacles(run: StoredRun, entry: ModelEntry) -> list[str]:
    """List in sentences why no value of the run can be compared with a reference; empty if nothing forbids it."""
    found = []
    if run.status != "complete":
        found.append(f"The run is not complete: its status is {run.status!r}.")
    elif run.metrics is None:
        found.append("The run has no metrics.json: it only quantized, or the file is gone.")
    record, dataset = run.record, run.record.dataset
    limited = dataset.limited or (run.metrics is not None and run.metrics.limited)
    if limited or dataset.num_images != dataset.num_images_in_split:
        found.append(
            f"The run is limited: {dataset.num_images} of the {dataset.num_images_in_split} images of the split."
        )
    else:
        found += _other_images(dataset, entry)
    if dataset.split != entry.dataset.split:
        found.append(f"The run evaluated split {dataset.split!r}; references are for {entry.dataset.split!r}.")
    found += _other_metrics(run)
    if record.calibration is not None and record.calibration.overlap:
        found.append(f"{len(record.calibration.overlap)} calibration images belong to the evaluated split.")
    found += [f"The step {step.step} was cut short: {step.summary}." for step in record.steps if step.short]
    return found


def _other_images(dataset: DatasetRecord, entry: ModelEntry) -> Iterator[str]:
    known = entry.dataset
    if known.num_images is None and not known.fingerprints and entry.references:
        yield (
            f"The registry ({entry.source}) does not name the images of the references of {entry.model_id!r}, so any "
            f"images would do: write `num_images` below `dataset`. The run evaluated {dataset.num_images}."
        )
    if known.num_images is not None and dataset.num_images != known.num_images:
        yield f"The run evaluated {dataset.num_images} images; the references were measured on {known.num_images}."
    elif known.fingerprints and dataset.fingerprint not in known.fingerprints:
        expected = " or ".join(fingerprint[:_DIGITS] for fingerprint in known.fingerprints)
        yield (
            "The run evaluated other images or annotations than the references: their fingerprint is "
            f"{dataset.fingerprint[:_DIGITS]} instead of {expected}."
        )


def _other_metrics(run: StoredRun) -> Iterator[str]:
    """Name what in ``metrics.json`` contradicts ``run.json``: such scores are another run's."""
    metrics, record = run.metrics, run.record
    if metrics is None:
        return
    pairs = (
        ("model", metrics.model, record.model),
        ("num_images", metrics.num_images, record.dataset.num_images),
        ("fingerprint", metrics.fingerprint, record.dataset.fingerprint),
        *((f"num_images of {name}", stage.num_images, metrics.num_images) for name, stage in metrics.stages.items()),
    )
    for what, scored, recorded in pairs:
        if scored != recorded:
            yield f"metrics.json does not belong to the run: its {what} is {scored} instead of {recorded}."


def notes(run: StoredRun, entry: ModelEntry) -> list[str]:
    """List in sentences the conditions of a run that no reference states, where they are not the usual ones."""
    record, found = run.record, []
    if record.calibration is not None and record.calibration.alike:
        found.append(f"{len(record.calibration.alike)} calibration images look like evaluated ones.")
    found += _other_weights(record, entry)
    settings, request = record.settings, record.request
    if request.labels is not None:
        found.append(f"The {len(record.dataset.class_names)} classes of the run are those of --labels.")
    if settings.runtime not in (AUTO, TORCH):
        found.append(f"Float stages were computed with {settings.runtime}.")
    device = settings.device.split(":")[0]
    if device != "cpu":
        name = record.environment.device_name
        found.append(f"The run was computed on {settings.device}{f' ({name})' if name else ''}.")
    if settings.batch_size != DEFAULT_BATCH_SIZE.get(device):
        found.append(f"The batch size was {settings.batch_size}.")
    if settings.seed != 0:
        found.append(f"The seed was {settings.seed}, not the default 0.")
    for resumed in record.resumed:
        found += resumed.warnings
    for stage in record.stages.values():
        found += stage.warnings
    return list(dict.fromkeys(found))


def _other_weights(record: RunRecord, entry: ModelEntry) -> Iterator[str]:
    published, used = entry.checkpoint, record.checkpoint
    known = (published.sha256 or published.sha256_prefix) if published is not None else None
    if known is None and record.request.checkpoint is not None:
        yield "The weights were given with --checkpoint; the registry has no hash to compare them with."
    if known is not None and used is not None and not used.sha256.startswith(known):
        yield (
            f"The weights are not the registry's: their SHA-256 is {used.sha256[:_DIGITS]} instead of "
            f"{known[:_DIGITS]}."
        )
