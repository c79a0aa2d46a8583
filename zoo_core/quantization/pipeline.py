"""Turns a recipe into a checked plan, runs its steps in order and simulates the result.

Importing this module loads neither torch nor AIMET, so that a recipe can be checked before a run starts.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from zoo_core.datatypes import QuantNetwork, QuantSettings, Recipe, RecipeStep, StepSpec
from zoo_core.errors import PluginError, RecipeError, closest_hint
from zoo_core.quantization.configuration import read_configuration
from zoo_core.quantization.params import QuantSimParams
from zoo_core.quantization.steps.builtin import BUILTIN_STEPS
from zoo_core.recipes import QUANTSIM, config_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from zoo_core.datatypes import StepContext, StepResult
    from zoo_core.quantization.aimet.simulation import Simulation

logger = logging.getLogger("zoo_eval.quantization")

Params = TypeVar("Params", bound=BaseModel)

ORIGINAL = -1
"""Index of the network before any step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundStep:
    """Step with its checked parameters."""

    step: RecipeStep
    params: BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Checked recipe, ready to run.

    Attributes:
        recipe: As given.
        steps: In order, without the closing quantsim.
        quant: Settings of quantsim.
    """

    recipe: Recipe
    steps: tuple[BoundStep, ...]
    quant: QuantSettings

    @property
    def tag(self) -> str:
        """Return the bit widths in short form, e.g. ``w8a8``."""
        return f"w{self.quant.param_bw}a{self.quant.output_bw}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecipePoint:
    """Network at one point of a recipe.

    Attributes:
        index: Index of the last step applied; ORIGINAL for the network as loaded.
        network: The network at this point.
        unrounded: The float network before the first step that fixed weight encodings; the network itself if none did.
        step: Result of the last step; None for the network as loaded.
    """

    index: int
    network: QuantNetwork
    unrounded: nn.Module
    step: StepResult | None = None


def plan(recipe: Recipe, extra_steps: Sequence[RecipeStep] = ()) -> Plan:
    """Check every step of a recipe against the known steps.

    Args:
        recipe: Its last step must be the only quantsim.
        extra_steps: Steps of plugins.

    Raises:
        RecipeError: Lists all problems together: unknown steps with the closest name, unknown or invalid parameters
            with value and place, a step name claimed twice, a rounding step that a later step would undo, quantsim
            missing, repeated or not last, a configuration file that does not exist or does not follow AIMET's schema.
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


def walk(
    plan: Plan,
    network: QuantNetwork,
    context: Callable[[], StepContext],
    *,
    last: int | None = None,
    before_step: Callable[[str], None] = lambda _name: None,
) -> Iterator[RecipePoint]:
    """Yield the network as loaded and after each step of a plan.

    Args:
        plan: Each step runs only when the caller requests the next point.
        network: As loaded; not modified. Attention is written as modules first, where it can be.
        context: Called before each step; never called if no step runs.
        last: Index of the last step to run; None for all, ORIGINAL for none.
        before_step: Called with each step's name before it runs.

    Raises:
        PluginError, RecipeError: As ``run_step``.
    """
    from zoo_core.quantization.attention import with_attention_modules

    network = dataclasses.replace(network, network=with_attention_modules(network.network))
    point = RecipePoint(index=ORIGINAL, network=network, unrounded=network.network)
    yield point
    for index, bound in enumerate(plan.steps[: None if last is None else last + 1]):
        before_step(bound.step.name)
        result = run_step(bound, point.network, context())
        rounded = bool(result.result.param_encodings)
        unrounded = point.unrounded if rounded else result.result.network
        point = RecipePoint(index=index, network=result.result, unrounded=unrounded, step=result)
        yield point


def run_step(bound: BoundStep, network: QuantNetwork, context: StepContext) -> StepResult:
    """Apply one step; the result has the step's name and wall time filled in.

    Raises:
        PluginError: The step modified the network it was given.
        RecipeError: The step's effect is smaller than the recipe expects.
    """
    before = {name: value.clone() for name, value in network.network.state_dict().items()}
    started = time.perf_counter()
    result = bound.step.apply(network, bound.params, context)
    seconds = time.perf_counter() - started
    after = network.network.state_dict()
    if before.keys() != after.keys() or any(not before[name].equal(after[name]) for name in before):
        raise PluginError(
            f"the quantization step {bound.step.name!r} modified the network it was given.",
            fix="let the step work on copy.deepcopy(network.network).",
        )
    logger.info("%s (%.1f s): %s", bound.step.name, seconds, result.summary)
    return dataclasses.replace(result, name=bound.step.name, seconds=seconds)


def simulate(network: QuantNetwork, context: StepContext) -> Simulation:
    """Simulate ``network`` on integers: freeze the encodings fixed by steps, calibrate all others.

    Args:
        network: Not modified.
        context: Its calibration images set the ranges of activations.
    """
    from zoo_core.quantization.aimet import simulation

    started = time.perf_counter()
    simulated = simulation.simulate(network, context)
    seconds = time.perf_counter() - started
    logger.info("%s (%.1f s): %s", QUANTSIM, seconds, simulated.summary)
    return dataclasses.replace(simulated, seconds=seconds)


def _settings(params: QuantSimParams, recipe: Recipe, place: str, problems: list[str]) -> QuantSettings | None:
    try:
        config_file = config_path(recipe.source, str(params.config_file))
        read_configuration(config_file)
    except RecipeError as error:
        problems.append(f"{place}.config_file: {error.fact}; {error.fix}")
        return None
    return QuantSettings(
        param_bw=params.param_bw,
        output_bw=params.output_bw,
        quant_scheme=params.quant_scheme,
        config_file=config_file.resolve(),
        input=params.input,
    )


def _validate(kind: type[Params], spec: StepSpec, place: str, problems: list[str]) -> Params | None:
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
        problems.append(f"the recipe has {count} quantsim steps; it must have one, at the end")
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
    return closest_hint(name, names) or f"; choose from {', '.join(names) or 'none'}"


def _origin(step: RecipeStep | None) -> str:
    return "zoo_core (quantsim)" if step is None else f"{step.apply.__module__}.{step.apply.__qualname__}"
