"""Declares every hook that the core calls.

A plugin that owns models needs ``zoo_registry`` and ``zoo_load_model``. Where it leaves out another hook of the owner,
or returns None from it, ``zoo_core.defaults`` answers from what the registry entry declares.
"""

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
        Runtime,
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
    """Build the network, and define how an image gets in and a prediction gets out.

    Asked only of the plugin that owns ``entry``, once per checkpoint of a run. The network must be in eval mode,
    contain only what a device would run (no softmax, no box decoding, no NMS), and accept ``bundle.example_input``.

    Args:
        entry: The model's entry in the registry.
        checkpoint: Verified weights, or None for the deterministic untrained network that tests use.
        class_names: The dataset's classes without background; the network's output must have as many.
        device: A torch device string.

    Raises:
        CheckpointError: The checkpoint's keys or shapes are not this network's.
    """


@hookspec(firstresult=True)
def zoo_recipe(entry: ModelEntry, name: str) -> Recipe | None:
    """Return the recipe called ``name``.

    Asked of the owning plugin; a recipe given as a file never gets here. Default: a file that the entry's ``recipes``
    names, or a recipe that zoo-eval ships.

    Args:
        entry: The model's entry in the registry.
        name: Recipe name, e.g. the entry's default.

    Raises:
        RecipeError: The recipe does not exist; the fix lists the available ones.
    """


@hookspec(firstresult=True)
def zoo_dataset(entry: ModelEntry, request: DatasetRequest) -> EvalDataset | None:
    """Open one split of the model's dataset.

    Asked of the owning plugin, once for the evaluated split and once for the calibration split. Stay cheap: list ids,
    do not read images. Default: the split in the layout that ``entry.dataset.layout`` declares.

    Args:
        entry: The model's entry in the registry; ``entry.dataset`` describes the data.
        request: Root, split and label file.

    Raises:
        DataError: The root is not such a dataset, or the split or the label file cannot be read.
    """


@hookspec(firstresult=True)
def zoo_metric(entry: ModelEntry, class_names: Sequence[str]) -> Metric | None:
    """Return an empty accumulator that computes every protocol of the task at once.

    Asked of the owning plugin, once per evaluated stage. Default: the metric of ``entry.task``.

    Args:
        entry: The model's entry in the registry.
        class_names: Index is the label.
    """


@hookspec(firstresult=True)
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit | None:
    """Write a few drawn pictures in the model's own data layout and return their ground truth.

    Asked of the owning plugin by ``zoo-eval validate`` and ``zoo_core.conformance``; never by a run. Default: pictures
    in the declared layout, without ``encode`` and weights. ``zoo_core.datasets.kits.draw_kit`` makes that kit, and
    a plugin can add the two; checks that cannot run are reported as not checked.

    Args:
        entry: The model's entry in the registry.
        directory: Existing and empty; removed after the checks.
    """


@hookspec
def zoo_registry() -> Path:
    """Return the registry file that this plugin ships.

    Asked of every plugin, also for ``zoo-eval list``: import nothing heavy. An entry may name any installed plugin as
    its owner; a ``model_id`` may be claimed only once.
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
def zoo_runtimes() -> Sequence[Runtime]:
    """Return runtimes that execute exported networks.

    Asked of every plugin when a command needs a runtime. Import the runtime's library inside its methods: the hook must
    answer where the library is not installed, and ``availability`` then says what to install. A name that two plugins
    claim, or that is built in (``torch``, ``onnxruntime``), is an error that names both.
    """


@hookspec
def zoo_evaluation_finished(run_dir: Path, record: RunRecord, metrics: MetricsRecord | None) -> None:
    """Act on a finished run, e.g. for trackers and uploads.

    Called on every plugin after ``metrics.json`` and ``report.html`` are written. An exception is logged and named in
    the record; it does not fail the run, whose number is already stored.

    Args:
        run_dir: The complete run directory.
        record: Content of ``run.json``.
        metrics: Content of ``metrics.json``; None where nothing was evaluated.
    """
