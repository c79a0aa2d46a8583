"""A recipe becomes a checked plan; a plan's steps run in order; the last entry simulates quantization.

Importing this module loads neither torch nor AIMET, so that a recipe can be checked before a run starts.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from zoo_core import artifacts
from zoo_core.datatypes import QuantNetwork, QuantSettings, Recipe, RecipeStep, StepSpec
from zoo_core.errors import PluginError, RecipeError
from zoo_core.quantization.steps.builtin import BUILTIN_STEPS, QUANTSIM, QuantSimParams
from zoo_core.recipes import config_path, recipe_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from zoo_core.datatypes import Json, StepContext

logger = logging.getLogger("zoo_eval.quantization")

_CONFIG_COPY = "aimet_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundStep:
    """A step and its checked parameters."""

    step: RecipeStep
    params: BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A recipe that can run.

    Attributes:
        recipe: As given.
        steps: In order, without the closing quantsim.
        quant: What quantsim was told.
    """

    recipe: Recipe
    steps: tuple[BoundStep, ...]
    quant: QuantSettings

    @property
    def tag(self) -> str:
        """Bit widths in short, e.g. ``w8a8``."""
        return f"w{self.quant.param_bw}a{self.quant.output_bw}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepOutcome:
    """What a step did and how long it took.

    Attributes:
        name: The step's.
        result: The network after it.
        effect: Facts for the record.
        summary: The effect in one line.
        seconds: Wall time.
    """

    name: str
    result: QuantNetwork
    effect: Mapping[str, Json]
    summary: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulation:
    """A network that computes in float what integers would give.

    Attributes:
        network: Called like the network it simulates.
        encodings: ``activation_encodings`` by module name and ``param_encodings`` by parameter name, AIMET's exchange
            form, JSON-able.
        effect: Facts for the record.
        summary: The effect in one line.
        seconds: Wall time of building and calibrating.
    """

    network: nn.Module
    encodings: Mapping[str, Any]
    effect: Mapping[str, Json]
    summary: str
    seconds: float


def plan(recipe: Recipe, extra_steps: Sequence[RecipeStep] = ()) -> Plan:
    """Check every step of a recipe against the steps there are.

    Args:
        recipe: Its last step must be the only quantsim.
        extra_steps: What plugins bring.

    Raises:
        RecipeError: Lists all problems together: unknown steps with the closest name, unknown or invalid parameters
            with value and place, a step name claimed twice, a rounding step that a later step would undo, quantsim
            missing, repeated or not last, a configuration file that is not there.
    """
    table: dict[str, RecipeStep] = {}
    problems: list[str] = []
    for step in (*BUILTIN_STEPS, *extra_steps):
        if step.name in table or step.name == QUANTSIM:
            problems.append(
                f"the step name {step.name!r} is claimed twice: {_origin(table.get(step.name))} and {_origin(step)}"
            )
        table.setdefault(step.name, step)
    bound: list[BoundStep] = []
    quant: QuantSettings | None = None
    for index, spec in enumerate(recipe.steps):
        place = f"steps[{index}] {spec.step}"
        if spec.step == QUANTSIM:
            settings = _validate(QuantSimParams, spec, place, problems)
            quant = _settings(settings, recipe, place, problems) if settings is not None else None
        elif spec.step in table:
            params = _validate(table[spec.step].params, spec, place, problems)
            if params is not None:
                bound.append(BoundStep(step=table[spec.step], params=params))
        else:
            problems.append(f"{place}: unknown step{_closest(spec.step, [*table, QUANTSIM])}")
    fixing = frozenset(name for name, step in table.items() if step.fixes_encodings)
    problems += _order_problems([spec.step for spec in recipe.steps], fixing)
    if problems or quant is None:
        listing = "\n  ".join(problems)
        raise RecipeError(
            f"recipe {recipe.name!r} ({recipe.source}) cannot run:\n  {listing}",
            fix=f"correct the file or the overrides; the steps are {', '.join([*table, QUANTSIM])}.",
        )
    return Plan(recipe=recipe, steps=tuple(bound), quant=quant)


def run_step(bound: BoundStep, network: QuantNetwork, context: StepContext) -> StepOutcome:
    """Apply one step and time it.

    Raises:
        PluginError: The step modified the network it was given.
        RecipeError: The step found less than the recipe expects.
    """
    before = {name: value.clone() for name, value in network.network.state_dict().items()}
    started = time.perf_counter()
    made = bound.step.apply(network, bound.params, context)
    seconds = time.perf_counter() - started
    after = network.network.state_dict()
    if before.keys() != after.keys() or any(not before[name].equal(after[name]) for name in before):
        raise PluginError(
            f"the quantization step {bound.step.name!r} modified the network it was given.",
            fix="let the step work on copy.deepcopy(network.network).",
        )
    logger.info("%s (%.1f s): %s", bound.step.name, seconds, made.summary)
    return StepOutcome(
        name=bound.step.name, result=made.result, effect=made.effect, summary=made.summary, seconds=seconds
    )


