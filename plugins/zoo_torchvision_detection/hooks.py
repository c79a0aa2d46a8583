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
"""The plugin API that these hooks are written for."""

_HERE = Path(__file__).parent


@hookimpl
def zoo_registry() -> Path:
    """The models: one entry each."""
    return _HERE / "registry.yaml"


@hookimpl
def zoo_load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    """The detector that ``entry.options`` names, taken apart; see ``hookspecs.zoo_load_model``."""
    from zoo_torchvision_detection.model import load_model

    return load_model(entry, checkpoint, class_names, device)


@hookimpl
def zoo_recipe(entry: ModelEntry, name: str) -> Recipe:
    """A recipe file of this plugin; see ``hookspecs.zoo_recipe``."""
    from zoo_core.recipes import shipped_recipe

    return shipped_recipe(_HERE / "recipes", name, model_id=entry.model_id)


@hookimpl
def zoo_dataset(entry: ModelEntry, request: DatasetRequest) -> EvalDataset:
    """A split of COCO, or of any data in its layout; see ``hookspecs.zoo_dataset``."""
    from zoo_core.datasets.coco import CocoDetection

    if request.root is None:
        raise DataError(
            f"{entry.model_id} evaluates on COCO, which is not downloaded: its archives hold 19 GB.",
            fix=f"unpack val2017, train2017 and annotations from https://cocodataset.org/#download into one folder and "
            f"give it with --data; needed are annotations/instances_{request.split}.json and the images in "
            f"{request.split}.",
        )
    return CocoDetection(request.root, request.split, label_file=request.label_file)


@hookimpl
def zoo_metric(entry: ModelEntry, class_names: Sequence[str]) -> Metric:
    """COCO's mAP, and VOC's under each rule; see ``hookspecs.zoo_metric``."""
    from zoo_core.metrics.detection import DetectionMetric

    return DetectionMetric(class_names, headline=entry.headline)


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    """Drawn pictures in COCO layout; see ``hookspecs.zoo_conformance``."""
    from zoo_torchvision_detection.conformance_kit import make_kit

    return make_kit(entry, directory)
