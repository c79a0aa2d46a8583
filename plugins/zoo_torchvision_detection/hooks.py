"""Hooks of the plugin. They import torch and torchvision themselves, so that importing this module is cheap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.datatypes import Checkpoint, ConformanceKit, ModelBundle, ModelEntry


@hookimpl
def zoo_registry() -> Path:
    """Return the registry file; see ``hookspecs.zoo_registry``."""
    return Path(__file__).with_name("registry.yaml")


@hookimpl
def zoo_load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    """Build the detector that ``entry.options`` names; see ``hookspecs.zoo_load_model``."""
    from zoo_torchvision_detection.model import load_model

    return load_model(entry, checkpoint, class_names, device)


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Draw pictures in COCO layout and add ``encode``; see ``hookspecs.zoo_conformance``."""
    from zoo_torchvision_detection.conformance_kit import make_kit

    return make_kit(entry, directory)
