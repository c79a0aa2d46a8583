"""Hooks of the plugin. They import networks and frameworks themselves, so that importing this module is cheap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import RegistryError
from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.datatypes import Checkpoint, ConformanceKit, ModelBundle, ModelEntry

_SHAPES_WEIGHTS = Path(__file__).parent / "checkpoints" / "shapes.safetensors"
_OPTIONS = ("width_mult",)


@hookimpl
def zoo_load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    """Build the network for as many classes as the dataset has; see ``hookspecs.zoo_load_model``."""
    import torch

    from ssd_mobilenetv2_lite.checkpoint import LoadedNetwork, load_network
    from ssd_mobilenetv2_lite.decode import decode
    from ssd_mobilenetv2_lite.network import build_network
    from ssd_mobilenetv2_lite.preprocess import preprocess
    from ssd_mobilenetv2_lite.priors import IMAGE_SIZE_PX
    from zoo_core.datatypes import ModelBundle

    width_mult = _width_mult(entry)
    num_classes = len(class_names) + 1
    if checkpoint is None:
        loaded = LoadedNetwork(
            network=build_network(num_classes, width_mult),
            notes=("The network is untrained: its detections mean nothing.",),
        )
    else:
        loaded = load_network(
            checkpoint.path,
            optimized=checkpoint.optimized,
            num_classes_with_background=num_classes,
            width_mult=width_mult,
        )
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(1, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX, generator=generator) * 2 - 1
    return ModelBundle(
        network=loaded.network.to(device),
        example_input=example.to(device),
        preprocess=preprocess,
        decode=decode,
        notes=loaded.notes,
    )


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Draw pictures and add ``encode``; the demo's kit also has its weights, trained on the shapes."""
    import functools

    from ssd_mobilenetv2_lite.encode import encode
    from zoo_core.datasets.kits import draw_kit
    from zoo_core.datasets.labels import read_label_file

    kit = draw_kit(entry.dataset, directory)
    num_classes = len(read_label_file(directory / "VOC2007" / "labels.txt"))
    kit = replace(kit, encode=functools.partial(encode, num_classes_with_background=1 + num_classes))
    if entry.dataset.layout == "shapes_voc":
        return replace(kit, checkpoint=_SHAPES_WEIGHTS, least_headline=0.7)
    return kit


def _width_mult(entry: ModelEntry) -> float:
    unknown = sorted(set(entry.options) - set(_OPTIONS))
    if unknown:
        raise RegistryError(
            f"{entry.source}: {entry.model_id}.options has {', '.join(map(repr, unknown))}, which {entry.plugin} does "
            "not know.",
            fix=f"use only {', '.join(_OPTIONS)}.",
        )
    width_mult = entry.options.get("width_mult", 1.0)
    if isinstance(width_mult, bool) or not isinstance(width_mult, (int, float)):
        raise RegistryError(
            f"{entry.source}: {entry.model_id}.options.width_mult is {width_mult!r}, not a number.",
            fix="write a number, for example 1.0.",
        )
    return float(width_mult)
