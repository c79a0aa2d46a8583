"""Hooks of the plugin. They import torch and torchvision themselves, so that importing this module is cheap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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
    from zoo_core.datasets.imagenet import open_imagenet

    return None if entry.dataset.layout == _DEMO else open_imagenet(entry, request)


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Draw pictures in folders named like ImageNet's; the demo's kit also has its weights, trained on the shapes."""
    import functools

    from zoo_core.datasets.imagenet import imagenet_kit
    from zoo_core.datasets.kits import draw_kit
    from zoo_core.datasets.scenes import encode_classes
    from zoo_core.datasets.shapes import CLASS_NAMES

    if entry.dataset.layout != _DEMO:
        return imagenet_kit(entry, directory)
    encode = functools.partial(encode_classes, num_classes=len(CLASS_NAMES))
    weights = _HERE / "checkpoints" / "shapes.safetensors"
    return replace(draw_kit(entry.dataset, directory), encode=encode, checkpoint=weights, least_headline=0.6)
