"""Values that cross the border between the core and a plugin; import them from here.

Importing this package loads neither numpy nor torch: a plugin's ``hooks.py`` imports it, and ``zoo-eval list`` imports
every ``hooks.py``.
"""

from zoo_core.datatypes.conformance import ConformanceKit, Encode, Scene
from zoo_core.datatypes.datasets import DatasetRequest, EvalDataset
from zoo_core.datatypes.models import Checkpoint, Decode, ModelBundle, Preprocess
from zoo_core.datatypes.predictions import (
    Classification,
    ClassTarget,
    Detections,
    DetectionTarget,
    ImageSize,
    Json,
    Prediction,
    Target,
)
from zoo_core.datatypes.recipes import (
    CalibrationBatches,
    QuantNetwork,
    QuantSettings,
    Recipe,
    RecipeStep,
    StepContext,
    StepResult,
    StepSpec,
)
from zoo_core.datatypes.registry import (
    ANY_NETWORK,
    ANY_RECIPE,
    LAYOUTS,
    RECORDED_PACKAGES,
    Artifact,
    DatasetEntry,
    ModelEntry,
    Reference,
    ReferenceVariant,
)
from zoo_core.datatypes.runtimes import (
    Availability,
    ExecutedNode,
    LoadOptions,
    Precision,
    Runtime,
    RuntimeSession,
)
from zoo_core.datatypes.scoring import Metric, ProtocolScore
from zoo_core.datatypes.tasks import (
    Drawing,
    ImageChange,
    Measure,
    PredictionChecks,
    ResampledImages,
    ResampledValues,
    Task,
    TaskContext,
    measure,
)

__all__ = [
    "ANY_NETWORK",
    "ANY_RECIPE",
    "LAYOUTS",
    "RECORDED_PACKAGES",
    "Artifact",
    "Availability",
    "CalibrationBatches",
    "Checkpoint",
    "ClassTarget",
    "Classification",
    "ConformanceKit",
    "DatasetEntry",
    "DatasetRequest",
    "Decode",
    "DetectionTarget",
    "Detections",
    "Drawing",
    "Encode",
    "EvalDataset",
    "ExecutedNode",
    "ImageChange",
    "ImageSize",
    "Json",
    "LoadOptions",
    "Measure",
    "Metric",
    "ModelBundle",
    "ModelEntry",
    "Precision",
    "Prediction",
    "PredictionChecks",
    "Preprocess",
    "ProtocolScore",
    "QuantNetwork",
    "QuantSettings",
    "Recipe",
    "RecipeStep",
    "Reference",
    "ReferenceVariant",
    "ResampledImages",
    "ResampledValues",
    "Runtime",
    "RuntimeSession",
    "Scene",
    "StepContext",
    "StepResult",
    "StepSpec",
    "Target",
    "Task",
    "TaskContext",
    "measure",
]
