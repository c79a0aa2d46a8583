"""Implements the hooks that a model's owner leaves out, based on its registry entry.

``PluginHost`` asks this module through pluggy, after the owner. Like any plugin's hooks it imports heavy modules inside
its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from zoo_core.datatypes import LAYOUTS
from zoo_core.errors import DataError
from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from zoo_core.datatypes import (
        ConformanceKit,
        DatasetEntry,
        DatasetRequest,
        EvalDataset,
        Metric,
        ModelEntry,
        Recipe,
    )

_Open: TypeAlias = "Callable[[DatasetEntry, DatasetRequest, Path], EvalDataset]"

DECLARE: Mapping[str, str] = MappingProxyType(
    {
        "zoo_dataset": f"declare dataset.layout ({', '.join(LAYOUTS)}) in its registry entry",
        "zoo_metric": "declare the task detection or classification in its registry entry",
    }
)
"""Advice per hook: the registry field with which this module can answer it."""


def label_file(entry: ModelEntry) -> Path | None:
    """Return the label file that an entry declares, or None.

    Raises:
        ArtifactError: It is declared as a file of a package that does not contain it.
    """
    declared = entry.dataset.label_file
    return None if declared is None else _place(entry, declared)


@hookimpl
def zoo_recipe(entry: ModelEntry, name: str) -> Recipe:
    """Read a recipe from the entry's ``recipes`` or from those that zoo-eval ships; see ``hookspecs.zoo_recipe``."""
    from zoo_core.recipes import SHIPPED_RECIPES, find_recipe

    declared = [] if entry.recipes is None else [_place(entry, entry.recipes)]
    return find_recipe(name, [*declared, SHIPPED_RECIPES], model_id=entry.model_id)


@hookimpl
def zoo_dataset(entry: ModelEntry, request: DatasetRequest) -> EvalDataset | None:
    """Open a split in the entry's ``dataset.layout``; see ``hookspecs.zoo_dataset``."""
    dataset = entry.dataset
    if dataset.layout is None:
        return None
    if dataset.layout in _DRAWN:
        return _DRAWN[dataset.layout](dataset, request)
    if request.root is None:
        raise DataError(
            f"{entry.model_id} evaluates on {dataset.name!r}, for which no download is known.",
            fix=f"give the data with --data: {LAYOUTS[dataset.layout]}.",
        )
    return _OPENED[dataset.layout](dataset, request, request.root)


@hookimpl
def zoo_metric(entry: ModelEntry, class_names: Sequence[str]) -> Metric | None:
    """Return the metric of the entry's task; see ``hookspecs.zoo_metric``."""
    from zoo_core.metrics.classification import ClassificationMetric
    from zoo_core.metrics.detection import DetectionMetric

    if entry.task == "detection":
        return DetectionMetric(class_names, headline=entry.headline)
    if entry.task == "classification":
        return ClassificationMetric(class_names, headline=entry.headline)
    return None


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit | None:
    """Draw pictures in the entry's ``dataset.layout``; see ``hookspecs.zoo_conformance``."""
    if entry.dataset.layout is None:
        return None
    from zoo_core.datasets.kits import draw_kit
    from zoo_core.datasets.labels import read_label_file

    declared = label_file(entry)
    return draw_kit(entry.dataset, directory, class_names=None if declared is None else read_label_file(declared))


def _place(entry: ModelEntry, declared: str) -> Path:
    """Resolve a path in a registry entry: relative to the registry file, or inside an installed package."""
    if declared.startswith("package:"):
        from zoo_core.artifacts import package_path

        return package_path(declared)
    return entry.source.parent / declared


# --------------------------------------------------------------------------- layouts


def _open_voc(dataset: DatasetEntry, request: DatasetRequest, root: Path) -> EvalDataset:
    from zoo_core.datasets.voc import VocDetection

    return VocDetection(root, request.split, label_file=request.label_file, name=dataset.name)


def _open_coco(dataset: DatasetEntry, request: DatasetRequest, root: Path) -> EvalDataset:
    from zoo_core.datasets.coco import CocoDetection

    return CocoDetection(root, request.split, label_file=request.label_file, name=dataset.name)


def _open_image_folder(dataset: DatasetEntry, request: DatasetRequest, root: Path) -> EvalDataset:
    from zoo_core.datasets.image_folder import ImageFolder

    return ImageFolder(
        root,
        request.split,
        label_file=request.label_file,
        class_split=dataset.calibration_split,
        name=dataset.name,
    )


def _draw_shapes_voc(dataset: DatasetEntry, request: DatasetRequest) -> EvalDataset:
    from zoo_core.artifacts import cache_dir
    from zoo_core.datasets.shapes_voc import write_voc
    from zoo_core.datasets.voc import VocDetection, find_voc_folder

    root = request.root or write_voc(cache_dir() / "datasets" / "shapes")
    labels = request.label_file or find_voc_folder(root, dataset.name) / "labels.txt"
    return VocDetection(root, request.split, label_file=labels, name=dataset.name)


def _draw_shapes_folder(dataset: DatasetEntry, request: DatasetRequest) -> EvalDataset:
    from zoo_core.artifacts import cache_dir
    from zoo_core.datasets.image_folder import ImageFolder
    from zoo_core.datasets.shapes import CLASS_NAMES
    from zoo_core.datasets.shapes_folder import write_folder

    root = request.root or write_folder(cache_dir() / "datasets" / "shape-classes")
    folders = CLASS_NAMES if request.label_file is None else None
    return ImageFolder(root, request.split, folders=folders, label_file=request.label_file, name=dataset.name)


_OPENED: Mapping[str, _Open] = MappingProxyType(
    {"voc": _open_voc, "coco": _open_coco, "image_folder": _open_image_folder}
)
_DRAWN: Mapping[str, Callable[[DatasetEntry, DatasetRequest], EvalDataset]] = MappingProxyType(
    {"shapes_voc": _draw_shapes_voc, "shapes_folder": _draw_shapes_folder}
)
