"""What the plugin gives the core. torch and torchvision are imported inside the hooks: this module is cheap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import DataError
from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.datatypes import (
        Checkpoint,
        ConformanceKit,
        DatasetRequest,
        EvalDataset,
        Metric,
        ModelBundle,
        ModelEntry,
        Recipe,
    )

ZOO_API_VERSION = 1

_HERE = Path(__file__).parent
_RECIPES = _HERE / "recipes"


@hookimpl
def zoo_registry() -> Path:
    """The models; see ``hookspecs.zoo_registry``."""
    return _HERE / "registry.yaml"


@hookimpl
def zoo_load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    """A network of torchvision for as many classes as the dataset has; see ``hookspecs.zoo_load_model``."""
    from zoo_torchvision_classification.model import load_bundle

    return load_bundle(entry, checkpoint, len(class_names), device)


@hookimpl
def zoo_recipe(entry: ModelEntry, name: str) -> Recipe:
    """A recipe file of this plugin; see ``hookspecs.zoo_recipe``."""
    from zoo_core.recipes import shipped_recipe

    return shipped_recipe(_RECIPES, name, model_id=entry.model_id)


@hookimpl
def zoo_dataset(entry: ModelEntry, request: DatasetRequest) -> EvalDataset:
    """A split of ImageNet, or of any images sorted into folders; see ``hookspecs.zoo_dataset``."""
    from zoo_torchvision_classification.imagenet import open_split

    if entry.dataset.name == "shapes":
        return _drawn_shapes(request)
    if request.root is None:
        raise DataError(
            f"{entry.model_id} evaluates on {entry.dataset.name!r}, for which no download is known.",
            fix="give its folder with --data: <folder>/val/<wnid>/*.JPEG and <folder>/train/<wnid>/*.JPEG.",
        )
    return open_split(
        request.root,
        request.split,
        label_file=request.label_file,
        class_split=entry.dataset.calibration_split,
        name=entry.dataset.name,
    )


def _drawn_shapes(request: DatasetRequest) -> EvalDataset:
    """The embedded demo's pictures, drawn into the cache when they are not there yet."""
    from zoo_core.artifacts import cache_dir
    from zoo_core.datasets.image_folder import ImageFolder
    from zoo_core.datasets.shapes import CLASS_NAMES
    from zoo_core.datasets.shapes_folder import write_folder

    root = request.root or write_folder(cache_dir() / "datasets" / "shape-classes")
    if request.label_file is not None:
        return ImageFolder(root, request.split, label_file=request.label_file, name="shapes")
    return ImageFolder(root, request.split, folders=CLASS_NAMES, name="shapes")


@hookimpl
def zoo_metric(entry: ModelEntry, class_names: Sequence[str]) -> Metric:
    """Top-1 and top-5 accuracy; see ``hookspecs.zoo_metric``."""
    from zoo_core.metrics.classification import ClassificationMetric

    return ClassificationMetric(class_names, headline=entry.headline)


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Drawn pictures in ImageNet's layout; see ``hookspecs.zoo_conformance``."""
    from zoo_torchvision_classification.conformance_kit import make_kit

    return make_kit(entry, directory)
