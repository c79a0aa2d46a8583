"""Writes command lines for a shell: the one that repeats a run, and the one that started it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun


def reproducing_command(run: LoadedRun) -> str:
    """Write a command that repeats the run, every default spelled out; empty where the record has no request."""
    record, request, settings = run.record, run.record.request, run.record.settings
    if record.model is None or request is None:
        return ""
    checkpoint = request.checkpoint or (record.checkpoint.path if record.checkpoint is not None else None)
    values = {
        "--data": record.dataset.root if record.dataset is not None else request.data,
        "--checkpoint": checkpoint,
        "--optimized-checkpoint": request.optimized_checkpoint,
        "--labels": request.labels,
        "--recipe": request.recipe,
        "--split": request.split,
        "--ids": request.ids_file,
        "--calibration-split": request.calibration_split,
        "--stages": ",".join(settings.stages) if settings is not None else request.stages,
        "--limit": request.limit,
        "--calibration-size": request.calibration_size,
        "--workers": request.workers,
        "--seed": request.seed,
        "--batch-size": settings.batch_size if settings is not None else request.batch_size,
        "--device": settings.device if settings is not None else request.device,
        "--runtime": request.runtime,
        "--runtimes": ",".join(request.runtimes) or None,
        "--batch-sizes": ",".join(map(str, request.batch_sizes)) or None,
    }
    words = ["zoo-eval", "run", record.model]
    for option, value in values.items():
        words += [] if value is None else [option, str(value)]
    for override in request.settings:
        words += ["--set", override]
    words += ["--allow-calibration-overlap"] if request.allow_calibration_overlap else []
    words += ["--allow-fallback"] if request.allow_fallback else []
    words += ["--require-full-quantization"] if request.require_full_quantization else []
    return _lines(words)


def recorded_command(run: LoadedRun) -> str:
    """Write the command line as it was given; empty for a run started from Python."""
    return _lines(run.record.request.command) if run.record.request is not None else ""


def _lines(words: Sequence[str]) -> str:
    """Put one option on a line: a browser would break the line inside ``--option``."""
    text = ""
    for word in words:
        start = "" if not text else " \\\n  " if word.startswith("-") else " "
        text += start + shlex.quote(word)
    return text
