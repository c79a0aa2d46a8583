"""Hooks of the plugin: two steps, which import AIMET when they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.datatypes import RecipeStep


@hookimpl
def zoo_recipe_steps() -> Sequence[RecipeStep]:
    """Return ``seq_mse`` and ``reestimate_bn``; see ``hookspecs.zoo_recipe_steps``."""
    from zoo_aimet_steps.steps import STEPS

    return STEPS
