"""Checks that the requested runtimes can be used here, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zoo_core.errors import RecipeError, RuntimeUnsupportedError, closest_hint
from zoo_core.quantization.configuration import configuration_of
from zoo_core.runtimes import TORCH

if TYPE_CHECKING:
    from zoo_core.plugins import OwnedRuntime, PluginHost
    from zoo_core.quantization.pipeline import Plan


def usable_runtimes(host: PluginHost, names: Sequence[str], plan: Plan) -> Mapping[str, OwnedRuntime]:
    """Return the named runtimes.

    Args:
        host: The plugins.
        names: As requested.
        plan: The recipe, whose network they shall execute.

    Raises:
        RuntimeUnsupportedError: A name is unknown, or the runtime cannot be used here, and why.
        RecipeError: The recipe leaves the model's input in float, and a runtime takes only a quantized one.
    """
    if not names:
        return {}
    known = host.runtimes()
    for name in names:
        _check_name(name, known)
        owned = known[name]
        available = owned.availability()
        if available.reason is not None:
            raise RuntimeUnsupportedError(
                f"The runtime {name!r} cannot be used here: {available.reason}", fix=available.fix
            )
        if owned.runtime.quantized_input and not _quantizes_input(plan):
            raise RecipeError(
                f"The runtime {name!r} needs a quantized model input, and the recipe {plan.recipe.name!r} leaves it in "
                "float.",
                fix="add --set quantsim.input=quantized, or choose a recipe that quantizes the input.",
            )
    return {name: known[name] for name in names}


def _quantizes_input(plan: Plan) -> bool:
    model_input = configuration_of(plan.quant).get("model_input", {})
    return bool(model_input.get("is_input_quantized") == "True")


def _check_name(name: str, known: Mapping[str, OwnedRuntime]) -> None:
    if name == TORCH:
        raise RuntimeUnsupportedError(
            "The runtime 'torch' computes the simulation itself, the stage with which runtimes are compared.",
            fix="leave it out of --runtimes.",
        )
    if name not in known:
        raise RuntimeUnsupportedError(
            f"There is no runtime {name!r}{closest_hint(name, known)}.",
            fix=f"choose from {', '.join(known)}; `zoo-eval doctor` shows which of them can be used here.",
        )
