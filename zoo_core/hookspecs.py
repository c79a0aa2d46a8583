"""Every hook the core calls; a hook that is not declared here does not exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from zoo_core.datatypes import (
        Checkpoint,
        ConformanceKit,
        DatasetRequest,
        EvalDataset,
        Metric,
        ModelBundle,
        ModelEntry,
        Recipe,
        RecipeStep,
        Task,
    )
    from zoo_core.runs.record import MetricsRecord, RunRecord

PROJECT = "zoo_eval"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's implementation of a hook; import it from ``zoo_core``."""


@hookspec(firstresult=True)
def zoo_load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    """Build the network and say how an image gets in and a prediction gets out.

    Asked of the plugin that owns ``entry`` alone, once per checkpoint of a run. The network must be in eval mode,
    hold only what a device would run (no softmax, no box decoding, no NMS), and accept ``bundle.example_input``.

    Args:
        entry: The model's entry in the registry.
        checkpoint: Verified weights, or None for the deterministic untrained network that tests use.
        class_names: The dataset's classes without background; the network's output must have as many.
        device: A torch device string.

    Raises:
        CheckpointError: The checkpoint's keys or shapes are not this network's.
    """


@hookspec(firstresult=True)
def zoo_recipe(entry: ModelEntry, name: str) -> Recipe:
    """Return the recipe that the plugin ships under ``name``.

    Asked of the owning plugin alone; a recipe given as a file never gets here.

    Args:
        entry: The model's entry in the registry.
        name: Recipe name, e.g. the entry's default.

    Raises:
        RecipeError: The plugin ships no such recipe; the fix lists those it ships.
    """


@hookspec(firstresult=True)
def zoo_dataset(entry: ModelEntry, request: DatasetRequest) -> EvalDataset:
    """Open one split of the model's dataset.

    Asked of the owning plugin alone, once for the evaluated split and once for the calibration split. Stay cheap:
    list ids, do not read images.

    Args:
        entry: The model's entry in the registry; ``entry.dataset`` says which data.
        request: Root, split and label file.

    Raises:
        DataError: The root is not such a dataset, or the split or the label file cannot be read.
    """


@hookspec(firstresult=True)
def zoo_metric(entry: ModelEntry, class_names: Sequence[str]) -> Metric:
    """Return an empty accumulator that computes every protocol of the task at once.

    Asked of the owning plugin alone, once per evaluated stage.

    Args:
        entry: The model's entry in the registry.
        class_names: Index is the label.
    """


@hookspec(firstresult=True)
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Write a few drawn pictures in the model's own data layout and say what is true of them.

    Asked of the owning plugin alone, by ``zoo-eval validate`` and ``zoo_core.conformance``; never by a run. Optional:
    what cannot be checked without it is reported as not checked. ``zoo_core.datasets.scenes`` draws pictures and
    writes the usual layouts.

    Args:
        entry: The model's entry in the registry.
        directory: Existing and empty; removed after the checks.
    """


@hookspec
def zoo_registry() -> Path:
    """Return the registry file that this plugin ships.

    Asked of every plugin, also for ``zoo-eval list``: import nothing heavy. Each ``model_id`` belongs to one plugin,
    and every entry must name the plugin that ships the file.
    """


@hookspec
def zoo_recipe_steps() -> Sequence[RecipeStep]:
    """Return further quantization steps that recipes can name.

    Asked of every plugin before a recipe is checked. Import AIMET inside ``apply``, not here.
    """


@hookspec
def zoo_task(task: str) -> Task | None:
    """Return the task of this id, or None where the plugin does not declare it.

    Asked of every plugin, and of the core, which declares ``detection`` and ``classification``. Two answers are an
    error that names both plugins. Reports, comparisons, ``detect`` and ``validate`` ask it; import numpy and drawing
    libraries inside the functions.

    Args:
        task: Task id, as ``task`` in a registry entry names it.
    """


@hookspec
def zoo_evaluation_finished(run_dir: Path, record: RunRecord, metrics: MetricsRecord | None) -> None:
    """Be told of a finished run, for trackers and uploads.

    Asked of every plugin after ``metrics.json`` and ``report.html`` are written. An exception is logged and named in
    the record; it does not fail the run, whose number stands.

    Args:
        run_dir: The complete run directory.
        record: Content of ``run.json``.
        metrics: Content of ``metrics.json``; None where nothing was evaluated.
    """
