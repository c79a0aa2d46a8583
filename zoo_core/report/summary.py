"""Writes the paragraph for a mail: model, data, verdict, values and conditions of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.comparison.verdict import verdict
from zoo_core.display import page_percent
from zoo_core.report.sections import headline, headline_measure, headline_value
from zoo_core.runs.lenient import ReadableRecord

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun
    from zoo_core.runs.parts import StageScores


def summary(run: LoadedRun) -> str:
    """Describe the run in one paragraph, the verdict first."""
    sentences = [*verdict(run.metrics), _subject(run)]
    protocol = headline(run)
    values = [_value(name, stage, protocol) for name, stage in run.own_stages.items()]
    if values:
        sentences.append(
            f"{headline_measure(run).overall} under {protocol or 'an unknown protocol'}: {'; '.join(values)}."
        )
    return " ".join([*sentences, *_conditions(run.record)])


def _subject(run: LoadedRun) -> str:
    record, dataset = run.record, run.record.dataset
    model = run.metrics.model or record.model or "The model"
    checkpoint = f" (checkpoint SHA-256 {record.checkpoint.sha256[:12]}…)" if record.checkpoint is not None else ""
    where = "data that the record does not name" if dataset is None else f"{dataset.name} {dataset.split}"
    num_images = "" if run.metrics.num_images is None else f", {run.metrics.num_images} images"
    part = f" of {dataset.num_images_in_split} (a limited run)" if dataset is not None and dataset.limited else ""
    return f"{model}{checkpoint} was evaluated on {where}{num_images}{part}."


def _value(name: str, stage: StageScores, protocol: str) -> str:
    value = headline_value(stage, protocol)
    return f"{name} undefined" if value is None else f"{name} {page_percent(value)} %"


def _conditions(record: ReadableRecord) -> list[str]:
    recipe, calibration, settings, sentences = record.recipe, record.calibration, record.settings, []
    if recipe is not None:
        num = "" if calibration is None else f", calibrated on {calibration.num_images} images of {calibration.split}"
        sentences.append(f"Recipe {recipe.name} ({recipe.quant_scheme}){num}.")
    packages = record.environment.packages if record.environment is not None else {}
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "aimet-torch") if name in packages)
    by = f"zoo-eval {record.zoo_eval or 'of unknown version'}{f' ({versions})' if versions else ''}"
    how = "" if settings is None else f", batch size {settings.batch_size} on {settings.device}"
    sentences.append(f"Quantization is simulated, by {by}{how}.")
    if record.finished is not None:
        sentences.append(f"Finished {record.finished[:10]}.")
    return sentences
