"""Hooks of the plugin. They import torch themselves, so that importing this module is cheap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.datatypes import Checkpoint, ConformanceKit, DatasetRequest, EvalDataset, ModelBundle, ModelEntry


@hookimpl
def zoo_registry() -> Path:
    """Return the registry file; see ``hookspecs.zoo_registry``."""
    return Path(__file__).with_name("registry.yaml")


@hookimpl
def zoo_load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    """Build a network of the family for the dataset's classes; see ``hookspecs.zoo_load_model``."""
    from zoo_efficientnet_lite.model import load_bundle

    return load_bundle(entry, checkpoint, len(class_names), device)


@hookimpl
def zoo_dataset(entry: ModelEntry, request: DatasetRequest) -> EvalDataset:
    """Open a split of ImageNet, whose classes need no label file, or of any images sorted into folders."""
    from zoo_core.datasets.imagenet import open_imagenet

    return open_imagenet(entry, request)


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Draw pictures in folders named like ImageNet's."""
    from zoo_core.datasets.imagenet import imagenet_kit

    return imagenet_kit(entry, directory)
