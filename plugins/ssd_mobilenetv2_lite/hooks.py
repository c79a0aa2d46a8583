"""What the plugin gives the core. Networks and frameworks are imported inside the hooks: this module is cheap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import DataError, RegistryError
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

_RECIPES = Path(__file__).parent / "recipes"
_OPTIONS = ("width_mult",)

ZOO_API_VERSION = 1


@hookimpl
def zoo_load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    """The network for as many classes as the dataset has; see ``hookspecs.zoo_load_model``."""
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
def zoo_recipe(entry: ModelEntry, name: str) -> Recipe:
    """A recipe file of this plugin; see ``hookspecs.zoo_recipe``."""
    from zoo_core.recipes import shipped_recipe

    return shipped_recipe(_RECIPES, name, model_id=entry.model_id)


@hookimpl
def zoo_dataset(entry: ModelEntry, request: DatasetRequest) -> EvalDataset:
    """A split of VOC2007, of the drawn shapes, or of any data in VOC layout; see ``hookspecs.zoo_dataset``."""
    from zoo_core.datasets.voc import VocDetection

    if entry.dataset.name == "shapes":
        return _drawn_shapes(request)
    if request.root is None:
        raise DataError(
            f"{entry.model_id} evaluates on {entry.dataset.name!r}, for which no download is known.",
            fix="give a data set in VOC layout with --data, and its classes with --labels.",
        )
    return VocDetection(request.root, request.split, label_file=request.label_file)


def _drawn_shapes(request: DatasetRequest) -> EvalDataset:
    """The embedded demo's pictures, drawn into the cache when they are not there yet."""
    from zoo_core.artifacts import cache_dir
    from zoo_core.datasets.shapes_voc import write_voc
    from zoo_core.datasets.voc import VocDetection, find_voc_folder

    root = request.root or write_voc(cache_dir() / "datasets" / "shapes")
    labels = request.label_file or find_voc_folder(root, "shapes") / "labels.txt"
    return VocDetection(root, request.split, label_file=labels, name="shapes")


@hookimpl
def zoo_metric(entry: ModelEntry, class_names: Sequence[str]) -> Metric:
    """VOC mAP under each rule, and COCO's; see ``hookspecs.zoo_metric``."""
    from zoo_core.metrics.detection import DetectionMetric

    return DetectionMetric(class_names, headline=entry.headline)


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Drawn pictures in VOC layout; see ``hookspecs.zoo_conformance``."""
    from ssd_mobilenetv2_lite.conformance_kit import make_kit

    return make_kit(entry, directory)


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
