"""Writes the ``quantized`` folder of a run, and loads its network."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from zoo_core import artifacts
from zoo_core.datatypes import StepSpec
from zoo_core.errors import CheckpointError, RunError, ZooError
from zoo_core.quantization.configuration import read_configuration
from zoo_core.quantization.params import Relu6Params
from zoo_core.recipes import recipe_text
from zoo_core.runs.migration import load_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import nn

    from zoo_core.datatypes import ModelBundle, QuantNetwork, QuantSettings
    from zoo_core.quantization.aimet.simulation import Simulation
    from zoo_core.quantization.integers import IntegerNetwork
    from zoo_core.quantization.pipeline import Plan

_CONFIG_COPY = "aimet_config.json"
_REWRITE = "write the file again with `zoo-eval quantize`."

_NOTES = {
    "replace": "ReLU6 is replaced by ReLU, as in the recipe: the float network differs from the original.",
    "per_channel_clip": "ReLU6 is a clip with one ceiling per channel; the clip that every device fuses is scalar.",
}


def save_quantized(
    directory: Path,
    network: QuantNetwork,
    simulation: Simulation | None,
    plan: Plan,
    example_input: torch.Tensor,
    *,
    loaded: bool = False,
) -> str | None:
    """Write the files for a device's toolchain into an existing directory.

    ``network.safetensors`` is the float network after the plan's steps (metadata: recipe and its hash, steps with their
    parameters, settings of quantsim, fixed encodings), ``encodings.json`` the simulation's encodings or, without one,
    the fixed encodings of weights, ``model.onnx`` the simulated network as a graph of Q/DQ pairs, ``recipe.yaml`` the
    recipe as used, overrides included, and ``aimet_config.json`` the configuration that it names.

    Args:
        directory: Existing.
        network: After the plan's last step.
        simulation: Of this network, if there is one.
        plan: The plan that was run.
        example_input: ``(1, C, H, W)``, on the network's device.
        loaded: The network was loaded from an optimized checkpoint, so no copy is written.

    Returns:
        A sentence if there is a simulation that cannot be exported to ``model.onnx``; None otherwise.

    Raises:
        RecipeError: The configuration file no longer exists, or is no AIMET configuration any more.
    """
    save_recipe(directory, plan)  # first, because its error explains a missing configuration file
    if not loaded:
        metadata = _metadata(network, plan)
        artifacts.save_state_dict(directory / "network.safetensors", network.network.state_dict(), metadata)
    encodings = simulation.encodings if simulation else {"param_encodings": dict(network.param_encodings)}
    (directory / "encodings.json").write_text(json.dumps(encodings, indent=1, sort_keys=True), encoding="utf-8")
    return None if simulation is None else _save_graph(directory / "model.onnx", simulation, example_input)


def _save_graph(path: Path, simulation: Simulation, example_input: torch.Tensor) -> str | None:
    from zoo_core.quantization.export import export_qdq
    from zoo_core.quantization.integers import IntegerNetwork

    try:
        integers = IntegerNetwork.from_encodings(simulation.prepared, simulation.encodings)
        path.write_bytes(export_qdq(integers, example_input).model)
    except ZooError as error:
        return f"quantized/model.onnx was not written: {error.fact}"
    return None


def save_recipe(directory: Path, plan: Plan) -> None:
    """Write ``recipe.yaml``, the recipe as used, overrides included, and ``aimet_config.json``, which it names.

    Args:
        directory: Existing.
        plan: The plan to write.

    Raises:
        RecipeError: The configuration file no longer exists, or is no AIMET configuration any more.
    """
    *steps, quantsim = plan.recipe.steps
    beside = StepSpec(step=quantsim.step, params={**quantsim.params, "config_file": _CONFIG_COPY})
    recipe = dataclasses.replace(plan.recipe, steps=(*steps, beside))
    (directory / "recipe.yaml").write_text(recipe_text(recipe), encoding="utf-8")
    _, config = read_configuration(plan.quant.config_file)
    (directory / _CONFIG_COPY).write_bytes(config)


def _metadata(network: QuantNetwork, plan: Plan) -> dict[str, str]:
    params = {bound.step.name: bound.params.model_dump(mode="json") for bound in plan.steps}
    return {
        "recipe": plan.recipe.name,
        "recipe_sha256": plan.recipe.sha256,
        "folded": json.dumps("fold_batch_norms" in params),
        "relu6_policy": str(params.get("relu6", {}).get("policy", "keep")),
        "steps": json.dumps(params),
        "quant": _quant_text(plan.quant),
        "param_encodings": json.dumps(dict(network.param_encodings), sort_keys=True),
    }


def _quant_text(quant: QuantSettings) -> str:
    config = artifacts.sha256_of(quant.config_file)
    known = [quant.param_bw, quant.output_bw, quant.quant_scheme, config]
    # Files of zoo-eval before quantsim.input hold four values, which still fit a recipe without it.
    return json.dumps(known if quant.input is None else [*known, quant.input])


def is_saved_network(path: Path) -> bool:
    """Return True if a checkpoint is a ``network.safetensors`` of ``save_quantized``, which ``load_saved`` can load.

    Raises:
        CheckpointError: The file cannot be read.
    """
    return {"folded", "relu6_policy", "steps"} <= artifacts.load_metadata(path).keys()


def load_saved(ordinary: ModelBundle, path: Path) -> ModelBundle:
    """Load a network that ``save_quantized`` wrote into a copy of the plugin's ordinary network.

    The recorded steps that change a network's structure (``fold_batch_norms``, ``relu6``) are applied to the copy
    first; steps of plugins must leave the names and shapes of the weights as they are.

    Args:
        ordinary: The model with any weights; not modified.
        path: A file for which ``is_saved_network`` is true.

    Raises:
        CheckpointError: The metadata is damaged, or the weights do not fit the model.
    """
    from zoo_core.quantization.attention import with_attention_modules

    steps = _recorded_steps(path)
    network = with_attention_modules(copy.deepcopy(ordinary.network))
    notes: list[str] = []
    for name, params in steps.items():
        if name == "fold_batch_norms":
            from zoo_core.quantization.aimet import transforms

            transforms.fold_batch_norms(network, ordinary.example_input)
            notes.append("The weights were loaded with batch norms folded into the convolutions.")
        elif name == "relu6":
            from zoo_core.quantization.steps import relu6

            policy = Relu6Params.model_validate(params).policy
            network = relu6.apply_policy(network, policy, ordinary.example_input)[0]
            notes += [_NOTES[policy]] if policy in _NOTES else []
    _load_weights(network, artifacts.load_state_dict(path), path)
    return dataclasses.replace(ordinary, network=network, notes=tuple(notes))


def load_integers(
    folder: Path, ordinary: ModelBundle, optimized: ModelBundle | None
) -> tuple[ModelBundle, IntegerNetwork]:
    """Load the quantized network that ``save_quantized`` wrote, with its encodings.

    Args:
        folder: Of ``save_quantized``.
        ordinary: The model with any weights, on the CPU; not modified.
        optimized: Network of a run that loaded its optimized weights, of which the folder has no copy; not modified.

    Returns:
        The float network that the encodings name, in the model's bundle, and both together.

    Raises:
        RunError: The folder has no encodings of activations.
        CheckpointError: Weights or encodings are damaged, or do not fit the model.
    """
    from zoo_core.quantization.aimet.foreign import prepare
    from zoo_core.quantization.integers import IntegerNetwork

    encodings = _read_encodings(folder / "encodings.json")
    weights = folder / "network.safetensors"
    if optimized is not None and not weights.exists():
        bundle = dataclasses.replace(optimized, network=copy.deepcopy(optimized.network))
    else:
        bundle = load_saved(ordinary, weights)
    network = prepare(bundle.network.eval(), bundle.example_input)
    return bundle, IntegerNetwork.from_encodings(network, encodings)


def _read_encodings(path: Path) -> Mapping[str, Any]:
    fix = "name a run with the stage optimized_w8a8, or a model."
    if not path.exists():
        raise RunError(f"{path} does not exist: the run has quantized nothing.", fix=fix)
    content = load_object(path)
    if not content.get("activation_encodings"):
        raise RunError(f"{path} has no encodings of activations: the run has no optimized quantized stage.", fix=fix)
    return content


def fixed_encodings(path: Path, quant: QuantSettings) -> Mapping[str, Any]:
    """Return the weight encodings that steps had fixed in a saved network, by parameter name.

    Args:
        path: Any checkpoint.
        quant: Settings of this run; encodings made under other settings do not fit them.

    Returns:
        Empty if the file records none, or other settings.
    """
    metadata = artifacts.load_metadata(path)
    if "param_encodings" not in metadata or metadata.get("quant") != _quant_text(quant):
        return {}
    try:
        return dict(json.loads(metadata["param_encodings"]))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the encodings in its metadata are damaged: {error}", fix=_REWRITE) from error


def _recorded_steps(path: Path) -> dict[str, object]:
    text = artifacts.load_metadata(path)["steps"]
    try:
        steps = json.loads(text)
        Relu6Params.model_validate(steps.get("relu6", {"policy": "keep"}))
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its metadata does not list the recipe's steps: steps = {text[:200]!r}.",
            fix=_REWRITE,
        ) from error
    return dict(steps)


def _load_weights(network: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not in the network" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    problems += [f"{name} is not finite" for name, value in weights.items() if not value.isfinite().all()]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path} does not fit the model: {'; '.join(problems[:3])}{more}.",
            fix="give a network that `zoo-eval quantize` wrote for this model and for as many classes.",
        )
    network.load_state_dict(artifacts.cast_state_dict(weights, own, path))
