"""Hooks of a model whose task the core does not know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from zoo_core.datatypes import (
        Checkpoint,
        ConformanceKit,
        DatasetRequest,
        EvalDataset,
        Metric,
        ModelBundle,
        ModelEntry,
        Task,
    )

HERE = Path(__file__).parent


@hookimpl
def zoo_registry() -> Path:
    return HERE / "registry.yaml"


@hookimpl
def zoo_task(task: str) -> Task | None:
    from toy_masks.masks import GRID_SEGMENTATION

    return GRID_SEGMENTATION if task == GRID_SEGMENTATION.task_id else None


@hookimpl
def zoo_load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    import dataclasses

    from toy_detector.model import load
    from toy_masks.masks import decode

    return dataclasses.replace(load(checkpoint, class_names[1:], device), decode=decode)


@hookimpl
def zoo_dataset(entry: ModelEntry, request: DatasetRequest) -> EvalDataset:
    from toy_masks.masks import MaskDataset

    return MaskDataset(request.root, request.split)


@hookimpl
def zoo_metric(entry: ModelEntry, class_names: Sequence[str]) -> Metric:
    from toy_masks.masks import MeanIou

    return MeanIou(class_names)


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    from toy_detector.data import write
    from toy_masks.masks import encode, scenes
    from zoo_core.datatypes import ConformanceKit

    return ConformanceKit(root=write(directory), scenes=scenes(), encode=encode, least_headline=0.8)
