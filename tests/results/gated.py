"""A run that satisfies the gate, and the references that it is compared with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from results.conftest import MakeRun, edit_json
from zoo_core.artifacts import sha256_of
from zoo_core.datatypes import ModelEntry, Reference
from zoo_core.plugins import PluginHost
from zoo_core.recipes import config_path
from zoo_core.results.check import Verdict, check_run
from zoo_core.results.stored import open_run

HEADLINE = "voc07_11pt/pytorch-ssd"


def reference(value: float, *, stage: str = "fp32", tolerance: float = 0.01, key: str = "map") -> Reference:
    return Reference(stage=stage, protocol=HEADLINE, value=value, tolerance=tolerance, source="a paper", key=key)


QUANTIZED = reference(0.5, stage="w8a8")


def write_gated_run(make_run: MakeRun, host: PluginHost) -> Path:
    """Write a run with the model's own recipe whose fp32 has mAP 0.75 and whose other stages have 0.5."""
    path = make_run()
    recipe = host.recipe(host.model("toy_squares"), "w8a8_toy")
    config = sha256_of(config_path(recipe.source, str(recipe.steps[-1].params["config_file"])))

    def conditions(record: dict[str, Any]) -> None:
        record["recipe"].update(name=recipe.name, sha256=recipe.sha256, config_sha256=config)
        record["settings"].update(batch_size=1)

    def values(metrics: dict[str, Any]) -> None:
        for name, stage in metrics["stages"].items():
            stage["metrics"][HEADLINE]["map"] = 0.75 if name == "fp32" else 0.5

    edit_json(path / "run.json", conditions)
    edit_json(path / "metrics.json", values)
    return path


def checked(host: PluginHost, run: Path, *references: Reference, stages: tuple[str, ...] = ()) -> Verdict:
    return check_run(open_run(run), entry(host, *references), host, stages)


def entry(host: PluginHost, *references: Reference) -> ModelEntry:
    found = host.model("toy_squares")
    return dataclasses.replace(found, references=references, dataset=dataclasses.replace(found.dataset, num_images=12))
