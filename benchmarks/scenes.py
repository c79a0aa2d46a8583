"""Provides images and a network for benchmarks: the reference data if available, else drawn pictures."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ssd_mobilenetv2_lite.checkpoint import load_network
from ssd_mobilenetv2_lite.decode import decode
from ssd_mobilenetv2_lite.network import MobileNetV2SSDLite, build_network
from ssd_mobilenetv2_lite.preprocess import preprocess
from zoo_core.datasets.shapes_voc import write_voc
from zoo_core.datasets.voc import VocDetection, find_voc_folder
from zoo_core.datatypes import ModelBundle


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Input of an evaluation benchmark.

    Attributes:
        dataset: The images.
        bundle: The network, float, on the CPU.
        what: Description of the weights and images.
    """

    dataset: VocDetection
    bundle: ModelBundle
    what: str


@contextmanager
def scene(data: Path | None, checkpoint: Path | None, num_images: int) -> Iterator[Scene]:
    """Open the scene; archives are unpacked, or pictures drawn, into a temporary folder.

    Args:
        data: A dataset in VOC layout with ``labels.txt``; None for the reference data's shapes, or drawn pictures
            if ZOO_EVAL_SHARED is unset.
        checkpoint: Weights for it; None for the reference data's, or an untrained network.
        num_images: Pictures to draw where none are given.
    """
    shared = Path(os.environ["ZOO_EVAL_SHARED"]) if os.environ.get("ZOO_EVAL_SHARED") else None
    with TemporaryDirectory() as folder:
        if data is None and shared is not None:
            with tarfile.open(shared / "data" / "shapes_voc.tar") as tar:
                tar.extractall(folder, filter="data")
            data = Path(folder)
            checkpoint = checkpoint or shared / "data" / "shapes_mb2_ssd_lite.pth"
        elif data is None:
            data = write_voc(Path(folder), splits={"trainval": 32, "test": num_images})
        root = find_voc_folder(data, "VOC2007")
        dataset = VocDetection(data, "test", label_file=root / "labels.txt")
        network = _network(checkpoint, len(dataset.class_names) + 1)
        example = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(0)) * 2 - 1
        bundle = ModelBundle(network=network, example_input=example, preprocess=preprocess, decode=decode)
        weights = "an untrained network" if checkpoint is None else checkpoint.name
        yield Scene(dataset=dataset, bundle=bundle, what=f"{weights} on {len(dataset.ids)} images of {root.name}")


def _network(checkpoint: Path | None, num_classes_with_background: int) -> MobileNetV2SSDLite:
    if checkpoint is not None:
        return load_network(
            checkpoint, optimized=False, num_classes_with_background=num_classes_with_background
        ).network
    network = build_network(num_classes_with_background)
    # A flat distribution over the classes would pass every prior of every class to the suppression, which no trained
    # network does; with the background ahead a few hundred candidates are left.
    with torch.no_grad():
        for head in network.classification_headers:
            last = head[-1] if isinstance(head, torch.nn.Sequential) else head
            assert isinstance(last, torch.nn.Conv2d)  # noqa: S101
            assert last.bias is not None  # noqa: S101
            last.weight.mul_(0.3)
            last.bias[::num_classes_with_background] = 6.0
    return network
