"""Hooks of the plugin. They import torch and torchvision themselves, so that importing this module is cheap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import DataError
from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.datatypes import Checkpoint, ConformanceKit, DatasetRequest, EvalDataset, ModelBundle, ModelEntry

_HERE = Path(__file__).parent
_DEMO = "shapes_folder"


@hookimpl
def zoo_registry() -> Path:
    """Return the registry file; see ``hookspecs.zoo_registry``."""
    return _HERE / "registry.yaml"


@hookimpl
def zoo_load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    """Build a torchvision network for the dataset's classes; see ``hookspecs.zoo_load_model``."""
    from zoo_torchvision_classification.model import load_bundle

    return load_bundle(entry, checkpoint, len(class_names), device)


@hookimpl
def zoo_dataset(entry: ModelEntry, request: DatasetRequest) -> EvalDataset | None:
    """Open a split of ImageNet, whose classes need no label file, or of any images sorted into folders."""
    from zoo_torchvision_classification.imagenet import open_split

    if entry.dataset.layout == _DEMO:
        return None
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


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Draw pictures in folders named like ImageNet's; the demo's kit also has its weights, trained on the shapes."""
    import functools

    from zoo_core.datasets.kits import draw_kit
    from zoo_core.datasets.scenes import encode_classes
    from zoo_core.datasets.shapes import CLASS_NAMES
    from zoo_torchvision_classification.imagenet import imagenet_classes

    if entry.dataset.layout == _DEMO:
        encode = functools.partial(encode_classes, num_classes=len(CLASS_NAMES))
        weights = _HERE / "checkpoints" / "shapes.safetensors"
        return replace(draw_kit(entry.dataset, directory), encode=encode, checkpoint=weights, least_headline=0.6)
    wnids, _ = imagenet_classes()
    kit = draw_kit(replace(entry.dataset, layout="image_folder"), directory, class_names=wnids)
    return replace(kit, label_file=None, encode=functools.partial(encode_classes, num_classes=len(wnids)))
