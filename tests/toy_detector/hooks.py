"""The smallest model that can be quantized and scored, on data of its own; recipe and metric are declared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from zoo_core.datatypes import (
        Checkpoint,
        ConformanceKit,
        DatasetRequest,
        EvalDataset,
        ModelBundle,
        ModelEntry,
        RecipeStep,
    )
    from zoo_core.runs.record import RunRecord

HERE = Path(__file__).parent


@hookimpl
def zoo_registry() -> Path:
    return HERE / "registry.yaml"


@hookimpl
def zoo_load_model(
    entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
) -> ModelBundle:
    from toy_detector.model import load

    return load(checkpoint, class_names, device)


@hookimpl
def zoo_dataset(entry: ModelEntry, request: DatasetRequest) -> EvalDataset:
    from toy_detector.data import GridDataset

    return GridDataset(request.root, request.split)


@hookimpl
def zoo_conformance(entry: ModelEntry, directory: Path) -> ConformanceKit:
    from toy_detector.data import scenes, write
    from toy_detector.model import encode
    from zoo_core.datatypes import ConformanceKit

    return ConformanceKit(root=write(directory), scenes=scenes(), encode=encode, least_headline=0.8)


@hookimpl
def zoo_recipe_steps() -> Sequence[RecipeStep]:
    from toy_detector.steps import ROUND_WEIGHTS

    return [ROUND_WEIGHTS]


@hookimpl
def zoo_evaluation_finished(run_dir: Path, record: RunRecord) -> None:
    (run_dir / "toy_was_told.json").write_text(json.dumps({"status": record.status, "model": record.model}))