def simulate(network: QuantNetwork, context: StepContext) -> Simulation:
    """Simulate ``network`` on integers: freeze the encodings that steps have fixed, calibrate all others.

    Args:
        network: Not modified.
        context: Its calibration images set the ranges of activations.
    """
    from zoo_core.quantization.aimet import simulation

    started = time.perf_counter()
    made = simulation.simulate(network, context)
    seconds = time.perf_counter() - started
    logger.info("%s (%.1f s): %s", QUANTSIM, seconds, made.summary)
    return Simulation(
        network=made.network, encodings=made.encodings, effect=made.effect, summary=made.summary, seconds=seconds
    )


def save_quantized(
    directory: Path, network: QuantNetwork, simulation: Simulation | None, plan: Plan, *, loaded: bool = False
) -> None:
    """Write what a device's toolchain needs into an existing directory.

    ``network.safetensors`` is the float network after the plan's steps (metadata: recipe and its hash, what the steps
    were told), ``encodings.json`` the simulation's or, without one, the weights' fixed encodings, ``recipe.yaml`` the
    recipe as used, overrides included, and ``aimet_config.json`` the configuration that it names.

    Args:
        directory: Existing.
        network: After the plan's last step.
        simulation: Of this network, if there is one.
        plan: What was run.
        loaded: The network was loaded as it is, no step made it: its own file holds it, and no copy is written.

    Raises:
        RecipeError: The configuration file is no longer there.
    """
    if not loaded:
        artifacts.save_state_dict(directory / "network.safetensors", network.network.state_dict(), _told(plan))
    encodings = simulation.encodings if simulation else {"param_encodings": dict(network.param_encodings)}
    (directory / "encodings.json").write_text(json.dumps(encodings, indent=1, sort_keys=True), encoding="utf-8")
    save_recipe(directory, plan)


def save_recipe(directory: Path, plan: Plan) -> None:
    """Write ``recipe.yaml``, the recipe as used, overrides included, and ``aimet_config.json``, which it names.

    Args:
        directory: Existing.
        plan: What is run.

    Raises:
        RecipeError: The configuration file is no longer there.
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


def _told(plan: Plan) -> dict[str, str]:
    """What the steps were told, as a checkpoint's metadata."""
    told = {bound.step.name: bound.params.model_dump(mode="json") for bound in plan.steps}
    return {
        "recipe": plan.recipe.name,
        "recipe_sha256": plan.recipe.sha256,
        "folded": json.dumps("fold_batch_norms" in told),
        "relu6_policy": str(told.get("relu6", {}).get("policy", "keep")),
        "steps": json.dumps(told),
    }


def _settings(params: BaseModel, recipe: Recipe, place: str, problems: list[str]) -> QuantSettings | None:
    assert isinstance(params, QuantSimParams)  # noqa: S101  # _validate was given this class
    try:
        config_file = config_path(recipe.source, str(params.config_file))
        content = json.loads(config_file.read_text(encoding="utf-8"))
    except RecipeError as error:
        problems.append(f"{place}.config_file: {error.fact}; {error.fix}")
        return None
    except FileNotFoundError:
        problems.append(f"{place}.config_file: {config_file} does not exist")
        return None
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{place}.config_file: {config_file} is not readable JSON: {error}")
        return None
    if not isinstance(content, dict):
        problems.append(f"{place}.config_file: {config_file} holds no JSON object")
        return None
    return QuantSettings(
        param_bw=params.param_bw,
        output_bw=params.output_bw,
        quant_scheme=params.quant_scheme,
        config_file=config_file.resolve(),
    )


def _validate(kind: type[BaseModel], spec: StepSpec, place: str, problems: list[str]) -> BaseModel | None:
    try:
        return kind.model_validate(dict(spec.params))
    except ValidationError as error:
        for item in error.errors():
            where = ".".join([place, *(str(part) for part in item["loc"])])
            if item["type"] == "extra_forbidden":
                name = str(item["loc"][-1])
                problems.append(f"{where}: unknown parameter{_closest(name, list(kind.model_fields))}")
            elif item["type"] == "missing":
                problems.append(f"{where}: missing; {kind.model_fields[str(item['loc'][0])].description}")
            else:
                problems.append(f"{where}: {item['input']!r}: {item['msg']}")
        return None


_CHANGES_WEIGHTS = ("fold_batch_norms", "relu6", "cross_layer_equalization")


def _order_problems(names: Sequence[str], fixing: frozenset[str]) -> list[str]:
    problems = []
    count = names.count(QUANTSIM)
    if count != 1:
        problems.append(f"quantsim is there {count} times; it must be the last step, once")
    elif names[-1] != QUANTSIM:
        problems.append(f"steps[{names.index(QUANTSIM)}] quantsim is not last: {names[-1]!r} follows it")
    first = next((name for name in names if name in fixing), None)
    if first is not None:
        what = "rounded weights" if first == "adaround" else "weight ranges"
        problems += [
            f"steps[{index}] {name}: follows {first}, whose {what} it would undo"
            for index, name in enumerate(names)
            if index > names.index(first) and name in _CHANGES_WEIGHTS
        ]
    return problems


def _closest(name: str, names: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; the closest is {matches[0]!r}" if matches else f"; there are {', '.join(names) or 'none'}"


def _origin(step: RecipeStep | None) -> str:
    return "zoo_core (quantsim)" if step is None else f"{step.apply.__module__}.{step.apply.__qualname__}"
