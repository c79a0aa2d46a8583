"""Writes the ``quantized`` folder of a run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING

from zoo_core import artifacts
from zoo_core.datatypes import StepSpec
from zoo_core.errors import RecipeError
from zoo_core.recipes import recipe_text

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_core.datatypes import QuantNetwork
    from zoo_core.quantization.aimet.simulation import Simulation
    from zoo_core.quantization.pipeline import Plan

_CONFIG_COPY = "aimet_config.json"


def save_quantized(
    directory: Path, network: QuantNetwork, simulation: Simulation | None, plan: Plan, *, loaded: bool = False
) -> None:
    """Write what a device's toolchain needs into an existing directory.

    ``network.safetensors`` is the float network after the plan's steps (metadata: recipe and its hash, steps with their
    parameters), ``encodings.json`` the simulation's encodings or, without one, the fixed encodings of weights,
    ``recipe.yaml`` the recipe as used, overrides included, and ``aimet_config.json`` the configuration that it names.

    Args:
        directory: Existing.
        network: After the plan's last step.
        simulation: Of this network, if there is one.
        plan: The plan that was run.
        loaded: The network was loaded from an optimized checkpoint, which already holds it: no copy is written.

    Raises:
        RecipeError: The configuration file no longer exists.
    """
    if not loaded:
        artifacts.save_state_dict(directory / "network.safetensors", network.network.state_dict(), _metadata(plan))
    encodings = simulation.encodings if simulation else {"param_encodings": dict(network.param_encodings)}
    (directory / "encodings.json").write_text(json.dumps(encodings, indent=1, sort_keys=True), encoding="utf-8")
    save_recipe(directory, plan)


def save_recipe(directory: Path, plan: Plan) -> None:
    """Write ``recipe.yaml``, the recipe as used, overrides included, and ``aimet_config.json``, which it names.

    Args:
        directory: Existing.
        plan: The plan to write.

    Raises:
        RecipeError: The configuration file no longer exists.
    """
    *steps, quantsim = plan.recipe.steps
    beside = StepSpec(step=quantsim.step, params={**quantsim.params, "config_file": _CONFIG_COPY})
    recipe = dataclasses.replace(plan.recipe, steps=(*steps, beside))
    (directory / "recipe.yaml").write_text(recipe_text(recipe), encoding="utf-8")
    try:
        shutil.copyfile(plan.quant.config_file, directory / _CONFIG_COPY)
    except OSError as error:
        raise RecipeError(
            f"{plan.quant.config_file} cannot be copied to {directory}: {error.strerror}.",
            fix="leave it in place until the run ends.",
        ) from error


def _metadata(plan: Plan) -> dict[str, str]:
    params = {bound.step.name: bound.params.model_dump(mode="json") for bound in plan.steps}
    return {
        "recipe": plan.recipe.name,
        "recipe_sha256": plan.recipe.sha256,
        "folded": json.dumps("fold_batch_norms" in params),
        "relu6_policy": str(params.get("relu6", {}).get("policy", "keep")),
        "steps": json.dumps(params),
    }
